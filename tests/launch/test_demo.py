"""The demo: what a claim concludes from constructed episodes, films, and all of it once in small."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v2 as imageio
import numpy as np
import pandas as pd
import pytest

import policies
from launch.experiments import base, demo, films
from launch.experiments.base import Say
from launch.experiments.claims import UNSTEERED, ZERO, Claim

ROLES = {UNSTEERED: "base", ZERO: "base", "steered": "steered", "random": "control", "permuted": "control"}


def episodes(share: float, n: int = 40) -> pd.DataFrame:
    hit = (np.arange(n) < share * n).astype(float)
    return pd.DataFrame({"seed": range(n), "errored": False, "success": 1 - hit, "touched": hit, "speed": 1 + hit})


def claim(steered: float, control: float, zero: float = 0.8, share: bool = True, sign: int = -1) -> Claim:
    tables = {UNSTEERED: episodes(0.8), ZERO: episodes(zero), "steered": episodes(steered), "random": episodes(control)}
    tables["permuted"] = episodes(0.8)
    return Claim("wall", "it passes", "touched" if share else "speed", "touches", sign, tables, ROLES, share)


@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize(
    ("steered", "control", "zero", "broken"),
    [
        (0.1, 0.7, 0.8, []),
        (0.1, 0.3, 0.8, ["random"]),
        (0.1, 0.8, 0.5, ["zero"]),
        (0.8, 0.8, 0.8, ["change", "strongest"]),
        (1.0, 0.8, 0.8, ["change", "strongest"]),
    ],
)
def test_a_claim_holds_only_beyond_chance_and_controls(
    steered: float, control: float, zero: float, broken: list[str], share: bool
) -> None:
    found = claim(steered, control, zero, share)
    failed = [bar.name for bar in found.bars() if not bar.holds]
    assert len(failed) == len(broken)
    assert all(text in name for text, name in zip(broken, failed, strict=True))
    assert ("yes" in found.sentence()) is not bool(broken)


def test_the_sign_that_is_asked_counts() -> None:
    assert all(bar.holds for bar in claim(0.1, 0.8).bars())
    assert [bar.holds for bar in claim(0.1, 0.8, sign=1).bars()] == [True, False, False]


def test_rows_have_intervals_and_missing_measures_no_value() -> None:
    found = claim(0.1, 0.8, share=False)
    found.tables["random"]["speed"] = np.nan
    rows = {row["condition"]: row for row in found.rows()}
    assert rows["steered"]["low"] < rows["steered"]["value"] < rows["steered"]["high"]
    assert np.isnan(rows["random"]["value"])
    assert rows["steered"]["success"] == pytest.approx(0.9)


@pytest.mark.usefixtures("can_draw")
def test_a_film_shows_the_same_start_twice_and_the_shorter_one_stands_still(tmp_path: Path) -> None:
    policy = policies.load("flow-unaware")
    one = films.episode(policy, "CarryBlockOverWall", 5, limit=6)
    assert one.shape == (7, films.EDGE, films.EDGE, 3)
    assert np.array_equal(one, films.episode(policy, "CarryBlockOverWall", 5, limit=6))
    assert not np.array_equal(one[0], one[-1])
    path = tmp_path / "film.mp4"
    path.write_bytes(films.side_by_side([one, one[:3]]))
    frames = [np.asarray(frame) for frame in imageio.get_reader(path)]
    assert len(frames) == 7
    left, right = np.split(frames[-1].astype(float), 2, axis=1)
    assert np.abs(left - one[-1]).mean() < 6
    assert np.abs(right - one[2]).mean() < 6


@pytest.mark.usefixtures("can_draw")
def test_the_demo_runs_and_writes_a_report_with_films(
    tiny_llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small: dict[str, Any] = {
        "agent": tiny_llm,
        "tasks": ("PutRedBlockOnPlate",),
        "wall_episodes": 2,
        "noise_episodes": 2,
    }
    settings = replace(demo.settings(True), **small, film_limit=3)
    monkeypatch.setattr(demo, "settings", lambda quick: settings)
    results = base.run_experiment("demo", True, tmp_path, Say())
    folder = tmp_path / "demo"
    assert json.loads((folder / "results.json").read_text()) == results
    page = (folder / "report.html").read_text()
    assert page.count("<video") == 2
    assert page.count("<img") == 5
    assert (folder / "hand-film.mp4").read_bytes()[4:8] == b"ftyp"
    assert results["verdict"].count("\n") == 4
    table = pd.DataFrame(results["conditions"])
    assert list(table["claim"].unique()) == ["agent", "slower", "higher", "wall", "noise"]
    assert set(table.groupby("claim")["role"].apply(lambda roles: "control" in set(roles))) == {True}
    zero = [bar for bar in results["bars"] if "zero strength" in bar["name"]]
    assert len(zero) == 4
    assert all(bar["holds"] for bar in zero)
