"""What is kept in files of its own beside directions: maps, controllers, banks, autoencoders, adapters, checkpoints.

One `.safetensors` file each, checked byte by byte like a direction's (`artifacts.py`), with its kind in the header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadArtifact, BadInput, SteerError
from steer_agents import artifacts
from steer_agents.runs import jsonable, write_bytes

Tensors = dict[str, torch.Tensor]


def save(path: str | Path, kind: str, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Path:
    """Write one file, whole or not at all.

    Args:
        kind: what it holds, in words; `load` asks for the same.
        header: whatever `runs.jsonable` takes.
        tensors: on any device.
    Raises:
        BadInput: another suffix.
    """
    path = Path(path).expanduser()
    if path.suffix != artifacts.SUFFIX:
        raise BadInput(f"save: {kind!r} is written to a {artifacts.SUFFIX} file, got {str(path)!r}.")
    owned = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    return write_bytes(path, artifacts.encode(jsonable({"schema": artifacts.SCHEMA, "kind": kind, **header}), owned))


def load[T](path: str | Path, kind: str, make: Callable[[dict[str, Any], Tensors], T]) -> T:
    """Read a file that `save` wrote.

    Args:
        make: (header, tensors) -> the thing.
    Raises:
        BadArtifact: missing, damaged, of another kind, or `make` cannot make anything of it.
    """
    header, tensors = artifacts.read(Path(path).expanduser())
    if header.get("kind") != kind:
        raise BadArtifact(f"{path} holds {header.get('kind', 'a direction')!r}, expected {kind!r}.")
    try:
        return make(header, tensors)
    except BadArtifact:
        raise
    except (SteerError, KeyError, TypeError, ValueError) as error:
        raise BadArtifact(
            f"{path} does not describe {kind!r} ({type(error).__name__}: {error}); make it again."
        ) from error
