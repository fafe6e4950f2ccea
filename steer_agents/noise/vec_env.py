"""A gymnasium vector environment (mode SAME_STEP) as the `VecEnv` that stable-baselines3 asks for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from stable_baselines3.common.vec_env import VecEnv

from policies.errors import BadInput


class AsVecEnv(VecEnv):
    """Passes everything through: `final_obs` becomes `terminal_observation`, `truncated` becomes `TimeLimit.truncated`.

    Args:
        env: with (B, n) Box observations, e.g. a `NoiseEnv`.
    """

    def __init__(self, env: VectorEnv) -> None:
        if env.metadata.get("autoreset_mode") != AutoresetMode.SAME_STEP:
            raise BadInput(f"AsVecEnv: expected autoreset_mode SAME_STEP, got {env.metadata.get('autoreset_mode')}.")
        assert isinstance(env.single_action_space, gym.spaces.Space)
        self.env = env
        self._actions: np.ndarray | None = None
        self.infos: dict[str, Any] = {}
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)

    def reset(self) -> np.ndarray:
        observation, _ = self.env.reset()
        return np.asarray(observation)

    def step_async(self, actions: np.ndarray) -> None:
        self._actions = actions

    def step_wait(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        observation, reward, terminated, truncated, self.infos = self.env.step(self._actions)
        over = terminated | truncated
        infos: list[dict[str, Any]] = [{"TimeLimit.truncated": bool(late)} for late in truncated]
        for row in np.flatnonzero(over).tolist():
            final = self.infos["final_info"][row]
            infos[row] |= {"terminal_observation": self.infos["final_obs"][row]}
            if "is_success" in final:
                infos[row]["is_success"] = bool(final["is_success"])
        return observation, reward.astype(np.float32), over, infos

    def close(self) -> None:
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [getattr(self.env, attr_name, None) for _ in self._indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise BadInput(f"AsVecEnv: attributes cannot be set per row, asked for {attr_name!r}.")

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise BadInput(f"AsVecEnv: rows have no methods of their own, asked for {method_name!r}.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False for _ in self._indices(indices)]

    def _indices(self, indices: int | Iterable[int] | None) -> Sequence[int]:
        if indices is None:
            return range(self.num_envs)
        return [indices] if isinstance(indices, int) else list(indices)
