"""The drawings of a report: what they show is in them, they take the page's colours, and bad tables are refused."""

from __future__ import annotations

import re
from xml.etree import ElementTree

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.figures import (
    curve_table,
    dose_figure,
    front_figure,
    heatmap_figure,
    paired_figure,
    single_figure,
)
from steer_agents.evaluation.intervals import mean_interval

STRENGTHS = np.linspace(-0.4, 0.4, 5)


def curve(**changes: object) -> pd.DataFrame:
    rows = [
        {"measure": measure, "strength": s, "condition": name, "mean": base + slope * s}
        for name, part in (("steered", 1.0), ("random", 0.1))
        for measure, base, slope in (("speed", 0.1, -0.1 * part), ("success", 0.9, -0.5 * part))
        for s in STRENGTHS
    ]
    table = pd.DataFrame(rows)
    return table.assign(low=table["mean"] - 0.01, high=table["mean"] + 0.01, **changes)


def episodes(values: np.ndarray, measure: str, condition: str) -> pd.DataFrame:
    return pd.DataFrame({"condition": condition, "seed": range(len(values)), "errored": False, measure: values})


def texts(svg: bytes) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")]


def test_a_dose_curve_has_its_line_its_control_and_its_usable_range() -> None:
    svg, _caption, alt = dose_figure(curve(), "speed", label="speed [m/s]", usable=(-0.2, 0.2), knees=(-0.2, 0.2))
    told = " ".join(texts(svg))
    assert all(word in told for word in ("speed [m/s]", "strength", "usable", "knee", "steered", "random"))
    assert "0.14 at -0.4" in alt
    assert "0.06 at 0.4" in alt
    assert "usable from -0.2 to 0.2" in alt


def test_colours_are_the_pages_and_no_font_size_or_style_sheet_is_left() -> None:
    svg = dose_figure(curve(), "speed")[0].decode()
    assert "var(--steered, #0072b2)" in svg
    assert "var(--control, #e69f00)" in svg
    bare = re.sub(r"var\(--\w+, #[0-9a-f]{6}\)", "", svg)
    assert not re.findall(r"#[0-9a-f]{6}\b", bare), "a colour that does not follow the page"
    assert "font-family" not in svg
    assert "<style" not in svg
    root = ElementTree.fromstring(svg)
    assert "width" not in root.attrib


def test_ids_of_two_plots_never_meet_and_every_reference_is_there() -> None:
    drawn = [dose_figure(curve(), name)[0].decode() for name in ("speed", "success")]
    ids = [set(re.findall(r'\bid="([^"]+)"', one)) for one in drawn]
    assert ids[0]
    assert not ids[0] & ids[1]
    for one, own in zip(drawn, ids, strict=True):
        assert set(re.findall(r'(?:href="|url\()#([^")]+)', one)) == own


def test_same_table_same_bytes() -> None:
    assert dose_figure(curve(), "speed") == dose_figure(curve(), "speed")


def test_the_front_is_counted_from_strength_zero() -> None:
    _, _, alt = front_figure(curve(), "speed", "success")
    assert "strength 0: +0 against +0" in alt
    assert "strength 0.4: -0.04 against -0.2" in alt
    with pytest.raises(BadInput, match="strength 0"):
        front_figure(curve().query("strength != 0"), "speed", "success")


def test_a_heat_map_sets_what_differs_from_the_base_in_bold() -> None:
    rows = pd.DataFrame([
        {"measure": "speed", "layer": layer, "strength": s, "mean": 0.1 + 0.1 * layer * s}
        for layer in range(3) for s in STRENGTHS
    ])  # fmt: skip
    rows = rows.assign(low=rows["mean"] - 0.01, high=rows["mean"] + 0.01)
    svg, _, alt = heatmap_figure(rows, "speed", reference=0.1)
    cells = [
        (element.text, "700" in element.get("style", ""))
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]
    assert ("0.18", True) in cells
    assert all(not bold for text, bold in cells if text == "0.1")
    assert "highest at layer 2, strength 0.4" in alt
    with pytest.raises(BadInput, match="more than once"):
        heatmap_figure(pd.concat([rows, rows]), "speed")
    with pytest.raises(BadInput, match="layer"):
        heatmap_figure(curve(), "speed")


def test_pairs_of_zeros_and_ones_are_counted_four_ways() -> None:
    a, b = np.array([1, 1, 1, 0, 1, 0.0]), np.array([1, 0, 0, 1, 0, 0.0])
    svg, caption, alt = paired_figure(episodes(a, "success", "slow"), episodes(b, "success", "base"))
    told = texts(svg)
    assert {"both", "only slow", "only base", "neither"} <= set(told)
    assert {"1", "3"} <= set(told)
    assert "6 pairs" in alt
    assert caption.startswith("Difference +0.3333")


def test_pairs_of_numbers_show_the_difference_and_every_dot() -> None:
    rng = np.random.default_rng(0)
    b = rng.normal(size=40)
    svg, _, alt = paired_figure(episodes(b + 1, "speed", "slow"), episodes(b, "speed", "base"), "speed")
    assert svg.count(b"<use ") >= 3 * 40
    assert "difference +1" in alt
    many = np.random.default_rng(1).normal(size=500)
    big = paired_figure(episodes(many + 1, "speed", "slow"), episodes(many, "speed", "base"), "speed")[0]
    assert len(big) < 80_000


def test_one_run_is_a_histogram_or_two_bars() -> None:
    table = episodes(np.linspace(0, 1, 30), "speed", "x")
    assert "30 episodes" in single_figure(table, "speed", mean_interval(table["speed"].to_numpy()))[2]
    flags = episodes(np.array([0.0, 1, 1]), "success", "x")
    assert {"yes", "no"} <= set(texts(single_figure(flags, "success", mean_interval(flags["success"].to_numpy()))[0]))


def test_bad_tables_are_refused_by_name() -> None:
    with pytest.raises(BadInput, match="low"):
        curve_table(curve().drop(columns="low"))
    with pytest.raises(BadInput, match="0 rows"):
        curve_table(curve().iloc[:0])
    with pytest.raises(BadInput, match="did you mean 'speed'"):
        dose_figure(curve(), "sped")
    with pytest.raises(BadInput, match="did you mean 'steered'"):
        curve_table(curve(role="stered"))
