"""What a page embeds: films that play together, drawings that follow the page, and what it refuses."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.report import Section, Take, Together, write_report

MP4 = b"\x00\x00\x00\x18ftypisom" + bytes(8)
JPEG = b"\xff\xd8\xff\xe0" + bytes(8)
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1 1"><path d="M0 0"/></svg>'


def page(path: Path, **changes: Any) -> str:
    arguments: dict[str, Any] = {
        "title": "t", "question": "q", "verdict": "v", "bars": [], "conditions": pd.DataFrame(), **changes,
    }  # fmt: skip
    return write_report(path / "r.html", **arguments).read_text(encoding="utf-8")


def pair(**changes: Any) -> Together:
    takes = [
        Take(
            **{
                "name": name, "role": role, "mp4": MP4, "poster": JPEG, "still": JPEG, "outcome": "succeeds", "alt": f"{name} acts",
                **changes,
            }
        )
        for name, role in (("unsteered", "base"), ("slow", "steered"))
    ]  # fmt: skip
    return Together("seed 7", "Seed 7.", takes)


def test_films_of_a_seed_stand_side_by_side_with_stills_and_one_control(tmp_path: Path) -> None:
    text = page(tmp_path, together=[pair()])
    assert text.count("<video ") == 2
    assert text.count('class="still"') == 2
    assert text.count('preload="none"') == 2, "a film may not hold up the page"
    assert text.count('type="range"') == 1
    assert "Time in the films of seed 7" in text
    films = [base64.b64decode(one) for one in re.findall(r"data:video/mp4;base64,([^\"]+)", text)]
    assert films == [MP4, MP4]


def test_the_policy_of_the_page_allows_its_own_script_alone(tmp_path: Path) -> None:
    text = page(tmp_path)
    script = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(script) == 1
    digest = base64.b64encode(hashlib.sha256(script[0].encode()).digest()).decode()
    allowed = re.search(r'Content-Security-Policy" content="([^"]+)"', text)
    assert allowed is not None
    rules = allowed[1].replace("&#39;", "'").split("; ")
    assert "default-src 'none'" in rules
    assert f"script-src 'sha256-{digest}'" in rules
    assert not any("http" in rule for rule in rules)


def test_an_svg_is_part_of_the_page_and_loses_its_namespace(tmp_path: Path) -> None:
    text = page(tmp_path, sections=[Section("Doses", [(SVG, "Caption.", "An alternative.")], "Some words.")])
    assert '<svg viewBox="0 0 1 1">' in text
    assert 'role="img" aria-label="An alternative."' in text
    assert '<a href="#section-1">Doses</a>' in text
    assert "http://" not in text


@pytest.mark.parametrize(
    "inside", ["<script>alert(1)</script>", '<path onload="x()"/>', "<foreignObject></foreignObject>"]
)
def test_an_svg_with_a_script_is_refused(tmp_path: Path, inside: str) -> None:
    bad = SVG.replace(b'<path d="M0 0"/>', inside.encode())
    with pytest.raises(BadInput, match="script"):
        page(tmp_path, figures=[(bad, "c", "a")])
    assert not list(tmp_path.iterdir())


def test_films_that_are_none_and_unknown_roles_are_refused(tmp_path: Path) -> None:
    for changes, told in (({"mp4": JPEG}, "video/mp4"), ({"still": MP4}, "image/png"), ({"role": "steerd"}, "did you mean 'steered'"),
                          ({"alt": " "}, "alternative")):  # fmt: skip
        with pytest.raises(BadInput, match=told):
            page(tmp_path, together=[pair(**changes)])


def test_what_was_asked_and_the_heading_of_the_table_are_told(tmp_path: Path) -> None:
    text = page(tmp_path, asked={"policy": "tiny"}, heading="What changed", conditions=pd.DataFrame({"x": [1]}))
    assert "<dt>policy</dt><dd>tiny</dd>" in text
    assert "What changed</h2>" in text
    assert '<a href="#conditions">What changed</a>' in text
