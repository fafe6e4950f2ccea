"""Where a sweep's trials lie: one file each, whole or absent.

    run.json                                        what was asked, and what it ran on (`steer_agents.runs`)
    episodes/policy=NAME/trial=KEY/part.parquet     the episodes of a finished trial; its description and seconds in the file's metadata
    failures/KEY.json                               description and traceback of a failed one
    journal.jsonl                                   a line per answer, in the order in which they came: key, status, seconds, time
    trials.parquet, table.parquet, table.csv        written at the end, see `tables.py`

`pandas.read_parquet(FOLDER / "episodes")` and `pyarrow.dataset.dataset(FOLDER / "episodes", partitioning="hive")` read all episodes,
with the columns `policy` and `trial`. A trial is finished when its file is there: the file is renamed into place when it is whole,
so that a sweep can be killed at any moment. The journal is a log, not the truth.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from launch.sweep.trial import Answer, Trial
from policies.errors import BadArtifact, BadInput
from steer_agents.runs import RunFolder, write_json, write_table

METADATA = b"steer_agents.trial"


@dataclass(frozen=True)
class Kept:
    """What is known of an answered trial.

    Args:
        episodes: None where it failed.
        error: "" where it did not.
        seconds: that it took.
    """

    episodes: pd.DataFrame | None
    error: str
    seconds: float


class Store:
    """A sweep's folder.

    Args:
        folder: made when it is opened.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._kept: dict[str, Kept] = {}

    @contextmanager
    def opened(self, config: Mapping[str, Any], resume: bool, retry: bool = False) -> Iterator[None]:
        """Begin a sweep here, or go on with it; no other process can meanwhile.

        Args:
            config: what is asked for.
            resume: go on with what is here.
            retry: forget failures, so that failed trials are run again.
        Raises:
            BadInput: there is a sweep here and `resume` was not asked for.
            RunMismatch: there is another sweep here, or one that another process works on.
        """
        run = RunFolder(self.folder)
        if run.record is not None and not resume:
            raise BadInput(
                f"sweep: {self.folder} holds a sweep already; go on with it by --resume, or choose another --out."
            )
        with run.claimed():
            run.begin(config)
            if retry:
                for file in self.folder.glob("failures/*.json"):
                    file.unlink()
            self._mend_journal()
            yield

    def path(self, trial: Trial) -> Path:
        """Where its episodes are, or will be."""
        return (
            self.folder / "episodes" / f"policy={quote(trial.policy, safe='')}" / f"trial={trial.key}" / "part.parquet"
        )

    def read(self, trial: Trial) -> Kept | None:
        """What is known of a trial; None where it has no answer yet.

        Raises:
            BadArtifact: its file is damaged.
        """
        if trial.key not in self._kept:
            good, bad = self.path(trial), self._failure(trial.key)
            if good.exists():
                self._kept[trial.key] = _read(good)
            elif bad.exists():
                told = json.loads(bad.read_text())
                self._kept[trial.key] = Kept(None, str(told["error"]), float(told["seconds"]))
        return self._kept.get(trial.key)

    def write(self, trial: Trial, answer: Answer) -> None:
        """Keep an answer."""
        about = {"settings": trial.settings, "files": trial.files, "seconds": answer.seconds}
        if answer.episodes is None:
            write_json(self._failure(trial.key), {**about, "error": answer.error})
        else:
            table = pa.Table.from_pandas(answer.episodes, preserve_index=False)
            metadata = {**(table.schema.metadata or {}), METADATA: json.dumps(about).encode()}
            write_table(self.path(trial), table.replace_schema_metadata(metadata))
        self._kept[trial.key] = Kept(answer.episodes, answer.error, answer.seconds)
        line = {
            "trial": trial.key, "status": "finished" if answer.episodes is not None else "failed",
            "seconds": round(answer.seconds, 3), "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        }  # fmt: skip
        with open(self.folder / "journal.jsonl", "a", encoding="utf-8") as journal:
            journal.write(json.dumps(line) + "\n")

    def journal(self) -> pd.DataFrame:
        """Every answer that ever came: trial, status, seconds, time."""
        file = self.folder / "journal.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return pd.DataFrame([json.loads(line) for line in lines], columns=["trial", "status", "seconds", "time"])

    def _failure(self, key: str) -> Path:
        return self.folder / "failures" / f"{key}.json"

    def _mend_journal(self) -> None:
        """Cut off a last line that a kill left unfinished."""
        file = self.folder / "journal.jsonl"
        if file.exists() and not (text := file.read_bytes()).endswith(b"\n"):
            file.write_bytes(text[: text.rfind(b"\n") + 1])


def _read(file: Path) -> Kept:
    try:
        table = pq.read_table(file, partitioning=None)
        about = json.loads((table.schema.metadata or {})[METADATA])
        return Kept(table.to_pandas(), "", float(about["seconds"]))
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise BadArtifact(f"{file} is damaged ({error}); delete {file.parent} and go on with --resume.") from None
