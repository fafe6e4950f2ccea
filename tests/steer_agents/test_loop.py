"""Rollouts: what is recorded, what a crash costs, and that a killed run resumes to the very same tables."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
from gymnasium.vector import AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit, TransformReward
from pandas.testing import assert_frame_equal

from policies.base import Decision, Observation, Policy
from policies.errors import BadArtifact, BadInput, NonFinite, RunMismatch, SiteNeverFired
from steer_agents.env_batch import unbatch_info
from steer_agents.evaluation.compare import compare
from steer_agents.loop import Moment, Rollout, concatenate_tables, episode_seeds, make_table, rollout

# ------------------------------------------------------------------------------------------------------------ a world


class Count(gym.Env):
    """Counts steps up to a length drawn from the seed; succeeds if the last action was 1.

    `faults` maps a (seed, env_step) to an exception, env_step -1 meaning the reset.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, faults: Mapping[Any, Exception] | None = None) -> None:
        self.observation_space = gym.spaces.Dict(
            {"count": gym.spaces.Box(0, 99, (1,), np.float32), "prompt": gym.spaces.Text(99)}
        )
        self.action_space = gym.spaces.Discrete(2)
        self.faults = faults or {}
        self.ended = True
        self.closed = False

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.seed = seed
        self._fail(-1)
        self.length, self.time, self.ended = int(self.np_random.integers(2, 9)), 0, False
        return self._observe(), {"length": self.length, "labels": ("no", "yes"), "options": options}

    def step(self, action: int) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert not self.ended, "stepped after its end"
        self._fail(self.time)
        self.time += 1
        self.ended = self.time == self.length
        reward = float(self.np_random.normal()) + int(action)
        info = {"is_success": bool(action), "time": np.int32(self.time), "list": [1, 2], "reward": 5.0}
        if self.time > 1:
            info["late"] = np.float64(self.time / 2)
        return self._observe(), reward, self.ended, False, info

    def _fail(self, when: int) -> None:
        if (self.seed, when) in self.faults:
            self.ended = True
            raise self.faults[self.seed, when]

    def _observe(self) -> dict[str, Any]:
        return {"count": np.array([self.time], dtype=np.float32), "prompt": f"step {self.time} of {self.length}"}

    def close(self) -> None:
        self.closed = True


class Coin(Policy):
    """Draws action 1 with probability `p`, one uniform per row and step; remembers what it was shown."""

    name = "coin"

    def __init__(self, p: float = 0.5, before: Callable[[Coin], None] | None = None) -> None:
        super().__init__()
        self.p, self.before = p, before
        self.calls = 0
        self.seen: list[tuple[Mapping[str, Any], np.ndarray]] = []
        self.infos: list[Mapping[str, Any]] = []

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "p": self.p}

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self.rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
        self.infos += infos

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        self.calls += 1
        if self.before is not None:
            self.before(self)
        self.seen.append((observation, active.copy()))
        uniform = np.array([rng.random() for rng in self.rngs])
        return Decision(
            (uniform < self.p).astype(np.int64), {"uniform": uniform, "both": np.stack([uniform, 1 - uniform], axis=1)}
        )


class Bias:
    """A steerer of `Coin`: changes p, and keeps count of how often it was entered and left."""

    def __init__(self, p: float, on_leaving: Exception | None = None) -> None:
        self.p, self.on_leaving = p, on_leaving
        self.entered = self.left = 0

    def describe(self) -> dict[str, Any]:
        return {"p": self.p}

    @contextmanager
    def attach(self, policy: Policy) -> Iterator[None]:
        assert isinstance(policy, Coin)
        before, policy.p = policy.p, self.p
        self.entered += 1
        try:
            yield
        finally:
            policy.p = before
            self.left += 1
        if self.on_leaving is not None:
            raise self.on_leaving


def same(a: Rollout, b: Rollout) -> None:
    assert_frame_equal(a.episodes, b.episodes, check_exact=True)
    assert_frame_equal(a.steps, b.steps, check_exact=True)


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


SEEDS = episode_seeds(3, 10)

# ---------------------------------------------------------------------------------------------------- what is recorded


def test_the_same_seed_gives_the_same_tables_and_another_seed_gives_others() -> None:
    first, again, other = (rollout(Count, Coin(), episodes=7, seed=seed, num_envs=3) for seed in (3, 3, 4))
    same(first, again)
    assert not first.steps["uniform"].equals(other.steps["uniform"])


def test_episodes_are_the_sums_and_lengths_of_their_steps() -> None:
    run = rollout(Count, Coin(), episodes=7, seed=3, num_envs=3, condition="base")
    assert list(run.episodes["episode"]) == list(range(7))
    assert list(run.episodes["seed"]) == SEEDS[:7]
    assert set(run.episodes["condition"]) == {"base"}
    for row in run.episodes.to_dict("records"):
        steps = run.steps[run.steps["episode"] == row["episode"]]
        expected_length = int(gym.utils.seeding.np_random(row["seed"])[0].integers(2, 9))
        assert row["length"] == len(steps) == expected_length
        assert list(steps["env_step"]) == list(range(len(steps)))
        assert row["return"] == pytest.approx(steps["reward"].sum())
        assert row["terminated"]
        assert not row["truncated"]
        assert list(steps["terminated"]) == [False] * (len(steps) - 1) + [True]
        assert row["success"] == float(steps["action"].iloc[-1])
        assert not row["errored"]
        assert row["error"] is None


def test_steps_hold_scalar_infos_and_the_measures_of_the_decision() -> None:
    run = rollout(Count, Coin(), episodes=2, seed=3, num_envs=2)
    assert "list" not in run.steps
    assert set(run.steps["info_reward"]) == {5.0}  # an info called like a column of ours does not overwrite it
    assert list(run.steps["time"]) == list(run.steps["env_step"] + 1)
    assert run.steps["late"].isna().equals(run.steps["env_step"] == 0)
    assert np.allclose(np.stack(run.steps["both"])[:, 0], run.steps["uniform"])
    assert list(run.steps["action"]) == [int(value < 0.5) for value in run.steps["uniform"]]


def test_a_measure_called_like_an_info_is_refused() -> None:
    class Clash(Coin):
        def _act(self, observation: Observation, active: np.ndarray) -> Decision:
            return Decision(np.zeros(len(active), int), {"time": np.zeros(len(active))})

    with pytest.raises(BadInput, match="'time'"):
        rollout(Count, Clash(), episodes=1, seed=0, num_envs=1)


def test_measures_see_the_steps_of_one_episode_and_its_reset_info() -> None:
    def measures(steps: pd.DataFrame, info: Mapping[str, Any]) -> dict[str, float]:
        assert steps["episode"].nunique() == 1
        assert list(steps.index) == list(range(len(steps)))
        return {"share": steps["action"].mean(), "told_length": info["length"]}

    run = rollout(Count, Coin(), episodes=5, seed=3, num_envs=2, measures=measures)
    assert list(run.episodes["told_length"]) == list(run.episodes["length"])
    assert np.allclose(run.episodes["share"], run.steps.groupby("episode")["action"].mean())


def test_measures_may_not_replace_a_column_of_the_episode_table() -> None:
    with pytest.raises(BadInput, match="return"):
        rollout(Count, Coin(), episodes=1, seed=0, num_envs=1, measures=lambda steps, info: {"return": 1.0})


def test_a_dict_observation_reaches_the_policy_as_arrays_and_tuples_of_text() -> None:
    policy = Coin()
    rollout(Count, policy, episodes=2, seed=3, num_envs=2, options={"level": 2})
    observation, active = policy.seen[0]
    assert observation["count"].shape == (2, 1)
    assert isinstance(observation["prompt"], tuple)
    assert all(text.startswith("step 0 of") for text in observation["prompt"])
    assert active.all()
    assert policy.infos[0]["labels"] == ("no", "yes")
    assert policy.infos[0]["options"] == {"level": 2}


def level_of(episode: int) -> dict[str, int]:
    return {"level": 10 * episode}


def test_options_may_differ_between_episodes_and_are_the_same_after_a_resume(tmp_path: Path) -> None:
    policy = Coin()
    rollout(Count, policy, episodes=3, seed=3, num_envs=2, options=level_of, run=tmp_path)
    assert [info["options"]["level"] for info in policy.infos] == [0, 10, 20]
    again = rollout(Count, policy, episodes=4, seed=3, num_envs=2, options=level_of, run=tmp_path)
    assert [info["options"]["level"] for info in policy.infos[3:]] == [20, 30]  # the last wave has grown
    assert "level_of" in str(again.config["options"])
    with pytest.raises(RunMismatch, match="options"):
        rollout(Count, policy, episodes=4, seed=3, num_envs=2, options={"level": 1}, run=tmp_path)
    with pytest.raises(BadInput, match="vector environment resets all rows with the same options"):
        rollout(vector(AutoresetMode.DISABLED), policy, episodes=3, seed=3, options=level_of)


def test_an_observation_that_is_no_dict_is_called_observation() -> None:
    policy = Coin()
    run = rollout("CartPole-v1", policy, episodes=2, seed=3, num_envs=2)
    assert policy.seen[0][0]["observation"].shape == (2, 4)
    assert run.episodes["success"].isna().all()
    assert run.config["env"]["id"] == "CartPole-v1"


def test_max_steps_truncates() -> None:
    run = rollout(Count, Coin(), episodes=6, seed=3, num_envs=3, max_steps=3)
    short = np.array([int(gym.utils.seeding.np_random(seed)[0].integers(2, 9)) for seed in SEEDS[:6]])
    assert list(run.episodes["length"]) == list(np.minimum(short, 3))
    assert list(run.episodes["truncated"]) == list(short > 3)
    assert list(run.episodes["terminated"]) == list(short <= 3)


def test_a_policy_whose_rows_are_independent_acts_the_same_in_any_batch() -> None:
    alone, together = (rollout(Count, Coin(), episodes=9, seed=3, num_envs=count) for count in (1, 4))
    same(alone, together)


def test_seeds_of_episodes_are_distinct_and_do_not_depend_on_their_number() -> None:
    many = episode_seeds(0, 3000)
    assert len(set(many)) == 3000
    assert many[:100] == episode_seeds(0, 100)
    assert not set(many) & set(episode_seeds(1, 1000))
    assert all(0 <= seed < 2**31 for seed in many)


# ------------------------------------------------------------------------------------------------------------- rows


def test_rows_that_ended_are_not_stepped_and_keep_their_last_observation() -> None:
    policy = Coin()
    run = rollout(Count, policy, episodes=4, seed=3, num_envs=4)
    lengths = run.episodes["length"].to_numpy()
    assert len(set(lengths)) > 1  # otherwise nothing would be frozen
    assert len(policy.seen) == lengths.max()
    for env_step, (observation, active) in enumerate(policy.seen):
        assert list(active) == list(lengths > env_step)
        assert list(observation["count"][:, 0]) == list(np.minimum(lengths, env_step))


@pytest.mark.parametrize("when", [-1, 0, 1])
def test_an_environment_that_raises_errors_its_own_episode_and_no_other(when: int) -> None:
    faults = {(SEEDS[1], when): ValueError("the arm fell off")}
    clean = rollout(Count, Coin(), episodes=6, seed=3, num_envs=3)
    run = rollout(lambda: Count(faults), Coin(), episodes=6, seed=3, num_envs=3, measures=lambda s, i: {"m": len(s)})
    bad = run.episodes.iloc[1]
    assert bad["errored"]
    assert bad["error"] == "ValueError: the arm fell off"
    assert bad["length"] == max(when, 0)
    assert np.isnan(bad["return"])
    assert np.isnan(bad["success"])
    assert np.isnan(bad["m"])
    others = run.episodes["episode"] != 1
    assert_frame_equal(run.episodes[others].drop(columns="m"), clean.episodes[others], check_exact=True)
    assert_frame_equal(
        run.steps[run.steps["episode"] != 1].reset_index(drop=True),
        clean.steps[clean.steps["episode"] != 1].reset_index(drop=True),
        check_exact=True,
    )


def test_a_row_whose_reset_raised_shows_the_policy_a_well_formed_observation_and_info() -> None:
    policy = Coin()
    rollout(lambda: Count({(SEEDS[0], -1): OSError("no camera")}), policy, episodes=2, seed=3, num_envs=2)
    assert policy.infos[0]["labels"] == ("no", "yes")
    assert policy.seen[0][0]["prompt"][0].startswith("step 0 of")
    assert list(policy.seen[0][1]) == [False, True]


def test_a_wave_in_which_every_reset_raises_is_all_errored_and_the_next_one_runs() -> None:
    faults = {(seed, -1): OSError("no licence") for seed in SEEDS[:2]}
    run = rollout(lambda: Count(faults), Coin(), episodes=4, seed=3, num_envs=2)
    assert list(run.episodes["errored"]) == [True, True, False, False]
    assert sorted(run.steps["episode"].unique()) == [2, 3]


def test_a_run_of_errors_only_still_gives_tables() -> None:
    faults = {(seed, -1): OSError("no licence") for seed in SEEDS}
    run = rollout(lambda: Count(faults), Coin(), episodes=3, seed=3, num_envs=2)
    assert run.episodes["errored"].all()
    assert len(run.steps) == 0
    assert "3 errored" in str(run)


def test_after_an_exception_the_environment_is_made_anew() -> None:
    made: list[Count] = []

    def make() -> Count:
        made.append(Count({(SEEDS[1], 0): ValueError("broken")}))
        return made[-1]

    rollout(make, Coin(), episodes=6, seed=3, num_envs=2)
    assert len(made) == 3
    assert all(env.closed for env in made)


def test_a_reward_that_is_not_finite_errors_the_episode() -> None:
    run = rollout(lambda: TransformReward(Count(), lambda reward: np.nan), Coin(), episodes=2, seed=3, num_envs=2)
    assert run.episodes["error"].str.contains("reward is nan").all()


def test_an_observation_of_the_wrong_shape_errors_its_own_episode_only() -> None:
    class Misshapen(Count):
        def _observe(self) -> dict[str, Any]:
            wrong = self.seed == SEEDS[1] and self.time == 1
            return super()._observe() | ({"count": np.zeros(3, np.float32)} if wrong else {})

    run = rollout(Misshapen, Coin(), episodes=3, seed=3, num_envs=3)
    assert list(run.episodes["errored"]) == [False, True, False]


# ------------------------------------------------------------------------------------------------------ kinds of envs


def vector(mode: AutoresetMode, count: int = 3, **options: Any) -> SyncVectorEnv:
    return SyncVectorEnv([lambda: Count(**options)] * count, autoreset_mode=mode)


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_a_vector_environment_of_any_autoreset_mode_gives_the_same_tables(mode: AutoresetMode) -> None:
    env = vector(mode)
    same(rollout(Count, Coin(), episodes=7, seed=3, num_envs=3), rollout(env, Coin(), episodes=7, seed=3))
    assert not env.envs[0].closed  # type: ignore[attr-defined]


def test_an_exception_in_a_vector_environment_errors_the_rows_that_still_run() -> None:
    lengths = rollout(Count, Coin(), episodes=6, seed=3, num_envs=3).episodes["length"].to_numpy()
    row = int(np.argmax(lengths[:3]))
    when = int(lengths[row]) - 1
    env = vector(AutoresetMode.SAME_STEP, faults={(SEEDS[row], when): RuntimeError("lost a worker")})
    run = rollout(env, Coin(), episodes=6, seed=3)
    assert list(run.episodes["errored"]) == [*(lengths[:3] > when), False, False, False]
    assert run.episodes["error"].dropna().unique().tolist() == ["RuntimeError: lost a worker"]


def test_padding_rows_of_the_last_wave_of_a_vector_environment_are_never_active() -> None:
    policy = Coin()
    run = rollout(vector(AutoresetMode.NEXT_STEP), policy, episodes=4, seed=3)
    assert len(run.episodes) == 4
    assert not any(active[1:].any() for _, active in policy.seen[-int(run.episodes["length"].iloc[-1]) :])


def test_a_single_environment_with_a_spec_is_copied_with_its_arguments_and_wrappers() -> None:
    env = TimeLimit(gym.make("CartPole-v1", sutton_barto_reward=True), 5)
    run = rollout(env, Coin(), episodes=3, seed=3, num_envs=3)
    assert (run.episodes["length"] <= 5).all()
    assert set(run.steps["reward"]) <= {0.0, -1.0}
    assert run.config["env"]["kwargs"] == {"sutton_barto_reward": True}


def test_a_single_environment_without_a_spec_is_used_itself_one_row_at_a_time() -> None:
    env = Count()
    run = rollout(env, Coin(), episodes=2, seed=3)
    assert run.config["num_envs"] == 1
    assert env.seed == SEEDS[1]
    assert not env.closed
    with pytest.raises(BadInput, match="num_envs: got 2"):
        rollout(env, Coin(), episodes=2, seed=3, num_envs=2)


def test_a_wrapper_that_cannot_be_copied_is_refused_with_the_way_out() -> None:
    class Plain(gym.Wrapper):
        pass

    with pytest.raises(BadInput, match="Pass a function"):
        rollout(Plain(gym.make("CartPole-v1")), Coin(), episodes=1, seed=0)


def test_what_is_not_an_environment_is_refused() -> None:
    with pytest.raises(BadInput, match="allowed are an id"):
        rollout(3, Coin(), episodes=1, seed=0)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="leave num_envs out"):
        rollout(vector(AutoresetMode.NEXT_STEP), Coin(), episodes=1, seed=0, num_envs=2)


@pytest.mark.parametrize("bad", [{"episodes": 0}, {"seed": -1}, {"num_envs": 0}, {"max_steps": 0}])
def test_numbers_out_of_range_are_refused_by_name(bad: dict[str, int]) -> None:
    options: dict[str, Any] = {"episodes": 1, "seed": 0, **bad}
    with pytest.raises(BadInput, match=next(iter(bad))):
        rollout(Count, Coin(), **options)


class Reach(gym.Env):
    """Box actions; the reward is the action's sum."""

    def __init__(self) -> None:
        self.observation_space = gym.spaces.Box(0, 1, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return np.zeros(1, np.float32), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert action.dtype == np.float32
        return np.zeros(1, np.float32), float(action.sum()), True, False, {}


class Fixed(Coin):
    """Gives one fixed action."""

    def __init__(self, action: Any) -> None:
        super().__init__()
        self.action = action

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        return Decision(np.stack([np.asarray(self.action)] * len(active)))


def test_vector_actions_are_recorded_as_lists_and_reach_the_environment_in_its_dtype() -> None:
    run = rollout(Reach, Fixed([0.25, 2.0]), episodes=2, seed=0, num_envs=2)
    assert [list(action) for action in run.steps["action"]] == [[0.25, 2.0]] * 2
    assert list(run.episodes["return"]) == [2.25, 2.25]  # 2.0 lies outside of the space and was not clipped


def test_an_action_that_does_not_fit_the_space_stops_the_run() -> None:
    with pytest.raises(BadInput, match=r"expected shape \(2,\)"):
        rollout(Reach, Fixed([1.0, 2.0, 3.0]), episodes=1, seed=0)
    with pytest.raises(BadInput, match="expected integers"):
        rollout(Count, Fixed(0.5), episodes=1, seed=0)
    with pytest.raises(NonFinite, match="non-finite"):
        rollout(Reach, Fixed([np.nan, 0.0]), episodes=1, seed=0)


# --------------------------------------------------------------------------------------------------------- conditions


def test_conditions_pair_by_seed_and_the_steerer_is_attached_once_and_undone() -> None:
    policy, steerer = Coin(0.3), Bias(0.9)
    base = rollout(Count, policy, episodes=40, seed=3, condition="base")
    steered = rollout(Count, policy, steerer, episodes=40, seed=3, condition="steered")
    assert (steerer.entered, steerer.left, policy.p) == (1, 1, 0.3)
    assert list(base.episodes["seed"]) == list(steered.episodes["seed"])
    assert base.config["steerer"] is None
    assert steered.config["steerer"] == {"p": 0.9}
    assert steered.config["policy"] == {"name": "coin", "p": 0.3}
    assert base.steps["uniform"].equals(steered.steps["uniform"])  # common random numbers
    result = compare(steered, base)
    assert result.shown
    assert result.verdict.startswith("success is higher with steered than with base")


def test_a_steerer_that_turns_out_to_have_done_nothing_leaves_no_episodes_behind(tmp_path: Path) -> None:
    with pytest.raises(SiteNeverFired):
        rollout(Count, Coin(), Bias(0.9, SiteNeverFired("no hook ran")), episodes=6, seed=3, num_envs=2, run=tmp_path)
    assert files(tmp_path) == [".lock", "run.json"]


# ----------------------------------------------------------------------------------------------------------- resuming


def stop_at(call: int, exception: BaseException) -> Callable[[Coin], None]:
    def before(policy: Coin) -> None:
        if policy.calls == call:
            raise exception

    return before


def test_a_run_in_a_folder_equals_one_in_memory_and_loads_again(tmp_path: Path) -> None:
    here = rollout(Count, Coin(), episodes=7, seed=3, num_envs=3, run=tmp_path / "run")
    same(here, rollout(Count, Coin(), episodes=7, seed=3, num_envs=3))
    loaded = Rollout.load(tmp_path / "run")
    same(here, loaded)
    assert loaded.config == here.config
    assert loaded.folder == tmp_path / "run"


@pytest.mark.parametrize("exception", [KeyboardInterrupt(), ZeroDivisionError("a bug in the policy")])
@pytest.mark.parametrize("call", [1, 12])
def test_an_interrupted_run_leaves_whole_waves_only_and_resumes_exactly(
    tmp_path: Path, exception: BaseException, call: int
) -> None:
    options: dict[str, Any] = {"episodes": 10, "seed": 3, "num_envs": 3, "run": tmp_path}
    steerer = Bias(0.6)
    with pytest.raises(type(exception)):
        rollout(Count, Coin(before=stop_at(call, exception)), steerer, **options)
    assert steerer.left == 1
    assert not [name for name in files(tmp_path) if ".tmp" in name]
    assert any(name.startswith("waves/") for name in files(tmp_path)) == (call == 12)
    with pytest.raises(BadArtifact, match="unfinished"):
        Rollout.load(tmp_path)
    resumed = rollout(Count, Coin(), steerer, **options)
    same(resumed, rollout(Count, Coin(), steerer, **{**options, "run": None}))


def test_a_finished_run_is_read_and_neither_acts_nor_attaches_again(tmp_path: Path) -> None:
    policy, steerer = Coin(), Bias(0.6)
    options: dict[str, Any] = {"episodes": 5, "seed": 3, "num_envs": 2, "run": tmp_path}
    first = rollout(Count, policy, steerer, **options)
    calls = policy.calls
    same(first, rollout(Count, policy, steerer, **options))
    assert policy.calls == calls
    assert steerer.entered == 1


def test_a_run_may_grow_and_its_last_short_wave_is_done_again(tmp_path: Path) -> None:
    small = rollout(Count, Coin(), episodes=5, seed=3, num_envs=3, run=tmp_path)
    policy = Coin()
    grown = rollout(Count, policy, episodes=10, seed=3, num_envs=3, run=tmp_path)
    same(grown, rollout(Count, Coin(), episodes=10, seed=3, num_envs=3))
    assert_frame_equal(grown.episodes[:5], small.episodes)
    assert len(policy.seen[0][1]) == 3  # it began with the wave of episodes 3, 4 and the new 5
    assert policy.infos[0]["length"] == small.episodes["length"][3]
    assert len(list((tmp_path / "waves").iterdir())) == 4
    with pytest.raises(RunMismatch, match=r"episodes: the folder has 10, asked 5"):
        rollout(Count, Coin(), episodes=5, seed=3, num_envs=3, run=tmp_path)


def test_another_run_in_the_same_folder_is_refused_with_the_keys_that_differ(tmp_path: Path) -> None:
    rollout(Count, Coin(0.3), episodes=2, seed=3, num_envs=2, run=tmp_path)
    before = files(tmp_path)
    with pytest.raises(RunMismatch) as caught:
        rollout(Count, Coin(0.4), Bias(0.1), episodes=2, seed=4, num_envs=2, run=tmp_path)
    message = str(caught.value)
    for line in (
        "policy.p: the folder has 0.3, asked 0.4",
        "steerer: the folder has None",
        "steerer.p: ",
        "seed: the folder has 3, asked 4",
    ):
        assert line in message
    assert "num_envs" not in message
    assert files(tmp_path) == before


def test_two_runs_cannot_share_a_folder_at_the_same_time(tmp_path: Path) -> None:
    def intrude(policy: Coin) -> None:
        with pytest.raises(RunMismatch, match="in use by another process"):
            rollout(Count, Coin(), episodes=2, seed=3, num_envs=2, run=tmp_path)

    assert len(rollout(Count, Coin(before=intrude), episodes=2, seed=3, num_envs=2, run=tmp_path).episodes) == 2


class Target:
    """The process of kill_target.py."""

    def __init__(self) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [sys.executable, "-c", "import kill_target; kill_target.main()"],
            cwd=Path(__file__).parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )

    def start(self, folder: Path, episodes: int, delay: float, die_at: int | None = None) -> int:
        assert self.process.stdin is not None
        job = {"folder": str(folder), "episodes": episodes, "delay": delay, "die_at": die_at}
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()
        return int(self._read("started"))

    def wait(self) -> int:
        return int(self._read("ended"))

    def _read(self, word: str) -> str:
        assert self.process.stdout is not None
        while True:
            found, *values = self.process.stdout.readline().split()
            if found == word:
                return " ".join(values)
            assert found == "acting", f"expected {word!r}, got {found!r}"

    def wait_until_acting(self) -> None:
        self._read("acting")


def finish(folder: Path, episodes: int) -> Rollout:
    """Run what `Target` runs, here and to the end."""
    spec = importlib.util.spec_from_file_location("kill_target", Path(__file__).with_name("kill_target.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.run(str(folder), episodes)


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    target = Target()
    yield target
    assert target.process.stdin is not None
    target.process.stdin.close()
    target.process.wait()


def test_a_run_killed_ten_times_at_random_moments_resumes_to_the_same_tables(tmp_path: Path, target: Target) -> None:
    episodes, kills = 300, 10  # more than a fast machine finishes between the kills
    whole = finish(tmp_path / "whole", episodes)
    assert whole.episodes["errored"].any()
    assert not whole.episodes["errored"].all()
    seed = int.from_bytes(os.urandom(4), "little")
    print(f"random seed of the kills: {seed}")
    moments = random.Random(seed)
    waves: list[int] = []

    def finished() -> int:
        return len(list((tmp_path / "killed").glob("waves/[!.]*")))

    for kill in range(kills):
        child = target.start(tmp_path / "killed", episodes, 0.01)
        if kill % 3:  # else it may die before it has begun
            target.wait_until_acting()
        time.sleep(moments.uniform(0.0, 0.5))
        while kill == kills - 2 and not finished():  # on a machine too busy to finish a wave within half a second
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        assert target.wait() == -signal.SIGKILL
        waves.append(finished())
    print(f"finished waves after each kill: {waves}")
    assert waves == sorted(waves)
    assert 0 < waves[-1] < episodes // 3
    same(finish(tmp_path / "killed", episodes), whole)


def test_a_run_killed_at_any_of_its_disk_operations_resumes_to_the_same_tables(tmp_path: Path, target: Target) -> None:
    whole = finish(tmp_path / "whole", 5)
    killed = unfinished = 0
    for number in range(60):
        folder = tmp_path / str(number)
        target.start(folder, 5, 0.0, die_at=number)
        if target.wait() == 0:
            break
        killed += 1
        try:
            same(Rollout.load(folder), whole)  # it died after the last file was in place
        except BadArtifact:
            unfinished += 1
        same(finish(folder, 5), whole)
        same(Rollout.load(folder), whole)
        assert not [name for name in files(folder) if ".tmp" in name]
    assert unfinished >= 15
    assert killed < 60


# ------------------------------------------------------------------------------------------------------------- tables


def test_a_column_of_truth_values_and_numbers_becomes_numbers() -> None:
    assert make_table([{"x": True}, {"x": 0.5}, {}], {}).column("x").to_pylist() == [1.0, 0.5, None]
    joined = concatenate_tables([make_table([{"x": True}], {}), make_table([{"x": 0.5, "y": 1}], {})])
    assert joined.to_pydict() == {"x": [1.0, 0.5], "y": [None, 1]}
    joined = concatenate_tables(
        [make_table([{"x": None}], {}), make_table([{"x": 2}], {}), make_table([{"x": 2.5}], {})]
    )
    assert joined.to_pydict() == {"x": [None, 2.0, 2.5]}


def test_a_column_of_text_and_numbers_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match="'x'"):
        make_table([{"x": "a"}, {"x": 1}], {})
    with pytest.raises(BadInput, match="one type under one name"):
        concatenate_tables([make_table([{"x": "a"}], {}), make_table([{"x": 1}], {})])


def test_packed_infos_are_split_by_their_masks() -> None:
    packed = {
        "a": np.array([1, 0]),
        "_a": np.array([True, False]),
        "inner": {"b": np.array([3.0, 4.0]), "_b": np.array([True, True])},
        "_inner": np.array([False, True]),
        "shared": "text",
    }
    assert unbatch_info(packed, 2) == [{"a": 1, "shared": "text"}, {"inner": {"b": 4.0}, "shared": "text"}]


# ---------------------------------------------------------------------------------------------------------- what shows


def test_a_rollout_prints_its_counts_with_an_interval() -> None:
    text = str(rollout(Count, Coin(1.0), episodes=4, seed=3, num_envs=2, condition="always"))
    assert text.startswith("always: coin in ")
    assert "4 of 4 episodes (0 errored)" in text
    assert "success 4/4 (95% interval 0.51 to 1.00)" in text


def test_progress_goes_to_stderr_when_asked_and_is_silent_otherwise(capsys: pytest.CaptureFixture[str]) -> None:
    rollout(Count, Coin(), episodes=2, seed=3, num_envs=2)
    silent = capsys.readouterr()
    assert silent.err == silent.out == ""
    rollout(Count, Coin(), episodes=2, seed=3, num_envs=2, progress=True, condition="base")
    shown = capsys.readouterr()
    assert "base" in shown.err
    assert "2/2 episodes" in shown.err
    assert shown.out == ""


# -------------------------------------------------------------------------------------------------- infos and watching


def test_a_policy_is_told_the_infos_of_its_observation_and_ended_rows_keep_their_last() -> None:
    told: list[list[Mapping[str, Any]]] = []
    policy = Coin(before=lambda one: told.append(list(one.context.infos or [])))
    rollout(Count, policy, episodes=3, seed=0, num_envs=3)
    lengths = [info["length"] for info in told[0]]
    assert len(told) == max(lengths)
    assert len(set(lengths)) > 1
    for step, infos in enumerate(told[1:], start=1):
        assert [info["time"] for info in infos] == [min(step, length) for length in lengths]


def test_a_watcher_sees_what_the_policy_saw_did_and_caused() -> None:
    moments: list[Moment] = []
    result = rollout(Count, Coin(), episodes=5, seed=0, num_envs=3, watch=moments.append)
    seen = [(m.start + row, m.env_step) for m in moments for row in np.flatnonzero(m.active).tolist()]
    assert sorted(seen) == list(zip(result.steps["episode"], result.steps["env_step"], strict=True))
    for moment in moments:
        for row in np.flatnonzero(moment.active).tolist():
            assert moment.observation["count"][row] == moment.env_step
            assert moment.result.infos[row]["time"] == moment.env_step + 1
            taken = result.steps.query(f"episode == {moment.start + row} and env_step == {moment.env_step}")["action"]
            assert taken.item() == moment.action[row]
