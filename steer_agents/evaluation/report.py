"""One HTML file that tells what was found: the verdict first, then the numbers, then how to repeat it.

The file asks for nothing from outside, and its content security policy holds it to that: plots, films, style and script are inside,
and no other script runs. It follows the reader's light or dark setting, is read by keyboard alone, prints (films as stills), and
needs its script for nothing but playing films of one seed together.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import pandas as pd
from markupsafe import Markup

from policies.errors import BadInput, nearest
from steer_agents.evaluation.intervals import Interval
from steer_agents.evaluation.plots import COLOURS
from steer_agents.runs import environment_record, jsonable, write_text

Figure = tuple[str | Path | bytes, str, str]
"""(path of a PNG, JPEG or SVG file (of an mp4 for films) or its bytes, caption, alternative text)."""
_NAMESPACE = ' xmlns="http://www.w3.org/2000/svg"'


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


@dataclass(frozen=True)
class Section:
    """Figures, or a table, under a heading of their own.

    Args:
        heading: in words; figures: in order; text: a paragraph above them.
        table: shown between the two, columns as they shall be shown.
    """

    heading: str
    figures: Sequence[Figure] = ()
    text: str = ""
    table: pd.DataFrame | None = None


@dataclass(frozen=True)
class Take:
    """One condition's film of a seed.

    Args:
        name: of the condition; role: its colour, one of `plots.COLOURS`.
        mp4: the film (H.264), loaded when it is seen; poster: PNG or JPEG until then; still: what is printed in its place.
        outcome: how it ended, in words; alt: what it shows, for those who cannot see it.
    """

    name: str
    role: str
    mp4: bytes
    poster: bytes
    still: bytes
    outcome: str
    alt: str


@dataclass(frozen=True)
class Together:
    """Films of one seed, played by one control.

    Args:
        name: what they have in common ("seed 7"); caption: below them.
        takes: side by side.
        seconds: that the longest takes.
    """

    name: str
    caption: str
    takes: Sequence[Take]
    seconds: float = 0.0


def write_report(
    path: str | Path,
    *,
    title: str,
    question: str,
    verdict: str,
    bars: Sequence[Bar | Mapping[str, Any]],
    conditions: pd.DataFrame,
    heading: str = "Conditions",
    asked: Mapping[str, Any] | None = None,
    figures: Sequence[Figure] = (),
    films: Sequence[Figure] = (),
    together: Sequence[Together] = (),
    sections: Sequence[Section] = (),
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
        heading: above them.
        asked: what was run, name -> value, in words.
        figures: plots in order, as a last section "Plots".
        films: mp4 files in the same form, shown before the plots.
        together: films of one seed side by side, before those.
        sections: figures under headings.
        config: resolved configuration, shown as JSON.
        command: that reproduces the result.
        notes: paragraphs of limitations and remarks.
        environment: of the run; None records this process's.
    Raises:
        BadInput: a bar with wrong keys, a figure that is no PNG, JPEG or SVG, an SVG with a script, a film that is no mp4, one
            without caption or alternative text, an unknown role.
    """
    checked = [_bar(bar) for bar in bars]
    environment = environment_record() if environment is None else environment
    chapters = [*sections, *([Section("Plots", figures)] if figures else [])]
    shown = [
        {
            "id": f"section-{number}",
            "heading": one.heading,
            "text": one.text,
            "table": None if one.table is None else _grid(one.table),
            "figures": [_figure(figure) for figure in one.figures],
        }
        for number, one in enumerate(chapters, 1)
    ]
    notes = [notes] if isinstance(notes, str) and notes else list(notes)
    contents = [
        *([("asked", "What was asked")] if asked else []),
        *([("bars", "Bounds")] if checked else []),
        *([("conditions", heading)] if len(conditions) else []),
        *([("films", "Films")] if films or together else []),
        *((one["id"], one["heading"]) for one in shown),
        *([("notes", "Notes")] if notes else []),
        *([("reproduce", "Reproduce")] if command else []),
        ("configuration", "Configuration"),
        ("versions", "Versions"),
    ]
    style, script = (Path(__file__).with_name(f"report.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    page = _template().render(
        title=title,
        question=question,
        verdict=verdict,
        policy=_policy(script),
        style=Markup(style),
        script=Markup(script),
        contents=contents,
        heading=heading,
        asked=[(name, show(value)) for name, value in (asked or {}).items()],
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
        conditions=_grid(conditions),
        sections=shown,
        films=[_embedded(film, "film", ("video/mp4",)) for film in films],
        together=[_group(group) for group in together],
        configs=[("all settings", json.dumps(jsonable(config or {}), indent=2, ensure_ascii=False))],
        versions=_versions(environment),
        command=command,
        notes=notes,
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


def _grid(table: pd.DataFrame) -> dict[str, list[Any]]:
    return {
        "columns": [str(name) for name in table.columns],
        "numeric": [pd.api.types.is_numeric_dtype(dtype) for dtype in table.dtypes],
        "rows": [[show(value) for value in row] for row in table.itertuples(index=False)],
    }


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


def _policy(script: str) -> str:
    """Content security policy: what lies in the file, one script known by its digest, nothing else."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return (
        "default-src 'none'; img-src data:; media-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    )


def _kind(data: bytes) -> str:
    """Media type by the first bytes, "" for any other."""
    if data[4:8] == b"ftyp":
        return "video/mp4"
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if data.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    return "image/svg+xml" if data.lstrip().startswith(b"<svg") else ""


def _uri(data: bytes, what: str, allowed: Sequence[str]) -> str:
    kind = _kind(data)
    if kind not in allowed:
        raise BadInput(f"report {what}: expected {' or '.join(allowed)}, got data that begin with {data[:8]!r}.")
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _embedded(figure: Figure, what: str, allowed: Sequence[str]) -> dict[str, str]:
    source, caption, alt = figure
    if not caption.strip() or not alt.strip():
        raise BadInput(f"report {what}: caption and alternative text are needed, got {caption!r} and {alt!r}.")
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    return {"data": _uri(data, f"{what} {caption!r}", allowed), "caption": caption, "alt": alt}


def _figure(figure: Figure) -> dict[str, Any]:
    """An image as a data address; an SVG as it is, so that it takes on the page's colours."""
    source, caption, alt = figure
    data = source if isinstance(source, bytes) else Path(source).read_bytes()
    shown = _embedded((data, caption, alt), "figure", ("image/png", "image/jpeg", "image/svg+xml"))
    if _kind(data) != "image/svg+xml":
        return {**shown, "svg": None}
    text = data.decode("utf-8").replace(_NAMESPACE, "", 1)
    if re.search(r"<script|<foreignObject|\son\w+\s*=", text, re.IGNORECASE):
        raise BadInput(f"report figure {caption!r}: the SVG holds a script; draw it without.")
    return {"caption": caption, "alt": alt, "svg": Markup(text)}


def _group(group: Together) -> dict[str, Any]:
    for take in group.takes:
        if take.role not in COLOURS:
            raise BadInput(f"report film {take.name!r}: role {take.role!r} is unknown{nearest(take.role, COLOURS)}")
    return {
        "name": group.name,
        "caption": group.caption,
        "seconds": round(group.seconds, 2),
        "takes": [
            {
                "name": take.name,
                "role": take.role,
                "outcome": take.outcome,
                "alt": _embedded((take.mp4, group.caption, take.alt), "film", ("video/mp4",))["alt"],
                "mp4": _uri(take.mp4, f"film of {take.name}", ("video/mp4",)),
                "poster": _uri(take.poster, f"poster of {take.name}", ("image/png", "image/jpeg")),
                "still": _uri(take.still, f"still of {take.name}", ("image/png", "image/jpeg")),
            }
            for take in group.takes
        ],
    }


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
