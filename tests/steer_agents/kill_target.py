"""Runs a rollout in a forked child for each line on stdin, so that the test can kill the child (test_loop.py).

A line is JSON: {"folder": ..., "episodes": ..., "delay": seconds per step, "die_at": number of the disk operation at
which the child kills itself, or null}. Answers: "started PID", "acting" at its first action, "ended EXITCODE"
(negative: the signal). Forking from a process that has done its imports makes a session cost a fraction of a second.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

from policies.base import Decision, Observation, Policy
from steer_agents.loop import Rollout, rollout


class Walk(gym.Env):
    """A random walk that ends on leaving (-4, 4); rarely it crashes."""

    observation_space = gym.spaces.Dict({"place": gym.spaces.Box(-9, 9, (2,), np.float32)})
    action_space = gym.spaces.Discrete(2)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.place, self.time = 0.0, 0
        return self._observe(), {"start": self.place}

    def step(self, action: int) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.place += (2 * int(action) - 1) + 0.5 * float(self.np_random.normal())
        self.time += 1
        if self.np_random.random() < 0.02:
            raise RuntimeError("the simulator crashed")
        out = abs(self.place) >= 4
        info = {"place": self.place, "is_success": self.place >= 4, "note": "left" if out else None}
        return self._observe(), -abs(self.place), out, self.time >= 12, info

    def _observe(self) -> dict[str, np.ndarray]:
        return {"place": np.array([self.place, self.time], dtype=np.float32)}


class Coupled(Policy):
    """Its measure depends on every row of the batch, so that a wave of other rows would give another table."""

    name = "coupled"

    def __init__(self, delay: float, tell: bool = False) -> None:
        super().__init__()
        self.delay, self.tell = delay, tell

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self.rngs = [np.random.default_rng([seed, 1]) for seed in seeds]

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        if self.tell and self.context.act_calls == 1:
            print("acting", flush=True)
        time.sleep(self.delay)
        uniform = np.array([rng.random() for rng in self.rngs])
        mixed = uniform + 1e-3 * observation["place"][:, 0].sum() + 1e-5 * active.sum()
        return Decision((mixed > 0.5).astype(np.int64), {"mixed": mixed, "pair": np.stack([mixed, uniform], 1)})


def spread(steps: pd.DataFrame, info: Mapping[str, Any]) -> dict[str, float]:
    return {"spread": float(steps["place"].std(ddof=0)), "start": info["start"]}


def run(folder: str, episodes: int, delay: float = 0.0, tell: bool = False) -> Rollout:
    policy = Coupled(delay, tell)
    return rollout(Walk, policy, episodes=episodes, seed=7, num_envs=3, run=folder, measures=spread)


def die_at(number: int) -> None:
    """Make the `number`-th call that orders, flushes or renames files kill this process instead."""
    calls = 0

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal calls
            if calls == number:
                os.kill(os.getpid(), signal.SIGKILL)
            calls += 1
            return real(*arguments, **options)

        return call

    for name in ("fsync", "replace", "rename"):
        setattr(os, name, deadly(getattr(os, name)))


def main() -> None:
    # Python warns that a fork copies no threads; the one here is the memory allocator's, which provides for forks.
    warnings.filterwarnings("ignore", message=".*fork", category=DeprecationWarning)
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            if job["die_at"] is not None:
                die_at(job["die_at"])
            run(job["folder"], job["episodes"], job["delay"], tell=True)
            os._exit(0)
        print("started", child, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
