"""What the battery reads off a policy without steering it: scenes, their activations with and without words, and what came after."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd

from launch.trials import PREFIX, Trials
from policies.base import INSTRUCTION, TASK_DESCRIPTION, Policy
from policies.errors import BadInput
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.scenes import encoded
from steer_agents.recording import Scenes, record_scenes
from steer_agents.sites import site_from, steerable

MOST_SCENES = 96
"""About as many scenes, evenly spaced, are looked at for activations."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Activations at the direction's layer, mean over its tokens.

    Args:
        scenes: observations that the unsteered policy decided on; tasks: of each.
        bare: (n, D) as they are.
        differences: (n, D) with the direction's own words minus its negative ones; None where it was not found from words.
        worded: words -> (n, D) with those in the instruction.
        episodes: one row per recorded episode: task, activation (D,) over its first half, behaviour over its second half.
        why, why_episodes: nothing is in `differences`, in `episodes`.
    """

    scenes: list[Mapping[str, Any]] = field(default_factory=list)
    tasks: list[str] = field(default_factory=list)
    bare: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))
    differences: np.ndarray | None = None
    worded: Mapping[str, np.ndarray] = field(default_factory=dict)
    episodes: pd.DataFrame = field(default_factory=pd.DataFrame)
    why: str = ""
    why_episodes: str = ""


@contextmanager
def saying(policy: Policy, template: str) -> Iterator[None]:
    """While it lasts, the policy hears every task's description put into a template: "{} slowly".

    Raises:
        BadInput: (at reset) the environment gives no description.
    """
    reset = policy.reset

    def told(seeds: Sequence[int], infos: Sequence[Mapping[str, Any]] | None = None) -> None:
        if infos is None or any(not isinstance(info.get(TASK_DESCRIPTION), str) for info in infos):
            raise BadInput(
                f"the wording {template!r} needs an environment whose reset info has a {TASK_DESCRIPTION!r}; for bandits say NAME=VALUE."
            )
        reset(seeds, [{**info, TASK_DESCRIPTION: template.format(info[TASK_DESCRIPTION])} for info in infos])

    vars(policy)["reset"] = told  # this one policy, until the block is left
    try:
        yield
    finally:
        del vars(policy)["reset"]


def gather(
    trials: Trials,
    here: Direction,
    column: str,
    episodes: int,
    seed: int,
    words: Sequence[str] = (),
    contrast: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Evidence:
    """Record and read. What this policy or this direction has nothing for is left empty, with the reason.

    Args:
        here: the direction at one layer.
        column: of the steps, that behaviour is told by.
        episodes: of every task; seed: the first one.
        words: of the neighbours.
        contrast: prompts with and without the concept, line by line, that the direction was not found on; for agents whose
            contrast is no instruction.
    """
    policy, own = trials.policy, here.info.get("positive")
    texts = [str(text) for text in own] if isinstance(own, list | tuple) else []
    says = here.method == "prompt-contrast" and bool(texts)
    why = (
        ""
        if says
        else f"the contrast data of a {here.method!r} direction are not in its file; only words can be said anew"
    )
    try:
        recorded = _record(trials, episodes, seed)
        picked = [
            (task, scenes.observations[i])
            for task, scenes in recorded
            for i in range(0, len(scenes), max(1, sum(len(one) for _, one in recorded) // MOST_SCENES))
        ]
        scenes, tasks = [scene for _, scene in picked], [task for task, _ in picked]
        bare = _activations(policy, here, scenes)
    except (BadInput, TypeError, ValueError, KeyError) as error:  # whatever an adapter says to a foreign observation
        told = f"scenes cannot be read by this policy ({str(error).split(';')[0].split('. ')[0]})"
        recorded, scenes, tasks, bare, says, why = [], [], [], np.zeros((0, 0)), False, told
    if contrast is not None:
        count = min(map(len, contrast))
        plus, bare = (_activations(policy, here, list(prompts[:count])) for prompts in contrast)
        rows, lacking = _episodes(policy, here, recorded, column, "")
        return Evidence(scenes, ["prompts"] * count, bare, plus - bare, {}, pd.DataFrame(rows), "", lacking or why)
    if not says:
        rows, lacking = _episodes(policy, here, recorded, column, "")
        return Evidence(scenes, tasks, bare, episodes=pd.DataFrame(rows), why=why, why_episodes=lacking or why)
    negative = [str(text) for text in here.info.get("negative", [""])]
    plus = np.mean([_activations(policy, here, scenes, text) for text in texts], axis=0)
    minus = (
        bare if negative == [""] else np.mean([_activations(policy, here, scenes, text) for text in negative], axis=0)
    )
    spoken = {text: _activations(policy, here, scenes, text) for text in dict.fromkeys(words) if text}
    rows, lacking = _episodes(policy, here, recorded, column, "")
    if rows:
        with saying(policy, f"{{}} {texts[0]}"):
            rows += _episodes(policy, here, _record(trials, episodes, seed + 500), column, texts[0])[0]
    return Evidence(scenes, tasks, minus, plus - minus, spoken, pd.DataFrame(rows), why, lacking)


def _record(trials: Trials, episodes: int, seed: int) -> list[tuple[str, Scenes]]:
    every = max(1, int(getattr(trials.policy, "n_action_steps", 1)))
    return [
        (
            task.removeprefix(PREFIX).removesuffix("-v0"),
            record_scenes(
                partial(gym.make, task, **trials.env) if trials.env else task,
                trials.policy,
                episodes=episodes,
                seed=seed + number,
                every=every,
                ahead=every,
                num_envs=min(trials.num_envs, episodes),
                max_steps=trials.max_steps,
            ),
        )
        for number, task in enumerate(trials.tasks)
    ]


def _activations(
    policy: Policy, here: Direction, scenes: Sequence[Mapping[str, Any] | str], words: str = ""
) -> np.ndarray:
    """(n, D) where the direction was read, with words after the instruction; of a world in words, the prompt alone."""
    said = [_said(scene, words) for scene in scenes]
    read = here.info.get("captured_at")
    site = here.site if read is None else replace(site_from(read), layer=here.site.layer)
    target = steerable(policy)
    means, _ = capture.scene_means(target, encoded(target, said, 64), site)
    (found,) = means.values()
    return found.double().numpy()


def _said(scene: Mapping[str, Any] | str, words: str) -> Mapping[str, Any] | str:
    if isinstance(scene, str):
        return scene
    if INSTRUCTION in scene:
        return {**scene, INSTRUCTION: f"{scene[INSTRUCTION]} {words}".strip()}
    return str(scene["prompt"]) if "prompt" in scene else scene


def _episodes(
    policy: Policy, here: Direction, recorded: Sequence[tuple[str, Scenes]], column: str, words: str
) -> tuple[list[dict[str, Any]], str]:
    """One row per episode; and why there is none."""
    rows: list[dict[str, Any]] = []
    for task, scenes in recorded:
        if f"next_{column}" not in scenes.table:
            return [], f"the environment does not tell {column or 'the measure'!r} step by step"
        after, episode = scenes[f"next_{column}"], scenes["episode"]
        for one in np.unique(episode):
            of = np.flatnonzero(episode == one)
            half = max(1, len(of) // 2)
            seen = _activations(policy, here, [scenes.observations[i] for i in of[:half]], words)
            rows.append(
                {
                    "task": task,
                    "words": words,
                    "activation": seen.mean(0),
                    "behaviour": float(np.mean(after[of[half:]])),
                }
            )
    return rows, ""
