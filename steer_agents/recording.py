"""Scenes of a policy's own rollouts, each with what was measured there: what finding by behaviour starts from.

scenes = sa.record_scenes(env, policy, episodes=50, seed=0, every=4)
fast = sa.find(policy, "behaviour-contrast", scenes=scenes.observations, values=scenes["next_speed"], groups=scenes["stage"])
well = sa.find(policy, "success-contrast", scenes=scenes.observations, success=scenes["success"], episodes=scenes["episode"])
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from policies.base import INSTRUCTION, TASK_DESCRIPTION, Policy
from policies.errors import BadInput, nearest
from steer_agents.env_batch import EnvLike
from steer_agents.loop import Moment, Options, Rollout, rollout


@dataclass(frozen=True, eq=False)
class Scenes:
    """n observations with a table about them.

    Args:
        observations: n mappings without a batch axis, as a policy's `encode` takes them.
        table: n rows: episode, env_step, success of the episode (1.0, 0.0, or NaN where the environment does not say), every
            scalar info as it was when the observation was made, and for every number its mean over the env steps that
            followed, called "next_<name>": what the policy then did. Text has no "next_".
        rollout: the run they come from.
    """

    observations: list[Mapping[str, Any]]
    table: pd.DataFrame
    rollout: Rollout

    def __len__(self) -> int:
        return len(self.observations)

    def __getitem__(self, column: str) -> np.ndarray:
        """A column of the table, (n,).

        Raises:
            BadInput: no such column; the message lists those that exist.
        """
        if column not in self.table:
            raise BadInput(f"scenes have no column {column!r}{nearest(column, self.table.columns)}")
        return self.table[column].to_numpy()

    def where(self, keep: np.ndarray) -> Scenes:
        """The scenes at which a (n,) bool array is true, e.g. `scenes.where(scenes["stage"] == 1)`."""
        keep = np.asarray(keep)
        if keep.shape != (len(self),) or keep.dtype != bool:
            raise BadInput(f"where: expected ({len(self)},) bool, got {keep.shape} {keep.dtype}.")
        rows = np.flatnonzero(keep)
        return Scenes([self.observations[i] for i in rows], self.table.iloc[rows].reset_index(drop=True), self.rollout)


def record_scenes(
    env: EnvLike,
    policy: Policy,
    *,
    episodes: int,
    seed: int,
    every: int = 4,
    ahead: int = 4,
    num_envs: int | None = None,
    options: Options = None,
    max_steps: int | None = None,
) -> Scenes:
    """Run a policy and keep what it saw at every k-th step, with what was measured before and after.

    Episodes that the environment broke off with an error are left out. Observations also get the action executed last
    ("previous_action", zeros at the start) and, where reset's info has a "task_description", that text
    ("instruction", as every policy's `encode` takes it). The policy's own adverb is
    not part of it.

    Args:
        every: k; a multiple of the policy's `n_action_steps` keeps exactly the observations that it plans on.
        ahead: env steps that "next_<name>" is averaged over, fewer at the end of an episode.
        env, episodes, seed, num_envs, options, max_steps: see `rollout`.
    Raises:
        BadInput: `every` or `ahead` below 1, or no scene was left.
    """
    for name, number in (("every", every), ("ahead", ahead)):
        if number < 1:
            raise BadInput(f"record_scenes: {name}={number}, allowed are integers from 1.")
    notes = _Notes(every, ahead)
    run = rollout(
        env,
        policy,
        episodes=episodes,
        seed=seed,
        num_envs=num_envs,
        options=options,
        max_steps=max_steps,
        watch=notes.see,
    )
    outcome = run.episodes.set_index("episode")
    good = [scene for scene in notes.scenes if not outcome.loc[scene.episode, "errored"]]
    if not good:
        raise BadInput(
            f"record_scenes: none of {episodes} episodes was without error: {list(run.episodes['error'])[:3]}."
        )
    table = pd.DataFrame(
        [
            {
                **scene.now,
                **{f"next_{name}": float(np.mean(values)) for name, values in scene.after.items()},
                "episode": scene.episode,
                "env_step": scene.env_step,
                "success": outcome.loc[scene.episode, "success"],
            }
            for scene in good
        ]
    )
    return Scenes([scene.observation for scene in good], table, run)


@dataclass
class _Scene:
    """Args: now: scalar infos at the observation; after: name -> values of the steps that followed."""

    episode: int
    env_step: int
    observation: Mapping[str, Any]
    now: dict[str, Any]
    after: dict[str, list[float]]


class _Notes:
    """What `record_scenes` writes down while the rollout runs."""

    def __init__(self, every: int, ahead: int) -> None:
        self._every, self._ahead = every, ahead
        self.scenes: list[_Scene] = []
        self._open: list[tuple[int, _Scene]] = []  # scenes whose next steps are still to come, with their row
        self._last: np.ndarray | None = None
        self._texts: list[Any] = []

    def see(self, moment: Moment) -> None:
        if moment.env_step == 0:
            self._open, self._last = [], None
            self._texts = [info.get(TASK_DESCRIPTION) for info in moment.infos]
        if moment.env_step % self._every == 0:
            for row in np.flatnonzero(moment.active).tolist():
                scene = self._scene(moment, row)
                self.scenes.append(scene)
                self._open.append((row, scene))
        for row, scene in self._open:
            if moment.active[row] and moment.result.errors[row] is None:
                for name, value in scalars(moment.result.infos[row]).items():
                    if not isinstance(value, str):
                        scene.after.setdefault(name, []).append(float(value))
        self._open = [(row, scene) for row, scene in self._open if moment.env_step + 1 < scene.env_step + self._ahead]
        self._last = np.array(moment.action)

    def _scene(self, moment: Moment, row: int) -> _Scene:
        observation = {key: _row(value, row) for key, value in moment.observation.items()}
        last = np.zeros_like(np.asarray(moment.action)[row]) if self._last is None else self._last[row]
        observation["previous_action"] = np.array(last)
        text = self._texts[row]
        if isinstance(text, str):
            observation[INSTRUCTION] = text
        return _Scene(moment.start + row, moment.env_step, observation, scalars(moment.infos[row]), {})


def _row(value: Any, row: int) -> Any:
    """One row of a batched observation, copied."""
    if isinstance(value, Mapping):
        return {key: _row(part, row) for key, part in value.items()}
    if isinstance(value, Sequence):
        return value[row]
    return np.array(value[row])


def scalars(info: Mapping[str, Any]) -> dict[str, bool | int | float | str]:
    """The numbers, booleans and texts of an info."""
    plain = {
        key: value.item() if np.ndim(value) == 0 and hasattr(value, "item") else value for key, value in info.items()
    }
    return {key: value for key, value in plain.items() if isinstance(value, bool | int | float | str)}
