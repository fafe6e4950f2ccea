"""Artifacts: one direction in one `.safetensors` file, with a JSON header that says what it is and where it came from.

    save(direction, "slow.safetensors", licence="CC-BY-4.0")
    slow = load("slow.safetensors", expect_model=policy)

The file's tensors are the direction's vectors under their location keys ("language.20.block_output", (k, D)). Its
safetensors metadata has three entries: "format" ("pt", as usual), "steer_agents" (the header, canonical JSON) and
"sha256". The header's fields:

| field | content |
| --- | --- |
| schema | version of this layout; another one is refused |
| method, site, statistics, info | of the `Direction`; the site as `Site.describe` gives it |
| tensors | [key, dtype, shape] in the direction's own order |
| model | fingerprint of the model that it was found on |
| data, seed | fingerprint of the data and seed of the method, where `info` has them |
| doses | what its strengths were measured to do (`steer_agents.dosed`); files from before have none |
| licence, strengths_tried | what the author said about use, and which strengths were tried |
| versions, created | libraries and time (UTC) of writing |

The sha256 is taken over the header's text and, in order of the keys, over each tensor's key, dtype, shape and bytes.
It finds damage and edits; it is no signature: whoever rewrites the file can rewrite the sum. Reading executes nothing.

A round trip is exact: vectors bit by bit, statistics and info to the last digit, tuples and NaN inside `info` included
(JSON has neither, so they are written as {"$tuple": [...]} and {"$float": "nan"}).
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from safetensors.torch import load as tensors_from_bytes
from safetensors.torch import save as bytes_from_tensors

from policies.errors import BadArtifact, BadInput, NonFinite, SteerError, WrongModel
from steer_agents.direction import STATISTICS, Direction
from steer_agents.fingerprint import differences, model_fingerprint
from steer_agents.runs import write_bytes
from steer_agents.sites import site_from, steerable
from steer_agents.strength import Strength

SCHEMA = 1
SUFFIX = ".safetensors"
_METADATA = {"format", "steer_agents", "sha256"}
_LIBRARIES = ("steer-agents", "torch", "transformers", "safetensors")


def save(
    direction: Direction,
    path: str | Path,
    licence: str | None = None,
    strengths_tried: Sequence[Strength | float] | None = None,
) -> Path:
    """Write a direction, whole or not at all: to a temporary file beside `path`, flushed, then renamed.

    Args:
        path: a `.safetensors` file; folders above it are made, a file of that name is replaced.
        licence: terms of use, an SPDX name or a sentence; kept in `info["licence"]`. None keeps what `info` says.
        strengths_tried: strengths that were tried with it, kept in `info["strengths_tried"]`; None as for `licence`.
    Returns:
        The path.

    Raises:
        BadInput: another suffix, or something in `info` that JSON cannot hold (the message names it).
        NonFinite: a statistic is NaN or infinite.
    """
    path = Path(path).expanduser()
    if path.suffix != SUFFIX:
        raise BadInput(
            f"save: a direction is written to a {SUFFIX} file, got {str(path)!r}; use {path.stem + SUFFIX!r}."
        )
    info = dict(direction.info)
    if licence is not None:
        info["licence"] = licence
    if strengths_tried is not None:
        info["strengths_tried"] = [s.describe() if isinstance(s, Strength) else float(s) for s in strengths_tried]
    _check_statistics(direction.statistics, "save")
    tensors = {key: vector.detach().cpu().contiguous().clone() for key, vector in direction.vectors.items()}
    header = {
        "schema": SCHEMA,
        "method": direction.method,
        "site": direction.site.describe(),
        "tensors": [_signature(key, tensor) for key, tensor in tensors.items()],
        "statistics": {key: dict(entry) for key, entry in direction.statistics.items()},
        "model": _plain(direction.model, "model"),
        "info": _plain(info, "info"),
        "doses": _plain(direction.doses, "doses"),
        "data": _plain(info.get("data"), "info['data']"),
        "seed": _plain(info.get("seed", _of(info.get("options"), "seed")), "info['seed']"),
        "licence": _plain(info.get("licence", "not stated"), "info['licence']"),
        "strengths_tried": _plain(info.get("strengths_tried", []), "info['strengths_tried']"),
        "versions": _versions(),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    return write_bytes(path, encode(header, tensors))


def load(path: str | Path, expect_model: Any = None, allow_other_model: bool = False) -> Direction:
    """Read a direction that `save` wrote, after checking every byte of it.

    Args:
        path: the file.
        expect_model: a policy, torch module or `Steerable`; the direction must have been found on it.
        allow_other_model: return it although it was found on another model (or does not say on which).

    Raises:
        BadArtifact: missing, empty, truncated, not safetensors, not a direction, of another schema, or changed.
        NonFinite: it holds NaN or infinity.
        WrongModel: it was found on another model than `expect_model`; the message shows the difference.
    """
    path = Path(path).expanduser()
    header, tensors = read(path)
    try:
        _check_statistics(header["statistics"], str(path))
        direction = Direction(
            vectors={key: tensors[key] for key, _, _ in header["tensors"]},
            site=site_from(header["site"]),
            method=header["method"],
            statistics=header["statistics"],
            model=_restored(header["model"]),
            info=_restored(header["info"]),
            doses=_restored(header.get("doses", {})),
        )
    except NonFinite:
        raise
    except (SteerError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadArtifact(
            f"{path}: the header does not describe a direction ({type(error).__name__}: {error}). Something else than "
            "steer_agents.artifacts.save wrote it; find the direction again and save it."
        ) from error
    if expect_model is not None and not allow_other_model:
        _check_model(direction, expect_model, path)
    return direction


def read_header(path: str | Path) -> dict[str, Any]:
    """The header of an artifact, checked like in `load`; see the module's docstring for its fields."""
    header, _ = read(Path(path).expanduser())
    return {**header, **{key: _restored(header[key]) for key in ("model", "info", "doses") if key in header}}


def encode(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> bytes:
    """The bytes of an artifact with this header (plain JSON values) and these contiguous CPU tensors."""
    text = json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    entries = {"format": "pt", "steer_agents": text, "sha256": _digest(text, tensors)}
    return bytes(bytes_from_tensors(dict(tensors), metadata=entries))


# ---- reading


def read(path: Path) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Header and tensors of a file, once nothing about it is wrong. Both come from one read of the file."""
    if not path.is_file():
        folder = path if path.is_dir() else path.parent
        there = sorted(file.name for file in folder.glob(f"*{SUFFIX}")) if folder.is_dir() else []
        what = "is a folder" if path.is_dir() else "does not exist"
        raise BadArtifact(
            f"{path} {what}; pass the path of a {SUFFIX} file. In {folder}: {', '.join(there) or '(none)'}."
        )
    data = path.read_bytes()
    if not data:
        raise BadArtifact(f"{path} is empty; the copy did not finish. Copy it again.")
    if data[:4] == b"GGUF":
        raise BadArtifact(f"{path} is a GGUF file; read it with steer_agents.gguf_vectors.load.")
    try:
        tensors = tensors_from_bytes(data)
        size = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadArtifact(
            f"{path} ({len(data)} bytes) is truncated, damaged, or not a safetensors file ({error}). Copy it again, or "
            "find the direction again."
        ) from error
    if "steer_agents" not in entries:
        raise BadArtifact(
            f"{path} is a safetensors file but not a direction: its metadata has {sorted(entries) or 'no entries'}, "
            "not 'steer_agents'. Directions are written by Direction.save."
        )
    try:
        header = json.loads(entries["steer_agents"])
        schema = header["schema"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise BadArtifact(f"{path}: its header is not readable ({error}); copy the file again.") from error
    if schema != SCHEMA:
        raise BadArtifact(
            f"{path} has schema {schema!r}, this version of steer-agents reads {SCHEMA}. Read it with the version that "
            f"wrote it ({_of(header.get('versions'), 'steer-agents')}), or find the direction again."
        )
    expected = {**entries, "format": "pt", "sha256": _digest(entries["steer_agents"], tensors)}
    if entries != expected or entries.keys() != _METADATA:
        raise BadArtifact(
            f"{path}: its content does not match its checksum, so it was changed or damaged after it was written. "
            "Copy it again from the source, or find the direction again."
        )
    return header, tensors


def _check_model(direction: Direction, expect_model: Any, path: Path) -> None:
    found = model_fingerprint(steerable(expect_model))
    if not direction.model:
        raise WrongModel(
            f"{path} does not say on which model it was found, so it cannot be checked against {found['class']}. "
            "Find the direction on this model, or pass allow_other_model=True."
        )
    lines = differences(direction.model, found)
    if lines:
        raise WrongModel(
            f"{path} ({direction.method}) was found on another model: {'; '.join(lines)}. Find it on this model, or "
            "pass allow_other_model=True."
        )


# ---- content


def _signature(key: str, tensor: torch.Tensor) -> list[Any]:
    return [key, str(tensor.dtype).removeprefix("torch."), list(tensor.shape)]


def _digest(text: str, tensors: Mapping[str, torch.Tensor]) -> str:
    digest = hashlib.sha256(text.encode())
    for key, tensor in sorted(tensors.items()):
        digest.update(json.dumps(_signature(key, tensor)).encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check_statistics(statistics: Mapping[str, Mapping[str, float]], where: str) -> None:
    for key, entry in statistics.items():
        for name, value in entry.items():
            what = f"{where}: statistic {name!r} at {key} is {value!r}"
            if not isinstance(value, int | float) or isinstance(value, bool):
                raise BadInput(f"{what}; statistics ({', '.join(STATISTICS)}) are numbers.")
            if not math.isfinite(value):
                raise NonFinite(f"{what}; find the direction again, on finite activations.")


def _versions() -> dict[str, str]:
    """Versions of the libraries that are loaded; transformers is named only if it was."""
    versions = {}
    for name in _LIBRARIES:
        if name == "steer-agents" or name in sys.modules:
            try:
                versions[name] = metadata.version(name)
            except metadata.PackageNotFoundError:  # a source checkout that was never installed
                versions[name] = "unknown"
    return versions


def _of(mapping: Any, name: str) -> Any:
    return mapping.get(name) if isinstance(mapping, Mapping) else None


def _plain(value: Any, where: str) -> Any:
    """A JSON value that `_restored` turns back into an equal one."""
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return {"$float": str(float(value))}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, list):
        return [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, tuple):
        return {"$tuple": [_plain(item, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str) or key.startswith("$"):
                raise BadInput(
                    f"save: {where} has the key {key!r}; keys are text that does not begin with '$'. Rename it."
                )
        return {key: _plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    raise BadInput(
        f"save: {where} is a {type(value).__name__}, which the header cannot hold. Use numbers, text, None, lists, "
        "tuples and dicts (of a tensor or array: its fingerprint, or .tolist())."
    )


def _restored(value: Any) -> Any:
    if isinstance(value, list):
        return [_restored(item) for item in value]
    if isinstance(value, dict):
        if value.keys() == {"$tuple"}:
            return tuple(_restored(item) for item in value["$tuple"])
        if value.keys() == {"$float"}:
            return float(value["$float"])
        return {key: _restored(item) for key, item in value.items()}
    return value
