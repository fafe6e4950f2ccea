"""An append-only file of records that is readable up to its last whole record, however its writer ended.

    "SAFLIGHT1\\n"   then, for every record,   length (uint32) || CRC-32 (uint32) || record (`launch.packing`)      little-endian

A record is written by one call, behind what is there already; a write that failed half-way (a full disk) is cut off again. Data are handed
to the disk every `fsync_s` seconds: after a crash of the process nothing is lost, after a crash of the machine at most these seconds.
"""

from __future__ import annotations

import os
import struct
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launch.packing import BadMessage, pack, unpack
from policies.errors import BadArtifact, BadInput

MAGIC = b"SAFLIGHT1\n"
HEAD = struct.Struct("<II")
MAX_RECORD = 1 << 27
"""Bytes of a record; a length beyond is damage."""


class JournalWriter:
    """Appends records.

    Args:
        path: the file to make; it must not exist.
        fsync_s: seconds between two calls of fsync.
        write: `os.write`, or what stands for it in a test.
    Attributes:
        records, bytes: written so far.
    """

    def __init__(self, path: str | Path, fsync_s: float = 1.0, write: Callable[[int, bytes], int] = os.write) -> None:
        self.path, self.fsync_s, self._write = Path(path), fsync_s, write
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            raise BadInput(f"journal: {self.path} exists already; a flight gets a folder of its own.") from None
        self.records = self.bytes = 0
        self._synced = time.monotonic()
        try:
            self._append(MAGIC)
        except BaseException:
            os.close(self._file)
            self.path.unlink()
            raise

    def append(self, record: Any) -> None:
        """Write a record.

        Raises:
            OSError: the disk is full or gone; what was written before is whole.
        """
        body = pack(record)
        if len(body) > MAX_RECORD:
            raise BadInput(f"journal: a record of {len(body)} bytes; allowed are {MAX_RECORD}.")
        self._append(HEAD.pack(len(body), zlib.crc32(body)) + body)
        self.records += 1
        if time.monotonic() - self._synced >= self.fsync_s:
            self.sync()

    def sync(self) -> None:
        """Hand everything to the disk."""
        os.fsync(self._file)
        self._synced = time.monotonic()

    def close(self) -> None:
        """Sync and close; errors of the disk are raised, the file is closed anyway."""
        try:
            self.sync()
        finally:
            os.close(self._file)

    def _append(self, data: bytes) -> None:
        done = 0
        try:
            while done < len(data):
                done += self._write(self._file, data[done:])
        except BaseException:
            if done:
                os.ftruncate(self._file, self.bytes)  # works on a full disk as well
                os.lseek(self._file, self.bytes, os.SEEK_SET)
            raise
        self.bytes += len(data)


@dataclass(frozen=True)
class Damage:
    """Where reading ended before the end of the file.

    Args:
        at: bytes that are sound.
        lost: bytes after them.
        why: in words.
    """

    at: int
    lost: int
    why: str


class JournalReader:
    """Reads records in order; iterate it, then look at `damage`.

    Args:
        path: of the journal; it may still be written to.
    Raises:
        BadArtifact: no journal.
    """

    def __init__(self, path: str | Path) -> None:
        self.path, self.damage = Path(path), None
        if not self.path.is_file():
            raise BadArtifact(f"{self.path} is no file; a flight's folder holds journal.bin.")
        with open(self.path, "rb") as file:
            begin = file.read(len(MAGIC))
        if begin != MAGIC[: len(begin)]:
            raise BadArtifact(f"{self.path} is no flight journal: it begins with {begin!r}.")

    damage: Damage | None

    def __iter__(self) -> Iterator[Any]:
        """Whole records, up to the first damage."""
        size = self.path.stat().st_size
        self.damage = None
        with open(self.path, "rb") as file:
            if len(file.read(len(MAGIC))) < len(MAGIC):
                self.damage = Damage(0, size, "the file ends within its first line")
                return
            at = len(MAGIC)
            while at < size:
                head = file.read(HEAD.size)
                record, why = self._record(head, file.read, size - at)
                if why:
                    self.damage = Damage(at, size - at, why)
                    return
                at = file.tell()
                yield record

    @staticmethod
    def _record(head: bytes, read: Callable[[int], bytes], left: int) -> tuple[Any, str]:
        """(the record, "") or (None, why there is none)."""
        if len(head) < HEAD.size:
            return None, "the file ends within the head of a record"
        length, checksum = HEAD.unpack(head)
        if length > min(MAX_RECORD, left - HEAD.size):
            return None, "the file ends within a record" if length <= MAX_RECORD else "a record's length is damaged"
        body = read(length)
        if zlib.crc32(body) != checksum:
            return None, "a record's checksum does not fit"
        try:
            return unpack(body, max_values=1 << 20), ""
        except BadMessage as error:
            return None, f"a record cannot be read ({error})"
