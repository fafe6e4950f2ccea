from __future__ import annotations

import math

import numpy as np
import pytest

from envs.bandits.families import (
    FAMILIES,
    Adversarial,
    Bernoulli,
    ContextualClusters,
    ContextualLinear,
    Drift,
    Gaussian,
    Switching,
    make_family,
)
from envs.errors import BadSetting


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_gaussian_rewards_have_the_mean_and_the_standard_deviation_that_was_asked_for() -> None:
    family = Gaussian(means=(95.0, 105.0), sd=10.0)
    rewards = family.tape(rng(), family.world(rng(), 20_000, 2).means)
    # 20 000 draws: the standard error of the mean is 0.07, that of the standard deviation 0.05.
    np.testing.assert_allclose(rewards.mean(axis=0), [95, 105], atol=0.4)
    np.testing.assert_allclose(rewards.std(axis=0), [10, 10], atol=0.3)
    assert abs(np.corrcoef(rewards.T)[0, 1]) < 0.04


def test_gaussian_means_are_uniform_in_their_range_and_constant_over_the_run() -> None:
    worlds = [Gaussian().world(rng(seed), 3, 5).means for seed in range(400)]
    assert all((world == world[0]).all() for world in worlds)
    first = np.array([world[0] for world in worlds])
    assert first.min() >= 35
    assert first.max() <= 65
    np.testing.assert_allclose([first.mean(), first.std()], [50, 30 / np.sqrt(12)], atol=0.8)


def test_clipping_to_two_digits_hardly_moves_the_means_of_the_small_model_setting() -> None:
    """E[max(10, X)] - 35 for X ~ N(35, 10^2) is 10 (phi(2.5) - 2.5 (1 - Phi(2.5))), the README's bound."""
    z = 2.5
    moved = 10 * (math.exp(-z * z / 2) / math.sqrt(2 * math.pi) - z * 0.5 * math.erfc(z / math.sqrt(2)))
    assert 0.01 < moved <= 0.0201


def test_fixed_means_keep_their_places_unless_permutation_is_asked_for() -> None:
    assert (Gaussian(means=(1.0, 2.0, 3.0)).world(rng(4), 1, 3).means == [1, 2, 3]).all()
    orders = {tuple(Gaussian(means=(1.0, 2.0, 3.0), permute=True).world(rng(s), 1, 3).means[0]) for s in range(60)}
    assert len(orders) == 6


def test_bernoulli_has_one_best_arm_at_any_place_and_only_rewards_of_0_and_1() -> None:
    family = Bernoulli(gap=0.2)
    places = set()
    for seed in range(60):
        means = family.world(rng(seed), 2, 5).means
        assert sorted(means[0].tolist()) == pytest.approx([0.4, 0.4, 0.4, 0.4, 0.6])
        places.add(int(means[0].argmax()))
    assert places == set(range(5))
    rewards = family.tape(rng(), np.tile([0.4, 0.6], (20_000, 1)))
    assert set(np.unique(rewards)) == {0.0, 1.0}
    np.testing.assert_allclose(rewards.mean(axis=0), [0.4, 0.6], atol=0.015)


def test_switching_means_are_constant_between_changes_and_all_new_after_one() -> None:
    means = Switching(change_every=4).world(rng(), 10, 3).means
    assert means.shape == (10, 3)
    changed = (means[1:] != means[:-1]).all(axis=1)
    same = (means[1:] == means[:-1]).all(axis=1)
    assert np.flatnonzero(changed).tolist() == [3, 7]
    assert (changed ^ same).all()


def test_the_adversary_turns_its_bait_into_the_worst_arm_and_the_worst_arm_into_the_best() -> None:
    means = Adversarial(mean_range=(0.0, 10.0), change_at=3).world(rng(1), 8, 4).means
    early, late = means[0], means[-1]
    assert (means[:3] == early).all()
    assert (means[3:] == late).all()
    assert early.argmax() == late.argmin()
    assert early.argmin() == late.argmax()
    assert sorted(early) == sorted(late) == [0, 5, 5, 10]


def test_drifting_means_stay_in_their_range_and_move_by_the_size_of_the_step() -> None:
    means = Drift(mean_range=(0.0, 30.0), drift_sd=2.0).world(rng(), 4000, 3).means
    assert means.min() >= 0
    assert means.max() <= 30
    steps = np.diff(means, axis=0)
    inner = (means[:-1] > 8) & (means[:-1] < 22)  # four steps away from a reflection
    np.testing.assert_allclose(steps[inner].std(), 2.0, atol=0.1)
    assert means.std() > 5  # it visits the whole range: a uniform law has 30 / sqrt(12) = 8.7


def test_linear_means_are_linear_in_the_context() -> None:
    world = ContextualLinear(mean_range=(0.0, 20.0), n_features=3).world(rng(), 50, 4)
    assert world.contexts is not None
    assert world.contexts.shape == (51, 3)
    np.testing.assert_allclose(np.linalg.norm(world.contexts, axis=1), 1)
    theta, residual, *_ = np.linalg.lstsq(world.contexts[:50], world.means - 10, rcond=None)
    np.testing.assert_allclose(residual, 0, atol=1e-20)
    np.testing.assert_allclose(np.linalg.norm(theta, axis=0), 10)
    assert world.means.min() >= 0
    assert world.means.max() <= 20


def test_contexts_are_told_in_equally_many_characters() -> None:
    linear, clusters = ContextualLinear(n_features=2), ContextualClusters(n_clusters=3)
    assert linear.describe_context(np.array([0.5, -0.25])) == "+0.50 -0.25"
    assert clusters.describe_context(np.array([0.0, 0.0, 1.0])) == "group C"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_names_its_source_and_draws_finite_means(name: str) -> None:
    family = make_family(name, {})
    assert "arXiv" in (type(family).__doc__ or "") or "Comput." in (type(family).__doc__ or "")
    world = family.world(rng(), 30, 4)
    assert world.means.shape == (30, 4)
    assert np.isfinite(family.tape(rng(), world.means)).all()
    assert (family.context_size > 0) == (world.contexts is not None)


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("gaussian", {"means": (1.0,)}, "two or more"),
        ("gaussian", {"means": (1.0, np.nan)}, "finite"),
        ("gaussian", {"mean_range": (5.0, 1.0)}, "low <= high"),
        ("gaussian", {"mean_range": 5.0}, "low <= high"),
        ("gaussian", {"sd": -1.0}, "sd must be"),
        ("bernoulli", {"gap": 1.5}, r"\[0, 1\]"),
        ("switching", {"change_every": 0}, "at least 1"),
        ("adversarial", {"change_at": 1.5}, "integer"),
        ("drift", {"drift_sd": np.inf}, "finite"),
        ("contextual-linear", {"n_features": 0}, "at least 1"),
        ("contextual-clusters", {"n_clusters": 1}, "at least 2"),
        ("contextual-clusters", {"n_clusters": 27}, "at most 26"),
        ("drift", {"drift": 1.0}, "did you mean 'drift_sd'"),
    ],
)
def test_bad_settings_of_a_family_are_refused(name: str, settings: dict, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        make_family(name, settings)
