"""Runners whose truth is known: what a dose study must say of a steering that works, that only breaks, that only adds noise.

Each is a function (strength, seeds) -> episodes, as `steer_agents.evaluation.dose.dose` takes it; numbers depend on nothing but the
repeat, the direction (0 is the one under test, others are random controls), the strength and the seed. Layouts differ in speed
(mean 0.30 m/s, standard deviation 0.03) and height, 1 in 20 fails unsteered, and any strength but 0 jitters the speed a little, as
closed loops do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from steer_agents.evaluation.dose import Dose, dose
from steer_agents.evaluation.runner import Runner
from steer_agents.evaluation.verdict import AT_A_COST, STEERABLE, UNSTEERABLE


@dataclass
class Episode:
    """An episode as it goes without steering, for a plant to change."""

    speed: float
    height: float
    success: bool


Act = Callable[[Episode, float, bool, np.random.Generator], None]
"""(episode, strength, is the direction under test, draws of this episode) -> changed in place."""


@dataclass(frozen=True)
class Plant:
    """A planted steering: the verdict it must get, and what it does."""

    verdict: str
    act: Act


def _noise(one: Episode, s: float, own: bool, draw: np.random.Generator) -> None:
    one.speed += 0.1 * s * draw.normal()
    one.height += 0.03 * s * draw.normal()


def _breaks(one: Episode, s: float, own: bool, draw: np.random.Generator) -> None:
    if draw.random() < 0.8 * abs(s):
        one.success, one.speed = False, 0.05 if draw.random() < 0.5 else math.nan


def _works(one: Episode, s: float, own: bool, draw: np.random.Generator) -> None:
    if own:
        one.speed -= 0.15 * math.tanh(s / 1.5)
    one.success &= bool(draw.random() >= 0.1 * max(0.0, abs(s) - 1))


def _one_way(one: Episode, s: float, own: bool, draw: np.random.Generator) -> None:
    if own and s > 0:
        one.speed -= 0.1 * s


def _costly(one: Episode, s: float, own: bool, draw: np.random.Generator) -> None:
    if own:
        one.speed -= 0.12 * s
    one.success &= bool(draw.random() >= 0.4)


def _leaks(one: Episode, s: float, own: bool, draw: np.random.Generator) -> None:
    if own:
        one.speed -= 0.1 * s
        one.height += 0.1 * s


def _any(one: Episode, s: float, own: bool, draw: np.random.Generator) -> None:
    one.speed -= (0.1 if own else 0.08) * s


PLANTS: Mapping[str, Plant] = {
    "works": Plant(STEERABLE, _works),
    "only breaks": Plant(UNSTEERABLE, _breaks),
    "only adds noise": Plant(UNSTEERABLE, _noise),
    "works one way": Plant(STEERABLE, _one_way),
    "works at a cost": Plant(AT_A_COST, _costly),
    "moves the height too": Plant(AT_A_COST, _leaks),
    "as any direction": Plant(UNSTEERABLE, _any),
}
"""Name -> plant; the first three are those that any judge must tell apart."""


def planted(name: str, repeat: int, direction: int = 0) -> Runner:
    """A runner of a plant."""
    act = PLANTS[name].act

    def run(strength: float, seeds: Sequence[int]) -> pd.DataFrame:
        rows = []
        for seed in seeds:
            layout = np.random.default_rng([repeat, seed])
            one = Episode(0.3 + 0.03 * layout.normal(), 0.1 + 0.02 * layout.normal(), bool(layout.random() < 0.95))
            if strength:
                draw = np.random.default_rng([repeat, seed, 1 + direction, round(1e6 * (strength + 100))])
                one.speed += 0.01 * draw.normal()
                act(one, strength, direction == 0, draw)
            rows.append(
                {
                    "seed": seed,
                    "errored": False,
                    "success": float(one.success),
                    "speed": one.speed,
                    "height": one.height,
                }
            )
        return pd.DataFrame(rows)

    return run


def judged(name: str, repeat: int, resamples: int = 999) -> Dose:
    """The dose study of a plant: 24 seeds, a pilot of 8, three controls."""
    return dose(
        planted(name, repeat), seeds=range(24), pilot=range(1000, 1008), target="speed", side=("success", "height"),
        controls={f"random {i}": planted(name, repeat, 1 + i) for i in range(3)}, bracket=(-1.0, 1.0), budget=400,
        unsteered=planted(name, repeat), resamples=resamples,
    )  # fmt: skip
