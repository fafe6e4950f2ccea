"""What one check of the battery says, and the battery as a whole: as strong as its weakest link, never as its mean.

Every check has a score in [0, 1], the bound from which it holds, a verdict in plain words and what to do where it does not
hold. A check that could not be done has no score: it says why, and never counts as passed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from policies.errors import BadInput
from steer_agents.runs import jsonable


@dataclass(frozen=True)
class Check:
    """One check.

    Args:
        name: of it, see the table in README.md.
        score: in [0, 1]; None where it was not measured.
        bound: from which it holds.
        verdict: what was found, in plain words; where nothing was measured, why not.
        advice: what to do where it does not hold.
        numbers: behind the score, by name.
    """

    name: str
    score: float | None
    bound: float
    verdict: str
    advice: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.score is not None and not 0 <= self.score <= 1:
            raise BadInput(f"check {self.name!r}: got the score {self.score}, allowed is [0, 1], or None.")

    @property
    def holds(self) -> bool | None:
        """None where it was not measured."""
        return None if self.score is None else self.score >= self.bound

    @property
    def word(self) -> str:
        """ "holds", "fails" or "not measured"."""
        return "not measured" if self.holds is None else "holds" if self.holds else "fails"


def not_measured(name: str, bound: float, why: str) -> Check:
    """A check that could not be done."""
    return Check(name, None, bound, f"not measured: {why}")


def unit(value: float) -> float:
    """Clipped to [0, 1]; a NaN, which no effect at all leads to, is 0."""
    return float(min(max(value, 0.0), 1.0)) if value == value else 0.0


@dataclass(frozen=True)
class Battery:
    """All checks of one direction.

    Args:
        subject: what was stressed, in words.
        checks: in the order they are shown, with different names.
    Raises:
        BadInput: no checks, or a name that occurs twice.
    """

    subject: str
    checks: tuple[Check, ...]

    def __post_init__(self) -> None:
        names = [check.name for check in self.checks]
        if not names or len(set(names)) < len(names):
            raise BadInput(f"battery: needs checks with different names, got {names}.")

    @property
    def measured(self) -> tuple[Check, ...]:
        """The checks that were done."""
        return tuple(check for check in self.checks if check.score is not None)

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that do not hold, the weakest first."""
        return tuple(sorted((one for one in self.measured if not one.holds), key=lambda one: one.score or 0.0))

    @property
    def score(self) -> float | None:
        """The smallest score; None where nothing was measured."""
        return min((check.score for check in self.measured if check.score is not None), default=None)

    @property
    def weakest(self) -> Check | None:
        """The check with that score."""
        return min(self.measured, key=lambda one: one.score or 0.0, default=None)

    @property
    def word(self) -> str:
        """ "fragile" where a check fails, "sturdy" where every check was done and holds, else "undecided"."""
        if self.failed:
            return "fragile"
        return "sturdy" if len(self.measured) == len(self.checks) else "undecided"

    def __getitem__(self, name: str) -> Check:
        """A check by its name.

        Raises:
            KeyError: there is none.
        """
        return {check.name: check for check in self.checks}[name]

    @property
    def verdict(self) -> str:
        """The page in a few sentences."""
        left = [check.name for check in self.checks if check.score is None]
        also = f" Not measured, so not passed: {', '.join(left)}." if left else ""
        weakest = self.weakest
        if weakest is None:
            return f"{self.subject}: undecided, nothing was measured.{also}"
        score = f"score {self.score:.2f}, the weakest of {len(self.measured)} checks is '{weakest.name}'"
        if self.failed:
            told = "; ".join(f"{one.name}: {one.verdict}" for one in self.failed)
            return f"{self.subject}: fragile ({score}). {told}.{also}"
        return f"{self.subject}: {self.word} ({score}); every check that was done holds.{also}"

    def rows(self) -> list[dict[str, Any]]:
        """One row per check, for tables."""
        return [
            {
                "check": one.name,
                "score": one.score,
                "bound": one.bound,
                "says": one.word,
                "verdict": one.verdict,
                "what to do": one.advice if one.holds is False else "",
            }
            for one in self.checks
        ]

    def to_dict(self) -> dict[str, Any]:
        """Everything as JSON can hold it."""
        told: dict[str, Any] = jsonable(
            {
                "subject": self.subject,
                "score": self.score,
                "weakest": None if self.weakest is None else self.weakest.name,
                "word": self.word,
                "verdict": self.verdict,
                "checks": [{**vars(one), "numbers": dict(one.numbers), "holds": one.holds} for one in self.checks],
            }
        )
        return told
