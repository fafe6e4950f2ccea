"""Achieved over asked, for experiments on set-points."""

from __future__ import annotations

import io

import pandas as pd

MARKS = {"closed": "o", "open": "s", "closed, gain": "^", "open, gain": "v", "random": "x"}


def achieved_plot(table: pd.DataFrame, label: str) -> bytes:
    """PNG of a table with columns kind, asked, achieved."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.0, 4.5), layout="constrained")
    axes = figure.subplots()
    for kind, rows in table.groupby("kind", sort=False):
        axes.plot(rows["asked"], rows["achieved"], MARKS.get(str(kind), "."), label=str(kind), linestyle="none")
    ends = [table["asked"].min(), table["asked"].max()]
    axes.plot(ends, ends, color="0.6", linewidth=1)
    axes.set_xlabel(f"asked: {label}")
    axes.set_ylabel("achieved")
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=130)
    return buffer.getvalue()
