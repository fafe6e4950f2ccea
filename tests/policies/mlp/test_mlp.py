"""MLP policies: the heads against closed forms, settings, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import policies
from policies.errors import BadArtifact, BadInput, UnknownName
from policies.mlp import MLP, MLPConfig, MLPPolicy, load, save

ROWS = 4000


def policy(**changes: object) -> MLPPolicy:
    config = MLPConfig(**{"n_inputs": 3, "n_outputs": 2, "hidden": (16,), **changes})
    return MLPPolicy(MLP(config), config)


def decide(one: MLPPolicy, seed: int = 0, rows: int = ROWS):
    one.reset(list(range(seed, seed + rows)))
    return one.act(np.tile(np.array([0.3, -1.0, 0.5], np.float32), (rows, 1)))


def outputs(one: MLPPolicy) -> np.ndarray:
    with torch.no_grad():
        return one.module(torch.tensor([[0.3, -1.0, 0.5]])).numpy()[0]


def test_the_deterministic_head_gives_tanh_of_the_outputs() -> None:
    one = policy(head="deterministic")
    np.testing.assert_allclose(decide(one, rows=2).action, np.tanh(np.tile(outputs(one), (2, 1))), rtol=1e-5)


def test_gaussian_actions_have_the_stated_mean_and_deviation_and_are_clipped() -> None:
    one = policy(head="gaussian", log_std=(-2.0, -1.0))
    decision = decide(one)
    error = np.abs(decision.action.mean(0) - outputs(one))
    assert (error < 4 * np.exp([-2.0, -1.0]) / np.sqrt(ROWS)).all()
    np.testing.assert_allclose(decision.action.std(0), np.exp([-2.0, -1.0]), rtol=0.06)
    expected = (np.array([-2.0, -1.0]) + 0.5 * np.log(2 * np.pi * np.e)).sum() / np.log(2)
    np.testing.assert_allclose(decision.measures["entropy_bits"], expected)
    one.set_decision(std_scale=100)
    assert np.abs(decide(one).action).max() == 1.0


def test_squashed_gaussian_actions_are_tanh_of_a_gaussian() -> None:
    one = policy(head="squashed-gaussian", n_outputs=4)
    mean, log_std = np.split(outputs(one), 2)
    x = np.arctanh(decide(one).action.astype(np.float64))
    np.testing.assert_allclose(x.mean(0), mean, atol=0.1)
    np.testing.assert_allclose(x.std(0), np.exp(log_std), rtol=0.06)
    assert one.set_decision(std_scale=0) == {"std_scale": 1.0}
    still = decide(one)
    np.testing.assert_allclose(still.action, np.tanh(np.tile(mean, (ROWS, 1))), rtol=1e-5)
    assert "entropy_bits" not in still.measures


def test_a_higher_std_scale_raises_the_entropy_by_its_logarithm() -> None:
    one = policy(head="gaussian", log_std=(-2.0, -1.0))
    before = decide(one, rows=1).measures["entropy_bits"][0]
    one.set_decision(std_scale=4)
    assert decide(one, rows=1).measures["entropy_bits"][0] == pytest.approx(before + 2 * 2)


def test_equal_seeds_share_their_random_numbers_over_settings() -> None:
    one = policy(head="gaussian", log_std=(-3.0, -3.0))
    first = decide(one, rows=5).action - outputs(one)
    one.set_decision(std_scale=2)
    np.testing.assert_allclose(decide(one, rows=5).action - outputs(one), 2 * first, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("head", ["categorical", "gaussian"])
def test_settings_of_another_head_or_of_no_sense_are_refused_and_nothing_changes(head: str) -> None:
    one = policy(head=head, log_std=(0.0, 0.0))
    mine, other = ("temperature", "std_scale") if head == "categorical" else ("std_scale", "temperature")
    before = one.describe()
    for settings in ({other: 1.0}, {mine: 1.0, other: 1.0}, {mine: -1.0}, {mine: float("nan")}, {}):
        with pytest.raises(BadInput, match=mine):
            one.set_decision(**settings)
    assert one.describe() == before


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(BadInput, match="needs 2 values of log_std, got 1"):
        policy(head="gaussian", log_std=(0.0,))
    with pytest.raises(BadInput, match="even, got 3"):
        policy(head="squashed-gaussian", n_outputs=3)
    with pytest.raises(BadInput, match="did you mean 'gaussian'"):
        policy(head="gausian")


def test_files_round_trip_and_damage_is_told(tmp_path: Path) -> None:
    one, path = policy(head="gaussian", log_std=(-1.0, -2.0), hidden=(8, 8)), tmp_path / "mine.safetensors"
    save(one, path)
    again = policies.load(f"mlp:{path}")
    assert again.config == one.config
    np.testing.assert_array_equal(decide(again, rows=3).action, decide(one, rows=3).action)
    for _ in range(8):
        save(one, tmp_path / "again.safetensors")
        assert (tmp_path / "again.safetensors").read_bytes() == path.read_bytes()
    path.write_bytes(b"damage")
    with pytest.raises(BadArtifact, match=r"mine\.safetensors"):
        load(str(path))
    with pytest.raises(UnknownName, match="neither embedded nor a file"):
        load("nothing-of-this-name")
