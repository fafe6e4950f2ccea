"""Faults put into a deployment on the simulated arm: are limits kept at the actuator, and does it stop in time?

Most in simulated time (`robot_faults_simulated`), those that end processes in real time (`robot_faults_real`). Judged is the simulator's
own trace of what the servo followed, at every physics step: not what the control loop believes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from launch.experiments import robot_faults_real, robot_faults_simulated
from launch.experiments.base import Figure, Outcome, Say
from launch.experiments.robot_faults_simulated import STOPS
from launch.robot.flights import Recording
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar

WITHIN_MS = 100.0


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        faults: in simulated time; signals, kills: in real time, to deployments, and to control processes.
        servers: policy servers killed under a flight.
        policy: an embedded policy of PutBowlOnPlate on the state.
        seed: of all that is drawn.
    """

    faults: int = 1000
    signals: int = 30
    kills: int = 5
    servers: int = 3
    policy: str = "flow-medium"
    seed: int = 0


def settings(quick: bool) -> Settings:
    """A thousand and 35 faults (about 10 minutes), or 45 and 4."""
    return replace(Settings(), faults=45, signals=3, kills=1, servers=1) if quick else Settings()


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Inject, then count."""
    say.plan([s.faults / 5, s.signals * 3 + 20, s.kills * 10, s.servers * 25])
    say.stage(f"{s.faults} faults in simulated time")

    def told(number: int) -> None:
        if number and number % 100 == 0:
            say.note(f"{number} of {s.faults}")

    rows = robot_faults_simulated.simulate(s.policy, s.faults, s.seed, told)
    flight = folder / f"flight-{pd.Timestamp.now():%Y%m%d-%H%M%S}"
    say.stage(f"{s.signals} signals in real time")
    real = (
        robot_faults_real.signals(
            s.policy, s.signals, s.seed, flight, lambda number: say.note(f"{number + 1} of {s.signals}")
        )
        if s.signals
        else []
    )
    say.stage(f"{s.kills} control processes killed")
    real += [robot_faults_real.killed_client(s.seed + number) for number in range(s.kills)]
    say.stage(f"{s.servers} policy servers killed under a flight")
    served = [
        robot_faults_real.killed_server(s.policy, s.seed + k, flight.with_name(f"{flight.name}-server-{k}"))
        for k in range(s.servers)
    ]
    real += served
    table = pd.DataFrame([*rows, *({"number": len(rows) + k, **row} for k, row in enumerate(real))])
    table["real_time"] = [number >= len(rows) for number in table["number"]]
    table = table.assign(condition=table["kind"], seed=s.seed, episode=table["number"], errored=False)
    return outcome(s, table, _readable(flight) if real and s.signals else None)


def _readable(flight: Path) -> int:
    """How many ticks a recorder whose disk filled up has kept."""
    return sum(1 for _ in Recording(flight))


def outcome(s: Settings, table: pd.DataFrame, recorded: int | None) -> Outcome:
    """Bars and a verdict from one row per fault."""
    broken = table[table["limits"] != ""]
    called = table[table["stop_ms"].notna()]
    live = called[called["real_time"]]
    simulated = called[~called["real_time"]]
    slowest = float(simulated["stop_ms"].max())
    live_slowest = float(live["stop_ms"].max()) if len(live) else float("nan")
    returned = float(table["returned"].dropna().astype(float).mean())
    bars = [
        Bar("faults after which the actuator exceeded a limit", len(broken), None, "0", broken.empty),
        Bar(
            "slowest stop in simulated time, fault seen to setpoint at rest [ms]", slowest, None, f"<= {WITHIN_MS:g}",
            slowest <= WITHIN_MS + 1e-6,
        ),
        Bar(
            "slowest stop in real time, signal to setpoint at rest [ms]", live_slowest, None, f"<= {WITHIN_MS:g}",
            live_slowest <= WITHIN_MS if len(live) else None,
        ),
        Bar(
            "simulated faults that call for a stop and were no hold", int(_missed(table)), None, "0", _missed(table) == 0,
        ),
        Bar("share of simulated faults after which the deployment went on steered", returned, None, "1", returned == 1.0),
        Bar("ticks read back from the recorder whose disk filled up", recorded, None, "> 0", None if recorded is None else recorded > 0),
    ]  # fmt: skip
    if "stands" in table:
        servers = table[table["stands"].notna()]
        lost = int((~servers["stands"].astype(bool)).sum() + (servers["flight"] == 0).sum())
        bars.append(
            Bar(
                f"of {len(servers)} killed policy servers, arms that did not come to stand or flights that cannot be read", lost, None, "0",
                lost == 0,
            )
        )  # fmt: skip
    rows = []
    for kind, own in table.groupby("kind", sort=False):
        rows.append(
            {"fault": kind, "injected": len(own), "limits exceeded": int((own["limits"] != "").sum()),
             "stops timed": int(own["stop_ms"].notna().sum()), "slowest stop [ms]": own["stop_ms"].max(),
             "slowest tool stop [ms]": own["tool_stop_ms"].max(), "went on": float(own["returned"].astype(float).mean()),
             "tool speed / limit": own["tool_speed"].max()}
        )  # fmt: skip
    conditions = pd.DataFrame(rows)
    shown = pd.DataFrame(
        {
            "name": row["fault"],
            "value": row["slowest stop [ms]"],
            "low": float("nan"),
            "high": float("nan"),
            "role": "base",
        }
        for row in rows
        if row["stops timed"]
    )
    figure = plots.bars(
        shown, label="slowest stop [ms]", title="From the fault to the setpoint at rest", reference=WITHIN_MS
    )
    told = ", ".join(f"{row['fault']} {row['slowest stop [ms]']:.0f} ms" for row in rows if row["stops timed"])
    return Outcome(
        title="Faults on the simulated robot",
        question="Whatever goes wrong, does the arm keep its limits, and stop in time?",
        verdict=f"{len(table)} faults of {table['kind'].nunique()} kinds: after {len(broken)} of them the actuator exceeded a limit; the "
        f"slowest of {len(simulated)} stops in simulated time took {slowest:.0f} ms, the slowest of {len(live)} in real time "
        f"{live_slowest:.0f} ms; after {returned:.1%} of the simulated ones it went on steered.",
        bars=bars,
        episodes=table,
        conditions=conditions,
        figures=[Figure("stops", figure, "Slowest stop of each kind of fault; dashed: 100 ms.", f"Slowest stops: {told}")],
        notes=[
            "The actuator is the setpoint that the servo follows, at 240 Hz; limits are those of the envelope, to rounding (position, "
            "speed, acceleration; jerk over a control period). The tool follows it through a servo with limited torque and touches "
            "things: its largest speed over the limit is told, and is no bar.",
            "A stop is timed where the arm moved. In simulated time from the step that saw the fault; in real time from the signal, so "
            "that up to a period of waiting for the next step and up to one of the arm's own clock are in it.",
            "An unchanging observation calls for a stop once it is older than the envelope allows (0.2 s), a stalled policy when its "
            "plan ends.",
        ],
    )  # fmt: skip


def _missed(table: pd.DataFrame) -> int:
    """Simulated faults that should have been a hold and were not (a stall may find the arm at rest already)."""
    meant = table[~table["real_time"] & table["kind"].isin(STOPS)]
    return int((~meant["held"].astype(bool)).sum())
