"""Recorded flights: read from their journals, whole or damaged, and turned into LeRobotDatasets.

    recording = Recording("runs/flights/first")
    for tick in recording: ...
    recording.damage, recording.ended                              # after reading
    to_dataset("runs/flights/first")                               # .../dataset, a LeRobotDataset (v3) of one episode

Columns of the dataset:

    observation.state              the observation's numbers, by name; arrays are observation.NAME, pictures observation.images.NAME
    action                         what was sent; where nothing was sent, what was sent last (see `sent`)
    action_asked                   what policy and blending asked for; where there was no chunk, `action`
    sent, observed, asked          whether the tick itself had that, or it is repeated from the tick before
    mode, decisions                text; decisions of one tick are joined by "; "
    strengths                      by part
    tick                           number, at [s since the first tick], period [s], chunk, chunk_age [s]
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from launch.lerobot_dataset import need_lerobot, part_folder, quiet
from launch.robot.contract import Tick
from launch.robot.journal import Damage, JournalReader
from launch.robot.recorder import JOURNAL, Flight, is_picture
from launch.server.about import flat
from policies.errors import BadArtifact, BadInput

DATASET = "dataset"
"""Name of the dataset's folder in the flight's."""
TICK_NAMES = ("number", "at", "period", "chunk", "chunk_age")
STATE, ACTION, ASKED, STRENGTHS, TICK = "observation.state", "action", "action_asked", "strengths", "tick"


class Recording:
    """A flight's journal; iterate it for its ticks, as often as wanted.

    Args:
        folder: that `FlightRecorder` wrote.
    Attributes:
        flight: what was known before.
        damage: where the journal broke off, None if it is sound; known after reading.
        ended: the recorder's own count {recorded, missed}, None where it was killed; known after reading.
    Raises:
        BadArtifact: no journal, or one without even its first record.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        self._journal = JournalReader(self.folder / JOURNAL)
        first = next(iter(self._journal), None)
        if not isinstance(first, list) or len(first) != 2 or first[0] != "flight" or not isinstance(first[1], dict):
            raise BadArtifact(
                f"{self.folder / JOURNAL} breaks off before its first record; nothing of this flight was kept."
            )
        known = {item.name for item in fields(Flight)}
        facts = {name: value for name, value in first[1].items() if name in known}
        for name in ("limits", "strengths"):  # lists, as they come from the file
            facts[name] = {key: (low, high) for key, (low, high) in facts[name].items()}
        self.flight = Flight(**facts)
        self.damage: Damage | None = None
        self.ended: dict[str, int] | None = None

    def __iter__(self) -> Iterator[Tick]:
        self.ended = None
        for kind, record in self._journal:
            if kind == "tick":
                yield unpacked(record)
            elif kind == "end":
                self.ended = record
        self.damage = self._journal.damage


def unpacked(record: Mapping[str, Any]) -> Tick:
    """A tick of a journal's record; pictures that were compressed become arrays again."""
    observation = {
        name: _picture(value["jpeg"]) if isinstance(value, Mapping) and "jpeg" in value else value
        for name, value in record["observation"].items()
    }
    return Tick(**{**record, "observation": observation, "decisions": tuple(record["decisions"])})


def _picture(data: bytes) -> np.ndarray:
    from PIL import Image

    picture = np.asarray(Image.open(io.BytesIO(data)))
    return picture[..., None] if picture.ndim == 2 else picture


def observed(tick: Tick) -> dict[str, Any]:
    """Entries of an observation under names that a dataset can have: "pixels/front" is "front"."""
    return {name.removeprefix("pixels/").replace("/", "."): value for name, value in flat(tick.observation).items()}


@dataclass
class Columns:
    """What the ticks of a flight hold: names in order of appearance.

    Args:
        numbers: entries of `observation.state`.
        arrays, pictures: name -> (dtype, shape).
        action, strengths: names.
    """

    numbers: list[str]
    arrays: dict[str, tuple[str, tuple[int, ...]]]
    pictures: dict[str, tuple[int, ...]]
    action: list[str]
    strengths: list[str]
    ticks: int = 0

    @classmethod
    def of(cls, recording: Recording) -> Columns:
        """Read a flight once.

        Raises:
            BadArtifact: no tick, or none with an action.
        """
        found = cls([], {}, {}, [], [])
        names: dict[str, dict[str, None]] = {"numbers": {}, "action": {}, "strengths": {}}
        for tick in recording:
            found.ticks += 1
            names["action"].update(dict.fromkeys([*tick.sent, *tick.asked]))
            names["strengths"].update(dict.fromkeys(tick.strengths))
            for name, value in observed(tick).items():
                if isinstance(value, bool | int | float):
                    names["numbers"][name] = None
                elif is_picture(value):
                    found.pictures.setdefault(name, value.shape)
                elif isinstance(value, np.ndarray):
                    found.arrays.setdefault(name, (value.dtype.name, value.shape))
        found.numbers, found.action, found.strengths = (list(names[key]) for key in ("numbers", "action", "strengths"))
        if not found.ticks or not found.action:
            raise BadArtifact(
                f"{recording.folder}: {found.ticks} ticks were recorded, none with an action; there is no dataset to make."
            )
        return found

    def features(self, videos: bool) -> dict[str, dict[str, Any]]:
        """LeRobot's description."""
        found: dict[str, dict[str, Any]] = {}
        if self.numbers:
            found[STATE] = _vector(self.numbers)
        for name, (dtype, shape) in self.arrays.items():
            shape = shape or (1,)
            found[f"observation.{name}"] = {"dtype": _storable(dtype), "shape": shape, "names": None}
        for name, shape in self.pictures.items():
            kind = "video" if videos else "image"
            found[f"observation.images.{name}"] = {
                "dtype": kind,
                "shape": (*shape[:2], 3),
                "names": ["height", "width", "channels"],
            }
        found[ACTION], found[ASKED] = _vector(self.action), _vector(self.action)
        for flag in ("sent", "observed", "asked"):
            found[flag] = {"dtype": "bool", "shape": (1,), "names": None}
        for text in ("mode", "decisions"):
            found[text] = {"dtype": "string", "shape": (1,), "names": None}
        if self.strengths:
            found[STRENGTHS] = _vector(self.strengths)
        found[TICK] = {"dtype": "float64", "shape": (len(TICK_NAMES),), "names": list(TICK_NAMES)}
        return found


def _vector(names: list[str]) -> dict[str, Any]:
    return {"dtype": "float32", "shape": (len(names),), "names": list(names)}


def _storable(dtype: str) -> str:
    """Numbers of half precision are widened; the rest stays."""
    return "float32" if dtype == "float16" else dtype


def frames(recording: Recording, columns: Columns) -> Iterator[dict[str, Any]]:
    """One row per tick; what a tick lacks is repeated from the last one that had it, from the first one at the beginning."""
    action, asked, seen, strengths = _firsts(recording, columns)
    began: float | None = None
    for tick in recording:
        began = tick.at if began is None else began
        action |= tick.sent
        asked = {**action, **tick.asked} if tick.asked else dict(action)
        strengths |= tick.strengths
        entries = {name: value for name, value in observed(tick).items() if _fits(columns, name, value)}
        seen |= entries
        row: dict[str, Any] = {
            ACTION: _row(action, columns.action), ASKED: _row(asked, columns.action),
            "sent": np.array([bool(tick.sent)]), "asked": np.array([bool(tick.asked)]), "observed": np.array([bool(entries)]),
            "mode": tick.mode, "decisions": "; ".join(tick.decisions),
            TICK: np.array([tick.number, tick.at - began, tick.period, tick.chunk, tick.chunk_age], dtype=np.float64),
        }  # fmt: skip
        if columns.numbers:
            row[STATE] = _row(seen, columns.numbers)
        if columns.strengths:
            row[STRENGTHS] = _row(strengths, columns.strengths)
        for name, (dtype, shape) in columns.arrays.items():
            row[f"observation.{name}"] = np.asarray(seen[name], dtype=_storable(dtype)).reshape(shape or (1,))
        for name in columns.pictures:
            picture = seen[name]
            row[f"observation.images.{name}"] = np.repeat(picture, 3, axis=2) if picture.shape[2] == 1 else picture
        yield row


def _firsts(
    recording: Recording, columns: Columns
) -> tuple[dict[str, float], dict[str, float], dict[str, Any], dict[str, float]]:
    """The first value of everything: action, asked, observation, strengths."""
    sent: dict[str, float] = {}
    asked: dict[str, float] = {}
    seen: dict[str, Any] = {}
    strengths: dict[str, float] = {}
    wanted = len(columns.numbers) + len(columns.arrays) + len(columns.pictures)
    for tick in recording:
        sent, asked, strengths = {**tick.sent, **sent}, {**tick.asked, **asked}, {**tick.strengths, **strengths}
        for name, value in observed(tick).items():
            if name not in seen and _fits(columns, name, value):
                seen[name] = value
        if len(sent) == len(columns.action) and len(seen) == wanted and len(strengths) == len(columns.strengths):
            break
    return {**asked, **sent}, asked, seen, strengths


def _fits(columns: Columns, name: str, value: Any) -> bool:
    """Whether an entry is of the kind that its column has; a camera that changes its size is not observed any more."""
    if isinstance(value, np.ndarray):
        if is_picture(value):
            return columns.pictures.get(name) == value.shape
        return name in columns.arrays and columns.arrays[name] == (value.dtype.name, value.shape)
    return name in columns.numbers and isinstance(value, bool | int | float)


def _row(values: Mapping[str, Any], names: list[str]) -> np.ndarray:
    return np.array([values[name] for name in names], dtype=np.float32)


def to_dataset(folder: str | Path, *, videos: bool = False) -> dict[str, Any]:
    """Make FOLDER/dataset of a flight's journal; the journal stays.

    Args:
        folder: of the flight; it may have been cut off by a crash.
        videos: store pictures as mp4: smaller, lossy.
    Returns:
        repo_id, root, frames, lost_bytes.
    Raises:
        BadInput: the dataset exists. BadArtifact: no flight, or nothing in it. MissingExtra: LeRobot is not installed.
    """
    folder = Path(folder).expanduser()
    root = folder / DATASET
    if root.exists():
        raise BadInput(f"flight: {root} exists already; it was made from this journal before.")
    need_lerobot("replay")
    recording = Recording(folder)
    columns = Columns.of(recording)
    repo_id = f"local/{folder.name}"
    with part_folder(root) as part:
        _write(recording, columns, part / DATASET, repo_id, videos)
        os.rename(part / DATASET, root)
    lost = 0 if recording.damage is None else recording.damage.lost
    return {"repo_id": repo_id, "root": str(root), "frames": columns.ticks, "lost_bytes": lost}


def _write(recording: Recording, columns: Columns, root: Path, repo_id: str, videos: bool) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    dataset: Any = LeRobotDataset.create(
        repo_id, fps=round(recording.flight.fps), features=columns.features(videos), root=root, robot_type=recording.flight.robot,
        use_videos=videos, video_backend="pyav",
    )  # fmt: skip
    try:
        for frame in frames(recording, columns):
            dataset.add_frame({**frame, "task": recording.flight.task or "no task was given"})
        with quiet():
            dataset.save_episode(parallel_encoding=False)
    finally:
        dataset.finalize()
    shutil.rmtree(root / "images", ignore_errors=True)
