"""Noise maps: how a short vector that a policy chooses becomes the whole noise that a chunk starts from.

Most maps are linear along the chunk, the same for every action dimension: noise = M w with M (H, k), and w has k numbers per
action dimension. All but `Full` are scaled so that standard normal w gives noise of mean variance 1 over the chunk.

| map | M | k |
| --- | --- | --- |
| `Full` | identity | H |
| `Repeat` | ones | 1 |
| `Dct` | the lowest cosines of the DCT-II | components |
| `Interpolated` | straight lines between knots | knots |

`Masked` applies a map to some action dimensions only. Repeating one vector along the chunk is what DSRL does for pi0
(arXiv 2506.15799, section 5.4); it breaks some checkpoints, hence the others, and `steer_agents.noise.check`.

Axes: B rows, H steps of the noise, A its width, d numbers that are chosen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from typing import Any

import torch

from policies.errors import BadInput, nearest

Shape = tuple[int, int]
"""(H, A) of one row's noise."""


class NoiseMap(ABC):
    """From (B, d) chosen numbers to (B, H, A) noise."""

    @abstractmethod
    def size(self, shape: Shape) -> int:
        """d, for noise of this shape."""

    @abstractmethod
    def expand(self, w: torch.Tensor, shape: Shape, drawn: torch.Tensor | None = None) -> torch.Tensor:
        """The noise that w stands for.

        Args:
            w: (B, d).
            drawn: (B, H, A), what the policy would have started from; only `Masked` with `rest="drawn"` looks at it.
        Raises:
            BadInput: w has another width than `size(shape)`.
        """

    @abstractmethod
    def reduce(self, noise: torch.Tensor) -> torch.Tensor:
        """The (B, d) whose noise is nearest to (B, H, A) `noise` (least squares); the inverse of `expand` on its range."""

    def describe(self) -> dict[str, Any]:
        """JSON-able; `from_description` makes an equal map of it."""
        return {"map": _NAMES[type(self)], **asdict(self)}  # type: ignore[call-overload]


class AlongChunk(NoiseMap):
    """Noise that is linear along the chunk. Subclasses write `basis`."""

    @abstractmethod
    def basis(self, n_steps: int) -> torch.Tensor:
        """M, (H, k) float32."""

    def size(self, shape: Shape) -> int:
        return self.basis(shape[0]).shape[1] * shape[1]

    def expand(self, w: torch.Tensor, shape: Shape, drawn: torch.Tensor | None = None) -> torch.Tensor:
        _check_width(w, self.size(shape), self)
        return torch.einsum("hk,bka->bha", self.basis(shape[0]).to(w), w.reshape(len(w), -1, shape[1]))

    def reduce(self, noise: torch.Tensor) -> torch.Tensor:
        inverse = torch.linalg.pinv(self.basis(noise.shape[1]).to(noise))
        return torch.einsum("kh,bha->bka", inverse, noise).flatten(1)


@dataclass(frozen=True)
class Full(AlongChunk):
    """Every number of the noise is chosen."""

    def basis(self, n_steps: int) -> torch.Tensor:
        return torch.eye(n_steps)


@dataclass(frozen=True)
class Repeat(AlongChunk):
    """One vector, the same at every step of the chunk."""

    def basis(self, n_steps: int) -> torch.Tensor:
        return torch.ones(n_steps, 1)


@dataclass(frozen=True)
class Dct(AlongChunk):
    """The lowest cosines along the chunk: smooth noise. One component is `Repeat`, H of them are `Full` turned."""

    components: int = 2

    def __post_init__(self) -> None:
        _check_count("Dct components", self.components)

    def basis(self, n_steps: int) -> torch.Tensor:
        _check_count("Dct components", self.components, n_steps)
        return _cosines(n_steps, self.components)


@dataclass(frozen=True)
class Interpolated(AlongChunk):
    """Straight lines between values at knots spread evenly from the first to the last step of the chunk."""

    knots: int = 3

    def __post_init__(self) -> None:
        _check_count("Interpolated knots", self.knots, least=2)

    def basis(self, n_steps: int) -> torch.Tensor:
        _check_count("Interpolated knots", self.knots, n_steps, least=2)
        place = torch.linspace(0, self.knots - 1, n_steps)[:, None]
        hats = (1 - (place - torch.arange(self.knots)).abs()).clamp(min=0)
        return hats * math.sqrt(n_steps / float(hats.square().sum()))


@dataclass(frozen=True)
class Masked(NoiseMap):
    """A map of some action dimensions; the others are zero, or what the policy would have drawn.

    Args:
        dims: columns of the noise that are chosen, e.g. without those that a VLA pads its actions with.
        inner: map of these columns.
        rest: "zero" or "drawn". With "drawn" an action is no function of w alone.
    """

    dims: tuple[int, ...]
    inner: NoiseMap = field(default_factory=Full)
    rest: str = "zero"

    def __post_init__(self) -> None:
        object.__setattr__(self, "dims", tuple(int(dim) for dim in self.dims))
        if not self.dims or len(set(self.dims)) < len(self.dims) or min(self.dims) < 0:
            raise BadInput(f"Masked: dims must be distinct columns from 0, got {self.dims}.")
        if self.rest not in ("zero", "drawn"):
            raise BadInput(f"Masked: rest {self.rest!r} is unknown{nearest(self.rest, ('zero', 'drawn'))}")

    def _inner_shape(self, shape: Shape) -> Shape:
        if max(self.dims) >= shape[1]:
            raise BadInput(f"Masked: dims {self.dims} are not all among the {shape[1]} columns of the noise.")
        return shape[0], len(self.dims)

    def size(self, shape: Shape) -> int:
        return self.inner.size(self._inner_shape(shape))

    def expand(self, w: torch.Tensor, shape: Shape, drawn: torch.Tensor | None = None) -> torch.Tensor:
        chosen = self.inner.expand(w, self._inner_shape(shape))
        if self.rest == "zero":
            noise = torch.zeros(len(w), *shape, dtype=w.dtype, device=w.device)
        elif drawn is None:
            raise BadInput("Masked: rest='drawn' needs the noise that the policy would have drawn; use rest='zero'.")
        else:
            noise = drawn.to(w).clone()
        noise[:, :, list(self.dims)] = chosen
        return noise

    def reduce(self, noise: torch.Tensor) -> torch.Tensor:
        return self.inner.reduce(noise[:, :, list(self.dims)])

    def describe(self) -> dict[str, Any]:
        return {"map": "masked", "dims": list(self.dims), "inner": self.inner.describe(), "rest": self.rest}


MAPS: Mapping[str, type[NoiseMap]] = {
    "full": Full,
    "repeat": Repeat,
    "dct": Dct,
    "interpolated": Interpolated,
    "masked": Masked,
}
"""Noise maps by name."""
_NAMES = {kind: name for name, kind in MAPS.items()}


def from_description(description: Mapping[str, Any]) -> NoiseMap:
    """The map that `describe` told of.

    Raises:
        BadInput: no such map, or arguments that it does not take.
    """
    arguments = dict(description)
    name = arguments.pop("map", None)
    if name not in MAPS:
        raise BadInput(f"noise map {name!r} is unknown{nearest(name, MAPS)}")
    if isinstance(arguments.get("inner"), Mapping):
        arguments["inner"] = from_description(arguments["inner"])
    try:
        return MAPS[name](**arguments)
    except TypeError as error:
        raise BadInput(f"noise map {name!r} does not take {sorted(arguments)}: {error}.") from error


@lru_cache
def _cosines(n_steps: int, components: int) -> torch.Tensor:
    step, order = torch.arange(n_steps, dtype=torch.float64) + 0.5, torch.arange(components, dtype=torch.float64)
    basis = torch.cos(math.pi / n_steps * step[:, None] * order)
    return (basis / basis.norm(dim=0) * math.sqrt(n_steps / components)).float()


def _check_count(what: str, count: int, most: int | None = None, least: int = 1) -> None:
    if isinstance(count, bool) or not isinstance(count, int) or count < least or (most is not None and count > most):
        allowed = f"from {least}" if most is None else f"from {least} to {most}, the steps of the noise"
        raise BadInput(f"{what}: got {count!r}, allowed are integers {allowed}.")


def _check_width(w: torch.Tensor, size: int, noise_map: NoiseMap) -> None:
    if w.ndim != 2 or w.shape[1] != size:
        raise BadInput(f"noise map {noise_map}: expected (B, {size}) numbers, got {tuple(w.shape)}.")
