"""What a noise policy sees: one (B, n) array of numbers made of the environment's observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import gymnasium as gym
import numpy as np

from policies.base import Observation
from policies.errors import BadInput


class StateReader(Protocol):
    """(B, ...) observations -> (B, size) float32. Own ones read pictures through an encoder, say."""

    @property
    def size(self) -> int: ...

    def __call__(self, observation: Observation) -> np.ndarray: ...

    def describe(self) -> dict[str, Any]: ...


@dataclass(frozen=True)
class Flattened:
    """Entries of the observation, flattened one after the other.

    Args:
        keys: of the observation; nested ones with a slash, "pixels/wrist".
        shapes: of one row's entry.
    """

    keys: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(self.keys))
        object.__setattr__(self, "shapes", tuple(tuple(int(n) for n in shape) for shape in self.shapes))

    @classmethod
    def of(cls, space: gym.Space, keys: Sequence[str] | None = None) -> Flattened:
        """All numbers of a space, or some of its keys.

        Raises:
            BadInput: an entry is no box of numbers, or pictures, or a key is missing.
        """
        entries = space.spaces if isinstance(space, gym.spaces.Dict) else {"observation": space}
        chosen = list(entries) if keys is None else list(keys)
        if missing := [key for key in chosen if key not in entries]:
            raise BadInput(f"states: the observation has no entries {missing}; it has {sorted(entries)}.")
        for key in chosen:
            entry = entries[key]
            if not isinstance(entry, gym.spaces.Box) or entry.dtype == np.uint8:
                raise BadInput(
                    f"states: entry {key!r} is {entry}; a noise policy sees flat numbers. Pass keys without it, or a reader of your own "
                    "(features of the policy, an encoder)."
                )
        return cls(tuple(chosen), tuple(entries[key].shape for key in chosen))  # type: ignore[misc]

    @property
    def size(self) -> int:
        return sum(int(np.prod(shape)) for shape in self.shapes)

    def __call__(self, observation: Observation) -> np.ndarray:
        if missing := [key for key in self.keys if key not in observation]:
            raise BadInput(f"states: the observation has no entries {missing}; it has {sorted(observation)}.")
        parts = [np.asarray(observation[key], dtype=np.float32) for key in self.keys]
        for key, part, shape in zip(self.keys, parts, self.shapes, strict=True):
            if part.shape[1:] != shape:
                raise BadInput(
                    f"states: expected {key!r} of shape (B, {', '.join(map(str, shape))}), got {part.shape}."
                )
        return np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)

    def back(self, states: np.ndarray) -> dict[str, np.ndarray]:
        """The observation that `__call__` flattened: (B, size) -> name -> (B, ...)."""
        ends = np.cumsum([int(np.prod(shape)) for shape in self.shapes])[:-1]
        parts = np.split(states, ends, axis=1)
        return {
            key: part.reshape(len(states), *shape)
            for key, part, shape in zip(self.keys, parts, self.shapes, strict=True)
        }

    def describe(self) -> dict[str, Any]:
        return {"reader": "flattened", "keys": list(self.keys), "shapes": [list(shape) for shape in self.shapes]}


def reader_from(description: Mapping[str, Any]) -> Flattened | None:
    """The reader that `describe` told of; None if it is somebody's own, which has to be passed again."""
    if description.get("reader") != "flattened":
        return None
    return Flattened(tuple(description["keys"]), tuple(tuple(shape) for shape in description["shapes"]))
