"""Changing a strength of a recipe while it steers."""

from __future__ import annotations

from policies.errors import BadInput
from steer_agents.guidance.guidance import RewardGuidance
from steer_agents.intervention import Intervention
from steer_agents.recipe.parts import RecipePart
from steer_agents.steerer import Attached


def turn(attached: Attached, one: RecipePart, value: float) -> None:
    """Set a part's strength now; whether it may be set to that is `Recipe.check_strength`'s.

    Raises:
        BadInput: this kind of part has no strength.
    """
    if isinstance(one.part, Intervention):
        attached.set_strength(value, one.name)
    elif isinstance(one.part, RewardGuidance):
        one.part.strength = value
    else:
        raise BadInput(f"part {one.name!r} ({one.kind}) has no strength.")
