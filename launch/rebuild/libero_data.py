"""Demonstrations of LIBERO's scripted controller at three speeds, as arrays: noisy in execution, clean in their labels.

As `launch.demos` does for the tabletop, after DART (arXiv 1703.09327): what is executed is the controller's action plus
Gaussian noise, what is
kept is its own. Starts are drawn anew from the regions of the task's BDDL file, so that the 50 fixed ones are never seen in training.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

import envs
from policies.errors import BadInput

assert envs.__name__  # importing it registers the environments

KEYS = ("agent_pos", "environment_state")
"""Entries of the observation in the order in which a policy flattens them."""
RETREAT = 3
"""Steps kept after success, without noise."""


@dataclass(frozen=True)
class LiberoDemos:
    """What to demonstrate.

    Args:
        task: an id's middle, e.g. "goal-1".
        per_speed: successful episodes of each speed.
        speeds: adverbs of the controller's `Style`, in turn.
        noise: standard deviation of the noise on position, relative to the speed's largest action; on rotation 0.3 of it.
        seed: of everything drawn.
    """

    task: str
    per_speed: int
    speeds: tuple[str, ...] = ("slowly", "normal", "quickly")
    noise: float = 0.2
    seed: int = 0

    def __post_init__(self) -> None:
        if self.per_speed < 1 or not self.speeds or not 0.0 <= self.noise <= 1.0:
            raise BadInput(f"demos: per_speed from 1, at least one speed, noise in 0..1; got {self}.")


@dataclass(frozen=True, eq=False)
class LiberoEpisode:
    """One successful demonstration of T steps.

    Args:
        states: (T, n_inputs) float32, the flattened observations; actions: (T, 7) float32, the labels.
        speed: adverb; tries: episodes it took, those before failed and are dropped.
    """

    states: np.ndarray
    actions: np.ndarray
    speed: str
    tries: int


def flat(observation: dict[str, Any]) -> np.ndarray:
    """(n_inputs,) float32, as the policy flattens it."""
    return np.concatenate([np.asarray(observation[key], dtype=np.float32).ravel() for key in KEYS])


def collect(demos: LiberoDemos) -> Iterator[LiberoEpisode]:
    """Successful episodes, the speeds in turn."""
    from envs.libero.experts import SPEEDS, Style

    env = gym.make(f"SteerAgents/Libero-{demos.task}-v0", starts="drawn", physics="lite")
    rng = np.random.default_rng([demos.seed, 77])
    try:
        for number in range(demos.per_speed * len(demos.speeds)):
            speed, tries = demos.speeds[number % len(demos.speeds)], 0
            while (found := _episode(env, Style(speed), SPEEDS[speed] * demos.noise, rng)) is None:
                tries += 1
                if tries > 20:
                    raise BadInput(
                        f"demos of {demos.task} {speed}: 20 failures in a row; take less noise than {demos.noise:g}."
                    )
            yield LiberoEpisode(*found, speed, tries + 1)
    finally:
        env.close()


def _episode(env: gym.Env, style: Any, noise: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    from envs.libero.experts import make_expert

    observation, _ = env.reset(seed=int(rng.integers(2**31)))
    expert, states, actions = make_expert(env, style), [], []
    scale = noise * np.array([1, 1, 1, 0.3, 0.3, 0.3, 0])
    left = -1  # steps after success
    while left != 0:
        action = expert.act()
        states.append(flat(observation))
        actions.append(action)
        executed = action if left > 0 else np.clip(action + scale * rng.standard_normal(7), -1, 1).astype(np.float32)
        observation, _, terminated, truncated, _ = env.step(executed)
        if truncated:
            return None
        left = RETREAT if terminated and left < 0 else left - 1 if left > 0 else left
    return np.stack(states), np.stack(actions)


def arrays(episodes: Sequence[LiberoEpisode]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """(states, actions) per episode, as `policies.flow.train` takes them."""
    return [one.states for one in episodes], [one.actions for one in episodes]
