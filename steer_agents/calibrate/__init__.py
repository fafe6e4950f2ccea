"""Choosing layer and strength by measuring: one file per method, see the README.md here."""

from steer_agents.calibrate.kl_budget import within_kl_budget

__all__ = ["within_kl_budget"]
