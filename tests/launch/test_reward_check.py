"""`steer-agents reward`: a program is checked and told before it steers anything."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from launch import cli
from launch.reward_check import reward_rows
from policies.errors import BadInput, UnknownName

PROGRAM = """stages:
  - name: grasp
    reward: []
    done: {quantity: held, above: 0.5}
  - name: carry
    reward:
      - keep_out: {of: wall, margin: [0.05, 0.07, 0.08], leave: +z}
        weight: 2
        when: {distance: [tcp, wall], below: 0.3}
      - height: {at_least: 2.0}
"""


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "reward.yaml"
    path.write_text(PROGRAM)
    return path


def test_every_term_is_told_with_its_line(program: Path) -> None:
    rows = reward_rows(program)
    assert [(row["stage"], row["term"], row["line"]) for row in rows] == [
        ("grasp", "-", 2), ("carry", "keep_out", 7), ("carry", "height", 10),
    ]  # fmt: skip
    assert rows[0]["left when"] == "quantity held above 0.5"
    assert rows[1]["when"] == "distance tcp to wall below 0.3"
    assert "margin: [0.05, 0.07, 0.08]" in rows[1]["with"]
    assert "at the start" not in rows[0]


def test_on_a_task_it_is_evaluated_where_the_task_begins(program: Path) -> None:
    rows = reward_rows(program, "CarryBlockOverWall")
    assert rows[0]["at the start"] == 0
    assert rows[2]["at the start"] < 0  # nobody is two metres up


def test_what_a_task_does_not_have_is_told(program: Path) -> None:
    with pytest.raises(UnknownName, match=r"line \d+: .*'wall' is not in this scene"):
        reward_rows(program, "PressButton")


def test_the_command_prints_rows_or_the_language_and_an_error_has_its_line(
    program: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*args: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["steer-agents", "reward", *args])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        return code, *capsys.readouterr()

    code, out, _ = run(str(program), "--json")
    assert code == 0
    assert [row["term"] for row in json.loads(out)] == ["-", "keep_out", "height"]
    assert "keep_out" in run()[1]
    bad = tmp_path / "bad.yaml"
    bad.write_text("reward:\n  - keep_off: {of: wall}\n")
    code, _, err = run(str(bad))
    assert code == 2
    assert "line 2" in err
    with pytest.raises(BadInput, match="is not a file"):
        reward_rows(tmp_path / "none.yaml")
