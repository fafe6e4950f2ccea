"""Controls: what a direction must beat before its effect counts. `controls` makes all that fit a direction at once.

| control | what is kept | what is not |
| --- | --- | --- |
| `flipped` | the line | the side: a true direction has the opposite effect, one that only disturbs has the same |
| `random` | sites, number of rows, norms | the direction: an isotropic Gaussian one |
| `permuted` | the values too | at which neurons they are (the EAST paper's control) |
| `random-neurons` | the values, and how many neurons of which layers | which neurons: none of the direction's own |

All keep the norms of the direction they control for, so that equal alpha or beta is an equal push. A random control of a
neuron set must be a neuron set: a dense random vector of the same length hardly moves any neuron.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.interventions import SetNeurons
from steer_agents.sites import Steerable

_NORMS = ("mean_norm", "raw_norm", "scale")
_BESIDE_ROWS = ("conceptor",)
"""Entries of `info` that say what the rows are used for, by location and not by direction: a control keeps them."""


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


def neurons_like(direction: Direction, seed: int) -> Direction:
    """The same values at as many other neurons of the same layers, drawn evenly from those that the direction leaves alone.

    Raises:
        BadInput: the direction is no neuron set, see `is_neuron_set`.
    """
    if not is_neuron_set(direction):
        counts = {key: f"{_count(rows)} of {rows.shape[1]}" for key, rows in direction.vectors.items()}
        raise BadInput(
            f"random-neurons: {direction.method} is no neuron set: it must lie at 'mlp_neurons' and use at most half of the neurons of "
            f"each layer; it uses {counts}. Use 'random' or 'permuted'."
        )
    generator = torch.Generator().manual_seed(seed)
    raw = {}
    for key, rows in direction.vectors.items():
        used = rows.any(0)
        free = torch.nonzero(~used)[:, 0]
        places = free[torch.randperm(len(free), generator=generator)[: int(used.sum())]]
        raw[key] = torch.zeros_like(rows).index_copy(1, places, rows[:, used])
    return _controlled(direction, raw, f"random-neurons {seed}", seed)


def is_neuron_set(direction: Direction) -> bool:
    """True if a direction lies at `mlp_neurons` and uses at most half of the neurons of every layer."""
    return all(
        key.endswith(".mlp_neurons") and 2 * _count(rows) <= rows.shape[1] for key, rows in direction.vectors.items()
    )


def _count(rows: torch.Tensor) -> int:
    return int(rows.any(0).sum())


def set_neurons_like(part: SetNeurons, width: int, seed: int) -> SetNeurons:
    """`SetNeurons` with the same values at as many other neurons of the same site.

    Args:
        part: the part to control for.
        width: number of neurons at its site.
    Raises:
        BadInput: there are not that many other neurons.
    """
    free = sorted(set(range(width)) - set(part.indices))
    if len(free) < len(part.indices) or max(part.indices) >= width:
        raise BadInput(
            f"set_neurons_like: {len(part.indices)} neurons (up to {max(part.indices)}) of {width} leave {len(free)} others; "
            "it takes as many."
        )
    order = torch.randperm(len(free), generator=torch.Generator().manual_seed(seed))[: len(part.indices)]
    return replace(part, indices=tuple(free[i] for i in order.tolist()))


def controls(direction: Direction, n: int = 5, seed: int = 0) -> dict[str, Direction]:
    """Every control that fits a direction: name -> what to run beside it at the same strength.

    Args:
        direction: the one to control for.
        n: of each kind that is drawn; `flipped` is one.
        seed: of all draws; control number i of a kind is drawn from the i-th seed that follows from it.
    Returns:
        "flipped", "random 0", ..., "permuted 0", ..., and for neuron sets "random-neurons 0", ...
    """
    if n < 1 or seed < 0:
        raise BadInput(f"controls: got n={n}, seed={seed}; allowed are n from 1 and seed from 0.")
    seeds = np.random.SeedSequence(seed).generate_state(n).tolist()
    kinds = {"random": random_like, "permuted": permuted_like}
    if is_neuron_set(_like(direction)):
        kinds["random-neurons"] = neurons_like
    drawn = {f"{name} {i}": make(direction, own) for name, make in kinds.items() for i, own in enumerate(seeds)}
    return {"flipped": -direction, **drawn}


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
        info={
            "control_of": direction.method,
            "seed": seed,
            **{name: direction.info[name] for name in _BESIDE_ROWS if name in direction.info},
        },
    )
    return replace(made, statistics=norms)  # no more than the direction itself knows


def random(target: Steerable, *, like: Direction, seed: int) -> Direction:
    """`find(policy, "random", like=direction, seed=0)`."""
    return random_like(_like(like), seed)


def permuted(target: Steerable, *, like: Direction, seed: int) -> Direction:
    """`find(policy, "permuted", like=direction, seed=0)`."""
    return permuted_like(_like(like), seed)


def random_neurons(target: Steerable, *, like: Direction, seed: int) -> Direction:
    """`find(policy, "random-neurons", like=direction, seed=0)`."""
    return neurons_like(_like(like), seed)


def _like(direction: Direction) -> Direction:
    if not isinstance(direction, Direction):
        raise BadInput(f"a control needs like=<Direction>, the one it controls for; got {type(direction).__name__}.")
    return direction
