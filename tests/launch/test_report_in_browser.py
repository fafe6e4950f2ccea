"""The report in a real browser: no error, nothing asked from outside, keyboard, both colour schemes, a narrow screen, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from launch.browser import chromium
from launch.played_again import encode, jpeg
from policies.errors import MissingExtra
from steer_agents.evaluation.figures import paired_figure
from steer_agents.evaluation.report import Section, Take, Together, write_report

PATIENCE = 120_000
"""Milliseconds that a busy machine may take."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    try:
        with chromium() as found:
            yield found
    except MissingExtra as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison of 500 episodes with films of two seeds."""
    rng = np.random.default_rng(0)
    sides = [
        pd.DataFrame({"condition": name, "seed": range(500), "errored": False, "speed": rng.normal(at, 1, 500)})
        for name, at in (("slow", 0.5), ("unsteered", 0.0))
    ]
    frames = rng.integers(0, 255, (20, 64, 64, 3), dtype=np.uint8)
    takes = [
        Take(name, role, encode(frames, 20), jpeg(frames[0]), jpeg(frames[-1]), "succeeds", f"{name} acts")
        for name, role in (("unsteered", "base"), ("slow", "steered"))
    ]
    return write_report(
        tmp_path_factory.mktemp("page") / "r.html", title="Slow against unsteered", question="Slower?", verdict="Slower.", bars=[],
        conditions=pd.DataFrame({"measure": ["speed"], "difference": [0.5]}), asked={"policy": "made up"},
        together=[Together(f"seed {seed}", f"Seed {seed}.", takes, 1.0) for seed in (1, 2)],
        sections=[Section("Pairs", [paired_figure(*sides, "speed")])], config={"seed": 0}, command="steer-agents report a b",
    )  # fmt: skip


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_is_sound_in_both_schemes(browser: Any, report: Path, scheme: str) -> None:
    page = browser.new_page(color_scheme=scheme, viewport={"width": 400, "height": 800})
    page.set_default_timeout(PATIENCE)
    told, asked = [], []
    page.on("console", lambda message: told.append(message.text))
    page.on("pageerror", lambda error: told.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(report.as_uri(), timeout=PATIENCE)
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [report.as_uri()]
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert dark == ("rgb(20, 23, 28)" if scheme == "dark" else "rgb(255, 255, 255)")
    assert page.evaluate("document.documentElement.scrollWidth") <= 400, "the page scrolls sideways"
    assert page.get_by_role("img").count() >= 1
    assert (
        page.get_by_role("main").count()
        == page.get_by_role("navigation").count()
        == page.get_by_role("banner").count()
        == 1
    )
    page.close()


def test_the_keyboard_reaches_everything_in_order(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(report.as_uri(), timeout=PATIENCE)
    seen = []
    focused = "document.activeElement.tagName + ' ' + (document.activeElement.textContent || '').trim()"
    while len(seen) < 40 and not (seen and seen[-1].startswith("BODY")) and seen.count("A Skip to the results") < 2:
        page.keyboard.press("Tab")
        seen.append(page.evaluate(focused))
    seen = seen[:-1]  # round again
    assert seen[0] == "A Skip to the results"
    buttons = [place for place, one in enumerate(seen) if one.startswith("BUTTON Play together")]
    assert len(buttons) == 2
    assert all(seen[place + 1].startswith("INPUT") for place in buttons)
    details = [place for place, one in enumerate(seen) if one.startswith("SUMMARY")]
    assert len(details) == 2
    assert details[0] > buttons[-1]
    assert not any(one.startswith("VIDEO") for one in seen), "films are reached by their one control"
    page.close()


def test_films_of_a_seed_play_together_by_keyboard(browser: Any, report: Path) -> None:
    page = browser.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(report.as_uri(), timeout=PATIENCE)
    page.locator("[data-together] button").first.press("Enter")
    page.wait_for_function(
        "[...document.querySelector('[data-together]').querySelectorAll('video')].every(film => film.currentTime > 0)"
    )
    others = page.evaluate(
        "[...document.querySelectorAll('[data-together]')[1].querySelectorAll('video')].map(f => f.currentTime)"
    )
    assert others == [0, 0]
    page.close()


def test_without_javascript_the_films_have_controls_and_nothing_is_hidden(browser: Any, report: Path) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(report.as_uri(), timeout=PATIENCE)
    assert page.locator("video[controls]").count() == 4
    assert page.locator(".player:visible").count() == 0
    assert page.get_by_text("Slower.", exact=True).is_visible()
    context.close()


def test_it_prints_stills_in_place_of_films_on_white(browser: Any, report: Path) -> None:
    page = browser.new_page(color_scheme="dark")
    page.goto(report.as_uri(), timeout=PATIENCE)
    assert page.pdf(format="A4").startswith(b"%PDF")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--page').trim()") == "#fff"
    assert page.locator("video:visible").count() == 0
    assert page.locator(".still:visible").count() == 4
    page.close()
