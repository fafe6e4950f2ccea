"""What a report draws from tables: doses, effect against damage, layer by strength, and pairs of episodes.

Whoever measures writes one kind of table, one row per measure, condition and strength (a *curve table*; `curve.parquet` where it
is a file):

    measure    what was measured, as in `measures.py`
    strength   of the steering; 0 is the policy as it is
    mean, low, high   the measure and its interval
    condition  optional: "steered" (taken where it is missing), or the name of a control
    role       optional: steered, base, control, other (`plots.COLOURS`); a condition other than "steered" is a control
    layer      optional: where it was steered

Every function gives (SVG, caption, alternative text), as `write_report` takes figures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps, rc_context
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, TwoSlopeNorm

from policies.errors import BadInput, nearest
from steer_agents.evaluation.compare import Comparison, HasEpisodes, compare
from steer_agents.evaluation.plots import COLOURS
from steer_agents.evaluation.svg import INK, LINE, SOFT, STYLE, canvas, svg_bytes

Drawn = tuple[bytes, str, str]
"""(SVG, caption, alternative text)."""
_LINES = ("-", "--", "-.", ":")
_MARKERS = ("o", "s", "^", "D")
_DOTS = 150
"""Up to so many episodes of a condition are drawn one by one, beyond that as their density alone."""


def curve_table(table: pd.DataFrame, what: str = "curve table") -> pd.DataFrame:
    """Check a curve table and fill in its optional columns.

    Raises:
        BadInput: a missing column, no row, or an unknown role.
    """
    needed = ("measure", "strength", "mean", "low", "high")
    missing = [name for name in needed if name not in table]
    if missing or not len(table):
        raise BadInput(f"{what}: needs rows and the columns {', '.join(needed)}; "
                       f"got {len(table)} rows of {', '.join(map(str, table.columns))}.")  # fmt: skip
    if "condition" not in table:
        table = table.assign(condition="steered")
    if "role" not in table:
        table = table.assign(role=np.where(table["condition"] == "steered", "steered", "control"))
    for role in table["role"].unique():
        if role not in COLOURS:
            raise BadInput(f"{what}: role {role!r} is unknown{nearest(str(role), COLOURS)}")
    places = {role: place for place, role in enumerate(COLOURS)}
    order = pd.DataFrame(
        {"role": table["role"].map(places), "condition": table["condition"], "strength": table["strength"]}
    )
    return table.loc[order.sort_values(["role", "condition", "strength"], kind="stable").index].reset_index(drop=True)


def dose_figure(
    table: pd.DataFrame,
    measure: str,
    *,
    label: str = "",
    usable: tuple[float, float] | None = None,
    knees: Sequence[float] = (),
) -> Drawn:
    """One measure over the strength, with bands; the controls beside it.

    Args:
        table: a curve table.
        measure: of it.
        label: of the axis, with its unit; the measure's name if empty.
        usable: range of strengths that is shaded; knees: strengths that are marked.
    Raises:
        BadInput: not a curve table, or no such measure.
    """
    rows = _of(curve_table(table), measure)
    with rc_context(STYLE):
        figure, axes = canvas()
        if usable is not None:
            axes.axvspan(*usable, color=COLOURS["steered"], alpha=0.07, linewidth=0)
            axes.text(usable[1], 1.0, "usable ", transform=axes.get_xaxis_transform(), ha="right", va="top", color=SOFT)
        for knee in knees:
            axes.axvline(knee, color=SOFT, linestyle=":", linewidth=1.2)
            axes.text(knee, 0.0, " knee", transform=axes.get_xaxis_transform(), ha="left", va="bottom", color=SOFT)
        unsteered = rows[rows["strength"] == 0]
        if len(unsteered):
            axes.axhline(float(unsteered["mean"].iloc[0]), color=COLOURS["base"], linestyle="--", linewidth=1)
        for number, (name, one) in enumerate(rows.groupby("condition", sort=False)):
            _line(axes, one, number, str(name))
        axes.set_xlabel("strength")
        axes.set_title(label or measure)
        axes.margins(x=0.02)
        _legend(axes)
        drawn = svg_bytes(figure)
    steered = rows[rows["role"] == "steered"] if (rows["role"] == "steered").any() else rows
    first, last = steered.iloc[0], steered.iloc[-1]
    alt = (
        f"{measure} over strength: {first['mean']:.3g} at {first['strength']:g}, {last['mean']:.3g} at {last['strength']:g}"
        f"{'' if usable is None else f'; usable from {usable[0]:g} to {usable[1]:g}'}"
        f"{''.join(f'; knee at {knee:g}' for knee in knees)}."
    )
    return drawn, f"{measure} over the strength, with its interval. Dashed: unsteered.", alt


def front_figure(table: pd.DataFrame, effect: str, damage: str, *, label: str = "") -> Drawn:
    """What steering moves against what it costs, both as differences from strength 0, one point per strength.

    Args:
        table: a curve table with a row of strength 0 for both measures.
        effect: measure on the vertical axis; damage: on the horizontal one.
        label: of the horizontal axis.
    Raises:
        BadInput: not a curve table, no such measure, or none of its rows has strength 0.
    """
    both = curve_table(table)
    keys = ["condition", "role", "strength"]
    rows = pd.merge(_of(both, effect), _of(both, damage), on=keys, suffixes=("_e", "_d"))
    zero = rows[rows["strength"] == 0]
    if not len(zero):
        raise BadInput(f"front: needs {effect} and {damage} at strength 0 to tell what changed; measure it as well.")
    for side in ("e", "d"):
        origin = float(zero[f"mean_{side}"].iloc[0])
        for name in ("mean", "low", "high"):
            rows[f"{name}_{side}"] -= origin
    with rc_context(STYLE):
        figure, axes = canvas()
        axes.axhline(0, color=LINE, linewidth=1.4)
        axes.axvline(0, color=LINE, linewidth=1.4)
        for number, (name, one) in enumerate(rows.groupby("condition", sort=False)):
            role, colour = str(one["role"].iloc[0]), COLOURS[str(one["role"].iloc[0])]
            steered = role == "steered"
            axes.errorbar(
                one["mean_d"], one["mean_e"], xerr=_reach(one, "_d") if steered else None,
                yerr=_reach(one, "_e") if steered else None, color=colour, linewidth=1.4, elinewidth=0.7,
                marker=_MARKERS[number % 4], markersize=5, linestyle=_LINES[number % 4], label=str(name),
            )  # fmt: skip
            if steered:
                for row in one.to_dict("records"):
                    axes.annotate(
                        f"{row['strength']:g}", (row["mean_d"], row["mean_e"]), xytext=(5, 5), textcoords="offset points",
                        color=INK, fontsize=8.5,
                    )  # fmt: skip
        axes.set_xlabel(label or f"change of {damage}")
        axes.set_title(f"change of {effect}")
        _legend(axes)
        drawn = svg_bytes(figure)
    told = rows[rows["role"] == "steered"] if (rows["role"] == "steered").any() else rows
    points = "; ".join(
        f"strength {r['strength']:g}: {r['mean_e']:+.3g} against {r['mean_d']:+.3g}" for r in told.to_dict("records")
    )
    caption = f"Change of {effect} against change of {damage}, from strength 0; numbers are strengths."
    return drawn, caption, f"Change of {effect} against change of {damage}. {points}."


def heatmap_figure(table: pd.DataFrame, measure: str, *, reference: float | None = None, label: str = "") -> Drawn:
    """One measure over layer and strength.

    Args:
        table: a curve table with a column `layer`; the steered rows are drawn.
        measure: of it.
        reference: value in the middle of the colours (the unsteered one). Cells whose interval holds it are set in grey.
        label: title.
    Raises:
        BadInput: not a curve table, no column `layer`, or no such measure.
    """
    rows = _of(curve_table(table), measure)
    if "layer" not in rows:
        raise BadInput(f"heat map of {measure}: needs a column layer; got {', '.join(map(str, rows.columns))}.")
    rows = rows[rows["role"] == "steered"] if (rows["role"] == "steered").any() else rows
    if rows.duplicated(["layer", "strength"]).any():
        raise BadInput(
            f"heat map of {measure}: layer and strength occur more than once; choose one task or seed first."
        )
    grid = rows.pivot(index="layer", columns="strength", values="mean")
    low, high = (rows.pivot(index="layer", columns="strength", values=name).to_numpy() for name in ("low", "high"))
    values = grid.to_numpy(dtype=float)
    shades: Normalize
    if reference is None:
        shades, colours = Normalize(np.nanmin(values), np.nanmax(values)), colormaps["cividis"]
    else:
        reach = float(np.nanmax(np.abs(values - reference))) or 1.0
        shades, colours = TwoSlopeNorm(reference, reference - reach, reference + reach), colormaps["PuOr_r"]
    with rc_context(STYLE):
        figure, axes = canvas(5.4, 1.1 + 0.3 * len(grid))
        axes.grid(visible=False)
        axes.pcolormesh(values, cmap=colours, norm=shades, edgecolors="none")
        for y, x in np.argwhere(np.isfinite(values)) if values.shape[1] <= 10 else []:
            shade = colours(shades(values[y, x]))[:3]
            light = float(np.dot(shade, (0.2126, 0.7152, 0.0722))) > 0.45
            within = reference is not None and low[y, x] <= reference <= high[y, x]
            axes.text(
                x + 0.5, y + 0.5, f"{values[y, x]:.3g}", ha="center", va="center", fontsize=8.5,
                color="#111111" if light else "#f5f5f5", fontweight="normal" if within or reference is None else "bold",
            )  # fmt: skip
        axes.set_xticks(np.arange(values.shape[1]) + 0.5, [f"{one:g}" for one in grid.columns])
        axes.set_yticks(np.arange(values.shape[0]) + 0.5, [str(one) for one in grid.index])
        axes.tick_params(length=0)
        axes.set_xlabel("strength")
        axes.set_ylabel("layer")
        axes.set_title(label or measure)
        drawn = svg_bytes(figure)
    best = rows.loc[rows["mean"].idxmax()]
    bold = "" if reference is None else f" Bold: the interval excludes the unsteered {reference:.3g}."
    alt = (
        f"{measure} for {len(grid)} layers and {values.shape[1]} strengths, from {np.nanmin(values):.3g} to "
        f"{np.nanmax(values):.3g}; highest at layer {best['layer']}, strength {best['strength']:g}."
    )
    return drawn, f"{measure} over layer and strength.{bold}", alt


def paired_figure(
    a: HasEpisodes | pd.DataFrame,
    b: HasEpisodes | pd.DataFrame,
    measure: str = "success",
    *,
    names: tuple[str, str] | None = None,
    found: Comparison | None = None,
    role: str = "steered",
) -> Drawn:
    """Two conditions episode by episode: each side, and the differences of the pairs.

    Args:
        a, b: rollouts or their `episodes` tables; a is compared with b, the base.
        measure: column of both.
        names: of the two, from their `condition` if None.
        found: the comparison, where it is made already.
        role: of a: steered, control or other.
    Raises:
        BadInput: as `compare`, or an unknown role.
    """
    if role not in COLOURS:
        raise BadInput(f"role {role!r} is unknown{nearest(role, COLOURS)}")
    if found is None:
        found = compare(a, b, measure, names=names, missing="exclude")
    x, y = pairs(a, b, measure)
    with rc_context(STYLE):
        figure, left = canvas(5.4, 3.0)
        left.remove()
        left, right = figure.subplots(1, 2, width_ratios=(3, 2))
        left.set_title(measure)
        right.set_title("pairs" if found.table is not None else "difference of pairs")
        if found.table is not None:
            _proportions(left, found, role)
            _quarters(right, found, role)
        else:
            _violin(left, y, 0, "base")
            _violin(left, x, 1, role)
            for place, side in ((0, found.side_b), (1, found.side_a)):
                _mean(left, place, side.value, side.low, side.high)
            left.set_xticks((0, 1), (_brief(found.b), _brief(found.a)))
            right.axhline(0, color=SOFT, linewidth=1, linestyle="--")
            _violin(right, x - y, 0, role, dots=True)
            _mean(right, 0, found.value, found.low, found.high)
            right.set_xticks((0,), (f"{_brief(found.a)} - {_brief(found.b)}",))
        for axes in (left, right):
            axes.grid(visible=False, axis="x")
            axes.tick_params(axis="x", length=0)
        drawn = svg_bytes(figure)
    return drawn, str(found).splitlines()[2].strip().capitalize() + ".", f"{found.verdict}. {_told(found)}"


def single_figure(table: pd.DataFrame, measure: str, interval: Any) -> Drawn:
    """How one measure of one run is spread over its episodes.

    Args:
        table: episodes; measure: column of them.
        interval: of the mean (`intervals.Interval`).
    """
    values = pd.to_numeric(table[measure]).to_numpy(dtype=float)
    values = values[np.isfinite(values)]
    with rc_context(STYLE):
        figure, axes = canvas(5.4, 2.2)
        axes.set_title(measure)
        if np.isin(values, (0.0, 1.0)).all():
            axes.barh((0, 1), (float((values == 1).sum()), float((values == 0).sum())), height=0.6,
                      color=(COLOURS["steered"], COLOURS["base"]))  # fmt: skip
            axes.set_yticks((0, 1), ("yes", "no"))
            axes.invert_yaxis()
        else:
            axes.hist(
                values,
                bins="auto" if len(values) > 20 else max(3, len(values) // 2),
                color=COLOURS["steered"],
                alpha=0.75,
            )
            axes.axvline(interval.value, color=INK, linewidth=1.4)
        axes.set_xlabel("episodes" if np.isin(values, (0.0, 1.0)).all() else "")
        drawn = svg_bytes(figure)
    told = f"mean {interval.value:.4g}, 95 % interval {interval.low:.4g} to {interval.high:.4g}, {len(values)} episodes"
    return drawn, f"{told[0].upper()}{told[1:]}.", f"{measure}: {told}."


def pairs(a: HasEpisodes | pd.DataFrame, b: HasEpisodes | pd.DataFrame, measure: str) -> tuple[np.ndarray, np.ndarray]:
    """(n,), (n,): the measure of both sides for the seeds where both have it."""
    sides = [(one if isinstance(one, pd.DataFrame) else one.episodes).set_index("seed") for one in (a, b)]
    both = pd.concat([pd.to_numeric(side[measure]) for side in sides], axis=1, keys=("a", "b")).dropna()
    return both["a"].to_numpy(dtype=float), both["b"].to_numpy(dtype=float)


# ------------------------------------------------------------------------------------------------------------- drawing


def _of(table: pd.DataFrame, measure: str) -> pd.DataFrame:
    rows = table[table["measure"] == measure]
    if not len(rows):
        known = [str(name) for name in table["measure"].unique()]
        raise BadInput(f"measure {measure!r} is not in the curve table{nearest(measure, known)}")
    return rows


def _reach(rows: pd.DataFrame, side: str) -> list[pd.Series]:
    mean, low, high = (rows[f"{name}{side}"] for name in ("mean", "low", "high"))
    return [(mean - low).clip(lower=0).fillna(0), (high - mean).clip(lower=0).fillna(0)]


def _line(axes: Axes, rows: pd.DataFrame, number: int, name: str) -> None:
    colour = COLOURS[str(rows["role"].iloc[0])]
    axes.fill_between(rows["strength"], rows["low"], rows["high"], color=colour, alpha=0.18, linewidth=0)
    axes.plot(
        rows["strength"], rows["mean"], color=colour, linewidth=1.8, marker=_MARKERS[number % 4], markersize=4.5,
        linestyle=_LINES[number % 4], label=name,
    )  # fmt: skip


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if len(labels) > 1:
        axes.legend(handles, labels, loc="upper center", bbox_to_anchor=(0.5, -0.22), ncols=3)


def _violin(axes: Axes, values: np.ndarray, place: float, role: str, dots: bool = False) -> None:
    colour = COLOURS[role]
    if np.ptp(values) > 0 and len(values) > 2:
        for body in axes.violinplot(values, [place], widths=0.8, showextrema=False, points=60)["bodies"]:  # type: ignore[attr-defined]
            body.set(facecolor=colour, alpha=0.28, linewidth=0)
    if dots or len(values) <= _DOTS:
        spread = np.random.default_rng(0).uniform(-0.11, 0.11, len(values))
        axes.plot(place + spread, values, ".", color=colour, markersize=4.5, alpha=0.5, markeredgewidth=0)


def _mean(axes: Axes, place: float, value: float, low: float, high: float) -> None:
    if math.isfinite(low):
        axes.plot((place, place), (low, high), color=INK, linewidth=2.2, solid_capstyle="butt")
    axes.plot((place,), (value,), marker="_", markersize=14, markeredgewidth=2.2, color=INK)


def _proportions(axes: Axes, found: Comparison, role_a: str) -> None:
    for place, (side, role) in enumerate(((found.side_b, "base"), (found.side_a, role_a))):
        axes.bar(place, side.value, width=0.62, color=COLOURS[role])
        axes.plot((place, place), (side.low, side.high), color=INK, linewidth=2.2, solid_capstyle="butt")
        axes.annotate(f"{side.value:.2f}", (place, side.high), xytext=(0, 4), textcoords="offset points", ha="center")
    axes.set_ylim(0, 1.12)
    axes.set_xticks((0, 1), (_brief(found.b), _brief(found.a)))


def _quarters(axes: Axes, found: Comparison, role_a: str) -> None:
    """How many pairs agree, and which way the others go."""
    assert found.table is not None
    both, only_a, only_b, neither = found.table
    rows = [
        ("both", both, "base"),
        (f"only {_brief(found.a)}", only_a, role_a),
        (f"only {_brief(found.b)}", only_b, "other"),
        ("neither", neither, "base"),
    ]
    for place, (_, count, role) in enumerate(rows):
        axes.barh(place, count, color=COLOURS[role], alpha=0.5 if role == "base" else 1, height=0.62)
        axes.annotate(str(count), (count, place), xytext=(4, 0), textcoords="offset points", va="center")
    axes.set_yticks(range(4), [name for name, _, _ in rows])
    axes.set_xticks(())
    axes.invert_yaxis()
    axes.margins(x=0.22)
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)


def _brief(name: str, limit: int = 16) -> str:
    return name if len(name) <= limit else f"{name[: limit - 1]}…"


def _told(found: Comparison) -> str:
    return f"{found.a}: {found.side_a}; {found.b}: {found.side_b}; difference {found.value:+.4g}, {found.n} pairs."
