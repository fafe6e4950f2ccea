"""Plots: they are images, they show what they were given, and they refuse what they cannot show."""

from __future__ import annotations

import io

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from policies.errors import BadInput
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.plots import COLOURS, bars, curves, dose_curve


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def share(png: bytes, role: str) -> float:
    """Share of the pixels that have the colour of a role."""
    colour = [int(COLOURS[role][place : place + 2], 16) for place in (1, 3, 5)]
    return float((pixels(png) == colour).all(axis=2).mean())


TABLE = pd.DataFrame(
    {
        "name": ["base", "steered"],
        "value": [0.2, 0.8],
        "low": [0.1, 0.7],
        "high": [0.3, np.nan],
        "role": ["base", "steered"],
    }
)
CURVE = pd.DataFrame({"env_step": range(10), "value": np.linspace(0, 1, 10)}).assign(low=0.0, high=1.0)


def test_bars_have_the_length_and_colour_of_their_condition() -> None:
    image = bars(TABLE, label="success", title="Success", reference=0.5)
    assert 3 < share(image, "steered") / share(image, "base") < 5.5
    assert share(image, "control") == 0
    assert pixels(image).shape[1] == 1200


def test_curves_of_two_conditions_differ_in_colour_and_of_one_role_in_style() -> None:
    image = curves({"a": CURVE, "b": CURVE.assign(value=0.3)}, {"a": "steered", "b": "base"}, label="x", title="t")
    assert share(image, "steered") > 0
    assert share(image, "base") > 0
    twice = curves({"a": CURVE, "b": CURVE.assign(value=0.3)}, {"a": "steered", "b": "steered"}, label="x", title="t")
    alone = curves({"a": CURVE}, {"a": "steered"}, label="x", title="t")
    assert share(alone, "steered") < share(twice, "steered") < 2 * share(alone, "steered")


def test_a_dose_curve_shows_the_base_and_the_controls() -> None:
    table = pd.DataFrame({"dose": [1.0, -1.0, 0.0], "value": [0.9, 0.1, 0.5]}).assign(low=0.0, high=1.0)
    image = dose_curve(
        table, label="success", title="t", base=proportion_interval(5, 10), controls={"random": table.assign(value=0.4)}
    )
    assert all(share(image, role) > 0 for role in ("steered", "base", "control"))


def test_the_same_plot_is_the_same_bytes() -> None:
    assert bars(TABLE, label="x", title="t") == bars(TABLE, label="x", title="t")


def test_what_cannot_be_shown_is_refused_by_name() -> None:
    with pytest.raises(BadInput, match=r"\['low'\] are missing"):
        bars(TABLE.drop(columns="low"), label="x", title="t")
    with pytest.raises(BadInput, match="did you mean 'steered'"):
        bars(TABLE.assign(role="stered"), label="x", title="t")
    with pytest.raises(BadInput, match="empty"):
        bars(TABLE[:0], label="x", title="t")
    with pytest.raises(BadInput, match="no conditions"):
        curves({}, {}, label="x", title="t")
