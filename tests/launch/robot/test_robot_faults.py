"""The experiment's quick form: every kind of fault once, judged from the arm's trace; and its judges can say no."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from launch.experiments import robot_faults, robot_faults_simulated
from launch.experiments.base import Say
from launch.experiments.robot_faults_simulated import KINDS, STOPS, exceeded, simulate, stopping
from launch.robot.sim_envelope import sim_envelope


def test_every_kind_of_fault_keeps_the_limits_and_stops_in_time() -> None:
    table = pd.DataFrame(simulate("flow-medium", 2 * len(KINDS), 3, lambda number: None))
    assert set(table["kind"]) == set(KINDS)
    assert table["limits"].tolist() == [""] * len(table)
    assert table["stop_ms"].max() <= 100 + 1e-6
    assert table["tool_stop_ms"].max() <= 100
    assert table[table["kind"].isin(STOPS)]["held"].all()
    assert table["returned"].all()
    assert table["stop_ms"].notna().sum() > len(STOPS)


def test_without_the_gate_the_same_faults_break_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    from launch.robot.gate import Gate

    def open_gate(self: Gate, state, target, asked, decisions):  # type: ignore[no-untyped-def]
        wild = state.position if asked is None else tuple(asked)
        return state._replace(before=state.position, position=wild)

    monkeypatch.setattr(Gate, "_move", open_gate)
    monkeypatch.setattr(robot_faults_simulated, "KINDS", ("action 10x", "action noise"))
    table = pd.DataFrame(simulate("flow-medium", 2, 3, lambda number: None))
    assert (table["limits"] != "").all()


def _trace(x: np.ndarray) -> dict[str, np.ndarray]:
    setpoint = np.tile([0.4, 0.0, 0.2, 0.0, 0.0, 0.0, 0.0], (len(x), 1))
    setpoint[:, 1] = x
    return {
        "time": np.arange(len(x)) / 240,
        "setpoint": setpoint,
        "velocity": np.zeros((len(x), 3)),
        "tcp": setpoint[:, :3],
    }


def test_the_judges_find_what_is_wrong() -> None:
    limit = sim_envelope().limits["ee.y"]
    assert exceeded(_trace(np.zeros(100))) == []
    assert exceeded(_trace(np.linspace(0, 0.2 * limit.speed, 49))) == []
    assert any("speed ee.y" in one for one in exceeded(_trace(np.linspace(0, 0.22 * limit.speed, 49))))
    assert any("position ee.y" in one for one in exceeded(_trace(np.full(50, 0.5))))
    assert any(
        "acceleration ee.y" in one for one in exceeded(_trace(np.r_[np.zeros(20), np.arange(20) * limit.speed / 240]))
    )
    assert stopping(_trace(np.r_[np.arange(13.0), np.full(20, 12.0)]))["stop_ms"] == pytest.approx(50.0)
    assert np.isnan(stopping(_trace(np.zeros(9)))["stop_ms"])


@pytest.mark.slow
def test_the_whole_experiment_runs(tmp_path: Path) -> None:
    s = robot_faults.Settings(faults=15, signals=3, kills=1, servers=1)
    found = robot_faults.run(s, tmp_path, Say())
    bars = {bar.name: bar for bar in found.bars}
    assert bars["faults after which the actuator exceeded a limit"].holds
    assert bars["ticks read back from the recorder whose disk filled up"].holds
    assert bars["of 1 killed policy servers, arms that did not come to stand or flights that cannot be read"].holds
    assert len(found.episodes) == 20
    assert "20 faults" in found.verdict
