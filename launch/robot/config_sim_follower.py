"""How LeRobot configures the simulated arm: `--robot.type=sim_follower`. LeRobot finds the robot of a `config_x` module in `x`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from lerobot.robots import RobotConfig

from envs.tabletop.scene import CONTROL_DT
from envs.tabletop.tasks import TASKS
from policies.errors import BadInput, nearest

_OBS_TYPES = ("state", "pixels_agent_pos")
_ACTIONS = ("targets", "deltas")
DELTA_FPS = round(1 / CONTROL_DT)
"""Deltas a second: what the tabletop's policies are trained at."""


@RobotConfig.register_subclass("sim_follower")
@dataclass(kw_only=True)
class SimFollowerConfig(RobotConfig):
    """The simulated arm as LeRobot configures it.

    Args:
        task: of the tabletop; seed: of its initial state; init_state_id: one of the 50 fixed ones instead.
        actions: "targets", what `deploy` sends from behind its gate; or "deltas", the tabletop's own actions 20 times a second, for
            LeRobot's own tools (see `sim_follower`).
        obs_type: "state" or "pixels_agent_pos"; camera_size: of the pictures [pixels].
        fps: targets per second.
        real_time: a process with a clock of its own; otherwise every action sent is one period.
        trace: .npz that is left when it disconnects, in real time whoever ended (see `SimArm.trace`).
    """

    task: str = "PutBowlOnPlate"
    seed: int = 0
    init_state_id: int | None = None
    actions: str = "targets"
    obs_type: str = "state"
    camera_size: int = 128
    fps: int = 30
    real_time: bool = True
    trace: Path | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.task not in TASKS:
            raise BadInput(f"sim_follower: task {self.task!r} is unknown{nearest(self.task, TASKS)}")
        if self.obs_type not in _OBS_TYPES:
            raise BadInput(f"sim_follower: obs_type={self.obs_type!r} is unknown{nearest(self.obs_type, _OBS_TYPES)}")
        if self.actions not in _ACTIONS:
            raise BadInput(f"sim_follower: actions={self.actions!r} is unknown{nearest(self.actions, _ACTIONS)}")
        if self.actions == "deltas" and (self.fps != DELTA_FPS or self.obs_type != "pixels_agent_pos"):
            raise BadInput(
                f"sim_follower: deltas are made for fps={DELTA_FPS} and obs_type='pixels_agent_pos', got fps={self.fps} and "
                f"obs_type={self.obs_type!r}; give --robot.fps={DELTA_FPS} --robot.obs_type=pixels_agent_pos (and the same --fps to the "
                "tool that drives it)."
            )
