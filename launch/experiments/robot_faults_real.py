"""Faults that end processes, in real time: signals to the control process, SIGKILL to inference, to the policy server and to the control
process itself."""

from __future__ import annotations

import contextlib
import functools
import io
import math
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console

import policies
from launch.experiments.robot_faults_simulated import FPS, PERIOD, exceeded, stopping, tool
from launch.robot.actions import TabletopDeltas
from launch.robot.config_sim_follower import SimFollowerConfig
from launch.robot.control import ControlLoop, run, signals_stop
from launch.robot.flights import Recording
from launch.robot.flying import fly
from launch.robot.gate import Gate
from launch.robot.operator import Operator
from launch.robot.recorder import JOURNAL, Flight, FlightRecorder
from launch.robot.sim_arm import FORCE
from launch.robot.sim_envelope import sim_envelope
from launch.robot.sim_follower import SimFollower
from launch.robot.worker import InferenceProcess
from launch.server.seal import read_token
from policies.base import Policy
from steer_agents.envelope import SafetyEnvelope
from steer_agents.steerer import Steerer

SIGNALS = ("SIGINT", "SIGTERM", "inference SIGKILL")


@dataclass
class Unsteered:
    """A `LoadedRecipe` of an embedded policy."""

    policy: Policy
    envelope: SafetyEnvelope
    steerer: Steerer | None = None


def unsteered(name: str) -> Unsteered:
    """Load one."""
    return Unsteered(policies.load(name), sim_envelope(recovery=0.3, ramp_in=0.2))


def signals(policy: str, faults: int, seed: int, folder: Path, each: Callable[[int], None]) -> list[dict[str, Any]]:
    """Signals at random times, each to a new episode, early on, while the arm is on its way; the recorder's disk fills up in the middle."""
    rng = np.random.default_rng(seed)
    adapter = TabletopDeltas()
    process = InferenceProcess(functools.partial(unsteered, policy), adapter.dt, back_off=(0.05,) * (faults + 1))
    room = [40_000]

    def write(descriptor: int, data: bytes) -> int:
        room[0] -= len(data)
        if room[0] < 0:
            raise OSError(28, "No space left on device (injected)")
        return os.write(descriptor, data)

    recorder = FlightRecorder(folder, Flight(robot=SimFollower.name, fps=FPS), write=write)
    rows: list[dict[str, Any]] = []
    try:
        for number in range(faults):
            robot, operator = SimFollower(SimFollowerConfig(seed=seed + number)), Operator()
            with contextlib.ExitStack() as stack:
                robot.connect()
                stack.callback(robot.disconnect)
                process.reset(seed + number, robot.info)
                gate = Gate(process.hello.envelope, PERIOD, list(robot.action_features))
                executed = process.hello.executed * adapter.dt
                loop = ControlLoop(robot, adapter, gate, process, operator, [recorder], executed, force=FORCE)
                stack.enter_context(signals_stop(operator))
                kind = SIGNALS[number % len(SIGNALS)]
                sent: list[float] = []

                pause, pid = float(rng.uniform(0.0, 0.8)), process.pid if kind.startswith("inference") else os.getpid()

                def strike(
                    operator: Operator = operator,
                    pause: float = pause,
                    pid: int = pid,
                    kind: str = kind,
                    sent: list[float] = sent,
                ) -> None:
                    """Once the arm is on its way."""
                    until = time.monotonic() + 5
                    while ((tick := operator.latest()) is None or tick.chunk < 1) and time.monotonic() < until:
                        time.sleep(0.005)
                    time.sleep(pause)
                    sent.append(time.monotonic())
                    os.kill(pid, getattr(signal, kind.split()[-1]))

                threading.Thread(target=strike, daemon=True).start()
                timing = run(loop, seconds=9.0 if kind.startswith("inference") else 30.0)
                rows.append(
                    {
                        "kind": kind,
                        **judged(robot.trace(), sent[0], kind),
                        **{f"period {k}": v for k, v in timing.summary().items()},
                    }
                )
                until = time.monotonic() + 60
                while not process.ready and time.monotonic() < until:
                    process.answer(time.monotonic())
                    time.sleep(0.01)
            each(number)
    finally:
        process.close()
        recorder.close()
    rows[-1] |= {"recorded": recorder.recorded, "recorder": recorder.stopped}
    return rows


def judged(trace: dict[str, np.ndarray], struck: float, kind: str) -> dict[str, Any]:
    """Limits around a fault, and how long the arm went on moving after it (a policy that died: after its plan ran out, so not asked)."""
    near = {name: rows[trace["wall"] > struck - 0.7] for name, rows in trace.items()}
    found: dict[str, Any] = {
        "limits": "; ".join(exceeded(near)),
        "stop_ms": math.nan,
        "tool_stop_ms": math.nan,
    }
    after = {name: rows[trace["wall"] >= struck] for name, rows in trace.items()}
    if not kind.startswith("inference") and len(after["wall"]) > 1:
        ends = after["wall"] < struck + 0.6
        found |= stopping({name: rows[ends] for name, rows in ({**after, "time": after["wall"]}).items()})
    return found | tool(near)


def killed_client(seed: int) -> dict[str, Any]:
    """SIGKILL to a control process in the middle of a motion; the arm comes to rest by itself and leaves its trace."""
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.npz"
        command = [sys.executable, "-m", "launch.experiments.robot_faults_real", str(trace)]
        client = subprocess.Popen(command, stdout=subprocess.PIPE)
        assert client.stdout is not None
        client.stdout.readline()
        time.sleep(float(np.random.default_rng(seed).uniform(0.3, 0.8)))
        struck = time.monotonic()
        client.kill()
        client.wait()
        until = time.monotonic() + 30
        while not trace.exists() and time.monotonic() < until:
            time.sleep(0.05)
        with np.load(trace, allow_pickle=False) as found:
            return {"kind": "client SIGKILL", **judged(dict(found), struck, "client SIGKILL")}


def killed_server(policy: str, seed: int, folder: Path) -> dict[str, Any]:
    """SIGKILL to `steer-agents serve` while a robot flies on its chunks; the plan that it has runs out, and the arm stands."""
    folder.mkdir(parents=True)
    recipe, token, trace, flight = (folder / name for name in ("recipe.yaml", "token", "trace.npz", "flight"))
    safety = yaml.safe_dump({"safety": sim_envelope(recovery=0.3, ramp_in=0.2).to_mapping()}, sort_keys=False)
    recipe.write_text(f"recipe: 1\npolicy: {policy}\n{safety}")
    read_token(token, make=True)
    code = "import sys; from launch.cli import main; sys.argv = ['steer-agents', *sys.argv[1:]]; main()"
    serve = [
        "serve",
        str(recipe),
        "--env",
        f"SteerAgents/{SimFollowerConfig().task}-v0",
        "--port",
        "0",
        "--token-file",
        str(token),
    ]
    server = subprocess.Popen([sys.executable, "-u", "-c", code, *serve], stdout=subprocess.PIPE, text=True)
    sent: list[float] = []
    pause = float(np.random.default_rng(seed).uniform(0.6, 1.2))

    def strike() -> None:
        """Once the flight is recorded, which begins when the arm may move."""
        until = time.monotonic() + 600
        while not (flight / JOURNAL).exists() and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(pause)
        sent.append(time.monotonic())
        server.kill()

    try:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        threading.Thread(target=strike, daemon=True).start()
        robot = ["--robot.type=sim_follower", f"--robot.trace={trace}", f"--robot.seed={seed}"]
        quiet = Console(file=io.StringIO())
        fly(recipe, robot, seconds=5.0, record=flight, server=url, token_file=token, console=quiet)
    finally:
        server.kill()
        server.wait()
    with np.load(trace, allow_pickle=False) as found:
        rows = dict(found)
    later = rows["setpoint"][rows["wall"] > sent[0] + 2.5]
    stands = bool(len(later) and np.ptp(later, axis=0).max() < 1e-6)
    judgement = judged(rows, sent[0], "inference server")
    return {"kind": "server SIGKILL", **judgement, "stands": stands, "flight": sum(1 for _ in Recording(flight))}


def _client(trace: str) -> None:
    """Move along y until somebody kills this process."""
    robot = SimFollower(SimFollowerConfig(trace=Path(trace)))
    robot.connect()
    target = {name: robot.get_observation()[name] for name in robot.action_features}
    gate = Gate(sim_envelope(), PERIOD)
    from launch.robot.gate import Command, Senses

    state, began = gate.start(target, 0.0), time.monotonic()
    print("ready", flush=True)
    for number in range(300):
        target["ee.y"] += 0.2 * PERIOD * (1 if number % 60 < 30 else -1)
        now = number * PERIOD
        state, verdict = gate.step(state, Command(dict(target), now), Senses(robot.get_observation(), now), now)
        robot.send_action(verdict.target)
        time.sleep(max(began + now + PERIOD - time.monotonic(), 0.0))


if __name__ == "__main__":
    _client(sys.argv[1])
