"""The bound on harm: the finite-sample form, on constructed losses and by simulation; too few episodes are refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.control.harm import HarmLimit, cap_of, choose_cap, harmed


def table(success: list[float], errored: list[bool] | None = None, seeds: list[int] | None = None) -> pd.DataFrame:
    n = len(success)
    return pd.DataFrame({"seed": seeds or list(range(n)), "success": success, "errored": errored or [False] * n})


def test_harm_is_success_without_and_failure_with_steering_paired_by_seed() -> None:
    base = table([1, 1, 0, 0, 1])
    steered = table([1, 0, 0, 1, math.nan], [False, False, False, False, True])
    assert harmed(steered, base).tolist() == [0, 1, 0, 0, 1]
    assert harmed(steered.iloc[::-1], base).tolist() == [0, 1, 0, 0, 1]
    with pytest.raises(BadInput, match="same seeds"):
        harmed(table([1.0], seeds=[9]), base)


def test_the_cap_is_the_largest_whose_finite_sample_bound_holds() -> None:
    losses = np.zeros((99, 3))
    losses[:8, 1] = 1  # 0.99 * 8 / 99 + 0.01 = 0.09
    losses[:10, 2] = 1  # 0.11
    cap = choose_cap(losses, [0.5, 1.0, 1.5], 0.1)
    assert cap.value == 1.0
    np.testing.assert_allclose(cap.bound, [0.01, 0.09, 0.11])
    losses[:10] = 1
    assert choose_cap(losses, [0.5, 1.0, 1.5], 0.1).value is None


def test_losses_are_made_monotone_so_that_a_lucky_strong_cap_cannot_pass_over_a_harmful_weak_one() -> None:
    losses = np.zeros((99, 2))
    losses[:30, 0] = 1
    assert choose_cap(losses, [0.5, 1.0], 0.1).value is None


def test_too_few_episodes_are_refused_with_the_number_that_is_needed() -> None:
    with pytest.raises(BadInput, match="run at least 9"):
        choose_cap(np.zeros((8, 1)), [1.0], 0.1)
    assert choose_cap(np.zeros((9, 1)), [1.0], 0.1).value == 1.0


def test_the_expected_harm_of_further_episodes_stays_below_alpha() -> None:
    """200 held-out episodes after each of many calibrations: the mean harm is at most alpha + 2 standard errors, and the cap not idle."""
    caps, alpha, rng = np.linspace(0.1, 2.0, 20), 0.1, np.random.default_rng(0)
    harm, chosen = [], []

    def draw(n: int) -> np.ndarray:
        """An episode is harmed from a strength of its own on."""
        return (rng.lognormal(0.3, 0.6, n)[:, None] <= caps).astype(float)

    for _ in range(300):
        cap = choose_cap(draw(100), caps.tolist(), alpha)
        chosen.append(cap.value or 0.0)
        test = draw(200)
        harm.append(test[:, caps.tolist().index(cap.value)].mean() if cap.value else 0.0)
    error = np.std(harm) / math.sqrt(len(harm))
    assert np.mean(harm) <= alpha + 2 * error
    assert np.mean(harm) >= alpha / 3, "a cap that allows nothing would also be safe"
    assert np.mean(chosen) > 0.3


def test_it_runs_the_candidates_on_the_calibration_seeds() -> None:
    asked: list[tuple[float, list[int]]] = []

    def run(strength: float, seeds: object) -> pd.DataFrame:
        asked.append((strength, list(seeds)))  # type: ignore[call-overload]
        return table([1.0] * 20 if strength < 1 else [0.0] * 20)

    cap = cap_of(run, table([1.0] * 20), [0.5, 1.0], 0.1)
    assert cap.value == 0.5
    assert [strength for strength, _ in asked] == [0.5, 1.0]
    assert asked[0][1] == list(range(20))
    assert cap.describe()["n"] == 20


def test_a_limit_needs_a_measure_and_a_ramp() -> None:
    with pytest.raises(BadInput, match="ramp from 1"):
        HarmLimit("force", 3.0, 0)
