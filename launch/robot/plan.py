"""Chunks of targets over time: interpolated between their steps, blended at the seams between two of them. Pure functions of time."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Plan:
    """One chunk as targets over time.

    Args:
        start: (N,) target that held when the observation was made.
        targets: (H, N) absolute targets.
        begins: when the observation was made [s]; target k holds from begins + k dt in the policy's own environment.
        dt: seconds between two of them.
        steered, number: of the chunk.
    """

    start: np.ndarray
    targets: np.ndarray
    begins: float
    dt: float
    steered: bool
    number: int

    @property
    def ends(self) -> float:
        """When its last target may no longer be held: one step after its time, so that the next chunk can arrive late."""
        return self.begins + (len(self.targets) + 1) * self.dt

    def at(self, now: float) -> np.ndarray | None:
        """(N,) target at a time; None when the chunk is over.

        Linear between the steps. Target k is passed at begins + (k + 1/2) dt: in the middle of the time it would hold if it were
        jumped to, so that on the mean the interpolation neither leads nor lags.
        """
        if now >= self.ends:
            return None
        place = (now - self.begins) / self.dt - 0.5
        if place >= len(self.targets) - 1:
            return np.array(self.targets[-1])
        index = math.floor(place)
        share = place - index
        after = self.targets[max(index + 1, 0)]
        if index < -1:
            return np.array(self.start)
        before = self.start if index < 0 else self.targets[index]
        if index < 0:  # from the start to the first target in half a step
            share = 2 * share - 1 if share > 0.5 else 0.0
        with np.errstate(invalid="ignore"):  # what is not finite stays so, for the gate to refuse
            return np.asarray(before + share * (after - before))


@dataclass(frozen=True)
class Blend:
    """The newest plan, and the one before it for as long as the seam lasts.

    Args:
        plan: the newest.
        old: the one before; None at the first.
        since: when the newest came [s].
        seam: how long the blend lasts [s].
    """

    plan: Plan
    old: Plan | None = None
    since: float = 0.0
    seam: float = 0.1

    def follow(self, plan: Plan, now: float) -> Blend:
        """Go over to another plan; a steered and an unsteered one are not mixed."""
        old = self.plan if self.plan.steered == plan.steered else None
        return Blend(plan, old, now, self.seam)

    def at(self, now: float) -> np.ndarray | None:
        """(N,) target: (1 - w) old + w new, w = 3 s^2 - 2 s^3 with s the share of the seam that is over."""
        new = self.plan.at(now)
        share = 1.0 if self.seam <= 0 else (now - self.since) / self.seam
        if new is None or self.old is None or share >= 1.0:
            return new
        old = self.old.at(now)
        before = self.old.targets[-1] if old is None else old
        weight = share * share * (3 - 2 * share) if share > 0 else 0.0
        with np.errstate(invalid="ignore"):
            return np.asarray((1 - weight) * before + weight * new)
