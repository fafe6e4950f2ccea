"""Universal Robots' UR5 and UR5e as a robot of LeRobot, through ur-rtde (extra `[ur]`): `--robot.type=ur5e --robot.host=...`.

Actions are absolute targets, joints [rad] or the tool's pose [m, rotation vector], followed at the controller's rate (`ur_servo`).
`get_observation` and `send_action` raise `RobotFault` when the arm has stopped itself: a protective stop, the emergency stop, another
safety mode, a lost connection. The arm stops when no new target comes for `target_timeout`; when this process dies, the controller's
own watchdog stops it.

    base.pos shoulder.pos elbow.pos wrist_1.pos wrist_2.pos wrist_3.pos [rad]   x y z [m] rx ry rz [rad]   force [N]   gripper.pos 0..1

Written for the interface of ur-rtde 1.6.5 and tested against a simulated one with the same methods; not yet against a controller.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from lerobot.cameras import CameraConfig
from lerobot.robots.config import RobotConfig
from lerobot.robots.robot import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from launch.robot.robotiq import Robotiq
from launch.robot.ur_servo import Control, Receive, Servo, ServoSettings, checked_target, safety_fault
from policies.errors import BadInput, MissingExtra, RobotFault, nearest

_LOG = logging.getLogger(__name__)
JOINTS = tuple(f"{name}.pos" for name in ("base", "shoulder", "elbow", "wrist_1", "wrist_2", "wrist_3"))
POSE = ("x", "y", "z", "rx", "ry", "rz")
FORCE, GRIPPER = "force", "gripper.pos"
GRIPPERS = ("none", "robotiq")
WATCHDOG_HZ = 10.0
"""The controller stops the arm when it hears less often from this process."""


@RobotConfig.register_subclass("ur5e")
@RobotConfig.register_subclass("ur5")
@dataclass(kw_only=True)
class URConfig(RobotConfig):
    """Settings of an arm; speeds and times as in `ServoSettings`.

    Args:
        host: address of the controller.
        space: of the actions, "joints" or "tcp".
        gripper: "none" or "robotiq".
        cameras: LeRobot's, by name.
    """

    host: str
    space: str = "joints"
    gripper: str = "none"
    joint_speed: float = 1.0
    tcp_speed: float = 0.25
    turn_speed: float = 1.0
    target_timeout: float = 0.2
    lookahead: float = 0.1
    gain: float = 300.0
    cameras: dict[str, CameraConfig] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.gripper not in GRIPPERS:
            raise BadInput(f"ur: gripper {self.gripper!r} is unknown{nearest(self.gripper, GRIPPERS)}")
        self.settings(0.002)

    def settings(self, dt: float) -> ServoSettings:
        """For the period of a controller [s]."""
        return ServoSettings(
            self.space,
            dt,
            self.joint_speed,
            self.tcp_speed,
            self.turn_speed,
            self.target_timeout,
            lookahead=self.lookahead,
            gain=self.gain,
        )


Connect = Callable[[str], tuple[Control, Receive]]
"""Host -> interfaces."""


def rtde(host: str) -> tuple[Control, Receive]:
    """ur-rtde's interfaces to a controller.

    Raises:
        MissingExtra: it is not installed. RobotFault: the controller does not answer, or is not in remote control.
    """
    try:
        from rtde_control import RTDEControlInterface
        from rtde_receive import RTDEReceiveInterface
    except ImportError as error:
        raise MissingExtra(f"ur: needs ur-rtde ({error}); pip install 'steer-agents[ur]'.") from None
    try:
        receive = RTDEReceiveInterface(host)
        return RTDEControlInterface(host), receive
    except RuntimeError as error:
        raise RobotFault(
            f"ur: no connection to the controller at {host} ({error}); check the address, power the arm on, switch it to remote control."
        ) from None


class UR(Robot):
    """See the module's docstring.

    Args:
        config: settings.
        connect_to: makes the interfaces; ur-rtde's unless a test gives its own.
        threaded: step the inner loop in a thread of its own; without, the caller calls `servo.step`.
    """

    config_class = URConfig
    name = "ur"

    def __init__(self, config: URConfig, connect_to: Connect = rtde, threaded: bool = True) -> None:
        super().__init__(config)
        from lerobot.cameras.utils import make_cameras_from_configs

        self.config, self._connect_to, self._threaded = config, connect_to, threaded
        self.cameras = make_cameras_from_configs(config.cameras)
        self.servo: Servo | None = None
        self._control: Control | None = None
        self._receive: Receive | None = None
        self._gripper: Robotiq | None = None
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        gripper = {GRIPPER: float} if self.config.gripper != "none" else {}
        cameras = {name: (camera.height, camera.width, 3) for name, camera in self.cameras.items()}
        return {**dict.fromkeys([*JOINTS, *POSE, FORCE], float), **gripper, **cameras}

    @cached_property
    def action_features(self) -> dict[str, Any]:
        names = JOINTS if self.config.space == "joints" else POSE
        return dict.fromkeys([*names, GRIPPER] if self.config.gripper != "none" else names, float)

    @property
    def is_connected(self) -> bool:
        """Between `connect` and `disconnect`; whether the arm may move is another question (`RobotFault`)."""
        return self.servo is not None

    @property
    def is_calibrated(self) -> bool:
        """Always: the controller knows its joints."""
        return True

    def calibrate(self) -> None:
        """Nothing to do."""

    def configure(self) -> None:
        """Nothing to do: payload and tool are set at the pendant."""

    def connect(self, calibrate: bool = True) -> None:
        """Reach controller, gripper and cameras, and start the inner loop; the arm does not move.

        Raises:
            RobotFault: it cannot be reached, or may not move. MissingExtra: ur-rtde is not installed.
        """
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is already connected.")
        try:
            self._control, self._receive = self._connect_to(self.config.host)
            if (fault := safety_fault(self._control, self._receive)) is not None:
                raise RobotFault(f"ur: {fault}.")
            self._control.setWatchdog(WATCHDOG_HZ)
            if self.config.gripper == "robotiq":
                self._gripper = Robotiq(self.config.host)
            for camera in self.cameras.values():
                camera.connect()
            self.servo = Servo(self._control, self._receive, self.config.settings(self._control.getStepTime()))
        except BaseException:
            self._release()
            raise
        if self._threaded:
            self._stopping.clear()
            self._thread = threading.Thread(
                target=self._run, args=(self.servo, self._control), name="ur servo", daemon=True
            )
            self._thread.start()

    def get_observation(self) -> dict[str, Any]:
        """Joints [rad], tool pose [m, rad], force at the tool [N], gripper, pictures.

        Raises:
            RobotFault: the arm has stopped itself, or cannot be reached.
        """
        self._check()
        assert self._receive is not None
        force = float(np.linalg.norm(self._receive.getActualTCPForce()[:3]))
        observation: dict[str, Any] = {
            **dict(zip(JOINTS, map(float, self._receive.getActualQ()), strict=True)),
            **dict(zip(POSE, map(float, self._receive.getActualTCPPose()), strict=True)),
            FORCE: force,
        }
        if self._gripper is not None:
            observation[GRIPPER] = self._gripper.position()
        return observation | {name: camera.read_latest() for name, camera in self.cameras.items()}

    def send_action(self, action: Mapping[str, float]) -> dict[str, float]:
        """Aim at an absolute target; the arm follows within its speeds.

        Returns:
            the target.
        Raises:
            BadInput: other names than `action_features`, or numbers that are not finite. RobotFault: see `get_observation`.
        """
        self._check()
        assert self.servo is not None
        for name in action.keys() ^ self.action_features.keys():
            raise BadInput(f"ur: action {name!r} is missing or unknown{nearest(name, self.action_features)}")
        target = checked_target([action[name] for name in self.action_features if name != GRIPPER])
        if self._gripper is not None:
            self._gripper.move(float(action[GRIPPER]))
        self.servo.aim(target)
        return {name: float(action[name]) for name in self.action_features}

    def disconnect(self) -> None:
        """Stop the arm, then let go of it."""
        if not self.is_connected:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect().")
        self._release()

    def _check(self) -> None:
        if self.servo is None:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect().")
        if self.servo.fault is not None:
            raise RobotFault(f"ur: {self.servo.fault}.")

    def _run(self, servo: Servo, control: Control) -> None:
        """The inner loop, until `disconnect` or a fault."""
        while not self._stopping.is_set() and servo.fault is None:
            try:
                start = control.initPeriod()
                servo.step()
                control.waitPeriod(start)
            except Exception as error:  # of the period: the connection is gone, which the next step finds out
                _LOG.debug("ur: %s", error)
        if servo.fault is not None:
            _LOG.error("UR STOPPED: %s", servo.fault)

    def _release(self) -> None:
        """Undo `connect`, as far as it came; a part that fails does not keep the others from being released."""
        self._stopping.set()
        if self._thread is not None:
            self._thread.join()
        if self.servo is not None:
            self.servo.rest()
            self.servo.step()
        parts: list[Callable[[], Any]] = []
        if self._control is not None:
            parts += [self._control.stopScript, self._control.disconnect]
        if self._receive is not None:
            parts.append(self._receive.disconnect)
        if self._gripper is not None:
            parts.append(self._gripper.close)
        parts += [camera.disconnect for camera in self.cameras.values() if camera.is_connected]
        self._thread = self.servo = self._control = self._receive = self._gripper = None
        for part in parts:
            try:
                part()
            except Exception as error:
                _LOG.warning("ur: while letting go: %s", error)
