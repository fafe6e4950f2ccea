"""What the experiments on LIBERO share: `flow-libero` on the task that it was taught, where and how long, and what is measured.

Everything runs on the privileged state, without pictures, with `physics="lite"` and drawn starts. Seeds of choices and of tests are
those of `vls` and `dsrl`. Environments are pooled: a scene takes seconds to compile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import gymnasium as gym
import pandas as pd

from launch.experiments.dsrl import World
from steer_agents.guidance.prediction import Kinematics

POLICY, TASK = "flow-libero", "Libero-goal-1"
LIMIT = 240
"""Env steps of an episode; unsteered successes take about 117, LIBERO's own limit is 300."""
ROWS = 4
"""Environments side by side: each takes 0.3 GB."""
SETTINGS: Mapping[str, Any] = {"starts": "drawn", "physics": "lite"}
KINEMATICS = Kinematics(position=(0, 1, 2), scale=(0.0131,) * 3, control_dt=0.05, gripper=6)
"""What an action does to the hand, measured in steady motion: 1.31 cm a unit and step. The controller's target is 5 cm a unit away,
which it never reaches within a step."""


def world(
    shift: Mapping[str, float] | None = None, wrap: Callable[[gym.Env], gym.Env] | None = None, policy: str = POLICY
) -> World:
    """The task, in range or under a shift."""
    return World(
        policy,
        TASK,
        shift or {},
        LIMIT,
        wrap,
        measures=measures,
        settings=SETTINGS,
        rows=ROWS,
        training_rows=ROWS,
        pooled=True,
    )


def measures(steps: pd.DataFrame, info: Mapping[str, Any]) -> dict[str, float]:
    """mean_speed of the tcp over the episode [m/s], path_length [m]; with a box, whether it was entered and for how many steps."""
    found = {"mean_speed": float(steps["speed"].mean()), "path_length": float(steps["path_length"].iloc[-1])}
    if "entered" in steps:
        found |= {"entered": float(steps["entered"].iloc[-1]), "steps_inside": float(steps["inside"].sum())}
    return found
