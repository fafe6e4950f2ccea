"""A box in the air that is not there: nothing collides with it, being in it is only measured.

Guidance is told where it is, the policy is not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np

ZONE = "zone"
"""The box's name among the keypoints."""


class KeepOut(gym.Wrapper[Any, Any, Any, Any]):
    """Adds a box to the infos: `keypoints[zone]`, `half_sizes[zone]`, `inside` (the tcp is in it now), `entered` (was, in this episode).

    Args:
        env: with `keypoints` in its infos, "tcp" among them.
        place: info of the reset -> (3,) middle of the box [m].
        half_size: (3,) half extents along the world's axes [m].
    """

    def __init__(
        self, env: gym.Env, place: Callable[[dict[str, Any]], np.ndarray], half_size: tuple[float, float, float]
    ) -> None:
        super().__init__(env)
        self._place, self._half = place, np.array(half_size, dtype=np.float64)
        self._entered = False
        self._middle: np.ndarray = np.zeros(3)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._middle, self._entered = np.asarray(self._place(info), dtype=np.float64), False
        return observation, self._with_zone(info)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated, self._with_zone(info)

    def _with_zone(self, info: dict[str, Any]) -> dict[str, Any]:
        inside = bool((np.abs(info["keypoints"]["tcp"] - self._middle) < self._half).all())
        self._entered |= inside
        return info | {
            "keypoints": info["keypoints"] | {ZONE: self._middle.copy()},
            "half_sizes": info["half_sizes"] | {ZONE: self._half.copy()},
            "inside": inside,
            "entered": self._entered,
        }
