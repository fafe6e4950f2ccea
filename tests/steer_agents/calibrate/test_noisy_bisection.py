"""Noisy bisection recovers a planted root; two-sided validation accepts what turns round with its sign, and only that."""

from __future__ import annotations

import math

import numpy as np
import pytest

from policies.errors import BadInput, NonFinite
from steer_agents.calibrate.noisy_bisection import Bisection, noisy_bisection
from steer_agents.calibrate.two_sided import two_sided


def planted(seed: int, rising: bool, trials: int = 20) -> tuple[float, Bisection]:
    """A logistic score with slope 6 and noise 0.1 around a root where its mean is 0.3."""
    rng = np.random.default_rng(seed)
    root = rng.uniform(0.5, 1.5)
    sign = 1 if rising else -1
    shift = math.log(0.3 / 0.7)

    def measure(x: float) -> float:
        mean = 1 / (1 + math.exp(-(sign * 6 * (x - root) + shift)))
        return float(np.clip(mean + rng.normal(0, 0.1), 0, 1))

    found = noisy_bisection(measure, 0.3, 0.0, 5.0, rising=rising, trials=trials, prior=(1.0, 0.34))
    return root, found


@pytest.mark.parametrize("rising", [False, True])
def test_a_planted_root_is_found_in_20_trials(rising: bool) -> None:
    errors = []
    for seed in range(100):
        root, found = planted(seed, rising)
        errors.append(abs(float(found.strength.value) - root))
        assert len(found.trials) == 20
        assert (np.diff(np.cumsum(found.posterior)) >= 0).all()
        assert found.low <= float(found.strength.value) <= found.high
        assert found.posterior.sum() == pytest.approx(1.0)
    assert np.median(errors) <= 0.03, (np.median(errors), np.quantile(errors, 0.9))


def test_the_wrong_slope_is_not_found() -> None:
    root, _ = planted(3, rising=True)
    rng = np.random.default_rng(0)
    wrong = noisy_bisection(
        lambda x: float(x > root) * 0.8 + rng.uniform(0, 0.1), 0.3, 0.0, 5.0, rising=False, prior=(1.0, 0.34)
    )
    assert abs(float(wrong.strength.value) - root) > 0.3


def test_scores_have_any_range_and_bad_ones_are_refused() -> None:
    found = noisy_bisection(lambda x: 100 - 20 * x, 30, 0, 5, scores=(0, 100), trials=30, unit="sd")
    assert found.strength.value == pytest.approx(3.5, abs=0.1)
    assert found.strength.unit == "sd"
    with pytest.raises(NonFinite, match=r"outside of \(0.0, 1.0\); set scores"):
        noisy_bisection(lambda x: 30.0, 0.3, 0, 5)
    with pytest.raises(NonFinite):
        noisy_bisection(lambda x: math.nan, 0.3, 0, 5)
    for wrong in ({"goal": 1.0}, {"low": 5.0}, {"trials": 0}):
        with pytest.raises(BadInput, match="need low < high"):
            noisy_bisection(lambda x: 0.5, **{"goal": 0.3, "low": 0.0, "high": 5.0, **wrong})  # type: ignore[arg-type]


# ---- two-sided


def runs(effect: object, seed: int = 0, n: int = 40) -> object:
    """Strength -> n values whose mean moves by effect(strength)."""
    base = np.random.default_rng(seed).normal(size=n)
    spread = np.random.default_rng(seed + 1).normal(scale=0.3, size=n)
    return lambda s: base + effect(s) * (1 + spread)  # type: ignore[operator]


def test_a_true_direction_passes_and_the_largest_two_sided_effect_is_chosen() -> None:
    # beyond 2 the policy breaks down: both signs lower the measure
    found = two_sided(runs(lambda s: 0.5 * s if abs(s) <= 2 else -3.0), [4.0, 1.0, 2.0], unit="alpha")  # type: ignore[arg-type]
    assert found.strength is not None
    assert (found.strength.value, found.strength.unit) == (2.0, "alpha")
    assert [side.passed for side in found.sides] == [True, True, False]
    assert found.sides[1].effect == pytest.approx(1.0, abs=0.2)


def test_what_only_disturbs_does_not_pass() -> None:
    assert two_sided(runs(lambda s: -abs(s)), [0.5, 1.0, 2.0]).strength is None  # type: ignore[arg-type]


def test_noise_alone_passes_rarely_whatever_the_number_of_candidates() -> None:
    passed = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        noise = {s: rng.normal(size=20) for s in np.r_[0.0, np.arange(1, 5), -np.arange(1, 5)]}
        passed += two_sided(lambda s, noise=noise: noise[s], [1.0, 2.0, 3.0, 4.0]).strength is not None  # type: ignore[misc]
    assert passed <= 3


def test_candidates_are_positive_and_seeds_the_same() -> None:
    with pytest.raises(BadInput, match="positive strengths"):
        two_sided(lambda s: [0.0], [0.0, 1.0])
    with pytest.raises(BadInput, match="use the same seeds"):
        two_sided(lambda s: [0.0] * (3 if s else 4), [1.0])
