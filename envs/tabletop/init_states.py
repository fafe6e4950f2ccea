"""Where things start: layouts drawn from a task's regions, and the 50 fixed ones of every task.

A layout is a row of numbers: seven joint angles [rad], then x [m], y [m], yaw [rad] and opening (share of the drawer's
travel) of each entity of the task, in order. The fixed rows are in `init_states.npz`, so that they stay the same whatever
becomes of this code; `python -m envs.tabletop --write-init-states` draws them anew.
"""

from __future__ import annotations

import math
import os
import zipfile
import zlib
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

import numpy as np

from envs.errors import BadInitState
from envs.tabletop.arm import HOME, N_JOINTS
from envs.tabletop.objects import DRAWER_TRAVEL, HANDLE_REACH, KINDS
from envs.tabletop.tasks import TASKS, Entity, Task

N_INIT_STATES = 50
PATH = Path(__file__).with_name("init_states.npz")
PER_ENTITY = 4
"""Numbers of one entity in a layout: x, y, yaw, opening."""

_MARGIN, _FINGER_ROOM = 0.012, 0.040
"""Free space beside a thing [m]: along x, and along y, where the fingers go down."""
_JOINT_NOISE = 0.02
_TRIES = 400


def footprint(kind: str, x: float, y: float, yaw: float, opening: float) -> tuple[float, float, float, float]:
    """Centre x, y and half extents of the axis-aligned rectangle that an entity covers [m]."""
    half_x, half_y = KINDS[kind].half_size
    if kind == "cabinet":
        front = HANDLE_REACH + 0.01 + opening * DRAWER_TRAVEL
        return x, y + (front - 0.16) / 2, half_x, (front + 0.16) / 2
    if KINDS[kind].symmetry == 0.0:  # round
        return x, y, half_x, half_y
    c, s = abs(math.cos(yaw)), abs(math.sin(yaw))
    return x, y, c * half_x + s * half_y, s * half_x + c * half_y


def apart(a: tuple[float, ...], b: tuple[float, ...], fingers: bool = True) -> bool:
    """Say whether two footprints leave room between them along x or y; with `fingers`, room for a gripper."""
    room = _FINGER_ROOM if fingers else 0.0
    return abs(a[0] - b[0]) >= a[2] + b[2] + (_MARGIN if fingers else 0.0) or abs(a[1] - b[1]) >= a[3] + b[3] + room


def sample_layout(task: Task, rng: np.random.Generator) -> np.ndarray:
    """Draw a layout in which nothing overlaps.

    Returns:
        (7 + 4 n,) for n entities.
    Raises:
        BadInitState: the regions leave no room (a mistake in the task).
    """
    joints = HOME + rng.uniform(-_JOINT_NOISE, _JOINT_NOISE, N_JOINTS)
    for _ in range(_TRIES):
        rows = _draw(task.entities, rng)
        if rows is not None:
            return np.concatenate([joints, np.asarray(rows).ravel()])
    raise BadInitState(
        f"{task.name}: its regions leave no room for all entities; widen them in envs/tabletop/tasks.py."
    )


def _draw(entities: Mapping[str, Entity], rng: np.random.Generator) -> list[tuple[float, ...]] | None:
    placed: dict[str, tuple[float, ...]] = {}
    prints: dict[str, tuple[float, ...]] = {}
    for name, entity in entities.items():
        region = entity.region
        base = placed[region.near] if region.near else (0.0, 0.0, 0.0, 0.0)
        x, y = base[0] + rng.uniform(*region.x), base[1] + rng.uniform(*region.y)
        pose = (x, y, rng.uniform(*region.yaw), rng.uniform(*region.opening))
        mark = footprint(entity.kind, *pose)
        for key, other in prints.items():
            if not (region.on_top and key == region.near) and not apart(mark, other, fingers=key != region.near):
                return None
        placed[name], prints[name] = pose, mark
    return list(placed.values())


def check_layout(task: Task, layout: object, where: str = "init_state") -> np.ndarray:
    """Return a layout as float64, or say what is wrong with it.

    Raises:
        BadInitState: wrong length, not numbers, not finite, or off the table.
    """
    size = N_JOINTS + PER_ENTITY * len(task.entities)
    try:
        row = np.asarray(layout, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadInitState(f"{where} of {task.name}: expected {size} numbers, got {type(layout).__name__}.") from None
    if row.shape != (size,):
        raise BadInitState(
            f"{where} of {task.name}: expected shape ({size},): 7 joint angles, then x, y, yaw, opening of "
            f"{', '.join(task.entities)}; got {row.shape}. Is it of another task?"
        )
    if not np.isfinite(row).all():
        raise BadInitState(
            f"{where} of {task.name}: entries {np.flatnonzero(~np.isfinite(row)).tolist()} are not finite."
        )
    poses = row[N_JOINTS:].reshape(-1, PER_ENTITY)
    if (np.abs(row[:N_JOINTS]) > np.pi + 1).any() or (np.abs(poses[:, :2] - (0.45, 0.0)) > 0.5).any():
        raise BadInitState(
            f"{where} of {task.name}: joints or positions are off the table; got {row.round(3).tolist()}."
        )
    if (poses[:, 3] < 0).any() or (poses[:, 3] > 1).any():
        raise BadInitState(f"{where} of {task.name}: openings must lie in 0..1, got {poses[:, 3].tolist()}.")
    return row


def load_init_states(task: Task, path: str | Path = PATH) -> np.ndarray:
    """Return the fixed layouts of a task, (50, 7 + 4 n).

    Raises:
        BadInitState: no such file, not an npz, or no valid rows for this task in it.
    """
    rows = _read(str(path)).get(task.name)
    if rows is None:
        raise BadInitState(
            f"{path} has no init states of {task.name}; `python -m envs.tabletop --write-init-states` draws them."
        )
    if rows.ndim != 2 or not len(rows):
        raise BadInitState(f"{path}, {task.name}: expected a table of rows, got shape {rows.shape}.")
    return np.stack([check_layout(task, row, f"row {index} of {path}") for index, row in enumerate(rows)])


@lru_cache(maxsize=4)
def _read(path: str) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise BadInitState(
            f"there is no file of init states at {path}; `python -m envs.tabletop --write-init-states` makes it."
        ) from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, AttributeError) as error:
        raise BadInitState(
            f"{path} is no readable file of init states ({error}); restore it from version control."
        ) from None


def fixed_init_state(episode: int) -> dict[str, int]:
    """Reset options of the `episode`-th of a series that walks the fixed initial states in order."""
    return {"init_state_id": episode % N_INIT_STATES}


def write_init_states(path: str | Path = PATH) -> None:
    """Draw 50 layouts of every task, each task from a stream of its own name, and write them atomically."""
    tables = {}
    for task in TASKS.values():
        rng = np.random.default_rng([zlib.crc32(task.name.encode()), 0])
        tables[task.name] = np.stack([sample_layout(task, rng) for _ in range(N_INIT_STATES)]).round(4)
    partial = Path(f"{path}.part")
    with partial.open("wb") as file:
        np.savez_compressed(file, **tables)  # type: ignore[arg-type]  # names of tasks, not allow_pickle
    os.replace(partial, path)
    _read.cache_clear()
