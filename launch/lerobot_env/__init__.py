"""The tabletop for LeRobot's own tools: `--env.discover_packages_path=launch.lerobot_env --env.type=steer_agents`.

LeRobot imports this package and finds the environment's config by its type. It is a package because LeRobot looks for
submodules in what it imports.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.envs.configs import EnvConfig
from lerobot.envs.utils import NEW_ROLLOUT_OPTION
from lerobot.utils.constants import ACTION, OBS_ENV_STATE, OBS_IMAGES, OBS_STATE

import envs
from envs.errors import BadSetting, UnknownTask, nearest
from envs.tabletop.observations import AGENT_POS, ENVIRONMENT_STATE, OBS_TYPES, PIXELS, observation_space
from envs.tabletop.scene import CAMERAS, CONTROL_DT
from envs.tabletop.tasks import SUITES, TASKS, Task

assert envs.__name__  # importing it registers the environments


class ForLeRobot(gym.Wrapper):
    """Takes what LeRobot's rollout gives: a reset option of its own, and actions that may lie outside [-1, 1].

    Args:
        env: a task of the tabletop.
        clip_actions: clip finite actions into [-1, 1]; otherwise the environment refuses them.
    """

    def __init__(self, env: gym.Env, clip_actions: bool) -> None:
        super().__init__(env)
        self._clip = clip_actions

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        options = {key: value for key, value in (options or {}).items() if key != NEW_ROLLOUT_OPTION}
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        return self.env.step(np.clip(action, -1.0, 1.0) if self._clip else action)


@EnvConfig.register_subclass("steer_agents")
@dataclass
class TabletopConfig(EnvConfig):
    """The tabletop as LeRobot configures it.

    Args:
        task: a task ("PutBowlOnPlate") or a suite ("goal"), of which every task is evaluated.
        task_ids: of a suite, only these.
        obs_type: "state", "pixels" or "pixels_agent_pos"; camera_size: of the pictures [pixels].
        shift: axis -> size.
        episode_length: time limit [steps]; None leaves each task its own.
        clip_actions: clip actions into [-1, 1], as simulators in LeRobot do; a NaN is refused in any case.
        render_size: of LeRobot's films [pixels].
    """

    task: str | None = "PutBowlOnPlate"
    fps: int = round(1 / CONTROL_DT)
    task_ids: list[int] | None = None
    obs_type: str = "pixels_agent_pos"
    camera_size: int = 96
    shift: dict[str, float] = field(default_factory=dict)
    episode_length: int | None = None
    clip_actions: bool = True
    render_size: int = 256

    def __post_init__(self) -> None:
        if self.obs_type not in OBS_TYPES:
            raise BadSetting(f"obs_type={self.obs_type!r} is unknown{nearest(self.obs_type, OBS_TYPES)}")
        self.tasks()
        places = {
            PIXELS: {f"{PIXELS}/{camera}": f"{OBS_IMAGES}.{camera}" for camera in CAMERAS},
            AGENT_POS: {AGENT_POS: OBS_STATE},
            ENVIRONMENT_STATE: {ENVIRONMENT_STATE: OBS_ENV_STATE},
        }
        kinds = {PIXELS: FeatureType.VISUAL, AGENT_POS: FeatureType.STATE, ENVIRONMENT_STATE: FeatureType.ENV}
        spaces = observation_space(self.obs_type, self.camera_size)
        self.features = {ACTION: PolicyFeature(type=FeatureType.ACTION, shape=(7,))}
        self.features_map = {ACTION: ACTION}
        for key in OBS_TYPES[self.obs_type]:
            for place, name in places[key].items():
                space: Any = spaces[key]
                shape = space[place.split("/")[1]].shape if key == PIXELS else space.shape
                self.features[place] = PolicyFeature(type=kinds[key], shape=shape)
                self.features_map[place] = name

    @property
    def gym_kwargs(self) -> dict[str, Any]:
        """Settings of every environment."""
        return {
            "obs_type": self.obs_type, "camera_size": self.camera_size, "shift": dict(self.shift),
            "render_mode": "rgb_array", "render_size": self.render_size,
        }  # fmt: skip

    def tasks(self) -> dict[str, dict[int, Task]]:
        """Suite -> task_id -> task, of everything that is evaluated.

        Raises:
            UnknownTask: no such task or suite, or no such task_id in it; the message names the nearest.
        """
        name = str(self.task)
        if name in TASKS:
            if self.task_ids is not None:
                raise BadSetting(f"task_ids belong to a suite ({', '.join(SUITES)}), got task={name!r}.")
            task = TASKS[name]
            return {task.suite: {SUITES[task.suite].index(task): task}}
        if name not in SUITES:
            raise UnknownTask(f"task={name!r} is unknown{nearest(name, [*TASKS, *SUITES])}")
        suite = SUITES[name]
        chosen = range(len(suite)) if self.task_ids is None else self.task_ids
        if wrong := [number for number in chosen if not 0 <= number < len(suite)]:
            raise UnknownTask(f"task_ids {wrong} are not in suite {name!r}, which has 0..{len(suite) - 1}.")
        return {name: {number: suite[number] for number in chosen}}

    def create_envs(self, n_envs: int, use_async_envs: bool = False) -> dict[str, dict[int, VectorEnv]]:
        """Suite -> task_id -> a vector environment of `n_envs`."""
        made: dict[str, dict[int, VectorEnv]] = {}
        for suite, tasks in self.tasks().items():
            made[suite] = {}
            for number, task in tasks.items():
                jobs = [partial(self._make, task.id) for _ in range(n_envs)]
                made[suite][number] = (
                    AsyncVectorEnv(jobs, autoreset_mode=AutoresetMode.SAME_STEP, context="forkserver")
                    if use_async_envs and n_envs > 1
                    else SyncVectorEnv(jobs, autoreset_mode=AutoresetMode.SAME_STEP)
                )
        return made

    def _make(self, env_id: str) -> gym.Env:
        env = gym.make(env_id, max_episode_steps=self.episode_length, disable_env_checker=True, **self.gym_kwargs)
        return ForLeRobot(env, self.clip_actions)
