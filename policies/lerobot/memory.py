"""How much memory and time a checkpoint takes, from the headers of its files, before anything is loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from policies.errors import BadArtifact, BadInput

READ_RATE = 0.5e9
"""Bytes per second that reading weights is taken to reach: a slow solid-state disk."""
_ITEMSIZE = {"float32": 4, "bfloat16": 2, "float16": 2}


@dataclass(frozen=True)
class Estimate:
    """What loading will take.

    Args:
        parameters: numbers in the checkpoint.
        bytes: of the weights once they are in their dtype.
        host_bytes: most main memory while loading: LeRobot builds the network in float32 before it is filled.
        seconds: reading the files at `READ_RATE`; building and moving come on top.
    """

    parameters: int
    bytes: int
    host_bytes: int
    seconds: float

    def __str__(self) -> str:
        return (
            f"{self.parameters / 1e6:.1f} M parameters, {self.bytes / 1e9:.2f} GB of weights, up to "
            f"{self.host_bytes / 1e9:.2f} GB of main memory while loading, about {self.seconds:.0f} s to read"
        )


def header(path: Path) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape, from the header of a .safetensors file; no tensor is read.

    Raises:
        BadArtifact: no such file, or not of this format.
    """
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            entries = json.loads(file.read(length))
    except (OSError, struct.error, ValueError) as error:
        raise BadArtifact(f"{path} cannot be read as .safetensors ({error}); fetch the checkpoint again.") from error
    return {name: tuple(entry["shape"]) for name, entry in entries.items() if name != "__metadata__"}


def estimate(shapes: Mapping[str, Sequence[int]], dtype: str, float32: Sequence[str] = (), stored: int = 4) -> Estimate:
    """From tensor shapes.

    Args:
        shapes: tensor name -> shape.
        dtype: of the weights once loaded.
        float32: parts of names that stay in float32 whatever the dtype.
        stored: bytes per number in the files.
    """
    sizes = {name: math.prod(shape) for name, shape in shapes.items()}
    total = sum(sizes.values())
    kept = sum(size for name, size in sizes.items() if any(part in name for part in float32))
    n_bytes = _ITEMSIZE[dtype] * (total - kept) + 4 * kept
    return Estimate(total, n_bytes, 4 * total, stored * total / READ_RATE)


def check_fits(needed: Estimate, device: str) -> None:
    """Refuse what cannot fit into the memory that is free now; where that is unknown, let it pass.

    Raises:
        BadInput: more is needed than is free.
    """
    free = {"main memory": (needed.host_bytes, _free_host()), device: (needed.bytes, _free_device(device))}
    for where, (wanted, there) in free.items():
        if there is not None and wanted > there:
            raise BadInput(
                f"the checkpoint needs {wanted / 1e9:.2f} GB of {where}, {there / 1e9:.2f} GB are free ({needed}). Free "
                "some, use a smaller dtype or another device, or pass check_memory=False to try anyway."
            )


def _free_host() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    kilobytes = [int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")]
    return 1024 * kilobytes[0] if kilobytes else None


def _free_device(device: str) -> int | None:
    import torch

    if torch.device(device).type != "cuda":
        return None
    return int(torch.cuda.mem_get_info(torch.device(device))[0])
