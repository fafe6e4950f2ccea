"""A websocket server that lends policies to robots without a GPU.

    with PolicyServer([PolicyInference(policy, dt=0.05)], about, token) as server:
        RemoteInference(server.url, token)

One thread runs the sockets, one other thread runs all policies, one request at a time, clients in turn. Every client has a seat: a policy
of its own, since a policy holds the state of its episode. A client that does not read what it is sent, or breaks the protocol, loses its
connection and nobody else notices.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from launch.packing import BadMessage
from launch.robot.contract import Inference
from launch.server.about import About, check_info
from launch.server.messages import Answer, Failure, Message, Observe, Ready, Refusal, Reset
from launch.server.seal import check_token
from launch.server.session import Rate, Session
from policies.errors import BadInput, MissingExtra, NonFinite, SteerError

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Settings:
    """What a server allows.

    Args:
        messages_per_second, burst: of one client.
        handshake_s: until a new connection has shown the token [s].
        send_s: until a client has read what it was sent [s].
        outbox: messages that wait for a client which does not read.
        ping_s: a client that does not answer a ping for so long is gone [s].
        max_connections: at once, those without the token included.
    """

    messages_per_second: float = 200.0
    burst: float = 50.0
    handshake_s: float = 5.0
    send_s: float = 2.0
    outbox: int = 8
    ping_s: float = 5.0
    max_connections: int = 32


class _Seat:
    """A policy and the strengths that it has now."""

    def __init__(self, inference: Inference, about: About) -> None:
        self.inference, self.about = inference, about
        self.strengths = {part: limits.value for part, limits in about.strengths.items()}
        self.taken, self.is_reset = False, False

    def run(self, task: Reset | Observe, skipped: int) -> Message:
        """Ask the policy; runs in the thread of the policies."""
        try:
            return self._run(task, skipped)
        except SteerError as error:
            return Failure(task.request, type(error).__name__, str(error)[:2000])
        except Exception as error:
            _LOG.exception("the policy raised")
            return Failure(task.request, "Error", f"the policy raised {type(error).__name__}: {error}"[:2000])

    def _run(self, task: Reset | Observe, skipped: int) -> Message:
        if isinstance(task, Reset):
            check_info(task.info)
            self.inference.reset(task.seed, task.info)
            self.is_reset = True
            return Ready(task.request)
        if not self.is_reset:
            raise BadInput("an observation came before the first reset; send Reset first.")
        self.about.check_observation(task.observation)
        asked = {part: limits.value for part, limits in self.about.strengths.items()}
        asked |= {part: self.about.check_strength(part, value) for part, value in task.strengths.items()}
        for part, value in asked.items():
            if value != self.strengths[part]:
                self.inference.set_strength(part, value)
                self.strengths[part] = value
        began = time.perf_counter()
        chunk = self.inference.infer(task.observation, task.observed_at, task.steered)
        actions = np.asarray(chunk.actions, dtype=np.float32)
        if actions.ndim != 2 or actions.shape[1] != len(self.about.action) or not len(actions):
            raise BadInput(
                f"the policy gave actions of shape {actions.shape}; announced are {len(self.about.action)} entries."
            )
        if not np.isfinite(actions).all():
            raise NonFinite("the policy gave NaN or infinite actions; lower the strength.")
        measures = {str(name): float(value) for name, value in chunk.measures.items()}
        return Answer(task.request, actions, task.steered, time.perf_counter() - began, measures, skipped)


class _Connection:
    """A client: its session, its seat, and what waits to be sent."""

    def __init__(self, socket: Any, session: Session, outbox: int) -> None:
        self.socket, self.session = socket, session
        self.seat: _Seat | None = None
        self.outbox: asyncio.Queue[Message] = asyncio.Queue(outbox)
        self.queued, self.closed = False, False

    def say(self, message: Message) -> None:
        """Queue a message; a full queue ends the connection."""
        try:
            self.outbox.put_nowait(message)
        except asyncio.QueueFull:
            self.drop("does not read what it is sent")

    def drop(self, why: str) -> None:
        """Cut the connection now, without waiting for the client."""
        if not self.closed:
            self.closed = True
            _LOG.warning("client %s %s; dropped", self.session.name, why)
            self.socket.transport.abort()

    async def send(self, timeout: float) -> None:
        """Send what is queued, in order, until the connection ends."""
        from websockets.exceptions import ConnectionClosed

        while True:
            message = await self.outbox.get()
            try:
                await asyncio.wait_for(self.socket.send(self.session.say(message)), timeout)
            except TimeoutError:
                self.drop("does not read what it is sent")
                return
            except (ConnectionClosed, OSError):  # its reader says so
                return


class PolicyServer:
    """See the module's docstring.

    Args:
        seats: one policy per client that may come.
        about: what is served; the same for all seats.
        token: that clients need, at least 32 characters.
        host: an address of this machine; others than loopback are reachable from the network.
        port: 0 takes a free one.
        settings: what is allowed.
    Attributes:
        url: "ws://host:port".
        counts: connections, refused, answers, failures, dropped.
    """

    def __init__(
        self,
        seats: Sequence[Inference],
        about: About,
        token: str,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
        settings: Settings | None = None,
    ) -> None:
        if not seats:
            raise BadInput("policy server: needs at least one policy.")
        need_websockets()
        self.about, self.settings = about, settings or Settings()
        self._token, self._host, self._port = check_token(token), host, port
        self._seats = [_Seat(inference, about) for inference in seats]
        self._policies = ThreadPoolExecutor(1, "policies")
        self._connections: set[_Connection] = set()
        self.counts = {"connections": 0, "refused": 0, "answers": 0, "failures": 0, "dropped": 0}
        self._started = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._serve, name="policy server", daemon=True)

    @property
    def url(self) -> str:
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"ws://{host}:{self._port}"

    def __enter__(self) -> Self:
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise BadInput(
                f"policy server: cannot listen on {self._host}:{self._port} ({self._error}); choose another port or host."
            )
        return self

    def __exit__(self, *error: object) -> None:
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self._policies.shutdown(wait=True, cancel_futures=True)
        for seat in self._seats:
            seat.inference.close()

    def _serve(self) -> None:
        try:
            asyncio.run(self._main())
        except OSError as error:
            self._error = error
        finally:
            self._started.set()

    async def _main(self) -> None:
        from websockets.asyncio.server import serve

        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        self._ready: asyncio.Queue[_Connection] = asyncio.Queue()
        async with serve(
            self._client, self._host, self._port,
            origins=[None],  # browsers send an Origin: no page may speak to a policy
            compression=None,  # nothing that grows when it is unpacked
            max_size=self.about.message_bytes + 256, max_queue=4, open_timeout=self.settings.handshake_s,
            ping_interval=self.settings.ping_s, ping_timeout=self.settings.ping_s, close_timeout=1.0, server_header=None,
        ) as server:  # fmt: skip
            self._port = next(iter(server.sockets)).getsockname()[1]
            worker = asyncio.create_task(self._work())
            self._started.set()
            await self._stop.wait()
            worker.cancel()
            for connection in self._connections:
                connection.closed = True
                connection.socket.transport.abort()

    async def _work(self) -> None:
        """Give the policies one task at a time, clients in turn."""
        while True:
            connection = await self._ready.get()
            connection.queued = False
            task, seat = connection.session.next_task(), connection.seat
            if connection.closed or task is None or seat is None:
                continue
            reply = await self._loop.run_in_executor(self._policies, seat.run, task, connection.session.skipped)
            self.counts["failures" if isinstance(reply, Failure) else "answers"] += 1
            connection.say(reply)
            self._queue(connection)

    def _queue(self, connection: _Connection) -> None:
        if connection.session.waiting and not connection.queued:
            connection.queued = True
            self._ready.put_nowait(connection)

    async def _client(self, socket: Any) -> None:
        """One connection from its beginning to its end."""
        from websockets.exceptions import ConnectionClosed

        rate = Rate(self.settings.messages_per_second, self.settings.burst)
        connection = _Connection(socket, Session(self._token, self.about, rate), self.settings.outbox)
        self.counts["connections"] += 1
        self._connections.add(connection)
        sender: asyncio.Task[None] | None = None
        try:
            if len(self._connections) > self.settings.max_connections:
                raise BadMessage("this server has too many connections; try again later.")
            await socket.send(connection.session.greeting())
            first = await asyncio.wait_for(socket.recv(), self.settings.handshake_s)
            welcome = connection.session.receive(_binary(first), time.monotonic())
            assert welcome is not None
            connection.seat = self._take_seat(connection.session.name)
            _LOG.info("client %s came", connection.session.name)
            sender = asyncio.create_task(connection.send(self.settings.send_s))
            connection.say(welcome)
            async for data in socket:
                connection.session.receive(_binary(data), time.monotonic())
                self._queue(connection)
        except BadMessage as error:
            self.counts["refused"] += 1
            _LOG.warning("client %s refused: %s", connection.session.name, error)
            if sender is not None:
                sender.cancel()
            with contextlib.suppress(Exception):
                await asyncio.wait_for(
                    socket.send(connection.session.say(Refusal(str(error)[:500]))), self.settings.send_s
                )
        except (ConnectionClosed, TimeoutError, OSError):
            pass
        finally:
            self.counts["dropped"] += connection.closed
            connection.closed = True
            self._connections.discard(connection)
            if sender is not None:
                sender.cancel()
            if connection.seat is not None:
                connection.seat.taken = connection.seat.is_reset = False

    def _take_seat(self, name: str | None) -> _Seat:
        """A free seat; or the one that this very client holds with a connection that it has lost, and the server not yet."""
        for seat in self._seats:
            if not seat.taken:
                seat.taken = True
                return seat
        for other in self._connections:
            if other.seat is not None and other.session.name == name:
                held, other.seat = other.seat, None
                other.drop("came again")
                held.is_reset = False
                return held
        raise BadMessage(f"all {len(self._seats)} seats of this server are taken; start it with more of them, or wait.")


def _binary(data: Any) -> bytes:
    if not isinstance(data, bytes):
        raise BadMessage("messages are binary.")
    return data


def need_websockets() -> None:
    """Say how to install what is missing."""
    import importlib.util

    if importlib.util.find_spec("websockets") is None:
        raise MissingExtra(
            "the policy server needs 'websockets', which is not installed; pip install 'steer-agents[server]'."
        )
