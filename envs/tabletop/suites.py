"""The ids of the tabletop: one per task, one per suite.

This module registers them without importing mujoco; that happens when an environment is made.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from envs.tabletop.tasks import SUITES, TASKS

ENTRY_POINT = "envs.tabletop.env:TabletopEnv"

TASK_IDS: Mapping[str, dict[str, Any]] = {task.id: {"task": task.name} for task in TASKS.values()}
"""Id of a task -> arguments of `TabletopEnv`."""

SUITE_IDS: Mapping[str, dict[str, Any]] = {
    f"SteerAgents/Tabletop{suite.capitalize()}-v0": {"suite": suite} for suite in SUITES
}
"""Id of a suite -> arguments of `TabletopEnv`; `task_id` picks the task."""


def register() -> None:
    """Register all ids with gymnasium; a suite has the time limit of its longest task."""
    for env_id, settings in TASK_IDS.items():
        limit = TASKS[settings["task"]].max_episode_steps
        gym.register(env_id, entry_point=ENTRY_POINT, kwargs=dict(settings), max_episode_steps=limit)
    for env_id, settings in SUITE_IDS.items():
        limit = max(task.max_episode_steps for task in SUITES[settings["suite"]])
        gym.register(env_id, entry_point=ENTRY_POINT, kwargs=dict(settings), max_episode_steps=limit)
