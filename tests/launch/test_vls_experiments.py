"""Experiments on guided denoising: each from end to end in miniature, and bars that fail where they should."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

from launch.experiments import base, vls, vls_cost, vls_language, vls_mode, vls_obstacle
from launch.experiments.base import Say

SMALL: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "vls-obstacle": (
        vls_obstacle,
        {"strengths": (3.0,), "validation_episodes": 2, "episodes": 2, "n_particles": 2, "rounds": 1},
    ),
    "vls-mode": (vls_mode, {"strengths": (2.0,), "validation_episodes": 2, "episodes": 2, "n_particles": 2}),
    "vls-language": (vls_language, {"episodes": 2}),
}


@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_runs_from_end_to_end_and_goes_on_from_its_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, small = SMALL[name]
    settings = replace(module.settings(True), **small)
    monkeypatch.setattr(module, "settings", lambda quick: settings)
    monkeypatch.setattr(vls_cost, "peak_memory", lambda n_particles: 1.0)  # a process each
    monkeypatch.setattr(vls_cost, "latency", lambda rows, rounds: vls_cost.Cost(rows, 1.0, 1.5, (1.5,)))
    for task in ("CarryBlockOverWall", "PutBlockPastPost"):
        monkeypatch.setattr(gym.spec(f"SteerAgents/{task}-v0"), "max_episode_steps", 12)
    results = base.run_experiment(name, True, tmp_path, Say())
    folder = tmp_path / name
    assert (folder / "report.html").exists()
    conditions = pd.DataFrame(results["conditions"]).set_index("condition")
    assert (conditions["episodes"] == 2).all()
    assert set(conditions["role"]) >= {"base", "steered", "control"}
    (same,) = [bar for bar in results["bars"] if bar["name"] == "zero strength"]
    assert same["holds"]
    episodes = pd.read_parquet(folder / "episodes.parquet")
    assert episodes.groupby("condition")["seed"].apply(tuple).nunique() == 1
    monkeypatch.setattr(vls, "rollout", _only_from_disk(vls.rollout))
    again = base.run_experiment(name, True, tmp_path, Say())
    assert again["conditions"] == results["conditions"]


def _only_from_disk(rollout: Any) -> Any:
    def finished(*args: Any, **kwargs: Any) -> Any:
        assert (kwargs["run"] / "episodes.parquet").exists(), kwargs["run"]
        return rollout(*args, **kwargs)

    return finished


def wall(touched: float, success: float, n: int = 100) -> pd.DataFrame:
    seeds = np.arange(n)
    return pd.DataFrame(
        {"seed": seeds, "errored": False, "condition": "x", "success": (seeds < success * n).astype(float),
         "touched": (seeds >= (1 - touched) * n).astype(float), "length": 50, "path_length": 1.0, "least_clearance": 0.1}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("guided", "broken"),
    [((0.05, 0.9), []), ((0.2, 0.9), ["touch the wall"]), ((0.05, 0.3), ["gain of success"])],
)
def test_guidance_around_the_wall_has_to_show(guided: tuple[float, float], broken: list[str]) -> None:
    judged = vls_obstacle.bars({"unsteered": wall(0.95, 0.1), "guided": wall(*guided)})
    failed = [bar.name for bar in judged if not bar.holds]
    assert len(failed) == len(broken)
    assert all(text in name for text, name in zip(broken, failed, strict=True))


def test_zero_strength_that_differs_is_told() -> None:
    tables = {"unsteered": wall(0.9, 0.1), "zero strength": wall(0.9, 0.1)}
    assert vls_obstacle.same_as_base(tables).holds
    tables["zero strength"].loc[3, "least_clearance"] = 0.2
    assert not vls_obstacle.same_as_base(tables).holds


def test_the_smallest_strength_that_is_good_enough_is_chosen() -> None:
    assert vls.choose_strength({1.0: (0.5, 0.5), 2.0: (0.9, 0.88), 3.0: (0.92, 0.9)}) == 2.0
    assert vls.choose_strength({1.0: (0.5, 0.5), 2.0: (0.9, 0.8), 3.0: (0.92, 0.9)}) == 3.0
