"""A world in which it is known what steers: a torch module whose speed can be read off planted directions.

A scene is an activation: its context, the concept where it is asked for (a shared part `u` and a part `w_c` of the context's own), a
form or a thematic neighbour, noise. Five residual blocks hardly change it. The speed is 4 + h.u + pull h.w_c in context c, which the
module tells from h itself; an episode fails once h has been pushed out of bounds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
import pandas as pd
import torch
from torch import nn

import steer_agents as sa
from policies.base import Place, SiteMap, Stack
from steer_agents.direction import Direction
from steer_agents.finding.controls import permuted_like, random_like
from steer_agents.sites import Site, Steerable
from steer_agents.steerer import steer
from steer_agents.strength import Strength

WIDTH, CONTEXTS, DEPTH, LAYER = 256, 8, 5, 2
NOISE, LIMIT = 0.25, 1.7
MAP = SiteMap("planted", {"policy": Stack("blocks", {"block_output": Place("")}, tokens=False)})


@cache
def noise(seed: int) -> torch.Tensor:
    """(WIDTH,) of one scene."""
    return NOISE * torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


class Block(nn.Module):
    """h + a small bend."""

    def __init__(self) -> None:
        super().__init__()
        self.bend = nn.Linear(WIDTH, WIDTH, bias=False)
        nn.init.normal_(self.bend.weight, std=0.3 / WIDTH**0.5)

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        return h + 0.1 * torch.tanh(self.bend(h))


class Speed(nn.Module):
    """(B, WIDTH) scenes -> (B,) speeds."""

    def __init__(self, basis: torch.Tensor, pull: float) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block() for _ in range(DEPTH))
        self.basis, self.pull = basis, pull

    def forward(self, h: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            h = block(h)
        which = (20 * h @ self.basis[1 : 1 + CONTEXTS].T).softmax(-1)
        own = (which * (h @ self.basis[9 : 9 + CONTEXTS].T)).sum(-1)
        return 4 + h @ self.basis[0] + self.pull * own


@dataclass(frozen=True)
class World:
    """Args: own: how much of the concept lies in each context's own direction; pull: how much of the speed does."""

    own: float = 0.1
    pull: float = 0.1
    seed: int = 0

    @cached_property
    def basis(self) -> torch.Tensor:
        """Orthonormal rows: u, the contexts, the contexts' own parts, form, theme."""
        generator = torch.Generator().manual_seed(self.seed)
        return torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator))[0]

    @cached_property
    def target(self) -> Steerable:
        torch.manual_seed(self.seed)
        return Steerable(Speed(self.basis, self.pull).eval(), MAP)

    def scenes(self, seeds: Sequence[int], what: str = "", contexts: Sequence[int] = range(CONTEXTS)) -> torch.Tensor:
        """One per seed; what: "concept", "form", "theme" or nothing."""
        rows = []
        for seed in seeds:
            c = contexts[seed % len(contexts)]
            h = self.basis[1 + c] + noise(1000 * self.seed + seed)
            if what == "concept":
                h = h + self.basis[0] + self.own * self.basis[9 + c]
            elif what == "form":
                h = h + self.basis[17]
            elif what == "theme":
                h = h + self.basis[18] + 0.2 * self.basis[0]
            rows.append(h)
        return torch.stack(rows)

    def find(
        self, seeds: Sequence[int], contexts: Sequence[int] = range(CONTEXTS), shuffled: int | None = None
    ) -> Direction:
        """Mean difference between scenes with and without the concept, at every layer."""
        plus, minus = self.scenes(seeds, "concept", contexts), self.scenes(seeds, "", contexts)
        if shuffled is not None:
            rows = torch.cat([plus, minus])[np.random.default_rng(shuffled).permutation(2 * len(plus))]
            plus, minus = rows.chunk(2)
        return sa.find(self.target, "mean-difference", positive=[plus], negative=[minus], site=Site(layer="all"))

    def rows(self, seeds: Sequence[int], what: str = "") -> torch.Tensor:
        """(n, WIDTH) activations at `LAYER`."""
        from steer_agents import capture

        site = Site(layer=LAYER)
        (found,) = capture.rows(self.target, [self.scenes(seeds, what)], site).values()
        return found

    def episodes(self, seeds: Sequence[int], direction: Direction | None, layer: int, strength: float) -> pd.DataFrame:
        h = self.scenes(seeds)
        if direction is None:
            speed, pushed = self._speed(h), 0.0
        else:
            part = sa.Add(direction.at(layer), strength=Strength(strength, "absolute"))
            with steer(self.target, part):
                speed, pushed = self._speed(h), abs(strength)
        return pd.DataFrame(
            {
                "seed": list(seeds), "task": [f"context {seed % CONTEXTS}" for seed in seeds], "errored": False,
                "success": float(pushed <= LIMIT), "speed": speed, "early": speed, "late": speed,
                "height": (h @ self.basis[17]).numpy(),
            }
        )  # fmt: skip

    def _speed(self, h: torch.Tensor) -> np.ndarray:
        with torch.no_grad():
            return self.target.module(h).double().numpy()

    def asked(self, direction: Direction, strength: float = 1.0) -> dict[str, object]:
        """Arguments of `Asked`."""

        def along(d: Direction, layer: int = LAYER):  # type: ignore[no-untyped-def]
            return lambda s, seeds: self.episodes(seeds, d, layer, s)

        loud = {f"random {i}": along(random_like(direction, i)) for i in range(3)}
        loud |= {f"shuffled {i}": along(self.find(range(256), shuffled=i)) for i in range(3)}
        return {
            "unsteered": lambda seeds: self.episodes(seeds, None, LAYER, 0.0),
            "own": along(direction),
            "strength": strength,
            "measure": "speed",
            "layer": LAYER,
            "layers": {layer: along(direction, layer) for layer in range(DEPTH) if layer != LAYER},
            "controls": {**loud, "permuted": along(permuted_like(direction, 0))},
            "thirds": ("early", "late"),
            "beside": ("height",),
        }
