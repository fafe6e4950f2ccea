"""Families of bandits: how the mean rewards of one run are drawn, and which noise lies on top.

A family turns a random stream into the means of every arm at every step, (T, K), and the means into a reward tape
(T, K). Both are drawn once per episode, before any pull, so the reward of arm a at step t does not depend on what was
pulled: every policy, steered or not, meets the same world under the same seed (common random numbers). A longer horizon
keeps the beginning of the tape.

Axes: T steps of the horizon, K arms, d size of the context.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

import numpy as np

from envs.errors import BadSetting, nearest


@dataclass(frozen=True)
class World:
    """What the means of one episode are.

    Args:
        means: (T, K) float64, mean reward of each arm at each step.
        contexts: (T + 1, d) float64, what is shown before each pull (and after the last one); None without contexts.
    """

    means: np.ndarray
    contexts: np.ndarray | None = None


@dataclass(frozen=True)
class Family(ABC):
    """The contract of a family. Its fields are the settings that `gymnasium.make` takes."""

    reward_kind: ClassVar[str]
    """"gaussian" or "bernoulli"; agents choose their posterior by it."""

    @abstractmethod
    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        """Draw the means (and contexts) of one episode."""

    @abstractmethod
    def tape(self, rng: np.random.Generator, means: np.ndarray) -> np.ndarray:
        """Draw the rewards, (T, K), around `means`, (T, K)."""

    @property
    @abstractmethod
    def reward_scale(self) -> float:
        """Standard deviation of Gaussian noise; 1.0 (the width of the range) for Bernoulli rewards."""

    @property
    def fixed_n_arms(self) -> int | None:
        """The number of arms where the settings fix it, else None."""
        return None

    @property
    def context_size(self) -> int:
        """The size d of the context; 0 for families without contexts."""
        return 0

    def describe_context(self, context: np.ndarray) -> str:
        """The context in words, always equally long; "" for families without contexts."""
        return ""


@dataclass(frozen=True)
class GaussianNoise(Family):
    """Shared part of the families with rewards N(mean, sd^2).

    Args:
        mean_range: (low, high), the interval that mean rewards stay in.
        sd: standard deviation of the noise of every arm.
    """

    reward_kind: ClassVar[str] = "gaussian"

    mean_range: tuple[float, float] = (35.0, 65.0)
    sd: float = 10.0

    def __post_init__(self) -> None:
        _pair("mean_range", self.mean_range)
        if not np.isfinite(self.sd) or self.sd < 0:
            raise BadSetting(f"sd must be a finite number of at least 0, got {self.sd!r}; the usual value is 10.")

    @property
    def reward_scale(self) -> float:
        return float(self.sd)

    def tape(self, rng: np.random.Generator, means: np.ndarray) -> np.ndarray:
        return means + self.sd * rng.standard_normal(means.shape)


@dataclass(frozen=True)
class Gaussian(GaussianNoise):
    """Stationary Gaussian arms (EAST, arXiv 2406.00244, section 4: sd 10, means 100/100, 99/101, 95/105).

    Args:
        means: the K mean rewards, by position; None draws each uniformly from `mean_range` once per episode.
        permute: put fixed `means` in a random order in every episode.
    """

    means: tuple[float, ...] | None = None
    permute: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.means is not None and (
            np.ndim(self.means) != 1 or len(self.means) < 2 or not np.isfinite(self.means).all()
        ):
            raise BadSetting(f"means must be two or more finite numbers, one per arm, got {self.means!r}.")

    @property
    def fixed_n_arms(self) -> int | None:
        return None if self.means is None else len(self.means)

    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        if self.means is None:
            means = rng.uniform(*self.mean_range, size=n_arms)
        else:
            means = np.array(self.means, dtype=np.float64)
            means = rng.permutation(means) if self.permute else means
        return World(np.tile(means, (horizon, 1)))


@dataclass(frozen=True)
class Bernoulli(Family):
    """One best arm with success probability .5 + gap/2, all others .5 - gap/2 (Krishnamurthy et al., arXiv 2403.15371).

    The position of the best arm is drawn in every episode. Hard: K = 5, gap .2. Easy: K = 4, gap .5.

    Args:
        gap: difference of the success probabilities, in [0, 1].
    """

    reward_kind: ClassVar[str] = "bernoulli"

    gap: float = 0.2

    def __post_init__(self) -> None:
        if not 0 <= self.gap <= 1:
            raise BadSetting(f"gap must lie in [0, 1], got {self.gap!r}; the paper uses 0.2 (hard) and 0.5 (easy).")

    @property
    def reward_scale(self) -> float:
        return 1.0

    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        means = np.full(n_arms, 0.5 - self.gap / 2)
        means[rng.integers(n_arms)] = 0.5 + self.gap / 2
        return World(np.tile(means, (horizon, 1)))

    def tape(self, rng: np.random.Generator, means: np.ndarray) -> np.ndarray:
        return (rng.random(means.shape) < means).astype(np.float64)


@dataclass(frozen=True)
class Switching(GaussianNoise):
    """Piecewise-constant means, all redrawn from `mean_range` at fixed times (Garivier & Moulines, arXiv 0805.3415).

    Differs: the change times are regular instead of arbitrary.

    Args:
        change_every: steps between two changes.
    """

    change_every: int = 25

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("change_every", self.change_every, 1)

    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        blocks = -(-horizon // self.change_every)
        means = rng.uniform(*self.mean_range, size=(blocks, n_arms))
        return World(np.repeat(means, self.change_every, axis=0)[:horizon])


@dataclass(frozen=True)
class Adversarial(GaussianNoise):
    """An oblivious adversary with a bait (adversarial bandits: Auer et al. 2002, SIAM J. Comput. 32(1)).

    A bait arm pays the top of `mean_range` until step `change_at` and the bottom afterwards; a prize arm does the
    opposite; the others pay the middle throughout. Both positions are drawn in every episode. A policy that commits
    early commits to the bait. The construction is ours: the paper allows any sequence.

    Args:
        change_at: number of steps for which the bait is good.
    """

    change_at: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("change_at", self.change_at, 1)

    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        low, high = self.mean_range
        bait, prize = rng.permutation(n_arms)[:2]
        means = np.full((horizon, n_arms), (low + high) / 2)
        means[: self.change_at, bait], means[self.change_at :, bait] = high, low
        means[: self.change_at, prize], means[self.change_at :, prize] = low, high
        return World(means)


@dataclass(frozen=True)
class Drift(GaussianNoise):
    """Means that follow independent random walks, reflected at the ends of `mean_range`.

    Changing means: Besbes et al., arXiv 1405.3316. The walk is drawn on the whole line and folded into the interval,
    which has the law of the reflected walk.

    Args:
        drift_sd: standard deviation of one step of the walk.
    """

    drift_sd: float = 2.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not np.isfinite(self.drift_sd) or self.drift_sd < 0:
            raise BadSetting(f"drift_sd must be a finite number of at least 0, got {self.drift_sd!r}.")

    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        low, high = self.mean_range
        width = high - low
        start = rng.uniform(0, width, size=n_arms)
        steps = self.drift_sd * rng.standard_normal((horizon, n_arms))
        steps[0] = start
        place = np.mod(np.cumsum(steps, axis=0), 2 * width) if width else np.zeros_like(steps)
        return World(low + np.minimum(place, 2 * width - place))


@dataclass(frozen=True)
class ContextualLinear(GaussianNoise):
    """Means linear in a context: mean_a(x) = middle + half_width <theta_a, x> (Li et al. 2010, arXiv 1003.0146).

    theta_a (once per episode) and x (every step) are uniform on the unit sphere, so means stay in `mean_range`.
    Differs: one context shared by all arms, and an offset.

    Args:
        n_features: size d of the context.
    """

    n_features: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("n_features", self.n_features, 1)

    @property
    def context_size(self) -> int:
        return self.n_features

    def describe_context(self, context: np.ndarray) -> str:
        return " ".join(f"{value:+.2f}" for value in context)

    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        low, high = self.mean_range
        theta = _unit_rows(rng.standard_normal((n_arms, self.n_features)))
        contexts = _unit_rows(rng.standard_normal((horizon + 1, self.n_features)))
        return World((low + high) / 2 + (high - low) / 2 * contexts[:horizon] @ theta.T, contexts)


@dataclass(frozen=True)
class ContextualClusters(GaussianNoise):
    """Every step belongs to one of n clusters with its own means (Bubeck & Cesa-Bianchi, arXiv 1204.5721, section 4.1).

    The means of every cluster and arm are uniform in `mean_range`; clusters come uniformly at random.

    Args:
        n_clusters: number of clusters; the context is the one-hot vector of the current one.
    """

    n_clusters: int = 3

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_least("n_clusters", self.n_clusters, 2)
        if self.n_clusters > 26:
            raise BadSetting(f"n_clusters must be at most 26, one letter each, got {self.n_clusters}.")

    @property
    def context_size(self) -> int:
        return self.n_clusters

    def describe_context(self, context: np.ndarray) -> str:
        return f"group {chr(ord('A') + int(np.argmax(context)))}"

    def world(self, rng: np.random.Generator, horizon: int, n_arms: int) -> World:
        means = rng.uniform(*self.mean_range, size=(self.n_clusters, n_arms))
        clusters = rng.integers(self.n_clusters, size=horizon + 1)
        return World(means[clusters[:horizon]], np.eye(self.n_clusters)[clusters])


FAMILIES: Mapping[str, type[Family]] = {
    "gaussian": Gaussian,
    "bernoulli": Bernoulli,
    "switching": Switching,
    "adversarial": Adversarial,
    "drift": Drift,
    "contextual-linear": ContextualLinear,
    "contextual-clusters": ContextualClusters,
}


def make_family(name: str, settings: Mapping[str, Any]) -> Family:
    """Build the family called `name` from the settings that it takes.

    Raises:
        BadSetting: no such family, a setting that it does not have, or a value that it refuses.
    """
    if name not in FAMILIES:
        raise BadSetting(f"bandit family {name!r} is unknown{nearest(name, FAMILIES)}")
    known = [field.name for field in fields(FAMILIES[name])]
    for setting in settings:
        if setting not in known:
            raise BadSetting(f"the {name} bandit has no setting {setting!r}{nearest(setting, known)}")
    return FAMILIES[name](**settings)


def _pair(name: str, pair: tuple[float, float]) -> None:
    if np.shape(pair) != (2,) or not np.isfinite(pair).all() or pair[0] > pair[1]:
        raise BadSetting(f"{name} must be two finite numbers (low, high) with low <= high, got {pair!r}.")


def _at_least(name: str, value: int, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise BadSetting(f"{name} must be an integer of at least {least}, got {value!r}.")


def _unit_rows(rows: np.ndarray) -> np.ndarray:
    return np.clip(rows / np.linalg.norm(rows, axis=1, keepdims=True), -1.0, 1.0)
