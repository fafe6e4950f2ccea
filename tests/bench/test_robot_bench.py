"""The rows on the control loop: what is counted, without looking at how long anything takes."""

from __future__ import annotations

import io
import json

import numpy as np
from rich.console import Console

from bench import robot


def test_bounds_and_rows() -> None:
    timing = {"p50_ms": 0.1, "p99_ms": 0.5, "max_ms": 2.0, "late": 0, "steps": 60, "longest_step_ms": 1.0}
    good = robot.Robot(timing, 0, 0.3, 12, np.full(10, 0.1))
    assert json.loads(json.dumps(good.as_json()))["gate_ms"]["holds"]
    bad = robot.Robot(timing, 2, 40.0, 12, np.full(10, 0.3))
    said = bad.as_json()
    assert (said["gate_ms"]["holds"], said["missed_because_of_inference"]["holds"]) == (False, False)
    console = Console(width=160, record=True, file=io.StringIO())
    robot.show(console, bad)
    assert "NO, 2" in console.export_text()


def test_the_gate_is_timed_on_steps_that_move() -> None:
    assert robot.gate_cost(40).shape == (40,)
