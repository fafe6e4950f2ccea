"""A measured quantity over the strength, and which strength reaches a value.

The mean at each strength; where they rise or fall throughout but for noise, their isotonic regression (pool adjacent violators, which
borrows from the neighbours); between them a monotone cubic (PCHIP: Fritsch and Carlson 1980), which overshoots nowhere. Bands come
from resampling seeds, whole, so that the pairing over strengths is kept.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from policies.errors import BadArtifact, BadInput
from steer_agents.setpoints import SetPoint

MONOTONE = 0.9
"""Share of the variance between strengths that an isotonic fit must explain for the curve to be called rising or falling."""
REPEATS = 999


@dataclass(frozen=True)
class Curve:
    """One measure over the strength.

    Args:
        measure: its name.
        strengths: at which it was measured, rising, 0 among them.
        values, low, high: at each of them, fitted, with the band.
        usable: [low, high] strengths that the policy bears; holds 0.
        shape: "rising", "falling", "flat" or "mixed".
        unit: of the strengths, "" where they have none.
        confidence: of the band, pointwise.
        seeds: behind every point.
    """

    measure: str
    strengths: tuple[float, ...]
    values: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    usable: tuple[float, float]
    shape: str = "mixed"
    unit: str = ""
    confidence: float = 0.95
    seeds: int = 0

    def __post_init__(self) -> None:
        n = len(self.strengths)
        if n < 2 or {len(self.values), len(self.low), len(self.high)} != {n}:
            raise BadInput(f"curve of {self.measure}: needs values and bands at two strengths or more, got {n}.")
        if not np.isfinite([*self.strengths, *self.values]).all() or min(np.diff(self.strengths)) <= 0:
            raise BadInput(f"curve of {self.measure}: strengths must rise, and they and the values must be finite.")
        if not self.usable[0] <= 0 <= self.usable[1]:
            raise BadInput(f"curve of {self.measure}: the usable range must hold 0, got {list(self.usable)}.")

    def at(self, strengths: Sequence[float] | np.ndarray, which: str = "values") -> np.ndarray:
        """The curve (or "low", "high") at strengths within the measured ones; NaN outside of them."""
        from scipy.interpolate import PchipInterpolator

        found: np.ndarray = PchipInterpolator(self.strengths, getattr(self, which), extrapolate=False)(
            np.asarray(strengths, dtype=np.float64)
        )
        return found

    @property
    def inside(self) -> list[float]:
        """The usable measured strengths, with the ends of the usable range."""
        low, high = max(self.usable[0], self.strengths[0]), min(self.usable[1], self.strengths[-1])
        return sorted({low, high, *(s for s in self.strengths if low <= s <= high)})

    @property
    def reach(self) -> tuple[float, float]:
        """Smallest and largest value within the usable range."""
        values = self.at(self.inside)
        return float(values.min()), float(values.max())

    def to_dict(self) -> dict[str, Any]:
        """JSON-able form, read back by `from_dict`."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, entry: Mapping[str, Any]) -> Curve:
        """Read back what `to_dict` wrote.

        Raises:
            BadArtifact: it is not of that form.
        """
        try:
            fields: dict[str, Any] = {
                key: tuple(value) if isinstance(value, list | tuple) else value for key, value in entry.items()
            }
            return cls(**fields)
        except (TypeError, ValueError) as error:
            raise BadArtifact(f"a dose curve cannot be read: {error}. Measure it again: `steer-agents dose`.") from None


def fit(
    measure: str,
    strengths: Sequence[float],
    levels: np.ndarray,
    usable: tuple[float, float],
    *,
    unit: str = "",
    confidence: float = 0.95,
    seed: int = 0,
    repeats: int = REPEATS,
) -> Curve:
    """The curve of one measure.

    Args:
        strengths: (S,) different ones.
        levels: (S, N), the measure at each strength and seed; NaN where an episode has none.
        usable: see `Curve`.
        seed, repeats: of the resampling.
    Raises:
        BadInput: fewer than two strengths at which any episode has the measure.
    """
    order = [i for i in np.argsort(strengths) if np.isfinite(levels[i]).any()]
    if len(order) < 2:
        raise BadInput(f"curve of {measure}: it was measured at {len(order)} strengths, two are needed.")
    levels = np.asarray(levels, dtype=np.float64)[order]
    means = _means(levels, np.ones((1, levels.shape[1])))[0]
    shape, n = _shape(means), levels.shape[1]
    fitted = isotonic(means, shape)
    draws = np.random.default_rng(seed).multinomial(n, np.full(n, 1 / n), size=repeats).astype(float)
    drawn = np.stack([isotonic(one, shape) for one in _means(levels, draws)])
    tail = 100 * (1 - confidence) / 2
    low, high = np.nanpercentile(drawn, [tail, 100 - tail], axis=0)
    at = [float(strengths[i]) for i in order]
    inside = max(min(at), usable[0]), min(max(at), usable[1])
    return Curve(
        measure, tuple(at), _plain(fitted), _plain(np.minimum(low, fitted)), _plain(np.maximum(high, fitted)),
        (min(inside[0], 0.0), max(inside[1], 0.0)), shape, unit, confidence, n,
    )  # fmt: skip


def isotonic(means: np.ndarray, shape: str) -> np.ndarray:
    """The rising or falling sequence nearest to the means in least squares; another shape, or a gap (NaN), leaves them be."""
    from scipy.optimize import isotonic_regression

    if shape not in ("rising", "falling") or not np.isfinite(means).all():
        return means
    found: np.ndarray = isotonic_regression(means, increasing=shape == "rising").x
    return found


def solve(curve: Curve, setpoint: SetPoint) -> float:
    """The strength that reaches a value, by inverse interpolation within the usable range; of several the one nearest 0.

    Raises:
        BadInput: another measure, or a value that no usable strength reaches; the message names the reachable range.
    """
    from scipy.optimize import brentq

    from steer_agents.evaluation.measures import same_measure

    if not same_measure(setpoint.measure, curve.measure):
        raise BadInput(
            f"set-point {setpoint}: this curve is of {curve.measure!r}; measure one of {setpoint.measure!r}."
        )
    knots = curve.inside
    if len(knots) < 2:
        raise BadInput(
            f"set-point {setpoint}: no strength but 0 was shown to be usable, so that none is named. Measure with more seeds, or "
            "give a strength."
        )
    values = curve.at(knots) - setpoint.value
    gaps = sorted(range(len(knots) - 1), key=lambda i: min(abs(knots[i]), abs(knots[i + 1])))
    for i in gaps:
        ends = [(abs(knots[j]), knots[j]) for j in (i, i + 1) if values[j] == 0]
        if ends:
            return min(ends)[1]
        if values[i] * values[i + 1] < 0:
            return float(brentq(lambda s: float(curve.at([s])[0]) - setpoint.value, knots[i], knots[i + 1]))
    low, high = curve.reach
    raise BadInput(
        f"set-point {setpoint}: usable strengths ({curve.usable[0]:g} to {curve.usable[1]:g} {curve.unit}".rstrip()
        + f") reach {setpoint.measure} from {low:.4g} to {high:.4g}. Ask for a value among those."
    )


def _means(levels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(R, S) weighted means over seeds, missing values left out; NaN where nothing is left."""
    known = np.isfinite(levels)
    total = weights @ np.where(known, levels, 0.0).T
    count = weights @ known.T.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        found: np.ndarray = np.where(count > 0, total / count, math.nan)
    return found


def _shape(means: np.ndarray) -> str:
    spread = float(((means - means.mean()) ** 2).sum())
    if spread <= 1e-18 * max(float((means**2).sum()), 1e-300):
        return "flat"
    left = {shape: 1 - float(((means - isotonic(means, shape)) ** 2).sum()) / spread for shape in ("rising", "falling")}
    best = max(left, key=lambda shape: left[shape])
    return best if left[best] >= MONOTONE else "mixed"


def _plain(values: np.ndarray) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
