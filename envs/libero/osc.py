"""robosuite's operational space controller and gripper for one simulation step, in a fifth of its time.

Khatib 1987, as robosuite 1.4's OSC_POSE computes it (fixed gains, position and orientation decoupled, no interpolation);
`reset` and the goals
stay robosuite's own. With J the Jacobian of the hand (position rows p, orientation rows o), M the arm's mass matrix and e the errors:

    tau = J_p^T L_p (kp e_p - kd v_p) + J_o^T L_o (kp e_o - kd v_o) + bias + N^T M (10 (q0 - q) - 2 sqrt(10) dq)
    L_x = (J_x M^-1 J_x^T)^-1,   N = I - M^-1 J^T (J M^-1 J^T)^-1 J

Difference: inverses instead of pseudo-inverses, which are the same away from singular arms. A test compares both.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import mujoco
import numpy as np
from scipy.linalg.lapack import dposv  # several times faster than numpy's on matrices this small

_JOINT_KP = 10.0
_JOINT_KD = 2 * math.sqrt(_JOINT_KP)


def torques(
    jacobian: np.ndarray, mass: np.ndarray, wrench: np.ndarray, bias: np.ndarray, away: np.ndarray, dq: np.ndarray
) -> np.ndarray:
    """The n joint torques of the formula above, before they are clipped.

    Args:
        jacobian: (6, n), position rows first; mass: (n, n).
        wrench: (6,) kp e - kd v; bias: (n,) gravity and Coriolis.
        away: (n,) q0 - q; dq: (n,) joint velocities.
    """
    weighed = dposv(mass, jacobian.T)[1]  # M^-1 J^T, (n, 6)
    inertia = jacobian @ weighed
    force = np.empty(6)
    force[:3] = dposv(inertia[:3, :3], wrench[:3])[1]
    force[3:] = dposv(inertia[3:, 3:], wrench[3:])[1]
    pose = mass @ (_JOINT_KP * away - _JOINT_KD * dq)
    found: np.ndarray = jacobian.T @ (force - dposv(inertia, weighed.T @ pose)[1]) + bias + pose
    return found


def orientation_error(desired: np.ndarray, current: np.ndarray) -> np.ndarray:
    """(3,) half the sum of the cross products of both matrices' columns [about rad]."""
    skew = desired @ current.T
    return 0.5 * np.array([skew[2, 1] - skew[1, 2], skew[0, 2] - skew[2, 0], skew[1, 0] - skew[0, 1]])


class ArmLoop:
    """Runs a control step of robosuite's environment with one Panda: 25 simulation steps, the dynamics solved once in each.

    Args:
        env: robosuite's environment, after its first reset.
    """

    def __init__(self, env: Any) -> None:
        self._env, self._robot = env, env.robots[0]
        sim = env.sim
        self._model, self._data = sim.model._model, sim.data._data
        robot, gripper = self._robot, self._robot.gripper
        self._dofs, self._joints = _slice(robot._ref_joint_vel_indexes), _slice(robot._ref_joint_pos_indexes)
        self._motors = _slice(robot._ref_joint_actuator_indexes)
        self._site = sim.model.site_name2id(robot.controller.eef_name)
        self._low, self._high = robot.torque_limits
        self._fingers = np.array([sim.model.actuator_name2id(name) for name in gripper.actuators])
        limits = sim.model.actuator_ctrlrange[self._fingers]
        self._middle, self._half = limits.mean(axis=1), (limits[:, 1] - limits[:, 0]) / 2
        self._steps = round(env.control_timestep / env.model_timestep)
        nv = self._model.nv
        self._moves, self._turns, self._mass = np.zeros((3, nv)), np.zeros((3, nv)), np.zeros((nv, nv))

    def run(self, action: np.ndarray) -> None:
        """One control step; `action` is (7,) in [-1, 1]."""
        sim, controller, gripper = self._env.sim, self._robot.controller, self._robot.gripper
        for number in range(self._steps):
            mujoco.mj_step1(self._model, self._data)
            if number == 0:
                sim.forward = _done_already
                try:
                    controller.set_goal(action[:6])
                finally:
                    del sim.forward
                controller.new_update = (
                    True  # the goal of the next control step is measured from where the hand is then
                )
            self._data.ctrl[self._motors] = np.clip(self._torques(controller), self._low, self._high)
            self._data.ctrl[self._fingers] = self._middle + self._half * gripper.format_action(action[6:])
            mujoco.mj_step2(self._model, self._data)
        mujoco.mj_forward(self._model, self._data)
        self._env._post_process()

    def _torques(self, controller: Any) -> np.ndarray:
        model, data, dofs = self._model, self._data, self._dofs
        mujoco.mj_jacSite(model, data, self._moves, self._turns, self._site)
        mujoco.mj_fullM(model, self._mass, data.qM)
        jacobian = np.concatenate([self._moves[:, dofs], self._turns[:, dofs]])
        dq = data.qvel[dofs]
        errors = np.empty(6)
        errors[:3] = controller.goal_pos - data.site_xpos[self._site]
        errors[3:] = orientation_error(controller.goal_ori, data.site_xmat[self._site].reshape(3, 3))
        wrench = controller.kp * errors - controller.kd * (jacobian @ dq)
        mass = self._mass[dofs, dofs]
        return torques(
            jacobian, mass, wrench, data.qfrc_bias[dofs], controller.initial_joint - data.qpos[self._joints], dq
        )


def _slice(indexes: Sequence[int]) -> slice:
    """The arm's entries follow one another, in MuJoCo's arrays: views instead of copies."""
    first, last = int(indexes[0]), int(indexes[-1])
    assert list(indexes) == list(range(first, last + 1))
    return slice(first, last + 1)


def _done_already() -> None:
    """In place of robosuite's `sim.forward`: mj_step1 has just computed what the controller reads."""
