"""A PI controller of a strength, one per row of the batch, as a pure function of its state.

    v = I + kp * e,   u = v within the limits of range and of rate,   I <- I + ki * e

with e = set-point - measured quantity, u the strength and I in units of strength. Once per environment step: the integral takes the
error of that step, the proportional part the error averaged over the steps since the policy last decided, so that
a policy that acts in chunks is told the same total.

Anti-windup by conditional integration ("clamping", Astrom & Hagglund, Advanced PID Control, 2006, section 3.5): while u is at a limit,
the integral takes only errors that lead away from it. The sign of the slope d measure / d strength is that of the gains. The start
is bumpless: I begins at the strength that the dose curve asks for, and the rate limit counts from there.

Steering activations by a PI(D) controller: CTRL-STEER (arXiv 2606.00269, across environment steps of a VLA), arXiv 2510.04309 (across
layers). Differences: anti-windup, limits, per-row state and bumpless start, which neither describes.

Axes: B rows.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from policies.errors import BadInput


@dataclass(frozen=True)
class Gains:
    """Gains, of one sign (that of the slope) or 0, and not both 0.

    Args:
        kp: strength per unit of error.
        ki: strength per unit of error and environment step.
    """

    kp: float
    ki: float

    def __post_init__(self) -> None:
        if not (math.isfinite(self.kp) and math.isfinite(self.ki)) or self.kp * self.ki < 0 or self.kp == self.ki == 0:
            raise BadInput(
                f"gains must be finite, of one sign and not both 0, got kp={self.kp}, ki={self.ki}; both have the sign of the slope "
                "d measure / d strength. `Gains.simc(slope, delay)` works them out."
            )

    @classmethod
    def simc(cls, slope: float, delay: float, lag: float = 0.0, closed: float | None = None) -> Gains:
        """Gains from the slope of the dose curve: Skogestad's SIMC rule (J. Process Control 13, 2003, 291-309; an IMC rule).

            kp = lag / (slope (closed + delay)),   ki = kp / min(lag, 4 (closed + delay));   lag = 0: ki = 1 / (slope (closed + delay))

        Args:
            slope: d measure / d strength, not 0.
            delay: from a change of the strength to its effect [environment steps], above 0; of a policy that acts in chunks their length.
            lag: time constant with which the effect then sets in [environment steps].
            closed: time constant wanted in closed loop [environment steps]; None takes the delay, SIMC's "tight" tuning.
        Raises:
            BadInput: slope 0 or not finite, or a time that is out of range.
        """
        closed = delay if closed is None else closed
        times = all(math.isfinite(time) for time in (delay, lag, closed))
        if not (math.isfinite(slope) and slope and times and delay > 0 and lag >= 0 and closed > 0):
            raise BadInput(
                f"Gains.simc: slope must not be 0, delay and closed above 0, lag from 0; got slope={slope}, delay={delay}, lag={lag}, "
                f"closed={closed}. A slope of 0 says that the strength does nothing to the measure."
            )
        if lag == 0:
            return cls(0.0, 1 / (slope * (closed + delay)))
        kp = lag / (slope * (closed + delay))
        return cls(kp, kp / min(lag, 4 * (closed + delay)))


@dataclass(frozen=True)
class Limits:
    """What a strength may be.

    Args:
        low, high: range.
        rate: largest change per environment step; infinite for none.
    """

    low: float
    high: float
    rate: float = math.inf

    def __post_init__(self) -> None:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high and self.rate > 0):
            raise BadInput(
                f"limits must be finite with low < high and a rate above 0, got low={self.low}, high={self.high}, rate={self.rate}."
            )

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high


@dataclass(frozen=True)
class Loop:
    """State of the controllers of all rows.

    Args:
        integral: (B,) I, float64.
        strength: (B,) u, float64.
        saturated: (B,) bool, whether a limit of range or rate held u back at the last step.
    """

    integral: np.ndarray
    strength: np.ndarray
    saturated: np.ndarray

    @classmethod
    def at(cls, strength: float, n_rows: int) -> Loop:
        """Every row at rest at a strength."""
        full = np.full(n_rows, float(strength))
        return cls(full, full.copy(), np.zeros(n_rows, dtype=bool))


def step(
    loop: Loop, error: np.ndarray, recent: np.ndarray, gains: Gains, limits: Limits, active: np.ndarray | None = None
) -> Loop:
    """One environment step of every row's controller.

    Args:
        error: (B,) set-point minus measured quantity, of this step.
        recent: (B,) the same, averaged over the steps since the policy last decided.
        active: (B,) bool; other rows stay as they are. None for all.
    """
    integral = loop.integral + gains.ki * error
    asked = integral + gains.kp * recent
    low = np.maximum(limits.low, loop.strength - limits.rate)
    high = np.minimum(limits.high, loop.strength + limits.rate)
    given = np.clip(asked, low, high)
    further = ((asked > high) & (gains.ki * error > 0)) | ((asked < low) & (gains.ki * error < 0))
    integral = np.where(further, loop.integral, integral)
    on = np.ones(len(error), dtype=bool) if active is None else np.asarray(active, dtype=bool)
    return Loop(
        np.where(on, integral, loop.integral),
        np.where(on, given, loop.strength),
        np.where(on, given != asked, loop.saturated),
    )
