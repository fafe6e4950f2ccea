"""Sealed messages: who has the token, in which order, in which session.

Each side draws a nonce; both derive one key per direction from the token and the two nonces (HKDF with SHA-256, RFC 5869: one extract,
one expand block). A sealed message is

    BLAKE2b(sequence || body; key, 32 bytes) || sequence (uint64, big-endian) || body

with keyed BLAKE2b (RFC 7693), which is fast on pictures also where the processor knows no SHA, and is opened only if its sequence number
is the next one. So a message without the token, changed on its way, repeated, left out, put in another order, sent back to where it came
from, or recorded in another session is refused, before anything in it is decoded. The token itself never travels. Nothing is encrypted:
over a network that others can read, go through a tunnel (ssh -L, WireGuard).
"""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import stat
from pathlib import Path

from launch.packing import BadMessage
from policies.errors import BadInput
from steer_agents.runs import write_text

TAG, SEQUENCE = 32, 8
"""Bytes of the authentication code and of the sequence number."""
TOKEN_CHARACTERS = 32
"""Least length of a token."""
_TO_CLIENT, _TO_SERVER = b"steer-agents to client", b"steer-agents to server"


class Unsealed(BadMessage):
    """A message that was not sealed by someone with the token, in this session, in this order."""


class Seal:
    """One direction of one session."""

    def __init__(self, key: bytes) -> None:
        self._key, self._sequence = key, 0

    def close(self, body: bytes) -> bytes:
        """The sealed message, with the next sequence number."""
        rest = self._sequence.to_bytes(SEQUENCE, "big") + body
        self._sequence += 1
        return self._tag(rest) + rest

    def open(self, sealed: bytes) -> bytes:
        """The body.

        Raises:
            Unsealed: see the module's docstring; it does not say which of the reasons.
        """
        tag, rest = sealed[:TAG], sealed[TAG:]
        good = hmac.compare_digest(tag, self._tag(rest))  # in constant time
        if not good or rest[:SEQUENCE] != self._sequence.to_bytes(SEQUENCE, "big"):
            raise Unsealed("a message is not sealed with this session's token and number.")
        self._sequence += 1
        return rest[SEQUENCE:]

    def _tag(self, rest: bytes) -> bytes:
        return hashlib.blake2b(rest, key=self._key, digest_size=TAG).digest()


def session_seals(token: str, server_nonce: bytes, client_nonce: bytes) -> tuple[Seal, Seal]:
    """(to the client, to the server) of one session; both sides call this."""
    secret = hmac.digest(server_nonce + client_nonce, token.encode(), "sha256")
    to_client, to_server = (
        hmac.new(secret, info + b"\x01", hashlib.sha256).digest() for info in (_TO_CLIENT, _TO_SERVER)
    )
    return Seal(to_client), Seal(to_server)


def new_token() -> str:
    """A token of 256 bits, as text that can be copied."""
    return secrets.token_urlsafe(32)


def read_token(path: str | Path, make: bool = False) -> str:
    """The token in a file.

    Args:
        path: a file that only its owner can read.
        make: write a new token where there is no file.
    Raises:
        BadInput: no such file, one that others can read, or a token that is too short.
    """
    path = Path(path).expanduser()
    if make and not path.exists():
        before = os.umask(0o077)
        try:
            write_text(path, new_token() + "\n")
        finally:
            os.umask(before)
    if not path.is_file():
        raise BadInput(
            f"token: {path} is no file; write a token into it (`openssl rand -hex 32`), readable by you alone."
        )
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise BadInput(
            f"token: others can read {path}; run `chmod 600 {path}`, and change the token if others may have seen it."
        )
    return check_token(path.read_text(encoding="utf-8").strip())


def check_token(token: str) -> str:
    """The token, if it is long enough to be one.

    Raises:
        BadInput: shorter than `TOKEN_CHARACTERS`.
    """
    if len(token) < TOKEN_CHARACTERS:
        raise BadInput(
            f"token: needs at least {TOKEN_CHARACTERS} characters, got {len(token)}; `openssl rand -hex 32` makes one."
        )
    return token
