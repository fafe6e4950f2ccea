"""The strength at which a noisy score crosses a target: probabilistic bisection.

A posterior over the root lives on a grid, from a Gaussian prior. Each trial measures at the posterior's median and gets a score s;
with s rescaled to [0, 1] the true mean there is believed to be Beta(1/2 + n s, 1/2 + n (1 - s)), n = 5, so that

    p = P(true mean > target);     mass on the side where the root then lies is multiplied by p, on the other side by 1 - p.

Source: Endogenous Steering Resistance, arXiv 2602.06941 (calibrator: boosts of SAE features to a mean score of 30 of 100, prior mean
1, sd .34 on [0, 5], 10 to 20 trials; the Beta model). We differ in: p is that of the Beta model itself, so that the flip at p < 1/2
needs no case of its own; whether the score rises or falls with the strength is said by name; and the report gives quantiles of the
posterior. Approximate: trials count as independent, and the Beta is a working model of the noise, not a fitted one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy import stats

from policies.errors import BadInput, NonFinite
from steer_agents.strength import Strength

_CELLS = 2001


@dataclass(frozen=True)
class Bisection:
    """Where the root is believed to be.

    Args:
        strength: the posterior's median.
        low, high: its 5 % and 95 % quantiles.
        trials: (value, score) of every measurement, in order.
        grid, posterior: (m,) values and probabilities.
    """

    strength: Strength
    low: float
    high: float
    trials: tuple[tuple[float, float], ...]
    grid: np.ndarray
    posterior: np.ndarray


def noisy_bisection(
    measure: Callable[[float], float],
    goal: float,
    low: float,
    high: float,
    *,
    rising: bool = False,
    trials: int = 20,
    prior: tuple[float, float] | None = None,
    scores: tuple[float, float] = (0.0, 1.0),
    weight: float = 5.0,
    unit: str = "absolute",
) -> Bisection:
    """The strength at which the mean score is `goal`.

    Args:
        measure: strength -> one noisy score.
        goal: the wanted mean score, strictly inside of `scores`.
        low, high: where the root is looked for.
        rising: whether the score rises with the strength; steering usually spoils one, so it falls.
        trials: measurements.
        prior: mean and sd of the Gaussian prior; None: the middle, and the whole range as sd.
        scores: lowest and highest possible score.
        weight: n, how many observations one score counts for.
        unit: of the strength.
    Raises:
        BadInput: an empty range, or a goal outside of the scores.
        NonFinite: a score is NaN or outside of `scores`.
    """
    bottom, top = scores
    if not (low < high and bottom < goal < top and trials >= 1 and weight > 0):
        raise BadInput(
            f"noisy_bisection: need low < high, a goal inside of the scores, trials >= 1 and weight > 0; got [{low}, {high}], goal {goal} "
            f"in {scores}, {trials} trials and weight {weight}."
        )
    mean, sd = prior or ((low + high) / 2, high - low)
    grid = np.linspace(low, high, _CELLS)
    posterior = _normalised(stats.norm.pdf(grid, mean, sd))
    seen: list[tuple[float, float]] = []
    for _ in range(trials):
        value = _quantile(grid, posterior, 0.5)
        score = float(measure(value))
        if not bottom <= score <= top:
            raise NonFinite(
                f"noisy_bisection: the score at {value:g} is {score}, outside of {scores}; set scores=(low, high)."
            )
        s, wanted = ((x - bottom) / (top - bottom) for x in (score, goal))
        above = float(stats.beta.sf(wanted, 0.5 + weight * s, 0.5 + weight * (1 - s)))
        right = 1 - above if rising else above
        posterior = _normalised(posterior * np.where(grid > value, right, 1 - right))
        seen.append((value, score))
    middle, first, last = (_quantile(grid, posterior, q) for q in (0.5, 0.05, 0.95))
    return Bisection(Strength(middle, unit), first, last, tuple(seen), grid, posterior)


def _normalised(mass: np.ndarray) -> np.ndarray:
    total: np.ndarray = mass / mass.sum()
    return total


def _quantile(grid: np.ndarray, posterior: np.ndarray, q: float) -> float:
    return float(np.interp(q, np.cumsum(posterior), grid))
