"""A sweep from its document to its tables, without processes: complete, repeatable, resumable, honest about failures."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.dataset
import pytest
from sweep_parts import BANDITS, Here, assert_equal, sweep_of

from launch.sweep.run import run
from launch.sweep.store import Store
from launch.sweep.tables import square
from launch.sweep.trial import Trial, Worker, controlled
from policies.errors import BadArtifact, BadInput, RunMismatch
from steer_agents.direction import Direction
from steer_agents.evaluation.intervals import mean_interval
from steer_agents.interventions import Add
from steer_agents.sites import Site

STEERED = """\
sweep: 1
policy: flow-medium
parts: [{add: some.safetensors, strength: 0.5}]
tasks: PressButton
seeds: 0-2
measures: [ee_speed]
num_envs: 3
max_steps: 5
vary:
  layer: [0, 2]
  strength: [0, 2]
"""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sweep") / "whole"
    sweep = sweep_of()
    outcome = run(sweep, folder, lambda: Here(sweep))
    assert (outcome.ran, outcome.failed) == (20, 6)
    return folder


@pytest.fixture(scope="module")
def some(tmp_path_factory: pytest.TempPathFactory) -> Path:
    import torch

    folder = tmp_path_factory.mktemp("direction")
    generator = torch.Generator().manual_seed(100)
    raw = {f"denoiser.{layer}.block_output": torch.randn(1, 256, generator=generator) for layer in range(3)}
    Direction.from_raw(raw, Site("block_output"), {key: {"mean_norm": 3.0} for key in raw}).save(
        folder / "some.safetensors"
    )
    return folder


def test_failures_are_rows_and_the_rest_goes_on(done: Path) -> None:
    trials = pd.read_parquet(done / "trials.parquet")
    failed = trials[trials["status"] == "failed"]
    assert set(failed["policy"]) == {"bandit:nosuch"}
    assert failed["error"].str.contains("Traceback").all()
    assert failed["error"].str.contains("nosuch").all()
    assert failed["return"].isna().all()
    good = trials[trials["status"] == "finished"]
    assert list(good["episodes"].unique()) == [6, 8]
    assert (good["error"] == "").all()
    assert len(list(done.glob("failures/*.json"))) == 6


def test_a_row_is_the_mean_of_its_episodes(done: Path) -> None:
    trials, table = pd.read_parquet(done / "trials.parquet"), pd.read_parquet(done / "table.parquet")
    one = trials.iloc[1]
    episodes = pd.read_parquet(done / "episodes").query("trial == @one.trial")
    found = mean_interval(episodes["return"].to_numpy(), resamples=1999)
    assert one["return"] == pytest.approx(episodes["return"].mean())
    assert (one["return.low"], one["return.high"]) == pytest.approx((found.low, found.high))
    row = table[(table["number"] == one["number"]) & (table["measure"] == "return")].iloc[0]
    assert (row["mean"], row["low"], row["n"]) == (one["return"], one["return.low"], 6)
    assert json.loads(one["description"])["seeds"] == [0, 1, 2, 3, 4, 5]
    csv = pd.read_csv(done / "table.csv")
    assert list(csv.columns) == list(table.columns)


def test_the_best_are_measured_again_on_seeds_that_chose_nothing(done: Path) -> None:
    trials = pd.read_parquet(done / "trials.parquet")
    test, search = trials[trials["role"] == "test"], trials[trials["role"] == "search"]
    best = search.sort_values("return", ascending=False).iloc[0]
    assert len(test) == 2
    assert test.iloc[0][["policy", "horizon"]].tolist() == best[["policy", "horizon"]].tolist()
    assert all(set(json.loads(text)["seeds"]) == set(range(20, 28)) for text in test["description"])


def test_all_episodes_are_one_partitioned_dataset(done: Path) -> None:
    table = pyarrow.dataset.dataset(done / "episodes", partitioning="hive").to_table().to_pandas()
    assert set(table["policy"]) == {"bandit:ucb1", "bandit:thompson"}
    assert table["trial"].nunique() == 14
    assert len(table) == 12 * 6 + 2 * 8
    assert {"seed", "task", "errored", "return", "regret"} <= set(table)


def test_the_order_of_trials_changes_nothing(done: Path, tmp_path: Path) -> None:
    sweep = sweep_of()

    run(sweep, tmp_path / "again", lambda: Here(sweep, workers=3))
    assert_equal(done, tmp_path / "again")
    worker = Worker({})
    trials = [sweep.trial(point) for point in sweep.searching().ask()[:6]]
    first, second = [worker(one) for one in trials], [worker(one) for one in reversed(trials)]
    for one, other in zip(first, reversed(second), strict=True):
        assert one.episodes is not None
        assert other.episodes is not None
        pd.testing.assert_frame_equal(one.episodes, other.episodes, check_exact=True)


def test_what_is_finished_is_never_run_again(tmp_path: Path) -> None:
    sweep, folder = sweep_of(), tmp_path / "s"

    class Interrupted(Here):
        def start(self, number: int):  # type: ignore[no-untyped-def]
            handle = super().start(number)
            asked: Callable = handle.ask

            def ask(trial: Trial):  # type: ignore[no-untyped-def]
                if len(self.carried) == 7:
                    raise KeyboardInterrupt
                return asked(trial)

            handle.ask = ask  # type: ignore[method-assign]
            return handle

    first, second = Interrupted(sweep), Here(sweep)
    with pytest.raises(KeyboardInterrupt):
        run(sweep, folder, lambda: first)
    (folder / "journal.jsonl").open("a").write('{"trial": "t0')  # as a kill leaves it
    with pytest.raises(BadInput, match="--resume"):
        run(sweep, folder, lambda: second)
    outcome = run(sweep, folder, lambda: second, resume=True)
    kept = len(Store(folder).journal()) - outcome.ran
    assert kept == 7
    assert not set(first.carried[:kept]) & set(second.carried)
    assert run(sweep, folder, lambda: pytest.fail("nothing is left"), resume=True).ran == 0
    retried = Here(sweep)
    assert run(sweep, folder, lambda: retried, retry=True).ran == 6
    assert Store(folder).journal()["trial"].is_unique is False


def test_a_folder_holds_one_sweep(done: Path) -> None:
    other = sweep_of(BANDITS.replace("[20, 30, 40]", "[20, 30]"))
    with pytest.raises(RunMismatch, match="values"):
        run(other, done, lambda: Here(other), resume=True)
    adaptive = sweep_of(BANDITS.replace("maximise:", "search: {adaptive: 4}\nmaximise:"))
    with pytest.raises(BadInput, match="failures"):
        run(adaptive, done, lambda: Here(adaptive), retry=True)


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    sweep = sweep_of()
    trial = sweep.trial({"policy": "bandit:ucb1", "horizon": 20, "num_envs": 1})
    store = Store(tmp_path)
    with store.opened(sweep.describe(), resume=False):
        store.write(trial, Worker({})(trial))
        assert Store(tmp_path).read(trial) is not None
        store.path(trial).write_bytes(b"PAR1")
        with pytest.raises(BadArtifact, match=trial.key):
            Store(tmp_path).read(trial)


def test_an_adaptive_sweep_resumed_is_the_one_that_was_not_stopped(tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    text = (
        "sweep: 1\npolicy: bandit:ucb1\ntasks: BanditGaussian5\nseeds: 0-2\nmeasures: [return]\n"
        "vary:\n  horizon: {path: env.horizon, from: 10, to: 60, integer: true}\n"
        "search: {adaptive: 9, round: 3, seed: 1}\nmaximise: return\n"
    )
    sweep = sweep_of(text)
    run(sweep, tmp_path / "whole", lambda: Here(sweep))
    whole = Store(tmp_path / "whole")
    half = Store(tmp_path / "half")
    with half.opened(sweep.describe(), resume=False):  # five of the trials are there already
        for trial in [
            sweep.trial({"horizon": h}) for h in pd.read_parquet(tmp_path / "whole/trials.parquet")["horizon"][:5]
        ]:
            half.write(trial, Worker({})(trial))
    other = Here(sweep, workers=2)
    run(sweep, tmp_path / "half", lambda: other, resume=True)
    assert_equal(tmp_path / "whole", tmp_path / "half")
    assert len(other.carried) == len(whole.journal()) - 5
    assert (
        pd.read_parquet(tmp_path / "whole/trials.parquet")["round"].tolist()
        == sorted([0, 1, 2] * 3)[: len(whole.journal())]
    )


def test_steering_stands_beside_the_unsteered(some: Path, tmp_path: Path) -> None:
    sweep = sweep_of(STEERED, some)
    outcome = run(sweep, tmp_path / "s", lambda: Here(sweep))
    trials, table = outcome.trials, outcome.table
    assert trials["role"].tolist() == ["baseline"] + ["search"] * 4
    base = trials.iloc[0]["ee_speed"]
    steered = table[table["role"] == "search"].set_index(["layer", "strength"])
    assert steered.loc[(0, 0), "effect"] == 0
    assert steered.loc[(2, 0), "mean"] == base
    assert steered.loc[(2, 2), "mean"] != base
    assert steered.loc[(2, 2), "effect"] == pytest.approx(steered.loc[(2, 2), "mean"] - base)
    rows = square(table, "ee_speed")
    assert [row["layer"] for row in rows] == [0, 2]
    assert list(rows[0]) == ["layer", "0", "2"]
    assert rows[0]["0"].startswith(f"{base:.3g} [")
    alone = sweep_of(STEERED + "baseline: false\n", some)
    assert len(run(alone, tmp_path / "alone", lambda: Here(alone)).trials) == 4


def test_a_control_takes_the_place_of_the_direction(some: Path) -> None:
    direction = Direction.load(some / "some.safetensors")
    (flipped,) = controlled((Add(direction, strength=0.2),), "flipped")
    (drawn,) = controlled((Add(direction, strength=0.2),), "random 3")
    key = "denoiser.1.block_output"
    assert isinstance(flipped, Add)
    assert isinstance(drawn, Add)
    np.testing.assert_allclose(flipped.direction.vectors[key], -direction.vectors[key])
    assert abs(float((drawn.direction.vectors[key] * direction.vectors[key]).sum())) < 0.5
    assert drawn.direction.statistics[key]["mean_norm"] == 3.0
    with pytest.raises(BadInput, match="no part has one"):
        controlled((), "flipped")
    with pytest.raises(BadInput, match="random SEED"):
        controlled((), "random")
