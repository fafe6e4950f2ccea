"""Plots for reports, as PNG bytes.

Colours name the *role* of a condition, the same in every plot: steered, base (the policy as it is), control (a random
direction, zero strength, ...), other. They are from Okabe and Ito's palette (2008, jfly.uni-koeln.de/color), which
readers with any common colour blindness can tell apart, with grey for the base; conditions of one role also differ in
line style, and each curve in its marker. Drawn without pyplot: no global figures, no display.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from itertools import count
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from policies.errors import BadInput, nearest
from steer_agents.evaluation.intervals import Interval

COLOURS: dict[str, str] = {"steered": "#0072B2", "base": "#7A7A7A", "control": "#E69F00", "other": "#CC79A7"}
"""Role -> colour."""
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_STYLE: Any = {
    "font.size": 11,
    "axes.titlesize": 13,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#DDDDDD",
    "legend.frameon": False,
}


def bars(table: pd.DataFrame, *, label: str, title: str, reference: float | None = None) -> bytes:
    """One bar per condition with its interval.

    Args:
        table: columns name, value, low, high, role; top to bottom in this order. NaN in low and high draws no interval.
        label: of the value axis, with its unit.
        title: what the plot shows.
        reference: value marked by a dashed line (the base, chance level, ...).
    Returns:
        a PNG image.
    Raises:
        BadInput: a missing column, an unknown role, or an empty table.
    """
    _check_columns("bars", table, ("name", "value", "low", "high", "role"))
    with rc_context(_STYLE):
        figure, axes = _figure(height=1.3 + 0.5 * len(table))
        for place, row in enumerate(table.itertuples(index=False)):
            axes.barh(place, row.value, color=_colour(str(row.role)), height=0.62)
            if math.isfinite(row.low) and math.isfinite(row.high):
                reach = [[max(row.value - row.low, 0.0)], [max(row.high - row.value, 0.0)]]
                axes.errorbar(row.value, place, xerr=reach, color="black", capsize=4, linewidth=1.4, linestyle="none")
            edge = max(value for value in (row.value, row.high, 0.0) if math.isfinite(value))
            axes.annotate(
                f"{row.value:.3g}", (edge, place), xytext=(6, 0), textcoords="offset points", verticalalignment="center"
            )
        axes.set_yticks(range(len(table)), [str(name) for name in table["name"]])
        axes.invert_yaxis()
        axes.grid(visible=False, axis="y")
        axes.margins(x=0.12)
        if reference is not None:
            axes.axvline(reference, color="black", linestyle="--", linewidth=1)
        axes.set_xlabel(label)
        axes.set_title(title)
        _role_legend(axes, [str(role) for role in table["role"]])
        return _png(figure)


def curves(
    conditions: Mapping[str, pd.DataFrame],
    roles: Mapping[str, str],
    *,
    label: str,
    title: str,
    x: str = "env_step",
    x_label: str = "environment step",
) -> bytes:
    """One curve per condition over time, with a band.

    Args:
        conditions: name -> table with columns `x`, value, low, high (`steer_agents.evaluation.intervals.over_time`).
        roles: name -> role.
        label: of the value axis, with its unit.
        title: what the plot shows.
        x: column of the horizontal axis.
    Returns:
        a PNG image.
    Raises:
        BadInput: no conditions, a missing column, or an unknown role.
    """
    if not conditions:
        raise BadInput("curves: got no conditions; pass at least one.")
    with rc_context(_STYLE):
        figure, axes = _figure(height=4.2)
        numbers = {role: count() for role in COLOURS}
        for index, (name, table) in enumerate(conditions.items()):
            _check_columns(f"curve {name!r}", table, (x, "value", "low", "high"))
            role = roles.get(name, "other")
            colour = _colour(role)
            axes.plot(
                table[x],
                table["value"],
                color=colour,
                linestyle=_LINES[next(numbers[role]) % len(_LINES)],
                marker=_MARKERS[index % len(_MARKERS)],
                markevery=max(1, len(table) // 8),
                markersize=5,
                linewidth=2,
                label=name,
            )
            axes.fill_between(table[x], table["low"], table["high"], color=colour, alpha=0.18, linewidth=0)
        axes.set_xlabel(x_label)
        axes.set_ylabel(label)
        axes.set_title(title)
        axes.margins(x=0.01)
        _outside_legend(axes)
        return _png(figure)


def dose_curve(
    table: pd.DataFrame,
    *,
    label: str,
    title: str,
    base: Interval | None = None,
    controls: Mapping[str, pd.DataFrame] | None = None,
    dose_label: str = "strength",
    band: pd.DataFrame | None = None,
    usable: tuple[float, float] | None = None,
) -> bytes:
    """Response over the strength of steering, beside the base and the controls at the same strengths.

    Args:
        table: columns dose, value, low, high.
        label: of the value axis, with its unit.
        title: what the plot shows.
        base: the policy as it is, drawn as a horizontal line with its interval.
        controls: name -> table of the same columns (a random direction, ...).
        dose_label: of the horizontal axis, with its unit.
        band: a fitted curve, same columns, drawn as a line with a band; the points of `table` are then not joined.
        usable: strengths to mark as usable.
    Returns:
        a PNG image.
    Raises:
        BadInput: a missing column or an empty table.
    """
    with rc_context(_STYLE):
        figure, axes = _figure(height=4.2)
        if usable is not None and usable[0] < usable[1]:
            axes.axvspan(
                *usable, facecolor="none", edgecolor="#BBBBBB", hatch="//", linewidth=0, label="usable", zorder=0
            )
        if band is not None:
            _check_columns("dose band", band, ("dose", "value", "low", "high"))
            axes.plot(band["dose"], band["value"], color=COLOURS["steered"], linewidth=2, label="fitted")
            axes.fill_between(
                band["dose"], band["low"], band["high"], color=COLOURS["steered"], alpha=0.18, linewidth=0
            )
        if base is not None:
            axes.axhline(base.value, color=COLOURS["base"], linestyle="--", linewidth=1.6, label="base")
            if math.isfinite(base.low):
                axes.axhspan(base.low, base.high, color=COLOURS["base"], alpha=0.12, linewidth=0)
        lines = [("steered", "steered", table), *((name, "control", one) for name, one in (controls or {}).items())]
        for number, (name, role, one) in enumerate(lines):
            _check_columns(f"dose curve {name!r}", one, ("dose", "value", "low", "high"))
            one = one.sort_values("dose")
            below, above = (one["value"] - one["low"]).clip(lower=0), (one["high"] - one["value"]).clip(lower=0)
            reach = [below.to_numpy(float), above.to_numpy(float)]
            axes.errorbar(
                one["dose"].to_numpy(float),
                one["value"].to_numpy(float),
                yerr=reach,
                color=_colour(role),
                marker=_MARKERS[number % len(_MARKERS)],
                linestyle="none" if band is not None else _LINES[number % len(_LINES)],
                linewidth=2,
                capsize=3,
                label=name,
            )
        axes.set_xlabel(dose_label)
        axes.set_ylabel(label)
        axes.set_title(title)
        _outside_legend(axes)
        return _png(figure)


def effect_and_damage(table: pd.DataFrame, *, label: str, damage_label: str, title: str, joined: bool = True) -> bytes:
    """What steering does against what it costs, one point per strength; down and to either side is better.

    Args:
        table: columns name, effect, low, high, damage, damage_low, damage_high, role; steered points are named.
        label: of the effect, with its unit; damage_label: of the damage.
        title: what the plot shows.
        joined: draw a line through the steered points in their order, which are strengths of one steering.
    Returns:
        a PNG image.
    Raises:
        BadInput: a missing column, an unknown role, or an empty table.
    """
    _check_columns(
        "effect and damage", table, ("name", "effect", "low", "high", "damage", "damage_low", "damage_high", "role")
    )
    with rc_context(_STYLE):
        figure, axes = _figure(height=4.6)
        steered = table[table["role"] == "steered"]
        if joined:
            axes.plot(steered["effect"], steered["damage"], color=COLOURS["steered"], linewidth=1, alpha=0.6)
        told: set[str] = set()
        for row in table.to_dict("records"):
            role = str(row["role"])
            axes.errorbar(
                row["effect"], row["damage"],
                xerr=[[max(row["effect"] - row["low"], 0.0)], [max(row["high"] - row["effect"], 0.0)]],
                yerr=[[max(row["damage"] - row["damage_low"], 0.0)], [max(row["damage_high"] - row["damage"], 0.0)]],
                color=_colour(role), marker=_MARKERS[list(COLOURS).index(role) % len(_MARKERS)], capsize=2, linewidth=1,
                linestyle="none", label=None if role in told else role,
            )  # fmt: skip
            told.add(role)
            if role == "steered":
                at = (row["effect"], row["damage"])
                axes.annotate(str(row["name"]), at, xytext=(5, 5), textcoords="offset points", fontsize=9)
        axes.axvline(0.0, color=COLOURS["base"], linestyle="--", linewidth=1)
        axes.axhline(0.0, color=COLOURS["base"], linestyle="--", linewidth=1)
        axes.set_xlabel(label)
        axes.set_ylabel(damage_label)
        axes.set_title(title)
        _outside_legend(axes)
        return _png(figure)


def _figure(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8.0, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()


def _colour(role: str) -> str:
    if role not in COLOURS:
        raise BadInput(f"role {role!r} is unknown{nearest(role, COLOURS)}")
    return COLOURS[role]


def _check_columns(what: str, table: pd.DataFrame, columns: Sequence[str]) -> None:
    missing = [name for name in columns if name not in table]
    if missing:
        raise BadInput(f"{what}: columns {missing} are missing; needed are {list(columns)}, got {list(table.columns)}.")
    if not len(table):
        raise BadInput(f"{what}: the table is empty.")


def _outside_legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0))


def _role_legend(axes: Axes, roles: Sequence[str]) -> None:
    """Name the colours, where more than one is used."""
    used = [role for role in COLOURS if role in roles]
    if len(used) > 1:
        handles = [axes.barh(0, 0, color=COLOURS[role], label=role) for role in used]
        axes.legend(handles=handles, loc="upper left", bbox_to_anchor=(1.0, 1.0))
