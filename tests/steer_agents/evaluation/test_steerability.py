"""Steerability: identities on random triples, planted faults measured as planted, requests, scales, scores and coverage."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.coverage import coverage, drawn
from steer_agents.evaluation.scores import harmonic, harmonic_intervals, stability
from steer_agents.evaluation.steerability import Scale, coarse, planted, requests, steering


@pytest.mark.parametrize("d", [2, 4, 7])
def test_the_identities_hold_on_ten_thousand_triples(d: int) -> None:
    z0, wanted, z = np.random.default_rng(d).random((3, 10_000, d))
    found = steering(z0, wanted, z)
    r, m = wanted - z0, z - z0
    cosine = (r * m).sum(axis=1) / (found.request * found.movement)
    sine = np.linalg.norm(m / found.movement[:, None] - cosine[:, None] * r / found.request[:, None], axis=1)
    assert np.abs(found.orthogonality - sine).max() < 1e-9
    assert np.abs(found.miscalibration - np.abs(1 - found.movement * cosine / found.request)).max() < 1e-9
    whole = (found.miscalibration * found.request) ** 2 + (found.orthogonality * found.movement) ** 2
    assert np.abs(found.error**2 - whole).max() < 1e-9
    assert (np.sign(found.undershoot) == np.sign(found.request - found.movement * cosine)).all()


def test_the_official_constants_change_next_to_nothing() -> None:
    z0, wanted, z = np.random.default_rng(0).random((3, 500, 3))
    exact, official = steering(z0, wanted, z), steering(z0, wanted, z, exact=False)
    assert 0 < np.abs(exact.orthogonality - official.orthogonality).max() < 0.02
    assert (exact.miscalibration == official.miscalibration).all()


def test_by_hand() -> None:
    z0 = np.zeros((4, 2))
    wanted = np.array([[0.4, 0.0], [0.4, 0.0], [0.4, 0.0], [0.0, 0.0]])
    z = np.array([[0.2, 0.0], [0.6, 0.3], [0.0, 0.0], [0.1, 0.0]])
    found = steering(z0, wanted, z)
    assert found.miscalibration[:3] == pytest.approx([0.5, 0.5, 1.0])
    assert found.undershoot[:3] == pytest.approx([0.5, -0.5, 1.0])
    assert found.orthogonality[:3] == pytest.approx([0.0, 0.3 / math.hypot(0.6, 0.3), 0.0])
    assert math.isnan(found.miscalibration[3])
    assert math.isnan(found.orthogonality[3])
    assert found.movement[3] == pytest.approx(0.1)
    assert found.table()["error"].tolist() == found.error.tolist()


def test_planted_gain_and_leakage_are_measured_as_planted() -> None:
    rng = np.random.default_rng(1)
    z0 = rng.uniform(0.3, 0.7, size=(2000, 4))
    wanted = requests(z0, range(4), rng)
    found = steering(z0, wanted, planted(z0, wanted, 0.5, math.radians(30), rng))
    assert np.median(found.miscalibration) == pytest.approx(0.567, abs=0.02)
    assert np.median(found.orthogonality) == pytest.approx(0.500, abs=0.02)
    perfect = steering(z0, wanted, planted(z0, wanted, 1.0, 0.0, rng))
    assert perfect.error.max() < 1e-12


def test_requests_keep_to_their_goals_and_their_size() -> None:
    rng = np.random.default_rng(2)
    z0 = rng.random((500, 5))
    change = requests(z0, [0, 2, 3], rng, most=2) - z0
    assert (change[:, [1, 4]] == 0).all()
    asked = np.abs(change[change != 0])
    assert asked.min() >= 0.1 - 1e-12
    assert asked.max() <= 0.7 + 1e-12
    assert set((change != 0).sum(axis=1)) <= {1, 2}
    assert (z0 + change >= 0).all()
    assert (z0 + change <= 1).all()
    with pytest.raises(BadInput, match="active"):
        requests(z0, [], rng)


def test_coarse_requests_forgive_within_a_bin() -> None:
    z0 = np.full((3, 1), 0.3)
    found = coarse(z0, z0 + np.array([[0.15], [0.15], [0.0]]), z0 + np.array([[0.12], [0.4], [0.05]]))
    assert found.error == pytest.approx([0.0, 0.2, 0.0])
    assert math.isnan(found.miscalibration[2])


def test_scales_are_fixed_quantiles() -> None:
    table = pd.DataFrame({"speed": np.linspace(0, 1, 101), "height": np.linspace(5, 6, 101), "same": 1.0})
    scale = Scale.fit(table, ["speed", "height"], (0.1, 0.9))
    assert scale(table)[[0, 50, 100]] == pytest.approx(np.array([[0, 0], [0.5, 0.5], [1, 1]]))
    assert np.isnan(scale(pd.DataFrame({"speed": [np.nan], "height": [5.5]}))[0, 0])
    with pytest.raises(BadInput, match="does not vary"):
        Scale.fit(table, ["same"])
    with pytest.raises(BadInput, match="no measure"):
        Scale.fit(table, ["jerk"])


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(BadInput, match="three arrays"):
        steering(np.zeros((2, 2)), np.zeros((2, 2)), np.zeros((2, 3)))
    with pytest.raises(BadInput, match="finite"):
        steering(np.zeros((1, 2)), np.ones((1, 2)), np.full((1, 2), np.nan))


def test_both_harmonic_means_tell_halves_apart() -> None:
    halves = harmonic([1.0, 0.0], [0.0, 1.0])
    assert (halves.aggregated, halves.per_item) == (0.5, 0.0)
    even = harmonic([0.5, 0.5], [1.0, 1.0])
    assert even.aggregated == even.per_item == pytest.approx(2 / 3)
    assert harmonic([0.0], [0.0]).aggregated == 0.0
    with pytest.raises(BadInput, match=r"\[0, 1\]"):
        harmonic([2.0], [0.5])


def test_intervals_of_the_harmonic_score_keep_an_items_two_numbers_together() -> None:
    half = np.r_[np.ones(50), np.zeros(50)]
    whole, each = harmonic_intervals(half, half)
    assert (whole.value, each.value) == (0.5, 0.5)
    sd = 0.5 / np.sqrt(100)  # both means are one and the same binomial
    assert whole.high - whole.low == pytest.approx(2 * 1.96 * sd, rel=0.1)
    against, apart = harmonic_intervals(half, 1 - half)
    assert (against.value, apart.value) == (0.5, 0.0)
    assert against.high <= 0.5  # c + q = 1 in every sample, so that 2 c q never exceeds a half
    assert harmonic_intervals(half, half) == (whole, each)
    assert np.isnan(harmonic_intervals([1.0], [1.0])[0].low)


def test_within_run_differences_cancel_what_seeds_share() -> None:
    rng = np.random.default_rng(0)
    base = rng.normal(size=200)
    found = stability(base + 0.3 + 0.1 * rng.normal(size=200), base)
    assert found.delta == pytest.approx(0.3, abs=0.03)
    assert found.stab == pytest.approx(3.0, abs=0.5)
    assert found.consistent > 0.97
    assert stability(rng.normal(size=200), base).consistent < 0.65
    with pytest.raises(BadInput, match="from 2"):
        stability([1.0], [0.0])


def test_drawing_by_density_ratio_covers_the_goal_space() -> None:
    after = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        points = rng.beta(1.0, 2.6, size=(4000, 2))
        before = coverage(points, seed)
        assert before.auc >= 0.8
        assert before.weights.mean() == pytest.approx(1.0)
        assert 1 < before.effective < 4000
        chosen = drawn(before.weights, 128, rng)
        assert len(set(chosen)) == 128
        after.append(coverage(points[chosen], seed).auc)
    assert np.mean(after) <= 0.6  # one draw of 128 points knows its AUC to about .035
    assert coverage(np.random.default_rng(5).random((2000, 2))).auc == pytest.approx(0.5, abs=0.04)
    with pytest.raises(BadInput, match="at least 20"):
        coverage(np.zeros((3, 2)))
    with pytest.raises(BadInput, match="cannot draw"):
        drawn(np.array([1.0, 0.0]), 2, np.random.default_rng(0))
