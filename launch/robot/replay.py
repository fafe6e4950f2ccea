"""`steer-agents replay FOLDER`: what happened in a recorded flight, as tables and one HTML file; `--repair` makes its dataset.

found = summary(Recording("runs/flights/first"))
write_flight_report("runs/flights/first/report.html", Recording("runs/flights/first"))
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.robot.flights import DATASET, Recording, observed, to_dataset
from launch.robot.recorder import is_picture
from policies.errors import BadArtifact

REPORT = "report.html"
_CLOSE = 1e-9


@dataclasses.dataclass(frozen=True, eq=False)
class Traces:
    """The numbers of T ticks.

    Args:
        at: (T,) seconds since the first one. period: (T,) [s], NaN for the first tick.
        asked, sent, strengths: name -> (T,), NaN where the tick has none.
        modes: T names. decisions: T tuples of names.
        numbers: (T,) of the ticks; those that are not there were not recorded.
        pictures: camera -> ticks that have a picture.
    """

    at: np.ndarray
    period: np.ndarray
    asked: dict[str, np.ndarray]
    sent: dict[str, np.ndarray]
    strengths: dict[str, np.ndarray]
    modes: list[str]
    decisions: list[tuple[str, ...]]
    numbers: np.ndarray
    pictures: dict[str, int]


def traces(recording: Recording) -> Traces:
    """Read a flight once.

    Raises:
        BadArtifact: not a single tick was recorded.
    """
    rows: list[tuple[Any, ...]] = []
    pictures: dict[str, int] = {}
    names: dict[str, dict[str, None]] = {"action": {}, "strengths": {}}
    for tick in recording:
        rows.append(
            (tick.number, tick.at, tick.period, tick.mode, tick.decisions, tick.asked, tick.sent, tick.strengths)
        )
        names["action"].update(dict.fromkeys([*tick.asked, *tick.sent]))
        names["strengths"].update(dict.fromkeys(tick.strengths))
        for name, value in observed(tick).items():
            if is_picture(value):
                pictures[name] = pictures.get(name, 0) + 1
    if not rows:
        raise BadArtifact(f"{recording.folder}: no tick was recorded; there is nothing to show.")
    number, at, period, modes, decisions, asked, sent, strengths = zip(*rows, strict=True)

    def series(values: tuple[dict[str, float], ...], wanted: dict[str, None]) -> dict[str, np.ndarray]:
        return {name: np.array([one.get(name, np.nan) for one in values], dtype=np.float64) for name in wanted}

    return Traces(
        at=np.array(at) - at[0], period=np.array([np.nan, *period[1:]]), asked=series(asked, names["action"]),
        sent=series(sent, names["action"]), strengths=series(strengths, names["strengths"]), modes=list(modes),
        decisions=list(decisions), numbers=np.array(number), pictures=pictures,
    )  # fmt: skip


def summary(recording: Recording, found: Traces | None = None) -> dict[str, Any]:
    """What happened, JSON-able: flight, counts, modes, interventions by name, changes of mode, strengths, actions."""
    found = traces(recording) if found is None else found
    error = np.abs(found.period[1:] - 1 / recording.flight.fps) * 1e3
    return {
        "flight": dataclasses.asdict(recording.flight),
        "folder": str(recording.folder),
        "ticks": len(found.at),
        "seconds": float(found.at[-1]),
        "ended": "closed" if recording.ended is not None else "broke off",
        "lost_bytes": 0 if recording.damage is None else recording.damage.lost,
        "missed": int(found.numbers[-1] - found.numbers[0] + 1 - len(found.numbers)),
        "period_error_ms": {
            name: float(np.percentile(error, share)) if len(error) else 0.0
            for name, share in (("p50", 50), ("p99", 99), ("max", 100))
        },
        "modes": _modes(found),
        "interventions": _interventions(found),
        "changes": list(_changes(found)),
        "strengths": [_strength(name, values) for name, values in found.strengths.items()],
        "actions": [_action(name, found, recording.flight.limits.get(name)) for name in found.sent],
        "pictures": found.pictures,
    }


def _modes(found: Traces) -> list[dict[str, Any]]:
    seconds = np.append(np.diff(found.at), 0.0)
    modes = np.array(found.modes)
    return [
        {"mode": mode, "ticks": int((modes == mode).sum()), "seconds": float(seconds[modes == mode].sum())}
        for mode in dict.fromkeys(found.modes)
    ]


def _interventions(found: Traces) -> list[dict[str, Any]]:
    """One row per name of a decision of the gate, the most frequent first."""
    rows: dict[str, dict[str, Any]] = {}
    for at, names in zip(found.at.tolist(), found.decisions, strict=True):
        for name in names:
            row = rows.setdefault(name, {"intervention": name, "ticks": 0, "first": at, "last": at})
            row["ticks"] += 1
            row["last"] = at
    return sorted(rows.values(), key=lambda row: -row["ticks"])


def _changes(found: Traces) -> Iterator[dict[str, Any]]:
    """When the mode changed, and what the gate said in that tick."""
    before = ""
    for at, mode, names in zip(found.at.tolist(), found.modes, found.decisions, strict=True):
        if mode != before:
            yield {"at": at, "from": before or "-", "to": mode, "because": "; ".join(names)}
        before = mode


def _strength(name: str, values: np.ndarray) -> dict[str, Any]:
    known = values[np.isfinite(values)]
    return {
        "part": name, "first": float(known[0]), "last": float(known[-1]), "lowest": float(known.min()), "highest": float(known.max()),
        "changes": int((np.abs(np.diff(known)) > _CLOSE).sum()),
    }  # fmt: skip


def _action(name: str, found: Traces, limits: tuple[float, float] | None) -> dict[str, Any]:
    asked, sent = found.asked[name], found.sent[name]
    both = np.isfinite(asked) & np.isfinite(sent)
    apart = np.abs(asked - sent)[both]
    beyond = 0
    if limits is not None:
        beyond = int(((sent < limits[0] - _CLOSE) | (sent > limits[1] + _CLOSE)).sum())
    known = sent[np.isfinite(sent)]
    return {
        "action": name,
        "changed": int((apart > _CLOSE).sum()),
        "largest change": float(apart.max()) if len(apart) else 0.0,
        "lowest sent": float(known.min()) if len(known) else float("nan"),
        "highest sent": float(known.max()) if len(known) else float("nan"),
        "limits": None if limits is None else f"{limits[0]:g} to {limits[1]:g}",
        "beyond": None if limits is None else beyond,
    }


def verdict(found: dict[str, Any]) -> str:
    """Two or three sentences."""
    flight = found["flight"]
    steered = sum(row["ticks"] for row in found["modes"] if row["mode"] == "steered")
    said = [
        f"{found['ticks']} ticks in {found['seconds']:.1f} s, {100 * steered / found['ticks']:.0f} % of them steered."
    ]
    n_decisions = sum(row["ticks"] for row in found["interventions"])
    if n_decisions:
        first = found["interventions"][0]
        said.append(
            f"The gate stepped in {n_decisions} times, mostly for {first['intervention']!r} ({first['ticks']})."
        )
    else:
        said.append("The gate never stepped in.")
    if found["ended"] != "closed":
        said.append(f"The recording broke off; {found['lost_bytes']} bytes at its end are lost.")
    if found["missed"]:
        said.append(f"{found['missed']} ticks are missing from the recording.")
    if beyond := sum(row["beyond"] or 0 for row in found["actions"]):
        said.append(f"{beyond} numbers that were sent lie BEYOND the limits of {flight['robot']}.")
    return " ".join(said)


def write_flight_report(
    path: str | Path, recording: Recording, found: dict[str, Any] | None = None, numbers: Traces | None = None
) -> Path:
    """One self-contained HTML file: verdict, table, films, plots.

    Args:
        path: of the file.
        recording: of the flight.
        found, numbers: `summary` and `traces`, where they are known already.
    """
    from launch.robot import flight_plots
    from steer_agents.evaluation.report import Bar, write_report

    numbers = traces(recording) if numbers is None else numbers
    found = summary(recording, numbers) if found is None else found
    flight = recording.flight
    beyond = [row["beyond"] for row in found["actions"] if row["beyond"] is not None]
    bars = [
        Bar(
            "numbers sent beyond their limits",
            float(sum(beyond)) if beyond else None,
            None,
            "0",
            sum(beyond) == 0 if beyond else None,
        ),
        Bar("ticks missing from the recording", float(found["missed"]), None, "0", found["missed"] == 0),
        Bar("recording ended by its robot", found["ended"], None, "closed", found["ended"] == "closed"),
    ]
    figures: list[Any] = [
        (
            flight_plots.asked_and_sent(numbers.at, numbers.asked, numbers.sent, flight.limits, numbers.modes),
            "What was asked for and what was sent; limits dotted, shaded where the flight was unsteered, held or stopped.",
            "Asked and sent actions over time.",
        )
    ] if numbers.sent else []  # fmt: skip
    if numbers.strengths:
        picture = flight_plots.over_time(
            numbers.at, numbers.strengths, _one_of("strength", numbers.strengths), numbers.modes
        )
        figures.append((picture, "Strengths of the parts of the recipe.", "Strengths over time."))
    milliseconds = {"error": np.abs(numbers.period - 1 / flight.fps) * 1e3}
    picture = flight_plots.over_time(numbers.at, milliseconds, "period error [ms]", numbers.modes)
    figures.append(
        (picture, f"How far the period of control was from {1e3 / flight.fps:.1f} ms.", "Period error over time.")
    )
    films = [
        (flight_plots.film(_pictures(recording, name), count, flight.fps), f"Camera {name}.", f"Film of camera {name}.")
        for name, count in numbers.pictures.items()
    ]
    return write_report(
        path,
        title=f"Flight of {flight.robot}",
        question=f"{flight.task or 'No task was given'}; policy {flight.policy or 'unknown'}, recipe {flight.recipe or 'none'}, "
        f"{datetime.fromtimestamp(flight.began, UTC):%Y-%m-%d %H:%M:%S} UTC.",
        verdict=verdict(found),
        bars=bars,
        conditions=events(found),
        figures=figures,
        films=films,
        config={key: value for key, value in found.items() if key not in ("changes",)},
        command=f"steer-agents replay {recording.folder}",
        notes=[]
        if recording.damage is None
        else [f"The journal is sound up to byte {recording.damage.at}; then {recording.damage.why}."],
    )


def _one_of(what: str, names: dict[str, Any]) -> str:
    """A label that names what is there alone, since it gets no legend."""
    return what if len(names) > 1 else f"{what} of {next(iter(names))}"


def events(found: dict[str, Any]) -> pd.DataFrame:
    """Everything that happened in one table: modes, interventions, strengths, actions that were changed."""
    rows: list[dict[str, Any]] = []
    for row in found["changes"]:
        rows.append(
            {
                "what": f"mode {row['to']}",
                "ticks": None,
                "first [s]": row["at"],
                "last [s]": None,
                "detail": row["because"],
            }
        )
    for row in found["interventions"]:
        rows.append(
            {
                "what": row["intervention"],
                "ticks": row["ticks"],
                "first [s]": row["first"],
                "last [s]": row["last"],
                "detail": "gate",
            }
        )
    for row in found["strengths"]:
        detail = f"{row['first']:.3g} to {row['last']:.3g}, within {row['lowest']:.3g} to {row['highest']:.3g}"
        rows.append(
            {
                "what": f"strength {row['part']}",
                "ticks": row["changes"],
                "first [s]": None,
                "last [s]": None,
                "detail": detail,
            }
        )
    for row in found["actions"]:
        if row["changed"] or row["beyond"]:
            detail = f"asked and sent apart by up to {row['largest change']:.3g}" + (
                f", {row['beyond']} BEYOND limits" if row["beyond"] else ""
            )
            rows.append(
                {
                    "what": f"action {row['action']}",
                    "ticks": row["changed"],
                    "first [s]": None,
                    "last [s]": None,
                    "detail": detail,
                }
            )
    return pd.DataFrame(rows, columns=["what", "ticks", "first [s]", "last [s]", "detail"])


def _pictures(recording: Recording, name: str) -> Iterator[np.ndarray]:
    """The pictures of one camera; the encoder wants one size, so those of another one are left out."""
    size: tuple[int, ...] | None = None
    for tick in recording:
        picture: Any = observed(tick).get(name)
        if is_picture(picture) and (size is None or picture.shape == size):
            size = picture.shape
            yield picture


def replay(folder: str | Path, *, repair: bool = False, videos: bool = False, report: bool = True) -> dict[str, Any]:
    """What `steer-agents replay` does.

    Args:
        folder: of the flight.
        repair: also make the LeRobotDataset, if it is not there yet.
        videos: store its pictures as mp4.
        report: write FOLDER/report.html.
    Returns:
        `summary`, with `verdict`, `report` (path or None) and `dataset` (what `to_dataset` returns, its root alone if it was there,
        or None).
    Raises:
        BadArtifact: no flight, or an empty one.
    """
    recording = Recording(folder)
    numbers = traces(recording)
    found = summary(recording, numbers)
    dataset: dict[str, Any] | None = None
    if (Path(folder) / DATASET).exists():
        dataset = {"root": str(Path(folder) / DATASET)}
    elif repair:
        dataset = to_dataset(folder, videos=videos)
    written = write_flight_report(Path(folder) / REPORT, recording, found, numbers) if report else None
    return {**found, "verdict": verdict(found), "report": None if written is None else str(written), "dataset": dataset}
