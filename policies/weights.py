"""Small networks as files: one .safetensors whose header holds the kind of network and its sizes. No pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import BadArtifact, UnknownName, nearest

if TYPE_CHECKING:
    import torch


def located(package: str, argument: str) -> Path:
    """The weight file that an argument of `policies.load` means.

    Args:
        package: whose folder `weights` holds the embedded files, e.g. "policies.flow".
        argument: stem of an embedded file, or the path of any file.
    Raises:
        UnknownName: neither.
    """
    known = {path.stem: path for path in Path(str(files(package))).glob("weights/*.safetensors")}
    path = known.get(argument) or Path(argument)
    if not path.is_file():
        raise UnknownName(f"policy {argument!r} of {package} is neither embedded nor a file{nearest(argument, known)}")
    return path


def write(path: str | Path, kind: str, config: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Write a file whole or not at all; equal contents give equal bytes.

    Args:
        path: of the file; its folder is made.
        kind: what the file holds, checked by `read`.
        config: JSON-able sizes.
        tensors: the network's state dict.
    """
    from safetensors.torch import save_file

    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        save_file(contiguous, temporary, metadata={"kind": kind, "config": json.dumps(dict(config))})
        _order_metadata(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _order_metadata(path: Path) -> None:
    """Sort the metadata in a header: safetensors writes them in an order that changes from call to call."""
    with path.open("r+b") as file:
        size = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(size))
        header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(size)
        assert len(text) == size
        file.seek(8)
        file.write(text)


def read(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The config (lists as tuples) and the tensors of a file that `write` wrote.

    Raises:
        BadArtifact: no such file, a damaged one, or one of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, SafetensorError) as error:
        raise BadArtifact(f"{path} cannot be read as .safetensors ({error}); make or fetch the file again.") from error
    if header.get("kind") != kind:
        raise BadArtifact(f"{path}: expected a file of kind {kind!r}, got {header.get('kind')!r}.")
    raw: dict[str, Any] = json.loads(header["config"])
    return {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}, tensors


def fill(module: torch.nn.Module, tensors: Mapping[str, torch.Tensor], path: str | Path) -> None:
    """Load a state dict.

    Raises:
        BadArtifact: its names or shapes do not fit the sizes in the header.
    """
    try:
        module.load_state_dict(dict(tensors))
    except RuntimeError as error:
        raise BadArtifact(f"{path}: its tensors do not fit the sizes in its header ({error}).") from error
