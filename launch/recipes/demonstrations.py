"""Demonstrations of the tabletop experts, as arrays.

As in DART (Laskey et al. 2017, arXiv 1703.09327) the action that is executed is noisy and the one that is recorded is clean, so
that a policy sees the states it will get itself into, with what to do there. We differ: the noise is white and of one
size, not fitted to the learner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import policies.errors
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import make_expert

RETREAT = 3
"""Steps that are still recorded after success: the hand learns to stay away."""
_TURN_SHARE = 0.3
"""Rotations get this share of the noise."""


@dataclass(frozen=True)
class Demonstration:
    """One successful episode of T steps.

    Args:
        observations: key -> (T, ...) arrays, as the environment gave them.
        actions: (T, 7) float32, the expert's clean actions.
        seed: of the environment's reset.
    """

    observations: Mapping[str, np.ndarray]
    actions: np.ndarray
    seed: int


def demonstrate(
    task: str,
    episodes: int,
    *,
    seed: int = 0,
    noise: float = 0.12,
    side: str = "random",
    style: Mapping[str, str] | None = None,
    max_steps: int = 300,
    on_episode: Callable[[int], None] | None = None,
    **settings: Any,
) -> tuple[list[Demonstration], int]:
    """Record successful episodes of a task's expert, on random initial states.

    Args:
        task: name, e.g. "PutBowlOnPlate".
        episodes: how many successes.
        seed: of initial states, noise and side.
        noise: standard deviation of what is added to the executed action, in action units.
        side, style: of the expert, see `envs.tabletop.experts`.
        max_steps: longer episodes count as failures.
        on_episode: called with the number of successes so far.
        settings: of `TabletopEnv`, e.g. obs_type, shift.
    Returns:
        the demonstrations, and how many episodes were tried.
    """
    if episodes < 1:
        raise policies.errors.BadInput(f"demonstrate: episodes must be at least 1, got {episodes}.")
    env = TabletopEnv(task=task, **settings)
    rng = np.random.default_rng([seed, 7])
    sigma = noise * np.array([1, 1, 1, _TURN_SHARE, _TURN_SHARE, _TURN_SHARE, 0])
    found: list[Demonstration] = []
    tried = 0
    expert = None
    while len(found) < episodes:
        reset_seed = int(np.random.SeedSequence([seed, tried]).generate_state(1)[0])
        tried += 1
        observation, _ = env.reset(seed=reset_seed)
        expert = expert or make_expert(env, style, side, seed)
        expert.reset()
        seen, actions, left = [], [], -1
        for _ in range(max_steps):
            action = expert.act()
            seen.append(observation)
            actions.append(action)
            observation, _, success, _, _ = env.step(np.clip(action + rng.normal(0, 1, 7) * sigma, -1, 1))
            left = RETREAT if success and left < 0 else left - 1 if left > 0 else left
            if left == 0:
                break
        if left >= 0:
            stacked = {key: np.stack([entry[key] for entry in seen]) for key in seen[0]}
            found.append(Demonstration(stacked, np.stack(actions), reset_seed))
            if on_episode is not None:
                on_episode(len(found))
    env.close()
    return found, tried
