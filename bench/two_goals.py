"""The two-goal toy: a point that can reach two goals, and a flow policy that was taught both. What latent-noise RL is timed on."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np

from policies.flow import FlowConfig, FlowPolicy, train

GOALS = np.array([[-0.8, 1.0], [0.8, 1.0]], dtype=np.float32)
REACHED = 0.15
STEP = 0.1
LIMIT = 60


class TwoGoals(gym.Env[dict[str, np.ndarray], np.ndarray]):
    """A point in the plane that starts near (0, 0) and moves by 0.1 of its action; goals at (-0.8, 1) and (0.8, 1).

    Success, and the end, is to come within 0.15 of the goal that is asked for: the right one, or with `cue` the one that `cue`
    (-1 or 1) shows.

    Args:
        cue: draw the goal that is asked for at every reset.
    """

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, cue: bool = False) -> None:
        box = gym.spaces.Box
        self.observation_space = gym.spaces.Dict(
            {"cue": box(-1.0, 1.0, (1,), np.float32), "state": box(-np.inf, np.inf, (2,), np.float32)}
        )
        self.action_space = box(-1.0, 1.0, (2,), np.float32)
        self.drawn = cue

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-0.1, 0.1, 2).astype(np.float32)
        self.asked = int(self.np_random.integers(2)) if self.drawn else 1
        self.steps = 0
        return self._observation(), {"is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        self.place = self.place + STEP * np.clip(action, -1, 1).astype(np.float32)
        self.steps += 1
        success = bool(np.linalg.norm(self.place - GOALS[self.asked]) < REACHED)
        return (
            self._observation(),
            float(success),
            success,
            self.steps >= LIMIT and not success,
            {"is_success": success},
        )

    def _observation(self) -> dict[str, np.ndarray]:
        return {"cue": np.array([2.0 * self.asked - 1], np.float32), "state": self.place.copy()}


def demonstrations(count: int, seed: int = 0) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """States (T, 2) and actions (T, 2) of an expert that goes to either goal and recovers from disturbances."""
    rng = np.random.default_rng(seed)
    states, actions = [], []
    for i in range(count):
        place, seen, done = rng.uniform(-0.1, 0.1, 2), [], []
        for _ in range(40):
            way = GOALS[i % 2] - place
            action = np.clip(way / max(np.linalg.norm(way), STEP), -1, 1)
            seen.append(place.copy())
            done.append(action)
            if np.linalg.norm(way) < REACHED / 2:
                break
            place = place + STEP * (action + 0.3 * rng.standard_normal(2))
        states.append(np.array(seen, np.float32))
        actions.append(np.array(done, np.float32))
    return states, actions


def taught(seed: int = 0, epochs: int = 20) -> FlowPolicy:
    """A small flow policy of both goals: width 128, 8 Euler steps, chunk 4."""
    states, actions = demonstrations(400, seed)
    config = FlowConfig(
        n_inputs=2, keys=("state",), action_dim=2, chunk_size=4, n_action_steps=4, num_denoise_steps=8, width=128, n_blocks=2, expansion=1
    )  # fmt: skip
    return FlowPolicy(train(config, states, actions, epochs=epochs, seed=seed), "two-goals")
