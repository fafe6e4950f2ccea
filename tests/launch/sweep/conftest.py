"""`steer-agents sweep` in processes that do not outlive their test."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_parts import Start

ROOT = Path(__file__).parents[3]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts the command line; what still runs in the end is killed."""
    started: list[subprocess.Popen[str]] = []

    def begin(text: Path, out: Path, *more: str) -> subprocess.Popen[str]:
        main = "from launch.cli import main; main()"
        command = [sys.executable, "-c", main, "sweep", str(text), "--out", str(out), "--json", *more]
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        pipe = subprocess.PIPE
        started.append(subprocess.Popen(command, cwd=ROOT, env=variables, stdout=pipe, stderr=pipe, text=True))
        return started[-1]

    yield begin
    for one in started:
        one.kill()
        one.communicate()
