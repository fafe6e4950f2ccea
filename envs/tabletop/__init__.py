"""A tabletop with a 7-joint arm, after LIBERO. See README.md of this folder.

Importing this module registers the ids of `TASK_IDS` and `SUITE_IDS` with gymnasium and does not import mujoco.
"""

from __future__ import annotations

from envs.tabletop.suites import SUITE_IDS, TASK_IDS, register
from envs.tabletop.tasks import SUITES, TASKS

register()

__all__ = ["SUITES", "SUITE_IDS", "TASKS", "TASK_IDS"]
