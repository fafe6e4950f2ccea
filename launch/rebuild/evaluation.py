"""Embedded policies on the fixed initial states of a task."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd

import envs
from envs.tabletop.init_states import N_INIT_STATES, fixed_init_state
from steer_agents.loop import rollout

assert envs.__name__  # importing it registers the environments


def fixed_states(
    policy: Any,
    task: str,
    shift: Mapping[str, float],
    seeds: Sequence[int],
    episodes: int = N_INIT_STATES,
    condition: str = "",
    folder: Path | None = None,
) -> pd.DataFrame:
    """Episode table of one episode per fixed initial state and seed.

    Args:
        policy: for obs_type "state".
        task, shift: of the environment.
        seeds: of the runs: what the shift draws, and the policy's own randomness.
        episodes: how many of the 50 initial states.
        condition: name in the table.
        folder: makes it resumable.
    """
    spec = copy.deepcopy(gym.spec(f"SteerAgents/{task}-v0"))
    spec.kwargs = {**spec.kwargs, "shift": dict(shift)}
    tables = []
    for seed in seeds:
        run = rollout(
            spec, policy, episodes=episodes, seed=seed, num_envs=episodes, options=fixed_init_state,
            measures=side_passed, condition=condition, run=None if folder is None else folder / str(seed),
        )  # fmt: skip
        tables.append(run.episodes)
    return pd.concat(tables, ignore_index=True)


def side_passed(steps: pd.DataFrame, info: Mapping[str, Any]) -> dict[str, float]:
    """On which side of the post the block was carried: passed_left is 1 left, 0 right, NaN without a post or without passing."""
    if "clearance_post" not in steps:
        return {}
    beside = steps[steps["held"].astype(bool) & steps["tcp_x"].between(0.46, 0.52)]
    return {"passed_left": float("nan") if beside.empty else float(beside["tcp_y"].mean() < 0)}
