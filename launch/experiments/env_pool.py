"""Environments that are costly to build, kept for the next run: a scene of LIBERO takes seconds to compile and much memory."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from typing import Any

import gymnasium as gym


class Pool:
    """Makes environments; closing one puts it back instead.

    Args:
        make: a new environment.
        what: says what it makes, for the record of a run.
    """

    def __init__(self, make: Callable[[], gym.Env], what: str) -> None:
        self._make, self._what = make, what
        self._idle: list[gym.Env] = []
        atexit.register(self.close)

    def __repr__(self) -> str:
        return f"Pool({self._what})"

    def __call__(self) -> gym.Env:
        """One that nobody uses, or a new one."""
        return _Lent(self._idle.pop() if self._idle else self._make(), self._idle)

    def close(self) -> None:
        """Close those that nobody uses."""
        while self._idle:
            self._idle.pop().close()


class _Lent(gym.Wrapper[Any, Any, Any, Any]):
    def __init__(self, env: gym.Env, idle: list[gym.Env]) -> None:
        super().__init__(env)
        self._idle: list[gym.Env] | None = idle

    def close(self) -> None:
        """Put it back, once."""
        if self._idle is not None:
            self._idle.append(self.env)
            self._idle = None
