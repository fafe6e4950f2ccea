"""Control vectors of llama.cpp: write a direction so that llama.cpp adds it, and read such files.

    save(direction, "slow.gguf")             # llama-cli -m model.gguf --control-vector-scaled slow.gguf:0.2
    direction = load("happy.gguf")

The format (GGUF, `general.architecture` "controlvector"): tensors `direction.N`, float32 (D,), N >= 1, and the keys
`controlvector.model_hint` (text) and `controlvector.layer_count` (number of such tensors), which llama.cpp itself does
not read. N is the 0-based number of the block to whose OUTPUT the vector is added, at every token: our location
"language.N.block_output". Layer 0 cannot be expressed: llama.cpp refuses `direction.0` and has no slot for it.

Source: llama.cpp, `common_control_vector_load_one` (stores tensor N at offset (N - 1) D), `llama_adapter_cvec::apply`
(fills the slot of block N from offset (N - 1) D) and `cvector-generator`; repeng writes the same. Reading only the first
of them suggests block N - 1, a known trap.

What is kept: at strength 1 the tensor is the raw vector, unit times raw_norm, in float32. Reading gives the unit vector
and raw_norm again, each to float32 rounding (2^-24 relative). Statistics, site scope and fingerprints do not fit into the
format and are lost: keep the `.safetensors` artifact as well.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from policies.errors import BadArtifact, BadInput, EngineMismatch, NonFinite
from steer_agents.direction import Direction
from steer_agents.runs import write_bytes
from steer_agents.sites import Site
from steer_agents.strength import Strength

ARCHITECTURE = "controlvector"
KIND = "block_output"
_NAME = re.compile(r"direction\.(0|[1-9][0-9]*)")


def save(
    direction: Direction,
    path: str | Path,
    strength: float | Strength = 1.0,
    model_hint: str | None = None,
    drop_layer_0: bool = False,
    drop_scope: bool = False,
) -> Path:
    """Write a direction as a llama.cpp control vector, atomically, and read it back to make sure.

    Args:
        path: a `.gguf` file; folders above it are made, a file of that name is replaced.
        strength: what scale 1 means in llama.cpp. A bare number multiplies the raw vector (unit "beta"); a `Strength`
            gives the displacement in its unit, e.g. Strength(0.2, "alpha").
        model_hint: llama.cpp's name of the architecture, e.g. "llama" or "qwen2"; None takes the fingerprint's.
        drop_layer_0: leave layer 0 out, which the format cannot express.
        drop_scope: write a direction whose site covers only some tokens, phases or steps; llama.cpp adds it everywhere.
    Returns:
        The path.

    Raises:
        BadInput: a plane, another site kind, several stacks, layer 0, a scoped site, or a per-row or zero strength.
    """
    path = Path(path).expanduser()
    if path.suffix != ".gguf":
        raise BadInput(f"gguf save: control vectors are .gguf files, got {str(path)!r}; use {path.stem + '.gguf'!r}.")
    strength = strength if isinstance(strength, Strength) else Strength(strength, "beta")
    per_row = torch.is_tensor(strength.value) and strength.value.dim() > 0
    if per_row or float(strength.value) == 0:
        raise BadInput(f"gguf save: strength must be one number other than 0, got {strength.value}.")
    vectors = {}
    for layer, key in _layers(direction, drop_layer_0, drop_scope).items():
        length = float(strength.value) * strength.factor(direction, key)
        vectors[layer] = (direction.vector(key).double() * length).float().numpy()
        if not np.isfinite(vectors[layer]).all():
            raise NonFinite(
                f"gguf save: the vector at {key} overflows float32 at length {length:g}; lower the strength."
            )
    hint = model_hint or str(direction.model.get("architecture", "unknown"))
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.gguf"
        _write(file, vectors, hint)
        _verify(file, vectors)
        return write_bytes(path, file.read_bytes())


def load(path: str | Path, stack: str = "language") -> Direction:
    """Read a control vector file as a direction at the blocks' outputs; its length becomes raw_norm.

    All-zero tensors (some writers fill unused layers with them) are left out and listed in `info["zero_layers"]`.

    Args:
        stack: name of the tower of blocks it belongs to.
    Returns:
        A direction without a model fingerprint, since the file holds none; `info` has model_hint, layer_count, file and
        its sha256. Add(direction, strength=Strength(1.0, "beta")) does what llama.cpp does at scale 1.

    Raises:
        BadArtifact: missing, empty, truncated, not GGUF, not a control vector, or with a tensor of another kind.
        NonFinite: a tensor holds NaN or infinity.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadArtifact(f"gguf load: there is no file {path}; pass the path of a .gguf control vector.")
    fields, tensors = _read(path)
    if fields.get("general.architecture") != ARCHITECTURE:
        raise BadArtifact(
            f"{path} is a GGUF file of architecture {fields.get('general.architecture')!r}, not {ARCHITECTURE!r}: it "
            "holds a model or an adapter, not a control vector."
        )
    raw: dict[str, torch.Tensor] = {}
    zero = []
    for layer, values in sorted(_directions(path, tensors).items()):
        if not np.isfinite(values).all():
            raise NonFinite(f"{path}: direction.{layer} holds NaN or infinity; make the file again.")
        if values.any():
            raw[f"{stack}.{layer}.{KIND}"] = torch.from_numpy(values)
        else:
            zero.append(layer)
    if not raw:
        raise BadArtifact(f"{path} holds no direction other than zero ({len(tensors)} tensors); make the file again.")
    layers = tuple(int(key.rsplit(".", 2)[1]) for key in raw)
    info = {
        "model_hint": fields.get("controlvector.model_hint"),
        "layer_count": fields.get("controlvector.layer_count"),
        "file": path.name,
        "data": hashlib.sha256(path.read_bytes()).hexdigest()[:16],
        "zero_layers": zero,
    }
    return Direction.from_raw(raw, Site(KIND, layers, stack), method="gguf", info=info)


# ---- writing


def _layers(direction: Direction, drop_layer_0: bool, drop_scope: bool) -> dict[int, str]:
    """Layer -> key of everything to be written, once nothing stands against it."""
    layers = {}
    stacks = set()
    for key, vector in direction.vectors.items():
        stack, layer, kind = key.rsplit(".", 2)
        stacks.add(stack)
        if kind != KIND or direction.site.heads is not None:
            raise BadInput(
                f"gguf save: {key} is at {kind!r}; the format only knows {KIND!r}. Find the direction there, or keep it as "
                "a .safetensors artifact."
            )
        if len(vector) != 1:
            raise BadInput(
                f"gguf save: {key} has {len(vector)} rows; the format holds one vector per layer. Write one row with "
                "Direction.from_raw, or keep it as a .safetensors artifact."
            )
        layers[int(layer)] = key
    if len(stacks) > 1:
        raise BadInput(
            f"gguf save: the direction covers the stacks {sorted(stacks)}; the format has one. Split it first."
        )
    if 0 in layers and not drop_layer_0:
        raise BadInput(
            "gguf save: the direction covers layer 0, which the format cannot express (llama.cpp starts at direction.1). "
            "Pass drop_layer_0=True to leave that layer out, or find the direction at other layers."
        )
    layers.pop(0, None)
    if not layers:
        raise BadInput("gguf save: nothing is left without layer 0; find the direction at another layer.")
    if direction.site.scoped and not drop_scope:
        raise BadInput(
            f"gguf save: the direction's site is scoped (tokens {direction.site.scope.kind!r}, phase "
            f"{direction.site.phase!r}, env_steps {direction.site.env_steps}), but llama.cpp adds it at every token. Pass "
            "drop_scope=True if that is meant."
        )
    return dict(sorted(layers.items()))


def _write(file: Path, vectors: Mapping[int, np.ndarray], hint: str) -> None:
    writer = gguf.GGUFWriter(file, ARCHITECTURE)
    writer.add_string(f"{ARCHITECTURE}.model_hint", hint)
    writer.add_uint32(f"{ARCHITECTURE}.layer_count", len(vectors))
    for layer, values in vectors.items():
        writer.add_tensor(f"direction.{layer}", values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _verify(file: Path, vectors: Mapping[int, np.ndarray]) -> None:
    _, tensors = _read(file)
    back = _directions(file, tensors)
    if back.keys() != vectors.keys() or any(not np.array_equal(back[layer], vectors[layer]) for layer in vectors):
        raise EngineMismatch("gguf save: the file reads back differently; check the installed version of `gguf`.")


# ---- reading


class _Bounded(gguf.GGUFReader):
    """The reader, refusing what lies beyond the end of the file (it would read empty arrays there, and loop over them)."""

    def _get(self, offset: int, dtype: Any, count: int = 1, override_order: Any = None) -> np.ndarray:
        end = int(offset) + np.dtype(dtype).itemsize * int(count)
        if end > len(self.data):
            raise ValueError(f"it ends before byte {end}")
        return super()._get(offset, dtype, count, override_order)


def _read(path: Path) -> tuple[dict[str, object], list[gguf.ReaderTensor]]:
    """Fields and tensors of a GGUF file; whatever the reader stumbles over becomes a `BadArtifact`."""
    try:
        reader = _Bounded(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
    except (ValueError, KeyError, IndexError, TypeError, OverflowError, RecursionError) as error:
        raise BadArtifact(
            f"{path} ({path.stat().st_size} bytes) is truncated, damaged, or not a GGUF file ({error}). Copy it again."
        ) from error
    return fields, list(reader.tensors)


def _directions(path: Path, tensors: list[gguf.ReaderTensor]) -> dict[int, np.ndarray]:
    """Layer -> (D,) float32, copied out of the file."""
    found: dict[int, np.ndarray] = {}
    for tensor in tensors:
        match = _NAME.fullmatch(tensor.name)
        if match is None or int(match[1]) == 0:
            raise BadArtifact(
                f"{path}: tensor {tensor.name!r} is none of direction.1, direction.2, ...; llama.cpp refuses it too. If it was "
                "meant for layer 0, that cannot be expressed."
            )
        if tensor.tensor_type != gguf.GGMLQuantizationType.F32 or tensor.data.ndim != 1:
            raise BadArtifact(
                f"{path}: {tensor.name} must be float32 of shape (D,), got {tensor.tensor_type.name} of shape "
                f"{tuple(tensor.data.shape)}."
            )
        found[int(match[1])] = np.array(tensor.data, dtype=np.float32)
    widths = {values.shape[0] for values in found.values()}
    if len(widths) > 1:
        raise BadArtifact(
            f"{path}: the directions have different widths {sorted(widths)}; they belong to different models."
        )
    return found
