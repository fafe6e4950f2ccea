"""Parts at the noise: constants, best of N, learned noise policies as parts and as files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from noise_parts import TwoWays, success, world

import policies
from bench.two_goals import GOALS, TwoGoals
from policies.errors import BadArtifact, BadInput, MissingEntrance, NonFinite, WrongModel
from steer_agents import artifacts
from steer_agents.loop import rollout
from steer_agents.noise.baselines import DirectActions, ResidualActions, golden_ticket
from steer_agents.noise.check import RandomNoise, check_maps
from steer_agents.noise.maps import Dct, Full, Repeat
from steer_agents.noise.noise_policy import ActorSizes, NoiseActor, NoisePolicy
from steer_agents.noise.parts import BestOfN, ConstantNoise, repeated
from steer_agents.noise.states import Flattened
from steer_agents.steerer import Steerer, steer

OBSERVATION = {
    "state": np.random.default_rng(0).normal(size=(2, 2)).astype(np.float32),
    "cue": np.ones((2, 1), np.float32),
}


def plan(policy: Any) -> torch.Tensor:
    policy.reset([7, 8])
    return policy._plan(OBSERVATION)


def noise_policy(seed: int = 0, n_noise: int = 4, **options: Any) -> NoisePolicy:
    torch.manual_seed(seed)
    actor = NoiseActor(ActorSizes(3, n_noise, (16,))).eval()
    return NoisePolicy(actor, Dct(2), 1.5, Flattened.of(TwoGoals().observation_space), **options)


def test_constant_noise_is_what_the_sampler_starts_from() -> None:
    policy = TwoWays()
    w = np.array([0.5, -1.0], np.float32)
    with steer(policy, ConstantNoise(w, Repeat())):
        expected = policy.sample(OBSERVATION, torch.from_numpy(w).expand(2, 4, 2))
        assert torch.equal(plan(policy), expected)
    with steer(policy, ConstantNoise()):
        assert torch.equal(plan(policy), policy.sample(OBSERVATION, torch.zeros(2, 4, 2)))


def test_the_right_constant_wins_and_the_wrong_one_loses() -> None:
    policy = TwoWays()
    assert success(policy, ConstantNoise([1.0, 0.0], Repeat())) == 1.0
    assert success(policy, ConstantNoise([-1.0, 0.0], Repeat())) == 0.0
    assert 0.1 < success(policy, None) < 0.9


def test_the_golden_ticket_is_the_best_of_those_tried() -> None:
    policy = TwoWays()
    ticket = golden_ticket(policy, Repeat(), lambda part: success(policy, part, episodes=5), n=6, bound=1.5)
    assert ticket.scores.max() == 1.0 > ticket.scores.min()
    assert success(policy, ticket.part) == 1.0


def test_best_of_n_takes_the_highest_score_and_one_candidate_changes_nothing() -> None:
    policy = TwoWays()
    stock = plan(policy)
    with steer(policy, BestOfN(lambda observation, noise, chunks: chunks[:, 0, 0], n=1)):
        assert torch.equal(plan(policy), stock)
    part = BestOfN(lambda observation, noise, chunks: chunks[:, :, 0].sum(1), n=16)
    policy.calls = 0
    with steer(policy, part):
        best = plan(policy)
    assert policy.calls == 1  # all candidates of all rows in one call, observations not copied
    assert (best[:, :, 0].sum(1) >= stock[:, :, 0].sum(1)).all()
    assert part.chosen[0].shape == (2,)
    assert (
        success(
            policy,
            BestOfN(
                lambda o, w, chunks: (
                    -(torch.from_numpy(o["state"]) + chunks.sum(1) / 10 - torch.from_numpy(GOALS[1])).norm(dim=1)
                ),
                n=8,
            ),
        )
        > 0.9
    )


def test_scores_that_do_not_fit_are_refused() -> None:
    policy = TwoWays()
    with (
        steer(policy, BestOfN(lambda o, w, c: torch.zeros(3), n=4)),
        pytest.raises(BadInput, match="expected 8 scores, one per candidate"),
    ):
        plan(policy)
    with (
        steer(policy, BestOfN(lambda o, w, c: torch.full((8,), torch.nan), n=4, name="q")),
        pytest.raises(NonFinite, match="q gave NaN"),
    ):
        plan(policy)
    with pytest.raises(BadInput, match="n must be an integer from 1"):
        BestOfN(lambda o, w, c: c, n=0)


def test_rows_repeat_side_by_side() -> None:
    made = repeated({"a": np.array([1, 2]), "b": {"c": np.array([[3], [4]])}, "task": ("x", "y")}, 2)
    assert made["a"].tolist() == [1, 1, 2, 2]
    assert made["b"]["c"].tolist() == [[3], [3], [4], [4]]
    assert made["task"] == ("x", "x", "y", "y")


def test_several_samples_per_row_equal_one_by_one() -> None:
    policy = policies.load("flow-medium")
    observation = {
        "agent_pos": np.zeros((2, 8), np.float32),
        "environment_state": np.random.default_rng(0).normal(size=(2, 45)).astype(np.float32),
    }
    noise = torch.randn(6, 8, 7, generator=torch.Generator().manual_seed(0))
    together = policy.sample(observation, noise)  # type: ignore[attr-defined]
    apart = policy.sample(repeated(observation, 3), noise)  # type: ignore[attr-defined]
    torch.testing.assert_close(together, apart)
    with pytest.raises(BadInput, match=r"expected noise of shape \(2, 8, 7\)"):
        policy.sample(observation, noise[:3])  # type: ignore[attr-defined]


@pytest.mark.parametrize("deterministic", [True, False])
def test_a_saved_noise_policy_gives_identical_actions(tmp_path: Path, deterministic: bool) -> None:
    part = noise_policy(deterministic=deterministic, info={"recipe": "test", "scores": [0.5]})
    again = NoisePolicy.load(part.save(tmp_path / "a.safetensors"))
    assert (again.bound, again.noise_map, again.reader, again.info) == (
        part.bound,
        part.noise_map,
        part.reader,
        part.info,
    )
    assert again.describe() == part.describe()
    actions = []
    for one in (part, again):
        run = rollout(TwoGoals, TwoWays(), Steerer(one), episodes=4, seed=1, num_envs=4, progress=False)
        actions.append(np.stack(run.steps["action"].to_numpy()))
    assert np.array_equal(*actions)


def test_sampling_follows_the_seeds_and_differs_from_the_mean() -> None:
    policy, part = TwoWays(), noise_policy().sampled()
    with steer(policy, part):
        first, second = plan(policy), plan(policy)
        policy.reset([7, 9])
        third = policy._plan(OBSERVATION)
    assert torch.equal(first, second)
    assert torch.equal(first[0], third[0])
    assert not torch.equal(first[1], third[1])
    with steer(policy, noise_policy()):
        assert not torch.equal(plan(policy), first)


def test_files_that_are_no_noise_policy_are_refused(tmp_path: Path) -> None:
    path = noise_policy().save(tmp_path / "a.safetensors")
    with pytest.raises(BadInput, match=r"written to a \.safetensors file"):
        noise_policy().save(tmp_path / "a.pkl")
    with pytest.raises(BadArtifact, match="does not describe a direction"):
        artifacts.load(path)
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    (tmp_path / "b.safetensors").write_bytes(data)
    with pytest.raises(BadArtifact, match="does not match its checksum"):
        NoisePolicy.load(tmp_path / "b.safetensors")


def test_a_noise_policy_of_another_policy_or_width_is_refused() -> None:
    policy = policies.load("flow-medium")
    policy.reset([1])
    with (
        pytest.raises(WrongModel, match="learned on another policy"),
        steer(policy, noise_policy(model={"class": "Other"})),
    ):
        pass
    with pytest.raises(BadInput, match=r"takes 14 numbers; the actor gives 4"), steer(policy, noise_policy()):
        pass
    with (
        pytest.raises(BadInput, match=r"takes 56 numbers; got 3"),
        steer(policy, ConstantNoise([0.0, 1.0, 2.0], Full())),
    ):
        pass
    with pytest.raises(NonFinite):
        ConstantNoise([float("nan")])


class Stochastic(TwoWays):
    name = "ddpm"
    stochastic = "pass noise_scheduler_type='DDIM'."


@pytest.mark.parametrize("part", [ConstantNoise(), BestOfN(lambda o, w, c: c), noise_policy(), RandomNoise(Full())])
def test_stochastic_samplers_are_refused_with_the_way_to_change_them(part: Any) -> None:
    policy = Stochastic()
    policy.reset([1])
    with pytest.raises(MissingEntrance, match="pass noise_scheduler_type='DDIM'"), steer(policy, part):
        pass


def test_noise_maps_are_checked_on_the_base() -> None:
    policy = TwoWays()
    found = check_maps({"full": Full(), "repeat": Repeat()}, lambda part: success(policy, part, episodes=20))
    assert set(found) == {"base", "full", "repeat"}
    assert all(0 <= value <= 1 for value in found.values())


def test_baseline_policies_act_on_their_noise() -> None:
    base = TwoWays()
    noise = torch.full((2, 4, 2), 0.5)
    assert torch.equal(DirectActions(base).sample(OBSERVATION, noise), noise)
    expected = base.sample(OBSERVATION, None, generator=torch.Generator().manual_seed(0))
    residual = ResidualActions(base, 0.2).sample(OBSERVATION, noise)
    torch.testing.assert_close(residual, (expected + 0.1).clamp(-1, 1))
    env = world(DirectActions(base), n=2, bound=1.0)
    env.reset(seed=0)
    assert env.step(np.ones((2, 8), np.float32))[4]["actions"].min() == 1.0
    with pytest.raises(BadInput, match="scale must be positive"):
        ResidualActions(base, 0.0)
    assert replace(noise_policy(), deterministic=False).describe()["deterministic"] is False
