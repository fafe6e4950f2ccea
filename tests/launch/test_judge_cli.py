"""`steer-agents judge`: numbers of constructed files with known answers, and what is said where a file does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import policies
from launch import cli
from steer_agents.loop import rollout
from steer_agents.methods import METHODS
from steer_agents.runs import write_json, write_table

Run = Callable[..., str]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """What a command prints; the message where it refuses."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> str:
        monkeypatch.setattr("sys.argv", ["steer-agents", *args])
        try:
            cli.main()
        except SystemExit:
            return " ".join(capsys.readouterr().err.split())
        return capsys.readouterr().out

    return call


def lines(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    return path.name


@pytest.mark.parametrize(
    ("kind", "name"), [(one.kind, name) for name, one in METHODS.items() if one.kind in ("judge", "train")]
)
def test_every_method_that_judges_or_trains_has_its_command(
    kind: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["steer-agents", kind, name, "--help"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert f"steer-agents {kind} {name}" in capsys.readouterr().out


def test_games_are_rated_and_changes_told(run: Run, tmp_path: Path) -> None:
    def games(won: int) -> list[dict[str, Any]]:
        return [{"a": "ask", "b": "act", "score": 1.0 if i < won else 0.0, "swayed": i == 0} for i in range(40)]

    before, after = lines(tmp_path / "before.jsonl", games(20)), lines(tmp_path / "after.jsonl", games(36))
    told = json.loads(run("judge", "elo", after, "--before", before, "--json"))
    assert [row["behaviour"] for row in told["ratings"]] == ["ask", "act"]
    gap = told["ratings"][0]["rating"] - told["ratings"][1]["rating"]
    assert gap == pytest.approx(400 * np.log10(9), rel=0.05)  # odds of 36 to 4; the prior pulls a little
    assert told["swayed"] == 1 / 40
    change = {row["behaviour"]: row for row in told["changes"]}
    assert change["ask"]["value"] == pytest.approx(gap / 2)
    assert 0 < change["ask"]["low"] < change["ask"]["value"] < change["ask"]["high"]
    assert "change since before.jsonl" in run("judge", "elo", after, "--before", before)
    lines(tmp_path / "bad.jsonl", [{"a": "ask", "b": "act", "score": 0.7}])
    assert "game 1" in run("judge", "elo", "bad.jsonl")


def test_conditions_of_a_table_and_of_run_folders_are_rated_on_equal_seeds(run: Run, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"condition": ["plain"] * 5 + ["slow"] * 5, "seed": [*range(5)] * 2, "speed": [2.0] * 5 + [1.0] * 4 + [3.0]}
    )
    table.to_csv(tmp_path / "episodes.csv", index=False)
    told = json.loads(run("judge", "elo", "episodes.csv", "--measure", "speed", "--json"))
    assert [row["condition"] for row in told["ratings"]] == ["plain", "slow"]
    less = json.loads(run("judge", "elo", "episodes.csv", "--measure", "speed", "--sign", "-1", "--json"))
    assert [row["condition"] for row in less["ratings"]] == ["slow", "plain"]
    assert (told["unit"], told["resampled"], told["left_out"]) == ("seeds", 5, 0)
    for name, agent in (("greedy", "bandit:greedy"), ("random", "bandit:random")):
        rollout(
            "SteerAgents/BanditBernoulli5-v0", policies.load(agent), episodes=20, seed=3, run=tmp_path / name, condition=name,
            progress=False,
        )  # fmt: skip
    runs = json.loads(run("judge", "elo", "random", "greedy", "--measure", "return", "--json"))
    returns = [
        pd.read_parquet(tmp_path / name / "episodes.parquet").set_index("seed")["return"]
        for name in ("greedy", "random")
    ]
    won = float((returns[0] > returns[1]).mean() + (returns[0] == returns[1]).mean() / 2)
    rating = {row["condition"]: row["rating"] for row in runs["ratings"]}
    assert (rating["greedy"] > rating["random"]) == (won > 0.5)
    odds = 10 ** ((rating["greedy"] - rating["random"]) / 400)
    assert odds / (1 + odds) == pytest.approx(won, abs=0.05)


def test_depth_of_a_study_and_of_a_table_of_answers(run: Run, tmp_path: Path) -> None:
    answers = pd.DataFrame(
        {
            "strength": np.repeat([0.0, 1.0, -1.0], 4),
            "seed": [0, 1, 2, 3] * 3,
            "side": [-1, -1, 1, 1, 1, -1, 1, 1, 0, -1, -1, -1],
        }
    )
    lines(tmp_path / "answers.jsonl", answers.to_dict("records"))
    told = json.loads(
        run("judge", "depth", "answers.jsonl", "--measure", "side", "--middle", "0", "--features", "7", "--json")
    )
    (one,) = told["curve"]
    assert (one["flip+"], one["flip-"], one["null"]) == (0.5, 1.0, 1 / 8)
    assert told["depth"] == pytest.approx(np.log(8) * 0.5 * 0.5 * 7 / 8)
    assert "no dose study" in run("judge", "depth", "answers.jsonl")
    study = tmp_path / "study"
    write_table(
        study / "episodes.parquet",
        pd.concat([answers.assign(condition=one) for one in ("steered", "random 0")]),
    )
    write_json(study / "dose.json", {"target": "side", "judged": {"sign": -1}})
    turned = json.loads(run("judge", "depth", "study", "--middle", "0", "--json"))
    assert (turned["sign"], turned["steerability"]) == (-1, 0.0)
    assert (
        json.loads(run("judge", "depth", "study", "--middle", "0", "--sign", "1", "--json"))["curve"] == told["curve"]
    )
    assert "one of steered, random 0" in run("judge", "depth", "study", "--condition", "other")
    assert "steerability" in run("judge", "depth", "study")


def test_resistance_counts_attempts_of_scores_and_of_replies(run: Run, tmp_path: Path) -> None:
    replies = [
        {"condition": "steered", "scores": [20, 80]},
        {"condition": "steered", "scores": [50, 40]},
        {"condition": "steered", "reply": "The moon shines. Wait, let me start over: bread needs yeast."},
        {"condition": "steered", "reply": "Bread needs yeast."},
        {"condition": "unsteered", "scores": [90]},
    ]
    name = lines(tmp_path / "replies.jsonl", replies)
    rows = json.loads(run("judge", "resistance", name, "--words", "bread", "--json"))
    share = {(row["condition"], row["what"]): row["share"] for row in rows}
    assert share["steered", "several attempts"] == 0.75
    assert share["steered", "resist: a later one is better"] == 0.5
    assert share["steered", "no gain"] == 0.25
    assert share["unsteered", "several attempts"] == 0.0
    assert {row["replies"] for row in rows} == {4, 1}
    assert "reply 3" in run("judge", "resistance", name)
    lines(tmp_path / "odd.jsonl", [{"text": "Bread."}])
    assert "it has text" in run("judge", "resistance", "odd.jsonl")


def test_harmonic_score_of_a_table_by_condition(run: Run, tmp_path: Path) -> None:
    table = pd.DataFrame(
        {"method": ["a"] * 4 + ["b"] * 3, "held": [1, 1, 0, 0, 1, 1, None], "won": [0, 0, 1, 1, 1, 0.5, 1]}
    )
    table.to_parquet(tmp_path / "items.parquet")
    a, b = json.loads(
        run(
            "judge", "harmonic", "items.parquet", "--control", "held", "--competence", "won", "--by", "method", "--json"
        )
    )
    assert (a["score"], a["per item"], a["items"]) == (0.5, 0.0, 4)
    assert (b["score"], b["left out"]) == (pytest.approx(1.5 / 1.75), 1)
    assert b["per item"] == pytest.approx((1 + 2 / 3) / 2)
    assert a["low"] <= a["score"] <= a["high"]


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("elo none.csv", "no file none.csv; give a .csv, .parquet, .jsonl file"),
        ("elo", "name run folders"),
        ("elo items.csv", "no column 'condition', it has held, won"),
        ("elo items.csv --before games.jsonl", "--before is for games"),
        ("depth items.csv --measure held", "no 'strength'"),
        ("depth items.txt --measure held", "got '.txt'"),
        ("resistance none.jsonl", "no file none.jsonl"),
        ("resistance items.csv", "items.csv, line 1: no JSON"),
        ("harmonic items.csv --control hold", "no column 'hold'; did you mean 'held'? Allowed: held, won"),
        ("harmonic items.csv --control held --competence won", "'yes', which is no number"),
        ("harmonic items.csv --control held --competence held", "[0, 1]"),
        ("harmonic gaps.csv --control held --competence won", "no item of 'all' in gaps.csv has both"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_said(run: Run, tmp_path: Path, command: str, said: str) -> None:
    for name in ("items.csv", "items.txt"):
        (tmp_path / name).write_text("held,won\n2,yes\n")
    (tmp_path / "gaps.csv").write_text("held,won\n,1\n1,\n")
    assert said in run("judge", *command.split())
