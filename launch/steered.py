"""A recipe put together: the policy loaded, the steering built, the envelope at hand. What rollouts, servers and robots start from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import policies
from launch.robot.contract import Knob
from policies.base import Policy
from policies.errors import BadInput
from steer_agents import recipe as recipes
from steer_agents.envelope import SafetyEnvelope
from steer_agents.recipe import Recipe
from steer_agents.steerer import Attached, Steerer


@dataclass(frozen=True, eq=False)
class Steered:
    """See the module's docstring.

    Args:
        recipe: as written.
        policy: loaded.
    """

    recipe: Recipe
    policy: Policy

    @property
    def steerer(self) -> Steerer | None:
        """All parts; None where the recipe has none."""
        return self.recipe.steerer() if self.recipe.parts else None

    @property
    def envelope(self) -> SafetyEnvelope:
        """The limits of the robot.

        Raises:
            BadInput: the recipe gives none.
        """
        if self.recipe.envelope is None:
            raise BadInput(
                "the recipe has no `safety:`, and nothing moves a robot without limits. `steer-agents deploy --example-safety` "
                "prints one for sim_follower to begin with; see steer_agents/envelope.py."
            )
        return self.recipe.envelope

    def turn(self, attached: Attached, part: str, value: float) -> None:
        """See `Recipe.turn`."""
        self.recipe.turn(attached, part, value)

    @property
    def knobs(self) -> list[Knob]:
        """Strengths that an operator may change, with their limits."""
        return [Knob(name, value, low, high) for name, (value, low, high) in self.recipe.knobs().items()]


def load(path: str | Path, strengths: Mapping[str, float] | None = None) -> Steered:
    """Read a recipe and load its policy.

    Args:
        path: file, or folder with recipe.yaml.
        strengths: part -> strength in place of the recipe's, within its limits.
    Raises:
        BadInput: see `recipe.load`; or the recipe names no policy.
    """
    found = recipes.load(path)
    found = found.with_strengths(strengths) if strengths else found
    if not found.policy:
        raise BadInput(f"{path}: the recipe names no policy; write `policy: NAME` (see `steer-agents list policies`).")
    return Steered(found, policies.load(found.policy, **found.options))


def loader(path: str | Path, strengths: Mapping[str, float] | None = None) -> partial[Steered]:
    """`load` with its arguments, which can be sent to another process; the recipe is checked now, its policy loaded there."""
    path = Path(path).expanduser().absolute()
    found = recipes.load(path)
    if strengths:
        found.with_strengths(strengths)
    return partial(load, path, dict(strengths or {}))
