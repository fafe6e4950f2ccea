# ruff: noqa: N802 (the names are ur-rtde's)
"""The arm against a simulated controller with ur-rtde's methods: it follows, within its speeds, and stops when it has to."""

from __future__ import annotations

import math
import socketserver
import sys
import tempfile
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from launch.robot.robotiq import Robotiq
from launch.robot.ur_servo import Control, Receive, Servo, ServoSettings, safety_fault, toward
from policies.errors import BadInput, MissingExtra, NonFinite, RobotFault

pytest.importorskip("lerobot")
HOME = [0.0, -1.5, 1.5, -1.6, -1.6, 0.0]


class Controller:
    """A controller and both its interfaces: the arm is where the last set-point sent it; refuses what a real one refuses."""

    def __init__(self) -> None:
        self.q, self.pose = np.array(HOME), np.array([0.4, 0.1, 0.3, 0.0, math.pi, 0.0])
        self.connected, self.running, self.protective, self.emergency = True, True, False, False
        self.safety_mode, self.robot_mode = 1, 7
        self.path: list[np.ndarray] = []
        self.calls: list[str] = []
        self.watchdog, self.threads = 0.0, set[int]()
        self.period = threading.Event()

    def isConnected(self) -> bool:
        return self.connected

    def isProgramRunning(self) -> bool:
        return self.running

    def getStepTime(self) -> float:
        return 0.008

    def setWatchdog(self, min_frequency: float) -> bool:
        self.watchdog = min_frequency
        return True

    def kickWatchdog(self) -> bool:
        self._speak()
        return True

    def servoJ(self, q: Sequence[float], v: float, a: float, t: float, lookahead: float, gain: float, /) -> bool:
        return self._servo("q", q, t)

    def servoL(self, p: Sequence[float], v: float, a: float, t: float, lookahead: float, gain: float, /) -> bool:
        return self._servo("pose", p, t)

    def _servo(self, what: str, values: Sequence[float], t: float) -> bool:
        self._speak()
        assert t == 0.008
        assert isinstance(values, list)
        if not self.running or self.protective:
            return False
        self.calls.append("servo")
        setattr(self, what, np.array(values))
        self.path.append(np.array(values))
        return True

    def servoStop(self, a: float) -> bool:
        self._speak()
        self.calls.append("servoStop")
        return True

    def stopScript(self) -> None:
        self.calls.append("stopScript")

    def _speak(self) -> None:
        self.threads.add(threading.get_ident())
        if not self.connected:
            raise RuntimeError("socket closed")

    def initPeriod(self) -> float:
        return 0.0

    def waitPeriod(self, start: float) -> None:
        self.period.wait(0.001)

    def disconnect(self) -> None:
        self.calls.append("disconnect")

    def isProtectiveStopped(self) -> bool:
        return self.protective

    def isEmergencyStopped(self) -> bool:
        return self.emergency

    def getSafetyMode(self) -> int:
        return self.safety_mode

    def getRobotMode(self) -> int:
        return self.robot_mode

    def getActualQ(self) -> list[float]:
        return list(self.q)

    def getActualTCPPose(self) -> list[float]:
        return list(self.pose)

    def getActualTCPForce(self) -> list[float]:
        return [3.0, 0.0, 4.0, 9.0, 9.0, 9.0]


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def arm(controller: Controller, threaded: bool = False, **settings: Any) -> Any:
    from launch.robot.ur import UR, URConfig

    config = URConfig(host="10.0.0.2", calibration_dir=Path(tempfile.gettempdir()) / "steer-agents-ur", **settings)
    return UR(config, lambda host: (controller, controller), threaded=threaded)


def joints(values: Sequence[float]) -> dict[str, float]:
    from launch.robot.ur import JOINTS

    return dict(zip(JOINTS, values, strict=True))


@pytest.fixture
def controller() -> Controller:
    return Controller()


def test_the_arm_follows_a_target_in_steps_of_its_speed_and_arrives_exactly(controller: Controller) -> None:
    robot = arm(controller, joint_speed=0.5)
    robot.connect()
    assert controller.watchdog == 10
    target = np.array(HOME) + np.array([0.1, -0.05, 0, 0, 0.02, 0])
    assert robot.send_action(joints(target)) == joints(target)
    for _ in range(40):
        robot.servo.step()
    path = np.array([HOME, *controller.path])
    assert np.abs(np.diff(path, axis=0)).max() <= 0.5 * 0.008 + 1e-12
    np.testing.assert_array_equal(path[-1], target)
    moved = path[1:20] - HOME
    np.testing.assert_allclose(
        moved / moved[:, :1], np.tile((target - HOME) / 0.1, (19, 1)), atol=1e-9
    )  # a straight line
    observation = robot.get_observation()
    assert observation.keys() == robot.observation_features.keys()
    assert observation["base.pos"] == pytest.approx(0.1)
    assert observation["force"] == 5.0
    robot.disconnect()
    assert controller.calls[-4:] == ["servoStop", "stopScript", "disconnect", "disconnect"]


def test_a_pose_is_reached_the_short_way_round_also_near_half_a_turn() -> None:
    settings = ServoSettings("tcp", 0.008, tcp_speed=0.25, turn_speed=1.0)
    here = np.array([0.4, 0.0, 0.3, *Rotation.from_euler("xyz", [179, 0, 0], degrees=True).as_rotvec()])
    target = np.array([0.4, 0.01, 0.3, *Rotation.from_euler("xyz", [-179, 0, 0], degrees=True).as_rotvec()])
    steps = 0
    while not np.array_equal(here, target):
        there = toward(here, target, settings)
        turned = (Rotation.from_rotvec(there[3:]) * Rotation.from_rotvec(here[3:]).inv()).magnitude()
        assert turned <= 0.008 + 1e-9
        assert np.linalg.norm(there[:3] - here[:3]) <= 0.25 * 0.008 + 1e-12
        here, steps = there, steps + 1
        assert steps < 10  # two degrees, one centimetre; the long way round would take 780


def test_a_target_that_grows_old_stops_the_arm_and_a_new_one_moves_it_again(controller: Controller) -> None:
    clock = Clock()
    servo = Servo(controller, controller, ServoSettings(dt=0.008, target_timeout=0.2), clock)
    servo.step()
    assert controller.calls == []  # nothing was asked, nothing is sent
    servo.aim(np.array(HOME) + 1)
    for _ in range(60):
        servo.step()
        clock.now += 0.008
    assert controller.calls.count("servoStop") == 1
    assert controller.calls[-1] == "servoStop"
    assert 25 <= controller.calls.count("servo") <= 26  # 0.2 s
    assert (servo.moving, servo.stale, servo.fault) == (False, 1, None)
    controller.q = controller.q + 0.01  # it came to rest a little further on
    servo.aim(np.array(HOME) + 1)
    servo.step()
    assert (
        np.abs(controller.path[-1] - (controller.path[-2] + 0.01)).max() <= 0.008 + 1e-12
    )  # from where it is, not where it was sent


FAULTS = [
    ({"protective": True}, "protective stop"),
    ({"safety_mode": 3}, "protective stop"),
    ({"emergency": True, "safety_mode": 7}, "emergency stop is pressed"),
    ({"safety_mode": 5}, "'safeguard stop'"),
    ({"safety_mode": 9}, "'fault'"),
    ({"safety_mode": 77}, "safety mode 77"),
    ({"robot_mode": 5}, "'idle', not 'running'"),
    ({"running": False}, "control script does not run"),
    ({"connected": False}, "connection to the controller is lost"),
]


@pytest.mark.parametrize(("change", "reason"), FAULTS)
def test_every_stop_of_the_arm_is_a_fault_that_says_what_to_do(
    controller: Controller, change: dict[str, Any], reason: str
) -> None:
    robot = arm(controller)
    robot.connect()
    robot.send_action(joints(np.array(HOME) + 0.5))
    robot.servo.step()
    vars(controller).update(change)
    sent = len(controller.path)
    robot.servo.step()
    for use in (robot.get_observation, lambda: robot.send_action(joints(HOME))):
        with pytest.raises(RobotFault, match=reason):
            use()
    vars(controller).update(vars(Controller()) | {"path": controller.path, "calls": controller.calls})
    robot.servo.step()
    assert len(controller.path) == sent  # it does not go on by itself
    with pytest.raises(RobotFault):
        robot.get_observation()
    robot.disconnect()
    robot.connect()
    robot.send_action(joints(HOME))
    robot.servo.step()
    assert len(controller.path) == sent + 1


@pytest.mark.parametrize(("change", "reason"), FAULTS)
def test_an_arm_that_may_not_move_is_refused_when_connecting_and_let_go(
    controller: Controller, change: dict[str, Any], reason: str
) -> None:
    vars(controller).update(change)
    assert reason in (safety_fault(controller, controller) or "")
    robot = arm(controller)
    with pytest.raises(RobotFault, match=reason):
        robot.connect()
    assert not robot.is_connected
    assert "disconnect" in controller.calls
    assert controller.path == []


def test_a_controller_that_raises_or_refuses_in_the_middle_stops_the_arm(controller: Controller) -> None:
    servo = Servo(controller, controller, ServoSettings(dt=0.008))
    servo.aim(np.array(HOME) + 1)
    servo.step()
    controller.servoJ = lambda *given: False  # type: ignore[method-assign]
    servo.step()
    assert servo.fault is not None
    assert "refused a set-point" in servo.fault
    assert controller.calls[-1] == "servoStop"

    def broken() -> list[float]:
        raise RuntimeError("no data")

    servo = Servo(controller, controller, ServoSettings(dt=0.008))
    controller.getActualQ = broken  # type: ignore[method-assign]
    servo.aim(np.array(HOME))
    servo.step()
    assert servo.fault is not None
    assert "RuntimeError: no data" in servo.fault


def test_the_inner_loop_runs_in_one_thread_and_ends_with_the_connection(controller: Controller) -> None:
    robot = arm(controller, threaded=True, target_timeout=1.0)
    robot.connect()
    target = np.array(HOME) + 0.05
    while not np.array_equal(controller.q, target):
        robot.send_action(joints(target))
    assert len(controller.threads) == 1
    assert threading.get_ident() not in controller.threads
    controller.protective = True
    while robot.servo.fault is None:
        controller.period.wait(0.001)
    with pytest.raises(RobotFault, match="protective stop"):
        robot.get_observation()
    robot.disconnect()
    assert not robot.is_connected
    assert not [thread for thread in threading.enumerate() if thread.name == "ur servo"]


@pytest.mark.parametrize(
    ("action", "reason"),
    [
        ({"base.pos": 0.0}, "missing or unknown"),
        (joints(HOME) | {"bas.pos": 0.0}, "did you mean 'base.pos'"),
        (joints([math.nan, *HOME[1:]]), "finite"),
        (joints([math.inf, *HOME[1:]]), "finite"),
    ],
)
def test_bad_actions_are_refused_and_nothing_is_sent(
    controller: Controller, action: dict[str, float], reason: str
) -> None:
    robot = arm(controller)
    robot.connect()
    with pytest.raises(BadInput, match=reason):
        robot.send_action(action)
    robot.servo.step()
    assert controller.path == []


def test_settings_are_checked_and_lerobot_finds_the_arm_by_its_type(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lerobot.robots.config import RobotConfig
    from lerobot.robots.utils import make_robot_from_config
    from lerobot.utils.errors import DeviceNotConnectedError

    from launch.robot.ur import UR, URConfig

    for bad in (
        {"space": "cartesian"},
        {"gripper": "robotic"},
        {"gain": 5.0},
        {"target_timeout": 60.0},
        {"joint_speed": math.nan},
    ):
        with pytest.raises(BadInput):
            URConfig(host="h", **bad)  # type: ignore[arg-type]
    for name in ("ur5", "ur5e"):
        assert RobotConfig.get_choice_class(name) is URConfig
    robot = make_robot_from_config(URConfig(host="10.0.0.2", space="tcp", gripper="robotiq", calibration_dir=tmp_path))
    assert isinstance(robot, UR)
    assert list(robot.action_features) == ["x", "y", "z", "rx", "ry", "rz", "gripper.pos"]
    with pytest.raises(DeviceNotConnectedError):
        robot.get_observation()
    for module in ("rtde_control", "rtde_receive"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtra, match=r"steer-agents\[ur\]"):
        robot.connect()


def test_the_simulated_controller_has_the_methods_of_the_real_interfaces() -> None:
    control, receive = pytest.importorskip("rtde_control"), pytest.importorskip("rtde_receive")
    for protocol, real in ((Control, control.RTDEControlInterface), (Receive, receive.RTDEReceiveInterface)):
        names = [name for name in vars(protocol) if not name.startswith("_")]
        assert len(names) > 8
        assert [
            name for name in names if not callable(getattr(real, name, None)) or not hasattr(Controller, name)
        ] == []


# ---- the gripper


class _Fingers(socketserver.StreamRequestHandler):
    """The registers of a gripper; it needs two questions to become active."""

    def handle(self) -> None:
        registers: dict[str, int] = self.server.registers  # type: ignore[attr-defined]
        for line in self.rfile:
            word, name, *value = line.decode().split()
            if word == "SET":
                registers[name] = int(value[0])
                self.server.sets.append((name, int(value[0])))  # type: ignore[attr-defined]
                self.wfile.write(b"ack")
            elif registers.get("broken"):
                self.wfile.write(b"?")
            else:
                if name == "STA" and registers["ACT"]:
                    registers["STA"] = min(3, registers["STA"] + 1)
                self.wfile.write(f"{name} {registers[name]}".encode())


@pytest.fixture
def fingers() -> Iterator[Any]:
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _Fingers) as server:
        server.registers, server.sets = {"ACT": 0, "STA": 0, "POS": 0, "GTO": 0}, []  # type: ignore[attr-defined]
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_the_gripper_is_activated_moved_when_asked_for_something_new_and_read(fingers: Any) -> None:
    gripper = Robotiq("127.0.0.1", fingers.server_address[1], timeout=10)
    assert fingers.sets == [("ACT", 1), ("GTO", 1)]
    for closed in (1.0, 1.0, 0.5, 7.0, -1.0):
        gripper.move(closed)
    assert fingers.sets[2:] == [("POS", 255), ("POS", 128), ("POS", 255), ("POS", 0)]
    fingers.registers["POS"] = 51
    assert gripper.position() == pytest.approx(0.2)
    with pytest.raises(NonFinite):
        gripper.move(math.nan)
    fingers.registers["broken"] = 1
    with pytest.raises(RobotFault, match="was answered by"):
        gripper.position()
    gripper.close()
    with pytest.raises(RobotFault, match="no answer"):
        gripper.position()


def test_a_gripper_that_is_not_there_is_said() -> None:
    with socketserver.TCPServer(("127.0.0.1", 0), _Fingers) as server:
        port = server.server_address[1]
    with pytest.raises(RobotFault, match="URCap"):
        Robotiq("127.0.0.1", port)


def test_calibration_files_of_lerobot_are_not_needed(controller: Controller, tmp_path: Path) -> None:
    from launch.robot.ur import UR, URConfig

    robot = UR(
        URConfig(host="h", calibration_dir=tmp_path, id="left"), lambda host: (controller, controller), threaded=False
    )
    assert robot.is_calibrated
    assert list(tmp_path.iterdir()) == []
