"""Does it steer? The verdict on one direction, per side of the strength and over both.

What counts, and what does not:

* An episode without an answer, or that fails, is *lost*: a failure, never a move (arXiv 2508.21448 counts null answers so).
* The effect is the paired change of the target over the *kept* pairs, in which neither episode is lost: an effect that only failing
  episodes have is damage. It is shown where its interval excludes 0 and its sign-flip p, corrected over the strengths (Holm 1979), agrees:
  more spread is no effect.
* Random directions of the same norm, on the same seeds, must do less: the paired excess over each of them is positive with its interval
  (corrected over the strengths, since the strength is chosen), and the loudest, whichever way it moves, stays below half of the effect.
* A strength is usable while the rise of the share of lost episodes is *shown* to be within the bound: the upper end of Newcombe's paired
  interval, one-sided. Strengths are tested from 0 outwards and the first failure ends the range, so that no correction is needed (fixed
  sequence: Maurer, Hothorn and Lehmacher 1995).

| verdict | when |
| --- | --- |
| steerable | an effect is shown within the usable range, beyond the controls, and no side effect moves by more than its bound |
| steerable at a cost | an effect is shown beyond the controls, but with such a side effect, or only outside of the usable range |
| unsteerable | neither |
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from steer_agents.evaluation.intervals import Interval

STEERABLE, AT_A_COST, UNSTEERABLE = "steerable", "steerable at a cost", "unsteerable"
WORDS = (UNSTEERABLE, AT_A_COST, STEERABLE)
"""From worst to best."""


@dataclass(frozen=True)
class Against:
    """The direction beside one control at the same strength and seeds.

    Args:
        moved: mean change of the target that the control makes, over `n` pairs; NaN where there are too few to tell.
        excess: of the direction over the control, in the direction's sense; NaN where it cannot be told.
        lost: share of the control's episodes that are lost.
    """

    moved: float
    excess: Interval
    lost: float


@dataclass(frozen=True)
class Side:
    """What is known of one side of the strength, negative or positive.

    Args:
        sign: of the strength.
        end: the farthest usable strength; 0 for none.
        strength: at which it is judged: of those with a shown effect the farthest-moving usable one, else the farthest-moving one.
        effect: at that strength over the kept pairs.
        p_value: of it, corrected over the strengths.
        shown: whether it is.
        all_moved: the change over all answered pairs, lost or not.
        lost: rise of the share of lost episodes there.
        controls: name -> beside it.
        side_effects: measure -> its shift in standard deviations of the unsteered episodes, where it exceeds its bound.
        quiet: share of the effect that no control may reach.
    """

    sign: int
    end: float
    strength: float
    effect: Interval
    p_value: float
    shown: bool
    all_moved: float
    lost: Interval
    controls: Mapping[str, Against]
    side_effects: Mapping[str, float] = field(default_factory=dict)
    quiet: float = 0.5

    @property
    def usable(self) -> bool:
        """Whether it is judged within the usable range."""
        return abs(self.strength) <= abs(self.end)

    @property
    def beyond(self) -> bool:
        """Whether every control does clearly less."""
        return bool(self.controls) and all(
            one.excess.low > 0 and abs(one.moved) < self.quiet * abs(self.effect.value)
            for one in self.controls.values()
        )

    @property
    def word(self) -> str:
        """The verdict on this side."""
        if not (self.shown and self.beyond):
            return UNSTEERABLE
        return STEERABLE if self.usable and not self.side_effects else AT_A_COST

    def reason(self, target: str) -> str:
        """Why, in one sentence or two."""
        at = f"at {self.strength:+.3g}"
        moved = f"{target} {self.effect.value:+.3g} ({self.effect.low:+.3g} to {self.effect.high:+.3g}) {at}"
        if not self.effect.n:
            return f"no effect can be shown {at}: 0 pairs of episodes succeed with and without steering."
        if not self.shown:
            text = f"no effect is shown: {moved}, p = {self.p_value:.2g} over {self.effect.n} episodes that succeed"
            if self.lost.low > 0 and abs(self.all_moved) > 2 * abs(self.effect.value):
                text += f"; over all episodes it is {self.all_moved:+.3g}, which is damage, for {self.lost.value:+.0%} are lost"
            return text + "."
        if not self.beyond:
            name, worst = max(self.controls.items(), key=lambda one: _loudness(one[1]))
            told = "cannot be told apart" if math.isnan(worst.moved) else f"does {worst.moved:+.3g}"
            return f"{moved}, but {name} {told} on the same seeds."
        costs = [f"{name} moves by {shift:+.2g} sd" for name, shift in self.side_effects.items()]
        if not self.usable:
            costs.append(f"{self.lost.value:+.0%} of the episodes are lost (up to {self.lost.high:+.0%})")
        return f"{moved}, beyond {len(self.controls)} controls" + (f", but {', '.join(costs)}." if costs else ".")


def _loudness(one: Against) -> float:
    return math.inf if math.isnan(one.moved) else abs(one.moved)


@dataclass(frozen=True)
class Verdict:
    """The verdict and its reasons, one per side of the strength."""

    word: str
    reasons: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.word}: " + " ".join(self.reasons)


def judge(sides: Sequence[Side], target: str) -> Verdict:
    """The better of the sides, each with its reason."""
    found = [one.word for one in sides]
    word = max(found, key=WORDS.index, default=UNSTEERABLE)
    names = {1: "positive strengths", -1: "negative strengths"}
    reasons = [f"{names[one.sign]} ({one.word}): {one.reason(target)}" for one in sides]
    return Verdict(word, tuple(reasons))
