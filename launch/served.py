"""A recipe as the policy server serves it, and as a robot asks for it over the network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import gymnasium as gym
import numpy as np

import envs
from launch import steered
from launch.robot.contract import Knob
from launch.server.about import Feature, features_of
from launch.server.client import RemoteInference
from launch.server.seal import read_token
from launch.steered import Steered
from policies.errors import BadInput
from steer_agents import recipe as recipes
from steer_agents.envelope import SafetyEnvelope
from steer_agents.recipe import Recipe

assert envs.__name__  # importing it registers the environments


@dataclass(frozen=True, eq=False)
class Served(Steered):
    """What `launch.server.start.serve` needs.

    Args:
        dt: seconds between two actions of a chunk.
        observation, action: of the environment that the robot stands for.
    """

    dt: float
    observation: Mapping[str, Feature]
    action: tuple[str, ...]

    @property
    def digest(self) -> str:
        """Of the recipe and its files."""
        return self.recipe.digest()

    @property
    def limits(self) -> dict[str, tuple[float, float]]:
        """Part -> (lowest, highest) strength."""
        return {knob.part: (knob.low, knob.high) for knob in self.knobs}

    @property
    def strengths(self) -> dict[str, float]:
        """Part -> strength."""
        return {knob.part: knob.value for knob in self.knobs}


def servable(path: str | Path, env: str, dt: float) -> Callable[[], Served]:
    """Loads a recipe for one client at each call.

    Args:
        path: of the recipe.
        env: whose observation and action a client has.
        dt: seconds between two actions.
    Raises:
        BadInput: no such environment, or actions that are not numbers.
    """
    try:
        made = gym.make(env)
    except gym.error.Error as error:
        raise BadInput(f"serve: --env {env!r}: {error}. See `steer-agents list environments`.") from None
    try:
        observation = features_of(made.reset(seed=0)[0])
        space = made.action_space
    finally:
        made.close()
    if not isinstance(space, gym.spaces.Box):
        raise BadInput(f"serve: {env} takes {space}, a robot takes numbers.")
    names = tuple(f"action{i}" for i in range(int(np.prod(space.shape))))

    def load() -> Served:
        one = steered.load(path)
        return Served(one.recipe, one.policy, dt, observation, names)

    return load


@dataclass(frozen=True, eq=False)
class Remote:
    """A recipe whose policy runs on a server; safety is decided here, beside the robot.

    Args:
        recipe: as it lies here; the server has to serve the same.
        url: of the server; token: of it.
    """

    recipe: Recipe
    url: str
    token: str
    policy = steerer = None

    @property
    def envelope(self) -> SafetyEnvelope:
        """As of a local recipe."""
        if self.recipe.envelope is None:
            raise BadInput("the recipe has no `safety:`, and nothing moves a robot without limits.")
        return self.recipe.envelope

    @property
    def knobs(self) -> list[Knob]:
        """As of a local recipe."""
        return [Knob(name, value, low, high) for name, (value, low, high) in self.recipe.knobs().items()]

    def inference(self, dt: float) -> RemoteInference:
        """Connected.

        Raises:
            RunMismatch: the server serves another recipe.
            BadInput: its actions are for another rate.
        """
        found = RemoteInference(self.url, self.token, recipe=self.recipe.digest())
        if abs(found.about.dt - dt) > 1e-9:
            found.close()
            raise BadInput(
                f"the server's actions are {found.about.dt:g} s apart, this robot's {dt:g} s; start it with --fps {1 / dt:g}."
            )
        return found


def remote(path: str | Path, url: str, token_file: Path | None, strengths: Mapping[str, float] | None = None) -> Remote:
    """Read the recipe and the token.

    Raises:
        BadInput: no token file.
    """
    if token_file is None:
        raise BadInput(
            "deploy: --server needs --token-file with the token that `steer-agents serve` said or was given."
        )
    found = recipes.load(path)
    return Remote(found.with_strengths(strengths) if strengths else found, url, read_token(token_file))


def remote_loader(
    path: str | Path, url: str, token_file: Path | None, strengths: Mapping[str, float] | None = None
) -> partial[Remote]:
    """`remote` with its arguments, which can be sent to another process; checked now."""
    path = Path(path).expanduser().absolute()
    remote(path, url, token_file, strengths)
    return partial(remote, path, url, token_file, dict(strengths or {}))
