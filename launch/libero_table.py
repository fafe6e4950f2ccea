"""LIBERO as the papers evaluate it: which checkpoints, which protocol, the published figures; and one's own beside them.

The figures are copied from the sources named, with their protocols; they differ (50 or 10 episodes a task, other step limits, other
versions of MuJoCo), so that small gaps mean little. The column of one's own stays empty until `fill` has run on a machine with the weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import ClipAction

import envs
from envs.libero.tasks import SUITES
from policies.base import Policy
from policies.errors import BadInput, UnknownName, nearest
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.loop import rollout
from steer_agents.runs import environment_record, write_json

assert envs.__name__  # importing it registers the environments

FOLDER = Path("runs/libero-table")


@dataclass(frozen=True)
class Recipe:
    """How a model is evaluated on LIBERO, and what was published.

    Args:
        what: the model.
        checkpoint: for `policies.load`; "{suite}" stands for "goal", "spatial", "object", "10". Empty: no adapter here runs it.
        options: of `policies.load`; "{suite}" as above.
        camera_size: of the pictures [pixels].
        episodes: a task, as published.
        published: suite -> success [%].
        source: of the figures, and their protocol.
    """

    what: str
    checkpoint: str
    published: Mapping[str, float]
    source: str
    options: Mapping[str, Any] = field(default_factory=dict)
    camera_size: int = 256
    episodes: int = 50


def _row(spatial: float, thing: float, goal: float, long: float) -> Mapping[str, float]:
    return {"spatial": spatial, "object": thing, "goal": goal, "10": long}


_RENAME = {
    "observation.images.agentview": "observation.images.image",
    "observation.images.wrist": "observation.images.image2",
}
"""Our cameras -> what LeRobot's LIBERO environment, and policies trained on its data sets, call them."""

RECIPES: Mapping[str, Recipe] = {
    "openvla": Recipe(
        "OpenVLA, fine-tuned on each suite",
        "openvla/openvla-7b-finetuned-libero-{suite}",
        _row(84.7, 88.4, 79.2, 53.7),
        "OpenVLA's README; 3 seeds of 500 episodes",
        {"preset": "libero", "camera": "agentview", "rotate_180": False, "unnorm_key": "libero_{suite}"},
    ),
    "openvla-oft": Recipe(
        "OpenVLA-OFT",
        "",
        _row(97.6, 98.4, 97.9, 94.5),
        "average 97.1 from arXiv 2502.19645; per suite from a community table; 220 steps for spatial",
    ),
    "pi0": Recipe(
        "pi0",
        "lerobot:lerobot/pi0_libero_finetuned",
        _row(96.8, 98.8, 95.8, 85.2),
        "model card Dexmal/libero-db-pi0, community table",
        {"rename": _RENAME},
    ),
    "pi0.5": Recipe(
        "pi0.5",
        "lerobot:lerobot/pi05_libero_finetuned",
        _row(97.0, 99.0, 98.0, 96.0),
        "LeRobot's documentation, 10 episodes a task; openpi reports 98.8, 98.2, 98.0, 92.4",
        {"rename": _RENAME},
        episodes=10,
    ),
    "smolvla": Recipe(
        "SmolVLA 0.45B",
        "lerobot:HuggingFaceVLA/smolvla_libero",
        _row(90.0, 96.0, 92.0, 71.0),
        "arXiv 2506.01844, table 2, as quoted by others; a user's run gave 63, 93, 81, 56 (LeRobot issue 3264)",
        {"rename": _RENAME},
        episodes=10,
    ),
}
"""Model -> how it is evaluated. LIBERO's time limits are those of the environments' ids."""


def recipe_of(model: str) -> Recipe:
    """The recipe of a model.

    Raises:
        UnknownName: none of that name.
    """
    if model not in RECIPES:
        raise UnknownName(f"LIBERO table: model {model!r} is unknown{nearest(model, RECIPES)}")
    return RECIPES[model]


def load(model: str, suite: str) -> Policy:
    """The checkpoint of a model for a suite, through our adapters.

    Raises:
        BadInput: no adapter runs it.
    """
    import policies

    recipe = recipe_of(model)
    if not recipe.checkpoint:
        raise BadInput(f"LIBERO table: no adapter runs {recipe.what}; its published figures are for comparison only.")
    options = {
        key: value.format(suite=suite) if isinstance(value, str) else value for key, value in recipe.options.items()
    }
    return policies.load(recipe.checkpoint.format(suite=suite), **options)


def fill(
    model: str,
    suite: str,
    episodes: int | None = None,
    folder: Path = FOLDER,
    policy: Policy | None = None,
    tasks: range = range(10),
    max_steps: int | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Evaluate a model on the fixed initial states of a suite, as often a task as published; goes on where it was interrupted.

    Args:
        episodes: a task, 1 to 50: initial states 0, 1, ...; None as published.
        folder: gets model-suite.json and the rollouts.
        policy: used in place of the checkpoint; tasks, max_steps: less than all, for a look.
    Returns:
        what was written.
    """
    recipe = recipe_of(model)
    if suite not in SUITES:
        raise UnknownName(f"LIBERO table: suite {suite!r} is unknown{nearest(suite, SUITES)}")
    count = recipe.episodes if episodes is None else episodes
    if not 1 <= count <= 50:
        raise BadInput(f"LIBERO table: episodes must lie in 1..50, the initial states of a task; got {count}.")
    policy = load(model, suite) if policy is None else policy
    rows = []
    for task in [SUITES[suite][number] for number in tasks]:
        spec = gym.spec(task.id)
        spec.kwargs = {**spec.kwargs, "obs_type": "pixels_agent_pos", "camera_size": recipe.camera_size}
        spec.additional_wrappers = (
            *spec.additional_wrappers,
            ClipAction.wrapper_spec(),
        )  # as robosuite does; ours would refuse
        table = rollout(
            spec, policy, episodes=count, seed=0, num_envs=1, options=initial_state, max_steps=max_steps, condition=task.name,
            run=folder / f"{model}-{suite}" / f"{task.index}-{count}", progress=False,
        ).episodes  # fmt: skip
        good = table[~table["errored"]]
        rows.append(
            {
                "task": task.index,
                "success": int((good["success"] > 0).sum()),
                "episodes": len(good),
                "errored": int(table["errored"].sum()),
            }
        )
        say(f"{task.id}: {rows[-1]['success']} of {rows[-1]['episodes']} ({rows[-1]['errored']} errored)")
    won, run = sum(row["success"] for row in rows), sum(row["episodes"] for row in rows)
    share = proportion_interval(won, run) if run else None
    whole = len(tasks) == 10 and max_steps is None
    found = {
        "model": model, "suite": suite, "policy": policy.describe(), "episodes_a_task": count, "tasks": rows, "whole": whole,
        "success": None if share is None else [100 * share.value, 100 * share.low, 100 * share.high], "environment": environment_record(),
    }  # fmt: skip
    write_json(folder / f"{model}-{suite}.json", found)
    return found


def initial_state(episode: int) -> dict[str, int]:
    """Options of the reset of an episode: its fixed initial state."""
    return {"init_state_id": episode}


def table(folder: Path = FOLDER) -> list[dict[str, str]]:
    """One row per model and suite: what was published [%], and what `fill` found here with its 95 % interval."""
    rows = []
    for model, recipe in RECIPES.items():
        for suite, value in recipe.published.items():
            rows.append(
                {
                    "model": model,
                    "suite": suite,
                    "published": f"{value:.1f}",
                    "here": _here(folder / f"{model}-{suite}.json"),
                    "source": recipe.source,
                }
            )
    return rows


def _here(path: Path) -> str:
    if not path.exists():
        return ""
    found = json.loads(path.read_text())
    value, low, high = found["success"] or (math.nan,) * 3
    part = "" if found["whole"] else ", not all of it"
    return f"{value:.1f} ({low:.1f} to {high:.1f}; {found['episodes_a_task']} a task{part})"
