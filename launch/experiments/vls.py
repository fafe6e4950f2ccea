"""What the experiments on guided denoising share: a task, conditions on paired layouts, measures, the choice of a strength.

Layouts are drawn, never the fixed initial states. Strength is chosen on one seed, everything is tested on another; all conditions of a
seed see the same layouts and start from the same noise.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gymnasium as gym
import pandas as pd

import envs
import policies
from launch.experiments.base import Figure, Say
from launch.rebuild.evaluation import side_passed
from policies.errors import BadInput
from steer_agents.evaluation import plots
from steer_agents.evaluation.compare import Comparison, compare
from steer_agents.evaluation.intervals import Interval, proportion_interval
from steer_agents.guidance import RewardGuidance
from steer_agents.loop import Measures, rollout
from steer_agents.runs import write_json
from steer_agents.steerer import Part, Steerer

assert envs.__name__  # importing it registers the environments

VALIDATION, TEST = 71_000, 81_000
"""Seeds of the runs that a strength is chosen on, and that everything is tested on."""
ROWS = 25


@dataclass(frozen=True)
class Condition:
    """One way of running: what is shown, "base", "steered", "control" or "other" as in the plots, and what is attached."""

    name: str
    role: str
    part: Part | None = None


@dataclass
class Bench:
    """A policy on a task.

    Args:
        policy: embedded policy; task: of the tabletop, or the name of another's; folder: where finished runs are kept.
        make: makes an environment; None is the tabletop's task.
        measures: further columns of the episodes; rows: environments side by side.
    """

    policy: str
    task: str
    folder: Path
    make: Callable[[], gym.Env] | None = None
    measures: Measures | None = None
    rows: int = ROWS
    counters: dict[str, dict[str, float]] = field(default_factory=dict)

    def episodes(self, condition: Condition, seed: int, count: int) -> pd.DataFrame:
        """One row per episode; what guidance counted is kept beside the run."""
        env = self.make or copy.deepcopy(gym.spec(f"SteerAgents/{self.task}-v0"))
        place = self.folder / f"{condition.name.replace(' ', '-').replace(',', '')}-{seed}-{count}"
        run = rollout(
            env, policies.load(self.policy), None if condition.part is None else Steerer(condition.part),
            episodes=count, seed=seed, num_envs=min(self.rows, count), measures=self.measures or measures,
            condition=condition.name, run=place,
        )  # fmt: skip
        if isinstance(condition.part, RewardGuidance):
            kept = place / "counters.json"
            if condition.part.counters.chunks or not kept.exists():  # a finished run is not run again
                write_json(kept, condition.part.counters.report())
            self.counters[condition.name] = json.loads(kept.read_text())
        return run.episodes


def measures(steps: pd.DataFrame, info: Mapping[str, Any]) -> dict[str, float]:
    """Whether an obstacle was touched, the least clearance [m], the way made [m], the side a post was passed on."""
    return {
        "touched": float(steps["touched"].iloc[-1]),
        "least_clearance": float(steps["clearance"].min()),
        "path_length": float(steps["path_length"].iloc[-1]),
        **side_passed(steps, info),
    }


def share(table: pd.DataFrame, column: str, wanted: float = 1.0) -> Interval:
    """How many episodes have this value, of those that have one; errored ones count as not."""
    known = table[column].notna() | table["errored"]
    if not known.any():
        raise BadInput(f"share: no episode of {table['condition'].iloc[0]!r} has a {column}.")
    return proportion_interval(int((table.loc[known, column] == wanted).sum()), int(known.sum()))


def paired(table: pd.DataFrame, base: pd.DataFrame, column: str) -> Comparison:
    """Difference from the base, paired by seed, of a column of zeros and ones."""
    return compare(table, base, column)


def choose_strength(scores: Mapping[float, tuple[float, float]], slack: float = 0.05) -> float:
    """The smallest strength that is good enough: both scores (higher is better) within `slack` of the best sum's.

    Args:
        scores: strength -> (success, share that did as asked).
    """
    best = max(scores.values(), key=sum)
    return min(
        s for s, found in scores.items() if all(one >= top - slack for one, top in zip(found, best, strict=True))
    )


def table_of(
    found: Sequence[Condition],
    tables: Mapping[str, pd.DataFrame],
    columns: Sequence[str],
    counters: Mapping[str, Mapping[str, float]],
) -> pd.DataFrame:
    """One row per condition: success and `columns` with Wilson intervals, length of successes, what guidance counted."""
    rows = []
    for one in found:
        table = tables[one.name]
        row: dict[str, Any] = {"condition": one.name, "role": one.role}
        for column in ("success", *columns):
            value = share(table, column)
            row |= {column: value.value, f"{column} low": value.low, f"{column} high": value.high}
        good = table[table["success"] == 1]
        row |= {
            "steps of successes": float(good["length"].mean()),
            "path of successes": float(good["path_length"].mean()),
        }
        row |= {"episodes": len(table), "errored": int(table["errored"].sum())}
        row |= {key: value for key, value in counters.get(one.name, {}).items() if key != "chunks"}
        rows.append(row)
    return pd.DataFrame(rows)


def figure(table: pd.DataFrame, column: str, title: str) -> Figure:
    """Bars of a share over the conditions."""
    shown = [
        {"name": row["condition"], "value": row[column], "low": row[f"{column} low"], "high": row[f"{column} high"], "role": row["role"]}
        for row in table.to_dict("records")
    ]  # fmt: skip
    alt = f"{column}: " + ", ".join(f"{row['name']} {row['value']:.2f}" for row in shown)
    return Figure(column, plots.bars(pd.DataFrame(shown), label=column, title=title), "Wilson 95 % intervals.", alt)


def run_all(
    bench: Bench, found: Sequence[Condition], count: int, say: Say, column: str = "touched", seed: int = TEST
) -> dict[str, pd.DataFrame]:
    """Every condition on the test layouts of a seed; `column` is told beside success."""
    tables = {}
    for one in found:
        say.stage(f"{count} episodes of {bench.task}: {one.name}")
        table = tables[one.name] = bench.episodes(one, seed, count)
        say.note(
            f"success {table['success'].mean():.2f}, {column} {table[column].mean():.2f}, steps {table['length'].mean():.0f}"
        )
    return tables
