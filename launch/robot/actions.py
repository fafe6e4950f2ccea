"""Between a robot and a policy: the robot's observation in the policy's names, the policy's actions as absolute targets.

Robots take absolute targets by name (LeRobot's `action_features`). A policy of the tabletop gives deltas, a policy trained on the
robot itself gives targets; each has an adapter that says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from envs.tabletop.control import POSITION_SCALE, ROTATION_SCALE, WORKSPACE, rotation, rotation_vector
from envs.tabletop.observations import AGENT_POS, ENVIRONMENT_STATE, PIXELS
from envs.tabletop.scene import CONTROL_DT
from launch.robot.sim_arm import ACTIONS, FINGERS, OPEN, SHUT
from policies.errors import BadInput


class Adapter(Protocol):
    """What a deployment has to know of robot and policy together.

    Attributes:
        names: the robot's action names, in the order of targets.
        dt: seconds between two actions of the policy.
    """

    names: tuple[str, ...]
    dt: float

    def observe(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """The policy's observation, without a batch axis, from the robot's."""
        ...

    def targets(self, actions: np.ndarray, start: np.ndarray) -> np.ndarray:
        """(H, N) absolute targets from (H, A) actions.

        Args:
            start: (N,) target that held when the observation was made.
        """
        ...


class TabletopDeltas:
    """Seven numbers in [-1, 1] at 20 Hz, as `envs.tabletop.control` defines them, integrated into poses of `ACTIONS`.

    target_k = target_(k-1) + 5 cm x action[:3], kept in the tabletop's workspace; rotations multiply, about the world's axes; the
    gripper is open or shut. Differences from the environment's own controller: deltas add up from the target that was sent
    when the observation was made, and no leash ties the target to where the arm is (the gate limits how fast it goes).
    """

    names: tuple[str, ...] = ACTIONS
    dt: float = CONTROL_DT

    def observe(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """`agent_pos` (8,) and what the robot gives of `environment_state` and pictures.

        Raises:
            BadInput: a name is missing; the robot is not a `sim_follower`, or of another kind.
        """
        try:
            own = [observation[name] for name in (*ACTIONS[:6], *FINGERS)]
        except KeyError as error:
            raise BadInput(
                f"the tabletop's policies need {[*ACTIONS[:6], *FINGERS]}, the observation has no {error}; it gives {sorted(observation)}."
            ) from None
        found: dict[str, Any] = {AGENT_POS: np.array(own, dtype=np.float32)}
        if ENVIRONMENT_STATE in observation:
            found[ENVIRONMENT_STATE] = np.asarray(observation[ENVIRONMENT_STATE], dtype=np.float32)
        if pictures := {name: value for name, value in observation.items() if np.ndim(value) == 3}:
            found[PIXELS] = pictures
        return found

    def targets(self, actions: np.ndarray, start: np.ndarray) -> np.ndarray:
        """See `Adapter`; entries beyond [-1, 1] are clipped, and what is not finite stays so, for the gate to refuse."""
        actions = np.asarray(actions, dtype=float)
        if actions.ndim != 2 or actions.shape[1] != 7:
            raise BadInput(f"the tabletop's actions: expected shape (H, 7), got {actions.shape}.")
        actions = np.clip(actions, -1.0, 1.0)
        found = np.empty((len(actions), len(ACTIONS)))
        position, turn = np.asarray(start[:3], dtype=float), rotation(np.asarray(start[3:6], dtype=float))
        for row, action in zip(found, actions, strict=True):
            if not np.isfinite(action).all():
                row[:] = np.nan
                position = np.full(3, np.nan)
                continue
            position = np.clip(position + POSITION_SCALE * action[:3], *WORKSPACE)
            turn = rotation(ROTATION_SCALE * action[3:6]) @ turn
            row[:3], row[3:6], row[6] = position, rotation_vector(turn), SHUT if action[6] > 0 else OPEN
        return found


class AbsoluteTargets:
    """Actions that are the robot's own targets, in the order of its action names: what policies trained by LeRobot give.

    Args:
        names: the robot's action names.
        state: names of the observation that make up `agent_pos`; the action names if None.
        dt: seconds between two actions, 1 / fps of the data set that the policy was trained on.
    """

    def __init__(self, names: Sequence[str], dt: float, state: Sequence[str] | None = None) -> None:
        if not dt > 0:
            raise BadInput(f"dt must be positive [s], got {dt!r}.")
        self.names, self.dt = tuple(names), float(dt)
        self.state = self.names if state is None else tuple(state)

    def observe(self, observation: Mapping[str, Any]) -> dict[str, Any]:
        """`agent_pos` in the order of `state`, pictures under "pixels"."""
        if missing := [name for name in self.state if name not in observation]:
            raise BadInput(f"the robot's observation has no {missing}; it gives {sorted(observation)}.")
        found: dict[str, Any] = {AGENT_POS: np.array([observation[name] for name in self.state], dtype=np.float32)}
        if pictures := {name: value for name, value in observation.items() if np.ndim(value) == 3}:
            found[PIXELS] = pictures
        return found

    def targets(self, actions: np.ndarray, start: np.ndarray) -> np.ndarray:
        """The actions themselves."""
        actions = np.asarray(actions, dtype=float)
        if actions.ndim != 2 or actions.shape[1] != len(self.names):
            raise BadInput(
                f"expected actions of shape (H, {len(self.names)}) for {list(self.names)}, got {actions.shape}."
            )
        return actions
