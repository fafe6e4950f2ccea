"""The run folder: writes that are whole or absent, descriptions that repeat, records that can be trusted."""

from __future__ import annotations

import dataclasses
import enum
import functools
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from policies.errors import BadArtifact, BadInput, RunMismatch
from steer_agents.runs import RunFolder, environment_record, jsonable, write_bytes, write_json, write_table, write_text


@dataclasses.dataclass(frozen=True)
class Config:
    layer: int
    strength: float


class Colour(enum.Enum):
    RED = "red"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ------------------------------------------------------------------------------------------------------------- writing


def test_what_is_written_reads_back_and_nothing_else_is_left(tmp_path: Path) -> None:
    table = pd.DataFrame({"episode": [0, 1], "error": [None, "x"], "vector": [[1.0, 2.0], [3.0]]})
    write_bytes(tmp_path / "deep" / "a.png", b"\x00\xff")
    write_text(tmp_path / "deep" / "b.txt", "größe\nzwei")
    write_json(tmp_path / "deep" / "c.json", {"b": 1, "a": [True, None]})
    write_table(tmp_path / "deep" / "d.parquet", table)
    assert (tmp_path / "deep" / "a.png").read_bytes() == b"\x00\xff"
    assert (tmp_path / "deep" / "b.txt").read_bytes() == "größe\nzwei".encode()
    assert json.loads((tmp_path / "deep" / "c.json").read_text()) == {"b": 1, "a": [True, None]}
    read = pd.read_parquet(tmp_path / "deep" / "d.parquet")
    assert list(read.columns) == ["episode", "error", "vector"]
    assert list(read["vector"][0]) == [1.0, 2.0]
    assert names(tmp_path / "deep") == ["a.png", "b.txt", "c.json", "d.parquet"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_write_that_fails_leaves_the_old_content_and_no_debris(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operation: str
) -> None:
    write_text(tmp_path / "a.txt", "old")

    def fail(*arguments: Any) -> None:
        raise OSError("no space left on the device")

    monkeypatch.setattr(os, operation, fail)
    with pytest.raises(OSError, match="no space"):
        write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


def test_the_new_content_is_on_the_disk_before_it_takes_the_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []

    def noted(name: str) -> Callable[..., Any]:
        real = getattr(os, name)

        def call(*arguments: Any) -> Any:
            order.append(name)
            return real(*arguments)

        return call

    for name in ("fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name))
    write_text(tmp_path / "a.txt", "new")
    assert order == ["fsync", "replace", "fsync"]


def test_a_shard_that_fails_in_its_second_table_does_not_appear(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(AttributeError):
        run.write_shard("one", {"episodes": pa.table({"x": [1]}), "steps": "not a table"})
    assert not run.has_shard("one")
    assert names(tmp_path / "waves") == []
    run.write_shard("one", {"episodes": pa.table({"x": [1]}), "steps": pa.table({"y": [2.0]})})
    assert run.has_shard("one")
    assert {key: table.to_pydict() for key, table in run.read_shard("one").items()} == {
        "episodes": {"x": [1]},
        "steps": {"y": [2.0]},
    }


# ---------------------------------------------------------------------------------------------------------- describing


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), [1, 2]),
        (np.float32(0.5), 0.5),
        (np.arange(3), [0, 1, 2]),
        ({"b", "a"}, ["a", "b"]),
        (Config(3, 0.2), {"layer": 3, "strength": 0.2}),
        (Colour.RED, "red"),
        (Path("x") / "y", "x/y"),
        (float("nan"), None),
        (float("-inf"), "-Infinity"),
        ({1: True}, {"1": True}),
        (np.random.default_rng, "numpy.random._generator.default_rng"),
        (Config, f"{__name__}.Config"),
        (functools.partial(int, base=2), {"function": "builtins.int", "args": [], "kwargs": {"base": 2}}),
    ],
)
def test_values_become_what_json_holds(value: Any, expected: Any) -> None:
    found = jsonable(value)
    assert found == expected or (isinstance(expected, str) and "default_rng" in found and "default_rng" in expected)
    json.dumps(found, allow_nan=False)


def test_an_object_that_would_be_described_otherwise_in_the_next_process_is_refused() -> None:
    with pytest.raises(BadInput, match="memory address"):
        jsonable({"reward": object()})
    with pytest.raises(BadInput, match="text keys"):
        jsonable({(1, 2): 3})


def test_the_environment_record_names_versions_and_is_jsonable() -> None:
    record = environment_record()
    assert record["libraries"]["numpy"] == np.__version__
    assert record["libraries"]["pandas"] == pd.__version__
    assert record["python"].startswith("3.")
    assert jsonable(record) == record


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.org")
    return subprocess.run(
        ["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_recorded_and_whether_files_differ_from_it(tmp_path: Path) -> None:
    assert environment_record(tmp_path)["git"] is None
    git(tmp_path, "init", "--quiet")
    assert environment_record(tmp_path)["git"] is None  # no commit yet
    (tmp_path / "a.txt").write_text("1")
    git(tmp_path, "add", "a.txt")
    git(tmp_path, "commit", "--quiet", "--message", "one")
    commit = git(tmp_path, "rev-parse", "HEAD")
    assert environment_record(tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "untracked.txt").write_text("1")
    assert environment_record(tmp_path)["git"] == {"commit": commit, "dirty": False}
    (tmp_path / "a.txt").write_text("2")
    assert environment_record(tmp_path)["git"] == {"commit": commit, "dirty": True}


# ------------------------------------------------------------------------------------------------------------- folders


def test_a_run_begins_once_and_goes_on_with_the_same_config_only(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    assert run.record is None
    run.begin({"seed": 1, "policy": {"name": "a", "layers": (1, 2)}, "episodes": 5}, grows=("episodes",))
    run.begin({"seed": 1, "policy": {"name": "a", "layers": [1, 2]}, "episodes": 5}, grows=("episodes",))
    assert run.record is not None
    assert len(run.record["environments"]) == 1
    with pytest.raises(RunMismatch) as caught:
        run.begin({"seed": 1, "policy": {"name": "b"}, "episodes": 5}, grows=("episodes",))
    message = str(caught.value)
    assert "policy.name: the folder has 'a', asked 'b'" in message
    assert "policy.layers: the folder has [1, 2], asked '(nothing)'" in message
    assert "seed" not in message
    assert "episodes may grow" in message
    with pytest.raises(RunMismatch, match="episodes: the folder has 5, asked 4"):
        run.begin({"seed": 1, "policy": {"name": "a", "layers": [1, 2]}, "episodes": 4}, grows=("episodes",))
    run.begin({"seed": 1, "policy": {"name": "a", "layers": [1, 2]}, "episodes": 6}, grows=("episodes",))
    assert run.record["config"]["episodes"] == 6


def test_going_on_with_other_versions_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path)
    run.begin({"seed": 1})
    monkeypatch.setattr("steer_agents.runs.LIBRARIES", ("numpy",))
    run.begin({"seed": 1})
    run.begin({"seed": 1})
    assert run.record is not None
    assert [len(record["libraries"]) > 1 for record in run.record["environments"]] == [True, False]


def test_a_growing_run_loses_the_tables_of_the_smaller_one(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin({"episodes": 1}, grows=("episodes",))
    write_table(tmp_path / "episodes.parquet", pd.DataFrame({"episode": [0]}))
    run.begin({"episodes": 1}, grows=("episodes",))
    assert len(run.read_table("episodes")) == 1
    run.begin({"episodes": 2}, grows=("episodes",))
    with pytest.raises(BadArtifact, match="unfinished"):
        run.read_table("episodes")


def test_what_a_killed_process_left_is_removed_and_finished_parts_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.begin({"seed": 1})
    run.write_shard("one", {"steps": pa.table({"x": [1]})})
    (tmp_path / ".run.json.1-ab.tmp").write_text("{")
    (tmp_path / "waves" / ".two.1.tmp").mkdir()
    (tmp_path / "waves" / ".two.1.tmp" / "steps.parquet").write_bytes(b"PAR1")
    run.begin({"seed": 1})
    assert names(tmp_path) == ["run.json", "waves"]
    assert names(tmp_path / "waves") == ["one"]


def test_damaged_files_are_named_with_what_to_do(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with pytest.raises(BadArtifact, match="holds no run"):
        run.read_table("episodes")
    run.write_shard("one", {"steps": pa.table({"x": [1]})})
    with pytest.raises(RunMismatch, match=r"no run\.json"):
        run.begin({"seed": 1})
    file = tmp_path / "waves" / "one" / "steps.parquet"
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(BadArtifact, match=r"steps\.parquet is damaged"):
        run.read_shard("one")
    (tmp_path / "run.json").write_text('{"config": 1')
    with pytest.raises(BadArtifact, match="not a run record"):
        _ = run.record
    (tmp_path / "run.json").write_text('{"format": 99, "config": {}}')
    with pytest.raises(BadArtifact, match="format 99"):
        _ = run.record
