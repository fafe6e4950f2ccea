"""Bandits, in numbers and in words. See README.md of this folder.

Importing this module registers the ids of `NUMERIC_IDS` and `TEXT_IDS` with gymnasium. Any setting of an id can be
changed in `gymnasium.make(id, **settings)`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium as gym

from envs.bandits.bandit import BanditEnv
from envs.bandits.families import FAMILIES
from envs.bandits.prompts import HISTORIES
from envs.bandits.text import TextBandit, make_text_bandit
from envs.bandits.wordings import WORDINGS

_EAST: dict[str, Any] = {"family": "gaussian", "horizon": 50}
_ICL: dict[str, Any] = {"family": "bernoulli", "horizon": 100}
_CHANGING: dict[str, Any] = {"n_arms": 5, "horizon": 100}
_LOCK_IN: dict[str, Any] = {"family": "gaussian", "horizon": 25, "warm_start": 5, "warm_arm": "worst"}

_SETTINGS: Mapping[str, tuple[dict[str, Any], str]] = {
    "BanditGaussian2": ({**_EAST, "n_arms": 2}, "two-digit"),
    "BanditGaussian5": ({**_EAST, "n_arms": 5}, "two-digit"),
    "BanditGaussian2Gap0": ({**_EAST, "means": (100.0, 100.0)}, "integer"),
    "BanditGaussian2Gap2": ({**_EAST, "means": (99.0, 101.0)}, "integer"),
    "BanditGaussian2Gap2Mirrored": ({**_EAST, "means": (101.0, 99.0)}, "integer"),
    "BanditGaussian2Gap10": ({**_EAST, "means": (95.0, 105.0)}, "integer"),
    "BanditGaussian2Gap10Mirrored": ({**_EAST, "means": (105.0, 95.0)}, "integer"),
    "BanditBernoulli5": ({**_ICL, "n_arms": 5, "gap": 0.2}, "exact"),
    "BanditBernoulli4": ({**_ICL, "n_arms": 4, "gap": 0.5}, "exact"),
    "BanditSwitching5": ({**_CHANGING, "family": "switching"}, "two-digit"),
    "BanditAdversarial5": ({**_CHANGING, "family": "adversarial"}, "two-digit"),
    "BanditDrift5": ({**_CHANGING, "family": "drift"}, "two-digit"),
    "BanditContextual5": ({**_CHANGING, "family": "contextual-linear"}, "two-digit"),
    "BanditClusters5": ({**_CHANGING, "family": "contextual-clusters"}, "two-digit"),
}
"""Name -> (settings of the numeric bandit, form of the rewards of its text variant)."""

NUMERIC_IDS: Mapping[str, dict[str, Any]] = {
    f"SteerAgents/{name}-v0": settings for name, (settings, _) in _SETTINGS.items()
}
"""Id of a `BanditEnv` -> its settings."""

TEXT_IDS: Mapping[str, dict[str, Any]] = {
    **{f"SteerAgents/{name}Text-v0": {**settings, "rewards": form} for name, (settings, form) in _SETTINGS.items()},
    "SteerAgents/BanditLockIn2-v0": {**_LOCK_IN, "n_arms": 2, "rewards": "two-digit"},
    "SteerAgents/BanditLockIn5-v0": {**_LOCK_IN, "n_arms": 5, "rewards": "two-digit"},
}
"""Id of a `TextBandit` (wording "buttons", history "log") -> the settings of its bandit."""

for _ids, _entry_point in (
    (NUMERIC_IDS, "envs.bandits.bandit:BanditEnv"),
    (TEXT_IDS, "envs.bandits.text:make_text_bandit"),
):
    for _id, _settings in _ids.items():
        gym.register(_id, entry_point=_entry_point, kwargs=dict(_settings))

__all__ = [
    "FAMILIES",
    "HISTORIES",
    "NUMERIC_IDS",
    "TEXT_IDS",
    "WORDINGS",
    "BanditEnv",
    "TextBandit",
    "make_text_bandit",
]
