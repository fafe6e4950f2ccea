"""Workers as processes of this machine, started anew (spawn): plain `concurrent.futures`, one executor per worker.

One executor each, because a process that dies breaks its executor, and must break no other worker's. A worker whose parent is
killed ends itself at once.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager, suppress
from multiprocessing import connection
from pathlib import Path

from launch.sweep.trial import Answer, Trial, Worker
from launch.sweep.workers import Backend, Handle
from policies.errors import BadInput

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
_worker: list[Worker] = []
"""The one of this process, once it has begun."""


def _begin(files: Mapping[str, Path]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # an interruption is the parent's to handle
    threading.Thread(target=_end_with_parent, daemon=True).start()
    _worker.append(Worker(files))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    os._exit(1)


def _carry_out(trial: Trial) -> Answer:
    return _worker[0](trial)


class LocalHandle(Handle):
    """A process.

    Args:
        files: as `Worker` takes them.
        variables: of the environment that it starts with.
    """

    def __init__(self, files: Mapping[str, Path], variables: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")
        self._executor = ProcessPoolExecutor(1, context, _begin, (dict(files),))
        with _environment(variables):
            self.ready: Future[int] = self._executor.submit(os.getpid)

    def ask(self, trial: Trial) -> Future[Answer]:
        return self._executor.submit(_carry_out, trial)

    def close(self) -> None:
        with suppress(Exception):  # a process that never came up has no number
            self._executor.submit(os.getpid)  # refused where it is gone: its number may be another's by now
            os.kill(self.ready.result(timeout=60), signal.SIGKILL)
        self._executor.shutdown(wait=False, cancel_futures=True)


class Local(Backend):
    """See the module's docstring.

    Args:
        files: as `Worker` takes them.
        workers: processes; None for as many as the resources allow.
        resources: of one worker: `num_cpus`, and `num_gpus`, a whole number or a fraction. A worker sees only its own GPUs.
    Raises:
        BadInput: the machine has not got what one worker needs, or not for that many.
    """

    def __init__(
        self, files: Mapping[str, Path], workers: int | None = None, resources: Mapping[str, float] | None = None
    ) -> None:
        self.files = files
        self.gpus = float((resources or {}).get("num_gpus", 0))
        cpus = float((resources or {}).get("num_cpus", 1))
        most = max(1, int(len(os.sched_getaffinity(0)) / cpus)) if cpus else len(os.sched_getaffinity(0))
        if self.gpus:
            seen = _gpus()
            fit = seen * int(1 / self.gpus) if self.gpus <= 1 else int(seen / self.gpus)
            if fit < (workers or 1):
                raise BadInput(
                    f"sweep: {workers or 1} workers with {self.gpus:g} GPUs each were asked for, this machine has {seen} and takes {fit}."
                )
            most = min(most, fit)
        self.workers = workers or most

    def start(self, number: int) -> Handle:
        variables = dict.fromkeys(THREADS, "1")
        if self.gpus:
            share = max(1, int(1 / self.gpus))
            first = number // share if self.gpus <= 1 else number * int(self.gpus)
            count = max(1, int(self.gpus))
            variables["CUDA_VISIBLE_DEVICES"] = ",".join(str(one) for one in range(first, first + count))
        return LocalHandle(self.files, variables)

    def close(self) -> None:
        """Workers are closed one by one; nothing else runs."""


def _gpus() -> int:
    import torch

    return torch.cuda.device_count()


@contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name)
            else:
                os.environ[name] = value
