"""The one decision setting of policies that draw tokens: checked and changed in one place."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from policies.errors import BadInput, nearest

Temperature = float | np.ndarray
"""One for all rows, or (B,) float64, one for each."""


def checked(temperature: object, greedy: bool = True) -> float:
    """The temperature as a float.

    Args:
        greedy: 0 is allowed, and takes the likeliest.
    Raises:
        BadInput: it is not a finite number of at least (or, where 0 means nothing, above) 0.
    """
    number = isinstance(temperature, int | float) and not isinstance(temperature, bool)
    if number and 0 <= temperature < float("inf") and (greedy or temperature > 0):  # type: ignore[operator]
        return float(temperature)  # type: ignore[arg-type]
    raise BadInput(
        f"temperature must be a finite number of at least 0, got {temperature!r}; 0 is greedy."
        if greedy
        else f"temperature must be a finite number greater than 0, got {temperature!r}; use a small one such as 0.01 for nearly "
        "greedy choices."
    )


def of_rows(temperature: Temperature, n_axes: int) -> Temperature:
    """The temperature, to divide an array by whose first of `n_axes` axes is the rows'."""
    return temperature.reshape(-1, *[1] * (n_axes - 1)) if isinstance(temperature, np.ndarray) else temperature


def changed(who: str, now: float, settings: Mapping[str, Any], greedy: bool = True) -> tuple[float, dict[str, Any]]:
    """What `Policy.set_decision` does where the temperature is all there is to set.

    Args:
        who: name of the policy; now: its temperature; settings: as `set_decision` got them.
    Returns:
        the new temperature, and the previous values of what was set.
    Raises:
        BadInput: another setting, or a temperature that is none.
    """
    for name in settings:
        if name != "temperature":
            raise BadInput(f"{who} has no decision setting {name!r}{nearest(name, ['temperature'])}")
    new = checked(settings["temperature"], greedy) if "temperature" in settings else now
    return new, dict.fromkeys(settings, now)


def changed_by_row(
    who: str, now: Temperature, settings: Mapping[str, Any], greedy: bool = True
) -> tuple[Temperature, dict[str, Any]]:
    """`changed`, for policies whose rows may each have their own temperature, (B,) and all above 0."""
    given = settings.get("temperature")
    if isinstance(given, np.ndarray) and given.ndim == 1:
        for one in given.tolist():
            checked(one, greedy=False)
        changed(who, 1.0, dict.fromkeys(settings, 1.0), greedy)  # other settings are refused
        return given.astype(np.float64), dict.fromkeys(settings, now)
    new, before = changed(who, 1.0, settings, greedy)
    return (new if settings else now), dict.fromkeys(before, now)
