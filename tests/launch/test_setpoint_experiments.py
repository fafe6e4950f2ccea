"""What the experiments on set-points work out of their episodes, without running any."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from launch.experiments.setpoint_entropy import entropy_at
from launch.experiments.setpoint_plots import achieved_plot
from launch.experiments.setpoint_speed import Curve, speed_of, speeds_within, usable


def table(speed: float, success: float, n: int = 10) -> pd.DataFrame:
    reached = np.arange(n) < round(success * n)
    return pd.DataFrame({"success": reached.astype(float), "speed": np.where(reached, speed, 0.01)})


def test_a_stuck_hand_has_no_speed() -> None:
    assert speed_of(table(0.3, 0.7)) == pytest.approx(0.3)
    assert np.isnan(speed_of(table(0.3, 0.0)))


def test_the_usable_range_ends_at_the_strongest_doses_that_keep_success() -> None:
    doses = (-2.0, -1.0, -0.5, 0.0, 1.0, 2.0)
    tables = [table(0.1, 0.3), table(0.2, 0.9), table(0.3, 0.5), table(0.3, 1.0), table(0.4, 0.9), table(0.6, 0.2)]
    curve = usable(doses, tables, margin=0.15)
    assert curve.strengths == (-1.0, -0.5, 0.0, 1.0)
    assert curve.values == pytest.approx((0.2, 0.3, 0.3, 0.4))


def test_speeds_asked_for_lie_strictly_inside() -> None:
    speeds = speeds_within(Curve((-1.0, 0.0, 1.0), (0.2, 0.3, 0.4)), 3)
    assert speeds == (0.25, 0.3, 0.35)


def test_entropy_over_temperature_is_that_of_the_softmax() -> None:
    logits = np.log(np.array([[0.5, 0.25, 0.25]]))
    assert entropy_at(logits, 1.0) == pytest.approx(1.5)
    assert entropy_at(logits, 1e6) == pytest.approx(np.log2(3))
    assert entropy_at(logits, 0.01) == pytest.approx(0.0, abs=1e-6)


def test_the_plot_is_a_picture() -> None:
    rows = pd.DataFrame({"kind": ["closed", "open"], "asked": [0.2, 0.3], "achieved": [0.21, 0.35]})
    assert achieved_plot(rows, "speed").startswith(b"\x89PNG")
