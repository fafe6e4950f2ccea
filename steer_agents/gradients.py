"""Gradients of a number that is worked out from a policy's actions with respect to the activations at a site.

    g_i = sum over calls c, sum over selected tokens t of  dF_i / dh_{i,c,t}

for scene i, where F_i = functional(action_values)_i. The sum makes g_i . v the first-order change of F_i per unit of v when v is added
to all selected tokens, at every call of a module that runs several times (denoise steps): what `interventions.Add` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import BadInput, NonFinite, SiteNeverFired
from steer_agents.capture import Moments, Tracked, check_readable
from steer_agents.sites import Location, Site, Steerable, head_columns, read, resolve
from steer_agents.tokens import Pass, declared_pass

Functional = Callable[[torch.Tensor], torch.Tensor]
"""(B, H, A) action values -> (B,) numbers, row by row, differentiable."""


@dataclass(frozen=True)
class Gradients:
    """What `gradients` gives.

    Args:
        rows: location key -> (n, D) float32, g_i of every scene.
        moments: location key -> `Moments` of the activations at the selected tokens.
        values: (n,) float32, F_i.
    """

    rows: dict[str, torch.Tensor]
    moments: dict[str, Moments]
    values: torch.Tensor


def gradients(target: Steerable, batches: Iterable[Mapping[str, Any]], site: Site, functional: Functional) -> Gradients:
    """Run a policy's `action_values` on every batch and differentiate a functional of them.

    Args:
        batches: from the policy's `encode`, each made right before it is used.
        functional: see `Functional`.
    Raises:
        BadInput: no policy, one without action values, a functional of another shape or one that the site does not reach, or a scope that
            selects no token.
        SiteNeverFired: a module did not run while the actions were worked out.
        NonFinite: a value or gradient is NaN or infinite.
    """
    policy = target.policy
    if policy is None:
        raise BadInput("gradients need a policy that gives action values, got a bare torch module.")
    check_readable(site)
    locations = resolve(target, site)
    tracked = Tracked(target, site)
    rows: dict[str, list[torch.Tensor]] = {}
    moments: dict[str, Moments] = {}
    values = []
    for batch in batches:
        current = tracked.observe(batch)
        with _Taps(locations, policy.context) as taps, torch.enable_grad():
            F = _checked(functional(policy.action_values(_moved(batch, target.module))), batch)
            missing = [loc.key for loc in locations if loc.key not in taps.calls]
            if missing:
                raise SiteNeverFired(f"gradients: {', '.join(missing)} did not run while actions were worked out.")
            if not F.requires_grad:
                raise BadInput("gradients: the functional does not depend on the activations; nothing connects them.")
            kept = [(loc, h, seen) for loc in locations for h, seen in taps.calls[loc.key]]
            found = torch.autograd.grad(F.sum(), [h for _, h, _ in kept], allow_unused=True)
        sums: dict[str, torch.Tensor] = {}
        for (location, h, seen), slope in zip(kept, found, strict=True):
            mask = tracked.mask(current or seen)
            picked = _columns(location, h.detach())
            moments.setdefault(location.key, Moments()).update(_rows(picked, mask))
            if slope is None:
                continue
            g = _columns(location, slope)
            g = (g if mask is None else g.masked_fill(~mask.to(g.device)[..., None], 0)).double().sum(1)
            sums[location.key] = sums[location.key] + g if location.key in sums else g
        for location in locations:
            if location.key not in sums:
                raise BadInput(
                    f"gradients: what is written at {location.key} does not reach the actions; choose another site."
                )
            if not torch.isfinite(sums[location.key]).all():
                raise NonFinite(
                    f"gradients at {location.key}: NaN or infinite; the functional may have no gradient there."
                )
            if len(sums[location.key]) != len(F):
                raise BadInput(
                    f"gradients at {location.key}: {len(sums[location.key])} rows run there for {len(F)} scenes, so they cannot be told "
                    "apart; choose a site of the action stack."
                )
            rows.setdefault(location.key, []).append(sums[location.key].float().cpu())
        values.append(F.detach().float().cpu())
    if not values:
        raise BadInput("gradients: got no batches.")
    if any(one.n == 0 for one in moments.values()):
        raise BadInput(f"gradients: token scope {site.scope.kind!r} selected no token in the data; widen it.")
    return Gradients({key: torch.cat(parts) for key, parts in rows.items()}, moments, torch.cat(values))


def _checked(F: Any, batch: Mapping[str, Any]) -> torch.Tensor:
    n_rows = next(len(value) for value in batch.values() if torch.is_tensor(value))
    if not torch.is_tensor(F) or F.shape != (n_rows,):
        got = tuple(F.shape) if torch.is_tensor(F) else type(F).__name__
        raise BadInput(f"gradients: the functional must give ({n_rows},) numbers, one per scene, got {got}.")
    if not torch.isfinite(F).all():
        raise NonFinite("gradients: the functional gave NaN or infinite values.")
    return F


def _moved(batch: Any, module: torch.nn.Module) -> Any:
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    if not isinstance(batch, Mapping):
        return batch
    return {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}


def _columns(location: Location, value: torch.Tensor) -> torch.Tensor:
    """(B, N, D) with the columns of the chosen heads."""
    h = read(location, value)
    columns = head_columns(location, h.shape[-1])
    return h if columns is None else h[..., columns.to(h.device)]


def _rows(h: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    return h.reshape(-1, h.shape[-1]) if mask is None else h[mask.to(h.device)]


class _Taps:
    """Keeps the activations of every call of the locations' modules inside the graph that gradients go through."""

    def __init__(self, locations: list[Location], context: Any) -> None:
        self._locations, self._context = locations, context
        self.calls: dict[str, list[tuple[torch.Tensor, Pass | None]]] = {}
        self._handles: list[Any] = []

    def __enter__(self) -> _Taps:
        for location in self._locations:
            module = location.module
            if location.side == "input":
                self._handles.append(module.register_forward_pre_hook(self._before(location)))
            else:
                self._handles.append(module.register_forward_hook(self._after(location)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, location: Location) -> Callable[..., Any]:
        return lambda module, args: (self._keep(location, args[0]), *args[1:])

    def _after(self, location: Location) -> Callable[..., Any]:
        def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
            if isinstance(output, (tuple, list)):
                return type(output)((self._keep(location, output[0]), *output[1:]))
            return self._keep(location, output)

        return hook

    def _keep(self, location: Location, h: torch.Tensor) -> torch.Tensor:
        if not h.requires_grad:
            h = h.detach().requires_grad_()
        self.calls.setdefault(location.key, []).append((h, declared_pass(self._context)))
        return h
