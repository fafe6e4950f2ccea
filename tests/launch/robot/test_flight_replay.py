"""The report tells what happened: planted interventions, changes and damage are found, and nothing else is."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from flight_parts import FLIGHT, write_flight

from launch.robot.flights import Recording
from launch.robot.recorder import JOURNAL, FlightRecorder
from launch.robot.replay import events, replay, summary, traces
from policies.errors import BadArtifact
from steer_agents.runs import jsonable

STALE = {"decisions": ("stale observation",), "mode": "hold", "asked": {}, "sent": {}}


def test_planted_events_are_counted_with_their_times(tmp_path: Path) -> None:
    changes = dict.fromkeys((10, 11, 12), STALE) | {
        n: {"strengths": {"slow": 0.5}, "decisions": ()} for n in range(20, 40)
    }
    found = summary(Recording(write_flight(tmp_path, 40, at=changes)))
    assert (found["ticks"], found["ended"], found["missed"], found["lost_bytes"]) == (40, "closed", 0, 0)
    assert found["seconds"] == pytest.approx(39 / 30)
    assert found["period_error_ms"]["max"] < 1e-6
    assert {row["mode"]: row["ticks"] for row in found["modes"]} == {"steered": 37, "hold": 3}
    stale = next(row for row in found["interventions"] if row["intervention"] == "stale observation")
    assert stale["ticks"] == 3
    assert (stale["first"], stale["last"]) == (pytest.approx(10 / 30), pytest.approx(12 / 30))
    assert [(row["from"], row["to"], row["because"]) for row in found["changes"][1:]] == [
        ("steered", "hold", "stale observation"),
        ("hold", "steered", "clip position x" if abs(np.sin(13 / 5) * 2) > 1 else ""),
    ]
    assert found["strengths"] == [
        {"part": "slow", "first": 0.2, "last": 0.5, "lowest": 0.2, "highest": 0.5, "changes": 1}
    ]
    x, y = found["actions"]
    asked = np.sin(np.delete(np.arange(40), [10, 11, 12]) / 5) * 2
    assert x["changed"] == (np.abs(asked) > 1).sum()
    assert x["beyond"] == 0
    assert y["beyond"] is None
    table = events(found)
    assert "stale observation" in set(table["what"])
    assert "action y" not in set(table["what"])


def test_actions_beyond_the_limits_and_missing_ticks_are_told(tmp_path: Path) -> None:
    recorder = FlightRecorder(tmp_path, FLIGHT, places=50)
    from flight_parts import tick

    for number in (0, 1, 5, 6):
        recorder.write(tick(number, sent={"x": 1.5, "y": 0.0} if number == 5 else {"x": 1.0, "y": 0.0}))
    recorder.close()
    found = replay(tmp_path, report=False)
    assert found["missed"] == 3
    assert found["actions"][0]["beyond"] == 1
    assert "BEYOND the limits" in found["verdict"]
    assert "3 ticks are missing" in found["verdict"]


def test_the_report_of_a_flight_that_broke_off_has_plots_and_a_film(tmp_path: Path) -> None:
    folder = write_flight(tmp_path / "flight", 20, at={7: STALE})
    data = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(data[:-20])
    found = replay(folder)
    assert found["ended"] == "broke off"
    assert found["dataset"] is None
    assert json.loads(json.dumps(jsonable(found)))["ticks"] == 20  # the end record is what was cut off
    text = Path(found["report"]).read_text()
    assert "stale observation" in text
    assert "broke off" in text
    assert len(re.findall("data:image/png;base64,", text)) == 3
    assert len(re.findall("data:video/mp4;base64,", text)) == 1
    assert "sound up to byte" in text
    assert not re.search(r"(src|href)=\"https?:", text)


def test_a_flight_without_ticks_says_so(tmp_path: Path) -> None:
    FlightRecorder(tmp_path, FLIGHT).close()
    with pytest.raises(BadArtifact, match="no tick was recorded"):
        replay(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_traces_have_gaps_where_ticks_had_nothing(tmp_path: Path) -> None:
    numbers = traces(Recording(write_flight(tmp_path, 5, at={2: STALE})))
    assert np.isnan(numbers.sent["x"]).tolist() == [False, False, True, False, False]
    assert np.isnan(numbers.period).tolist() == [True, False, False, False, False]
    assert numbers.pictures == {"front": 5}
