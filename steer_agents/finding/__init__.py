"""Finding directions: one file per family of methods, all of them give the same `Direction`. See the README.md here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from steer_agents import methods

if TYPE_CHECKING:
    from steer_agents.direction import Direction

FINDING = ("find", "control")
"""Kinds of methods that give a direction; what is learned may also be a map or a controller, see `steer_agents.learning`."""


def find(target: Any, method: str, **options: Any) -> Direction:
    """Find a direction on a policy or torch module.

    Args:
        target: a policy, a torch module, or a `Steerable`.
        method: of the kinds `FINDING`, see `steer_agents.methods`.
        options: the method's own arguments, see its docstring.
    Raises:
        UnknownName: no such method; the message lists those that exist.
        BadInput: an option that the method does not have, or one that it needs is missing.
    """
    found: Direction = methods.call("find", target, method, FINDING, options)
    return found
