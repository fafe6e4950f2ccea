"""Experiments on learned noise: each from end to end in miniature, and bars that fail where they should."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from launch.experiments import base, dsrl, dsrl_cue, dsrl_mode, dsrl_shift, dsrl_speed, noise_baselines
from launch.experiments.base import Say

TINY: dict[str, Any] = {
    "env_steps": 64,
    "evaluate_every": 64,
    "validation_episodes": 2,
    "test_episodes": 2,
    "tickets": 2,
    "ticket_episodes": 2,
}
SMALL: dict[str, tuple[ModuleType, dict[str, Any]]] = {
    "dsrl-shift": (dsrl_shift, {**TINY, "seeds": (0,), "other_maps": True, "baselines": True}),
    "dsrl-cue": (dsrl_cue, {**TINY, "variants": ("sac", "na")}),
    "dsrl-mode": (dsrl_mode, TINY),
    "dsrl-speed": (dsrl_speed, TINY),
    "noise-baselines": (noise_baselines, {"episodes": 2, "tickets": 1, "ticket_episodes": 1}),
}


@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_runs_from_end_to_end(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module, small = SMALL[name]
    settings = replace(module.settings(True), **small)
    monkeypatch.setattr(module, "settings", lambda quick: settings)
    if hasattr(module, "STUDY"):
        monkeypatch.setattr(module, "STUDY", replace(module.STUDY, world=replace(module.STUDY.world, limit=12)))
    else:
        monkeypatch.setattr(module, "World", functools.partial(dsrl.World, limit=12))
    results = base.run_experiment(name, True, tmp_path, Say())
    assert (tmp_path / name / "report.html").exists()
    conditions = pd.DataFrame(results["conditions"])
    assert (conditions["episodes"] == 2).all()
    label = "noise" if name == "noise-baselines" else "condition"
    assert {"unsteered", "zero noise", "best constant noise"} <= set(conditions[label])
    assert results["bars"]
    assert results["verdict"]
    episodes = pd.read_parquet(tmp_path / name / "episodes.parquet")
    assert episodes.groupby("condition")["seed"].apply(tuple).nunique() == 1
    if name == "dsrl-shift":
        rows = {
            "DSRL-SAC, two DCT components",
            "DSRL-SAC, repeated",
            "SAC from scratch",
            "residual SAC",
            "best of 8 by the critic",
        }
        assert rows <= set(conditions["condition"])
        assert len(results["curves"]["full, seed 0"]) == 2


def table(success: float, length: float = 40.0, side: float = 1.0, n: int = 100) -> pd.DataFrame:
    seeds = np.arange(n)
    return pd.DataFrame(
        {"seed": seeds, "errored": False, "condition": "x", "success": (seeds < success * n).astype(float), "length": length,
         "asked_side": (seeds < side * n).astype(float)}
    )  # fmt: skip


def failing(bars: list[Any]) -> list[str]:
    return [bar.name for bar in bars if not bar.holds]


@pytest.mark.parametrize(
    ("plain", "drawn", "cpu", "broken"),
    [
        (table(0.98, 36), table(0.8), 60.0, []),
        (table(0.90, 36), table(0.8), 60.0, ["deterministic success"]),
        (table(0.98, 36), table(0.5), 60.0, ["sampled success"]),
        (table(0.98, 44), table(0.8), 60.0, ["length of successes"]),
        (table(0.98, 36), table(0.8), 120.0, ["CPU seconds"]),
    ],
)
def test_every_seed_under_shift_is_judged(
    plain: pd.DataFrame, drawn: pd.DataFrame, cpu: float, broken: list[str]
) -> None:
    s = replace(dsrl_shift.settings(False), seeds=(0,))
    tables = {
        "unsteered": table(0.35, 56),
        "zero noise": table(0.3, 45),
        "DSRL-SAC seed 0": plain,
        "DSRL-SAC seed 0, sampled": drawn,
    }
    found = failing(dsrl_shift._bars(s, tables, {0: SimpleNamespace(costs={"all": cpu})}))
    assert len(found) == len(broken)
    assert all(text in name for text, name in zip(broken, found, strict=True))


def test_a_cue_counts_only_beyond_the_best_constant() -> None:
    s = dsrl_cue.settings(False)
    assert failing(dsrl_cue._bars(s, {"best constant noise": table(0.45), "DSRL": table(0.8)}, ["DSRL"])) == []
    found = failing(dsrl_cue._bars(s, {"best constant noise": table(0.6), "DSRL": table(0.8)}, ["DSRL"]))
    assert [name.split()[0] for name in found] == ["best", "DSRL"]


def test_a_mode_counts_by_the_side_and_speed_by_the_shortest_baseline() -> None:
    s = dsrl_mode.settings(False)
    tables = {"unsteered": table(0.5, side=0.5), "DSRL": table(0.9, side=0.97)}
    assert failing(dsrl_mode._bars(s, tables, ["DSRL"])) == []
    assert len(failing(dsrl_mode._bars(s, {**tables, "DSRL": table(0.9, side=0.9)}, ["DSRL"]))) == 1
    nobody = table(0.0).assign(asked_side=np.nan)
    assert dsrl_mode._bars(s, {**tables, "DSRL": nobody}, ["DSRL"])[1].value == "no episode passed"
    tables = {
        "unsteered": table(0.98, 60),
        "zero noise": table(0.9, 50),
        "best constant noise": table(0.9, 48),
        "DSRL": table(0.97, 42),
    }
    assert failing(dsrl_speed._bars(s, tables, ["DSRL"])) == []
    assert len(failing(dsrl_speed._bars(s, {**tables, "DSRL": table(0.9, 46)}, ["DSRL"]))) == 2
