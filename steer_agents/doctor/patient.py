"""The model on the table: three rows of input for it, what was seen at its sites, its outputs row by row."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from policies.errors import UnknownSite
from steer_agents.capture import Batch
from steer_agents.direction import Direction
from steer_agents.doctor.inputs import rows_of, tensor_of
from steer_agents.intervention import Intervention
from steer_agents.interventions import Ablate, Add
from steer_agents.sites import Location, Site, Steerable, read, resolve
from steer_agents.steerer import steer
from steer_agents.strength import Strength

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference where rounding enters, as a share of the largest output, by the dtype of the weights (directions are float32)."""
DOSE = 0.5
"""Of the mean activation norm: far above rounding."""

Finding = tuple[bool, str, str]
"""(passed, value, advice if it did not pass)."""


class NotApplicable(Exception):
    """The check means nothing on this model; the message says why."""


@dataclass(frozen=True)
class Seen:
    """What one plain pass showed at a site."""

    location: Location
    calls: int
    width: int
    mean_norm: float

    @property
    def site(self) -> Site:
        return Site(self.location.kind, self.location.layer, self.location.stack)

    def direction(self) -> Direction:
        raw = torch.randn(self.width, generator=torch.Generator().manual_seed(self.location.layer))
        return Direction.from_raw({self.location.key: raw}, self.site)

    def add(self, dose: float | torch.Tensor = DOSE) -> Add:
        return Add(self.direction(), strength=Strength(dose * self.mean_norm))

    def ablate(self, strength: float | torch.Tensor = 1.0) -> Ablate:
        return Ablate(self.direction(), strength=strength)


@dataclass
class Patient:
    """A model, three rows of input for it, and what was seen so far."""

    place: Steerable
    batch: Batch
    given: bool
    n_calls: int

    def __post_init__(self) -> None:
        self.n_hooks = self.count_hooks()
        self.parameters = list(self.place.module.parameters())
        dtypes = {parameter.dtype for parameter in self.place.module.parameters()}
        self.tolerance = max([TOLERANCE[dtype] for dtype in dtypes if dtype in TOLERANCE], default=1e-4)
        self._seen: dict[str, list[Seen]] = {}
        self.arguments = inspect.signature(self.place.module.forward).parameters

    def count_hooks(self) -> int:
        """Forward hooks and pre-hooks on all modules."""
        modules = self.place.module.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)

    @torch.no_grad()
    def call(self, batch: Batch, **extra: Any) -> Any:
        """The module's own output."""
        if not isinstance(batch, Mapping):
            return self.place.module(batch)
        if "use_cache" in self.arguments:
            extra = {"use_cache": False, **extra}
        return self.place.module(**{**batch, **extra})

    def rows(self, *parts: Intervention, batch: Batch | None = None) -> list[torch.Tensor]:
        """Each row's output at its real tokens, under steering with `parts`."""
        batch = self.batch if batch is None else batch
        with steer(self.place, *parts):
            output = tensor_of(self.call(batch))
        return rows_of(output, batch)

    @cached_property
    def plain(self) -> list[torch.Tensor]:
        """The first unsteered pass."""
        return [row.clone() for row in self.rows()]

    def seen(self, stack: str) -> list[Seen]:
        """What a plain pass showed at each site of a stack."""
        if stack not in self._seen:
            places = self.place.site_map.stacks[stack].places
            self._seen[stack] = self._watch(
                [at for kind in places for at in resolve(self.place, Site(kind, stack=stack))]
            )
        return self._seen[stack]

    def _watch(self, locations: list[Location]) -> list[Seen]:
        calls = {location.key: 0 for location in locations}
        shapes: dict[str, tuple[int, float]] = {}

        def keep(location: Location, value: Any) -> None:
            h = read(location, value)
            calls[location.key] += 1
            shapes[location.key] = (h.shape[-1], float(h.float().norm(dim=-1).mean()))

        handles = []
        try:
            for location in locations:
                if location.side == "input":
                    hook = lambda module, args, location=location: keep(location, args[0])  # noqa: E731
                    handles.append(location.module.register_forward_pre_hook(hook))
                else:
                    after = lambda module, args, output, location=location: keep(location, output)  # noqa: E731
                    handles.append(location.module.register_forward_hook(after))
            self.call(self.batch)
        finally:
            for handle in handles:
                handle.remove()
        return [Seen(loc, calls[loc.key], *shapes.get(loc.key, (0, 0.0))) for loc in locations]

    @property
    def fired(self) -> list[Seen]:
        """The sites that ran, of the stacks that fit the model."""
        found = []
        for stack in self.place.site_map.stacks:
            with suppress(UnknownSite):  # a finding of "sites fire"
                found += [seen for seen in self.seen(stack) if seen.calls]
        if not found:
            raise NotApplicable("No site fires, so there is nothing to steer.")
        return found

    @property
    def layers(self) -> list[Seen]:
        """The first kind of site of the first stack, layer by layer."""
        first = self.fired[0].location
        return [seen for seen in self.fired if (seen.location.stack, seen.location.kind) == (first.stack, first.kind)]

    @property
    def middle(self) -> Seen:
        return self.layers[len(self.layers) // 2]

    def compare(self, pairs: Sequence[tuple[list[torch.Tensor], list[torch.Tensor]]], advice: str) -> Finding:
        """Whether all pairs of outputs agree within the tolerance."""
        worst = max(difference(a, b) for a, b in pairs)
        return worst <= self.tolerance, f"largest difference {worst:.1e}", advice


def difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Largest difference of two lists of tensors as a share of the largest value of the second; inf if not finite."""
    x, y = (torch.cat([entry.double().reshape(-1) for entry in entries]) for entries in (a, b))
    if x.shape != y.shape or not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        return float("inf")
    return float((x - y).abs().max() / y.abs().max().clamp(min=1e-30))


def identical(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    """Whether two lists of tensors agree bit for bit."""
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))
