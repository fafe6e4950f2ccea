"""The report of a results folder that is no single run: an experiment's, a dose study's, a sweep's.

A folder is known by what lies in it: `results.json` (an experiment), `dose.json` (a dose study), or a curve table
(`curve.parquet` or `table.parquet`, see `evaluation/figures.py`), as sweeps write.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from launch.judged import elo_sections, study_sections
from policies.errors import BadArtifact, BadInput
from steer_agents.evaluation.figures import Drawn, dose_figure, front_figure, heatmap_figure, paired_figure
from steer_agents.evaluation.intervals import mean_interval
from steer_agents.evaluation.report import Figure, Section, write_report
from steer_agents.runs import environment_record

TABLES = ("curve.parquet", "table.parquet")
_ROLES = {"search": "steered", "unsteered": "base", "baseline": "base", "random": "control"}
"""Words of other tables for the roles of `plots.COLOURS`."""
_PAIRED = ("success", "return", "length")
NOTHING: Mapping[str, Any] = {"depth": None, "scores": [], "why": []}
"""Judged of a folder that was written before studies were."""


def kind_of(folder: Path) -> str:
    """What a folder holds: "run", "experiment", "dose" or "table".

    Raises:
        BadArtifact: none of them.
    """
    if (folder / "results.json").is_file():
        return "experiment"
    if (folder / "dose.json").is_file():
        return "dose"
    if any((folder / name).is_file() for name in TABLES):
        return "table"
    if (folder / "run.json").is_file():
        return "run"
    raise BadArtifact(
        f"report: {folder} holds nothing to report on; it needs run.json (of rollout), results.json (of an experiment), "
        f"dose.json (of dose) or {' or '.join(TABLES)} (of a sweep)."
    )


def report_study(folder: Path, out: Path, *, title: str = "", question: str = "", command: str = "") -> str:
    """Write the page of an experiment, a dose study or a sweep; returns its verdict.

    Raises:
        BadArtifact: nothing of that kind lies there, or it is damaged.
    """
    kind = kind_of(folder)
    if kind == "experiment":
        return _experiment(folder, out, title, question, command)
    if kind == "dose":
        return _dose(folder, out, title, question, command)
    return _table(folder, out, title, question, command)


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadArtifact(f"{file} is damaged ({error}); run what made it again.") from None
    if not isinstance(found, dict):
        raise BadArtifact(f"{file} holds {type(found).__name__}, expected an object; run what made it again.")
    return found


# ---------------------------------------------------------------------------------------------------------- experiments


def _experiment(folder: Path, out: Path, title: str, question: str, command: str) -> str:
    told = _json(folder / "results.json")
    page, name = told.get("page") or {}, str(told.get("experiment", folder.name))
    conditions, notes = pd.DataFrame(told.get("conditions") or []), list(page.get("notes") or [])
    sections = study_sections(told.get("judged") or NOTHING)
    notes += (told.get("judged") or NOTHING)["why"]
    episodes = folder / "episodes.parquet"
    if episodes.is_file():
        groups, measure = _groups(pd.read_parquet(episodes))
        if measure is not None:
            figures = _against_first(groups, measure, conditions, notes)
            sections += [Section("Distributions over seeds", figures)] if figures else []
            sections += elo_sections(groups, measure, notes)
    plots = page.get("figures") or [_by_name(file) for file in sorted(folder.glob("*.png"))]
    films = page.get("films") or [_by_name(file) for file in sorted(folder.glob("*.mp4"))]
    write_report(
        out,
        title=title or page.get("title") or name,
        question=question or page.get("question") or f"Experiment {name}.",
        verdict=told["verdict"],
        bars=told.get("bars") or [],
        conditions=conditions,
        asked={"experiment": name, "minutes": round(float(told.get("seconds") or 0) / 60, 1)},
        sections=sections,
        figures=[_file(folder, one, ".png") for one in plots],
        films=[_file(folder, one, ".mp4") for one in films],
        config=told.get("settings") or {},
        command="\n".join(filter(None, [told.get("command"), command])),
        notes=notes,
        environment=told.get("environment"),
    )
    return str(told["verdict"])


def _by_name(file: Path) -> dict[str, str]:
    words = file.stem.replace("-", " ").replace("_", " ")
    return {"name": file.stem, "caption": f"{words}.", "alt": f"{words}; what it shows is not described."}


def _file(folder: Path, one: Mapping[str, str], ending: str) -> Figure:
    return folder / f"{one['name']}{ending}", one["caption"], one["alt"]


def _groups(episodes: pd.DataFrame) -> tuple[dict[str, pd.DataFrame], str | None]:
    """Condition -> its episodes, and the measure that they are told apart by; None where there is none."""
    if "condition" not in episodes or "seed" not in episodes:
        return {}, None
    measure = next((name for name in _PAIRED if name in episodes and episodes[name].notna().any()), None)
    return {str(name): one for name, one in episodes.groupby("condition", sort=False)}, measure


def _against_first(
    groups: Mapping[str, pd.DataFrame], measure: str, conditions: pd.DataFrame, notes: list[str], limit: int = 8
) -> list[Drawn]:
    """Every condition beside the base (the first), where they pair by seed."""
    roles = {}
    if {"condition", "role"} <= set(conditions.columns):
        roles = dict(zip(conditions["condition"].astype(str), conditions["role"].astype(str), strict=True))
    names = list(groups)
    base = next((name for name in names if roles.get(name) == "base"), names[0])
    made = []
    for name in [one for one in names if one != base][:limit]:
        role = roles.get(name, "steered")
        try:
            made.append(
                paired_figure(
                    groups[name], groups[base], measure, names=(name, base), role="other" if role == "base" else role
                )
            )
        except BadInput as error:
            notes.append(f"{name} is not drawn beside {base}: {str(error).splitlines()[0]}")
    if len(names) - 1 > limit:
        notes.append(f"Distributions are drawn for the first {limit} of {len(names) - 1} conditions.")
    return made


# ---------------------------------------------------------------------------------------------------- doses and sweeps


def _dose(folder: Path, out: Path, title: str, question: str, command: str) -> str:
    """Of `dose.json`: target, verdict, reasons, usable, knee, curves (measure -> strengths, values, low, high), losses."""
    told = _json(folder / "dose.json")
    try:
        target, usable = str(told["target"]), (float(told["usable"][0]), float(told["usable"][1]))
        verdict = ". ".join([str(told["verdict"]), *map(str, told["reasons"])])
        rows = [
            {"measure": name, "strength": strength, "mean": mean, "low": low, "high": high}
            for name, one in told["curves"].items()
            for strength, mean, low, high in zip(one["strengths"], one["values"], one["low"], one["high"], strict=True)
        ]
        knees = [float(at) for at in dict(told["knee"]).values() if at is not None]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise BadArtifact(
            f"{folder / 'dose.json'} is not a dose study ({error!r}); run `steer-agents dose` again."
        ) from None
    table = pd.DataFrame(rows).assign(condition="steered", role="steered")
    controls = _controls(folder / "episodes.parquet", table["measure"].unique())
    both = pd.concat([table, controls], ignore_index=True)
    measures = [target, *(name for name in told["curves"] if name != target)]
    figures = [dose_figure(both, name, usable=usable, knees=knees if name == target else ()) for name in measures]
    sides = [front_figure(both, target, name) for name in measures[1:] if name != target]
    write_report(
        out,
        title=title or f"Dose and response: {target}",
        question=question or f"How much does the strength move {target}, and at what cost?",
        verdict=verdict,
        bars=[],
        conditions=pd.DataFrame(told.get("responses") or []),
        heading="Effect at each strength",
        asked={"target": target, "unit of strength": told.get("unit") or "1", "usable": f"{usable[0]:g} to {usable[1]:g}",
               "episodes": told.get("episodes")},
        sections=[Section("Dose and response", figures), *([Section("Effect against damage", sides)] if sides else []),
                  *study_sections(told.get("judged") or NOTHING)],
        notes=list((told.get("judged") or NOTHING)["why"]),
        config=told.get("asked") or {},
        command="\n".join(filter(None, [told.get("command"), command])),
        environment=told.get("environment") or environment_record(),
    )  # fmt: skip
    return verdict


def _controls(file: Path, measures: Sequence[str]) -> pd.DataFrame:
    """Curve rows of the controls (all of them together), from the episodes."""
    if not file.is_file():
        return pd.DataFrame()
    episodes = pd.read_parquet(file)
    if not {"condition", "strength"} <= set(episodes.columns):
        return pd.DataFrame()
    rows = []
    apart = episodes[(episodes["condition"] != "steered") & ~episodes.get("errored", pd.Series(False, episodes.index))]
    for name in measures:
        for strength, group in apart.groupby("strength") if name in apart else ():
            values = pd.to_numeric(group[name]).dropna().to_numpy(dtype=float)
            if len(values):
                found = mean_interval(values)
                rows.append({"measure": name, "strength": strength, "mean": found.value, "low": found.low, "high": found.high,
                             "condition": "random directions", "role": "control"})  # fmt: skip
    return pd.DataFrame(rows)


def read_table(folder: Path) -> pd.DataFrame:
    """The curve table of a folder, with the roles of `plots.COLOURS`; trials that failed and have no number are left out.

    Raises:
        BadArtifact: none there.
    """
    file = next((folder / name for name in TABLES if (folder / name).is_file()), None)
    if file is None:
        raise BadArtifact(f"report: {folder} holds neither {' nor '.join(TABLES)}.")
    table = pd.read_parquet(file)
    missing = [name for name in ("measure", "strength", "mean", "low", "high") if name not in table]
    if missing:
        raise BadArtifact(f"report: {file} lacks the columns {', '.join(missing)}; a sweep over strengths has them.")
    table = table.assign(strength=pd.to_numeric(table["strength"], errors="coerce")).dropna(subset=["strength", "mean"])
    if "role" in table:
        table = table.assign(role=table["role"].map(lambda word: _ROLES.get(str(word), str(word))))
    return table


def _table(folder: Path, out: Path, title: str, question: str, command: str) -> str:
    table = read_table(folder)
    if "role" in table and "condition" not in table:
        table = table.assign(condition=table["role"])
    layers = table["layer"].nunique() if "layer" in table else 0
    sections, measures, notes = [], list(dict.fromkeys(table["measure"])), list[str]()
    steered = table[table["role"] == "steered"] if "role" in table else table
    if layers > 1:
        maps = [heatmap_figure(_single(steered, notes), name, reference=_unsteered(table, name)) for name in measures]
        sections.append(Section("Layer by strength", maps))
    else:
        sections.append(Section("Dose and response", [dose_figure(table, name) for name in measures]))
    first = steered[steered["measure"] == measures[0]]
    best = first.loc[first["mean"].idxmax()]
    where = f"layer {best['layer']}, " if layers else ""
    verdict = (
        f"{measures[0]} is highest, {best['mean']:.3g} ({best['low']:.3g} to {best['high']:.3g}), at {where}strength "
        f"{best['strength']:g}. The highest of {len(first)} settings flatters itself: measure it again on other seeds."
    )
    record = _json(folder / "run.json") if (folder / "run.json").is_file() else {}
    columns = [name for name in ("layer", "strength", "measure", "mean", "low", "high", "n") if name in table]
    write_report(
        out,
        title=title or f"Sweep: {folder.name}",
        question=question or f"Where, and how strongly, does steering move {measures[0]}?",
        verdict=verdict,
        bars=[],
        conditions=steered[columns].head(200),
        heading="Settings",
        sections=sections,
        config=record.get("config") or {},
        command=command,
        notes=list(dict.fromkeys(notes)),
        environment=(record.get("environments") or [None])[-1] or environment_record(),
    )
    return verdict


def _single(steered: pd.DataFrame, notes: list[str]) -> pd.DataFrame:
    """One row per measure, layer and strength: the mean where other axes vary as well, without an interval then."""
    keys = ["measure", "layer", "strength"]
    if not steered.duplicated(keys).any():
        return steered
    notes.append("Other settings vary as well: a cell is the mean over them, and tells no interval.")
    return steered.groupby(keys, as_index=False)["mean"].mean().assign(low=float("nan"), high=float("nan"))


def _unsteered(table: pd.DataFrame, measure: str) -> float | None:
    """The measure as it is without steering, where the table tells."""
    rows = table[table["measure"] == measure]
    base = rows[(rows["strength"] == 0) | (rows["role"] == "base" if "role" in rows else False)]
    return float(base["mean"].mean()) if len(base) else None
