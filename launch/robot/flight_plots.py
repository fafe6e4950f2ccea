"""Plots and films of a recorded flight."""

from __future__ import annotations

import io
import math
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from steer_agents.evaluation.plots import COLOURS

_STYLE: Any = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
}
_MODES = {"unsteered": "#FFF3CC", "hold": "#FFD9B3", "stopped": "#F5C2C2"}
"""Background of the times in which a flight was not steered."""
MAX_FRAMES = 900
"""Of a film; longer ones leave pictures out, evenly."""


def asked_and_sent(
    at: np.ndarray,
    asked: Mapping[str, np.ndarray],
    sent: Mapping[str, np.ndarray],
    limits: Mapping[str, tuple[float, float]],
    modes: Sequence[str],
) -> bytes:
    """One panel per entry of the action, as a PNG image.

    Args:
        at: (T,) seconds.
        asked, sent: name -> (T,), NaN where there was nothing.
        limits: name -> (lowest, highest), drawn dashed.
        modes: T names.
    """
    columns = 2 if len(sent) > 1 else 1
    rows = math.ceil(len(sent) / columns)
    with rc_context(_STYLE):
        figure = _figure(4.5 * columns, 0.6 + 1.7 * rows)
        panels = figure.subplots(rows, columns, sharex=True, squeeze=False).ravel()
        for axes, name in zip(panels, sent, strict=False):
            _shade(axes, at, modes)
            axes.plot(at, asked[name], color=COLOURS["control"], linewidth=1.2, label="asked")
            axes.plot(at, sent[name], color=COLOURS["steered"], linewidth=1.6, linestyle="--", label="sent")
            for limit in limits.get(name, ()):
                axes.axhline(limit, color="black", linestyle=":", linewidth=1)
            axes.set_title(name, loc="left", fontsize=10)
        for axes in panels[len(sent) :]:
            axes.set_visible(False)
        panels[0].legend(loc="upper right", fontsize=8, frameon=False)
        figure.supxlabel("time [s]")
        return _png(figure)


def over_time(at: np.ndarray, series: Mapping[str, np.ndarray], label: str, modes: Sequence[str]) -> bytes:
    """Several series in one panel, as a PNG image; see `asked_and_sent`."""
    with rc_context(_STYLE):
        figure = _figure(9.0, 2.8)
        axes = figure.add_subplot()
        _shade(axes, at, modes)
        for line, (name, values) in zip(_cycle(), series.items(), strict=False):
            axes.step(at, values, where="post", label=name, linestyle=line[0], color=line[1], linewidth=1.5)
        axes.set_xlabel("time [s]")
        axes.set_ylabel(label)
        if len(series) > 1:
            axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), fontsize=8, frameon=False)
        return _png(figure)


def film(pictures: Iterator[np.ndarray], n_pictures: int, fps: float) -> bytes:
    """An mp4 in real time.

    Args:
        pictures: (H, W, 3) uint8, all of one size.
        n_pictures: how many there are.
        fps: of the flight.
    """
    import imageio.v2 as imageio

    writer: Any
    stride = max(1, math.ceil(n_pictures / MAX_FRAMES))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        with imageio.get_writer(path, fps=fps / stride, macro_block_size=2, quality=6) as writer:
            for number, picture in enumerate(pictures):
                if number % stride == 0:
                    writer.append_data(_even(picture))
        return path.read_bytes()


def _even(picture: np.ndarray) -> np.ndarray:
    """Edges that the encoder takes: even, and of colour."""
    if picture.shape[2] == 1:
        picture = np.repeat(picture, 3, axis=2)
    return np.pad(picture, ((0, picture.shape[0] % 2), (0, picture.shape[1] % 2), (0, 0)), mode="edge")


def _cycle() -> Iterator[tuple[str, str]]:
    while True:
        for style in ("-", "--", "-.", ":"):
            for colour in COLOURS.values():
                yield style, colour


def _shade(axes: Any, at: np.ndarray, modes: Sequence[str]) -> None:
    """Colour the background of every stretch of one mode."""
    start = 0
    for number in range(1, len(modes) + 1):
        if number == len(modes) or modes[number] != modes[start]:
            if modes[start] in _MODES:
                end = at[number] if number < len(modes) else at[-1]
                axes.axvspan(at[start], end, color=_MODES[modes[start]], linewidth=0)
            start = number


def _figure(width: float, height: float) -> Figure:
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return buffer.getvalue()
