"""Two Ray nodes in one machine; a worker and then the driver are killed: the finished table equals the local one, row for row."""

from __future__ import annotations

import builtins
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from sweep_parts import PATIENCE, Here, Start, answered, assert_equal, bandits, sweep_of, until

from launch.sweep.ray_backend import RayBackend
from launch.sweep.run import run
from launch.sweep.store import Store
from policies.errors import MissingExtra


@pytest.fixture
def cluster() -> Iterator[str]:
    """The address of two nodes with two CPUs each."""
    pytest.importorskip("ray")
    command = [sys.executable, str(Path(__file__).parent / "ray_nodes.py"), "2", "2"]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    address = process.stdout.readline().strip()
    assert address, "the cluster did not come up"
    nodes = psutil.Process(process.pid).children(recursive=True)
    yield address
    process.stdin.close()
    process.wait(timeout=120)
    for one in psutil.wait_procs(nodes, timeout=30)[1]:
        one.kill()


@pytest.mark.slow
def test_two_nodes_two_hundred_trials_two_kills(cluster: str, start: Start, tmp_path: Path) -> None:
    count = int(os.environ.get("SWEEP_TRIALS", "200"))
    text, out = tmp_path / "s.yaml", tmp_path / "killed"
    text.write_text(bandits(trials=count, horizon=60))
    sweep = sweep_of(text.read_text())
    options = ("--backend", "ray", "--address", cluster, "--workers", "3")
    driver = start(text, out, *options)
    until(lambda: answered(out) >= 5, "five answers")
    actors = [one for one in psutil.process_iter(["cmdline"]) if "ray::Actor" in " ".join(one.info["cmdline"] or [])]
    assert len(actors) >= 2
    actors[0].send_signal(signal.SIGKILL)
    at_death = answered(out)
    until(lambda: answered(out) >= at_death + 5, "answers after the death of a worker")
    driver.send_signal(signal.SIGKILL)
    driver.communicate()
    before = len(list(out.glob("episodes/*/*/part.parquet")))
    assert 0 < before < count, "the driver was to be killed before the end"

    again = start(text, out, *options, "--resume")
    said, errors = again.communicate(timeout=2 * PATIENCE)
    assert again.returncode == 0, errors
    assert f'"ran": {count - before}' in said
    assert Store(out).journal()["trial"].is_unique
    assert len(list(out.glob("episodes/*/*/part.parquet"))) == count
    run(sweep, tmp_path / "whole", lambda: Here(sweep))
    assert_equal(tmp_path / "whole", out)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args, **kwargs):  # type: ignore[no-untyped-def]
        if name.split(".")[0] == "ray":
            raise ImportError("no ray")
        return real(name, *args, **kwargs)

    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(MissingExtra, match=r"steer-agents\[sweep\]"):
        RayBackend({})
