"""Control directions: what a direction must beat before its effect counts.

Both keep the norms of the direction they control for (so equal alpha or beta is an equal push), and nothing of its
content.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.sites import Steerable

_NORMS = ("mean_norm", "raw_norm", "scale")


def random_like(direction: Direction, seed: int) -> Direction:
    """Isotropic Gaussian directions at the same sites with the same norms."""
    generator = torch.Generator().manual_seed(seed)
    raw = {key: torch.randn(rows.shape, generator=generator) for key, rows in direction.vectors.items()}
    return _controlled(direction, raw, f"random {seed}", seed)


def permuted_like(direction: Direction, seed: int) -> Direction:
    """The direction with its coordinates permuted: the same values at other neurons (the EAST paper's control)."""
    generator = torch.Generator().manual_seed(seed)
    raw = {key: rows[:, torch.randperm(rows.shape[1], generator=generator)] for key, rows in direction.vectors.items()}
    return _controlled(direction, raw, f"permuted {seed}", seed)


def _controlled(direction: Direction, raw: dict[str, torch.Tensor], method: str, seed: int) -> Direction:
    norms = {
        key: {name: entry[name] for name in _NORMS if name in entry} for key, entry in direction.statistics.items()
    }
    made = Direction.from_raw(
        raw,
        direction.site,
        norms,
        method=method,
        model=direction.model,
        info={"control_of": direction.method, "seed": seed},
    )
    return replace(made, statistics=norms)  # no more than the direction itself knows


def random(target: Steerable, *, like: Direction, seed: int) -> Direction:
    """`find(policy, "random", like=direction, seed=0)`."""
    return random_like(_like(like), seed)


def permuted(target: Steerable, *, like: Direction, seed: int) -> Direction:
    """`find(policy, "permuted", like=direction, seed=0)`."""
    return permuted_like(_like(like), seed)


def _like(direction: Direction) -> Direction:
    if not isinstance(direction, Direction):
        raise BadInput(f"a control needs like=<Direction>, the one it controls for; got {type(direction).__name__}.")
    return direction
