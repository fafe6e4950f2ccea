"""From a recipe file to an arm: LeRobot's arguments, a dry run, and a flight whose policy is behind the network."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from test_cli import Done, run

from launch.cli_robot import gathered
from policies.errors import SteerError

assert callable(run)  # the fixture
lerobot = pytest.importorskip("lerobot")
ENV = "SteerAgents/PutBowlOnPlate-v0"


@pytest.fixture
def recipe(run: Any, tmp_path: Path) -> Path:
    """flow-strong from zero noise, with the envelope that `--example-safety` prints."""
    safety: Done = run("deploy", "--example-safety")
    assert yaml.safe_load(safety.out)["safety"]["limits"]["ee.x"]["speed"] > 0
    path = tmp_path / "recipe.yaml"
    path.write_text("recipe: 1\npolicy: flow-strong\nparts:\n  - constant_noise: zero\n" + safety.out)
    return path


def test_lerobots_robot_arguments_are_taken_as_they_are() -> None:
    given = ["deploy", "r.yaml", "--robot.type=so101_follower", "--seconds", "3", "--robot.port", "/dev/ttyACM0"]
    assert gathered(given) == [
        "deploy",
        "r.yaml",
        "--seconds",
        "3",
        "--robot",
        "type=so101_follower",
        "port=/dev/ttyACM0",
    ]
    assert gathered(["list"]) == ["list"]


def test_mistakes_end_before_anything_is_loaded(run: Any, recipe: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare.yaml"
    bare.write_text("recipe: 1\npolicy: flow-strong\n")
    for arguments, message in (
        (("deploy", str(bare), "--robot.type=sim_follower"), "nothing moves a robot without limits"),
        (("deploy", str(recipe)), "give --robot.type=NAME once"),
        (("deploy", str(recipe), "--robot.type=sim_follower", "--server", "ws://127.0.0.1:1"), "needs --token-file"),
        (("list", "--robot.type=sim_follower"), "belongs to `steer-agents deploy`"),
        (("serve", str(recipe), "--env", "SteerAgents/Nothing-v0"), "--env 'SteerAgents/Nothing-v0'"),
        (("serve", str(recipe), "--env", ENV, "--host", "0.0.0.0"), "--token-file"),
        (("lerobot-server", "--host", "0.0.0.0"), "unpickles what clients send"),
        (("replay", str(tmp_path)), "a flight's folder holds journal.bin"),
    ):
        done: Done = run(*arguments)
        assert done.code == 2, done
        assert message in " ".join(done.err.split()), done.err


def test_a_robot_flies_a_recipe_whose_policy_is_behind_the_network(run: Any, recipe: Path, tmp_path: Path) -> None:
    from launch.robot.flying import fly
    from launch.served import servable
    from launch.server.start import serve

    token, said, stop = tmp_path / "token", [], threading.Event()
    token.write_text("a token of the tests, long enough to be one")
    token.chmod(0o600)
    server = threading.Thread(
        target=serve, args=(servable(recipe, ENV, 0.05),), daemon=True,
        kwargs={"port": 0, "token_file": token, "say": said.append, "stop": stop},
    )  # fmt: skip
    server.start()
    while not said:
        assert server.is_alive()
        time.sleep(0.01)
    url = said[0].split()[-1]
    try:
        other = tmp_path / "other.yaml"
        other.write_text(recipe.read_text() + "about: another\n")
        robot = ["--robot.type=sim_follower", "--robot.task=PutBowlOnPlate"]
        with pytest.raises(SteerError, match="serves flow-strong with recipe"):
            fly(other, robot, seconds=1.0, server=url, token_file=token, record=tmp_path / "never")
        done = fly(recipe, robot, seconds=2.0, server=url, token_file=token, record=tmp_path / "flight", dashboard=True)
    finally:
        stop.set()
        server.join()
    assert done.why == "done"
    told = json.loads(run("replay", str(tmp_path / "flight"), "--json", "--no-report").out)
    modes = {row["mode"]: row["ticks"] for row in told["modes"]}
    assert modes["steered"] > 30
    assert not any(row["beyond"] for row in told["actions"])
