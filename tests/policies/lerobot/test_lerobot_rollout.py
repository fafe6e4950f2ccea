"""LeRobot's own `lerobot-rollout`, as it is, in a process of its own: a recipe folder on the simulated robot."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tiny_lerobot
import torch

pytest.importorskip("lerobot_policy_steered", reason="LeRobot's plug-in is not installed")

import policies
from launch.lerobot_folder import export
from steer_agents import artifacts
from steer_agents.direction import Direction
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import Site, steerable

RENAME = {
    "observation.images.image": "observation.images.agentview",
    "observation.images.image2": "observation.images.wrist",
}
STRENGTH = 8.0
LOCKSTEP, OFF = ("--inference.type=sync", "--robot.real_time=false"), '--policy.strengths={"add": 0}'
ACTIONS, CHUNK = 20, 100
"""Five seconds: what comes later than its chunk lasts is passed over by RTC, and machines are slow."""

Flown = Callable[..., tuple[str, dict[str, np.ndarray]]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SmolVLA with a push in its expert, exported."""
    made = tmp_path_factory.mktemp("rollout")
    tiny_lerobot.helpers(made)
    checkpoint = tiny_lerobot.write("smolvla", made, chunk_size=CHUNK, n_action_steps=ACTIONS)
    base = policies.load(f"lerobot:{checkpoint}", tokenizer=str(made / "tokenizer"))
    site = Site("mlp_output", layer=2, stack="expert")
    raw = {"expert.2.mlp_output": torch.randn(32, generator=torch.Generator().manual_seed(1))}
    artifacts.save(Direction.from_raw(raw, site, model=model_fingerprint(steerable(base))), made / "push.safetensors")
    part = f"{{add: push.safetensors, strength: {STRENGTH}, unit: absolute, limits: [-8, 8]}}"
    (made / "recipe.yaml").write_text(f"recipe: 1\nparts: [{part}]\n")
    return export(
        made / "recipe.yaml", made / "folder", str(checkpoint), tokenizer=str(made / "tokenizer"),
        rename_map=RENAME, seed=7,
    )  # fmt: skip


@pytest.fixture(scope="module")
def flown(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Flown:
    """What the command said, and what the arm did."""

    def run(*more: str) -> tuple[str, dict[str, np.ndarray]]:
        trace = tmp_path_factory.mktemp("trace") / "trace.npz"
        command = [
            sys.executable, "-m", "lerobot.scripts.lerobot_rollout", f"--policy.path={folder}", f"--rename_map={json.dumps(RENAME)}",
            "--robot.type=sim_follower", "--robot.actions=deltas", "--robot.fps=20", "--robot.obs_type=pixels_agent_pos",
            "--robot.camera_size=40", f"--robot.trace={trace}", "--fps=20", "--duration=6", "--task=put the bowl", "--play_sounds=false",
            *more,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        with np.load(trace, allow_pickle=False) as found:
            return done.stdout + done.stderr, dict(found)

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("can_draw")
def test_stock_lerobot_rollout_flies_the_simulated_arm_with_steering(flown: Flown) -> None:
    """In lockstep, where a flight does not depend on how busy the machine is: the same again, and another without steering."""
    (said, steered), (_, again), (off, plain) = (flown(*more) for more in (LOCKSTEP, LOCKSTEP, (*LOCKSTEP, OFF)))
    assert f"steered by add {STRENGTH:g}" in said
    assert "the first chunk: steering fired at 1 site(s)" in said
    assert "steered by add 0" in off
    way, same, other = (flight["setpoint"][:, :3] for flight in (steered, again, plain))
    steps = 12 * ACTIONS  # physics steps of the first chunk's actions, which even a slow machine executes
    np.testing.assert_array_equal(way[:steps], same[:steps])
    assert np.ptp(way[:steps], axis=0).max() > 0.02
    assert np.abs(way[:steps] - other[:steps]).max() > 0.02


@pytest.mark.slow
@pytest.mark.usefixtures("can_draw")
def test_stock_lerobot_rollout_flies_in_real_time_with_real_time_chunking(flown: Flown) -> None:
    said, flight = flown("--inference.type=rtc")
    assert "RTC inference thread started" in said
    assert "the first chunk: steering fired at 1 site(s)" in said
    assert "RTC inference error" not in said
    assert np.isfinite(flight["setpoint"]).all()
    assert np.ptp(flight["setpoint"][:, :3], axis=0).max() > 0.02
    assert "Could not return" not in said
    np.testing.assert_allclose(
        flight["setpoint"][-1, :3], flight["setpoint"][0, :3], atol=0.01
    )  # LeRobot has brought it back
