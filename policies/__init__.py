"""Adapters that make existing policies steerable. See README.md of this folder."""

from policies.base import Context, Decision, Policy, SiteMap
from policies.registry import families, load

__all__ = ["Context", "Decision", "Policy", "SiteMap", "families", "load"]
