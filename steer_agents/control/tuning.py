"""From a dose curve to what a controller needs: the strength that it begins with, and the slope that its gains follow from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.optimize import isotonic_regression

from policies.errors import BadInput


def monotone(strengths: Sequence[float], values: Sequence[float]) -> np.ndarray:
    """The monotone curve nearest to a dose curve in least squares (pool adjacent violators), rising or falling as the curve does.

    Args:
        strengths: (S,) rising; values: (S,) mean of the measure at each.
    Raises:
        BadInput: fewer than two strengths, not rising, or values that are not finite.
    """
    x, y = np.asarray(strengths, dtype=np.float64), np.asarray(values, dtype=np.float64)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2 or not (np.diff(x) > 0).all() or not np.isfinite(y).all():
        raise BadInput(
            f"a dose curve needs two or more rising strengths with finite values, got {x.tolist()}, {y.tolist()}."
        )
    fitted: np.ndarray = isotonic_regression(y, increasing=bool(np.polyfit(x, y, 1)[0] >= 0)).x
    return fitted


def solve(strengths: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """The strength at which the monotone curve has the wanted value, linearly between strengths: the open-loop solution.

    Where the curve is flat at that value, the middle of the flat stretch.

    Raises:
        BadInput: the value is out of the curve's range; the message says which it covers.
    """
    x, y = np.asarray(strengths, dtype=np.float64), monotone(strengths, values)
    if not y.min() <= wanted <= y.max():
        raise BadInput(
            f"set-point {wanted:g} is outside of what the dose curve covers, {y.min():.4g} to {y.max():.4g}; ask for a value within."
        )
    if y[0] > y[-1]:
        x, y = x[::-1], y[::-1]
    levels, first = np.unique(y, return_index=True)
    last = len(y) - 1 - np.unique(y[::-1], return_index=True)[1]
    if wanted in levels:
        here = int(np.searchsorted(levels, wanted))
        return float((x[first[here]] + x[last[here]]) / 2)
    above = int(np.searchsorted(levels, wanted))
    share = (wanted - levels[above - 1]) / (levels[above] - levels[above - 1])
    return float(x[last[above - 1]] + share * (x[first[above]] - x[last[above - 1]]))


def slope(strengths: Sequence[float], values: Sequence[float]) -> float:
    """d measure / d strength over the whole curve (its secant): a dead zone about 0 would make a local slope, and with it the
    gains, arbitrary.

    Raises:
        BadInput: the curve is flat: this steering does not move the measure.
    """
    y = monotone(strengths, values)
    found = float((y[-1] - y[0]) / (strengths[-1] - strengths[0]))
    if found == 0:
        raise BadInput(
            "the dose curve is flat: this steering does not move the measure, so that nothing can be held with it."
        )
    return found
