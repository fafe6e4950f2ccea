"""The tables of a run folder in other forms: CSV, parquet, TensorBoard, Weights & Biases."""

from __future__ import annotations

import importlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from policies.errors import BadArtifact, BadInput, MissingExtra, nearest
from steer_agents.runs import RunFolder, jsonable, write_json, write_table

STEP_AXIS = ("episode", "env_step")


def export(folder: Path, to: str, target: Path, *, project: str = "steer-agents", name: str = "") -> Path:
    """Write the episodes (and steps) of a finished run, or the episodes of an experiment, into a new folder.

    Args:
        folder: with episodes.parquet, and steps.parquet and run.json where it is a run's.
        to: one of `FORMS`.
        target: a folder that does not exist, or is empty.
        project, name: of Weights & Biases; the name is the folder's if empty.
    Returns:
        `target`.
    Raises:
        BadInput: an unknown form, or a folder that holds something.
        BadArtifact: no finished run.
        MissingExtra: the form's library is not installed.
    """
    if to not in FORMS:
        raise BadInput(f"export: --to {to} is unknown{nearest(to, FORMS)}")
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise BadInput(f"export: {target} exists and is not empty; name a new folder.")
    tables, config = _tables(folder)
    with _whole(target) as place:
        FORMS[to](tables, config, place, project, name or folder.resolve().name)
    return target


def _tables(folder: Path) -> tuple[dict[str, pd.DataFrame], dict[str, Any]]:
    """Name -> table, lists spread over columns; and what was asked for."""
    run = RunFolder(folder)
    if run.record is not None:
        found = {name: run.read_table(name) for name in ("episodes", "steps")}
        return {name: spread(table) for name, table in found.items()}, dict(run.record["config"])
    if not (folder / "episodes.parquet").is_file():
        raise BadArtifact(f"export: {folder} holds no run (run.json) and no episodes.parquet.")
    results = folder / "results.json"
    config = json.loads(results.read_text(encoding="utf-8")).get("settings", {}) if results.is_file() else {}
    return {"episodes": spread(pd.read_parquet(folder / "episodes.parquet"))}, config


def spread(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of lists as one column per entry, `action` -> `action_0`, `action_1`, ...; shorter lists are filled with NaN."""
    parts = []
    for name in table.columns:
        column = table[name]
        lists = column.dropna().map(lambda value: isinstance(value, list | np.ndarray))
        if not len(lists) or not lists.any():
            parts.append(column)
            continue
        width = max(len(value) for value in column[column.notna()])
        rows = [
            list(value) + [np.nan] * (width - len(value)) if value is not None else [np.nan] * width for value in column
        ]
        parts.append(pd.DataFrame(rows, index=table.index, columns=[f"{name}_{place}" for place in range(width)]))
    return pd.concat(parts, axis=1)


@contextmanager
def _whole(target: Path) -> Iterator[Path]:
    """A folder beside `target` that is renamed to it when everything is written."""
    target.parent.mkdir(parents=True, exist_ok=True)
    place = target.with_name(f".{target.name}.{os.getpid()}-{secrets.token_hex(4)}.tmp")
    place.mkdir()
    try:
        yield place
        os.replace(place, target)  # an empty folder may be replaced
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _numbers(table: pd.DataFrame) -> list[str]:
    """Numeric columns that are measured, not counted off."""
    found = table.select_dtypes(include=["number", "bool"]).columns
    return [str(name) for name in found if name not in ("episode", "env_step", "seed")]


def _csv(tables: Mapping[str, pd.DataFrame], config: Mapping[str, Any], place: Path, project: str, name: str) -> None:
    for key, table in tables.items():
        table.to_csv(place / f"{key}.csv", index=False)
    write_json(place / "config.json", config)


def _parquet(
    tables: Mapping[str, pd.DataFrame], config: Mapping[str, Any], place: Path, project: str, name: str
) -> None:
    for key, table in tables.items():
        write_table(place / f"{key}.parquet", table)
    write_json(place / "config.json", config)


def _tensorboard(
    tables: Mapping[str, pd.DataFrame], config: Mapping[str, Any], place: Path, project: str, name: str
) -> None:
    """Scalars `episode/MEASURE` over episodes and `step/COLUMN` (mean over the episodes that last so long) over env steps."""
    try:
        writer_of = importlib.import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise MissingExtra(
            f"export: TensorBoard is not installed ({error}); pip install steer-agents[noise]."
        ) from None
    writer = writer_of(log_dir=str(place))
    writer.add_text("config", f"```json\n{json.dumps(jsonable(config), indent=1)}\n```")
    episodes = tables["episodes"]
    for column in _numbers(episodes):
        for row, value in zip(episodes.get("episode", episodes.index), episodes[column], strict=True):
            if pd.notna(value):
                writer.add_scalar(f"episode/{column}", float(value), int(row))
    if "steps" in tables:
        steps = tables["steps"]
        means = steps.groupby("env_step")[_numbers(steps)].mean(numeric_only=True)
        for column in means:
            for step, value in means[column].items():
                if np.isfinite(value):
                    writer.add_scalar(f"step/{column}", float(value), int(step))
    writer.close()


def _wandb(tables: Mapping[str, pd.DataFrame], config: Mapping[str, Any], place: Path, project: str, name: str) -> None:
    """One run with a point per episode and both tables; offline unless WANDB_MODE says otherwise (`wandb sync` sends it later)."""
    try:
        wandb: Any = importlib.import_module("wandb")
    except ImportError:
        raise MissingExtra(
            "export: --to wandb needs Weights & Biases' client; pip install steer-agents[wandb]. "
            "CSV, parquet and TensorBoard need nothing more."
        ) from None
    mode = os.environ.get("WANDB_MODE", "offline")
    run = wandb.init(project=project, name=name, config=jsonable(config), dir=str(place), mode=mode)
    try:
        episodes = tables["episodes"]
        for number, row in enumerate(episodes[_numbers(episodes)].astype(float).to_dict("records")):
            run.log({"episode": number, **{key: value for key, value in row.items() if value == value}})
        run.log({key: wandb.Table(dataframe=table) for key, table in tables.items()})
        run.summary.update(
            {key: float(value) for key, value in episodes[_numbers(episodes)].mean().items() if value == value}
        )
    finally:
        run.finish()


FORMS: Mapping[str, Callable[[Mapping[str, pd.DataFrame], Mapping[str, Any], Path, str, str], None]] = {
    "csv": _csv,
    "parquet": _parquet,
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
"""Name -> writer of (tables, config, folder, project, name)."""
