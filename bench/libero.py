"""LIBERO in a process of its own, to be measured round by round beside ours.

Its own process, because robosuite draws without making its OpenGL context current: in one process with another renderer each
would draw into the other's context, fast and wrong.

libero_goal task 8, "put the bowl on the plate": the task that ours is modelled on.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np


class Libero:
    """The parent's end; a context manager that ends the process.

    Args:
        command: of the process.
    Raises:
        RuntimeError: LIBERO is installed but does not run.
    """

    def __init__(self, command: Sequence[str] = (sys.executable, "-m", "bench.libero")) -> None:
        self._child = subprocess.Popen(
            command,
            cwd=Path(__file__).resolve().parent.parent,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            self._answer()
        except BaseException:
            self.__exit__(None, None, None)
            raise

    def seconds_per_step(self, cameras: bool, actions: Sequence[np.ndarray]) -> float:
        """Reset, which is not timed, then act; CPU seconds per step of all threads."""
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps({"cameras": cameras, "actions": np.asarray(actions).tolist()}) + "\n")
        self._child.stdin.flush()
        return float(self._answer()["seconds"])

    def _answer(self) -> dict[str, Any]:
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        answer = json.loads(line) if line else {"error": f"its process ended with {self._child.wait()}"}
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return dict(answer)

    def __enter__(self) -> Libero:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:  # fmt: skip
        self._child.kill()
        with contextlib.suppress(OSError):
            self._child.communicate()


def make(cameras: bool) -> Any:
    """LIBERO's own environment, with two cameras of 128 pixels or with none."""
    from libero.libero import benchmark, get_libero_path
    from libero.libero.envs import OffScreenRenderEnv
    from libero.libero.envs.env_wrapper import ControlEnv

    task = benchmark.get_benchmark_dict()["libero_goal"]().get_task(8)
    bddl = os.path.join(get_libero_path("bddl_files"), task.problem_folder, task.bddl_file)
    if cameras:
        return OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=128, camera_widths=128)
    return ControlEnv(bddl_file_name=bddl, use_camera_obs=False, has_renderer=False, has_offscreen_renderer=False)


def serve() -> None:
    """The child's end: a JSON line in, a JSON line out."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # LIBERO prints to stdout

    def say(**answer: Any) -> None:
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        envs = {cameras: make(cameras) for cameras in (False, True)}
        say(ready=True)
        for line in sys.stdin:
            asked = json.loads(line)
            env = envs[asked["cameras"]]
            env.reset()
            actions = np.asarray(asked["actions"])
            began = time.process_time()
            for action in actions:
                env.step(action)
            say(seconds=(time.process_time() - began) / len(actions))
    except (
        Exception
    ) as error:  # installed without its assets, or on another mujoco: whatever it is, the parent tells it
        say(error=f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    serve()
