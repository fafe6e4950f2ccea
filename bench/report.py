"""Printing and writing the results."""

from __future__ import annotations

import importlib.metadata
import math
import os
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from bench.cases import AGREE, Bench, Case, Row
from bench.contestants import SECOND_COPY, UNSTEERED
from bench.timing import Spread

SCHEMA = 1


def versions(distributions: Sequence[str]) -> dict[str, str]:
    """Distribution -> version, for those that are installed."""
    found = {"python": platform.python_version()}
    for name in ("torch", "transformers", "numpy", *distributions):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _spread(values: Sequence[float]) -> dict[str, Any] | None:
    if not values:
        return None
    spread = Spread.of(values)
    return {"median": spread.median, "low": spread.low, "high": spread.high, "rounds": list(values)}


def as_json(
    cases: Sequence[Case], bench: Bench, rounds: Mapping[str, int], libraries: Sequence[str], missing: Mapping[str, str]
) -> dict[str, Any]:
    """The results as one JSON-able object.

    Args:
        rounds: case -> timed rounds.
        libraries: distributions whose versions are written.
        missing: library -> why it did not take part.
    """
    return {
        "schema": SCHEMA,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "platform": {
            "system": platform.system(),
            "machine": platform.machine(),
            "cores": os.cpu_count(),
            "torch_threads": torch.get_num_threads(),
        },
        "versions": versions(libraries),
        "size": vars(bench.size),
        "rounds": dict(rounds),
        "clock": "process CPU time",
        "missing": dict(missing),
        "equal_work": {"limit": AGREE, "logit_difference": bench.agreement, "not_timed": bench.reasons},
        "cases": {
            case.name: {
                "what": case.what,
                "reference": case.reference,
                "microseconds_are": case.unit,
                "contestants": {
                    row.name: {
                        "ratio": _spread(row.ratios),
                        "microseconds": _spread(row.microseconds),
                        "note": row.note,
                        "bound": row.bound
                        and {"text": row.bound.text, "limit": row.bound.limit, "holds": row.bound.holds},
                    }
                    for row in case.rows
                },
            }
            for case in cases
        },
    }


def print_equal_work(console: Console, bench: Bench) -> None:
    """What each contestant's logits are, before anything is timed."""
    table = Table(
        title=f"equal work: largest difference of logits from the bare hook's (limit {AGREE:g})", title_justify="left"
    )
    table.add_column("contestant")
    table.add_column("difference", justify="right")
    table.add_column("")
    for name in [*bench.agreement, *(name for name in bench.reasons if name not in bench.agreement)]:
        value = bench.agreement.get(name)
        remark = "not steered, so it must differ" if name in (UNSTEERED, SECOND_COPY) else "equal"
        reason = bench.reasons.get(name)
        table.add_row(name, "" if value is None else f"{value:.1e}", f"not timed: {reason}" if reason else remark)
    console.print(table)


def print_case(console: Console, case: Case, rounds: int) -> None:
    """One table: fastest first after the reference."""
    table = Table(title=f"{case.name}: {case.what}; {rounds} rounds", title_justify="left")
    table.add_column("contestant")
    table.add_column(f"CPU time / {case.reference}", justify="right")
    table.add_column("quartiles", justify="right")
    if case.unit:
        table.add_column(case.unit, justify="right")
    table.add_column("bound", justify="right")
    table.add_column("holds")
    if any(row.note for row in case.rows):
        table.add_column("note")

    def place(row: Row) -> tuple[bool, float]:
        return row.name != case.reference, case.median(row.name) if row.ratios else math.inf

    for row in sorted(case.rows, key=place):
        cells = [row.name]
        if row.ratios:
            spread = Spread.of(row.ratios)
            cells += [f"{spread.median:.3f}", f"{spread.low:.3f} to {spread.high:.3f}"]
        else:
            cells += ["", ""]
        if case.unit:
            cells.append(f"{Spread.of(row.microseconds).median:.1f}" if row.microseconds else "")
        cells.append("" if row.bound is None else f"{row.bound.limit:.3f} = {row.bound.text}")
        cells.append("" if row.bound is None else ("yes" if row.bound.holds else "NO"))
        table.add_row(*cells, *([row.note] if len(table.columns) > len(cells) else []))
    console.print(table)


def bounds_in(found: Any, name: str) -> dict[str, bool]:
    """Name -> whether it holds, of every {"bound": {"holds": ...}} inside a section's JSON."""
    if isinstance(found, list):
        parts = [bounds_in(value, f"{name} {i + 1}") for i, value in enumerate(found)]
    elif isinstance(found, Mapping):
        parts = [bounds_in(value, f"{name}, {key}") for key, value in found.items() if key != "bound"]
        bound = found.get("bound")
        if isinstance(bound, Mapping) and bound["holds"] is not None:
            parts.append({name: bool(bound["holds"])})
    else:
        parts = []
    return {key: holds for part in parts for key, holds in part.items()}


def print_summary(
    console: Console, cases: Sequence[Case], missing: Mapping[str, str], sections: Mapping[str, Any]
) -> None:
    """Bounds of cases and sections in one line, and who did not take part."""
    for library, reason in missing.items():
        console.print(f"{library} did not take part: {reason}")
    bounds = {
        f"{case.name}, {row.name}": row.bound.holds for case in cases for row in case.rows if row.bound is not None
    }
    for name, found in sections.items():
        bounds |= bounds_in(found, name)
    broken = [name for name, holds in bounds.items() if not holds]
    if not bounds:
        return
    if broken:
        console.print(f"{len(broken)} of {len(bounds)} bounds do NOT hold: {'; '.join(broken)}", style="bold red")
    else:
        console.print(f"all {len(bounds)} bounds hold", style="bold green")
