"""From 7-D actions to joint targets: a pose that deltas add up to, and damped least squares to reach it.

Action, as LIBERO's OSC_POSE and ManiSkill's pd_ee_delta_pose: x, y, z of one unit = 5 cm; axis-angle about the world's
axes, one unit = 0.5 rad; gripper, above 0 closes, else opens. Difference from LIBERO: deltas add up to a target pose
(kept within 8 cm and 0.6 rad of the real one, and in the workspace) instead of starting from the pose reached, so the
target is part of the state.

Inverse kinematics: dq = J^T (J J^T + lambda^2 I)^-1 e + N k (q_home - q), at most three warm-started iterations
(Nakamura & Hanafusa 1986; Siciliano et al., "Robotics", section 3.5).
"""

from __future__ import annotations

import math

import mujoco
import numpy as np

from envs.tabletop.arm import FINGER_RANGE, HOME, N_JOINTS, SQUEEZE, arm_model

POSITION_SCALE = 0.05
"""Metres per unit of action."""
ROTATION_SCALE = 0.5
"""Radians per unit of action."""
WORKSPACE = np.array([[0.26, -0.36, 0.012], [0.72, 0.36, 0.45]])
"""(2, 3) lowest and highest target of the tcp [m]."""

_LEASH, _TURN_LEASH = 0.08, 0.6
_CLOSE_ENOUGH = 1e-9  # squared error, m^2 and rad^2: 0.03 mm
_ITERATIONS, _DAMPING, _STEP, _PULL = 3, 1e-3, 0.3, 0.03


def rotation(vector: np.ndarray) -> np.ndarray:
    """(3, 3) rotation matrix of an axis-angle vector [rad] (Rodrigues)."""
    angle = math.sqrt(float(vector @ vector))
    if angle < 1e-9:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
    return np.eye(3) + math.sin(angle) * cross + (1 - math.cos(angle)) * (cross @ cross)


def rotation_vector(matrix: np.ndarray) -> np.ndarray:
    """(3,) axis-angle vector of a rotation matrix, of length up to pi [rad]."""
    quat, vector = np.empty(4), np.empty(3)
    mujoco.mju_mat2Quat(quat, matrix.ravel())
    mujoco.mju_quat2Vel(vector, quat, 1.0)
    return vector


class Controller:
    """Target pose and joint targets of one arm.

    Attributes:
        target: (3,) position the tcp should reach [m].
        target_mat: (3, 3) orientation it should reach.
        joints: (7,) last solution of the inverse kinematics [rad].
        closing: the gripper is told to close.
    """

    def __init__(self) -> None:
        self._model = arm_model()
        self._data = mujoco.MjData(self._model)
        self._tcp = self._model.site("tcp").id
        self._q = self._data.qpos
        self._tcp_pos, self._tcp_mat = self._data.site_xpos[self._tcp], self._data.site_xmat[self._tcp].reshape(3, 3)
        self._jac, self._error = np.zeros((6, N_JOINTS)), np.zeros(6)
        self._square, self._solution = np.zeros((6, 6)), np.zeros(6)
        self._limits = np.ascontiguousarray(self._model.jnt_range.T)
        self.reset(HOME)

    def reset(self, joints: np.ndarray) -> None:
        """Start from a posture: the target is the pose it has."""
        self.joints = np.array(joints, dtype=float)
        self._q[:] = self.joints
        mujoco.mj_kinematics(self._model, self._data)
        self.target, self.target_mat = self._tcp_pos.copy(), self._tcp_mat.copy()
        self.closing = False

    def command(self, action: np.ndarray, tcp: np.ndarray, tcp_mat: np.ndarray) -> np.ndarray:
        """Move the target by an action and return joint and finger targets.

        Args:
            action: (7,) in [-1, 1].
            tcp, tcp_mat: (3,) and (3, 3), where the tool is now.
        Returns:
            (9,) seven angles [rad], two finger travels [m].
        """
        target = self.target + POSITION_SCALE * action[:3]
        np.maximum(target, np.maximum(tcp - _LEASH, WORKSPACE[0]), out=target)
        self.target = np.minimum(target, np.minimum(tcp + _LEASH, WORKSPACE[1]))
        if action[3] or action[4] or action[5]:
            turned = rotation(ROTATION_SCALE * action[3:6]) @ self.target_mat
            error = rotation_vector(turned @ tcp_mat.T)
            angle = math.sqrt(float(error @ error))
            if angle > _TURN_LEASH:
                turned = rotation(error * (_TURN_LEASH / angle)) @ tcp_mat
            self.target_mat = turned
        self.closing = bool(action[6] > 0)
        self._solve()
        targets = np.empty(N_JOINTS + 2)
        targets[:N_JOINTS] = self.joints
        targets[N_JOINTS:] = SQUEEZE if self.closing else FINGER_RANGE
        return targets

    def _solve(self) -> None:
        model, data, J, error = self._model, self._data, self._jac, self._error
        q, tcp, mat = self._q, self._tcp_pos, self._tcp_mat
        q[:] = self.joints
        for _ in range(_ITERATIONS):
            mujoco.mj_kinematics(model, data)
            np.subtract(self.target, tcp, out=error[:3])
            # For small angles half the sum of the axes' cross products is the rotation vector.
            skew = self.target_mat @ mat.T
            error[3:] = (skew[2, 1] - skew[1, 2]) / 2, (skew[0, 2] - skew[2, 0]) / 2, (skew[1, 0] - skew[0, 1]) / 2
            if error @ error < _CLOSE_ENOUGH:
                break
            mujoco.mj_comPos(model, data)
            mujoco.mj_jacSite(model, data, J[:3], J[3:], self._tcp)
            pull = _PULL * (HOME - q)
            np.matmul(J, J.T, out=self._square)
            self._square.flat[::7] += _DAMPING**2
            mujoco.mju_cholFactor(self._square, 0.0)
            mujoco.mju_cholSolve(self._solution, self._square, error - J @ pull)
            dq = J.T @ self._solution
            dq += pull
            largest = max(dq.max(), -dq.min())
            q += dq if largest <= _STEP else dq * (_STEP / largest)
            np.maximum(q, self._limits[0], out=q)
            np.minimum(q, self._limits[1], out=q)
        self.joints = q.copy()
