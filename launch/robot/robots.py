"""Registers this project's robots with LeRobot: import it, and `--robot.type=sim_follower`, `ur5` and `ur5e` are known."""

from launch.robot import config_sim_follower, ur

__all__ = ["config_sim_follower", "ur"]
