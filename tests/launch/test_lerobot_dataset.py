"""The dataset as LeRobot reads it: its frames are the episodes', it is whole or absent, and LeRobot's own trainer takes it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from launch import lerobot_dataset
from launch.demos import ENVIRONMENT_STATE, STATE, Demos, Episode, collect
from launch.lerobot_dataset import record
from policies.errors import BadInput, HubError, MissingExtra

PIXELS = Demos("PressButton", episodes=2, camera_size=64, seed=3)
STATES = Demos("PressButton", episodes=2, obs_type="state")
CAMERAS = ("observation.images.image", "observation.images.image2")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with pictures."""
    root = tmp_path_factory.mktemp("demos") / "pixels"
    record(PIXELS, root)
    return root


def load(root: Path, **more: object) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    return LeRobotDataset("local/test", root=root, video_backend="pyav", **more)


def pictures(frame: dict[str, Any], key: str) -> np.ndarray:
    """(H, W, 3) uint8 of LeRobot's (3, H, W) float in 0..1."""
    return np.asarray(frame[key] * 255).round().astype(np.uint8).transpose(1, 2, 0)


def test_lerobot_reads_what_was_demonstrated(pixels: Path) -> None:
    dataset, episodes = load(pixels), list(collect(PIXELS))
    assert dataset.fps == 20
    assert (dataset.num_episodes, dataset.num_frames) == (2, sum(map(len, episodes)))
    frames = [(episode, step) for episode in episodes for step in range(len(episode))]
    for index, (episode, step) in enumerate(frames):
        frame = dataset[index]
        np.testing.assert_array_equal(frame["action"], episode.actions[step])
        np.testing.assert_array_equal(frame[STATE], episode.observations[STATE][step])
        for key in CAMERAS:
            np.testing.assert_array_equal(pictures(frame, key), episode.observations[key][step])
        assert frame["task"] == episode.instruction
        assert float(frame["timestamp"]) == pytest.approx(step / 20)


def test_features_and_statistics_are_complete(pixels: Path) -> None:
    meta = load(pixels).meta
    assert meta.camera_keys == list(CAMERAS)
    assert meta.features["action"]["names"] == ["x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper"]
    assert meta.features[STATE]["shape"] == (8,)
    for key in ("action", STATE, *CAMERAS):
        assert set(meta.stats[key]) >= {"mean", "std", "min", "max", "q01", "q99"}
        assert len(set(meta.features[key]["names"])) == len(meta.features[key]["names"])
    actions = np.concatenate([episode.actions for episode in collect(PIXELS)])
    np.testing.assert_allclose(meta.stats["action"]["mean"], actions.mean(0), atol=1e-5)
    note = json.loads((pixels / "demos.json").read_text())
    assert note["settings"]["noise"] == 0.2
    assert note["tasks"][0]["instruction"] == "press the button"
    assert sorted(path.name for path in pixels.iterdir()) == ["data", "demos.json", "meta"]


def test_state_demonstrations_name_every_dimension(tmp_path: Path) -> None:
    made = record(STATES, tmp_path / "states")
    dataset = load(tmp_path / "states")
    feature = dataset.features[ENVIRONMENT_STATE]
    assert len(feature["names"]) == len(set(feature["names"])) == feature["shape"][0]
    assert "object_from_tcp_z" in feature["names"]
    assert not dataset.meta.camera_keys
    assert made["frames"] == len(dataset)


def test_videos_show_nearly_the_same(tmp_path: Path) -> None:
    demos = Demos("PressButton", episodes=1, camera_size=64, seed=3)
    record(demos, tmp_path / "videos", videos=True)
    assert len(list((tmp_path / "videos").rglob("*.mp4"))) == 2
    (episode,) = collect(demos)
    frame = load(tmp_path / "videos")[5]
    for key in CAMERAS:
        apart = np.abs(pictures(frame, key).astype(float) - episode.observations[key][5])
        assert apart.mean() < 5


def test_an_interrupted_recording_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(demos: Demos) -> Iterator[Episode]:
        yield next(collect(demos))
        raise KeyboardInterrupt

    monkeypatch.setattr(lerobot_dataset, "collect", interrupted)
    with pytest.raises(KeyboardInterrupt):
        record(STATES, tmp_path / "states")
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_running_one_writes_is_not(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    dead, alive = (tmp_path / f".states.{pid}.part" for pid in (gone.pid, os.getppid()))
    for folder in (dead, alive):
        (folder / "dataset").mkdir(parents=True)
    with lerobot_dataset.part_folder(tmp_path / "states"):
        assert not dead.exists()
        assert alive.exists()


def test_an_existing_folder_is_not_touched(pixels: Path) -> None:
    with pytest.raises(BadInput, match="exists already; choose another --root"):
        record(PIXELS, pixels)
    assert len(load(pixels)) > 0


def test_videos_of_states_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no pictures"):
        record(STATES, tmp_path / "x", videos=True)


def test_without_lerobot_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match="make setup"):
        record(STATES, tmp_path / "x")


@pytest.mark.parametrize(("name", "kind"), [("me/demos", HubError), ("demos", BadInput), ("a b/c", BadInput)])
def test_an_upload_that_cannot_work_is_refused_before_recording(
    name: str, kind: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(kind, match="push"):
        record(STATES, tmp_path / "x", push=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_lerobots_own_command_trains_its_diffusion_policy_on_it(pixels: Path, tmp_path: Path) -> None:
    import torch

    options = {
        "dataset.repo_id": "local/test", "dataset.root": pixels, "dataset.video_backend": "pyav", "output_dir": tmp_path / "out",
        "policy.type": "diffusion", "policy.device": "cpu", "policy.push_to_hub": "false",
        "policy.pretrained_backbone_weights": "null", "policy.horizon": 8, "policy.n_action_steps": 4,
        "policy.drop_n_last_frames": 3, "policy.down_dims": "[16,32]", "policy.n_groups": 4,
        "policy.diffusion_step_embed_dim": 16, "policy.num_train_timesteps": 20, "policy.num_inference_steps": 3,
        "policy.spatial_softmax_num_keypoints": 4, "policy.use_separate_rgb_encoder_per_camera": "false",
        "steps": 3, "batch_size": 2, "num_workers": 0, "log_freq": 1, "save_freq": 3,
    }  # fmt: skip
    done = subprocess.run(
        [str(Path(sys.executable).with_name("lerobot-train")), *(f"--{key}={value}" for key, value in options.items())],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hf")},
        cwd=tmp_path, capture_output=True, text=True, timeout=1800, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    from lerobot.policies.diffusion.modeling_diffusion import DiffusionPolicy
    from lerobot.policies.factory import make_pre_post_processors

    folder = tmp_path / "out" / "checkpoints" / "last" / "pretrained_model"
    policy = DiffusionPolicy.from_pretrained(folder)
    before, after = make_pre_post_processors(policy.config, pretrained_path=str(folder))
    frame = load(pixels)[0]
    policy.reset()
    with torch.inference_mode():
        action = after(policy.select_action(before({key: frame[key] for key in (STATE, *CAMERAS)})))
    assert action.shape == (1, 7)
    assert torch.isfinite(action).all()
