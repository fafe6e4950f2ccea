"""The simulated arm's own process: physics in real time, messages between its steps. Imports nothing of LeRobot, so that it starts fast."""

from __future__ import annotations

import io
import signal
import time
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from envs.tabletop.scene import TIMESTEP
from launch.robot.sim_arm import SimArm
from launch.robot.wire import pack, unpack
from steer_agents.runs import write_bytes

SLIP = 1.0
"""Simulated time that lags behind on a busy machine is caught up, faster than real time; what is more than this [s] slips."""
REST = 0.5
"""How long it goes on after nobody holds the other end [s]: it comes to rest by itself."""


def live(
    pipe: Connection, task: str, obs_type: str, camera_size: int, fps: int, seed: int, init_state_id: int | None, trace: Path | None
) -> None:  # fmt: skip
    """The arm's process: physics in real time, messages between its steps."""
    signal.signal(
        signal.SIGINT, signal.SIG_IGN
    )  # Ctrl-C is for the control process, which stops the arm before it lets go
    arm = SimArm(task, obs_type, camera_size, fps)
    info = arm.reset(seed, init_state_id)
    due, left = time.monotonic(), None
    while left is None or left > 0:
        due += TIMESTEP
        late = time.monotonic() - due
        if late > SLIP:  # the process was as good as stopped: simulated time slips
            due += late
        while left is None and (pause := due - time.monotonic()) > 0:
            try:
                if pipe.poll(pause):
                    _answer(pipe, arm, info)
            except (EOFError, OSError):
                left = round(REST / TIMESTEP)  # nobody holds the other end: come to rest
        if left is None:
            try:
                while pipe.poll(0):
                    _answer(pipe, arm, info)
            except (EOFError, OSError):
                left = round(REST / TIMESTEP)
        arm.step()
        if left is not None:
            left -= 1
    if trace is not None:
        save_trace(arm, trace)
    arm.close()


def save_trace(arm: SimArm, path: Path) -> None:
    """Write what the actuator did, see `SimArm.trace`."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, allow_pickle=False, **arm.trace())
    write_bytes(path, buffer.getvalue())


def _answer(pipe: Connection, arm: SimArm, info: Mapping[str, Any]) -> None:
    kind, fields = unpack(pipe.recv_bytes())
    if kind == "command":
        arm.command(fields["row"], fields.get("instead", False))
        return
    found: Mapping[str, Any]
    if kind == "observe":
        found = arm.observe()
    elif kind == "trace":
        found = arm.trace()
    else:
        found = info if kind == "info" else arm.info()
        found = {name: value for name, value in found.items() if isinstance(value, str | int | float | bool)}
    pipe.send_bytes(pack(kind, found))
