"""`steer-agents serve`: from a recipe to a running policy server."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from launch.loopback import is_loopback
from launch.policy_inference import PolicyInference
from launch.robot.contract import Knob
from launch.server.about import About, Feature, Limits, fingerprint
from launch.server.seal import new_token, read_token
from launch.server.server import PolicyServer
from policies.base import Policy
from policies.errors import BadInput
from steer_agents.steerer import Steerer

PORT = 8765
"""Where a server listens unless another port is asked for."""


class Servable(Protocol):
    """What a recipe has to say so that it can be served.

    Attributes:
        policy, steerer: loaded; the steerer may be None.
        digest: of the recipe, "" without a file.
        dt: seconds between two actions.
        limits: part -> (lowest, highest) strength that an operator may choose.
        strengths: part -> strength of the recipe.
        observation: name -> feature, "pixels/agentview" for nested ones.
        action: names of the action's entries.

    It may also have `turn`, how a strength is changed (`launch.policy_inference`); without it only those of activation parts can be.
    """

    @property
    def policy(self) -> Policy: ...

    @property
    def steerer(self) -> Steerer | None: ...

    @property
    def digest(self) -> str: ...

    @property
    def dt(self) -> float: ...

    @property
    def limits(self) -> Mapping[str, tuple[float, float]]: ...

    @property
    def strengths(self) -> Mapping[str, float]: ...

    @property
    def observation(self) -> Mapping[str, Feature]: ...

    @property
    def action(self) -> tuple[str, ...]: ...


def about_of(recipe: Servable) -> About:
    """What is said of a recipe in the handshake.

    Raises:
        BadInput: limits without a strength, or a strength beyond its limits.
    """
    if recipe.limits.keys() - recipe.strengths.keys():
        raise BadInput(f"serve: limits without a strength: {sorted(recipe.limits.keys() - recipe.strengths.keys())}.")
    seat = seat_of(recipe)
    return About(
        policy=recipe.policy.name, fingerprint=fingerprint(recipe.policy.describe()), recipe=recipe.digest, dt=recipe.dt,
        observation=dict(recipe.observation), action=tuple(recipe.action),
        strengths={part: Limits(recipe.strengths[part], low, high) for part, (low, high) in recipe.limits.items()},
        length=seat.length, executed=seat.executed,
    )  # fmt: skip


def seat_of(recipe: Servable) -> PolicyInference:
    """Inference for one client."""
    knobs = [Knob(part, recipe.strengths[part], low, high) for part, (low, high) in recipe.limits.items()]
    return PolicyInference(recipe.policy, recipe.steerer, recipe.dt, knobs, getattr(recipe, "turn", None))


def serve(
    load: Callable[[], Servable],
    *,
    host: str = "127.0.0.1",
    port: int = PORT,
    token_file: Path | None = None,
    clients: int = 1,
    say: Callable[[str], Any] = print,
    stop: threading.Event | None = None,
) -> None:
    """Serve a recipe until interrupted.

    Args:
        load: loads the recipe; called once per client, since each gets a policy of its own.
        host: an address of this machine; other than loopback only with a token file.
        port: 0 takes a free one.
        token_file: the token that clients need; without one it is made now and said once.
        clients: that may come at once.
        say: told what a person has to know.
        stop: ends it when set.
    Raises:
        BadInput: a host that others can reach without a token file, fewer than one client, a port that is taken.
        MissingExtra: websockets is not installed.
    """
    if clients < 1:
        raise BadInput(f"serve: --clients must be at least 1, got {clients}.")
    if not is_loopback(host) and token_file is None:
        raise BadInput(
            f"serve: {host} can be reached from the network; pass --token-file FILE with a token that its robots know too. Messages are "
            "authenticated but not encrypted: over a network that others can read use a tunnel (ssh -L) to a loopback server instead."
        )
    token = new_token() if token_file is None else read_token(token_file)
    recipes = [load() for _ in range(clients)]
    about = about_of(recipes[0])
    seats = [seat_of(one) for one in recipes]
    with PolicyServer(seats, about, token, host=host, port=port) as server:
        say(f"serving {about.policy} ({about.fingerprint}, recipe {about.recipe or 'none'}) at {server.url}")
        if token_file is None:
            say(f"token: {token}")
        (stop or threading.Event()).wait()
