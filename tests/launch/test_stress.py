"""The battery on real policies, in short episodes: what is measured, what is not, and what the command prints."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest
import torch

import launch.cli as cli
import policies
import steer_agents as sa
from launch.stress import Neighbour, StressSettings, chosen_layer, shuffled_like, stress
from launch.stress_scenes import gather, saying
from launch.study_report import report_study
from launch.trials import Trials
from policies.base import TASK_DESCRIPTION
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.recording import record_scenes
from steer_agents.sites import Site

TASKS = ["PutRedBlockOnPlate", "PutGreenBlockOnPlate"]


@pytest.fixture(scope="module")
def faster() -> Direction:
    """Of a flow policy, at every layer."""
    policy = policies.load("flow-medium")
    scenes = record_scenes("SteerAgents/PutBowlOnPlate-v0", policy, episodes=1, seed=0, every=8, max_steps=16)
    return sa.find(policy, "action-gradient", scenes=scenes.observations, site=Site(layer="all"))


@pytest.fixture(scope="module")
def vla() -> Trials:
    return Trials.of("tiny-vla", TASKS, ("speed",), max_steps=16, num_envs=4)


def test_a_flow_policy_is_stressed_as_far_as_it_can_be(
    faster: Direction, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "faster.safetensors"
    faster.save(file)
    asked = ["steer-agents", "stress", "flow-medium", str(file), "--env", "PutBowlOnPlate", "PressButton", "--strength", "0.1",
             "--layer", "1", "--quick", "--max-steps", "8", "--json", "--out", str(tmp_path / "out")]  # fmt: skip
    monkeypatch.setattr(sys, "argv", asked)
    try:
        cli.main()
        status = 0
    except SystemExit as end:
        status = int(end.code or 0)
    told = json.loads(capsys.readouterr().out)
    checks = {one["name"]: one for one in told["checks"]}
    assert status == (1 if told["word"] == "fragile" else 0)
    for name in ("halves", "found again", "specificity", "wordings", "contexts"):
        assert checks[name]["verdict"].startswith("not measured: "), name
    for name in ("controls", "layers", "magnitudes", "tasks", "seeds"):
        assert checks[name]["score"] is not None, name
    assert told["score"] == min(one["score"] for one in checks.values() if one["score"] is not None)
    assert {"results.json", "episodes.parquet", "stress.png"} <= {path.name for path in (tmp_path / "out").iterdir()}
    assert checks["controls"]["numbers"]["zero_is_zero"]
    judged, table = told["judged"], pd.read_parquet(tmp_path / "out" / "episodes.parquet").set_index("seed")
    (depth,) = judged["depth"]["curve"]
    base, up, down = (table[table["condition"] == name] for name in ("base", "steered", "turned round"))
    middle = base.groupby("task")["speed"].transform("mean")
    won = [(judged["sign"] * (one["speed"] - middle) > 0) & (one["success"] != 0) for one in (base, up, down)]
    lost = [(judged["sign"] * (one["speed"] - middle) < 0) & (one["success"] != 0) for one in (base, up, down)]
    assert depth["flip+"] == (float(won[1][lost[0]].mean()) if lost[0].any() else 0.0)
    assert depth["flip-"] == (float(lost[2][won[0]].mean()) if won[0].any() else 0.0)
    report_study(tmp_path / "out", tmp_path / "r.html")
    assert f"Steerability {judged['depth']['steerability']:.4g} (0 to 1)" in (tmp_path / "r.html").read_text()
    assert {row["condition"] for row in judged["scores"]} >= {"unsteered", "steered", "random 0", "permuted"}


@pytest.mark.usefixtures("can_draw")
def test_words_are_found_again_and_told_from_their_neighbours(vla: Trials) -> None:
    scenes = [
        scene
        for task in vla.tasks
        for scene in record_scenes(
            partial(gym.make, task, **vla.env), vla.policy, episodes=1, seed=5, max_steps=16
        ).observations
    ]
    slow = sa.find(vla.policy, "prompt-contrast", scenes=scenes, positive="slowly")
    near = [Neighbour("gently", "theme", "gently"), Neighbour("low", "form", "low over the table", "height")]
    settings = StressSettings(
        strength=1.25, unit="beta", layer=1, sign=-1, episodes=4, part=2, scene_episodes=1, n_random=1, shares=(0.5, 1.5),
        wordings=("{} gently",),
    )  # fmt: skip
    names: list[str] = []
    made = stress(vla, slow, settings, "slowly", near, names.append)
    checks = made.battery
    assert checks["found again"].holds
    assert checks["specificity"].score is not None
    assert checks["cross-effects"].score is not None
    assert checks["wordings"].score is not None
    assert checks["resistance"].numbers["open"] is not None
    assert names[0] == "scenes"
    assert {"base", "steered", "zero strength", "shuffled labels", "layer 3", "base, {} gently"} <= set(
        made.episodes["condition"]
    )
    shuffled = shuffled_like(slow.at(1), np.random.default_rng(0).normal(size=(20, 96)), 3)
    again = gather(vla, shuffled, "speed", 1, 200)
    assert again.differences is None  # its method says that it is not of words
    assert "shuffled" in again.why


@pytest.mark.parametrize("n", [20, 21])
def test_shuffled_labels_leave_nothing_of_what_all_pairs_share(n: int) -> None:
    here = Direction.from_raw({"s.0.block_output": torch.randn(1, 96)}, Site("block_output", layer=0))
    shared = 10 * here.vectors["s.0.block_output"][0].double().numpy()
    noise = np.random.default_rng(0).normal(size=(n, 96)) / 10
    for seed in range(5):
        made = shuffled_like(here, shared + noise, seed).vectors["s.0.block_output"][0]
        assert float(made.norm()) == pytest.approx(1.0, abs=1e-5)
        assert abs(float(made @ here.vectors["s.0.block_output"][0])) < 0.5


def test_a_language_agent_is_stressed_on_prompts_and_wordings(tiny_llm: str) -> None:
    trials = Trials.of(tiny_llm, ["BanditGaussian2Text"], ("entropy_bits",), max_steps=2, num_envs=4)
    sides = [[f"{'buttons ' * n}{word}" for n in range(1, 13)] for word in ("press", "points")]
    found = sa.find(trials.policy, "mean-difference", positive=sides[0], negative=sides[1])
    settings = StressSettings(
        measure="entropy_bits", strength=0.1, layer=3, relative=False, episodes=4, part=2, scene_episodes=1, n_random=1,
        shares=(0.5, 1.5), wordings=("history=summary",), sign=1,
    )  # fmt: skip
    battery = stress(trials, found, settings, contrast=(sides[0][::-1], sides[1][::-1])).battery
    assert battery["found again"].holds  # these prompts are its own
    for name in ("halves", "wordings", "layers", "controls"):
        assert battery[name].score is not None, name
    for name in ("specificity", "validity", "tasks"):
        assert battery[name].score is None, name
    without = stress(trials, found, settings).battery
    assert "only words can be said anew" in without["found again"].verdict


def test_a_wording_reaches_the_policy_and_leaves_it(vla: Trials) -> None:
    heard: list[str] = []
    policy = vla.policy
    own = policy._reset
    policy._reset = lambda seeds, infos: heard.extend(info[TASK_DESCRIPTION] for info in infos)  # type: ignore[method-assign]
    try:
        with saying(policy, "{} slowly"):
            policy.reset([0], [{TASK_DESCRIPTION: "put"}])
            with pytest.raises(BadInput, match="NAME=VALUE"):
                policy.reset([0])
        policy.reset([0], [{TASK_DESCRIPTION: "put"}])
    finally:
        policy._reset = own  # type: ignore[method-assign]
    assert heard == ["put slowly", "put"]


def test_what_is_wrong_is_said(faster: Direction) -> None:
    with pytest.raises(BadInput, match="choose one of the direction's layers"):
        chosen_layer(faster, None)
    with pytest.raises(BadInput, match="kind 'shape'"):
        Neighbour.read("shape=x.safetensors")
    with pytest.raises(BadInput, match="neither a template"):
        StressSettings(wordings=("please",))
    with pytest.raises(BadInput, match="part <= episodes"):
        StressSettings(episodes=4, part=8)
