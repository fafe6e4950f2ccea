"""Workers as Ray actors, on this machine or on a cluster (Moritz et al. 2018, arXiv 1712.05889). The only file that imports Ray.

Descriptions go out and tables come back; nothing else is in Ray's object store. Files that the parts name travel with the actor, so
that nodes need no common folder; a policy's own weights must be on every node, or come with a runtime environment.
"""

from __future__ import annotations

import importlib
import os
import tempfile
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from launch.loopback import is_loopback
from launch.sweep.trial import Answer, Trial, Worker
from launch.sweep.workers import Backend, Handle
from policies.errors import BadInput, MissingExtra, WorkersLost

OBJECT_STORE = 200 * 2**20
"""Bytes, of a Ray that is started here: tables are small."""
LOOPBACK = "127.0.0.1"
STAY = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"
"""Ray's variable for "this machine's address is loopback": without it Ray takes 127.0.0.1 for the address that others see."""


class Actor:
    """A `Worker` with its files in a folder of its own.

    Args:
        files: name -> content.
    """

    def __init__(self, files: Mapping[str, bytes]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="sweep-")
        places: dict[str, Path] = {}
        for number, (name, content) in enumerate(files.items()):
            places[name] = Path(self._folder.name) / str(number) / Path(name).name
            places[name].parent.mkdir()
            places[name].write_bytes(content)
        self._worker = Worker(places)

    def ready(self) -> int:
        """The number of its process."""
        return os.getpid()

    def answer(self, trial: Trial) -> Answer:
        """See `Worker`."""
        return self._worker(trial)


class RayHandle(Handle):
    """An actor."""

    def __init__(self, ray: Any, actor: Any) -> None:
        self._ray, self._actor = ray, actor
        self.ready: Future[int] = actor.ready.remote().future()

    def ask(self, trial: Trial) -> Future[Answer]:
        future: Future[Answer] = self._actor.answer.remote(trial).future()
        return future

    def close(self) -> None:
        self._ray.kill(self._actor, no_restart=True)


class RayBackend(Backend):
    """See the module's docstring.

    Args:
        files: name -> where it lies on this machine.
        workers: actors; None for as many as the cluster has room for.
        resources: of one actor, as `ray.remote` takes them: `num_cpus`, `num_gpus`, fractions allowed.
        address: of a cluster; None for RAY_ADDRESS, or else a Ray of its own on loopback that ends with the sweep.
    Raises:
        MissingExtra: Ray is not installed.
        BadInput: no cluster at the address, or no room for that many actors.
        WorkersLost: a Ray of its own did not start.
    """

    def __init__(
        self,
        files: Mapping[str, Path],
        workers: int | None = None,
        resources: Mapping[str, float] | None = None,
        address: str | None = None,
    ) -> None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        place = address or os.environ.get("RAY_ADDRESS")
        if place is None or is_loopback(place.rpartition(":")[0]):
            os.environ.setdefault(STAY, "0")
        try:
            ray = importlib.import_module("ray")
        except ImportError:
            raise MissingExtra(
                "--backend ray needs Ray: pip install 'steer-agents[sweep]', or use --backend local."
            ) from None
        self.ray = ray
        needs = {"num_cpus": 1.0, **(resources or {})}
        _connect(ray, address, max(1, round((workers or 0) * needs["num_cpus"])) if workers else None)
        room = _room(ray, needs)
        if room < (workers or 1):
            self.close()
            raise BadInput(
                f"sweep: {workers or 1} workers with {needs} each were asked for, this Ray has room for {room}."
            )
        self.workers = workers or room
        self._files = ray.put({name: path.read_bytes() for name, path in files.items()})
        self._actor = ray.remote(max_restarts=0, max_task_retries=0, **needs)(Actor)

    def start(self, number: int) -> Handle:
        return RayHandle(self.ray, self._actor.remote(self._files))

    def close(self) -> None:
        """Leave the cluster; a Ray that was started here ends."""
        self.ray.shutdown()


def _connect(ray: Any, address: str | None, cpus: int | None) -> None:
    if ray.is_initialized():
        raise BadInput("sweep: this process is connected to a Ray already; call ray.shutdown() first.")
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR", "configure_logging": True}
    if address or os.environ.get("RAY_ADDRESS"):
        quiet.pop("include_dashboard")
        try:
            ray.init(address=address, **quiet)
        except (ConnectionError, ValueError, RuntimeError) as error:
            where = address or os.environ["RAY_ADDRESS"]
            raise BadInput(f"sweep: no Ray cluster at {where}: {error}. Start one with `ray start --head`.") from error
        return
    try:
        ray.init(num_cpus=cpus, object_store_memory=OBJECT_STORE, _node_ip_address=LOOPBACK, **quiet)
    except Exception as error:  # Ray raises a bare Exception, e.g. where its node does not come up in time
        raise WorkersLost(
            f"Ray did not start on this machine: {error} A busy machine needs another try; or use --backend local."
        ) from error


def _room(ray: Any, needs: Mapping[str, float]) -> int:
    """How many actors with these needs the nodes take; an actor lies on one node."""
    names = {"num_cpus": "CPU", "num_gpus": "GPU"}
    room = 0
    for node in ray.nodes():
        if node["Alive"]:
            has = node["Resources"]
            asked = [(has.get(names.get(name, name), 0.0), need) for name, need in needs.items() if need > 0]
            room += min((int(got / need + 1e-9) for got, need in asked), default=0)
    return room
