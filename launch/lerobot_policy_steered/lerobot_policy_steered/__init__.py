"""LeRobot's plug-in: the policy type `steered`, the environment type `steer_agents`, and this project's robots, in LeRobot's own tools.

LeRobot imports this package by itself, because its distribution's name begins with `lerobot_policy_`.
"""

import launch.lerobot_env
import launch.robot.robots  # noqa: F401 - registers the robots
from lerobot_policy_steered.configuration_steered import SteeredConfig

__all__ = ["SteeredConfig"]
