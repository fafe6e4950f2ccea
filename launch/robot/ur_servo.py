# ruff: noqa: N802 (the names of the protocols are ur-rtde's)
"""The inner loop of a Universal Robots arm: set-points at the controller's own rate towards a target that comes more seldom.

`Servo.step` is one period (2 ms for an e-series controller, 8 ms for the CB series): look whether the arm may move, go one bounded step
towards the target, send it. It stops the arm when the target grows old, and says why when the arm has stopped itself. Every call of
the control interface is made from the one thread that calls `step`: ur-rtde's commands share registers.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from scipy.spatial.transform import Rotation

from policies.errors import BadInput

SAFETY_MODES = {
    1: "normal", 2: "reduced", 3: "protective stop", 4: "recovery", 5: "safeguard stop", 6: "system emergency stop",
    7: "robot emergency stop", 8: "violation", 9: "fault", 10: "validate joint id", 11: "undefined",
    12: "automatic mode safeguard stop", 13: "three position enabling stop",
}  # fmt: skip
"""Universal Robots' numbers of the safety mode; the arm may move in the first two."""
ROBOT_MODES = {
    -1: "no controller", 0: "disconnected", 1: "confirm safety", 2: "booting", 3: "power off", 4: "power on", 5: "idle", 6: "backdrive",
    7: "running", 8: "updating firmware",
}  # fmt: skip
"""Universal Robots' numbers of the robot mode; the arm may move in "running"."""
MAY_MOVE = (1, 2)
RUNNING = 7


class Control(Protocol):
    """The part of ur-rtde's `RTDEControlInterface` that is used."""

    def isConnected(self) -> bool: ...
    def isProgramRunning(self) -> bool: ...
    def getStepTime(self) -> float: ...
    def setWatchdog(self, min_frequency: float) -> bool: ...
    def kickWatchdog(self) -> bool: ...
    def servoJ(self, q: Sequence[float], v: float, a: float, t: float, lookahead: float, gain: float, /) -> bool: ...
    def servoL(self, p: Sequence[float], v: float, a: float, t: float, lookahead: float, gain: float, /) -> bool: ...
    def servoStop(self, a: float) -> bool: ...
    def stopScript(self) -> None: ...
    def initPeriod(self) -> Any: ...
    def waitPeriod(self, start: Any) -> None: ...
    def disconnect(self) -> None: ...


class Receive(Protocol):
    """The part of ur-rtde's `RTDEReceiveInterface` that is used."""

    def isConnected(self) -> bool: ...
    def isProtectiveStopped(self) -> bool: ...
    def isEmergencyStopped(self) -> bool: ...
    def getSafetyMode(self) -> int: ...
    def getRobotMode(self) -> int: ...
    def getActualQ(self) -> Sequence[float]: ...
    def getActualTCPPose(self) -> Sequence[float]: ...
    def getActualTCPForce(self) -> Sequence[float]: ...
    def disconnect(self) -> None: ...


@dataclass(frozen=True)
class ServoSettings:
    """How targets are followed.

    Args:
        space: "joints" (servoJ, rad) or "tcp" (servoL, pose of the tool in the base frame, m and rotation vector).
        dt: period of the controller [s].
        joint_speed: bound of every joint [rad/s]. tcp_speed: of the tool [m/s]. turn_speed: of its orientation [rad/s].
        target_timeout: age of a target at which the arm is stopped [s].
        deceleration: of that stop [rad/s^2, m/s^2].
        lookahead: smoothing of the controller, 0.03 to 0.2 [s]. gain: of its position loop, 100 to 2000.
    """

    space: str = "joints"
    dt: float = 0.002
    joint_speed: float = 1.0
    tcp_speed: float = 0.25
    turn_speed: float = 1.0
    target_timeout: float = 0.2
    deceleration: float = 10.0
    lookahead: float = 0.1
    gain: float = 300.0

    def __post_init__(self) -> None:
        if self.space not in ("joints", "tcp"):
            raise BadInput(f"ur: space must be 'joints' or 'tcp', got {self.space!r}.")
        bounds = {"lookahead": (0.03, 0.2), "gain": (100, 2000), "dt": (0.001, 0.1), "target_timeout": (self.dt, 1.0)}
        for name in ("joint_speed", "tcp_speed", "turn_speed", "deceleration"):
            bounds[name] = (1e-3, 50)
        for name, (low, high) in bounds.items():
            if not low <= getattr(self, name) <= high:
                raise BadInput(f"ur: {name} may be {low:g} to {high:g}, got {getattr(self, name)!r}.")


def toward(here: np.ndarray, target: np.ndarray, settings: ServoSettings) -> np.ndarray:
    """One period's step: at most the allowed speed, all coordinates together along a straight line.

    Args:
        here, target: (6,) joint angles [rad], or pose: position [m], rotation vector [rad].
    Returns:
        (6,); `target` itself when it is near enough.
    """
    way = target - here
    if settings.space == "joints":
        share = _share(float(np.abs(way).max()), settings.joint_speed * settings.dt)
        return target.copy() if share == 1 else here + share * way
    start, turn = (
        Rotation.from_rotvec(here[3:]),
        Rotation.from_rotvec(target[3:]) * Rotation.from_rotvec(here[3:]).inv(),
    )
    turned = turn.as_rotvec()  # the short way round
    share = min(
        _share(float(np.linalg.norm(way[:3])), settings.tcp_speed * settings.dt),
        _share(float(np.linalg.norm(turned)), settings.turn_speed * settings.dt),
    )
    if share == 1:
        return target.copy()
    return np.concatenate([here[:3] + share * way[:3], (Rotation.from_rotvec(share * turned) * start).as_rotvec()])


def _share(distance: float, bound: float) -> float:
    return 1.0 if distance <= bound else bound / distance


def safety_fault(control: Control, receive: Receive) -> str | None:
    """Why the arm may not move, with what to do about it; None if it may."""
    if not receive.isConnected() or not control.isConnected():
        return "the connection to the controller is lost; check the cable and the network, then connect again"
    if receive.isEmergencyStopped():
        return "the emergency stop is pressed; clear the cell, release it, power the arm on, then connect again"
    mode = receive.getSafetyMode()
    if receive.isProtectiveStopped() or mode == 3:
        return "protective stop (a collision, or a limit of the arm); look at the arm, unlock it at the pendant, then connect again"
    if mode not in MAY_MOVE:
        name = SAFETY_MODES.get(mode, f"safety mode {mode}")
        return f"the safety system reports {name!r}; resolve it at the pendant, then connect again"
    if receive.getRobotMode() != RUNNING:
        name = ROBOT_MODES.get(receive.getRobotMode(), str(receive.getRobotMode()))
        return f"the arm is {name!r}, not 'running'; power it on and release its brakes at the pendant"
    if not control.isProgramRunning():
        return "the control script does not run on the controller; switch it to remote control, then connect again"
    return None


class Servo:
    """The loop around `toward` and `safety_fault`; see the module's docstring.

    Args:
        control, receive: interfaces of ur-rtde.
        settings: how targets are followed.
        clock: seconds.
    Attributes:
        fault: why the arm stopped itself, or could not be spoken to; it stays until a new connection.
        moving: whether set-points are being sent.
        stale: how often the arm was stopped since no new target came.
    """

    def __init__(
        self, control: Control, receive: Receive, settings: ServoSettings, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._control, self._receive, self.settings, self._clock = control, receive, settings, clock
        self._lock = threading.Lock()
        self._target: tuple[np.ndarray, float] | None = None  # and when it came
        self._point: np.ndarray = np.zeros(6)  # what was sent last
        self.fault: str | None = None
        self.moving, self.stale = False, 0

    def aim(self, target: np.ndarray) -> None:
        """Give a new (6,) target; from any thread."""
        with self._lock:
            self._target = (target.copy(), self._clock())

    def rest(self) -> None:
        """Forget the target: the next step stops the arm; from any thread."""
        with self._lock:
            self._target = None

    def step(self) -> None:
        """One period. Never raises: what goes wrong becomes `fault`, and stops the arm."""
        try:
            self._step()
        except Exception as error:
            self._fail(
                f"the controller does not answer ({type(error).__name__}: {error}); check the network, then connect again"
            )

    def _step(self) -> None:
        if self.fault is not None:
            return
        if (fault := safety_fault(self._control, self._receive)) is not None:
            self._fail(fault)
            return
        self._control.kickWatchdog()
        with self._lock:
            target = self._target
        if target is None or self._clock() - target[1] > self.settings.target_timeout:
            if self.moving:
                self.stale += target is not None
                self._halt()
            return
        if not self.moving:
            joints = self.settings.space == "joints"
            self._point = np.array(
                self._receive.getActualQ() if joints else self._receive.getActualTCPPose(), dtype=np.float64
            )
            self.moving = True
        self._point = toward(self._point, target[0], self.settings)
        servo = self._control.servoJ if self.settings.space == "joints" else self._control.servoL
        if not servo(self._point.tolist(), 0.0, 0.0, self.settings.dt, self.settings.lookahead, self.settings.gain):
            self._fail("the controller refused a set-point; look at the pendant's log, then connect again")

    def _halt(self) -> None:
        self.moving = False
        self._control.servoStop(self.settings.deceleration)

    def _fail(self, why: str) -> None:
        self.fault = why
        try:
            self._halt()  # a lost connection cannot be told anything: the controller's watchdog stops the arm then
        except Exception as error:
            self.fault = f"{why} (and servoStop failed: {error})"


def checked_target(action: Sequence[float]) -> np.ndarray:
    """(6,) float64, finite."""
    target = np.asarray(action, dtype=np.float64)
    if target.shape != (6,) or not all(map(math.isfinite, target)):
        raise BadInput(f"ur: expected six finite numbers, got {list(action)}.")
    return target
