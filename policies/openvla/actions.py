"""Action tokens and the numbers they stand for.

Each number of an action is one token. With n bins there are n edges, evenly spaced over [-1, 1], and n - 1 centres
between them; a token id t is read as (github.com/openvla/openvla, `predict_action`)

    d = V - t,    a = centre[clip(d - 1, 0, n - 2)]        V = entries of the vocabulary without padding (32000)

so a higher number has a lower id, and both lowest ids stand for the highest number. The normalised a is then scaled
back, where the data set's mask says so, from the 1st and 99th percentile of its data:

    action = (a + 1) / 2 (q99 - q01) + q01
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.errors import BadArtifact, BadInput, nearest


@dataclass(frozen=True)
class ActionBins:
    """The map between action tokens and numbers in (-1, 1).

    Args:
        n_bins: number of action tokens, 256 in OpenVLA.
        n_text_tokens: V, the id behind the last action token.
    """

    n_bins: int
    n_text_tokens: int

    def __post_init__(self) -> None:
        if not 2 <= self.n_bins <= self.n_text_tokens:
            raise BadInput(
                f"ActionBins: expected 2 <= n_bins <= {self.n_text_tokens} (the size of the vocabulary), got {self.n_bins}."
            )

    @property
    def edges(self) -> np.ndarray:
        """(n_bins,) float64 in [-1, 1]."""
        return np.linspace(-1, 1, self.n_bins)

    @property
    def centres(self) -> np.ndarray:
        """(n_bins - 1,) float64, ascending."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    @property
    def first_id(self) -> int:
        """The lowest action token; it stands for the highest number."""
        return self.n_text_tokens - self.n_bins

    def is_action(self, ids: np.ndarray) -> np.ndarray:
        """Whether each token id is an action token, any shape, bool."""
        return (ids >= self.first_id) & (ids < self.n_text_tokens)

    def values(self, ids: np.ndarray) -> np.ndarray:
        """Numbers of token ids, any shape; ids that are no action tokens are clipped to the nearest that is."""
        return self.centres[np.clip(self.n_text_tokens - ids - 1, 0, self.n_bins - 2)]

    def ids(self, values: np.ndarray) -> np.ndarray:
        """Token ids of numbers, which are clipped to [-1, 1]; `values` undoes it to half a bin."""
        return self.n_text_tokens - np.digitize(np.clip(values, -1, 1), self.edges)


@dataclass(frozen=True)
class ActionNorm:
    """The scale of one data set's actions.

    Args:
        key: name of the data set.
        q01, q99: (A,) percentiles of each number of an action, in the units of the robot.
        mask: (A,) bool, False for numbers that were never scaled (the gripper).
    """

    key: str
    q01: np.ndarray
    q99: np.ndarray
    mask: np.ndarray

    def unnormalise(self, values: np.ndarray) -> np.ndarray:
        """(..., A) in (-1, 1) -> (..., A) in the robot's units."""
        scaled = 0.5 * (values + 1) * (self.q99 - self.q01) + self.q01
        return np.where(self.mask, scaled, values)


def action_norm(statistics: Mapping[str, Any], key: str | None) -> ActionNorm:
    """The scale of a data set; `key` may leave out the ending "_no_noops" of the LIBERO sets.

    Args:
        statistics: `norm_stats` of a checkpoint.
        key: name of the data set; None if there is only one.
    Raises:
        BadInput: unknown key, or none given where there are several; the message lists those that exist.
        BadArtifact: the statistics are incomplete.
    """
    if not statistics:
        raise BadArtifact(
            "openvla: the checkpoint has no action statistics (norm_stats in config.json); fetch it again."
        )
    if key is None and len(statistics) > 1:
        raise BadInput(f"openvla: unnorm_key is needed, one of the checkpoint's data sets: {', '.join(statistics)}.")
    name = next(iter(statistics)) if key is None else key
    if name not in statistics and f"{name}_no_noops" in statistics:
        name = f"{name}_no_noops"
    if name not in statistics:
        raise BadInput(f"openvla: unnorm_key {key!r} is unknown{nearest(key, statistics)}")
    try:
        entry = statistics[name]["action"]
        q01, q99 = (np.asarray(entry[quantile], dtype=np.float64) for quantile in ("q01", "q99"))
        mask = np.asarray(entry.get("mask", np.ones(q01.shape)), dtype=bool)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise BadArtifact(
            f"openvla: the action statistics of {name!r} have no usable q01, q99 and mask: {error!r}."
        ) from error
    shapes = {"q01": q01.shape, "q99": q99.shape, "mask": mask.shape}
    if q01.ndim != 1 or len(q01) == 0 or len(set(shapes.values())) > 1:
        raise BadArtifact(
            f"openvla: the action statistics of {name!r} have shapes {shapes}; expected one row of numbers."
        )
    if not (np.isfinite(q01) & np.isfinite(q99)).all():
        raise BadArtifact(
            f"openvla: the action statistics of {name!r} hold NaN or infinity; fetch the checkpoint again."
        )
    return ActionNorm(name, q01, q99, mask)


def libero_gripper(actions: np.ndarray) -> np.ndarray:
    """The last number from [0, 1], 1 open, to LIBERO's -1 (open) or +1 (close); a copy.

    g -> -sign(2 g - 1)
    """
    actions = actions.copy()
    actions[..., -1] = -np.sign(2 * actions[..., -1] - 1)
    return actions
