"""LeRobot's plug-in: `--policy.type=steered` and `--env.type=steer_agents` in lerobot-eval, lerobot-rollout and the others.

LeRobot imports this package by itself, because its distribution's name begins with `lerobot_policy_`.
"""

import launch.lerobot_env  # noqa: F401 - registers the environments
from lerobot_policy_steered.configuration_steered import SteeredConfig

__all__ = ["SteeredConfig"]
