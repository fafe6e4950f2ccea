"""A recipe on a robot: any of LeRobot's (`--robot.type=so101_follower`), or the simulated one, behind the gate.

    deploy(parse_robot(["--robot.type=sim_follower", "--robot.task=PutBowlOnPlate"]), recipe, seconds=30)

The recipe is loaded in a process of its own; this one holds the arm.
"""

from __future__ import annotations

import importlib
import math
import pkgutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import draccus
import lerobot.robots
from lerobot.robots import Robot, RobotConfig, make_robot_from_config
from lerobot.utils.import_utils import register_third_party_plugins
from rich.console import Console

from launch.robot import config_sim_follower
from launch.robot.actions import AbsoluteTargets, Adapter, TabletopDeltas
from launch.robot.contract import FlightSink, Recipe, Tick
from launch.robot.control import ControlLoop, Timing, run, signals_stop
from launch.robot.gate import Gate
from launch.robot.operator import Operator
from launch.robot.preflight import QUESTIONS, Check, checks, confirm
from launch.robot.sim_arm import ACTIONS, FORCE
from launch.robot.worker import NO_ANSWER, InferenceProcess
from policies.errors import BadInput, nearest
from steer_agents.envelope import SafetyEnvelope

assert config_sim_follower.__name__  # importing it registers `sim_follower`

FIRST_CHUNK = 120.0
"""How long the first chunk may take, on the ground [s]: steering that needs gradients loads what they need."""


@dataclass(frozen=True)
class Deployment:
    """What happened.

    Args:
        seconds: that the loop ran; why: what ended it ("done", "SIGINT", ...).
        counts: decisions of the gate and other events, by name; inference: deaths, restarts and errors of its process.
        timing: see `Timing.summary`.
        success: what a simulated robot says of its task; None from others.
    """

    seconds: float
    why: str
    counts: Mapping[str, int]
    inference: Mapping[str, int]
    timing: Mapping[str, float]
    success: bool | None


@dataclass
class _Arguments:
    robot: RobotConfig


def parse_robot(arguments: Sequence[str]) -> RobotConfig:
    """A robot's config from LeRobot's own arguments, `--robot.type=NAME --robot.FIELD=VALUE ...`.

    Raises:
        BadInput: an unknown type (the nearest is named), a field that it does not have, or none.
    """
    kinds = [text.partition("=")[2] for text in arguments if text.startswith("--robot.type=")]
    if len(kinds) != 1:
        raise BadInput(f"robot: give --robot.type=NAME once, e.g. --robot.type=sim_follower; got {list(arguments)}.")
    known = RobotConfig.get_known_choices()
    broken: dict[str, str] = {}
    if kinds[0] not in known:
        broken = _register_all()
        known = RobotConfig.get_known_choices()
    if kinds[0] not in known:
        why = f" Not importable here: {broken}." if broken else ""
        raise BadInput(f"robot type {kinds[0]!r} is unknown{nearest(kinds[0], sorted(known))}.{why}")
    try:
        return draccus.parse(_Arguments, args=list(arguments)).robot
    except (draccus.utils.ParsingError, SystemExit, TypeError) as error:
        raise BadInput(f"robot {kinds[0]!r}: {error or 'an argument is not known'}; got {list(arguments)}.") from None


def _register_all() -> dict[str, str]:
    """Import LeRobot's robots and installed plug-ins, which registers them; what could not be imported, and why."""
    broken = {}
    for module in pkgutil.iter_modules(lerobot.robots.__path__):
        if module.ispkg:
            try:
                importlib.import_module(f"lerobot.robots.{module.name}")
            except Exception as error:
                broken[module.name] = f"{type(error).__name__}: {error}"
    register_third_party_plugins()
    return broken


def default_adapter(robot: Robot, fps: int) -> Adapter:
    """Deltas of the tabletop where the robot takes its poses, else the policy's actions as they are, one per period."""
    if set(robot.action_features) == set(ACTIONS):
        return TabletopDeltas()
    return AbsoluteTargets(list(robot.action_features), 1 / fps)


def deploy(
    config: RobotConfig,
    recipe: Recipe,
    *,
    fps: int = 30,
    seconds: float = math.inf,
    seed: int = 0,
    instruction: str | None = None,
    adapter: Adapter | None = None,
    dry_run: bool = False,
    yes: bool = False,
    watch: Callable[[Operator], Sequence[FlightSink]] | None = None,
    until_success: bool = False,
    ask: Callable[[str], str] = input,
    console: Console | None = None,
) -> Deployment:
    """Run a recipe on a robot until time, success, a signal or Ctrl-C ends it; the arm is stopped within its limits first.

    Args:
        config: of the robot, see `parse_robot`.
        recipe: loads policy, steerer and envelope; called in another process.
        fps: of the control loop.
        seconds: how long at most.
        seed: of the policy's randomness.
        instruction: what to do, for policies that read it; a simulated robot's own where None.
        adapter: between robot and policy; see `default_adapter`.
        dry_run: print what would be sent, send nothing.
        yes: ask only for the robot's name. A simulated robot is not asked about.
        watch: gets the operator's panel (dashboard) and gives sinks for every step (recorder).
        until_success: end when a simulated robot says that its task is done.
        ask: shows a question and returns what was typed.
    Raises:
        BadInput: robot, envelope and policy do not fit together, or the arm stands outside of its envelope.
        NotConfirmed: a person did not let it move.
    """
    console = console or Console(stderr=True, highlight=False)
    robot = make_robot_from_config(config)
    adapter = adapter or default_adapter(robot, fps)
    simulated = bool(getattr(robot, "simulated", False))
    name = config.id or config.type
    console.print("loading the recipe ...")
    process = InferenceProcess(recipe, adapter.dt)
    sinks: list[FlightSink] = []
    try:
        hello = process.hello
        gate = Gate(hello.envelope, 1 / fps, tuple(robot.action_features))
        _fits(robot, hello.envelope)
        if not (simulated or dry_run):
            console.print(f"{name} is about to be connected, which may switch its motors on.")
            confirm(name, QUESTIONS, yes, ask)
        operator = Operator(hello.knobs)
        with _connected(robot):
            said = getattr(robot, "info", {})
            info = {**said, **({} if instruction is None else {"task_description": instruction})}
            process.reset(seed, info)
            loop = ControlLoop(
                robot, adapter, gate, process, operator, executed=hello.executed * adapter.dt,
                force=FORCE if FORCE in robot.observation_features else None, send=not dry_run,
            )  # fmt: skip
            loop.start(time.monotonic())
            latency = _latency(loop, process, adapter)
            process.reset(seed, info)  # what was asked on the ground is no part of the episode
            _report(console, checks(hello.envelope, gate.period, latency), simulated or dry_run)
            if watch is not None:
                sinks += watch(operator)
                loop.add_sinks(sinks)
            began = time.monotonic()
            with signals_stop(operator), _status(console, loop, dry_run):
                timing = _run(loop, robot, seconds, until_success and simulated)
            why = operator.why_stopped or "done"
            success = bool(robot.progress().get("is_success")) if simulated else None
            spent = time.monotonic() - began
    finally:
        process.close()
        for sink in sinks:
            sink.close()
    console.print(f"stopped: {why}; {spent:.1f} s; {_told(timing.summary())}", soft_wrap=True)
    return Deployment(spent, why, dict(loop.counts), dict(process.tally.counts), timing.summary(), success)


def _fits(robot: Robot, envelope: SafetyEnvelope) -> None:
    """Refuse a robot that does not say what the gate needs to know."""
    if missing := [name for name in envelope.limits if name not in robot.observation_features]:
        raise BadInput(
            f"robot {robot.name!r}: the gate has to know where every action is, its observation has no {missing}; it gives "
            f"{sorted(robot.observation_features)}."
        )
    if envelope.gripper_force is not None and FORCE not in robot.observation_features:
        raise BadInput(
            f"envelope: gripper_force needs {FORCE!r} in the robot's observation, {robot.name!r} does not measure it. Set it to null, and "
            "keep the grip soft by the gripper's own limits."
        )


@contextmanager
def _connected(robot: Robot) -> Iterator[None]:
    robot.connect()
    try:
        yield
    finally:
        robot.disconnect()


def _latency(loop: ControlLoop, process: InferenceProcess, adapter: Adapter) -> float:
    """How long a steered chunk takes [s], asked twice before anything moves: the first one is slow, and nobody is killed for that here.

    Raises:
        BadInput: the policy does not take the observation, or gives no chunk.
    """
    counts, until = process.tally.counts, time.monotonic() + FIRST_CHUNK
    spent: list[float] = []
    while len(spent) < 2:
        began, late = time.monotonic(), counts.get(NO_ANSWER, 0)
        process.ask(adapter.observe(loop.observation), began, True, {})
        while (chunk := process.answer(began)) is None and counts.get(NO_ANSWER, 0) == late:
            if set(counts) - {NO_ANSWER}:
                raise BadInput(
                    f"the policy does not take the robot's observation: {process.tally.last_error or 'its process ended'}"
                )
            if time.monotonic() > until:
                raise BadInput(f"the policy gave no chunk within {FIRST_CHUNK:g} s, so nothing was sent.")
            time.sleep(0.002)
        if chunk is not None:
            spent.append(time.monotonic() - began)
    counts.pop(NO_ANSWER, None)  # a server's first chunk is slow too: asked again
    return spent[-1]


def _report(console: Console, found: Sequence[Check], harmless: bool) -> None:
    for check in found:
        mark = {True: "ok  ", False: "NO  ", None: "warn"}[check.holds]
        console.print(f"  {mark} {check.text}", soft_wrap=True)
    if any(check.holds is False for check in found) and not harmless:
        raise BadInput(
            f"preflight: {'; '.join(check.text for check in found if check.holds is False)}. Nothing was sent."
        )


def _run(loop: ControlLoop, robot: Any, seconds: float, until_success: bool) -> Timing:
    def done() -> bool:
        if loop.number % 10:
            return False
        return bool(robot.progress().get("is_success"))

    return run(loop, seconds, done if until_success else None)


@contextmanager
def _status(console: Console, loop: ControlLoop, dry_run: bool) -> Iterator[None]:
    """A line that says how it goes, written by another thread: a slow terminal never holds the loop."""
    over = threading.Event()

    def write() -> None:
        printed = -1
        while not over.wait(0.25):
            tick = loop.operator.latest()
            if tick is None:
                continue
            if dry_run:
                if tick.number != printed:
                    printed = tick.number
                    console.print(
                        f"would send {_numbers(tick.asked) or 'nothing'} [{tick.mode}] {', '.join(tick.decisions)}",
                        markup=False,
                        soft_wrap=True,
                    )
            elif console.is_terminal:
                console.print(status_line(tick), end="\r", markup=False, soft_wrap=True)

    thread = threading.Thread(target=write, name="status", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(1.0)
        if console.is_terminal and not dry_run:
            console.print()


def _told(timing: Mapping[str, float]) -> str:
    """How even the steps were, in words."""
    return (
        f"{timing['steps']:.0f} steps, period error {timing['p50_ms']:.1f} ms at p50, {timing['p99_ms']:.1f} ms at p99, "
        f"{timing['late']:.0f} late"
    )


def _numbers(values: Mapping[str, float]) -> str:
    return " ".join(f"{name}={value:+.3f}" for name, value in values.items())


def status_line(tick: Tick) -> str:
    """One step in one line of at most 118 characters.

    >>> status_line(Tick(7, 0.0, 0.0334, {}, {}, {}, "hold", ("no action",), {}, 2, 0.31))
    'step 7  hold  33.4 ms  chunk 2 (0.31 s old)  no action'
    """
    strengths = " ".join(f"{part} {value:.2f}" for part, value in tick.strengths.items())
    chunk = f"chunk {tick.chunk} ({tick.chunk_age:.2f} s old)" if tick.chunk >= 0 else "no chunk"
    parts = [
        f"step {tick.number}",
        tick.mode,
        f"{1e3 * tick.period:.1f} ms",
        chunk,
        strengths,
        ", ".join(tick.decisions),
    ]
    return "  ".join(part for part in parts if part)[:118]
