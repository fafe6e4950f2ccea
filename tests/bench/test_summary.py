"""The summary counts every bound, of cases and of sections."""

from __future__ import annotations

import io

from rich.console import Console

from bench.report import bounds_in, print_summary


def test_bounds_are_found_at_any_depth_and_those_without_an_answer_are_not_counted() -> None:
    found = {
        "rates": [{"bound": {"limit": 2, "holds": True}}, {"bound": None}, {"bound": {"limit": 2, "holds": False}}],
        "small": {"bound": {"limit": 20, "holds": True}},
        "profile": {"bound": {"limit": None, "holds": None}},
    }
    assert bounds_in(found, "vla") == {"vla, rates 1": True, "vla, rates 3": False, "vla, small": True}


def test_a_broken_bound_of_a_section_is_in_the_summary() -> None:
    console = Console(width=200, record=True, file=io.StringIO())
    print_summary(console, [], {}, {"guidance": [{"bound": {"limit": 2, "holds": False}}]})
    assert "1 of 1 bounds do NOT hold: guidance 1" in console.export_text()
