"""Recipes that tests deploy: functions of a module, so that they can be sent to another process."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import policies
from launch.robot.sim_envelope import sim_envelope
from policies.base import Decision, Observation, Policy
from steer_agents.envelope import SafetyEnvelope

if TYPE_CHECKING:
    from steer_agents.steerer import Steerer


@dataclass
class Loaded:
    """A `LoadedRecipe`."""

    policy: Policy
    steerer: Steerer | None
    envelope: SafetyEnvelope


def flow_strong() -> Loaded:
    return Loaded(policies.load("flow-strong"), None, sim_envelope())


class Swing(Policy):
    """Moves along y, back and forth, one action at a time; kills its process at its `deadly`-th action."""

    def __init__(self, deadly: int = 0, speed: float = 0.2) -> None:
        super().__init__()
        self.name, self._deadly, self._speed, self._calls = "swing", deadly, speed, 0

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        pass

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        self._calls += 1
        if self._calls == self._deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        y = float(observation["agent_pos"][0, 1])
        action = np.zeros((1, 7), dtype=np.float32)
        action[0, 1] = self._speed if (self._calls // 20) % 2 == 0 else -self._speed
        action[0, 6] = -1.0
        return Decision(action, {"y": np.array([y])})


def swing() -> Loaded:
    return Loaded(Swing(), None, sim_envelope())


def dying_swing() -> Loaded:
    return Loaded(Swing(deadly=12), None, sim_envelope())


def broken() -> Loaded:
    raise ValueError("no such recipe")
