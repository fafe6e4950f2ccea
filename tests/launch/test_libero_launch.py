"""The table of published LIBERO results, and the experiments on LIBERO in miniature."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import pytest

from envs.libero.observations import CAMERAS
from launch import libero_table
from launch.experiments import libero_dsrl, libero_keepout, libero_speed
from launch.experiments.base import Say
from launch.experiments.env_pool import Pool
from launch.experiments.keep_out import KeepOut
from policies.errors import BadInput, UnknownName


def test_the_table_shows_published_figures_and_an_empty_column(tmp_path: Path) -> None:
    rows = libero_table.table(tmp_path)
    assert len(rows) == 4 * len(libero_table.RECIPES)
    assert {row["here"] for row in rows} == {""}
    assert next(r for r in rows if (r["model"], r["suite"]) == ("openvla", "10"))["published"] == "53.7"


def test_wrong_requests_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="did you mean 'smolvla'"):
        libero_table.fill("smolvl", "goal")
    with pytest.raises(UnknownName, match="suite"):
        libero_table.fill("smolvla", "goals")
    with pytest.raises(BadInput, match=r"1\.\.50"):
        libero_table.fill("smolvla", "goal", 51)
    with pytest.raises(BadInput, match="no adapter"):
        libero_table.fill("openvla-oft", "goal", folder=tmp_path)


def test_every_model_is_told_what_our_cameras_are_called() -> None:
    for name, recipe in libero_table.RECIPES.items():
        if recipe.checkpoint:
            given = [recipe.options["camera"]] if "camera" in recipe.options else list(recipe.options["rename"])
            assert {one.removeprefix("observation.images.") for one in given} <= set(CAMERAS), name


class Line(gym.Env[np.ndarray, np.ndarray]):
    """A hand that is pushed along x."""

    observation_space = gym.spaces.Box(-1, 1, (1,))
    action_space = gym.spaces.Box(-1, 1, (1,))

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.x = -0.35
        return np.zeros(1, np.float32), self.info()

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.x += float(action[0])
        return np.zeros(1, np.float32), 0.0, False, False, self.info()

    def info(self) -> dict[str, Any]:
        return {"keypoints": {"tcp": np.array([self.x, 0.0, 0.0])}, "half_sizes": {}}


def test_a_keep_out_box_is_measured_and_remembered() -> None:
    env = KeepOut(Line(), lambda info: np.zeros(3), (0.1, 0.1, 0.1))
    _, info = env.reset()
    seen = [(info["inside"], info["entered"])]
    for _ in range(4):
        *_, info = env.step(np.array([0.2]))
        seen.append((info["inside"], info["entered"]))
    assert seen == [(False, False), (False, False), (True, True), (False, True), (False, True)]
    assert np.array_equal(info["half_sizes"]["zone"], [0.1, 0.1, 0.1])
    assert env.reset()[1]["entered"] is False


def test_a_pool_lends_what_was_given_back() -> None:
    made = []

    def make() -> gym.Env:
        made.append(Line())
        return made[-1]

    pool = Pool(make, "lines")
    first, second = pool(), pool()
    assert len(made) == 2
    first.close()
    first.close()
    third = pool()
    assert third.unwrapped is first.unwrapped
    assert third.unwrapped is not second.unwrapped
    assert "0x" not in repr(pool)


def _table(**columns: list[float]) -> pd.DataFrame:
    n = len(next(iter(columns.values())))
    return pd.DataFrame(
        {
            "condition": "c",
            "seed": range(n),
            "errored": False,
            "length": 100.0,
            "path_length": 1.0,
            "steps_inside": 0.0,
            **columns,
        }
    )


def test_bars_of_the_box_follow_the_numbers() -> None:
    inside, outside = [1.0] * 20, [0.0] * 20
    tables = {
        "unsteered": _table(success=[1.0] * 20, entered=inside),
        "zero strength": _table(success=[1.0] * 20, entered=inside),
        "guided": _table(success=[1.0] * 20, entered=outside),
        "random direction as long": _table(success=[1.0] * 20, entered=inside),
    }
    assert all(bar.holds for bar in libero_keepout.bars(tables))
    tables["guided"] = _table(success=[0.0] * 20, entered=inside)
    assert [bar.holds for bar in libero_keepout.bars(tables)] == [True, False, False, True, True]


def test_bars_of_learned_noise_follow_the_numbers() -> None:
    tables = {
        "unsteered": _table(success=[0.0] * 12 + [1.0] * 8),
        "zero noise": _table(success=[0.0] * 10 + [1.0] * 10),
        "best constant noise": _table(success=[0.0] * 9 + [1.0] * 11),
        "DSRL-SAC seed 0": _table(success=[1.0] * 20),
    }
    assert all(bar.holds for bar in libero_dsrl.bars(libero_dsrl.settings(True), tables, ["DSRL-SAC seed 0"]))
    tables["DSRL-SAC seed 0"] = tables["best constant noise"]
    assert not all(bar.holds for bar in libero_dsrl.bars(libero_dsrl.settings(True), tables, ["DSRL-SAC seed 0"]))


def test_speed_takes_the_largest_effect_that_keeps_success() -> None:
    rows = [
        (0, 1.0, "always", -1, -0.1, 0.0), (0, 2.0, "in transit", -1, -0.3, 0.0), (1, 3.0, "always", -1, -0.6, -0.5),
        (1, 1.0, "always", 1, 0.2, -0.3),
    ]  # fmt: skip
    table = pd.DataFrame(rows, columns=["layer", "strength", "gate", "sign", "effect", "success"])
    assert libero_speed.choose(table, -1, 0.1) == libero_speed.Choice(0, -2.0, "in transit")
    assert libero_speed.choose(table, 1, 0.1) == libero_speed.Choice(1, 1.0, "always")


@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.parametrize("module", [libero_speed, libero_keepout, libero_dsrl])
def test_experiments_in_miniature(module: Any, tmp_path: Path) -> None:
    s = module.settings(True)
    if module is libero_dsrl:
        s = replace(s, env_steps=300, evaluate_every=300)
    outcome = module.run(s, tmp_path, Say())
    assert not outcome.episodes["errored"].any()
    zero = [bar for bar in outcome.bars if bar.name == "zero strength"]
    assert all(bar.holds for bar in zero)
    assert set(outcome.conditions["condition"]) >= {"unsteered"}


FILL = """
import sys, json
from pathlib import Path
from openvla_parts import make_policy
from tiny_models import tiny
from launch.libero_table import fill, recipe_of, table
policy = make_policy(tiny("openvla"), camera=recipe_of("openvla").options["camera"])
found = fill("openvla", "goal", 1, Path(sys.argv[1]), policy, range(8, 9), max_steps=2, say=lambda text: None)
print(json.dumps(found["tasks"]), [row["here"] for row in table(Path(sys.argv[1])) if row["here"]])
"""


@pytest.mark.libero
@pytest.mark.slow
def test_a_row_is_filled_by_a_tiny_model(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FILL, str(tmp_path)], capture_output=True, text=True, timeout=1800,
        env={**os.environ, "PYTHONPATH": f"{Path(__file__).parents[1]}:{Path(__file__).parents[2]}"},
    )  # fmt: skip
    assert '"success": 0, "episodes": 1, "errored": 0' in done.stdout, done.stderr[-3000:]
    assert "not all of it" in done.stdout
