"""Scenes of rollouts: which observations are kept, and which numbers belong to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import steer_agents as sa
from policies.base import Decision, Observation, Policy
from policies.errors import BadInput


class Line(gym.Env):
    """A point on a line that the action moves; an episode lasts as many steps as its seed says and ends well beyond 0."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012

    def __init__(self, broken: frozenset[int] = frozenset()) -> None:
        box = gym.spaces.Box(-99, 99, (1,), np.float32)
        self.observation_space = gym.spaces.Dict({"at": box, "nested": gym.spaces.Dict({"twice": box})})
        self.action_space = gym.spaces.Box(-9, 9, (1,), np.float32)
        self.broken, self.count = broken, -1

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        assert options is not None
        self.number, self.time, self.at = options["episode"], 0, 0.0
        return self._observe(), {**self._info(0.0), "task_description": f"go {self.number}"}

    def step(self, action: np.ndarray) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if self.number in self.broken and self.time == 2:
            raise RuntimeError("broken")
        self.time += 1
        self.at += float(action[0])
        ended = self.time == 5 + self.number
        return self._observe(), 0.0, ended, False, {**self._info(float(action[0])), "is_success": self.at > 0}

    def _info(self, speed: float) -> dict[str, Any]:
        return {"speed": np.float64(speed), "stage": int(self.time >= 3), "where": "line", "held": self.time > 3}

    def _observe(self) -> dict[str, Any]:
        at = np.array([self.at], dtype=np.float32)
        return {"at": at, "nested": {"twice": 2 * at}}


class Walk(Policy):
    """Moves by 1, 2, 3, ... in even episodes, back in odd ones."""

    name = "walk"

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self.signs = [1 if int(info["task_description"].split()[1]) % 2 == 0 else -1 for info in infos]

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        assert self.context.env_step is not None
        steps = self.context.env_step + 1
        return Decision(np.array([[sign * step] for sign, step in zip(self.signs, steps, strict=True)], np.float32))


def scenes(broken: frozenset[int] = frozenset(), **options: Any) -> sa.Scenes:
    chosen = {"episodes": 3, "seed": 0, "num_envs": 2, "every": 2, "ahead": 3, **options}
    return sa.record_scenes(lambda: Line(broken), Walk(), options=lambda episode: {"episode": episode}, **chosen)


def test_every_kth_observation_is_kept_with_what_was_measured_before_and_after() -> None:
    made = scenes()
    # episodes of 5, 6 and 7 steps, in waves of two rows
    expected = [(0, 0), (1, 0), (0, 2), (1, 2), (0, 4), (1, 4), (2, 0), (2, 2), (2, 4), (2, 6)]
    assert list(zip(made["episode"], made["env_step"], strict=True)) == expected
    for i, (episode, step) in enumerate(expected):
        sign = 1 if episode % 2 == 0 else -1
        scene = made.observations[i]
        assert scene["at"].tolist() == [sign * step * (step + 1) / 2]
        assert scene["nested"]["twice"].tolist() == [sign * step * (step + 1)]
        assert scene["instruction"] == f"go {episode}"
        assert scene["previous_action"].tolist() == [sign * step]
        assert made["speed"][i] == sign * step
        following = [sign * (t + 1) for t in range(step, min(step + 3, 5 + episode))]
        assert made["next_speed"][i] == pytest.approx(np.mean(following))
        assert made["stage"][i] == int(step >= 3)
        assert made["success"][i] == float(sign > 0)
    assert set(made["where"]) == {"line"}
    assert "next_where" not in made.table
    assert made["next_held"][2] == pytest.approx(2 / 3)  # after steps 3, 4 and 5


def test_scenes_can_be_chosen_and_unknown_columns_are_named() -> None:
    made = scenes()
    late = made.where(made["stage"] == 1)
    assert late["env_step"].tolist() == [4, 4, 4, 6]
    assert late.observations[0] is made.observations[4]
    with pytest.raises(BadInput, match=r"no column 'sped'; did you mean 'speed'\? Allowed: .*next_speed"):
        made["sped"]
    with pytest.raises(BadInput, match=r"expected \(10,\) bool, got \(10,\) int64"):
        made.where(made["stage"])


def test_episodes_that_broke_are_left_out() -> None:
    made = scenes(frozenset({1}))
    assert set(made["episode"]) == {0, 2}
    assert made["success"].tolist() == [1.0] * 7
    with pytest.raises(BadInput, match=r"none of 3 episodes was without error: .*RuntimeError: broken"):
        scenes(frozenset({0, 1, 2}))


def test_what_cannot_be_recorded_is_refused() -> None:
    for name in ("every", "ahead"):
        with pytest.raises(BadInput, match=f"{name}=0, allowed are integers from 1"):
            scenes(**{name: 0})


def test_a_rollout_that_may_skip_episodes_is_not_watched(tmp_path: Any) -> None:
    with pytest.raises(BadInput, match="leave run=None"):
        sa.rollout(Line, Walk(), episodes=1, seed=0, run=tmp_path / "run", watch=print)
