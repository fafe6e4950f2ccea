"""A Robotiq two-finger gripper on a Universal Robots arm, through the text server of its URCap (port 63352).

SET POS 255  ->  ack          GET POS  ->  POS 255           positions 0 (open) to 255 (closed)
"""

from __future__ import annotations

import socket
import time

from policies.errors import NonFinite, RobotFault

PORT = 63352
_LAST = 255
_ACTIVE = 3


class Robotiq:
    """One gripper.

    Args:
        host: of the arm's controller.
        port: of the URCap.
        timeout: for an answer [s].
        activation_s: until it has found its end positions [s].
    Raises:
        RobotFault: no answer, or another one than expected.
    """

    def __init__(self, host: str, port: int = PORT, timeout: float = 0.5, activation_s: float = 10.0) -> None:
        self._asked: int | None = None
        try:
            self._socket = socket.create_connection((host, port), timeout)
        except OSError as error:
            raise RobotFault(
                f"gripper: nobody answers at {host}:{port} ({error}); is Robotiq's URCap installed?"
            ) from None
        self._socket.settimeout(timeout)
        try:
            self._activate(activation_s)
        except BaseException:
            self.close()
            raise

    def _activate(self, seconds: float) -> None:
        if self._get("STA") != _ACTIVE:
            self._set("ACT", 1)
        deadline = time.monotonic() + seconds
        while self._get("STA") != _ACTIVE:
            if time.monotonic() > deadline:
                raise RobotFault(f"gripper: not activated after {seconds:g} s; look at its light, free its fingers.")
            time.sleep(0.05)
        self._set("GTO", 1)

    def move(self, closed: float) -> None:
        """Go towards an opening, 0 (open) to 1 (closed); returns at once, values beyond are clipped."""
        if closed != closed:
            raise NonFinite("gripper: got NaN.")
        wanted = round(min(max(closed, 0.0), 1.0) * _LAST)
        if wanted != self._asked:
            self._set("POS", wanted)
            self._asked = wanted

    def position(self) -> float:
        """How far it is closed, 0 to 1."""
        return self._get("POS") / _LAST

    def close(self) -> None:
        """End the connection; the gripper stays as it is."""
        self._socket.close()

    def _set(self, name: str, value: int) -> None:
        if (answer := self._ask(f"SET {name} {value}")) != "ack":
            raise RobotFault(f"gripper: SET {name} {value} was answered by {answer!r}.")

    def _get(self, name: str) -> int:
        answer = self._ask(f"GET {name}")
        word, _, value = answer.partition(" ")
        if word != name or not value.isdigit():
            raise RobotFault(f"gripper: GET {name} was answered by {answer!r}.")
        return int(value)

    def _ask(self, text: str) -> str:
        try:
            self._socket.sendall(f"{text}\n".encode())
            answer = self._socket.recv(64)
        except OSError as error:
            raise RobotFault(f"gripper: no answer to {text!r} ({error or type(error).__name__}).") from None
        if not answer:
            raise RobotFault("gripper: the connection was closed.")
        return answer.decode("ascii", "replace").strip()
