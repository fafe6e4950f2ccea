"""Transitions from before training, put into the replay buffer: rollouts of the policy, or demonstrations.

Demonstrations in the buffer are the largest lever known for DSRL (arXiv 2506.15799, offline to online). DSRL-NA learns from real actions
and takes any; DSRL-SAC needs the noise that an action came from, so it takes rollouts only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.errors import BadInput
from steer_agents.noise.noise_env import NoiseEnv


@dataclass(frozen=True)
class Transitions:
    """N chunks.

    Args:
        states, next_states: (N, n).
        actions: (N, n_action_steps, A) as executed, in the environment's units.
        rewards: (N,) of a chunk, as `ChunkReward` makes them.
        terminated: (N,) bool; a time limit is not a termination.
        noise: (N, d) that the actions came from; None where nobody knows it (demonstrations).
    """

    states: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    next_states: np.ndarray
    terminated: np.ndarray
    noise: np.ndarray | None = None

    def __post_init__(self) -> None:
        lengths = {name: len(value) for name, value in vars(self).items() if value is not None}
        if len(set(lengths.values())) != 1:
            raise BadInput(f"Transitions: expected arrays of equal length, got {lengths}.")
        for name, value in vars(self).items():
            if value is not None and not np.isfinite(value).all():
                raise BadInput(f"Transitions: {name} holds NaN or infinite values.")

    def __len__(self) -> int:
        return len(self.states)


def record(env: NoiseEnv, n_chunks: int, seed: int = 0) -> Transitions:
    """Rollouts of the policy with clipped standard normal noise, as DSRL's first rollouts: at least `n_chunks` of them."""
    rng = np.random.default_rng(seed)
    states, _ = env.reset()
    rows: list[tuple[np.ndarray, ...]] = []
    while len(rows) * env.num_envs < n_chunks:
        w = np.clip(rng.standard_normal(env.action_space.shape), -env.bound, env.bound).astype(np.float32)
        after, reward, terminated, truncated, infos = env.step(w)
        last = np.where((terminated | truncated)[:, None], infos.get("final_obs", after), after)
        rows.append((states, infos["actions"], reward, last, terminated, w))
        states = after
    return Transitions(*(np.concatenate(column) for column in zip(*rows, strict=True)))


def from_demonstration(
    states: np.ndarray, actions: np.ndarray, n_action_steps: int, success: bool = True
) -> Transitions:
    """One episode of single steps as chunks, with the reward `penalty` at its default scale.

    Args:
        states: (T + 1, n), the last one after the last action.
        actions: (T, A). What does not fill a last chunk is filled up with the last action.
        n_action_steps: executed per chunk.
        success: the episode ended with success, at its last step.
    """
    if len(states) != len(actions) + 1:
        raise BadInput(
            f"from_demonstration: expected one state more than actions, got {len(states)} and {len(actions)}."
        )
    n_steps, starts = len(actions), range(0, len(actions), n_action_steps)
    ends = [min(start + n_action_steps, n_steps) for start in starts]
    last = [end == n_steps for end in ends]
    chunks = [
        np.concatenate([actions[start:end], np.repeat(actions[end - 1 : end], n_action_steps - (end - start), axis=0)])
        for start, end in zip(starts, ends, strict=True)
    ]
    paid = [
        (end - start - (success and over)) / n_action_steps for start, end, over in zip(starts, ends, last, strict=True)
    ]
    return Transitions(
        states[list(starts)].astype(np.float32), np.stack(chunks).astype(np.float32), -np.array(paid),
        states[ends].astype(np.float32), np.array([success and over for over in last]),
    )  # fmt: skip


def add(model: Any, transitions: Transitions) -> None:
    """Put transitions into the replay buffer of a `DSRLSAC` or `DSRLNA`, before the first step.

    Raises:
        BadInput: demonstrations for SAC, widths that do not fit, fewer than one per environment, or more than the buffer holds.
    """
    from steer_agents.noise.aliased import DSRLNA

    buffer, n_envs = model.replay_buffer, model.n_envs
    aliased = isinstance(model, DSRLNA)
    if not aliased and transitions.noise is None:
        raise BadInput(
            "DSRL-SAC learns from noise, and these transitions do not say from which noise they came; use variant 'na'."
        )
    if transitions.states.shape[1] != model.observation_space.shape[0]:
        raise BadInput(
            f"prior transitions: expected states of {model.observation_space.shape[0]} numbers, got {transitions.states.shape[1]}."
        )
    if not n_envs <= len(transitions) <= buffer.buffer_size * n_envs:
        raise BadInput(
            f"prior transitions: expected {n_envs} to {buffer.buffer_size * n_envs} of them, got {len(transitions)}."
        )
    assert transitions.noise is not None or aliased
    for start in range(0, len(transitions), n_envs):
        at: Sequence[int] = [i % len(transitions) for i in range(start, start + n_envs)]
        if aliased:
            actions = model.scaled(transitions.actions[at])
            buffer.coming = model.draw_pairs(transitions.states[at])
        else:
            actions = model.policy.scale_action(transitions.noise[at])  # type: ignore[index]
        buffer.add(
            transitions.states[at], transitions.next_states[at], actions, transitions.rewards[at],
            transitions.terminated[at], [{} for _ in at],
        )  # fmt: skip
