"""A checkpoint folder in the published layout, read tensor by tensor, key for key. Only safetensors; no pickle, no code.

    config.json, dataset_statistics.json (fine-tuned runs), tokenizer.json,
    model.safetensors.index.json and its shards, or one model.safetensors

| key in the files | module here |
| --- | --- |
| `vision_backbone.featurizer.*` | DINOv2, timm's names, except that `scale_factor` is timm's `gamma` |
| `vision_backbone.fused_featurizer.*` | SigLIP, timm's names |
| `projector.fc{1,2,3}.*` | the same |
| `language_model.*` | `transformers.LlamaForCausalLM`, the same |

Every key must have its place and every place its key, with the right shape; that holds for the unused parts of the
towers too (`towers.py`), which are checked and left in the file.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from policies.errors import BadArtifact
from policies.openvla.config import OpenVLAConfig, read_json
from policies.openvla.model import OpenVLAModel
from policies.openvla.towers import TowerConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX, SINGLE = "model.safetensors.index.json", "model.safetensors"
TOWERS = ("vision_backbone.featurizer.", "vision_backbone.fused_featurizer.")
FLOATS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}
"""dtype in a safetensors header -> bytes per number."""
_SHOWN = 6

Place = Callable[[str, torch.Tensor], nn.Parameter]
"""(name in the model, tensor from the file) -> what becomes of it: cast, moved, quantised."""


@dataclass(frozen=True)
class Stored:
    """One tensor in a file, known from the file's header."""

    key: str
    file: Path
    shape: tuple[int, ...]
    dtype: str

    @property
    def n_bytes(self) -> int:
        return math.prod(self.shape) * FLOATS[self.dtype]


def here(key: str) -> str:
    """The name in `OpenVLAModel` of a key in the files."""
    return re.sub(r"\.(ls[12])\.scale_factor$", r".\1.gamma", key)


def stored_tensors(folder: Path) -> dict[str, Stored]:
    """Name in the model -> where its tensor is. Reads headers only.

    Raises:
        BadArtifact: no weights, a shard that is missing or damaged, an index that does not fit its shards, or weights
            that are quantised already.
    """
    index = folder / INDEX
    listed: dict[str, str] | None = None
    if index.is_file():
        raw = read_json(index).get("weight_map")
        if not isinstance(raw, dict) or not all(
            isinstance(name, str) and name == Path(name).name for name in raw.values()
        ):
            raise BadArtifact(
                f"{index}: weight_map must map each tensor to the name of a shard beside it; fetch it again."
            )
        listed = raw
    files = sorted(set(listed.values())) if listed is not None else [SINGLE]
    if missing := [name for name in files if not (folder / name).is_file()]:
        found = sorted(path.name for path in folder.glob("*"))[:12]
        raise BadArtifact(
            f"{folder}: {', '.join(missing)} is missing. The folder must hold {INDEX} and its shards, or {SINGLE}; it holds: "
            f"{', '.join(found) or 'nothing'}. Fetch the checkpoint again."
        )
    table = {stored.key: stored for name in files for stored in _header(folder / name)}
    if listed is not None and table.keys() != listed.keys():
        raise BadArtifact(f"{index} does not fit its shards: {_listing(listed.keys(), table.keys())} Fetch both again.")
    if odd := sorted({stored.dtype for stored in table.values()} - set(FLOATS)):
        raise BadArtifact(
            f"{folder}: weights of dtype {', '.join(odd)}; expected one of {', '.join(FLOATS)}. Take the unquantised "
            "checkpoint and pass quantize='4bit'."
        )
    return {here(key): stored for key, stored in table.items()}


def _header(path: Path) -> Iterator[Stored]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118 - not a mapping
                part = file.get_slice(key)
                yield Stored(key, path, tuple(part.get_shape()), part.get_dtype())
    except (OSError, SafetensorError) as error:
        raise BadArtifact(f"{path} cannot be read as .safetensors ({error}); fetch it again.") from error


def empty_model(config: OpenVLAConfig, table: Mapping[str, Stored]) -> OpenVLAModel:
    """The model that a checkpoint describes, without memory for its weights.

    Raises:
        BadArtifact: a key is missing or too many, or a shape differs.
    """
    from accelerate import init_empty_weights

    shapes = {name: stored.shape for name, stored in table.items()}
    towers = []
    for prefix in TOWERS:
        own = {name.removeprefix(prefix): shape for name, shape in shapes.items() if name.startswith(prefix)}
        towers.append(TowerConfig.from_shapes(own, config.vision_heads, config.image_size))
    with init_empty_weights():
        model = OpenVLAModel(config, *towers)
        expected = {name: tuple(value.shape) for name, value in model.state_dict().items()}
        for prefix, tower in zip(TOWERS, towers, strict=True):  # the whole tower, with what is not kept
            expected |= {prefix + name: tuple(value.shape) for name, value in tower.build().state_dict().items()}
    if expected.keys() != shapes.keys():
        raise BadArtifact(
            f"the checkpoint does not hold what its config.json describes: {_listing(expected.keys(), shapes.keys())} Fetch "
            "config.json and the shards again, from one source."
        )
    wrong = [
        f"{name}: expected {expected[name]}, got {shapes[name]}" for name in expected if expected[name] != shapes[name]
    ]
    if wrong:
        raise BadArtifact(
            f"the checkpoint's tensors do not have the sizes that its config.json describes: {'; '.join(wrong[:_SHOWN])}"
            f"{f' and {len(wrong) - _SHOWN} more' if len(wrong) > _SHOWN else ''}. Fetch both again, from one source."
        )
    return model.eval()


def _listing(expected: Collection[str], got: Collection[str]) -> str:
    """What "missing a, b; not expected c." lists: the differences of two sets of names."""
    want, have = set(expected), set(got)
    parts = []
    for word, names in (("missing", sorted(want - have)), ("not expected", sorted(have - want))):
        if names:
            more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
            parts.append(f"{word} {', '.join(names[:_SHOWN])}{more}")
    return "; ".join(parts) + "."


def fill(model: OpenVLAModel, table: Mapping[str, Stored], place: Place) -> None:
    """Put the tensors of the files into an empty model, one at a time, so that no more than one is in memory twice."""
    from safetensors import safe_open

    wanted = model.state_dict().keys()
    by_file: dict[Path, list[str]] = {}
    for name in wanted:
        by_file.setdefault(table[name].file, []).append(name)
    for path, names in by_file.items():
        with safe_open(path, framework="pt") as file:
            for name in names:
                parent, _, attribute = name.rpartition(".")
                parameter = place(name, file.get_tensor(table[name].key))
                setattr(model.get_submodule(parent), attribute, parameter)
