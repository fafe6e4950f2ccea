"""The robot's side of a policy server: `launch.robot.contract.Inference` over a websocket.

    inference = RemoteInference("ws://127.0.0.1:8765", token)
    inference.reset(seed=0, info={"task_description": "put the bowl on the plate"})
    inference.infer(observation, observed_at=time.monotonic())           # a Chunk, or TimeoutError, or ConnectionError

A lost connection is taken up again by the next call that may try (bounded back-off); until then calls fail at once. The episode
goes on: the last reset and all strengths are sent again. A server that came back with another policy or recipe is refused.
"""

from __future__ import annotations

import random
import secrets
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

from launch.packing import BadMessage
from launch.robot.contract import Chunk, Knob
from launch.server.about import About, sendable
from launch.server.messages import (
    NONCE,
    PROTOCOL,
    Answer,
    Failure,
    Greeting,
    Hello,
    Message,
    Observe,
    Ready,
    Refusal,
    Reset,
    Welcome,
    decode,
    encode,
)
from launch.server.seal import Seal, check_token, session_seals
from launch.server.server import need_websockets
from policies import errors
from policies.errors import NoAnswer, RunMismatch, ServerRefused, ServerUnreachable, SteerError

ANSWER_BYTES = 1 << 22
"""Most bytes of a message from the server."""


class Backoff:
    """When to try again: twice as long after every failure, between bounds, shortened at random so that clients do not come at once.

    Args:
        first, longest: seconds.
    """

    def __init__(self, first: float = 0.1, longest: float = 5.0) -> None:
        self.first, self.longest = first, longest
        self._delay, self.next_try = 0.0, 0.0

    def failed(self, now: float) -> None:
        self._delay = min(self.longest, max(self.first, 2 * self._delay))
        self.next_try = now + self._delay * random.uniform(0.5, 1.0)

    def succeeded(self) -> None:
        self._delay, self.next_try = 0.0, 0.0


class RemoteInference:
    """See the module's docstring. Connects when made.

    Args:
        url: "ws://host:port".
        token: of the server.
        timeout: for an answer [s].
        connect_timeout: for a connection and its handshake [s].
        name: what the server's log calls this client, unlike any other's: who comes again by the same name takes its seat back.
        fingerprint, recipe: what the server has to serve; None takes what there is, and holds on to it.
        backoff: between attempts to connect again.
    Attributes:
        about: what is served.
        reconnects: how often the connection was lost and found.
    Raises:
        ServerUnreachable, ServerRefused: see there. RunMismatch: it serves something else.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        timeout: float = 2.0,
        connect_timeout: float = 5.0,
        name: str | None = None,
        fingerprint: str | None = None,
        recipe: str | None = None,
        backoff: Backoff | None = None,
    ) -> None:
        need_websockets()
        self.url, self.timeout, self.connect_timeout = url, timeout, connect_timeout
        self.name = name or f"{socket.gethostname()[:60]}-{secrets.token_hex(4)}"
        self._token, self._expected = check_token(token), (fingerprint, recipe)
        self._backoff = backoff or Backoff()
        self._lock = threading.Lock()
        self._socket: Any = None
        self._in: Seal | None = None
        self._out: Seal | None = None
        self._request, self._number = 0, 0
        self._last_reset: tuple[int, dict[str, Any]] | None = None
        self._strengths: dict[str, float] = {}
        self.reconnects = 0
        self.about = self._connect()

    # ---- what is served

    @property
    def policy_name(self) -> str:
        return self.about.policy

    @property
    def length(self) -> int:
        return self.about.length

    @property
    def executed(self) -> int:
        return self.about.executed

    # ---- the contract

    def reset(self, seed: int, info: Mapping[str, Any]) -> None:
        """Start an episode."""
        with self._lock:
            self._last_reset, self._number = (int(seed), sendable(info)), 0
            if not self._connected():  # connecting sends the reset
                self._send_reset()

    def infer(self, observation: Mapping[str, Any], observed_at: float, steered: bool = True) -> Chunk:
        """The chunk that starts with this observation.

        Raises:
            NoAnswer: not in time (a TimeoutError). ServerUnreachable, ServerRefused: nobody there (ConnectionErrors).
            BadInput, NonFinite, ...: what the policy says about the observation.
        """
        self.about.check_observation(observation)
        with self._lock:
            self._connected()
            request = Observe(self._next(), dict(observation), float(observed_at), steered, dict(self._strengths))
            answer = self._ask(request, Answer)
            self._number += 1
            measures = {
                **answer.measures,
                "server_s": answer.seconds,
                "skipped": answer.skipped,
                "reconnects": self.reconnects,
            }
            return Chunk(answer.actions, self.about.dt, observed_at, answer.steered, measures, self._number - 1)

    def set_strength(self, part: str, value: float) -> None:
        """Change a part's strength, from the next observation on; may be called from any thread.

        Raises:
            BadInput: no such part, or beyond the recipe's limits.
        """
        self._strengths = {**self._strengths, part: self.about.check_strength(part, value)}

    def knobs(self) -> list[Knob]:
        """The strengths now, with their limits."""
        return [
            Knob(part, self._strengths.get(part, one.value), one.low, one.high)
            for part, one in self.about.strengths.items()
        ]

    def close(self) -> None:
        """Leave the seat."""
        with self._lock:
            if self._socket is not None:
                self._socket.close()
            self._socket = None
            self._backoff.next_try = float("inf")

    # ---- connecting

    def _connected(self) -> bool:
        """Make sure of a connection; True if it is new."""
        if self._socket is not None:
            return False
        now = time.monotonic()
        if now < self._backoff.next_try:
            wait = self._backoff.next_try - now
            raise ServerUnreachable(f"the policy server at {self.url} is lost; the next attempt is in {wait:.1f} s.")
        about = self._connect()
        if (about.fingerprint, about.recipe, about.action) != (
            self.about.fingerprint,
            self.about.recipe,
            self.about.action,
        ):
            self._lost()
            raise RunMismatch(
                f"{self.url} now serves {about.policy} ({about.fingerprint}, recipe {about.recipe or 'none'}) instead of "
                f"{self.about.policy} ({self.about.fingerprint}, recipe {self.about.recipe or 'none'}); start this client anew."
            )
        self.reconnects += 1
        if self._last_reset is not None:
            self._send_reset()
        return True

    def _connect(self) -> About:
        """Open the connection and shake hands."""
        from websockets.exceptions import WebSocketException
        from websockets.sync.client import connect

        try:
            manager = connect(
                self.url, compression=None, max_size=ANSWER_BYTES, max_queue=16, open_timeout=self.connect_timeout, close_timeout=1.0,
                ping_interval=2.0, ping_timeout=4.0, proxy=None, user_agent_header=None,
            )  # fmt: skip
            self._socket = manager.__enter__()  # `close` and `_lost` leave it
            self._bound_sending()
            about = self._shake_hands()
        except (OSError, WebSocketException, BadMessage) as error:
            self._lost()
            if isinstance(error, SteerError) and not isinstance(error, BadMessage):
                raise
            raise ServerUnreachable(
                f"no policy server at {self.url} ({error or type(error).__name__}); is `steer-agents serve` running there?"
            ) from None
        except SteerError:
            self._lost()
            raise
        self._backoff.succeeded()
        return about

    def _bound_sending(self) -> None:
        """A server that does not read must not hold the client for longer than an answer may take."""
        seconds, fraction = divmod(max(self.timeout, 0.1), 1)
        value = struct.pack("ll", int(seconds), int(fraction * 1e6))
        self._socket.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)

    def _shake_hands(self) -> About:
        greeting: Greeting = decode(self._socket.recv(self.connect_timeout, decode=False), Greeting, Refusal)
        if isinstance(greeting, Refusal):
            raise ServerRefused(f"{self.url}: {greeting.reason}")
        if greeting.protocol != PROTOCOL:
            raise ServerRefused(
                f"{self.url} speaks protocol {greeting.protocol}, this client {PROTOCOL}; install the same version on both machines."
            )
        nonce = secrets.token_bytes(NONCE)
        self._in, self._out = session_seals(self._token, greeting.nonce, nonce)
        self._socket.send(nonce + self._out.close(encode(Hello(PROTOCOL, nonce, self.name))))
        data = self._socket.recv(self.connect_timeout, decode=False)
        try:
            welcome = decode(self._in.open(data), Welcome, Refusal)
        except BadMessage:
            welcome = _unsealed_refusal(data)
        if isinstance(welcome, Refusal):
            raise ServerRefused(f"{self.url}: {welcome.reason}")
        about = About.from_message(welcome.about)
        for what, wanted, found in zip(
            ("fingerprint", "recipe"), self._expected, (about.fingerprint, about.recipe), strict=True
        ):
            if wanted is not None and wanted != found:
                raise RunMismatch(
                    f"{self.url} serves {about.policy} with {what} {found or 'none'!r}, expected is {wanted!r}."
                )
        return about

    def _lost(self) -> None:
        """Forget the connection."""
        if self._socket is not None:
            self._socket.close_timeout = 0.1
            self._socket.close()
        self._socket = self._in = self._out = None
        self._backoff.failed(time.monotonic())

    # ---- asking

    def _next(self) -> int:
        self._request += 1
        return self._request

    def _send_reset(self) -> None:
        assert self._last_reset is not None
        seed, info = self._last_reset
        self._ask(Reset(self._next(), seed, info), Ready)

    def _ask(self, message: Reset | Observe, wanted: type[Any]) -> Any:
        """Send a request and wait for its answer; answers to earlier ones that came too late are passed over."""
        from websockets.exceptions import WebSocketException

        deadline = time.monotonic() + self.timeout
        assert self._out is not None
        assert self._in is not None
        try:
            self._socket.send(self._out.close(encode(message)))
            while True:
                data = self._socket.recv(max(0.0, deadline - time.monotonic()), decode=False)
                reply: Message = decode(self._in.open(data), wanted, Ready, Answer, Failure, Refusal)
                if isinstance(reply, Refusal):
                    self._lost()
                    raise ServerRefused(f"{self.url}: {reply.reason}")
                if isinstance(reply, Failure) and reply.request == message.request:
                    raise _error_of(reply)
                if isinstance(reply, wanted) and reply.request == message.request:
                    return reply
        except SteerError as error:
            if isinstance(error, BadMessage):
                self._lost()
                raise ServerUnreachable(f"{self.url} sent what no policy server sends ({error})") from None
            raise
        except TimeoutError:
            raise NoAnswer(f"{self.url} gave no answer within {self.timeout:g} s.") from None
        except (OSError, WebSocketException) as error:
            self._lost()
            raise ServerUnreachable(
                f"the connection to {self.url} was lost ({error or type(error).__name__})."
            ) from None


def _unsealed_refusal(data: bytes) -> Refusal:
    """A server that does not believe in our token cannot seal what it says."""
    try:
        refusal: Refusal = decode(data, Refusal)
    except BadMessage:
        return Refusal("the answer was not sealed with our token; compare the tokens of both sides.")
    return Refusal(f"{refusal.reason} Compare the tokens of both sides.")


def _error_of(failure: Failure) -> SteerError:
    """The error that the server's policy raised, by its name in our tree."""
    kind = getattr(errors, failure.error, None)
    if isinstance(kind, type) and issubclass(kind, SteerError):
        return kind(failure.reason)
    return ServerRefused(failure.reason)
