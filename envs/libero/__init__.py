"""LIBERO (arXiv 2306.03310) on hf-libero. See README.md of this folder.

Importing this module registers the ids of `TASK_IDS` with gymnasium and imports nothing of LIBERO.
"""

from __future__ import annotations

from envs.libero.tasks import SUITES, TASK_IDS, LiberoTask, register

register()

__all__ = ["SUITES", "TASK_IDS", "LiberoTask"]
