"""A plant and a policy for tests of set-points: the speed of the plant is a gain times what the policy's network gives, plus a load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import torch

from policies.base import Decision, Observation, Policy
from policies.mlp import MLP, MLPConfig
from policies.site_maps import site_map_for
from steer_agents.direction import Direction
from steer_agents.interventions import Add
from steer_agents.sites import Site
from steer_agents.strength import Strength

PUSHED = 0.2
"""Speed that one unit of strength adds, at gain 1 [m/s]."""


class Drive(Policy):
    """A network of two hidden units whose output is 0.3 + 0.2 times what is pushed into the first one; decides every `n_action_steps`."""

    name = "drive"
    entrances = frozenset({"modules", "decision"})

    def __init__(self, n_action_steps: int = 1) -> None:
        super().__init__()
        network = MLP(MLPConfig(n_inputs=1, n_outputs=1, hidden=(2, 2), activation="relu"))
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
            network.net[2].weight[0, 0] = 1.0
            network.net[2].bias[0] = 10.0  # so that the second layer does not clip
            network.net[4].weight[0, 0] = PUSHED
            network.net[4].bias[0] = 0.3 - 10 * PUSHED
        self.module, self.site_map = network, site_map_for(network)
        self.n_action_steps, self.temperature = n_action_steps, 1.0

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self._left, self._plan = 0, np.zeros(len(seeds))

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        if self._left == 0:
            with torch.no_grad():
                assert self.module is not None
                self._plan = self.module(torch.zeros(len(active), 1))[:, 0].double().numpy()
            self._left = self.n_action_steps
        self._left -= 1
        return Decision(self._plan.copy(), {"entropy_bits": np.log2(1 + np.ones(len(active)) * self.temperature)})

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        before, self.temperature = self.temperature, settings["temperature"]
        return {"temperature": before}


def push(strength: float = 0.0, sign: float = 1.0) -> Add:
    """Push into the first unit, one unit of strength being one unit."""
    site = Site("block_output", layer=0)
    direction = Direction.from_raw({"policy.0.block_output": torch.tensor([[sign, 0.0]])}, site)
    return Add(direction, strength=Strength(strength, "absolute"))


class Plant(gym.Env):
    """Speed = gain * action + load; 40 steps."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-100, 100, ())

    def __init__(self, gain: float = 1.0, load: float = 0.0, steps: int = 40) -> None:
        self.gain, self.load, self.steps = gain, load, steps

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self.time = 0
        return np.zeros(1, np.float32), {"speed": 0.0}

    def step(self, action: Any) -> Any:
        self.time += 1
        speed = self.gain * float(np.asarray(action)) + self.load
        info = {"speed": speed, "force": float(self.time), "is_success": True}
        return np.zeros(1, np.float32), 0.0, self.time >= self.steps, False, info
