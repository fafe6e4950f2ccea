"""The battery as one picture: a bar per check, its bound as a line, and which of them fail."""

from __future__ import annotations

import io

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steer_agents.evaluation.plots import COLOURS
from steer_agents.evaluation.stress.check import Battery

_COLOUR = {"holds": COLOURS["steered"], "fails": COLOURS["control"]}


def picture(battery: Battery) -> bytes:
    """A PNG: scores with their bounds; what was not measured says so in words, and so does what fails."""
    figure = Figure(figsize=(8.0, 1.2 + 0.42 * len(battery.checks)), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for place, check in enumerate(battery.checks):
        if check.score is None:
            axes.text(0.01, place, "not measured", va="center", color=COLOURS["base"], style="italic")
            continue
        axes.barh(place, check.score, color=_COLOUR[check.word], height=0.62)
        axes.plot([check.bound] * 2, [place - 0.4, place + 0.4], color="black", linewidth=1.6)
        axes.text(check.score + 0.01, place, f"{check.score:.2f} {check.word}", va="center")
    axes.set_yticks(range(len(battery.checks)), [check.name for check in battery.checks])
    axes.set_ylim(len(battery.checks) - 0.4, -0.6)
    axes.set_xlim(0, 1.2)
    axes.set_xlabel("score (black line: the bound)")
    axes.set_title(f"{battery.subject}: {battery.word}", loc="left", fontweight="bold")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150, metadata={"Software": None})
    return buffer.getvalue()
