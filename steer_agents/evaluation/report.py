"""One HTML file that tells what an experiment showed: the verdict first, then the numbers, then how to repeat it.

The file asks for nothing from outside: plots are embedded as base64, the style is inside, there is no script. It
follows the reader's light or dark setting, and prints.
"""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd

from policies.errors import BadInput, nearest
from steer_agents.evaluation.intervals import Interval
from steer_agents.runs import environment_record, jsonable, write_text

_PNG = b"\x89PNG\r\n\x1a\n"
_MP4 = b"ftyp"

Figure = tuple[str | Path | bytes, str, str]
"""(path of a PNG file (of an mp4 for films) or its bytes, caption, alternative text)."""


@dataclass(frozen=True)
class Bar:
    """One condition that was set for the result beforehand, and whether it holds.

    Args:
        name: what is asked, in words.
        value: what was measured.
        interval: (low, high), or None.
        bound: what it has to be, in words or as a number ("> 0", "at least 0.9").
        holds: True, False, or None where it was not measured.
    """

    name: str
    value: float | str | None
    interval: tuple[float, float] | None
    bound: float | str
    holds: bool | None


def write_report(
    path: str | Path,
    *,
    title: str,
    question: str,
    verdict: str,
    bars: Sequence[Bar | Mapping[str, Any]],
    conditions: pd.DataFrame,
    figures: Sequence[Figure] = (),
    films: Sequence[Figure] = (),
    config: Mapping[str, Any] | None = None,
    command: str = "",
    notes: str | Sequence[str] = (),
    environment: Mapping[str, Any] | None = None,
) -> Path:
    """Write a self-contained HTML report.

    Args:
        path: of the HTML file; written atomically.
        title: of the experiment.
        question: that it asks.
        verdict: the answer, in plain words.
        bars: what was set beforehand; `Bar`s or dicts of the same keys.
        conditions: one row per condition, columns as they shall be shown.
        figures: plots in order.
        films: mp4 files in the same form, shown before the plots.
        config: resolved configuration, shown as JSON.
        command: that reproduces the result.
        notes: paragraphs of limitations and remarks.
        environment: of the run; None records this process's.
    Raises:
        BadInput: a bar with wrong keys, a figure that is not a PNG, a film that is no mp4, or one without caption or alternative text.
    """
    checked = [_bar(bar) for bar in bars]
    environment = environment_record() if environment is None else environment
    page = _template().render(
        title=title,
        question=question,
        verdict=verdict,
        bars=[
            {
                "name": bar.name,
                "value": show(bar.value),
                "interval": "–" if bar.interval is None else f"{show(bar.interval[0])} to {show(bar.interval[1])}",
                "bound": show(bar.bound),
                "holds": {True: "holds", False: "fails", None: "not measured"}[bar.holds],
            }
            for bar in checked
        ],
        columns=[str(name) for name in conditions.columns],
        numeric=[pd.api.types.is_numeric_dtype(dtype) for dtype in conditions.dtypes],
        rows=[[show(value) for value in row] for row in conditions.itertuples(index=False)],
        figures=[_embedded(figure, "figure", "PNG image", lambda data: data.startswith(_PNG)) for figure in figures],
        films=[_embedded(film, "film", "mp4 film", lambda data: data[4:8] == _MP4) for film in films],
        config=json.dumps(jsonable(config or {}), indent=2, ensure_ascii=False),
        versions=_versions(environment),
        command=command,
        notes=[notes] if isinstance(notes, str) and notes else list(notes),
    )
    return write_text(path, page)


def show(value: Any) -> str:
    """A value as a reader wants it: numbers to four digits, truth values as yes and no, what is missing as a dash."""
    if value is None or value is pd.NA or (isinstance(value, float | np.floating) and math.isnan(value)):
        return "–"
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, float | np.floating):
        return f"{value:.4g}"
    if isinstance(value, Interval):
        return str(value)
    return str(value)


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(Path(__file__).parent)
    settings = jinja2.Environment(
        loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    return settings.get_template("report.html")


def _bar(bar: Bar | Mapping[str, Any]) -> Bar:
    if isinstance(bar, Bar):
        return bar
    allowed = [item.name for item in fields(Bar)]
    for key in bar:
        if key not in allowed:
            raise BadInput(f"report bar: key {key!r} is unknown{nearest(key, allowed)}")
    missing = [key for key in allowed if key not in bar]
    if missing:
        raise BadInput(f"report bar {dict(bar)}: keys {missing} are missing; needed are {allowed}.")
    return Bar(**{**bar, "holds": None if bar["holds"] is None else bool(bar["holds"])})


def _embedded(figure: Figure, what: str, kind: str, fits: Callable[[bytes], bool]) -> dict[str, str]:
    source, caption, alt = figure
    if not caption.strip() or not alt.strip():
        raise BadInput(f"report {what}: caption and alternative text are needed, got {caption!r} and {alt!r}.")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    if not fits(data):
        raise BadInput(f"report {what} {caption!r}: expected a {kind}, got data that begin with {data[:8]!r}.")
    return {"data": base64.b64encode(data).decode("ascii"), "caption": caption, "alt": alt}


def _versions(environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The environment record as rows of a table."""
    git = environment.get("git")
    rows = [("commit", "unknown" if not git else git["commit"] + (" with local changes" if git["dirty"] else ""))]
    for key, value in environment.items():
        if key == "git" or value is None:
            continue
        if isinstance(value, Mapping):
            rows += [(str(name), show(item)) for name, item in value.items()]
        else:
            rows.append((str(key).replace("_", " "), show(value)))
    return rows
