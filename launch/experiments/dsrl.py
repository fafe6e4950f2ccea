"""What the DSRL experiments share: worlds, paired episodes, training with a curve, rows of a table.

Three kinds of seeds, never mixed: `VALIDATION` (noise maps, tickets, curves, early stop), training (1000 + run) and `TEST` (the rows).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import SyncVectorEnv

import envs
import policies
from launch.experiments.base import Say
from launch.experiments.env_pool import Pool
from policies.generative import GenerativePolicy
from steer_agents.evaluation.compare import Comparison, compare
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.loop import Measures, rollout
from steer_agents.noise.maps import NoiseMap
from steer_agents.noise.noise_env import ChunkReward, NoiseEnv, RowReward
from steer_agents.noise.noise_policy import NoisePolicy
from steer_agents.noise.presets import DSRLSettings
from steer_agents.steerer import Part, Steerer

assert envs.__name__  # importing it registers the environments

VALIDATION, TEST, TRAINING = 555, 6100, 1000
NUM_ENVS = 8


@dataclass(frozen=True, eq=False)
class World:
    """Where a policy is steered.

    Args:
        policy: embedded policy.
        task: name of an environment's id, "SteerAgents/<task>-v0"; shift: its argument; settings: further arguments.
        limit: env steps of an episode.
        wrap: around the environment; None for none.
        reward: of one env step, see `ChunkReward`.
        measures: further columns of the episodes.
        rows, training_rows: environments side by side in episodes and in training.
        pooled: keep environments for the next run, where they are costly to build.
    """

    policy: str
    task: str
    shift: Mapping[str, float] = field(default_factory=dict)
    limit: int = 100
    wrap: Callable[[gym.Env], gym.Env] | None = None
    reward: str | RowReward = "penalty"
    measures: Measures | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    rows: int = 50
    training_rows: int = NUM_ENVS
    pooled: bool = False

    def __post_init__(self) -> None:
        wrap = "" if self.wrap is None else f", wrapped by {self.wrap.__qualname__}"
        what = f"{self.task}, {dict(self.settings)}, shift {dict(self.shift)}, {self.limit} env steps{wrap}"
        object.__setattr__(self, "make", Pool(self._make, what) if self.pooled else self._make)

    make: Callable[[], gym.Env] = field(init=False, repr=False)
    """Makes one environment."""

    def spec(self) -> EnvSpec:
        spec = copy.deepcopy(gym.spec(f"SteerAgents/{self.task}-v0"))
        spec.kwargs, spec.max_episode_steps = {**spec.kwargs, **self.settings, "shift": dict(self.shift)}, self.limit
        return spec

    def _make(self) -> gym.Env:
        env = gym.make(self.spec())
        return env if self.wrap is None else self.wrap(env)

    def load(self) -> GenerativePolicy:
        policy = policies.load(self.policy)
        assert isinstance(policy, GenerativePolicy)
        return policy

    def noise_env(
        self, policy: GenerativePolicy, noise_map: NoiseMap, bound: float, s: DSRLSettings, seed: int
    ) -> NoiseEnv:
        """`training_rows` rows, training starts."""
        reward = ChunkReward(self.reward, timeout=s.timeout)
        return NoiseEnv(
            SyncVectorEnv([self.make] * self.training_rows), policy, noise_map, bound, reward, seed=TRAINING + seed
        )

    def episodes(
        self,
        policy: GenerativePolicy,
        part: Part | None,
        episodes: int,
        seed: int,
        condition: str,
        folder: Path | None = None,
    ) -> pd.DataFrame:
        """One row per episode; equal seeds give equal starts. Finished ones are taken from the folder."""
        run = rollout(
            self.make, policy, None if part is None else Steerer(part), episodes=episodes, seed=seed, num_envs=min(self.rows, episodes),
            condition=condition, measures=self.measures,
            run=None if folder is None else folder / condition.replace(" ", "-"), progress=False,
        )  # fmt: skip
        return run.episodes

    def evaluation(self, policy: GenerativePolicy, episodes: int) -> Callable[[NoisePolicy], Mapping[str, float]]:
        """For `learn`: success, mean length of successes and score on validation starts.

        The score is minus the mean length of all episodes: what the learner is paid, in which a failure counts as the time limit.
        """

        def evaluate(part: NoisePolicy) -> Mapping[str, float]:
            table = self.episodes(policy, part, episodes, VALIDATION, "validation")
            return {**summary(table), "score": -float(table["length"].mean())}

        return evaluate


def summary(table: pd.DataFrame) -> dict[str, float]:
    """success, length (mean env steps of successes; NaN without any)."""
    good = table[~table["errored"]]
    won = good["success"] > 0
    return {
        "success": float(won.mean()),
        "length": float(good.loc[won, "length"].mean()) if won.any() else float("nan"),
    }


def row(table: pd.DataFrame, base: pd.DataFrame | None = None) -> dict[str, Any]:
    """One line of the table of conditions: success with its interval, mean length of successes, paired difference to the base."""
    good = table[~table["errored"]]
    share = proportion_interval(int((good["success"] > 0).sum()), len(good))
    found: dict[str, Any] = {
        "condition": str(table["condition"].iloc[0]), "success": share.value, "low": share.low, "high": share.high,
        "length": summary(table)["length"], "episodes": len(table), "errored": int(table["errored"].sum()),
    }  # fmt: skip
    if base is not None:
        difference = paired(table, base)
        found |= {"over base": difference.value, "over base low": difference.low, "over base high": difference.high}
    return found


def paired(table: pd.DataFrame, base: pd.DataFrame, measure: str = "success") -> Comparison:
    """Difference on equal starts."""
    return compare(table, base, measure)


def merged(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """All episodes in one table."""
    return pd.concat(tables, ignore_index=True)


def told(say: Say, curve: pd.DataFrame) -> None:
    """Say how a curve went."""
    for _, point in curve.iterrows():
        say.note(
            f"{int(point['env_steps']):>6} env steps, {point['cpu_seconds']:.0f} CPU s: deterministic {point['det_success']:.2f} "
            f"({point['det_length']:.0f} steps), sampled {point['sampled_success']:.2f}"
        )
