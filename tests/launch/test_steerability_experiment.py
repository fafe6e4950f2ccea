"""The experiment `steerability` on a policy that is a formula: what is planted is what its bars and medians say."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from launch.experiments import base, steerability
from launch.experiments.base import Say
from launch.experiments.vla import CHOICE
from steer_agents.direction import Direction
from steer_agents.interventions import Add
from steer_agents.sites import Site

WORDS = list(steerability.PLACES)


class FakeBench:
    def __init__(self, name: str, tasks: Sequence[str], folder: Path, load: object) -> None:
        self.tasks, self.folder = tasks, folder

    def scenes(self, episodes: int) -> list[Any]:
        return []

    def direction(self, scenes: object, word: str, kind: str) -> Direction:
        raw = torch.randn(16, generator=torch.Generator().manual_seed(len(word)))
        return Direction.from_raw({f"language.1.{kind}": raw}, Site(kind, layer=1), info={"word": word})


class FakeEpisodes:
    """Strengths move speed and height, adverbs move them by a fixed step, random directions move nothing."""

    works = True

    def __init__(self, bench: FakeBench) -> None:
        self.tasks = bench.tasks

    def of(self, name: str, parts: Sequence[Add], words: str, first_seed: int, count: int) -> pd.DataFrame:
        n = count * len(self.tasks)
        rng = np.random.default_rng(first_seed)
        z = 0.5 + 0.06 * rng.normal(size=(n, 4))
        for part in parts:
            word = str(part.direction.info.get("word", ""))
            if word and self.works:
                change = 0.3 * float(part.strength.value) * (-1 if WORDS.index(word) % 2 == 0 else 1)
                z[:, WORDS.index(word) // 2] += change
        for word in WORDS:
            if word in words:
                z[:, WORDS.index(word) // 2] += 0.9 * (-1 if WORDS.index(word) % 2 == 0 else 1)
        seeds = [first_seed + i for i in range(n)]
        table = pd.DataFrame(z, columns=list(steerability.GOALS)).assign(
            seed=seeds, success=1.0, errored=False, condition=name
        )
        table.loc[0, "height"] = np.nan  # one that carried nothing
        return table.assign(episode=range(n), task="t")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steerability, "Bench", FakeBench)
    monkeypatch.setattr(steerability, "Episodes", FakeEpisodes)
    monkeypatch.setattr(steerability, "random_like", lambda one, seed: Direction.from_raw(dict(one.vectors), one.site))


def test_directions_that_work_beat_adverbs_that_overshoot(fake: None, tmp_path: Path) -> None:
    settings = steerability.settings(False)
    found = steerability.run(settings, tmp_path, Say())
    shown = found.conditions.set_index("answered by")
    assert shown.loc["directions", "miscalibration"] < 0.3 < shown.loc["adverbs", "miscalibration"]
    assert shown.loc["random directions", "miscalibration"] == pytest.approx(1.0)
    assert shown.loc["nothing", "orthogonality"] == 0.0
    assert all(bar.holds for bar in found.bars)
    written = base.write_outcome(tmp_path, "steerability", found, settings, "test", 0.0, False)
    assert (tmp_path / "answers.png").exists()
    assert len(written["requests"]) == settings.n_requests
    assert found.episodes["seed"].max() >= CHOICE


def test_directions_that_do_nothing_are_not_called_steering(
    fake: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FakeEpisodes, "works", False)
    monkeypatch.setattr(steerability, "solve", lambda doses, request: ({"speed": 1.0, "height": 1.0}, np.zeros(4)))
    found = steerability.run(steerability.settings(True), tmp_path, Say())
    held = {bar.name: bar.holds for bar in found.bars}
    assert not held["steering error: directions minus nothing"]
    assert not held["steering error: directions minus random directions"]


def test_the_figure_is_a_picture() -> None:
    table = pd.DataFrame(
        {"arm": ["directions"], "undershoot": [0.1], "orthogonality": [0.2], "movement": [0.3], "request": [0.4]}
    )
    assert steerability.answers(table, {"directions": "steered"}).startswith(b"\x89PNG")
