"""Sweeps for tests: bandits, which take milliseconds, and workers without processes."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from pathlib import Path

import pandas as pd

from launch.sweep.document import parse
from launch.sweep.plan import Sweep
from launch.sweep.trial import Answer, Trial, Worker
from launch.sweep.workers import Backend, Handle

Start = Callable[..., "subprocess.Popen[str]"]
"""(sweep.yaml, folder, further arguments) -> `steer-agents sweep` in a process."""
PATIENCE = 900.0
"""Seconds until a test gives up; nothing depends on how long things take."""
BANDITS = """\
sweep: 1
policy: bandit:ucb1
tasks: [BanditGaussian5, BanditBernoulli5]
seeds: 0-5
measures: [return, regret]
num_envs: 3
vary:
  policy: [bandit:ucb1, bandit:thompson, bandit:nosuch]
  horizon: {path: env.horizon, values: [20, 30, 40]}
  num_envs: [1, 3]
maximise: return
test: {best: 2, seeds: 20-27}
"""
"""18 trials, 6 of which fail: there is no agent `nosuch`. 2 are measured again."""


class Here(Backend):
    """One worker in this process; counts what it carries out."""

    def __init__(self, sweep: Sweep, workers: int = 1) -> None:
        self.workers, self.sweep, self.carried = workers, sweep, list[str]()

    def start(self, number: int) -> Handle:
        return HereHandle(self)

    def close(self) -> None:
        pass


class HereHandle(Handle):
    def __init__(self, backend: Here) -> None:
        self.backend, self.worker = backend, Worker(backend.sweep.files)
        self.ready: Future[int] = Future()
        self.ready.set_result(0)

    def ask(self, trial: Trial) -> Future[Answer]:
        self.backend.carried.append(trial.key)
        future: Future[Answer] = Future()
        future.set_result(self.worker(trial))
        return future

    def close(self) -> None:
        pass


def sweep_of(text: str = BANDITS, folder: str | Path = ".") -> Sweep:
    return parse(text, folder)


def bandits(trials: int, horizon: int, seeds: int = 6) -> str:
    """A sweep of as many trials of UCB1 and Thompson sampling, each in a horizon of its own."""
    horizons = json.dumps([horizon + number for number in range(trials // 2)])
    return (
        f"sweep: 1\npolicy: bandit:ucb1\ntasks: BanditGaussian5\nseeds: 0-{seeds - 1}\nmeasures: [return, regret]\n"
        f"num_envs: 3\nvary:\n  policy: [bandit:ucb1, bandit:thompson]\n  horizon: {{path: env.horizon, values: {horizons}}}\n"
        "maximise: return\n"
    )


def tables(folder: Path) -> Mapping[str, pd.DataFrame]:
    """All that a sweep left, without how long it took."""
    episodes = pd.read_parquet(folder / "episodes").astype({"policy": str, "trial": str})
    return {
        "episodes": episodes.sort_values(["trial", "episode"]).reset_index(drop=True),
        "trials": pd.read_parquet(folder / "trials.parquet").drop(columns="seconds"),
        "table": pd.read_parquet(folder / "table.parquet"),
    }


def assert_equal(a: Path, b: Path) -> None:
    """Row for row, bit for bit."""
    left, right = tables(a), tables(b)
    for name in left:
        pd.testing.assert_frame_equal(left[name], right[name], check_exact=True, obj=name)


def until(true: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, f"waited for: {what}"
        time.sleep(0.02)


def answered(out: Path) -> int:
    journal = out / "journal.jsonl"
    return journal.read_bytes().count(b"\n") if journal.exists() else 0
