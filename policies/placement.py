"""Where weights go and in which precision: names of devices and dtypes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from policies.errors import BadInput, nearest

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")


def device_named(device: str) -> str:
    """The device that is meant: "auto" is CUDA if there is one, else the CPU.

    Raises:
        BadInput: torch does not know it, or it is a CUDA device and there is none.
    """
    import torch

    if device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise BadInput(f"device {device!r} is unknown to torch; use 'auto', 'cpu' or 'cuda'.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"device {device!r} was asked for, but torch sees no CUDA device; use device='cpu' or 'auto'.")
    return device


def dtype_named(dtype: str, device: str) -> torch.dtype:
    """The dtype that is meant: "auto" is float32 on the CPU, bfloat16 elsewhere.

    Raises:
        BadInput: a name that is not in `DTYPES`.
    """
    import torch

    if dtype not in DTYPES:
        raise BadInput(f"dtype {dtype!r} is unknown{nearest(dtype, DTYPES)}")
    if dtype == "auto":
        dtype = "float32" if torch.device(device).type == "cpu" else "bfloat16"
    torch_dtype: torch.dtype = getattr(torch, dtype)
    return torch_dtype
