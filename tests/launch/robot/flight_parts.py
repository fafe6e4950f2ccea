"""Ticks of a made-up arm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from launch.robot.contract import Tick
from launch.robot.recorder import Flight, FlightRecorder

FLIGHT = Flight(
    robot="made_up", fps=30, task="lift the cup", policy="adder", recipe="r1", limits={"x": (-1.0, 1.0)}, strengths={"slow": (-1.0, 1.0)},
    began=1.7e9,
)  # fmt: skip


def tick(number: int, **changes: Any) -> Tick:
    rng = np.random.default_rng(number)
    fields: dict[str, Any] = {
        "number": number, "at": 100 + number / 30, "period": 1 / 30,
        "observation": {
            "x": float(number), "grip": 0.5, "force": np.array([number, 0, 1], np.float32),
            "front": rng.integers(0, 255, (16, 24, 3), np.uint8),
        },
        "asked": {"x": np.sin(number / 5) * 2, "y": 0.0}, "sent": {"x": float(np.clip(np.sin(number / 5) * 2, -1, 1)), "y": 0.0},
        "mode": "steered", "decisions": ("clip position x",) if abs(np.sin(number / 5) * 2) > 1 else (), "strengths": {"slow": 0.2},
        "chunk": number // 8, "chunk_age": 0.05,
    }  # fmt: skip
    return Tick(**{**fields, **changes})


def write_flight(
    folder: Path, n_ticks: int = 40, flight: Flight = FLIGHT, **changes: dict[int, dict[str, Any]]
) -> Path:
    """A flight on the disk; `changes["at"]` maps a tick's number to fields of its own."""
    recorder = FlightRecorder(folder, flight, places=n_ticks + 1)
    for number in range(n_ticks):
        recorder.write(tick(number, **changes.get("at", {}).get(number, {})))
    recorder.close()
    assert recorder.recorded == n_ticks
    return folder
