"""Physics that a robot's servo steps: the environment takes note of it as it does of its own."""

from __future__ import annotations

import gymnasium as gym
import mujoco
import numpy as np
import pytest

from envs.tabletop.env import TabletopEnv
from envs.tabletop.scene import N_SUBSTEPS


def test_noticing_what_others_stepped_equals_a_step() -> None:
    one, other = TabletopEnv("PutBowlOnPlate"), TabletopEnv("PutBowlOnPlate")
    one.reset(seed=4)
    other.reset(seed=4)
    action = np.array([0.2, -0.1, -0.3, 0.0, 0.0, 0.1, 1.0], dtype=np.float32)
    for _ in range(12):
        observation, *_, info = one.step(action)
        world = other.world
        world.data.ctrl[:] = other.controller.command(action.astype(float), world.tcp, world.tcp_mat)
        mujoco.mj_step(world.model, world.data, nstep=N_SUBSTEPS)
        other.notice()
    seen, said = other.look()
    for key, value in observation.items():
        np.testing.assert_array_equal(seen[key], value)
    assert (said["path_length"], said["stage"], said["contact_force"]) == (
        info["path_length"], info["stage"], info["contact_force"],
    )  # fmt: skip


def test_there_is_nothing_to_see_before_a_reset() -> None:
    env = TabletopEnv("PutBowlOnPlate")
    for method in (env.look, env.notice):
        with pytest.raises(gym.error.ResetNeeded):
            method()
