"""What the modules of the command line share: the app that they add commands to, tables, JSON."""

from __future__ import annotations

import json
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from policies.errors import BadInput

app = tyro.extras.SubcommandApp()
OUT = Console(highlight=False)


def print_rows(rows: list[dict[str, Any]], title: str, as_json: bool, whole: Collection[str] = ()) -> None:
    """A list of equal dicts as a table, or as JSON; brackets in texts are shown, not read as styles.

    Args:
        whole: columns that are never broken into lines: names, which are copied from the table.
    """
    if as_json:
        from steer_agents.runs import jsonable

        print(json.dumps(jsonable(rows), indent=1))
        return
    table = Table(title=escape(title), title_justify="left", header_style="bold")
    for name in rows[0] if rows else []:
        table.add_column(escape(str(name)), overflow="fold", no_wrap=name in whole)
    for row in rows:
        table.add_row(*[_cell(value) for value in row.values()])
    OUT.print(table)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else escape(str(value))


def dumps(value: Any) -> str:
    """As the commands print JSON."""
    return json.dumps(value, indent=1)


def prompt_lines(path: Path) -> list[str]:
    """The lines of a text file of prompts, empty ones left out.

    Raises:
        BadInput: no such file, or nothing in it.
    """
    lines = [line for line in path.read_text().splitlines() if line.strip()] if path.is_file() else []
    if not lines:
        raise BadInput(f"{path} is no text file with prompts; write one per line.")
    return lines


@contextmanager
def training_folder(folder: Path | None, out: Path) -> Iterator[Path]:
    """Where a training keeps how far it is: `folder`, or one beside `out` that goes when the block ends well, i.e. when `out` is written.

    So the same command goes on after a kill, whether or not a folder was named.
    """
    if folder is not None:
        yield folder
        return
    beside = out.with_name(f".{out.name}.training")
    yield beside
    shutil.rmtree(beside, ignore_errors=True)


def is_recipe(name: str) -> bool:
    """Whether a name is that of a recipe, and not of a policy."""
    return name.endswith((".yaml", ".yml")) or (Path(name) / "recipe.yaml").is_file()
