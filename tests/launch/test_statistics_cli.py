"""`steer-agents sequential`, `power` and `compare --by`, and the pure parts of the experiments behind them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from launch import cli
from launch.experiments import sequential_power
from launch.experiments.base import Say
from launch.experiments.steerability import GOALS, Dose, solve, words_for

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*args: str) -> str:
        monkeypatch.setattr("sys.argv", ["steer-agents", *args])
        cli.main()
        return capsys.readouterr().out

    return call


def test_power_from_two_rates(run: Run) -> None:
    fixed, sequential = json.loads(run("power", "--from", "0.8", "--to", "0.6", "--json"))
    assert fixed["pairs at most"] == 91
    assert fixed["episodes at most"] == 182
    assert sequential["on average"] < 0.75 * 91


def test_power_from_a_pilot(run: Run, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    y = rng.normal(size=40)
    sides = [
        pd.DataFrame({"condition": name, "seed": range(40), "errored": False, "speed": values, "success": success})
        for name, values, success in (("a", y + 0.5 + rng.normal(size=40), np.arange(40) % 2.0), ("b", y, np.zeros(40)))
    ]
    pd.concat(sides).to_parquet(tmp_path / "episodes.parquet")
    (mean,) = json.loads(run("power", "--pilot", str(tmp_path / "episodes.parquet"), "--measure", "speed", "--json"))
    assert 15 < mean["pairs at most"] < 80
    exact, _ = json.loads(run("power", "--pilot", str(tmp_path / "episodes.parquet"), "--json"))
    assert exact["pairs at most"] < 20


def test_power_says_what_it_needs(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for args in (["--from", "0.8"], ["--pilot", str(tmp_path / "none.parquet")]):
        with pytest.raises(SystemExit):
            run("power", *args)
        assert "power:" in capsys.readouterr().err


def test_a_sequential_comparison_needs_one_steering(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run("sequential", "bandit:ucb1", "BanditBernoulli5", "--n-max", "4")
    assert "--direction FILE or --recipe FILE" in capsys.readouterr().err


def test_a_sequential_comparison_runs_until_it_gives_up(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("recipe: 1\npolicy: flow-medium\nparts:\n  - constant_noise: zero\n")
    told = json.loads(
        run("sequential", "flow-medium", "PressButton", "--recipe", str(recipe), "--n-max", "4", "--batch", "2", "--max-steps", "4",
            "--num-envs", "2", "--out", str(tmp_path / "out"), "--json")
    )  # fmt: skip
    assert told["decision"] == "exhausted"
    assert told["n"] == 4
    assert len(pd.read_parquet(tmp_path / "out" / "episodes.parquet")) == 8
    assert json.loads((tmp_path / "out" / "results.json").read_text())["design"]["n_max"] == 4


def test_requests_are_solved_from_doses() -> None:
    speed = Dose(np.array([-1.0, 0.0, 1.0]), np.array([[-0.4, 0, 0, 0], [0, 0, 0, 0], [0.4, 0, 0, 0.0]]))
    height = Dose(np.array([-2.0, 0.0, 2.0]), np.array([[0, -0.3, 0, 0], [0, 0, 0, 0], [0.1, 0.3, 0, 0.0]]))
    strengths, moved = solve({"speed": speed, "height": height}, np.array([0.2, -0.15, 0, 0]))
    assert strengths == pytest.approx({"speed": 0.5, "height": -1.0}, abs=0.05)
    assert moved == pytest.approx([0.2, -0.15, 0, 0], abs=0.02)
    strengths, _ = solve({"speed": speed, "height": height}, np.array([0.0, 0.3, 0, 0]))
    assert strengths["speed"] < 0  # height's side effect on speed is taken back
    still, _ = solve({"speed": speed, "height": height}, np.zeros(4))
    assert still == {"speed": 0.0, "height": 0.0}
    assert len(GOALS) == 4
    assert words_for(np.array([-0.2, 0.3, 0, 0])) == "slowly high over the table"


def test_sequential_power_gives_its_bars(tmp_path: Path) -> None:
    small = sequential_power.Settings(repeats=200, cases=((0.6, 0.8, 0.0),), nulls=((0.5, 0.0),), powers=(0.9,))
    found = sequential_power.run(small, tmp_path, Say())
    assert [bar.name for bar in found.bars][1].startswith("least saving")
    assert found.bars[1].holds
    assert len(found.conditions) == 1
    assert found.conditions["fixed pairs"][0] == 118
