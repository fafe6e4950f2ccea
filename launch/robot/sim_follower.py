"""A LeRobot robot backed by the tabletop: `--robot.type=sim_follower`, for tests and rehearsal.

In real time the arm lives in a process of its own, with its own clock, as the electronics of an arm do: it goes on when the control
process is late, stalls or dies (and then stops by itself, see `sim_arm`). In lockstep (`real_time=False`) it lives in this
process, and every action that is sent is one period of simulated time.

It speaks in one of two ways, by `actions`:

    targets   ee.x ee.y ee.z ee.wx ee.wy ee.wz ee.gripper_pos      absolute; what the gate of `deploy` sends
    deltas    x.vel y.vel z.vel rotation_x.vel ... gripper.vel     the tabletop's actions in [-1, 1], integrated by `TabletopDeltas`

LeRobot's own tools hand on only what is called `.pos` or `.vel`, and adapt nothing: with deltas their `observation.state` is the
tabletop's `agent_pos`, their `action` its action, so that a policy trained on its demonstrations flies as it is. No gate stands before it.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping
from functools import cached_property
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from lerobot.robots import Robot
from lerobot.utils.errors import DeviceAlreadyConnectedError, DeviceNotConnectedError

from envs.tabletop.observations import N_ENVIRONMENT_STATE
from envs.tabletop.scene import CAMERAS
from launch.robot.actions import TabletopDeltas
from launch.robot.config_sim_follower import SimFollowerConfig
from launch.robot.sim_arm import ACTIONS, FINGERS, FORCE, SimArm
from launch.robot.sim_process import live, save_trace
from launch.robot.wire import pack, unpack
from policies.errors import BadInput

_ANSWER, _START = 0.5, 180.0
DELTAS = tuple(f"{name}.vel" for name in ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper"))
POSE = tuple(name.replace(".vel", ".pos") for name in DELTAS[:6])
STATE = (*POSE, *FINGERS)
"""`agent_pos` by name: position [m], axis-angle from the home orientation [rad], travel of both fingers [m]."""


class SimFollower(Robot):
    """The robot. Actions: `sim_arm.ACTIONS`, absolute. Observation: the same names as measured, `finger_left.pos`, `finger_right.pos` [m],
    `gripper.force` [N], and `environment_state` or the pictures `image`, `image2`. With deltas: `DELTAS`; and `STATE`, force, pictures."""

    config_class = SimFollowerConfig
    name = "sim_follower"
    simulated = True
    """Nobody can be hurt: `deploy` asks for no confirmation."""

    def __init__(self, config: SimFollowerConfig) -> None:
        super().__init__(config)
        self.config = config
        self._arm: SimArm | None = None
        self._process: Any = None
        self._pipe: Connection | None = None
        self.info: Mapping[str, Any] = {}

    @cached_property
    def observation_features(self) -> dict[str, Any]:
        numbers = STATE if self._deltas else (*ACTIONS, *FINGERS)
        features: dict[str, Any] = dict.fromkeys((*numbers, FORCE), float)
        if self.config.obs_type == "state":
            return features | {"environment_state": (N_ENVIRONMENT_STATE,)}
        return features | dict.fromkeys(CAMERAS, (self.config.camera_size, self.config.camera_size, 3))

    @cached_property
    def action_features(self) -> dict[str, Any]:
        return dict.fromkeys(DELTAS if self._deltas else ACTIONS, float)

    @property
    def _deltas(self) -> bool:
        return self.config.actions == "deltas"

    @property
    def arm(self) -> SimArm:
        """The arm itself, in lockstep."""
        if self._arm is None:
            raise DeviceNotConnectedError(
                f"{self}: only a connected robot in lockstep (real_time=False) has its arm here."
            )
        return self._arm

    @property
    def is_connected(self) -> bool:
        return self._arm is not None or self._pipe is not None

    @property
    def is_calibrated(self) -> bool:
        return True

    def calibrate(self) -> None:
        """Nothing to calibrate."""

    def configure(self) -> None:
        """Nothing to configure."""

    def connect(self, calibrate: bool = True) -> None:
        """Begin an episode; `info` is what the environment says of it."""
        if self.is_connected:
            raise DeviceAlreadyConnectedError(f"{self} is already connected.")
        config = self.config
        self._target: np.ndarray | None = None
        if not config.real_time:
            self._arm = SimArm(config.task, config.obs_type, config.camera_size, config.fps)
            self.info = self._arm.reset(config.seed, config.init_state_id)
            return
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        settings = (
            config.task,
            config.obs_type,
            config.camera_size,
            config.fps,
            config.seed,
            config.init_state_id,
            config.trace,
        )
        self._process = context.Process(target=live, args=(theirs, *settings), name="sim_follower", daemon=True)
        self._process.start()
        theirs.close()
        self.info = self._ask("info", timeout=_START)

    def get_observation(self) -> dict[str, Any]:
        """See `Robot.get_observation`.

        Raises:
            ConnectionError: the arm's process does not answer.
        """
        seen = self._look()
        if not self._deltas:
            return seen
        pose = dict(zip(POSE, (seen[name] for name in ACTIONS[:6]), strict=True))
        return pose | {name: value for name, value in seen.items() if name not in ACTIONS}

    def _look(self) -> dict[str, Any]:
        return self._arm.observe() if self._arm is not None else self._ask("observe")

    def send_action(self, action: Mapping[str, Any]) -> dict[str, Any]:
        """See `Robot.send_action`.

        With deltas a whole `STATE` is taken too, as a target instead of those that still wait: LeRobot so brings an arm back when it
        ends, 50 times a second.

        Raises:
            BadInput: names are missing, or numbers not finite.
        """
        names = (STATE if STATE[0] in action else DELTAS) if self._deltas else ACTIONS
        if missing := [name for name in names if name not in action]:
            raise BadInput(f"sim_follower: the action has no {missing}; it takes {list(names)}, got {sorted(action)}.")
        numbers = np.array([float(action[name]) for name in names])
        if not np.isfinite(numbers).all():
            raise BadInput(f"sim_follower: expected finite numbers, got {dict(action)}.")
        self._send(self._row(numbers) if self._deltas else numbers, instead=names == STATE)
        return dict(zip(names, numbers.tolist(), strict=True))

    def _row(self, numbers: np.ndarray) -> np.ndarray:
        """(7,) target of a (7,) delta, from the last target; or of an (8,) state."""
        if len(numbers) == len(STATE):
            self._target = np.append(numbers[:6], numbers[6:].sum())
        else:
            if self._target is None:
                seen = self._look()
                self._target = np.array([seen[name] for name in ACTIONS])
            self._target = TabletopDeltas().targets(numbers[None], self._target)[0]
        return self._target

    def _send(self, row: np.ndarray, instead: bool) -> None:
        if self._arm is not None:
            self._arm.command(row, instead)
            self._arm.run(self._arm.period)
        else:
            self._tell("command", row=row, instead=instead)

    def progress(self) -> dict[str, Any]:
        """What the environment says of itself now: `is_success` and more."""
        if self._arm is not None:
            return {name: value for name, value in self._arm.info().items() if np.isscalar(value)}
        return self._ask("progress")

    def trace(self) -> dict[str, np.ndarray]:
        """What the actuator did, see `SimArm.trace`."""
        return self._arm.trace() if self._arm is not None else self._ask("trace", timeout=5.0)

    def disconnect(self) -> None:
        if not self.is_connected:
            raise DeviceNotConnectedError(f"{self} is not connected.")
        if self._arm is not None:
            if self.config.trace is not None:
                save_trace(self._arm, self.config.trace)
            self._arm.close()
            self._arm = None
            return
        assert self._pipe is not None
        self._pipe.close()  # the arm's process sees that, comes to rest, and leaves its trace
        self._pipe = None
        self._process.join(5.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _tell(self, kind: str, **fields: Any) -> None:
        if self._pipe is None:
            raise DeviceNotConnectedError(f"{self} is not connected; call connect first.")
        try:
            self._pipe.send_bytes(pack(kind, fields))
        except OSError as error:
            raise ConnectionError(f"sim_follower: the arm's process is gone ({error}).") from None

    def _ask(self, kind: str, timeout: float = _ANSWER) -> dict[str, Any]:
        self._tell(kind)
        assert self._pipe is not None
        try:
            while self._pipe.poll(timeout):
                answered, fields = unpack(self._pipe.recv_bytes())
                if answered == kind:  # one that comes after its time is passed over
                    return fields
        except (EOFError, OSError) as error:
            raise ConnectionError(f"sim_follower: the arm's process is gone ({type(error).__name__}).") from None
        raise ConnectionError(f"sim_follower: no answer to {kind!r} within {timeout:g} s.")
