"""The tabletop as LeRobot's own evaluation sees it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("lerobot")

from lerobot.envs.configs import EnvConfig
from lerobot.envs.factory import make_env, make_env_config
from lerobot.envs.utils import NEW_ROLLOUT_OPTION, env_to_policy_features, preprocess_observation

from envs.errors import BadAction, BadSetting, UnknownTask
from envs.tabletop.tasks import SUITES
from launch.lerobot_env import TabletopConfig

ROOT = Path(__file__).parents[2]


def test_lerobot_knows_the_type_and_makes_the_environment() -> None:
    config = make_env_config("steer_agents", task="PressButton", obs_type="state", shift={"object_position": 1.0})
    assert isinstance(config, EnvConfig)
    assert (config.type, config.fps) == ("steer_agents", 20)
    made = make_env(config, n_envs=2)
    ((suite, tasks),) = made.items()
    ((number, batch),) = tasks.items()
    assert SUITES[suite][number].name == "PressButton"
    batch.reset(seed=[1, 2], options={NEW_ROLLOUT_OPTION: True})
    assert batch.call("task_description") == ("press the button",) * 2
    assert batch.call("_max_episode_steps") == (200, 200)
    assert batch.envs[0].unwrapped.shift.object_position == 1.0  # type: ignore[attr-defined]
    batch.close()


@pytest.mark.parametrize("obs_type", ["state", "pixels", "pixels_agent_pos"])
def test_the_features_are_those_of_what_the_environment_gives(obs_type: str) -> None:
    config = TabletopConfig("PressButton", obs_type=obs_type, camera_size=32)
    batch = config.create_envs(1)["goal"][5]
    observation = preprocess_observation(batch.reset(seed=[0])[0])
    told = {key: feature.shape for key, feature in env_to_policy_features(config).items() if key != "action"}
    assert told == {key: tuple(value.shape[1:]) for key, value in observation.items()}
    batch.close()


def test_actions_beyond_the_space_are_clipped_where_that_is_asked_for_and_nan_never_passes() -> None:
    wild = np.full((1, 7), 1.5, dtype=np.float32)
    for clip in (True, False):
        batch: Any = TabletopConfig("PressButton", obs_type="state", clip_actions=clip).create_envs(1)["goal"][5]
        batch.reset(seed=[0])
        if clip:
            batch.step(wild)
        else:
            with pytest.raises(BadAction, match=r"must lie in \[-1, 1\]"):
                batch.step(wild)
        with pytest.raises(BadAction, match="not finite"):
            batch.step(np.full((1, 7), np.nan, dtype=np.float32))
        batch.close()


def test_a_suite_is_all_its_tasks_or_those_asked_for() -> None:
    assert list(TabletopConfig("long").tasks()["long"]) == list(range(len(SUITES["long"])))
    assert [task.name for task in TabletopConfig("goal", task_ids=[5, 0]).tasks()["goal"].values()] == [
        "PressButton",
        "PutBowlOnPlate",
    ]
    with pytest.raises(UnknownTask, match="did you mean 'PressButton'"):
        TabletopConfig("PresButton")
    with pytest.raises(UnknownTask, match=r"task_ids \[99\]"):
        TabletopConfig("goal", task_ids=[99])
    with pytest.raises(BadSetting, match="belong to a suite"):
        TabletopConfig("PressButton", task_ids=[0])
    with pytest.raises(BadSetting, match="did you mean 'pixels'"):
        TabletopConfig("PressButton", obs_type="pixel")


@pytest.mark.slow
@pytest.mark.parametrize("obs_type", ["pixels_agent_pos", "state"])
def test_lerobot_eval_runs_a_policy_of_its_own_in_the_tabletop(tmp_path: Path, obs_type: str) -> None:
    """A diffusion policy with random weights, as `--policy.type` without a path makes it."""
    code = "import sys; from lerobot.scripts.lerobot_eval import main; sys.exit(main())"
    options = {
        "env.discover_packages_path": "launch.lerobot_env", "env.type": "steer_agents", "env.task": "PressButton",
        "env.obs_type": obs_type, "env.episode_length": "12", "env.camera_size": "48", "env.render_size": "64",
        "policy.type": "diffusion", "policy.device": "cpu", "policy.down_dims": "[16,32]", "policy.num_train_timesteps": "4",
        "policy.diffusion_step_embed_dim": "16", "policy.push_to_hub": "false", "policy.use_group_norm": "true",
        "eval.n_episodes": "2", "eval.batch_size": "2", "eval.use_async_envs": "false", "output_dir": str(tmp_path / "eval"),
    }  # fmt: skip
    if obs_type != "state":
        options |= {"policy.pretrained_backbone_weights": "null", "policy.crop_shape": "[40,40]"}
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *(f"--{key}={value}" for key, value in options.items())],
        cwd=tmp_path, env=environment, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((tmp_path / "eval" / "eval_info.json").read_text())
    assert results["overall"]["n_episodes"] == 2
    assert "goal" in json.dumps(results)
    assert len(list((tmp_path / "eval").rglob("*.mp4"))) == 2
