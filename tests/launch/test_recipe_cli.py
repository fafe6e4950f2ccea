"""Recipes from the shell: check, show, and a rollout of one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from test_cli import Done, run

import policies
from launch import steered
from policies.errors import BadInput
from steer_agents import artifacts
from steer_agents.direction import Direction
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import Site, resolve, steerable

assert callable(run)  # the fixture
ENV = "SteerAgents/PutBowlOnPlate-v0"
SAFETY = """\
safety:
  limits:
    ee.x: {low: 0.2, high: 0.7, speed: 0.2, acceleration: 2, jerk: 50}
"""


@pytest.fixture
def slow(tmp_path: Path) -> Path:
    """A recipe with a random direction for flow-weak."""
    site = Site("block_output", layer=1)
    target = steerable(policies.load("flow-weak"))
    raw = {place.key: torch.randn(256, generator=torch.Generator().manual_seed(0)) for place in resolve(target, site)}
    artifacts.save(Direction.from_raw(raw, site, model=model_fingerprint(target)), tmp_path / "slow.safetensors")
    path = tmp_path / "slow.yaml"
    path.write_text(
        "recipe: 1\nabout: slower [tested]\npolicy: flow-weak\nparts:\n"
        "  - {add: slow.safetensors, name: slow, strength: 3, unit: absolute, limits: [0, 5], gate: {window: [2, null]}}\n"
        + SAFETY
    )
    return path


def test_a_sound_recipe_is_sound(run: Any, slow: Path) -> None:
    done: Done = run("recipe", "check", str(slow))
    assert (done.code, "sound; 1 parts on flow-weak" in " ".join(done.out.split())) == (0, True), done
    told = json.loads(run("recipe", "check", str(slow), "--load", "--env", ENV, "--json").out)
    assert (told["loaded"], told["acted"], len(told["digest"])) == (True, True, 64)


def test_a_mistake_has_its_line_and_status_2(run: Any, slow: Path) -> None:
    slow.write_text(slow.read_text().replace("window", "windwo"))
    done: Done = run("recipe", "check", str(slow))
    assert done.code == 2
    assert "slow.yaml, line 5: 'windwo' is no part of a gate" in done.err.replace("\n", "")


def test_a_recipe_that_does_not_fit_its_policy_is_found_by_loading_it(run: Any, slow: Path) -> None:
    slow.write_text(slow.read_text().replace("flow-weak", "flow-strong"))
    assert run("recipe", "check", str(slow)).code == 0
    done: Done = run("recipe", "check", str(slow), "--load")
    assert done.code == 2
    assert "WrongModel" in done.err


def test_show_tells_parts_limits_and_safety(run: Any, slow: Path) -> None:
    told = json.loads(run("recipe", "show", str(slow), "--json").out)
    (part,) = told["parts"]
    assert (part["part"], part["strength"], part["limits"], part["line"]) == ("slow", 3.0, "0 to 5", 5)
    assert told["safety"]["limits"]["ee.x"]["speed"] == 0.2
    done: Done = run("recipe", "show", str(slow))
    assert "slower [tested]" in done.out
    assert "Window" in done.out


def test_a_recipe_rolls_out_and_its_strengths_can_be_turned(run: Any, slow: Path) -> None:
    means = []
    for more in ((), ("--strengths", "slow", "0")):
        done: Done = run("rollout", str(slow), ENV, "--episodes", "2", "--num-envs", "2", "--json", *more)
        assert done.code == 0, done.err
        means.append(json.loads(done.out))
    bare = json.loads(run("rollout", "flow-weak", ENV, "--episodes", "2", "--num-envs", "2", "--json").out)
    assert means[1] == bare
    assert means[0] != bare
    for arguments, message in (
        (("--strengths", "slow", "9"), "allows strengths from 0 to 5, got 9"),
        (("--strength", "1"), "a recipe says all of its steering"),
    ):
        done = run("rollout", str(slow), ENV, *arguments)
        assert done.code == 2
        assert message in done.err.replace("\n", " ")


def test_what_a_robot_starts_from(slow: Path, tmp_path: Path) -> None:
    one = steered.loader(slow, {"slow": 1.0})()
    assert [(knob.part, knob.value, knob.low, knob.high) for knob in one.knobs] == [("slow", 1.0, 0.0, 5.0)]
    assert one.envelope.limits["ee.x"].high == 0.7
    bare = tmp_path / "bare.yaml"
    bare.write_text("recipe: 1\npolicy: flow-weak\n")
    assert steered.load(bare).steerer is None
    with pytest.raises(BadInput, match="nothing moves a robot without limits"):
        _ = steered.load(bare).envelope
    bare.write_text("recipe: 1\n")
    with pytest.raises(BadInput, match="names no policy"):
        steered.load(bare)
    with pytest.raises(BadInput, match="allows strengths"):
        steered.loader(slow, {"slow": 9.0})
