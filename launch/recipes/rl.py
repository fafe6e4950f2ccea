"""How the embedded RL policies are made: stable-baselines3 on dense rewards, kept as an MLP without SB3 and without pickle."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

import envs
from launch.experiments.base import Say
from launch.recipes.card import Score, write_card
from launch.recipes.evaluation import fixed_states
from launch.recipes.flow import EVALUATION_SEEDS
from policies import sb3
from policies.mlp import MLPPolicy, save

assert envs.__name__  # importing it registers the environments


@dataclass(frozen=True)
class RLRecipe:
    """What makes one policy.

    Args:
        algorithm: "SAC" or "PPO".
        task: it is trained and evaluated on.
        env_steps: of training.
        num_envs: environments side by side.
        options: of the algorithm, beyond SB3's defaults.
        seed: of everything.
    """

    algorithm: str
    task: str
    env_steps: int
    num_envs: int
    options: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0


RECIPES: Mapping[str, RLRecipe] = {
    "rl-sac-press": RLRecipe("SAC", "PressButton", 30_000, 1, {"learning_starts": 1000, "gamma": 0.97}),
    "rl-ppo-close": RLRecipe(
        "PPO", "CloseDrawer", 300_000, 8,
        {"n_steps": 256, "batch_size": 256, "gamma": 0.97, "ent_coef": 0.0, "n_epochs": 5},
    ),
}  # fmt: skip
NET_ARCH = (128, 128)
CLIP = 10.0


class Gain(gym.Wrapper):
    """Pays for progress instead of for being far: 10 (p_t - p_t-1) - 0.05, and 10 more for success.

    The dense reward p_t would pay most for staying close to success without having it, because success ends the episode.
    """

    def reset(self, **options: Any) -> Any:
        self._before: float | None = None
        return self.env.reset(**options)

    def step(self, action: Any) -> Any:
        observation, p, terminated, truncated, info = self.env.step(action)
        p = float(p)
        gain = 0.0 if self._before is None else p - self._before
        self._before = p
        return observation, 10 * gain - 0.05 + 10 * terminated, terminated, truncated, info


def run(name: str, folder: Path, say: Say) -> Path:
    """Make one policy: weights, evaluation tables and card in `folder`; returns the weight file."""
    recipe = RECIPES[name]
    say.plan([100.0, 10.0, 10.0])
    say.stage(f"{name}: {recipe.algorithm} on {recipe.task}, {recipe.env_steps} steps")
    policy = train(recipe, name, say)
    path = folder / f"{name}.safetensors"
    save(policy, path)
    scores = []
    for condition, shift in {"in range": {}, "shifted": {"object_position": 1.0}}.items():
        say.stage(f"{name}: episodes on the fixed initial states, {condition}")
        episodes = fixed_states(policy, recipe.task, shift, EVALUATION_SEEDS, condition=condition)
        episodes.to_parquet(folder / f"{name}-{condition.replace(' ', '-')}.parquet")
        scores.append(Score.of(f"success, {condition}", episodes["success"].dropna().to_numpy() > 0))
    facts = {
        "task": recipe.task,
        "training": f"{recipe.algorithm} of stable-baselines3, {recipe.env_steps} env steps, dense reward, "
        f"{recipe.num_envs} environments, seed {recipe.seed}; "
        + ", ".join(f"{key} {value}" for key, value in recipe.options.items()),
        "network": f"MLP {NET_ARCH}, head {policy.config.head}, acts deterministically (std_scale 0)",
    }
    write_card(folder / f"{name}.md", name, f"an RL policy trained with {recipe.algorithm}", facts, scores)
    return path


def train(recipe: RLRecipe, name: str, say: Say) -> MLPPolicy:
    """Train with SB3 on normalised observations; the normalisation ends up in the first layer."""
    import stable_baselines3
    from stable_baselines3.common.callbacks import BaseCallback
    from stable_baselines3.common.env_util import make_vec_env
    from stable_baselines3.common.vec_env import VecNormalize

    class Tell(BaseCallback):
        """Says how training goes, ten times."""

        def _on_step(self) -> bool:
            every = max(1, recipe.env_steps // 10 // recipe.num_envs)
            if self.n_calls % every == 0 and self.model.ep_info_buffer:
                shown = np.mean([entry["r"] for entry in self.model.ep_info_buffer])
                length = np.mean([entry["l"] for entry in self.model.ep_info_buffer])
                say.note(f"{self.num_timesteps} steps: mean return {shown:.1f}, length {length:.0f}")
            return True

    vector = make_vec_env(
        lambda: Gain(gym.make(f"SteerAgents/{recipe.task}-v0", reward_type="dense")), recipe.num_envs, seed=recipe.seed
    )
    normal = VecNormalize(vector, norm_reward=recipe.algorithm == "PPO", clip_obs=CLIP, gamma=recipe.options["gamma"])
    algorithm = getattr(stable_baselines3, recipe.algorithm)
    model = algorithm(
        "MultiInputPolicy", normal, policy_kwargs={"net_arch": list(NET_ARCH)}, seed=recipe.seed, device="cpu",
        **recipe.options,
    )  # fmt: skip
    model.learn(recipe.env_steps, callback=Tell())
    converted = sb3.from_model(model, name)
    keys = converted.config.keys
    mean = np.concatenate([normal.obs_rms[key].mean for key in keys])
    std = np.concatenate([np.sqrt(normal.obs_rms[key].var + normal.epsilon) for key in keys])
    raw = sb3.normalised_by(converted, mean, std)
    normal.close()
    network: Any = raw.module
    return MLPPolicy(network, replace(raw.config, std_scale=0.0), name)
