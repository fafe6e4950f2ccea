"""A LeRobotDataset (v3) of demonstrations: parquet, JSON and pictures (or mp4) that LeRobot's own tools read and train on.

    made = record(Demos("PutBowlOnPlate", episodes=20), "runs/demos/bowl")
    LeRobotDataset(made["repo_id"], root=made["root"])            # or: lerobot-train --dataset.root=... --dataset.repo_id=...

Everything goes into a hidden folder beside the wanted one, which is renamed when it is whole. Pictures are stored exactly
unless videos are asked for: mp4 is smaller, but lossy and slower to read on a CPU.

Beside LeRobot's files there is `demos.json`: the settings, the counts per task (failed tries too) and what it was made with.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from launch.demos import ENVIRONMENT_STATE, IMAGES, STATE, Demos, Episode, collect
from policies.errors import BadInput, MissingExtra

ACTION_NAMES = ("x", "y", "z", "rotation_x", "rotation_y", "rotation_z", "gripper")
ROBOT_TYPE = "steer_agents_tabletop"
RECORD = "demos.json"

_Tell = Callable[[Episode], None]


def record(
    demos: Demos,
    root: str | Path,
    *,
    videos: bool = False,
    push: str | None = None,
    private: bool = True,
    tell: _Tell | None = None,
) -> dict[str, Any]:
    """Collect demonstrations into a new dataset.

    Args:
        demos: what to demonstrate.
        root: the folder to make; it must not exist.
        videos: store pictures as mp4.
        push: "user/name" of a Hub dataset to upload to afterwards.
        private: whether a newly made Hub dataset is private.
        tell: called with every episode that was stored.
    Returns:
        repo_id, root, episodes, failed, frames, seconds, megabytes and `tasks`, the counts of each.

    Raises:
        BadInput: the folder exists, or what `collect` refuses.
        MissingExtra: LeRobot is not installed, or there is no OpenGL for pictures.
        HubError: the upload is not possible (asked before recording), or failed (the dataset stays on the disk).
    """
    root = Path(root).expanduser()
    if root.exists():
        raise BadInput(f"demos: {root} exists already; choose another --root, or delete it to record it anew.")
    if videos and demos.obs_type == "state":
        raise BadInput("demos: obs_type 'state' has no pictures, so there is nothing for videos to store.")
    need_lerobot()
    if push is not None:
        _check_push(push)
    repo_id = push or f"local/{root.name}"
    began = time.monotonic()
    counts: dict[str, dict[str, Any]] = {
        task.name: {"task": task.name, "instruction": "", "episodes": 0, "failed": 0, "frames": 0}
        for task in demos.tasks
    }
    with part_folder(root) as part:
        _write(demos, part / "dataset", repo_id, videos, counts, tell)
        totals = {name: sum(count[name] for count in counts.values()) for name in ("episodes", "failed", "frames")}
        _write_record(part / "dataset" / RECORD, demos, videos, totals, list(counts.values()))
        os.rename(part / "dataset", root)
    result = {
        "repo_id": repo_id,
        "root": str(root),
        **totals,
        "seconds": round(time.monotonic() - began, 1),
        "megabytes": round(sum(file.stat().st_size for file in root.rglob("*") if file.is_file()) / 1e6, 1),
        "pushed": push is not None,
        "tasks": list(counts.values()),
    }
    if push is not None:
        _push(push, root, private)
    return result


def _write(
    demos: Demos, root: Path, repo_id: str, videos: bool, counts: dict[str, dict[str, Any]], tell: _Tell | None
) -> None:
    dataset: Any = None
    try:
        for episode in collect(demos):
            if dataset is None:
                dataset = _create(root, repo_id, features(episode, videos), videos)
            _store(dataset, episode)
            count = counts[episode.task]
            count["instruction"] = episode.instruction
            for name, more in (("episodes", 1), ("failed", episode.tries - 1), ("frames", len(episode))):
                count[name] += more
            if tell is not None:
                tell(episode)
    finally:
        if dataset is not None:  # also on an exception: left alone it writes once more when it is garbage
            dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)  # empty folders of pictures that are in the tables by now


def _store(dataset: Any, episode: Episode) -> None:
    for step in range(len(episode)):
        frame = {key: values[step] for key, values in episode.observations.items()}
        dataset.add_frame({**frame, "action": episode.actions[step], "task": episode.instruction})
    with quiet():
        dataset.save_episode(parallel_encoding=False)


def features(episode: Episode, videos: bool = False) -> dict[str, dict[str, Any]]:
    """LeRobot's description of the columns: dtype, shape, and a name for every dimension."""
    from envs.tabletop.observations import AGENT_POS_SLICES, ENVIRONMENT_STATE_SLICES

    names = {STATE: _names(AGENT_POS_SLICES), ENVIRONMENT_STATE: _names(ENVIRONMENT_STATE_SLICES)}
    found: dict[str, dict[str, Any]] = {}
    for key, values in episode.observations.items():
        if key.startswith(IMAGES):
            dtype, dimensions = "video" if videos else "image", ["height", "width", "channels"]
        else:
            dtype, dimensions = "float32", names[key]
        found[key] = {"dtype": dtype, "shape": values.shape[1:], "names": dimensions}
    return {**found, "action": {"dtype": "float32", "shape": (len(ACTION_NAMES),), "names": list(ACTION_NAMES)}}


def _names(slices: Mapping[str, slice]) -> list[str]:
    """A name for every dimension: "tcp_x", "tcp_y", "tcp_z", "fingers_0", ..., "held"."""
    names = []
    for part, where in slices.items():
        size = where.stop - where.start
        endings = {1: [""], 3: ["_x", "_y", "_z"]}.get(size, [f"_{number}" for number in range(size)])
        names += [part + ending for ending in endings]
    return names


def _create(root: Path, repo_id: str, columns: dict[str, dict[str, Any]], videos: bool) -> Any:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from envs.tabletop.scene import CONTROL_DT

    return LeRobotDataset.create(
        repo_id, fps=round(1 / CONTROL_DT), features=columns, root=root, robot_type=ROBOT_TYPE, use_videos=videos,
        video_backend="pyav",  # brings its own codecs; torchcodec wants those of the system
    )  # fmt: skip


def _write_record(
    path: Path, demos: Demos, videos: bool, totals: Mapping[str, int], tasks: list[dict[str, Any]]
) -> None:
    from steer_agents.runs import environment_record, write_json

    settings = {**dataclasses.asdict(demos), "videos": videos}
    write_json(path, {"settings": settings, **totals, "tasks": tasks, "environment": environment_record()})


# ---- the unfinished folder


@contextmanager
def part_folder(root: Path) -> Iterator[Path]:
    """A hidden folder beside `root`, deleted on leaving; those of killed processes are deleted too."""
    root.parent.mkdir(parents=True, exist_ok=True)
    for left in root.parent.glob(f".{root.name}.*.part"):
        owner = left.name.split(".")[-2]
        if owner.isdigit() and not _runs(int(owner)):
            shutil.rmtree(left, ignore_errors=True)
    part = root.with_name(f".{root.name}.{os.getpid()}.part")
    part.mkdir()
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# ---- LeRobot and the Hub


def need_lerobot(what: str = "demos") -> None:
    """Say what is missing without loading it, which takes LeRobot many seconds."""
    for module in ("lerobot", "datasets", "av"):
        if importlib.util.find_spec(module) is None:
            raise MissingExtra(
                f"{what}: LeRobot's datasets need {module!r}, which is not installed; run `make setup`, or pip install "
                "'steer-agents[lerobot]'."
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the progress bar that `datasets` draws for every episode."""
    import datasets

    shown = not datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if shown:
            datasets.enable_progress_bars()


def _check_push(repo_id: str) -> None:
    """Find out before recording whether there is someone to push as."""
    from huggingface_hub import HfApi
    from huggingface_hub.utils import validate_repo_id

    from steer_agents.hub import explained

    with explained("push to", repo_id):
        validate_repo_id(repo_id)
        if "/" not in repo_id:
            raise BadInput(f"demos: --push wants 'user/name', got {repo_id!r}.")
        HfApi().whoami()


def _push(repo_id: str, root: Path, private: bool) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    from steer_agents.hub import explained

    with explained(f"the dataset is in {root}, but push to", repo_id):
        LeRobotDataset(repo_id, root=root, video_backend="pyav").push_to_hub(private=private, tags=["steer-agents"])
