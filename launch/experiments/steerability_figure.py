"""The picture of `steerability`: what each answer did along its request, and beside it."""

from __future__ import annotations

import io
from collections.abc import Mapping

import pandas as pd
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steer_agents.evaluation.plots import COLOURS

_MARKS = {"steered": "o", "other": "s", "control": "^", "base": "D"}


def answers(measured: pd.DataFrame, arms: Mapping[str, str]) -> bytes:
    """A PNG.

    Args:
        measured: columns arm, undershoot, orthogonality, movement, request.
        arms: way of answering -> role.
    """
    figure = Figure(figsize=(7.0, 4.6), dpi=120, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for arm, role in arms.items():
        own = measured[measured["arm"] == arm]
        along, beside = 1 - own["undershoot"], own["orthogonality"] * own["movement"] / own["request"]
        axes.scatter(along, beside, s=12, alpha=0.35, color=COLOURS[role], marker=_MARKS[role], linewidths=0)
        axes.scatter(
            along.median(),
            beside.median(),
            s=110,
            color=COLOURS[role],
            marker=_MARKS[role],
            edgecolors="black",
            label=arm,
            zorder=3,
        )
    axes.axvline(1.0, color="black", linestyle="--", linewidth=1)
    axes.axhline(0.0, color="black", linewidth=0.8)
    axes.set_xlabel("movement along the request / request")
    axes.set_ylabel("movement beside it / request")
    axes.set_title("Was the request met, and what else moved?", loc="left", fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()
