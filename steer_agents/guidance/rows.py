"""Observations with more or fewer rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.base import Observation


def repeated(observation: Observation, times: int) -> Observation:
    """Every row `times` times, the copies of row 0 first; tuples of strings and mappings within (cameras) included."""
    if times == 1:
        return observation
    made: dict[str, Any] = {}
    for name, value in observation.items():
        if isinstance(value, Mapping):
            made[name] = repeated(value, times)
        elif isinstance(value, tuple | list):
            made[name] = tuple(row for row in value for _ in range(times))
        else:
            made[name] = np.repeat(np.asarray(value), times, axis=0)
    return made


def first_of_each(observation: Observation, times: int) -> Observation:
    """The inverse of `repeated`."""
    if times == 1:
        return observation
    return {
        name: first_of_each(value, times) if isinstance(value, Mapping) else value[::times]
        for name, value in observation.items()
    }
