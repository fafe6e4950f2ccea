"""LeRobot's policies: SmolVLA, pi0, pi0.5, pi0-FAST, ACT, diffusion. See README.md of this folder."""

from policies.lerobot.adapter import LeRobotDenoiser, LeRobotPolicy
from policies.lerobot.loading import estimate_of, load
from policies.lerobot.memory import Estimate

__all__ = ["Estimate", "LeRobotDenoiser", "LeRobotPolicy", "estimate_of", "load"]
