"""How the embedded RL policies are made: SAC and PPO of stable-baselines3, kept as an MLP without SB3 and without pickle.

They are trained on a part of the task (`Lesson`): a few entries of the state at a fixed scale, three axes of the action, a
short time limit and a reward for haste. `policies.sb3.widened` folds that part into the first and the last layer, so that
the policy that is kept acts in the ordinary environment, on its whole state and with all seven axes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
import torch

import envs
from envs.tabletop.observations import ENVIRONMENT_STATE, ENVIRONMENT_STATE_SLICES, N_ENVIRONMENT_STATE
from launch.experiments.base import Say
from launch.rebuild.card import Score, write_card
from launch.rebuild.evaluation import fixed_states
from launch.rebuild.flow import EVALUATION_SEEDS
from policies import sb3
from policies.errors import MissingExtra
from policies.mlp import MLPPolicy, save

assert envs.__name__  # importing it registers the environments

SCALES: Mapping[str, float] = {
    "object_from_tcp": 10.0,
    "target_from_object": 10.0,
    "controller_offset": 20.0,
    "opening": 1.0,
}
"""Parts of `environment_state` that are seen -> factor that brings them to about 1."""
INPUTS: Mapping[int, float] = {
    place: scale
    for part, scale in SCALES.items()
    for place in range(ENVIRONMENT_STATE_SLICES[part].start, ENVIRONMENT_STATE_SLICES[part].stop)
}
"""Place in `environment_state` -> factor."""
MOVED = (0, 1, 2)
"""Axes of the action that are learned: x, y, z."""
CONSTANTS = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0)
"""The other axes: no rotation, gripper closed."""
HASTE, PRIZE = 1.0, 5.0


@dataclass(frozen=True)
class RLRecipe:
    """What makes one policy.

    Args:
        algorithm: "SAC" or "PPO".
        task: it is trained and evaluated on.
        env_steps: of training; num_envs: environments side by side.
        hidden: widths of the hidden layers.
        options: of the algorithm, beyond SB3's defaults.
        limit: env_steps of an episode in training.
        seed: of everything.
    """

    algorithm: str
    task: str
    env_steps: int
    num_envs: int
    hidden: tuple[int, ...]
    options: Mapping[str, Any] = field(default_factory=dict)
    limit: int = 60
    seed: int = 0

    def evaluated_on(self) -> Mapping[str, tuple[str, Mapping[str, float]]]:
        """Condition -> (task, shift): the task as learned, and with objects moved."""
        return {"in range": (self.task, {}), "shifted": (self.task, {"object_position": 1.0})}


RECIPES: Mapping[str, RLRecipe] = {
    "rl-sac-press": RLRecipe(
        "SAC", "PressButton", 10_000, 1, (128, 128),
        {"gamma": 0.95, "learning_rate": 1e-3, "batch_size": 256, "learning_starts": 500, "train_freq": 2},
    ),
    "rl-ppo-close": RLRecipe(
        "PPO", "CloseDrawer", 60_000, 8, (64, 64),
        {"gamma": 0.95, "learning_rate": 1e-3, "n_steps": 128, "batch_size": 256, "n_epochs": 5},
    ),
}  # fmt: skip


class Lesson(gym.Wrapper):
    """The part of a task that is learned: see `INPUTS`, `MOVED` and `CONSTANTS`.

    Reward p - 1 for every step and 5 more for success, p the dense reward in [0, 1]. The dense reward alone would pay most
    for staying close to success without having it, because success ends the episode.

    Args:
        env: a task of the tabletop with `obs_type="state"`, `reward_type="dense"`.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (len(INPUTS),), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (len(MOVED),), np.float32)
        self._places, self._scales = list(INPUTS), np.array(list(INPUTS.values()), dtype=np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._seen(observation), info

    def step(self, action: np.ndarray) -> tuple[np.ndarray, SupportsFloat, bool, bool, dict[str, Any]]:
        whole = np.array(CONSTANTS, dtype=np.float32)
        whole[list(MOVED)] = action
        observation, p, terminated, truncated, info = self.env.step(whole)
        return self._seen(observation), float(p) - HASTE + PRIZE * terminated, terminated, truncated, info

    def _seen(self, observation: Any) -> np.ndarray:
        seen: np.ndarray = observation[ENVIRONMENT_STATE][self._places] * self._scales
        return seen


def run(name: str, folder: Path, say: Say) -> Path:
    """Make one policy: weights, evaluation tables and card in `folder`; returns the weight file."""
    recipe = RECIPES[name]
    say.plan([10.0, 1.0, 1.0])
    say.stage(f"{name}: {recipe.algorithm} on {recipe.task}, {recipe.env_steps} steps")
    policy = train(recipe, name, say)
    path = folder / f"{name}.safetensors"
    save(policy, path)
    scores = []
    for condition, (task, shift) in recipe.evaluated_on().items():
        say.stage(f"{name}: episodes of {task} on its fixed initial states, {condition}")
        episodes = fixed_states(policy, task, shift, EVALUATION_SEEDS, condition=condition)
        episodes.to_parquet(folder / f"{name}-{condition.replace(' ', '-')}.parquet")
        scores.append(Score.of(f"success, {condition}", episodes["success"].dropna().to_numpy() > 0))
    facts = {
        "task": recipe.task,
        "training": f"{recipe.algorithm} of stable-baselines3, {recipe.env_steps} env steps in {recipe.num_envs} "
        f"environment{'s' * (recipe.num_envs > 1)} of at most {recipe.limit} steps, seed {recipe.seed}; "
        + ", ".join(f"{key} {value:g}" for key, value in recipe.options.items()),
        "reward": f"dense reward - {HASTE:g} a step, {PRIZE:g} more for success",
        "sees": ", ".join(SCALES) + " of `environment_state`; all other entries have zero weights",
        "moves": "x, y, z; does not rotate, keeps the gripper closed",
        "network": f"MLP {recipe.hidden}, head {policy.config.head}, acts deterministically (std_scale 0)",
    }
    write_card(folder / f"{name}.md", name, f"an RL policy trained with {recipe.algorithm}", facts, scores)
    return path


def train(recipe: RLRecipe, name: str, say: Say) -> MLPPolicy:
    """Train with SB3 in `Lesson`; the policy returned acts in the ordinary environment.

    Raises:
        MissingExtra: stable-baselines3 is not installed.
    """
    try:
        import stable_baselines3
        from stable_baselines3.common.callbacks import BaseCallback
        from stable_baselines3.common.env_util import make_vec_env
    except ImportError as error:
        raise MissingExtra("training RL policies needs stable-baselines3: pip install stable-baselines3.") from error

    class Tell(BaseCallback):
        """Says how training goes, ten times."""

        def _on_step(self) -> bool:
            every = max(1, recipe.env_steps // 10 // recipe.num_envs)
            if self.n_calls % every == 0 and self.model.ep_info_buffer:
                length = np.mean([entry["l"] for entry in self.model.ep_info_buffer])
                gained = np.mean([entry["r"] for entry in self.model.ep_info_buffer])
                say.note(f"{self.num_timesteps} steps: mean return {gained:.1f}, episode of {length:.0f} steps")
            return True

    def make() -> Lesson:
        return Lesson(gym.make(f"SteerAgents/{recipe.task}-v0", reward_type="dense", max_episode_steps=recipe.limit))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # equal seeds give equal weights, and two pools would only wait for each other
    try:
        vector = make_vec_env(make, recipe.num_envs, seed=recipe.seed)
        algorithm = getattr(stable_baselines3, recipe.algorithm)
        model = algorithm(
            "MlpPolicy", vector, policy_kwargs={"net_arch": list(recipe.hidden)}, seed=recipe.seed, device="cpu",
            **recipe.options,
        )  # fmt: skip
        model.learn(recipe.env_steps, callback=Tell())
        vector.close()
    finally:
        torch.set_num_threads(threads)
    whole = sb3.widened(
        sb3.from_model(model, name), N_ENVIRONMENT_STATE, INPUTS, MOVED, CONSTANTS, keys=(ENVIRONMENT_STATE,)
    )
    network: Any = whole.module
    return MLPPolicy(network, replace(whole.config, std_scale=0.0), name)
