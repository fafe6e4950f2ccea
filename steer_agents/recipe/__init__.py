"""Recipes: one YAML file from the policy to the robot. See `document.py`."""

from steer_agents.recipe.document import FILE, Recipe, load, parse
from steer_agents.recipe.parts import PARTS, RecipePart

__all__ = ["FILE", "PARTS", "Recipe", "RecipePart", "load", "parse"]
