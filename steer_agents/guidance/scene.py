"""What a reward may speak of: keypoints, extents of things and measured quantities, one row per episode.

A scene is read once per chunk, by a reader `(observation, infos) -> Scene`: from the infos of the environment (`from_infos`), from entries
of the observation (`from_observation`), from points found in a camera picture (`fixed`, with `pixels.py`), or several `together`.

Rows are looked up when they are asked for, so that a scene of many things costs no more than what a reward uses.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from policies.base import Observation
from policies.errors import BadInput, NonFinite, UnknownName, nearest

Infos = Sequence[Mapping[str, Any]] | None
SceneReader = Callable[[Observation, Infos], "Scene"]


class Rows(Mapping[str, torch.Tensor]):
    """Names whose (R, ...) float32 tensors are made when first asked for."""

    def __init__(self, names: Iterable[str], make: Callable[[str], torch.Tensor]) -> None:
        self._names, self._make = dict.fromkeys(names), make
        self._made: dict[str, torch.Tensor] = {}

    def __getitem__(self, name: str) -> torch.Tensor:
        if name not in self._names:
            raise KeyError(name)
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def __contains__(self, name: object) -> bool:
        return name in self._names

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __len__(self) -> int:
        return len(self._names)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> torch.Tensor:
    """A tensor of numbers that are the same in every call, made once; not to be written to."""
    return torch.tensor(values, dtype=dtype, device=device)


@dataclass(frozen=True, eq=False)
class Scene:
    """What is known about R rows.

    Args:
        keypoints: name -> (R, 3) position [m].
        half_sizes: name of a keypoint -> (R, 3) half extents along the world's axes of the thing around it [m].
        quantities: name -> (R,) number; booleans are 0 and 1.
    """

    keypoints: Mapping[str, torch.Tensor]
    half_sizes: Mapping[str, torch.Tensor] = field(default_factory=dict)
    quantities: Mapping[str, torch.Tensor] = field(default_factory=dict)
    _made: dict[Hashable, Any] = field(default_factory=dict, init=False, repr=False)

    def point(self, name: str) -> torch.Tensor:
        """(R, 3) of a keypoint.

        Raises:
            UnknownName: no such keypoint.
            NonFinite: it is NaN or infinite somewhere.
        """
        return self._looked_up("keypoint", self.keypoints, name)

    def half_size(self, name: str) -> torch.Tensor:
        """(R, 3) of the thing around a keypoint; errors as `point`."""
        return self._looked_up("half size of keypoint", self.half_sizes, name)

    def quantity(self, name: str) -> torch.Tensor:
        """(R,) of a quantity, infinity included; errors as `point`."""
        value = _of(self.quantities, name, "quantity")
        if bool(value.isnan().any()):
            raise NonFinite(f"scene: quantity {name!r} is NaN in rows {value.isnan().nonzero().flatten().tolist()}.")
        return value

    def _looked_up(self, what: str, rows: Mapping[str, torch.Tensor], name: str) -> torch.Tensor:
        """A row of three numbers, checked at its first use."""
        return self.once((what, name), lambda: _finite(_of(rows, name, what), f"{what} {name!r}"))

    def once[T](self, key: Hashable, make: Callable[[], T]) -> T:
        """What `make` gives, made at the first call with this key: rewards look at every denoise step, a scene stays for a chunk."""
        if key not in self._made:
            self._made[key] = make()
        found: T = self._made[key]
        return found

    def repeated(self, times: int) -> Scene:
        """The scene of `times` copies of every row, the copies of row 0 first."""
        if times == 1:
            return self

        def of(rows: Mapping[str, torch.Tensor]) -> Rows:
            return Rows(rows, lambda name: rows[name].repeat_interleave(times, dim=0))

        return Scene(of(self.keypoints), of(self.half_sizes), of(self.quantities))


def _of(rows: Mapping[str, torch.Tensor], name: str, what: str) -> torch.Tensor:
    if name not in rows:
        raise UnknownName(f"{what} {name!r} is not in this scene{nearest(name, sorted(rows))}")
    return rows[name]


def _finite(value: torch.Tensor, what: str) -> torch.Tensor:
    if not bool(torch.isfinite(value).all()):
        raise NonFinite(f"scene: {what} is not finite: {value.tolist()}; check where it is read from.")
    return value


def from_infos(keypoints: str = "keypoints", half_sizes: str = "half_sizes") -> SceneReader:
    """A reader of the environment's infos: `info[keypoints]` and `info[half_sizes]` map names to three numbers; all numbers of an
    info are quantities. Names that not every row has are left out.

    Raises, when read:
        BadInput: no infos, or none with keypoints.
    """

    def read(observation: Observation, infos: Infos) -> Scene:
        if not infos or any(keypoints not in info for info in infos):
            got = "no infos" if not infos else f"infos with {sorted(infos[0])}"
            raise BadInput(
                f"guidance: expected infos with {keypoints!r} (name -> x, y, z), got {got}. Use rollout, or policy.act(observation, "
                "infos=infos), with an environment that reports keypoints; or read them with from_observation or fixed."
            )
        points = [info[keypoints] for info in infos]
        halves = [info.get(half_sizes, {}) for info in infos]
        numbers = [name for name, value in infos[0].items() if _is_number(value) and all(name in i for i in infos)]
        return Scene(
            Rows(_shared(points), lambda name: _vectors([row[name] for row in points], f"keypoint {name!r}")),
            Rows(_shared(halves), lambda name: _vectors([row[name] for row in halves], f"half size of {name!r}")),
            Rows(numbers, lambda name: torch.tensor([float(info[name]) for info in infos])),
        )

    return read


@dataclass(frozen=True)
class Entry:
    """Where in the observation a keypoint stands.

    Args:
        key: of the observation.
        first: index of x in the flattened entry; y and z follow.
        relative_to: another keypoint that it is measured from; None where it is a position.
    """

    key: str
    first: int
    relative_to: str | None = None


def from_observation(
    keypoints: Mapping[str, Entry],
    half_sizes: Mapping[str, Entry] | None = None,
    quantities: Mapping[str, tuple[str, int]] | None = None,
) -> SceneReader:
    """A reader of the observation's entries.

    Args:
        keypoints: name -> where it stands; those that others are relative to come first.
        half_sizes: name of a keypoint -> where its half extents stand.
        quantities: name -> (key, index).
    """

    def read(observation: Observation, infos: Infos) -> Scene:
        flat: dict[str, torch.Tensor] = {}

        def entries(key: str, first: int, count: int) -> torch.Tensor:
            if key not in observation:
                raise BadInput(f"guidance: the observation has no {key!r}; it has {sorted(observation)}.")
            if key not in flat:
                value = torch.as_tensor(np.asarray(observation[key]), dtype=torch.float32)
                flat[key] = value.reshape(len(value), -1)
            if not 0 <= first <= flat[key].shape[1] - count:
                raise BadInput(f"guidance: {key!r} has {flat[key].shape[1]} numbers, asked for {count} from {first}.")
            return flat[key][:, first : first + count]

        def point(name: str) -> torch.Tensor:
            entry = keypoints[name]
            value = entries(entry.key, entry.first, 3)
            return value if entry.relative_to is None else value + point(entry.relative_to)

        halves, numbers = half_sizes or {}, quantities or {}
        return Scene(
            Rows(keypoints, point),
            Rows(halves, lambda name: entries(halves[name].key, halves[name].first, 3)),
            Rows(numbers, lambda name: entries(*numbers[name], 1)[:, 0]),
        )

    return read


def fixed(
    keypoints: Mapping[str, Sequence[float]], half_sizes: Mapping[str, Sequence[float]] | None = None
) -> SceneReader:
    """A reader that knows points beforehand, the same in every row, e.g. found in a picture (`pixels.py`)."""

    def read(observation: Observation, infos: Infos) -> Scene:
        count = len(next(iter(observation.values())))

        def of(points: Mapping[str, Sequence[float]], what: str) -> Rows:
            return Rows(points, lambda name: _vectors([points[name]], f"{what} {name!r}").repeat(count, 1))

        return Scene(of(keypoints, "keypoint"), of(half_sizes or {}, "half size of"))

    return read


def together(*readers: SceneReader) -> SceneReader:
    """One reader of several; where two know a name, the later one counts."""

    def read(observation: Observation, infos: Infos) -> Scene:
        scenes = [reader(observation, infos) for reader in readers]

        def of(parts: Sequence[Mapping[str, torch.Tensor]]) -> Rows:
            owner = {name: part for part in parts for name in part}
            return Rows(owner, lambda name: owner[name][name])

        return Scene(
            of([scene.keypoints for scene in scenes]),
            of([scene.half_sizes for scene in scenes]),
            of([scene.quantities for scene in scenes]),
        )

    return read


def _shared(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return [name for name in rows[0] if all(name in row for row in rows)]


def _vectors(rows: Sequence[Any], what: str) -> torch.Tensor:
    value = torch.from_numpy(np.asarray(rows, dtype=np.float32))
    if value.dim() != 2 or value.shape[1] != 3:
        raise BadInput(f"guidance: {what} must be three numbers per row, got shape {tuple(value.shape)}.")
    return value


def _is_number(value: Any) -> bool:
    if isinstance(value, bool | int | float):
        return True
    return isinstance(value, np.generic) and value.dtype.kind in "biuf"
