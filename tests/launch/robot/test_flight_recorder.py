"""What was recorded can be read, whatever ended the recording."""

from __future__ import annotations

import dataclasses
import errno
import logging
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from flight_parts import FLIGHT, tick, write_flight

from launch.robot.flights import Recording
from launch.robot.journal import HEAD, MAGIC, JournalReader, JournalWriter
from launch.robot.recorder import JOURNAL, Flight, FlightRecorder
from policies.errors import BadArtifact, BadInput

ROOT = Path(__file__).parents[3]


def same(one: object, two: object) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(two, np.ndarray) and one.dtype == two.dtype and np.array_equal(one, two)
    if isinstance(one, dict):
        return isinstance(two, dict) and one.keys() == two.keys() and all(same(one[key], two[key]) for key in one)
    return one == two or (one != one and two != two)


def test_ticks_come_back_as_they_were(tmp_path: Path) -> None:
    bare = {"observation": {}, "asked": {}, "sent": {}, "mode": "hold", "chunk": -1, "chunk_age": float("nan")}
    folder = write_flight(tmp_path / "flight", 5, at={3: bare})
    recording = Recording(folder)
    back = list(recording)
    assert recording.flight == FLIGHT
    assert recording.ended == {"recorded": 5, "missed": 0}
    assert recording.damage is None
    for number, one in enumerate(back):
        wanted = tick(number, **(bare if number == 3 else {}))
        assert all(same(getattr(one, item.name), getattr(wanted, item.name)) for item in dataclasses.fields(one))


def test_pictures_can_be_compressed_or_left_out(tmp_path: Path) -> None:
    flat = np.full((32, 32, 3), 90, np.uint8)
    kept = {}
    for pictures in ("raw", "jpeg", "none"):
        flight = dataclasses.replace(FLIGHT, pictures=pictures)
        folder = write_flight(tmp_path / pictures, 1, flight, at={0: {"observation": {"front": flat, "x": 1.0}}})
        kept[pictures] = next(iter(Recording(folder))).observation
    np.testing.assert_array_equal(kept["raw"]["front"], flat)
    assert np.abs(kept["jpeg"]["front"].astype(int) - 90).max() <= 2
    assert kept["none"] == {"x": 1.0}
    assert (tmp_path / "jpeg" / JOURNAL).stat().st_size < (tmp_path / "raw" / JOURNAL).stat().st_size
    with pytest.raises(BadInput, match="did you mean 'jpeg'"):
        Flight("arm", 30, pictures="jpg")


def test_arrays_that_the_robot_writes_to_again_are_recorded_as_they_were(tmp_path: Path) -> None:
    buffer = np.zeros(3, np.float32)
    recorder = FlightRecorder(tmp_path, FLIGHT, places=200)
    for number in range(100):
        buffer[:] = number
        recorder.write(tick(number, observation={"force": buffer}))
    recorder.close()
    assert [one.observation["force"][0] for one in Recording(tmp_path)] == list(range(100))


def test_a_journal_cut_off_at_any_byte_is_read_up_to_its_last_whole_record(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    with_sizes, writer = [len(MAGIC)], JournalWriter(whole)
    records = [{"number": number, "a": np.arange(number, dtype=np.float32)} for number in range(6)]
    for record in records:
        writer.append(record)
        with_sizes.append(writer.bytes)
    writer.close()
    data = whole.read_bytes()
    assert len(data) == with_sizes[-1]
    part = tmp_path / "part"
    for length in range(len(data) + 1):
        part.write_bytes(data[:length])
        reader = JournalReader(part)
        read = list(reader)
        n_whole = sum(size <= length for size in with_sizes[1:])
        assert [one["number"] for one in read] == list(range(n_whole))
        assert all(same(one, record) for one, record in zip(read, records, strict=False))
        assert (reader.damage is None) == (length in with_sizes)
        if reader.damage is not None:
            assert reader.damage.at + reader.damage.lost == length


def test_a_changed_byte_ends_the_reading_and_never_gives_another_record(tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    writer = JournalWriter(whole)
    for number in range(5):
        writer.append({"number": number})
    writer.close()
    data = whole.read_bytes()
    for at in range(len(MAGIC), len(data)):
        changed = bytearray(data)
        changed[at] ^= 0x10
        whole.write_bytes(changed)
        reader = JournalReader(whole)
        read = [one["number"] for one in reader]
        assert read == list(range(len(read)))
        assert len(read) < 5
        assert reader.damage is not None
    whole.write_bytes(b"something else")
    with pytest.raises(BadArtifact, match="no flight journal"):
        JournalReader(whole)
    with pytest.raises(BadArtifact, match="is no file"):
        Recording(tmp_path / "nothing")
    whole.write_bytes(data[: len(MAGIC)] + HEAD.pack(2**31, 0))
    reader = JournalReader(whole)
    assert list(reader) == []
    assert reader.damage is not None
    assert "length is damaged" in reader.damage.why


KILLED = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[2], sys.argv[3]]
from flight_parts import FLIGHT, tick
from launch.robot.recorder import FlightRecorder
recorder = FlightRecorder(Path(sys.argv[1]), FLIGHT)
number = 0
while True:
    if recorder.missed == 0 and recorder._queue.qsize() < 32:
        recorder.write(tick(number))
        number += 1
        if number == 3:
            print("flying", flush=True)
"""


def test_kill_9_at_random_times_keeps_every_whole_tick(tmp_path: Path) -> None:
    rng = random.Random(0)
    for attempt in range(4):
        folder = tmp_path / str(attempt)
        process = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(folder), str(ROOT), str(Path(__file__).parent)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "flying\n"
        time.sleep(rng.uniform(0, 0.3))
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        recording = Recording(folder)
        back = list(recording)
        assert [one.number for one in back] == list(range(len(back)))
        assert recording.ended is None
        lost = 0 if recording.damage is None else recording.damage.lost
        assert lost < 2000  # at most the record that was being written
        for one in back[:: max(1, len(back) // 5)]:
            assert same(dict(one.observation), dict(tick(one.number).observation))


class Disk:
    """Writes until it is full."""

    def __init__(self, room: int) -> None:
        self.room = room

    def __call__(self, file: int, data: bytes) -> int:
        part = data[: self.room]
        if not part:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.room -= len(part)
        return os.write(file, part)


def test_a_full_disk_ends_the_recording_loudly_and_keeps_what_was_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recorder = FlightRecorder(tmp_path, FLIGHT, places=100, write=Disk(20_000))
    with caplog.at_level(logging.ERROR):
        for number in range(60):
            recorder.write(tick(number))
        recorder.close()
    assert recorder.stopped is not None
    assert "No space left" in recorder.stopped
    assert 5 < recorder.recorded < 20
    assert recorder.recorded + recorder.missed == 60
    assert "FLIGHT RECORDER STOPPED" in caplog.text
    recording = Recording(tmp_path)
    assert [one.number for one in recording] == list(range(recorder.recorded))
    assert recording.damage is None  # the half record was cut off again
    with pytest.raises(OSError, match="No space left"):
        FlightRecorder(tmp_path / "no room at all", FLIGHT, write=Disk(3))


def test_a_disk_that_hangs_costs_ticks_and_never_the_control_loop(tmp_path: Path) -> None:
    released, hangs = threading.Event(), threading.Event()

    def write(file: int, data: bytes) -> int:
        if hangs.is_set():
            released.wait()
        return os.write(file, data)

    recorder = FlightRecorder(tmp_path, FLIGHT, places=8, write=write)
    hangs.set()
    for number in range(100):
        recorder.write(tick(number))  # would never return if it waited
    assert recorder.missed >= 100 - 8 - 1
    released.set()
    recorder.close()
    assert recorder.recorded + recorder.missed == 100
    back = Recording(tmp_path)
    numbers = [one.number for one in back]
    assert numbers == sorted(set(numbers))
    assert len(numbers) == recorder.recorded
    assert back.ended == {"recorded": recorder.recorded, "missed": recorder.missed}
    recorder.write(tick(0))
    assert recorder.recorded + recorder.missed == 101  # closed: counted, not queued


def test_a_second_flight_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    write_flight(tmp_path, 1)
    with pytest.raises(BadInput, match="exists already"):
        FlightRecorder(tmp_path, FLIGHT)
