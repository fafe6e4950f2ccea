"""Policies by name: `load("llm:smollm2-135m")`.

A name is `family` or `family:argument`; a hub name whose owner is a family, "openvla/openvla-7b", is that family's. The
table holds "module:function" strings that are imported only when asked for; other packages add theirs through the
entry-point group `steer_agents.policies`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from importlib.metadata import entry_points
from typing import Any

from policies.base import Policy
from policies.errors import BadInput, UnknownName, nearest

FAMILIES: dict[str, str] = {
    "llm": "policies.llm_agent:load",
    "mlp": "policies.mlp:load",
    "flow": "policies.flow:load",
    "lerobot": "policies.lerobot:load",
    "sb3": "policies.sb3:load",
    "tiny-vla": "policies.tiny_vla:load",
    "smol-vla": "policies.smol_vla:load",
    "bandit": "policies.bandit_agents:load",
    "openvla": "policies.openvla:load",
}

EMBEDDED: dict[str, str] = {
    **{f"flow-{kind}": f"flow:flow-{kind}" for kind in ("weak", "medium", "strong", "bimodal", "unaware", "libero")},
    "diffusion-medium": "flow:diffusion-medium",
    "rl-sac-press": "mlp:rl-sac-press",
    "rl-ppo-close": "mlp:rl-ppo-close",
    "tiny-vla": "tiny-vla:tiny-vla",
    "smol-vla-135m": "smol-vla:smol-vla-135m",
}
"""Policies that come with the package, by their short names."""


def families() -> dict[str, str]:
    """Family name -> "module:function", the built-in ones and those of installed plug-ins."""
    table = dict(FAMILIES)
    for point in entry_points(group="steer_agents.policies"):
        if table.get(point.name, point.value) != point.value:
            raise BadInput(f"policy family {point.name!r} is registered twice: {table[point.name]} and {point.value}.")
        table[point.name] = point.value
    return table


def load(name: str, **options: Any) -> Policy:
    """Build the policy called `name`, e.g. "flow-medium", "llm:Qwen/Qwen2.5-1.5B-Instruct", "bandit:ucb1".

    Args:
        name: `family:argument`, the short name of an embedded policy, or "owner/name" on the hub if a family has the
            owner's name.
        options: passed to the family's own loader.
    Raises:
        UnknownName: no such family; the message lists those that exist.
        ImportError: the family's plug-in does not import (never hidden).
    """
    family, colon, argument = EMBEDDED.get(name, name).partition(":")
    table = families()
    owner, slash, _ = family.partition("/")
    if slash and not colon and owner in table:
        family, argument = owner, family
    if family not in table:
        known = [*EMBEDDED, *table]
        raise UnknownName(f"policy {name!r} is unknown{nearest(family if ':' in name else name, known)}")
    module_name, _, function = table[family].partition(":")
    loader: Callable[..., Policy] = getattr(importlib.import_module(module_name), function)
    return loader(argument, **options)
