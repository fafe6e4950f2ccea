"""Processes of this machine, killed: a worker, then the one that drives them, and the table is what it would have been."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import psutil
import pytest
from sweep_parts import PATIENCE, Here, Start, answered, assert_equal, bandits, sweep_of, until

from launch.sweep.local import Local
from launch.sweep.run import run
from launch.sweep.store import Store
from policies.errors import BadInput


def test_a_worker_and_then_the_driver_are_killed_and_the_table_is_whole(start: Start, tmp_path: Path) -> None:
    text, out = tmp_path / "s.yaml", tmp_path / "killed"
    text.write_text(bandits(trials=24, horizon=300))
    sweep = sweep_of(text.read_text())
    driver = start(text, out, "--workers", "2")
    until(lambda: answered(out) >= 3, "three answers")
    workers = [one for one in psutil.Process(driver.pid).children() if "spawn_main" in " ".join(one.cmdline())]
    assert len(workers) == 2
    workers[0].send_signal(signal.SIGKILL)
    at_death = answered(out)
    until(lambda: answered(out) >= at_death + 3, "answers after the death of a worker")
    children = psutil.Process(driver.pid).children()
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    until(lambda: not any(_alive(one) for one in children), "no worker outlives its driver")
    before = len(list(out.glob("episodes/*/*/part.parquet")))
    assert 0 < before < 24, "the driver was to be killed before the end"

    again = start(text, out, "--workers", "2", "--resume")
    said, errors = again.communicate(timeout=PATIENCE)
    assert again.returncode == 0, errors
    told = json.loads(said)
    assert (told["trials"], told["failed"], told["ran"]) == (24, 0, 24 - before)
    journal = Store(out).journal()["trial"]
    assert journal.is_unique, "a finished trial is never run again"
    run(sweep, tmp_path / "whole", lambda: Here(sweep))
    assert_equal(tmp_path / "whole", out)


def _alive(process: psutil.Process) -> bool:
    try:
        return bool(process.is_running()) and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_what_a_machine_has_not_got_is_said() -> None:
    with pytest.raises(BadInput, match="GPUs"):
        Local({}, workers=999, resources={"num_gpus": 0.5})
    assert Local({}, workers=3).workers == 3
