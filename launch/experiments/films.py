"""Films: the same start played several ways, side by side."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.tabletop.env import TabletopEnv
from envs.tabletop.scene import CONTROL_DT
from launch.rebuild.vla_evaluation import Pictures
from policies.base import Policy
from steer_agents.steerer import Part, steer

EDGE = 256
"""Of one picture [px]; a multiple of 16, as the encoder wants it."""


def episode(policy: Policy, task: str, seed: int, parts: Sequence[Part] = (), limit: int | None = None) -> np.ndarray:
    """(T, EDGE, EDGE, 3) uint8: what the camera sees of one episode, until success or the task's limit.

    Args:
        task: of the tabletop; seed: of the layout that is drawn, and of the policy.
        parts: what steers, none for an unsteered episode.
    """
    env = TabletopEnv(task, obs_type="state")
    observation, info = env.reset(seed=seed)
    frames = [env.picture("agentview", EDGE, EDGE)]

    def play() -> None:
        nonlocal observation, info
        policy.reset([seed], [info])
        for _ in range(limit or env.spec_of_task.max_episode_steps):
            seen: dict[str, Any] = {key: value[None] for key, value in observation.items()}
            if policy.picture_size is not None:
                seen["pixels"] = Pictures([env], policy.picture_size)
            observation, _, done, _, info = env.step(np.clip(policy.act(seen, infos=[info]).action[0], -1.0, 1.0))
            frames.append(env.picture("agentview", EDGE, EDGE))
            if done:
                return

    if parts:
        with steer(policy, *parts):
            play()
    else:
        play()
    env.close()
    return np.stack(frames)


def side_by_side(episodes: Sequence[np.ndarray]) -> bytes:
    """An mp4 in real time; those that end first stand still."""
    import imageio.v2 as imageio

    length = max(map(len, episodes))
    held = [np.concatenate([one, np.repeat(one[-1:], length - len(one), axis=0)]) for one in episodes]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        imageio.mimwrite(
            path, list(np.concatenate(held, axis=2)), fps=round(1 / CONTROL_DT), macro_block_size=16, quality=6
        )
        return path.read_bytes()
