"""`steer-agents dose` from end to end in miniature: table, files, the record in the direction's file, and going on."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from launch import cli_dose, dosing
from launch.plants import judged
from launch.study_report import report_study
from launch.trials import Trials
from policies.errors import BadInput
from steer_agents import artifacts
from steer_agents.direction import Direction
from steer_agents.finding.controls import random_like
from steer_agents.interventions import Add, SetNeurons
from steer_agents.sites import Site
from steer_agents.strength import Strength


class Answers:
    """`Trials` whose episodes cost nothing: speed falls along the direction, and not along random ones."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, tuple[int, ...]]] = []

    def __call__(self, trials: Trials, parts: tuple, seeds: range, condition: str = "") -> pd.DataFrame:
        self.asked.append((condition, tuple(seeds)))
        push = 0.0
        if parts:
            strength = float(parts[0].the_strength.value)
            push = strength * (not parts[0].direction.method.startswith("random"))
        base = np.array([np.random.default_rng(seed).normal() for seed in seeds])
        rows = {"seed": list(seeds), "errored": False, "success": float(push < 3)}
        return pd.DataFrame(rows | {"ee_speed": 0.3 + 0.02 * base - 0.1 * push, "height": 0.1 + 0.01 * base})


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    found = Answers()
    monkeypatch.setattr(dosing, "dose", partial(dosing.dose, resamples=199))
    monkeypatch.setattr(Trials, "run", lambda self, parts, seeds, condition="": found(self, parts, seeds, condition))
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    raw = {f"policy.{layer}.block_output": torch.arange(1.0, 5.0) for layer in (0, 1)}
    made = Direction.from_raw(raw, Site(), {key: {"mean_norm": 2.0} for key in raw}, method="test")
    return artifacts.save(made, tmp_path / "slow.safetensors")


def test_a_study_is_told_written_and_remembered(
    answers: Answers, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli_dose.dose(
        "flow-medium", file, ("PressButton",), measure="ee_speed,success,height", layer=1, strengths=(1.0, 2.0, 4.0), seeds=16,
        controls=2, out=tmp_path / "out", json=True,
    )  # fmt: skip
    told = json.loads(capsys.readouterr().out)
    assert told["verdict"] == "steerable"
    assert told["usable"] == [0.0, 2.0]
    assert {path.name for path in (tmp_path / "out").iterdir()} >= {
        "dose.json", "episodes.parquet", "dose-ee_speed.png", "dose-success.png", "dose-height.png", "effect-and-damage.png",
    }  # fmt: skip
    conditions = set(pd.read_parquet(tmp_path / "out" / "episodes.parquet")["condition"])
    assert conditions == {"steered", "random 0", "random 1"}
    assert ("unsteered", tuple(range(dosing.PILOT, dosing.PILOT + 4))) in answers.asked
    kept = Direction.load(file)
    (record,) = kept.doses.values()
    assert record["site"]["layer"] == 1
    assert record["tasks"] == ["SteerAgents/PressButton-v0"]
    part = Add(kept.at(1), strength="speed=0.2")
    assert part.the_strength.value == pytest.approx(1.0, abs=0.1)
    with pytest.raises(BadInput, match="layer 0"):
        Add(kept.at(0), strength="speed=0.2")


def test_depth_and_score_of_a_study_are_told_and_stand_on_its_page(
    answers: Answers, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A strength of 1 moves the speed by five standard deviations: everyone turns round, and all succeed but at 4."""
    out = tmp_path / "out"
    ask = partial(cli_dose.dose, "flow-medium", file, ("PressButton",), seeds=16, controls=1, layer=1, out=out)
    ask(measure="ee_speed,success", strengths=(-1.0, 1.0, 4.0), json=True)
    told = json.loads(capsys.readouterr().out)["judged"]
    assert told["sign"] == -1
    (one,) = told["depth"]["curve"]
    assert (one["strength"], one["flip+"], one["flip-"], one["null"]) == (1.0, 1.0, 1.0, 0.0)
    assert told["depth"]["steerability"] == 0.5  # a triangle
    scores = {(row["condition"], row["asked"], row["strength"]): row["score"] for row in told["scores"]}
    assert scores["steered", "less ee_speed", 1.0] == scores["steered", "more ee_speed", -1.0] == 1.0
    assert scores["steered", "less ee_speed", 4.0] == 0.0
    assert {key[0] for key in scores} == {"steered", "unsteered", "random 0"}
    report_study(out, tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert "Steerability 0.5 (0 to 1)" in page
    assert "flip+ asks for less ee_speed" in page
    assert "Control and competence in one number" in page
    ask(measure="ee_speed", strengths=(1.0, 2.0), json=False)
    assert "no strength has episodes of both signs" in " ".join(capsys.readouterr().out.split())


def test_people_read_a_table_and_the_verdict(
    answers: Answers, file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = file.read_bytes()
    cli_dose.dose(
        "flow-medium",
        file,
        ("PressButton",),
        measure="ee_speed",
        layer=0,
        seeds=16,
        pilot=4,
        controls=1,
        store=False,
        out=tmp_path,
    )
    shown = capsys.readouterr().out
    assert "steerable" in shown
    assert "knee at" in shown
    assert file.read_bytes() == before
    searched = {seeds for condition, seeds in answers.asked if len(seeds) == 4 and condition != "unsteered"}
    assert searched == {tuple(range(dosing.PILOT, dosing.PILOT + 4))}


def test_mistakes_are_told(file: Path) -> None:
    with pytest.raises(BadInput, match="--measure"):
        cli_dose.dose("flow-medium", file, ("PressButton",), measure=" ,")
    with pytest.raises(BadInput, match="seeds"):
        cli_dose.dose("flow-medium", file, ("PressButton",), seeds=0)
    trials = Trials.of("flow-medium", ["PressButton"], ["speed"])
    with pytest.raises(BadInput, match="at least one"):
        dosing.of_direction(trials, Add(Direction.load(file)), 0)
    with pytest.raises(BadInput, match="no direction"):
        dosing.of_direction(trials, SetNeurons(indices=(0,), values=1.0, site=Site()), 1)


def test_controls_are_as_long_and_forget_what_was_measured(file: Path) -> None:
    trials = Trials.of("flow-medium", ["PressButton"], ["speed"])
    direction = Direction.load(file)
    study = dosing.of_direction(trials, Add(direction, strength=Strength(0.0, "alpha")), 2, seeds=range(16))
    part = study.controls["random 1"](0.7)
    assert isinstance(part, Add)
    assert part.the_strength == Strength(0.7, "alpha")
    assert part.factor("policy.0.block_output") == pytest.approx(2.0)
    assert not part.direction.doses
    assert not random_like(direction, 0).doses


def test_every_plot_is_drawn_even_where_a_measure_has_gaps() -> None:
    found = judged("only breaks", 0, resamples=99)
    made = dosing.figures(found, "planted")
    assert set(made) == {"dose-speed", "dose-success", "dose-height", "effect-and-damage"}
    assert all(png.startswith(b"\x89PNG") for png in made.values())
