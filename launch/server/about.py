"""What a policy server serves, said in the handshake: which policy, which recipe, what it sees, what it answers."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.base import INSTRUCTION, TASK_DESCRIPTION
from policies.errors import BadInput, NonFinite, nearest

TEXT = "text"
"""The dtype of a feature that is an instruction."""
MAX_TEXT = 2000
"""Characters of an instruction."""


@dataclass(frozen=True)
class Feature:
    """One entry of an observation, without a batch axis.

    Args:
        dtype: a numpy name, or "text".
        shape: of the array.
    """

    dtype: str
    shape: tuple[int, ...] = ()

    @property
    def nbytes(self) -> int:
        return 4 * MAX_TEXT if self.dtype == TEXT else math.prod(self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True)
class Limits:
    """A strength and between what an operator may turn it, from the recipe."""

    value: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (
            math.isfinite(self.value) and self.low <= self.value <= self.high and math.isfinite(self.high - self.low)
        ):
            raise BadInput(f"limits: need finite low <= value <= high, got {self.low}, {self.value}, {self.high}.")


@dataclass(frozen=True)
class About:
    """What is served.

    Args:
        policy: its name.
        fingerprint: of the policy, `fingerprint(policy.describe())`; a client can insist on it.
        recipe: digest of the recipe, "" without one.
        observation: name -> feature; the name of a nested entry is "pixels/agentview".
        action: names of the action's entries.
        dt: seconds between two actions of a chunk.
        strengths: part -> limits.
        length, executed: actions of a chunk, and how many of them the policy would execute before the next.
    """

    policy: str
    fingerprint: str
    observation: Mapping[str, Feature]
    action: tuple[str, ...]
    dt: float
    recipe: str = ""
    strengths: Mapping[str, Limits] = field(default_factory=dict)
    length: int = 1
    executed: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.dt) and self.dt > 0):
            raise BadInput(f"about: dt must be a positive number of seconds, got {self.dt!r}.")
        if not self.observation or not self.action:
            raise BadInput("about: observation and action need at least one entry each.")

    def to_message(self) -> dict[str, Any]:
        """Plain lists and dicts."""
        return {
            "policy": self.policy, "fingerprint": self.fingerprint, "recipe": self.recipe, "dt": self.dt, "action": list(self.action),
            "observation": {name: [one.dtype, list(one.shape)] for name, one in self.observation.items()},
            "strengths": {part: [one.value, one.low, one.high] for part, one in self.strengths.items()},
            "length": self.length, "executed": self.executed,
        }  # fmt: skip

    @classmethod
    def from_message(cls, message: Mapping[str, Any]) -> About:
        """The inverse of `to_message`.

        Raises:
            BadInput: it is not of this form.
        """
        try:
            return cls(
                policy=str(message["policy"]), fingerprint=str(message["fingerprint"]), recipe=str(message["recipe"]),
                observation={
                    str(name): Feature(str(dtype), tuple(int(n) for n in shape))
                    for name, (dtype, shape) in message["observation"].items()
                },
                action=tuple(str(name) for name in message["action"]), dt=float(message["dt"]),
                strengths={
                    str(part): Limits(float(value), float(low), float(high))
                    for part, (value, low, high) in message["strengths"].items()
                },
                length=int(message["length"]), executed=int(message["executed"]),
            )  # fmt: skip
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise BadInput(f"what the server says of itself is not understood ({error}); update both sides.") from None

    @property
    def message_bytes(self) -> int:
        """Most bytes that a message of a client may have."""
        return sum(one.nbytes + 256 + len(name) for name, one in self.observation.items()) + (1 << 14)

    def check_observation(self, observation: Mapping[str, Any]) -> None:
        """Refuse an observation that is not as announced.

        Raises:
            BadInput: names, dtypes or shapes differ. NonFinite: NaN or infinite entries.
        """
        given = flat(observation)
        for name in given.keys() | self.observation.keys():
            if name not in given:
                raise BadInput(f"observation: {name!r} is missing; needed are {', '.join(self.observation)}.")
            if name not in self.observation:
                raise BadInput(f"observation: {name!r} is not read by {self.policy}{nearest(name, self.observation)}")
            found, want = feature_of(given[name]), self.observation[name]
            if found != want:
                raise BadInput(
                    f"observation: {name!r} has to be {want.dtype} of shape {want.shape}, got {found.dtype} of shape {found.shape}."
                )
            if want.dtype == TEXT and len(given[name]) > MAX_TEXT:
                raise BadInput(f"observation: {name!r} has {len(given[name])} characters; allowed are {MAX_TEXT}.")
            if want.dtype.startswith("float") and not np.isfinite(given[name]).all():
                raise NonFinite(f"observation: {name!r} holds NaN or infinite values; look at the sensor.")

    def check_strength(self, part: str, value: Any) -> float:
        """The strength, if the recipe allows it.

        Raises:
            BadInput: no such part, or beyond its limits.
        """
        if part not in self.strengths:
            raise BadInput(f"strength: part {part!r} does not exist{nearest(part, self.strengths)}")
        limits = self.strengths[part]
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not limits.low <= value <= limits.high:  # NaN fails the comparison
            raise BadInput(
                f"strength: {part} may be {limits.low:g} to {limits.high:g}, the limits of the recipe, got {value!r}."
            )
        return float(value)


def check_info(info: Mapping[str, Any]) -> None:
    """Refuse what is not the info of a reset: the instruction, and numbers.

    Raises:
        BadInput: an entry of another kind.
    """
    for name, value in info.items():
        plain = value is None or isinstance(value, bool | int | float)
        said = name in (TASK_DESCRIPTION, INSTRUCTION) and isinstance(value, str) and len(value) <= MAX_TEXT
        if not isinstance(name, str) or len(name) > 100 or not (plain or said):
            raise BadInput(
                f"reset: info {str(name)[:100]!r} must be a number, or {TASK_DESCRIPTION!r} with up to {MAX_TEXT} characters."
            )


def sendable(info: Mapping[str, Any]) -> dict[str, Any]:
    """What of an environment's info `check_info` takes: numbers and the instruction; the rest stays here."""
    numbers = {k: v.item() if hasattr(v, "item") and not getattr(v, "ndim", 0) else v for k, v in info.items()}
    said = (TASK_DESCRIPTION, INSTRUCTION)
    return {k: v for k, v in numbers.items() if isinstance(v, str if k in said else bool | int | float)}


def flat(observation: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested entries under "outer/inner"."""
    found: dict[str, Any] = {}
    for name, value in observation.items():
        if isinstance(value, Mapping):
            found.update(flat(value, f"{prefix}{name}/"))
        else:
            found[f"{prefix}{name}"] = value
    return found


def feature_of(value: Any) -> Feature:
    """What an entry is."""
    if isinstance(value, str):
        return Feature(TEXT)
    if not isinstance(value, np.ndarray):
        return Feature(type(value).__name__)
    return Feature(value.dtype.name, value.shape)


def features_of(observation: Mapping[str, Any]) -> dict[str, Feature]:
    """The features of an example, e.g. the first observation of an environment."""
    return {name: feature_of(value) for name, value in flat(observation).items()}


def fingerprint(description: Mapping[str, Any]) -> str:
    """A short hash of `Policy.describe()`."""
    from steer_agents.fingerprint import data_fingerprint
    from steer_agents.runs import jsonable

    return data_fingerprint(jsonable(description))
