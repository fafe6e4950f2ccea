"""Steering in the weights: free at run time, and taken out again bit for bit. One file per method, see the README.md here."""

from steer_agents.baking.fold import Baked, bake

__all__ = ["Baked", "bake"]
