"""The errors that environments raise on purpose.

`envs` imports neither `policies` nor `steer_agents`, so it has its own classes. All are also what a caller of gymnasium
expects to catch, and their messages say what was asked, what is allowed and what to do next.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

import gymnasium as gym


class BadSetting(gym.error.Error, ValueError):
    """An environment was made or reset with a value that is not allowed."""


class BadAction(gym.error.InvalidAction, ValueError):
    """An action outside the environment's action space."""


class UnknownTask(BadSetting, LookupError):
    """A task, suite or task_id that does not exist."""


class BadInitState(BadSetting):
    """An initial state, or a file of them, that does not fit its task."""


class BadState(BadSetting):
    """A saved state that belongs to another task or another scene."""


class MissingExtra(gym.error.DependencyNotInstalled, ImportError):
    """An environment needs packages or files that are not installed; the message names the command that installs them."""


class NoRenderer(gym.error.Error, RuntimeError):
    """Pictures were asked for on a machine that cannot draw."""


class PhysicsDiverged(gym.error.Error, ArithmeticError):
    """The simulation left the finite numbers; the message names the file that holds the last states."""


def nearest(name: object, allowed: Iterable[object]) -> str:
    """Return "; did you mean 'x'? Allowed: a, b, c" for an unknown `name`, nearest spelling first.

    >>> nearest("botons", ["buttons", "slots"])
    "; did you mean 'buttons'? Allowed: buttons, slots"
    """
    options = [str(option) for option in allowed]
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Allowed: {', '.join(options) or '(none)'}"
