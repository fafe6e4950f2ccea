"""A claim that steering does something, judged from the episodes of a few conditions: rows, bars, a plot, a sentence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.base import Figure
from steer_agents.evaluation import plots
from steer_agents.evaluation.compare import Comparison, compare
from steer_agents.evaluation.intervals import mean_interval, proportion_interval
from steer_agents.evaluation.report import Bar

UNSTEERED, ZERO = "unsteered", "zero strength"


@dataclass(frozen=True)
class Claim:
    """What is claimed, and what was seen.

    Args:
        short: one word for tables and files; name: what is claimed, in words.
        measure: column of the tables; label: in words, with its unit.
        sign: of the change asked for, -1 or +1.
        tables: condition -> episodes with columns seed, errored, success and the measure; `UNSTEERED` is one of them.
        roles: condition -> "base", "steered", "control" or "other"; exactly one is steered.
        share: the measure is 0 or 1; else a number, missing where there was nothing to measure.
        task: success means something.
    """

    short: str
    name: str
    measure: str
    label: str
    sign: int
    tables: Mapping[str, pd.DataFrame]
    roles: Mapping[str, str]
    share: bool
    task: bool = True

    @property
    def steered(self) -> str:
        """Name of the steered condition."""
        (name,) = [name for name, role in self.roles.items() if role == "steered"]
        return name

    @cached_property
    def changes(self) -> dict[str, Comparison]:
        """Condition -> paired difference from the unsteered one."""
        kind, missing = ("binary", "raise") if self.share else ("continuous", "exclude")
        return {
            name: compare(
                table, self.tables[UNSTEERED], self.measure, kind=kind, missing=missing, names=(name, UNSTEERED)
            )
            for name, table in self.tables.items()
            if name != UNSTEERED
        }

    @property
    def loudest(self) -> str:
        """The control that does most of what is asked."""
        controls = [name for name, role in self.roles.items() if role == "control"]
        return max(controls, key=lambda name: self.sign * self.changes[name].value)

    def bars(self) -> list[Bar]:
        """Zero strength changes nothing; the change has the asked sign, beyond chance; no control reaches half of it."""
        own, worst = self.changes[self.steered], self.changes[self.loudest]
        found = []
        if ZERO in self.tables:
            columns = ["seed", self.measure, *(["success"] if self.task else [])]
            same = (
                self.tables[ZERO][columns]
                .reset_index(drop=True)
                .equals(self.tables[UNSTEERED][columns].reset_index(drop=True))
            )
            text = "as unsteered" if same else "differs"
            found.append(Bar(f"{self.short}: zero strength", text, None, "every episode as unsteered", same))
        beyond = own.high < 0 if self.sign < 0 else own.low > 0
        found.append(
            Bar(f"{self.short}: change of the {self.label}", own.value, (own.low, own.high),
                "below 0 with its interval" if self.sign < 0 else "above 0 with its interval", bool(beyond))
        )  # fmt: skip
        half = own.value / 2
        found.append(
            Bar(f"{self.short}: {self.loudest}, the strongest of {sum(role == 'control' for role in self.roles.values())} controls",
                worst.value, (worst.low, worst.high), f"less than half of it, {half:.2g}", bool(self.sign * worst.value < self.sign * half))
        )  # fmt: skip
        return found

    def rows(self) -> list[dict[str, Any]]:
        """One row per condition."""
        return [
            {"claim": self.short, "condition": name, "role": self.roles[name], "measure": self.label, **self._estimate(table),
             "success": float((table["success"] > 0).mean()) if self.task else np.nan, "episodes": len(table)}
            for name, table in self.tables.items()
        ]  # fmt: skip

    def _estimate(self, table: pd.DataFrame) -> dict[str, float]:
        values = table.loc[~table["errored"].astype(bool), self.measure].dropna().to_numpy(float)
        if self.share:
            found = proportion_interval(int((values > 0).sum()), len(values))
        elif len(values):
            found = mean_interval(values)
        else:
            return {"value": np.nan, "low": np.nan, "high": np.nan}
        return {"value": found.value, "low": found.low, "high": found.high}

    def figure(self) -> Figure:
        """Bars over the conditions."""
        shown = pd.DataFrame(self.rows()).rename(columns={"condition": "name"})
        alt = f"{self.label}: " + ", ".join(
            f"{name} {value:.3g}" for name, value in zip(shown["name"], shown["value"], strict=True)
        )
        base = float(shown.set_index("name").loc[UNSTEERED, "value"])
        image = plots.bars(shown.dropna(subset="value"), label=self.label, title=self.name, reference=base)
        return Figure(self.short, image, "95 % intervals; the line is the unsteered mean.", alt)

    def sentence(self) -> str:
        """The claim in plain words, as the numbers have it."""
        at = {row["condition"]: row for row in self.rows()}
        own, worst = self.changes[self.steered], self.changes[self.loudest]
        holds = all(bar.holds for bar in self.bars())
        return (
            f"{self.name}: {'yes' if holds else 'not shown'}. The {self.label} goes from {at[UNSTEERED]['value']:.2f} to "
            f"{at[self.steered]['value']:.2f} (change {own.value:+.2f}, {own.low:+.2f} to {own.high:+.2f}; the strongest control, "
            f"{self.loudest}, {worst.value:+.2f})."
            + (
                f" Success {at[UNSTEERED]['success']:.2f} unsteered, {at[self.steered]['success']:.2f} steered."
                if self.task
                else ""
            )
        )
