"""The controller: no steady-state error, no windup, limits of range and rate, rows apart; gains from the slope."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import BadInput
from steer_agents.control.pi import Gains, Limits, Loop, step

WIDE = Limits(-100.0, 100.0)


def settle(
    gains: Gains, limits: Limits, wanted: float, gain: float, load: float, steps: int = 200, delay: int = 0
) -> np.ndarray:
    """Measured values of a plant y = gain * u + load, u delayed by so many steps."""
    loop, seen, given_ = Loop.at(0.0, 1), [], [0.0] * (delay + 1)
    for _ in range(steps):
        y = gain * given_[-1 - delay] + load
        seen.append(y)
        error = np.array([wanted - y])
        loop = step(loop, error, error, gains, limits)
        given_.append(float(loop.strength[0]))
    return np.array(seen)


@given(st.floats(0.1, 5.0), st.sampled_from([-1.0, 1.0]), st.integers(1, 8), st.floats(-2.0, 2.0))
def test_gains_from_the_slope_leave_no_steady_state_error_whatever_the_load(
    slope: float, sign: float, delay: int, load: float
) -> None:
    seen = settle(Gains.simc(sign * slope, delay), WIDE, 1.0, sign * slope, load, 400, delay - 1)
    assert abs(seen[-1] - 1.0) < 1e-3
    assert seen.max() - seen.min() < 20


def test_a_changed_load_is_taken_up_where_a_fixed_strength_drifts() -> None:
    """Methods sheet 19, acceptance (i): at most 5 % in closed loop where the strength tuned before leaves at least 15 %."""
    fixed = 0.3 * 0.7  # tuned for 0.3 at gain 1, now at gain 0.7
    held = settle(Gains.simc(0.2, 4), Limits(-5, 5), 0.3, 0.2 * 0.7, 0.0, 80)[-20:].mean()
    assert abs(fixed - 0.3) / 0.3 >= 0.15
    assert abs(held - 0.3) / 0.3 <= 0.05


def test_proportional_steering_alone_leaves_an_error_and_the_integral_takes_it_away() -> None:
    """Methods sheet 19.2: gain 2, constant disturbance."""
    proportional = settle(Gains(0.4, 0.0), WIDE, 1.0, 1.0, 0.3)
    assert abs(proportional[-1] - (0.3 + 0.4) / 1.4) < 1e-6
    assert abs(settle(Gains(0.4, 0.1), WIDE, 1.0, 1.0, 0.3)[-1] - 1.0) < 1e-3


def test_it_does_not_wind_up_while_it_is_at_a_limit() -> None:
    limits, gains = Limits(-1.0, 1.0), Gains(0.0, 0.5)
    loop = Loop.at(0.0, 1)
    for _ in range(100):  # out of reach
        loop = step(loop, np.array([1.0]), np.array([1.0]), gains, limits)
    assert loop.strength[0] == 1.0
    assert loop.saturated[0]
    assert loop.integral[0] <= 1.0
    back = step(loop, np.array([-1.0]), np.array([-1.0]), gains, limits)
    assert back.strength[0] < 1.0, "the first error of the other sign moves it"


@given(st.lists(st.floats(-50, 50), min_size=1, max_size=40), st.floats(0.01, 1.0))
def test_range_and_rate_are_kept(errors: list[float], rate: float) -> None:
    limits, loop = Limits(-2.0, 1.5, rate), Loop.at(0.5, 1)
    for error in errors:
        new = step(loop, np.array([error]), np.array([error]), Gains(1.0, 0.3), limits)
        assert limits.low <= new.strength[0] <= limits.high
        assert abs(new.strength[0] - loop.strength[0]) <= rate + 1e-12
        loop = new


def test_the_start_is_bumpless_and_rows_stay_apart() -> None:
    loop = Loop.at(0.7, 3)
    still = step(loop, np.zeros(3), np.zeros(3), Gains(1.0, 0.5), WIDE)
    assert still.strength.tolist() == [0.7] * 3
    moved = step(
        loop, np.array([1.0, 0.0, 5.0]), np.array([1.0, 0.0, 5.0]), Gains(0.0, 0.5), WIDE, np.array([True, True, False])
    )
    assert moved.strength.tolist() == [1.2, 0.7, 0.7]
    assert loop.strength.tolist() == [0.7] * 3, "the state is not changed in place"


def test_simc_is_the_rule() -> None:
    assert Gains.simc(0.5, 4) == Gains(0.0, 1 / (0.5 * 8))
    assert Gains.simc(0.5, 2, lag=6, closed=4) == Gains(6 / (0.5 * 6), 6 / (0.5 * 6) / 6)
    assert Gains.simc(-0.5, 2).ki < 0


@pytest.mark.parametrize("slope", [0.0, math.nan, math.inf])
def test_a_slope_that_says_nothing_is_refused(slope: float) -> None:
    with pytest.raises(BadInput, match="slope must not be 0"):
        Gains.simc(slope, 1)


def test_gains_of_two_signs_and_empty_limits_are_refused() -> None:
    with pytest.raises(BadInput, match="of one sign"):
        Gains(1.0, -1.0)
    with pytest.raises(BadInput, match="low < high"):
        Limits(1.0, 1.0)
