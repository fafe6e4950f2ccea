"""The flight recorder: every tick of a deployment in a journal, written by a thread that the control loop never waits for.

    recorder = FlightRecorder("runs/flights/first", Flight(robot="ur5e", fps=30, task="put the bowl on the plate"))
    recorder.write(tick)                  # in the control loop: copies what is small or changes, and returns
    recorder.close()

`write` takes a place in a queue or, where the writer is too slow, counts the tick as missed. A disk that is full or gone ends the
recording, loudly and counted; what was recorded before is kept, and the robot goes on. `launch.robot.flights` reads a journal and makes
a LeRobotDataset of it.
"""

from __future__ import annotations

import dataclasses
import io
import logging
import os
import queue
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launch.robot.contract import Tick
from launch.robot.journal import JournalWriter
from policies.errors import BadInput, SteerError, nearest

_LOG = logging.getLogger(__name__)
JOURNAL = "journal.bin"
PICTURES = ("raw", "jpeg", "none")
JPEG_QUALITY = 92
_QUIET_S = 5.0
"""Seconds between two warnings about missed ticks."""


@dataclass(frozen=True)
class Flight:
    """What is known before the first tick; the first record of a journal.

    Args:
        robot: its type.
        fps: of the control loop.
        task: the instruction.
        policy, recipe: name of the policy, digest of the recipe; "" if unknown.
        limits: action name -> (lowest, highest), for plots.
        strengths: part -> (lowest, highest) that the recipe allows.
        pictures: "raw" keeps them exactly (0.9 MB for one of 480 x 640, times fps), "jpeg" compresses them, "none" leaves them out.
        began: unix time; 0 takes the time of the recording.
    """

    robot: str
    fps: float
    task: str = ""
    policy: str = ""
    recipe: str = ""
    limits: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    strengths: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    pictures: str = "raw"
    began: float = 0.0

    def __post_init__(self) -> None:
        if not self.fps > 0:
            raise BadInput(f"flight: fps must be positive, got {self.fps!r}.")
        if self.pictures not in PICTURES:
            raise BadInput(f"flight: pictures {self.pictures!r} is unknown{nearest(self.pictures, PICTURES)}")


class FlightRecorder:
    """`launch.robot.contract.FlightSink` into a folder.

    Args:
        folder: of the flight; it must not hold a journal.
        flight: what is known of it.
        places: ticks that may wait for the writer; with pictures this is what bounds the memory.
        fsync_s: seconds between two calls of fsync.
        write: `os.write`, or what stands for it in a test.
    Attributes:
        recorded, missed: ticks.
        stopped: why recording ended before `close`, None while it has not.
    """

    def __init__(
        self,
        folder: str | Path,
        flight: Flight,
        *,
        places: int = 64,
        fsync_s: float = 1.0,
        write: Callable[[int, bytes], int] = os.write,
    ) -> None:
        self.folder, self.flight = Path(folder), flight
        self.recorded = self.missed = 0
        self.stopped: str | None = None
        self._closed, self._warned = False, 0.0
        self._counting = threading.Lock()
        self._journal = JournalWriter(self.folder / JOURNAL, fsync_s, write)
        began = flight.began or time.time()
        try:
            self._journal.append(["flight", dataclasses.asdict(dataclasses.replace(flight, began=began))])
        except BaseException:
            self._journal.close()
            raise
        self._queue: queue.Queue[Tick | None] = queue.Queue(places)
        self._thread = threading.Thread(target=self._run, name="flight recorder", daemon=True)
        self._thread.start()

    def write(self, tick: Tick) -> None:
        """Take a tick; returns at once and never raises."""
        if self.stopped is not None or self._closed:
            self._miss(self.stopped or "the recorder is closed")
            return
        observation = {name: _kept(value, self.flight.pictures) for name, value in tick.observation.items()}
        try:
            self._queue.put_nowait(dataclasses.replace(tick, observation=observation))
        except queue.Full:
            self._miss("the disk is too slow")

    def close(self) -> None:
        """Write what waits, and end the journal. Waits for the disk, so call it after the robot stands still."""
        if not self._closed:
            self._closed = True
            self._queue.put(None)
            self._thread.join()

    def _miss(self, why: str) -> None:
        with self._counting:  # both threads miss ticks
            self.missed += 1
        now = time.monotonic()
        if now - self._warned > _QUIET_S:
            self._warned = now
            _LOG.error("FLIGHT RECORDER: %d ticks are not recorded (%s)", self.missed, why)

    def _run(self) -> None:
        while (tick := self._queue.get()) is not None:
            if self.stopped is not None:
                self._miss(self.stopped)
                continue
            try:
                self._journal.append(["tick", packed(tick, self.flight.pictures)])
                self.recorded += 1
            except (OSError, SteerError) as error:
                self._stop(error)
                self._miss("the tick at which it stopped")
        try:
            if self.stopped is None:
                self._journal.append(["end", {"recorded": self.recorded, "missed": self.missed}])
        except OSError as error:
            self._stop(error)
        try:
            self._journal.close()
        except OSError as error:
            self._stop(error)

    def _stop(self, error: Exception) -> None:
        self.stopped = f"{type(error).__name__}: {error}"
        _LOG.error(
            "FLIGHT RECORDER STOPPED after %d ticks (%s). What was recorded before is kept in %s; the robot goes on, UNRECORDED.",
            self.recorded, self.stopped, self.folder,
        )  # fmt: skip


def is_picture(value: Any) -> bool:
    """(H, W, 3) uint8, or (H, W, 1)."""
    return isinstance(value, np.ndarray) and value.dtype == np.uint8 and value.ndim == 3 and value.shape[2] in (1, 3)


def _kept(value: Any, pictures: str) -> Any:
    """The caller's arrays may be written to again: keep copies. What will not be recorded is not copied."""
    if not isinstance(value, np.ndarray):
        return value
    return None if pictures == "none" and is_picture(value) else value.copy()


def packed(tick: Tick, pictures: str) -> dict[str, Any]:
    """A tick as plain values; the inverse is `launch.robot.flights.unpacked`."""
    record = {item.name: getattr(tick, item.name) for item in dataclasses.fields(tick)}
    observation = {}
    for name, value in tick.observation.items():
        if value is None:
            continue
        observation[name] = {"jpeg": _jpeg(value)} if pictures == "jpeg" and is_picture(value) else value
    return {**record, "observation": observation, "decisions": list(tick.decisions)}


def _jpeg(picture: np.ndarray) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(picture.squeeze(2) if picture.shape[2] == 1 else picture).save(buffer, "JPEG", quality=JPEG_QUALITY)
    return buffer.getvalue()
