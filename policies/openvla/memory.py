"""What a checkpoint will need, before it is loaded: memory from the headers of its files, time from a short measurement.

Memory: weights in the dtype they will have, keys and values of the sequence, the widest activations, and one tensor in
passing. Time: the prefill is bound by arithmetic (2 operations per weight and token), each decode pass by reading every
weight once; both rates are measured on the device in a fraction of a second. The estimate is for one row of a batch.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from policies.errors import TooLarge
from policies.openvla.checkpoint import Stored
from policies.openvla.config import OpenVLAConfig

if TYPE_CHECKING:
    from policies.openvla.model import OpenVLAModel

N_TEXT_TOKENS = 48
"""Prompt and action tokens beside the patches, allowed for."""
BYTES_4BIT = 0.5 + 1 / 64 + 4 / (64 * 256)
"""NF4 per weight: half a byte, one byte of scale per 64 weights, four bytes per 256 of those scales."""
GIB = 2**30


@dataclass(frozen=True)
class Needs:
    """What one row needs on the device.

    Args:
        weights, cache, working: [bytes]; `working` is activations and what is in passing while loading.
        prefill_operations: arithmetic of one prefill.
        decode_passes: passes after it.
    """

    weights: int
    cache: int
    working: int
    prefill_operations: float
    decode_passes: int

    @property
    def total(self) -> int:
        return self.weights + self.cache + self.working

    def seconds(self, operations_per_second: float, bytes_per_second: float) -> float:
        """Time of one action on a device with these rates [s]."""
        return self.prefill_operations / operations_per_second + self.decode_passes * self.weights / bytes_per_second

    def render(self, device: str, dtype: str, free: int | None, seconds: float | None) -> str:
        """One line for people."""
        gib = {name: f"{getattr(self, name) / GIB:.1f}" for name in ("total", "weights", "cache", "working")}
        left = "unknown" if free is None else f"{free / GIB:.1f} GiB"
        pace = "" if seconds is None else f"; about {seconds:.2g} s per action"
        return (
            f"needs {gib['total']} GiB on {device} in {dtype} (weights {gib['weights']}, cache {gib['cache']}, working "
            f"{gib['working']}), free: {left}{pace}"
        )


def needs(
    model: OpenVLAModel, table: Mapping[str, Stored], dtype: torch.dtype, quantised: Collection[str], n_tokens: int
) -> Needs:
    """Work out what a model needs.

    Args:
        model: empty.
        table: its tensors.
        dtype: of the weights that are not quantised, and of activations.
        quantised: names of the weights that are kept in 4 bits.
        n_tokens: A, tokens of an action.
    """
    size = dtype.itemsize
    kept = model.state_dict().keys()
    numbers = {name: math.prod(table[name].shape) for name in kept}
    weights = sum(n * (BYTES_4BIT if name in quantised else size) for name, n in numbers.items())
    config: OpenVLAConfig = model.config
    text = config.text_config
    length = model.n_patches + N_TEXT_TOKENS
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    n_kv_heads = text.num_key_value_heads or text.num_attention_heads
    cache = 2 * text.num_hidden_layers * n_kv_heads * head_size * length * size
    activations = length * (6 * text.hidden_size + 3 * text.intermediate_size) * size
    in_passing = max(table[name].n_bytes + numbers[name] * size for name in kept)
    in_blocks = sum(n for name, n in numbers.items() if name.startswith("language_model.model.layers."))
    in_vision = sum(n for name, n in numbers.items() if not name.startswith("language_model."))
    return Needs(
        weights=int(weights),
        cache=cache,
        working=activations + in_passing,
        prefill_operations=2.0 * length * in_blocks + 2.0 * model.n_patches * in_vision,
        decode_passes=n_tokens - 1,
    )


def free_bytes(device: str) -> int | None:
    """Memory that is free on a device; None if that cannot be found out."""
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(torch.device(device))[0])
    try:
        import psutil
    except ImportError:
        return None
    return int(psutil.virtual_memory().available)


def check_fits(what: Needs, free: int | None, device: str, dtype: str) -> None:
    """Refuse what cannot fit.

    Raises:
        TooLarge: with numbers, and what would help.
    """
    if free is None or what.total <= free:
        return
    raise TooLarge(
        f"openvla: {what.render(device, dtype, free, None)}. Use a smaller dtype (dtype='bfloat16'), quantize='4bit' (CUDA), or "
        "another device; allow_too_large=True tries all the same."
    )


def measured_rates(device: str, dtype: torch.dtype) -> tuple[float, float]:
    """(arithmetic operations, bytes read) per second of a device, from one matrix product and one sum."""
    n = 512 if torch.device(device).type == "cpu" else 4096
    a = torch.randn(n, n, device=device).to(dtype)
    flat = torch.zeros(16 * n * n, device=device, dtype=dtype)
    seconds = []
    for work in (lambda: a @ a, lambda: flat.clone()):
        work()
        _wait(device)
        start = time.perf_counter()
        work()
        _wait(device)
        seconds.append(max(time.perf_counter() - start, 1e-9))
    return 2 * n**3 / seconds[0], 2 * flat.numel() * dtype.itemsize / seconds[1]


def _wait(device: str) -> None:
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(torch.device(device))
