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
CHUNK = 100
"""Five seconds: what comes later than its chunk lasts is passed over by RTC, and machines are slow."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny SmolVLA with a push in its expert, exported."""
    made = tmp_path_factory.mktemp("rollout")
    tiny_lerobot.helpers(made)
    checkpoint = tiny_lerobot.write("smolvla", made, chunk_size=CHUNK, n_action_steps=20)
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
def flown(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[str, dict[str, np.ndarray]]]:
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


def path(flight: dict[str, np.ndarray]) -> np.ndarray:
    """(480, 3) way of the tool in the two seconds from where it first moved by a millimetre [m]."""
    way = flight["tcp"] - flight["tcp"][0]
    begun = int(np.argmax(np.abs(way).max(1) > 1e-3))
    return way[begun : begun + 480]


@pytest.mark.slow
@pytest.mark.usefixtures("can_draw")
@pytest.mark.parametrize("inference", ["sync", "rtc"])
def test_stock_lerobot_rollout_flies_the_simulated_arm_with_steering(
    inference: str, flown: Callable[..., tuple[str, dict[str, np.ndarray]]]
) -> None:
    said, steered = flown(f"--inference.type={inference}")
    assert f"steered by add {STRENGTH:g}" in said
    assert "Could not return" not in said
    off, plain = flown(f"--inference.type={inference}", '--policy.strengths={"add": 0}')
    assert "steered by add 0" in off
    for flight in (steered, plain):
        assert np.ptp(flight["setpoint"][:, :3], axis=0).max() > 0.02
        assert path(flight).shape == (480, 3)
        assert np.isfinite(flight["setpoint"]).all()
        home = flight["setpoint"][0, :3]
        np.testing.assert_allclose(flight["setpoint"][-1, :3], home, atol=0.01)  # LeRobot has brought it back
    assert np.abs(path(steered) - path(plain)).max() > 0.03
