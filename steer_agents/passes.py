"""Passes of a frozen model inside the graph of what is learned or attributed: activations, outputs, and an edit at one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from policies.errors import BadInput, SiteNeverFired
from steer_agents import capture
from steer_agents.finding.contrast import batches_of
from steer_agents.finding.scenes import leaves
from steer_agents.fingerprint import data_fingerprint
from steer_agents.sites import Location, Site, Steerable, read, resolve, written


def n_rows(batch: capture.Batch) -> int:
    """Rows of a batch."""
    tensors = list(batch.values()) if isinstance(batch, Mapping) else [batch]
    return next(len(value) for value in tensors if torch.is_tensor(value))


def device_of(target: Steerable) -> torch.device:
    """Where the model's first parameter lies."""
    return next((parameter.device for parameter in target.module.parameters()), torch.device("cpu"))


def pooled(target: Steerable, inputs: Sequence[Any], site: Site) -> dict[str, torch.Tensor]:
    """Location key -> (n, D) float32, the mean over each input's selected tokens, with gradients to whatever steers meanwhile.

    The same numbers as `capture.scene_means`, which has no gradients.
    """
    capture.check_readable(site)
    tracked = capture.Tracked(target, site)
    means: dict[str, list[torch.Tensor]] = {}
    with capture.Reader(target, resolve(target, site), gradients=True) as reader:
        for batch in batches_of(target, inputs):
            current = tracked.observe(batch)
            for key, h in reader.run(batch).items():
                mask = tracked.mask(current or reader.passes[key])
                means.setdefault(key, []).append(_mean(h.float(), mask, key))
    return {key: torch.cat(parts) for key, parts in means.items()}


def _mean(h: torch.Tensor, mask: torch.Tensor | None, key: str) -> torch.Tensor:
    if mask is None:
        return h.mean(1)
    share = mask.to(h)
    counts = share.sum(1, keepdim=True)
    if bool((counts == 0).any()):
        raise BadInput(f"{key}: the token scope selects no token of some input; widen it.")
    return torch.einsum("bnd,bn->bd", h, share / counts)


def outputs(target: Steerable, batch: capture.Batch) -> torch.Tensor:
    """(B, N, V) float32 logits, or what a network without tokens gives, as one token of it.

    Raises:
        BadInput: the module returns neither logits nor a tensor.
    """
    module, device = target.module, device_of(target)
    if isinstance(batch, Mapping):
        given = module(**{name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()})
    else:
        given = module(batch.to(device))
    found = getattr(given, "logits", given)
    if not torch.is_tensor(found) or found.dim() not in (2, 3):
        raise BadInput(
            f"{type(module).__name__} returns a {type(given).__name__}; logits, or a (B, D) or (B, N, D) tensor, are needed."
        )
    return (found if found.dim() == 3 else found[:, None]).float()


@contextmanager
def edited(location: Location, edit: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """Put edit(h) in the place of h (B, N, D) at one location while the block lasts.

    Raises:
        SiteNeverFired: the block ended well, but the module did not run in it.
    """
    fired = []

    def after(module: torch.nn.Module, args: Any, output: Any) -> Any:
        fired.append(True)
        value = output if torch.is_tensor(output) else output[0]
        changed = written(location, edit(read(location, value)), value)
        return changed if torch.is_tensor(output) else type(output)((changed, *output[1:]))

    def before(module: torch.nn.Module, args: tuple[Any, ...]) -> Any:
        fired.append(True)
        return (written(location, edit(read(location, args[0])), args[0]), *args[1:])

    module = location.module
    handle = (
        module.register_forward_pre_hook(before) if location.side == "input" else module.register_forward_hook(after)
    )
    try:
        yield
    finally:
        handle.remove()
    if not fired:
        raise SiteNeverFired(
            f"{location.key} (module {location.path}) did not run in the forward pass; choose another site."
        )


def fingerprint_of(*inputs: Sequence[Any]) -> str:
    """Of all inputs in order, so that a run is not gone on with on other data."""
    flat: list[Any] = []
    for group in inputs:
        for entry in group:
            flat += leaves(entry) if isinstance(entry, Mapping) else [entry]
        flat.append("|")
    return data_fingerprint(*flat)
