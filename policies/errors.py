"""Every error of the project, in one tree.

Each class is also the builtin that a caller would expect to catch (`UnknownSite` is a `LookupError`), and each message
says what was asked, what was got, what is allowed and what to do next. `nearest` builds the "did you mean" part.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: object, allowed: Iterable[object]) -> str:
    """Return "; did you mean 'x'? Allowed: a, b, c" for an unknown `name`, nearest spelling first."""
    options = list(dict.fromkeys(map(str, allowed)))
    close = difflib.get_close_matches(str(name), options, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else "."
    return f"{hint} Allowed: {', '.join(options) or '(none)'}"


class SteerError(Exception):
    """Root of everything that this project raises on purpose."""


class BadInput(SteerError, ValueError):
    """An argument has a value that is not allowed."""


class UnknownName(SteerError, LookupError):
    """A registered thing (policy, experiment, method, agent) was asked for by a name that does not exist."""


class UnknownSite(UnknownName):
    """A site kind, stack or layer that this model does not have."""


class DeadSite(UnknownSite):
    """A site that exists, but nothing that is written there can reach the action."""


class UnknownArchitecture(UnknownName):
    """No site map describes this model."""


class SiteNeverFired(SteerError, RuntimeError):
    """A hook was attached but its module was not called: steering would have been a silent no-op."""


class WrongWidth(SteerError, ValueError):
    """A direction's width differs from the activation's width at its site."""


class WrongModel(SteerError, ValueError):
    """A direction was made for another model than the one it is applied to."""


class NonFinite(SteerError, ArithmeticError):
    """A NaN or infinity where a number is needed (a direction, an activation, an action)."""


class BadArtifact(SteerError, ValueError):
    """A file that is truncated, tampered with, of an unknown schema, or not an artifact at all."""


class HubError(SteerError, OSError):
    """The Hugging Face Hub could not be reached, or refused; the message says what to do about it."""


class EndpointError(SteerError, OSError):
    """A language model behind an endpoint was down or slow, refused, or gave no usable answer in the tries it had."""


class NotBakeable(SteerError, TypeError):
    """This steering cannot be folded into weights; the message says why."""


class MissingEntrance(SteerError, TypeError):
    """A steering part needs an entrance (modules, decision, noise, path) that the policy lacks."""


class MissingExtra(SteerError, ImportError):
    """An optional dependency is needed; the message names the command that installs it."""


class RunMismatch(SteerError, ValueError):
    """A run folder holds another run (other policy, seed, steering) than the one asked to resume."""


class TooLarge(SteerError, MemoryError):
    """A model does not fit into the memory of the device it was asked for; the message has the numbers."""


class EngineMismatch(SteerError, AssertionError):
    """A self-check of the engine failed (doctor, bake report): the numbers it would give are not to be trusted."""


class ServerUnreachable(SteerError, ConnectionError):
    """Nobody answers where a policy server should be, or the connection was lost."""


class ServerRefused(SteerError, ConnectionError):
    """A policy server turned this client away; the message has its reason."""


class NoAnswer(SteerError, TimeoutError):
    """A policy server did not answer in time."""


class RobotFault(SteerError, ConnectionError):
    """A robot stopped itself, cannot be reached, or refuses to move; the message says what to do at the machine."""


class WorkersLost(SteerError, RuntimeError):
    """The workers of a sweep die before they can work, or their engine does not start; the message says what happened to the last."""
