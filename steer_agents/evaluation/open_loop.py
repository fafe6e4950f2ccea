"""What steering changes in the actions themselves, before the world answers: the open loop, told apart from the closed one.

A steered episode differs from an unsteered one in two ways: the policy does something else where it is, and it comes to other places.
Here it is asked about the same scenes, with the same noise and the same draws, and never followed:

    change = open_loop(policy, scenes, sa.Add(slow, strength=0.2))
    print(change)                       # actions moved by 0.42 of their spread, n = 200
    change.change(0, 3)                 # relative change of the planned translation, with its interval

A small open-loop change with a large closed-loop one says that errors add up; the other way round that the loop corrects them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import INSTRUCTION, TASK_DESCRIPTION, Policy
from policies.errors import BadInput
from steer_agents.evaluation.intervals import Interval, mean_interval
from steer_agents.steerer import Part, steer


@dataclass(frozen=True, eq=False)
class OpenLoop:
    """Actions on the same n scenes, unsteered and steered.

    Args:
        base, steered: (n, H, A) the actions that each plan executes, H = `n_action_steps` (1 for policies without chunks).
    """

    base: np.ndarray
    steered: np.ndarray

    @property
    def moved(self) -> np.ndarray:
        """(n,) root mean square of the change per action entry, in standard deviations of the unsteered actions over all scenes.

        Entries that never vary over the scenes are left out; 0 is no change at all.
        """
        spread = self.base.reshape(-1, self.base.shape[-1]).std(0)
        used = spread > 0
        if not used.any():
            return np.zeros(len(self.base))
        scaled = (self.steered - self.base)[..., used] / spread[used]
        return np.asarray(np.sqrt((scaled**2).mean((1, 2))))

    def change(self, start: int = 0, stop: int = 3) -> Interval:
        """Mean relative change of the planned length of action entries [start, stop), e.g. of the translation, with its interval.

        Each scene's difference over the mean of all unsteered scenes, since single scenes may plan nearly nothing.
        """
        if not 0 <= start < stop <= self.base.shape[-1]:
            raise BadInput(f"open loop: entries {start} to {stop} of an action of {self.base.shape[-1]} do not exist.")
        before, after = (np.linalg.norm(x[..., start:stop], axis=-1).mean(1) for x in (self.base, self.steered))
        whole = before.mean()
        if whole == 0:
            raise BadInput("open loop: the unsteered policy plans no movement in these entries; choose others.")
        return mean_interval((after - before) / whole)

    def __str__(self) -> str:
        return f"actions moved by {self.moved.mean():.2g} of their spread, n = {len(self.base)}"


def open_loop(
    policy: Policy,
    scenes: Sequence[Mapping[str, Any]],
    *parts: Part,
    infos: Sequence[Mapping[str, Any]] | None = None,
    seed: int = 0,
    batch_size: int = 25,
) -> OpenLoop:
    """Ask about every scene twice, with and without parts; every scene is the first of its episode to the policy.

    Args:
        policy: that is steered; what is attached to it already stays, on both sides.
        scenes: n observations without a batch axis, such as `record_scenes` gives, each with its "instruction", which
            `reset` is told as "task_description".
        parts: as `steer` takes them.
        infos: n infos of the environment, for gates on what it measures.
        seed: of the policy's own noise and draws, the same on both sides; scene i has seed + i.
        batch_size: scenes asked about at once.
    Raises:
        BadInput: no scenes, no parts, or not one info per scene.
    """
    if not len(scenes) or not parts:
        raise BadInput(f"open_loop: needs scenes and parts to steer with, got {len(scenes)} and {len(parts)}.")
    if infos is not None and len(infos) != len(scenes):
        raise BadInput(f"open_loop: expected {len(scenes)} infos, one per scene, got {len(infos)}.")
    base, steered = [], []
    for start in range(0, len(scenes), batch_size):
        some = slice(start, start + batch_size)
        asked = (policy, scenes[some], None if infos is None else infos[some], seed + start)
        base.append(_planned(*asked))
        with steer(policy, *parts):
            steered.append(_planned(*asked))
    return OpenLoop(np.concatenate(base), np.concatenate(steered))


def _planned(
    policy: Policy, scenes: Sequence[Mapping[str, Any]], infos: Sequence[Mapping[str, Any]] | None, seed: int
) -> np.ndarray:
    """(B, H, A) of one plan."""
    policy.reset(
        [seed + i for i in range(len(scenes))], [{TASK_DESCRIPTION: scene.get(INSTRUCTION)} for scene in scenes]
    )
    observation = _stacked([{name: value for name, value in scene.items() if name != INSTRUCTION} for scene in scenes])
    steps = int(getattr(policy, "n_action_steps", 1))
    actions = [np.asarray(policy.act(observation, infos=infos).action) for _ in range(steps)]
    return np.stack([action.reshape(len(scenes), -1) for action in actions], axis=1)


def _stacked(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    first = rows[0]
    return {
        name: _stacked([row[name] for row in rows])
        if isinstance(first[name], Mapping)
        else tuple(row[name] for row in rows)
        if isinstance(first[name], str)
        else np.stack([np.asarray(row[name]) for row in rows])
        for name in first
    }
