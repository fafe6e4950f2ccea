"""The tabletop's arm behind a servo, as a robot's own electronics drive it: targets come in at `fps`, physics runs on.

    targets (x, y, z, rotation, opening) ─► joint angles ─► quadratic B-spline over the last three ─► feed-forward servo ─► MuJoCo

The spline starts a segment every period. Its speed is a mean of two successive differences of targets and its acceleration is their
difference, so limits that hold for the targets hold for the setpoint at every physics step, exactly; it runs one to two periods
behind. A target that does not come in time is replaced by the last one: the arm then stops by itself within two periods.

Differences from `TabletopEnv.step`: absolute targets instead of deltas, a setpoint that moves instead of jumping, and feed-forward
of speed and inertia instead of a lag of 50 ms.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import mujoco
import numpy as np

from envs.tabletop.arm import FINGER_RANGE, N_JOINTS, SQUEEZE
from envs.tabletop.control import Controller, rotation, rotation_vector
from envs.tabletop.env import TabletopEnv
from envs.tabletop.observations import ENVIRONMENT_STATE, PIXELS
from envs.tabletop.scene import N_SUBSTEPS, TIMESTEP
from policies.errors import BadInput

ACTIONS = ("ee.x", "ee.y", "ee.z", "ee.wx", "ee.wy", "ee.wz", "ee.gripper_pos")
"""Absolute targets: tcp position [m], axis-angle from the home orientation [rad], opening of the gripper [m]."""
OPEN, SHUT = 2 * FINGER_RANGE, 2 * SQUEEZE
"""Openings [m]; below 0 squeezes, 600 N per metre and finger, at most 30 N."""
FINGERS = ("finger_left.pos", "finger_right.pos")
FORCE = "gripper.force"
HOME_MAT = np.diag([1.0, -1.0, -1.0])
_BACKLOG = 60
"""Targets that wait. They come in a burst where the arm's process was held up, which then catches up; to drop one would be a jump."""


class SimArm:
    """One arm in one task, stepped by whoever holds it.

    Args:
        task: of the tabletop.
        obs_type: "state" or "pixels_agent_pos".
        camera_size: of the pictures [pixels].
        fps: targets per second; a period must be a whole number of physics steps.
    Raises:
        BadInput: an fps whose period is none.
    """

    def __init__(self, task: str, obs_type: str = "state", camera_size: int = 128, fps: int = 30) -> None:
        self.steps = round(1 / (fps * TIMESTEP)) if fps > 0 else 0
        if self.steps < 1 or abs(self.steps * TIMESTEP * fps - 1) > 1e-9:
            good = [rate for rate in range(1, 241) if 240 % rate == 0]
            raise BadInput(f"fps={fps}: a period must be a whole number of physics steps of 1/240 s; allowed: {good}.")
        self.period = self.steps * TIMESTEP
        self.env = TabletopEnv(task, obs_type=obs_type, camera_size=camera_size)
        self._servo = Controller()
        self.reset(0)

    def reset(self, seed: int, init_state_id: int | None = None) -> Mapping[str, Any]:
        """Begin an episode; returns what the environment's reset says (the instruction among it)."""
        options = {} if init_state_id is None else {"init_state_id": init_state_id}
        _, info = self.env.reset(seed=seed, options=options)
        world = self.env.world
        model = world.model
        self._servo.reset(world.data.qpos[:N_JOINTS])
        here = np.array([self.position()[name] for name in ACTIONS])
        here[:3] = self._servo.target
        point = self._point(here)
        self._points = [point, point, point]
        self._queue: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._phase, self._wait, self._since = 0, 0, 0
        self._gain = model.actuator_gainprm[:N_JOINTS, 0].copy()
        self._lag = (-model.actuator_biasprm[:N_JOINTS, 2] + model.dof_damping[:N_JOINTS]) / self._gain
        self._rate, self._torque = np.zeros(model.nv), np.zeros(model.nv)
        self.time, self.late, self.overrun = 0.0, 0, 0
        self._rows: list[np.ndarray] = []
        self._before = world.tcp.copy()
        return info

    def command(self, target: Sequence[float] | np.ndarray, instead: bool = False) -> None:
        """Queue a target, (7,) in the order of `ACTIONS`; the next segment of the spline takes it.

        Args:
            instead: of all that still wait.
        Raises:
            BadInput: it is not seven finite numbers.
        """
        row = np.asarray(target, dtype=float)
        if row.shape != (len(ACTIONS),) or not np.isfinite(row).all():
            raise BadInput(f"sim arm: expected {len(ACTIONS)} finite numbers {list(ACTIONS)}, got {row.tolist()}.")
        if instead:
            self._queue.clear()
        last = self._queue[-1][0] if self._queue else None
        if last is not None and np.array_equal(row, last):
            return  # a backlog is shed where it does not matter
        if len(self._queue) == _BACKLOG:
            self._queue.popleft()
            self.overrun += 1
        if self._idle and not self._queue:
            self._wait = 1
        self._queue.append(self._point(row))
        controller = self.env.controller
        controller.target, controller.target_mat = row[:3].copy(), rotation(row[3:6]) @ HOME_MAT
        controller.closing = bool(row[6] < OPEN / 4)

    @property
    def rows(self) -> int:
        """Physics steps since the reset."""
        return len(self._rows)

    @property
    def _idle(self) -> bool:
        first, second, third = self._points
        return self._phase == 0 and np.array_equal(first[0], second[0]) and np.array_equal(second[0], third[0])

    def _point(self, row: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """A target and its (9,) joint angles and finger travels."""
        servo = self._servo
        servo.target, servo.target_mat = row[:3].copy(), rotation(row[3:6]) @ HOME_MAT
        joints = servo.command(np.zeros(7), servo.target, servo.target_mat)
        joints[N_JOINTS:] = min(max(row[6] / 2, SQUEEZE), FINGER_RANGE)
        return row.copy(), joints

    def step(self, immediately: bool = False) -> None:
        """One physics step. `immediately` starts a segment without the pause that absorbs jitter (lockstep)."""
        if self._phase == 0:
            self._next_segment(immediately)
        u, period = (self._phase + 1) / self.steps, self.period
        first, second, third = self._points
        weights = (1 - u) ** 2 / 2, 0.5 + u - u * u, u * u / 2
        setpoint = weights[0] * first[0] + weights[1] * second[0] + weights[2] * third[0]
        joints = weights[0] * first[1] + weights[1] * second[1] + weights[2] * third[1]
        back, forth = (second[1] - first[1]) / period, (third[1] - second[1]) / period
        speed, push = (back * (1 - u) + forth * u)[:N_JOINTS], ((forth - back) / period)[:N_JOINTS]
        world = self.env.world
        model, data = world.model, world.data
        self._rate[:N_JOINTS] = push
        mujoco.mj_mulM(model, data, self._torque, self._rate)
        data.ctrl[:N_JOINTS] = joints[:N_JOINTS] + self._lag * speed + self._torque[:N_JOINTS] / self._gain
        data.ctrl[N_JOINTS : N_JOINTS + 2] = joints[N_JOINTS:]
        mujoco.mj_step(model, data)
        self._phase = (self._phase + 1) % self.steps
        self.time += TIMESTEP
        self._since += 1
        tcp = world.tcp
        moved = (tcp - self._before) / TIMESTEP
        self._before = tcp.copy()
        force = sum(abs(float(f)) for f in data.actuator_force[N_JOINTS : N_JOINTS + 2]) / 2
        self._rows.append(np.array([self.time, time.monotonic(), *setpoint, *tcp, *moved, force]))
        if self._since == N_SUBSTEPS:
            self._since = 0
            self.env.notice()

    def _next_segment(self, immediately: bool) -> None:
        if self._wait and not immediately:
            self._wait -= 1
            return
        if self._queue:
            self._points = [*self._points[1:], self._queue.popleft()]
        else:
            self.late += not self._idle
            self._points = [*self._points[1:], self._points[2]]

    def run(self, seconds: float) -> None:
        """Step for a time, in lockstep."""
        for _ in range(round(seconds / TIMESTEP)):
            self.step(immediately=True)

    # ----------------------------------------------------------------------------------------------------- what it says

    def position(self) -> dict[str, float]:
        """Where the arm is, in the names of its actions."""
        world = self.env.world
        turn = rotation_vector(world.tcp_mat @ HOME_MAT)
        left, right = world.finger_travel
        return dict(zip(ACTIONS, (*map(float, world.tcp), *map(float, turn), left + right), strict=True))

    def observe(self) -> dict[str, Any]:
        """Position, finger travels [m], gripper force [N], and the environment's state or pictures."""
        found: dict[str, Any] = self.position()
        found |= dict(zip(FINGERS, self.env.world.finger_travel, strict=True))
        force = self.env.world.data.actuator_force[N_JOINTS : N_JOINTS + 2]
        found[FORCE] = float(np.abs(force).sum() / 2)
        seen, _ = self.env.look()
        if ENVIRONMENT_STATE in seen:
            found[ENVIRONMENT_STATE] = seen[ENVIRONMENT_STATE]
        return found | seen.get(PIXELS, {})

    def info(self) -> dict[str, Any]:
        """What the environment says of itself now: success, stage, forces."""
        return self.env.look()[1]

    def trace(self) -> dict[str, np.ndarray]:
        """What the actuator did, one row per physics step since the reset.

        Returns:
            time, wall: (N,) simulated and monotonic [s]; setpoint: (N, 7) that the servo followed, in the order of `ACTIONS`;
            tcp: (N, 3) [m] and velocity: (N, 3) [m/s] of the tool; gripper_force: (N,) [N].
        """
        rows = np.array(self._rows).reshape(-1, 16)
        return {
            "time": rows[:, 0], "wall": rows[:, 1], "setpoint": rows[:, 2:9], "tcp": rows[:, 9:12], "velocity": rows[:, 12:15],
            "gripper_force": rows[:, 15],
        }  # fmt: skip

    def close(self) -> None:
        """Free what drawing needed."""
        self.env.close()
