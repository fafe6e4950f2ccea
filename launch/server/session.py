"""One client's session at the server, as a state machine over bytes: no socket, no clock, no policy.

`receive` takes whatever came and gives a message to act on, or raises `BadMessage`, after which the session is over. What waits for the
policy is at most one reset and one observation: a newer one takes the place of an older one that nobody has looked at yet.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass

from launch.packing import BadMessage
from launch.server.about import About
from launch.server.messages import (
    NONCE,
    PROTOCOL,
    Greeting,
    Hello,
    Message,
    Observe,
    Reset,
    Welcome,
    decode,
    encode,
)
from launch.server.seal import Seal, session_seals

HELLO_BYTES = 1024
"""Most bytes of a message from someone who has not shown the token."""


class TooFast(BadMessage):
    """More messages than are allowed in the time."""


@dataclass
class Rate:
    """A token bucket.

    Args:
        per_second: messages, in the long run.
        burst: messages at once.
    """

    per_second: float = 200.0
    burst: float = 50.0

    def __post_init__(self) -> None:
        self._left, self._at = self.burst, 0.0

    def take(self, now: float) -> None:
        """Count one message at time `now` [s].

        Raises:
            TooFast: the bucket is empty.
        """
        self._left = min(self.burst, self._left + (now - self._at) * self.per_second)
        self._at = now
        if self._left < 1:
            raise TooFast(f"more than {self.per_second:g} messages a second; send observations at the rate of control.")
        self._left -= 1


class Session:
    """See the module's docstring.

    Args:
        token: that the client has to have.
        about: what is served.
        rate: of messages.
    Attributes:
        name: what the client calls itself, None before it has shown the token.
        skipped: observations that were overtaken.
    """

    def __init__(self, token: str, about: About, rate: Rate | None = None) -> None:
        self.about, self.name, self.skipped = about, None, 0
        self._token, self._rate = token, rate or Rate()
        self._nonce = secrets.token_bytes(NONCE)
        self._out: Seal | None = None
        self._in: Seal | None = None
        self._latest = -1  # number of the last request
        self._reset: Reset | None = None
        self._observe: Observe | None = None

    name: str | None

    def greeting(self) -> bytes:
        """What is sent first."""
        return encode(Greeting(PROTOCOL, self._nonce))

    def say(self, message: Message) -> bytes:
        """Bytes to send, sealed as soon as there are keys; call it in the order of sending."""
        body = encode(message)
        return body if self._out is None else self._out.close(body)

    def receive(self, data: bytes, now: float) -> Message | None:
        """Take what came.

        Args:
            data: one whole message.
            now: seconds.
        Returns:
            what to answer at once, None where the answer is the policy's (`next_task`).
        Raises:
            BadMessage: the session is over; the text may be sent to the client.
        """
        self._rate.take(now)
        if self._in is None:
            return self._welcome(data)
        if len(data) > self.about.message_bytes:
            raise BadMessage(
                f"a message of {len(data)} bytes; observations of this policy take up to {self.about.message_bytes}."
            )
        message = decode(self._in.open(data), Reset, Observe)
        if message.request <= self._latest:
            raise BadMessage(f"request {message.request} came after {self._latest}; requests count up.")
        self._latest = message.request
        if isinstance(message, Reset):
            self._reset, overtaken, self._observe = message, self._observe, None
        else:
            overtaken, self._observe = self._observe, message
        self.skipped += overtaken is not None
        return None

    def _welcome(self, data: bytes) -> Message:
        """Check the client's first message: its nonce is needed to check the seal, so it stands outside of it too."""
        if len(data) > HELLO_BYTES:
            raise BadMessage(f"the first message has {len(data)} bytes, at most {HELLO_BYTES} are allowed.")
        nonce, sealed = data[:NONCE], data[NONCE:]
        out, inward = session_seals(self._token, self._nonce, nonce)
        hello: Hello = decode(inward.open(sealed), Hello)
        if hello.nonce != nonce:
            raise BadMessage("the nonce of a Hello is not the one that it came with.")
        if hello.protocol != PROTOCOL:
            raise BadMessage(
                f"this server speaks protocol {PROTOCOL}, the client {hello.protocol}; install the same version on both."
            )
        if not 0 < len(hello.name) <= 100:
            raise BadMessage("a client's name has 1 to 100 characters.")
        self._out, self._in, self.name = out, inward, hello.name
        return Welcome(self.about.to_message())

    @property
    def waiting(self) -> bool:
        """Whether something waits for the policy."""
        return self._reset is not None or self._observe is not None

    def next_task(self) -> Reset | Observe | None:
        """Take what waits for the policy, a reset first."""
        task: Reset | Observe | None
        if self._reset is not None:
            task, self._reset = self._reset, None
        else:
            task, self._observe = self._observe, None
        return task
