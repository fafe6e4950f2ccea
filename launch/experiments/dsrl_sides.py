"""A side that is asked for: worlds around the post that `flow-bimodal` passes on either side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

BESIDE = (0.46, 0.52)
"""x of the tcp at which the post stands [m]; left is negative y."""


class AskedSide(gym.Wrapper):
    """The block has to pass the post on the side that is asked for; having passed on the other one, it never succeeds.

    `info["is_success"]` says so, the episode then goes on to its time limit, and `passed_asked` is 1 or 0 once it has passed.

    What is asked depends on the past, so the observation tells what a learner needs to know of it: "passed" is 0 before the post, then
    1 on the asked side and -1 on the other (without it, a state behind the post has the same value whichever side was taken, and a critic
    learned step by step cannot tell them apart: measured, DSRL stays at chance for 40,000 steps). With `cue` the side is drawn at
    every reset and shown as "cue", -1 for left, 1 for right. The embedded policies read neither.

    Args:
        env: PutBlockPastPost with `obs_type="state"`.
        cue: draw and show the side; else it is left.
    """

    def __init__(self, env: gym.Env, cue: bool = False) -> None:
        super().__init__(env)
        self.cue = cue
        assert isinstance(env.observation_space, gym.spaces.Dict)
        shown = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        more = {"passed": shown, **({"cue": shown} if cue else {})}
        self.observation_space = gym.spaces.Dict({**env.observation_space.spaces, **more})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        if seed is not None:
            self._rng = np.random.default_rng([seed, 7])
        self.asked = float(self._rng.choice([-1.0, 1.0])) if self.cue else -1.0
        self._places: list[float] = []
        told = self._told(info)
        return self._seen(observation, told), told

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, _terminated, truncated, info = self.env.step(action)
        if bool(info["held"]) and BESIDE[0] <= info["tcp_x"] <= BESIDE[1]:
            self._places.append(float(info["tcp_y"]))
        told = self._told(info)
        return self._seen(observation, told), reward, bool(told["is_success"]), truncated, told

    def _seen(self, observation: Any, told: Mapping[str, Any]) -> Any:
        passed = np.nan_to_num(2 * told["passed_asked"] - 1, nan=0.0)
        more = {"passed": passed, **({"cue": self.asked} if self.cue else {})}
        return {**observation, **{name: np.array([value], np.float32) for name, value in more.items()}}

    def _told(self, info: Mapping[str, Any]) -> dict[str, Any]:
        passed = np.sign(np.mean(self._places)) == self.asked if self._places else None
        success = bool(info["is_success"]) and bool(passed)
        return {
            **info,
            "is_success": success,
            "success": success,
            "passed_asked": float("nan") if passed is None else float(passed),
        }


def side(steps: pd.DataFrame, info: Mapping[str, Any]) -> dict[str, float]:
    """Measure of an episode: whether it passed on the asked side; NaN where it never passed."""
    return {"asked_side": float(steps["passed_asked"].iloc[-1])}
