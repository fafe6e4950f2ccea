"""The report: self-contained, complete, escaped, and refusing what a reader could not use."""

from __future__ import annotations

import base64
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.plots import bars as bars_plot
from steer_agents.evaluation.report import Bar, show, write_report

VOID = {"meta", "link", "img", "br", "input"}


class Page(HTMLParser):
    """Texts by tag, attributes by tag, and whether every tag is closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append((self.open[-1], data.strip()))

    def within(self, tag: str) -> list[str]:
        return [text for name, text in self.texts if name == tag]


MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(8)
PNG = bars_plot(
    pd.DataFrame({"name": ["base"], "value": [0.5], "low": [0.4], "high": [0.6], "role": ["base"]}),
    label="x",
    title="t",
)


def report(path: Path, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "title": "Lock-in",
        "question": "Does steering help?",
        "verdict": "No effect shown (interval contains 0).",
        "bars": [
            Bar("higher than base", 0.12345678, (-0.1, 0.3), "> 0", False),
            {"name": "entropy kept", "value": 1.0, "interval": None, "bound": 0.9, "holds": np.True_},
            {"name": "on a GPU", "value": None, "interval": None, "bound": "< 2", "holds": None},
        ],
        "conditions": pd.DataFrame(
            {"condition": ["base", "steered"], "success": [0.5, np.nan], "best": [True, False], "n": [40, 39]}
        ),
        "figures": [(PNG, "Success by condition.", "Bars of success by condition.")],
        "config": {"seed": 1, "policy": {"name": "tiny"}},
        "command": "steer-agents experiment run lock-in --seed 1",
        "notes": ["A small model.", "One family of tasks."],
        **changes,
    }
    assert write_report(path, **arguments) == path
    return path.read_text(encoding="utf-8")


def test_the_report_asks_for_nothing_outside_of_itself(tmp_path: Path) -> None:
    text = report(tmp_path / "report.html")
    page = Page(text)
    for tag, name, value in page.attributes:
        if name in ("src", "href"):
            assert value.startswith(("data:", "#")), f"<{tag} {name}={value[:40]!r}>"
    for word in ("http://", "https://", "<script src", "@import", "url("):
        assert word not in text


def test_the_verdict_comes_first_and_everything_is_there(tmp_path: Path) -> None:
    page = Page(report(tmp_path / "report.html"))
    assert page.within("h1") == ["Lock-in"]
    assert page.within("p")[:2] == ["Does steering help?", "No effect shown (interval contains 0)."]
    assert page.within("h2")[:3] == ["What was set beforehand, and whether it holds", "Conditions", "Plots"]
    cells = page.within("td")
    assert cells[:5] == ["higher than base", "0.1235", "-0.1 to 0.3", "> 0", "✗ fails"]
    assert cells[5:10] == ["entropy kept", "1", "–", "0.9", "✓ holds"]
    assert cells[10:15] == ["on a GPU", "–", "–", "< 2", "not measured"]
    assert cells[15:23] == ["base", "0.5", "yes", "40", "steered", "–", "no", "39"]
    assert page.within("figcaption") == ["Success by condition."]
    blocks = page.within("pre")
    assert blocks[0] == "steer-agents experiment run lock-in --seed 1"
    assert '"name": "tiny"' in blocks[1]
    assert {"commit", "numpy", "python"} <= set(page.within("th"))


def test_plots_are_embedded_whole_with_alternative_text(tmp_path: Path) -> None:
    (tmp_path / "plot.png").write_bytes(PNG)
    page = Page(report(tmp_path / "report.html", figures=[(tmp_path / "plot.png", "From a file.", "Alt.")]))
    image = {name: value for tag, name, value in page.attributes if tag == "img"}
    assert base64.b64decode(image["src"].removeprefix("data:image/png;base64,")) == PNG
    assert image["alt"] == "Alt."


def test_films_are_embedded_whole_with_a_label(tmp_path: Path) -> None:
    page = Page(report(tmp_path / "report.html", films=[(MP4, "Twice.", "Two arms.")]))
    film = {name: value for tag, name, value in page.attributes if tag == "video"}
    assert base64.b64decode(film["src"].removeprefix("data:video/mp4;base64,")) == MP4
    assert film["aria-label"] == "Two arms."
    assert "Twice." in page.within("figcaption")


def test_text_is_escaped(tmp_path: Path) -> None:
    conditions = pd.DataFrame({"<i>name</i>": ["<b>&</b>"]})
    text = report(tmp_path / "report.html", title="a < b & c", conditions=conditions, config={"x": "</pre>"})
    page = Page(text)
    assert page.within("h1") == ["a < b & c"]
    assert "<b>&</b>" in page.within("td")
    assert "<i>name</i>" in page.within("th")
    assert "&lt;/pre&gt;" in text


def test_the_report_follows_dark_mode_and_print(tmp_path: Path) -> None:
    text = report(tmp_path / "report.html")
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_empty_parts_are_left_out(tmp_path: Path) -> None:
    page = Page(report(tmp_path / "r.html", bars=[], figures=[], notes=(), command="", conditions=pd.DataFrame()))
    assert page.within("h2") == ["Configuration", "Versions"]


def test_one_note_may_be_given_as_text(tmp_path: Path) -> None:
    assert "Only one." in Page(report(tmp_path / "r.html", notes="Only one.")).within("p")


def test_the_environment_of_the_run_can_be_given(tmp_path: Path) -> None:
    environment = {"python": "3.12.9", "git": {"commit": "abc123", "dirty": True}, "libraries": {"numpy": "9.9"}}
    cells = Page(report(tmp_path / "r.html", environment=environment)).within("td")
    assert cells[-3:] == ["abc123 with local changes", "3.12.9", "9.9"]


def test_a_report_that_is_refused_leaves_no_file(tmp_path: Path) -> None:
    for changes in (
        {"figures": [(b"GIF89a", "c", "a")]},
        {"films": [(PNG, "c", "a")]},
        {"films": [(MP4, "", "a")]},
        {"figures": [(PNG, "c", " ")]},
        {"bars": [{"name": "x", "value": 1, "interval": None, "bound": 1, "hold": True}]},
        {"bars": [{"name": "x"}]},
    ):
        with pytest.raises(BadInput):
            report(tmp_path / "r.html", **changes)
    assert list(tmp_path.iterdir()) == []


def test_values_are_shown_as_a_reader_wants_them() -> None:
    assert [show(value) for value in (None, np.nan, pd.NA, True, np.False_, 1234.5678, 3, "x")] == [
        "–", "–", "–", "yes", "no", "1235", "3", "x",
    ]  # fmt: skip
    assert show(proportion_interval(5, 10)) == "0.5 [0.2366, 0.7634]"
