"""Settings of an experiment changed from outside: `name=value` with the value in YAML, checked against what stands there."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from policies.errors import BadInput, nearest

_PLAIN = (bool, int, float, str, tuple, dict)


def with_fields(settings: Any, assignments: Sequence[str]) -> Any:
    """Settings with some fields changed.

    Args:
        settings: a frozen dataclass.
        assignments: e.g. "policy=smol-vla-135m", "layers=[3, 6, 9]", "load={preset: libero}".
    Raises:
        BadInput: not of that form, no such field, or a value of another type.
    """
    return dataclasses.replace(settings, **dict(_read(settings, text) for text in assignments))


def _read(settings: Any, text: str) -> tuple[str, Any]:
    known = {
        one.name: getattr(settings, one.name)
        for one in dataclasses.fields(settings)
        if isinstance(getattr(settings, one.name), _PLAIN)
    }
    name, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"--set {text!r}: expected name=value, for example {next(iter(known))}=...")
    if name not in known:
        raise BadInput(f"--set {text!r}: this experiment has no setting {name!r}{nearest(name, known)}")
    try:
        read = _tuples(yaml.safe_load(value))
    except yaml.YAMLError as error:
        raise BadInput(f"--set {text!r}: the value is not YAML ({' '.join(str(error).split())}).") from error
    return name, _checked(text, known[name], read)


def _tuples(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_tuples(one) for one in value)
    if isinstance(value, Mapping):
        return {key: _tuples(one) for key, one in value.items()}
    return value


def _checked(text: str, now: Any, new: Any) -> Any:
    if isinstance(now, float) and isinstance(new, int) and not isinstance(new, bool):
        return float(new)
    if type(new) is not type(now):
        raise BadInput(
            f"--set {text!r}: got {new!r}, a {type(new).__name__}; it stands at {now!r}, a {type(now).__name__}. Write lists as "
            "[1, 2], mappings as {key: value}, numbers as 0.5."
        )
    if not isinstance(now, tuple) or not now:
        return new
    if len({type(one) for one in now}) == 1:  # a list of any length
        return tuple(_checked(text, now[0], one) for one in new)
    if len(new) != len(now):
        raise BadInput(f"--set {text!r}: expected {len(now)} entries as in {now!r}, got {new!r}.")
    return tuple(_checked(text, old, one) for old, one in zip(now, new, strict=True))
