"""Which reward holds now: stages that switch by triggers with hysteresis (Schmitt triggers), once per chunk.

A trigger opens when its value passes `above` (or falls below `below`) and closes only when it comes back to `release`: between the two it
stays as it is, so that a value that trembles about one threshold does not switch to and fro.

VLS (arXiv 2602.03973) lets a language model decide at its two reward thresholds; here all is a pure function of measured values.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from policies.errors import BadInput, NonFinite
from steer_agents.guidance.prediction import Prediction
from steer_agents.guidance.scene import Scene

Reward = Callable[[Prediction, Scene], torch.Tensor]
"""(prediction, scene) -> (R,) reward, higher is better, differentiable in the prediction."""
Measure = Callable[[Scene], torch.Tensor]
"""scene -> (R,) value."""


@dataclass(frozen=True)
class Trigger:
    """Open or closed per row, with hysteresis.

    Args:
        measure: what is looked at.
        above, below: it opens at value > above, or at value < below; exactly one of them.
        release: it closes at value <= release (with above) or value >= release (with below); None is the threshold itself.
        name: as shown.
    Raises:
        BadInput: not exactly one threshold, one that is NaN, or a release beyond it.
    """

    measure: Measure
    above: float | None = None
    below: float | None = None
    release: float | None = None
    name: str = ""

    def __post_init__(self) -> None:
        if (self.above is None) == (self.below is None):
            raise BadInput(f"trigger {self.name}: give above or below, one of them.")
        numbers = [x for x in (self.above, self.below, self.release) if x is not None]
        if any(math.isnan(x) for x in numbers):
            raise BadInput(f"trigger {self.name}: thresholds must be numbers, got {numbers}.")
        wrong = self.release is not None and (
            (self.above is not None and self.release > self.above)
            or (self.below is not None and self.release < self.below)
        )
        if wrong:
            raise BadInput(
                f"trigger {self.name}: release={self.release} must lie on the other side of the threshold "
                f"(at most above={self.above}, or at least below={self.below})."
            )

    def step(self, opened: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        """(R,) bool, from which rows were open and the (R,) value now."""
        if self.above is not None:
            return (value > self.above) | (opened & (value > (self.above if self.release is None else self.release)))
        assert self.below is not None
        return (value < self.below) | (opened & (value < (self.below if self.release is None else self.release)))


@dataclass(frozen=True)
class Stage:
    """A reward and when it is done with.

    Args:
        reward: None is no reward: this stage leaves the policy alone.
        done: opens when the next stage begins; when it closes again, the task falls back to this stage. None: the last stage.
    """

    name: str
    reward: Reward | None
    done: Trigger | None = None


@dataclass(frozen=True)
class Stages:
    """A reward that depends on the stage a row is in.

    Raises:
        BadInput: no stage, equal names, or a stage other than the last one without `done`.
    """

    stages: tuple[Stage, ...]

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) < len(names):
            raise BadInput(f"stages: expected at least one stage, with names of their own, got {names}.")
        for number, stage in enumerate(self.stages):
            if (stage.done is None) != (number == len(names) - 1):
                raise BadInput(
                    f"stage {stage.name!r} (number {number + 1} of {len(names)}): every stage but the last has `done`, the last has none."
                )

    def first(self, n_rows: int) -> torch.Tensor:
        """(R,) int64: all rows in the first stage."""
        return torch.zeros(n_rows, dtype=torch.int64)

    def step(self, stage: torch.Tensor, scene: Scene) -> torch.Tensor:
        """The (R,) stages after a look at the scene, at most one stage on or back.

        A row goes on when its stage's `done` opens, and back when the one before it closes; the trigger of the stage before counts as open.
        """
        if len(self.stages) == 1:
            return stage
        moved = stage.clone()
        for number, one in enumerate(self.stages):
            if one.done is None:
                continue
            here, after = stage == number, stage == number + 1
            if not bool((here | after).any()):
                continue
            opened = one.done.step(after, one.done.measure(scene))
            moved = torch.where(here & opened, number + 1, moved)
            moved = torch.where(after & ~opened, number, moved)
        return moved

    def reward(self, prediction: Prediction, scene: Scene, stage: torch.Tensor) -> torch.Tensor:
        """(R,) reward of every row in its own stage."""
        if len(self.stages) == 1 and self.stages[0].reward is not None:
            return checked(self.stages[0].reward(prediction, scene), prediction, self.stages[0].name)
        total = prediction.path.sum(dim=(1, 2)) * 0.0
        for number, one in enumerate(self.stages):
            here = stage == number
            if one.reward is None or not bool(here.any()):
                continue
            value = checked(one.reward(prediction, scene), prediction, one.name)
            total = torch.where(here, value, total)
        return total


def as_stages(reward: Reward | Stages) -> Stages:
    """One reward is one stage; stages stay as they are."""
    if isinstance(reward, Stages):
        return reward
    if not callable(reward):
        raise BadInput(
            f"guidance: a reward is a function (prediction, scene) -> (R,) tensor or Stages, got {type(reward).__name__}."
        )
    name = getattr(reward, "__name__", type(reward).__name__)
    return Stages((Stage(name, reward),))


def checked(value: object, prediction: Prediction, name: str) -> torch.Tensor:
    """A reward's result, if guidance can use it.

    Raises:
        BadInput: no (R,) tensor, or one that does not depend on the prediction.
        NonFinite: NaN or infinite in some row.
    """
    n_rows = len(prediction.path)
    if not isinstance(value, torch.Tensor) or value.shape != (n_rows,):
        got = f"shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise BadInput(f"reward {name!r}: expected a tensor of shape ({n_rows},), one number per row, got {got}.")
    if prediction.path.requires_grad and not value.requires_grad:
        raise BadInput(
            f"reward {name!r} is not differentiable in the predicted path: its result has no gradient. Compute it with torch from "
            "prediction.path (no .detach(), .numpy(), .item() or comparisons alone)."
        )
    if bad := {row: one for row, one in enumerate(value.tolist()) if not math.isfinite(one)}:
        raise NonFinite(f"reward {name!r} is not finite in rows {list(bad)}: {list(bad.values())}.")
    return value
