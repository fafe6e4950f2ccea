"""Learning on a frozen model: directions, maps and controllers by gradients. See the README.md here."""

from __future__ import annotations

from typing import Any

from steer_agents import methods


def learn(target: Any, method: str, **options: Any) -> Any:
    """Learn a direction, a map or a controller on a policy or torch module, which stays as it is.

    Args:
        target: a policy, a torch module, or a `Steerable`.
        method: of the kind "learn", see `steer_agents.methods`.
        options: the method's own arguments, see its docstring.
    Raises:
        UnknownName: no such method; the message lists those that exist.
        BadInput: an option that the method does not have, or one that it needs is missing.
    """
    return methods.call("learn", target, method, ("learn",), options)
