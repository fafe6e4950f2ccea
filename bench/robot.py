"""The control loop of a deployment: how even its steps are at 30 Hz while a policy works in another process, and what the gate costs.

Period errors are wall time, so whatever else runs on the machine is in them; the gate is CPU time. A deadline is missed because of
inference where asking or looking for an answer held the loop for half a period. Bounds: none of those; the gate's median 0.2 ms per step.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from launch.robot.contract import Chunk
from launch.robot.control import ControlLoop, run
from launch.robot.gate import Command, Gate, Senses
from launch.robot.sim_arm import ACTIONS, OPEN
from launch.robot.sim_envelope import sim_envelope
from launch.robot.worker import InferenceProcess
from policies.base import Decision, Observation, Policy
from steer_agents.envelope import Box, SafetyEnvelope

FPS = 30
GATE_MS = 0.2
HOME = dict(zip(ACTIONS, (0.47, 0.0, 0.24, 0.0, 0.0, 0.0, OPEN), strict=True))


class Busy(Policy):
    """Keeps a core busy for a while, then asks for a little motion."""

    name = "busy"

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self._rng = np.random.default_rng(seeds)

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        until = time.monotonic() + self._seconds
        while time.monotonic() < until:
            np.linalg.norm(self._rng.random((64, 64)))
        return Decision(self._rng.uniform(-0.2, 0.2, (1, 7)).astype(np.float32))


@dataclass
class BusyRecipe:
    """A `LoadedRecipe` of it."""

    policy: Policy
    envelope: SafetyEnvelope
    steerer: None = None


def busy() -> BusyRecipe:
    """A policy that takes 80 ms a chunk, all of a core."""
    return BusyRecipe(Busy(0.08), sim_envelope())


class Echo:
    """A robot that is where it was told to be, and an adapter for it."""

    names: tuple[str, ...] = ACTIONS
    dt = 0.1

    def __init__(self) -> None:
        self._at: dict[str, Any] = dict(HOME)

    def get_observation(self) -> Mapping[str, Any]:
        """Where it is."""
        return dict(self._at)

    def send_action(self, action: dict[str, Any]) -> Any:
        """Be there."""
        self._at = dict(action)

    def observe(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """As numbers."""
        return {"agent_pos": np.array([observation[name] for name in ACTIONS], np.float32)}

    def targets(self, actions: np.ndarray, start: np.ndarray) -> np.ndarray:
        """Small deltas around home."""
        return np.array(list(HOME.values())) + 0.05 * np.asarray(actions, dtype=float) * (np.arange(7) < 3)


class Timed:
    """An `Asker` whose calls are timed."""

    def __init__(self, inner: InferenceProcess) -> None:
        self._inner = inner
        self.held: list[float] = []
        self.answers = 0

    @property
    def ready(self) -> bool:
        """The inner one's."""
        return self._inner.ready

    def ask(
        self, observation: Mapping[str, Any], observed_at: float, steered: bool, strengths: Mapping[str, float]
    ) -> None:
        """Timed."""
        began = time.monotonic()
        self._inner.ask(observation, observed_at, steered, strengths)
        self.held.append(time.monotonic() - began)

    def answer(self, now: float) -> Chunk | None:
        """Timed."""
        began = time.monotonic()
        chunk = self._inner.answer(now)
        self.held.append(time.monotonic() - began)
        self.answers += chunk is not None
        return chunk

    def waiting(self, now: float) -> float:
        """The inner one's."""
        return self._inner.waiting(now)

    def close(self) -> None:
        """The inner one's."""
        self._inner.close()


@dataclass(frozen=True)
class Robot:
    """What was measured.

    Args:
        timing: see `launch.robot.control.Timing.summary`.
        missed: deadlines because of inference; longest_ms: that inference held the loop.
        chunks: answered meanwhile.
        gate_ms: CPU time of a step of the gate, one per step.
    """

    timing: Mapping[str, float]
    missed: int
    longest_ms: float
    chunks: int
    gate_ms: np.ndarray

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        p50, p99 = np.percentile(self.gate_ms, [50, 99]).tolist()
        return {
            "period_error": dict(self.timing), "chunks": self.chunks,
            "missed_because_of_inference": {
                "value": self.missed, "longest_hold_ms": self.longest_ms, "limit": 0, "holds": self.missed == 0,
            },
            "gate_ms": {"p50": p50, "p99": p99, "limit": GATE_MS, "holds": bool(p50 <= GATE_MS)},
        }  # fmt: skip


def measure(rounds: int = 15) -> Robot:
    """Run the loop for two seconds a round, and the gate for 200 steps a round."""
    timing, missed, longest, chunks = _loop(2.0 * rounds)
    return Robot(timing, missed, longest, chunks, gate_cost(200 * rounds))


def _loop(seconds: float) -> tuple[dict[str, float], int, float, int]:
    echo = Echo()
    asker = Timed(InferenceProcess(busy, Echo.dt))
    try:
        loop = ControlLoop(echo, echo, Gate(sim_envelope(), 1 / FPS), asker, executed=Echo.dt)
        timing = run(loop, seconds)
    finally:
        asker.close()
    held = 1e3 * np.array(asker.held)
    return timing.summary(), int((held > 500 / FPS).sum()), float(held.max()), asker.answers


def gate_cost(steps: int) -> np.ndarray:
    """(steps,) CPU milliseconds of a step: seven actions on their way to targets that change, a workspace, three keep-out boxes."""
    envelope = sim_envelope(keep_out=tuple(Box((0.3, y, 0.0), (0.35, y + 0.05, 0.1)) for y in (-0.3, -0.2, 0.2)))
    gate = Gate(envelope, 1 / FPS)
    state, rng, spent = gate.start(HOME, 0.0), np.random.default_rng(0), []
    low = np.array([limit.low for limit in envelope.limits.values()])
    high = np.array([limit.high for limit in envelope.limits.values()])
    target = dict(HOME)
    for number in range(steps):
        if number % 15 == 0:
            target = dict(zip(ACTIONS, rng.uniform(low, high).tolist(), strict=True))
        now = number / FPS
        command = Command(target, now, steered=state.level == 0)
        senses = Senses(dict(zip(ACTIONS, state.position, strict=True)), now, gripper_force=1.0)
        began = time.process_time()
        state, _ = gate.step(state, command, senses, now)
        spent.append(1e3 * (time.process_time() - began))
    return np.array(spent)


def show(console: Console, found: Robot, rounds: int = 1) -> None:
    """Print the table."""
    table = Table(
        title=f"Control loop at {FPS} Hz, a policy at work in another process",
        title_justify="left",
        header_style="bold",
    )
    for column in ("measured", "p50", "p99", "largest", "bound"):
        table.add_column(column)
    t, gate = found.timing, found.as_json()["gate_ms"]
    table.add_row("period error, ms", f"{t['p50_ms']:.2f}", f"{t['p99_ms']:.2f}", f"{t['max_ms']:.2f}", "")
    table.add_row(
        f"held by inference, ms ({found.chunks} chunks)", "", "", f"{found.longest_ms:.2f}",
        f"0 deadlines missed: {'holds' if found.missed == 0 else f'NO, {found.missed}'}",
    )  # fmt: skip
    table.add_row(
        "gate, CPU of a step, ms", f"{gate['p50']:.3f}", f"{gate['p99']:.3f}", f"{found.gate_ms.max():.3f}",
        f"{GATE_MS} at p50: {'holds' if gate['holds'] else 'NO'}",
    )  # fmt: skip
    console.print(table)
