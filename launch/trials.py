"""Episodes on demand: a policy, its tasks and what is measured, asked for any steering on any seeds.

Dose curves, sequential tests, stress tests and sweeps are all made of this one question, so that all of them pair alike: a seed
names its task as well as its layout.

    trials = Trials.of("tiny-vla", ["PutBowlOnPlate", "PutBlockOnPlate"], ["speed", "success"])
    base    = trials.run((), seeds=range(100, 120))
    steered = trials.run((sa.Add(slow, strength=0.2),), seeds=range(100, 120))
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd

import envs
import policies
from envs.bandits.metrics import episode_measures
from policies.base import Policy
from policies.errors import BadInput, UnknownName, nearest
from steer_agents.evaluation.measures import Measured
from steer_agents.loop import rollout
from steer_agents.runs import jsonable, write_table
from steer_agents.steerer import Part, Steerer

PREFIX = "SteerAgents/"


@dataclass(frozen=True)
class Seeds:
    """Given seeds, as `rollout(seeds=)` takes them; a batch that has to be filled up repeats nothing, it counts on from the last."""

    values: tuple[int, ...]

    def __call__(self, seed: int, count: int) -> list[int]:
        more = max(self.values) + 1
        return [*self.values[:count], *range(more, more + count - len(self.values))]


@dataclass(frozen=True, eq=False)
class Trials:
    """See the module's docstring.

    Args:
        policy: loaded.
        tasks: environment ids; episodes with seed s are of task s mod len(tasks).
        measures: see `steer_agents.evaluation.measures`; "success", "return" and "length" are there in any case.
        env: arguments of `gymnasium.make`, e.g. {"shift": {"payload": 1.0}}.
        num_envs: episodes side by side; batched numerics depend on it a little, so it belongs to the question.
        max_steps: per episode; None for the environment's own limit.
        keep: folder in which answers are kept, so that an interrupted study goes on; None for memory only.
    """

    policy: Policy
    tasks: tuple[str, ...]
    measures: tuple[str, ...] = ()
    env: Mapping[str, Any] = field(default_factory=dict)
    num_envs: int = 16
    max_steps: int | None = None
    keep: Path | None = None

    @classmethod
    def of(
        cls,
        policy: str | Policy,
        tasks: Sequence[str],
        measures: Sequence[str] = (),
        *,
        load: Mapping[str, Any] | None = None,
        env: Mapping[str, Any] | None = None,
        num_envs: int = 16,
        max_steps: int | None = None,
        keep: Path | None = None,
    ) -> Trials:
        """Load the policy and find the environments; a policy that sees pictures gets them in its size.

        Args:
            policy: as `policies.load` takes it, or loaded.
            tasks: ids; "SteerAgents/" and "-v0" may be left out.
            load: options of `policies.load`.
        Raises:
            BadInput, UnknownName: an environment or measure that does not exist.
        """
        acting = policies.load(policy, **(load or {})) if isinstance(policy, str) else policy
        if not tasks:
            raise BadInput("trials: needs at least one environment, see `steer-agents list environments`.")
        Measured(tuple(measures))
        found = tuple(environment_id(name) for name in tasks)
        seen: dict[str, Any] = {}
        if acting.picture_size is not None and not any("Bandit" in name for name in found):
            seen = {"obs_type": "pixels_agent_pos", "camera_size": acting.picture_size}
        return cls(acting, found, tuple(measures), {**seen, **(env or {})}, num_envs, max_steps, keep)

    def with_env(self, **options: Any) -> Trials:
        """The same trials in changed environments."""
        return replace(self, env={**self.env, **options})

    def run(self, parts: Sequence[Part], seeds: Sequence[int], condition: str = "") -> pd.DataFrame:
        """One episode per seed.

        Args:
            parts: that steer; none for the policy as it is.
            seeds: distinct, from 0.
            condition: name of the column's value.
        Returns:
            one row per seed, in the order given: condition, task, episode, seed, errored, error, length, return, terminated,
            truncated, success, and the measures.
        Raises:
            BadInput: no seeds, or one that occurs twice.
        """
        wanted = [int(seed) for seed in seeds]
        if not wanted or len(set(wanted)) < len(wanted) or min(wanted) < 0:
            raise BadInput(
                f"trials: expected distinct seeds from 0, got {len(wanted)}, {len(set(wanted))} of them distinct."
            )
        steerer = Steerer(*parts) if parts else None
        place = None if self.keep is None else self.keep / f"{self._key(steerer, wanted, condition)}.parquet"
        if place is not None and place.exists():
            return pd.read_parquet(place)
        tables = []
        for number, task in enumerate(self.tasks):
            own = tuple(seed for seed in wanted if seed % len(self.tasks) == number)
            if not own:
                continue
            bandit = "bandits" in str(gym.spec(task).entry_point)
            made = rollout(
                partial(gym.make, task, **self.env) if self.env else task,
                self.policy,
                steerer,
                episodes=len(own),
                seed=0,  # the seeds are given
                num_envs=min(self.num_envs, len(own)),
                max_steps=self.max_steps,
                measures=Measured(self.measures, episode_measures if bandit else None),
                seeds=Seeds(own),
                condition=condition,
                progress=False,
            )
            tables.append(made.episodes.assign(task=task.removeprefix(PREFIX).removesuffix("-v0")))
        table = pd.concat(tables).set_index("seed", drop=False).loc[wanted].reset_index(drop=True)
        table = table.assign(episode=range(len(table)))
        if place is not None:
            place.parent.mkdir(parents=True, exist_ok=True)
            write_table(place, table)
        return table

    def describe(self) -> dict[str, Any]:
        """JSON-able: what is asked, but for the steering and the seeds."""
        asked: dict[str, Any] = jsonable(
            {
                "policy": self.policy.describe(),
                "tasks": self.tasks,
                "measures": self.measures,
                "env": self.env,
                "num_envs": self.num_envs,
                "max_steps": self.max_steps,
            }
        )
        return asked

    def _key(self, steerer: Steerer | None, seeds: list[int], condition: str) -> str:
        asked = [self.describe(), None if steerer is None else steerer.describe(), seeds, condition]
        return hashlib.sha256(json.dumps(jsonable(asked), sort_keys=True).encode()).hexdigest()[:16]


def environment_id(name: str) -> str:
    """The registered id of an environment; "SteerAgents/" and "-v0" may be left out. "module:Id" is gymnasium's to import.

    Raises:
        UnknownName: there is none; the message names the nearest.
    """
    assert envs.__name__  # importing it registers the environments
    if ":" in name:
        return name
    for candidate in (name, f"{PREFIX}{name}", f"{PREFIX}{name}-v0"):
        if candidate in gym.registry:
            return candidate
    known = [key.removeprefix(PREFIX).removesuffix("-v0") for key in gym.registry if key.startswith(PREFIX)]
    raise UnknownName(f"environment {name!r} is unknown{nearest(name, known)}")
