"""Tables that a user has on disk: CSV, parquet, JSON lines, or the episodes of a results folder."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from policies.errors import BadArtifact, BadInput, nearest

EPISODES = "episodes.parquet"


def lines_of(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file, empty lines left out.

    Raises:
        BadInput: no such file, or no objects in it. BadArtifact: a line that is no JSON object; it is named.
    """
    if not path.is_file():
        raise BadInput(f"there is no file {path}.")
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise BadArtifact(f"{path}, line {number}: no JSON ({error}); write one object per line.") from None
        if not isinstance(found[-1], dict):
            raise BadArtifact(f"{path}, line {number}: expected an object, got {type(found[-1]).__name__}.")
    if not found:
        raise BadInput(f"{path} is empty; write one JSON object per line.")
    return found


READERS: Mapping[str, Callable[[Path], pd.DataFrame]] = {
    ".csv": pd.read_csv,
    ".parquet": pd.read_parquet,
    ".jsonl": lambda path: pd.DataFrame(lines_of(path)),
}


def table_of(path: Path) -> pd.DataFrame:
    """A table from a file by its suffix, or a folder's `EPISODES`.

    Raises:
        BadInput: no such file or folder, or another suffix. BadArtifact: it cannot be read.
    """
    file = path / EPISODES if path.is_dir() else path
    if not file.is_file():
        raise BadInput(f"there is no file {file}; give a {', '.join(READERS)} file, or a folder that holds {EPISODES}.")
    if file.suffix not in READERS:
        raise BadInput(f"{file}: tables are read from {', '.join(READERS)}, got {file.suffix or 'no suffix'!r}.")
    try:
        return READERS[file.suffix](file)
    except (OSError, ValueError) as error:
        if isinstance(error, BadArtifact | BadInput):
            raise
        raise BadArtifact(f"{file} cannot be read ({error}).") from None


def numbers(table: pd.DataFrame, column: str, source: Path) -> pd.Series:
    """A column as numbers, NaN where a cell is empty.

    Raises:
        BadInput: no such column (the message lists those that exist), or a cell that is no number.
    """
    if column not in table:
        raise BadInput(f"{source} has no column {column!r}{nearest(column, table.columns)}")
    values = pd.to_numeric(table[column], errors="coerce").astype(float)
    if (odd := table[column][values.isna() & table[column].notna()]).size:
        raise BadInput(f"{source}: the column {column!r} holds {odd.iloc[0]!r}, which is no number.")
    return values
