"""Model cards: what an embedded policy is, how it was made, and what was measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.runs import write_bytes


@dataclass(frozen=True)
class Score:
    """A share of episodes with its Wilson 95 % interval."""

    name: str
    value: float
    low: float
    high: float
    episodes: int

    @classmethod
    def of(cls, name: str, hits: np.ndarray) -> Score:
        """Make a score from one bool per episode."""
        interval = proportion_interval(int(hits.sum()), len(hits))
        return cls(name, interval.value, interval.low, interval.high, len(hits))

    def row(self) -> str:
        """A row of the card's table."""
        return f"| {self.name} | {self.value:.2f} | {self.low:.2f} to {self.high:.2f} | {self.episodes} |"


def write_card(
    path: Path,
    name: str,
    what: str,
    facts: Mapping[str, str],
    scores: Sequence[Score],
    measured: str = "the 50 fixed initial states of the task with two seeds",
) -> None:
    """Write a card as Markdown; `measured` says what the scores are of."""
    lines = [
        f"# {name}", "", f"{what[0].upper()}{what[1:]}.", "", "| | |", "| --- | --- |",
        *(f"| {key} | {value} |" for key, value in facts.items()),
        f"| made by | `steer-agents rebuild {name} --install` |", "",
        f"Measured over {measured}, Wilson 95 % intervals:", "",
        "| | value | interval | episodes |", "| --- | --- | --- | --- |", *(score.row() for score in scores), "",
    ]  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, "\n".join(lines).encode())
