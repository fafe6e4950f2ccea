"""Guided denoising: rewards of predicted trajectories, and the part that bends a policy's samples along them. See README.md."""

from __future__ import annotations

from steer_agents.guidance.endpoint import Endpoint, RewardWriter
from steer_agents.guidance.guidance import FeynmanKac, Repulsion, RewardGuidance
from steer_agents.guidance.language import Program
from steer_agents.guidance.prediction import Kinematics, Prediction
from steer_agents.guidance.scene import Entry, Scene, fixed, from_infos, from_observation, together
from steer_agents.guidance.stages import Stage, Stages, Trigger

__all__ = [
    "Endpoint",
    "Entry",
    "FeynmanKac",
    "Kinematics",
    "Prediction",
    "Program",
    "Repulsion",
    "RewardGuidance",
    "RewardWriter",
    "Scene",
    "Stage",
    "Stages",
    "Trigger",
    "fixed",
    "from_infos",
    "from_observation",
    "together",
]
