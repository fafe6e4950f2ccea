"""What an anytime-valid comparison saves over a fixed number of episodes, and how often it rejects where there is nothing.

Simulated, no policy: pairs of success with given rates and correlation. Both tests are planned for the same rates and power: McNemar's
exact test
with the least number of pairs that has it, the sequential test with the least limit that has it (on other draws than are reported).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.base import Outcome, Say
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.power import Discordance, binary_plan, draw, sequential_plan, simulate
from steer_agents.evaluation.report import Bar


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        repeats: simulated comparisons of every row.
        cases: success rates of both sides, and their correlation within pairs.
        nulls: common success rate, correlation.
        powers: planned for.
        batch: a second count of episodes, where one looks after so many pairs only.
        seed: of the simulations.
    """

    repeats: int = 5000
    cases: tuple[tuple[float, float, float], ...] = (
        (0.5, 0.7, 0.0), (0.6, 0.8, 0.0), (0.7, 0.9, 0.0), (0.6, 0.8, 0.3), (0.6, 0.8, 0.5),
    )  # fmt: skip
    nulls: tuple[tuple[float, float], ...] = ((0.1, 0.0), (0.5, 0.0), (0.9, 0.0), (0.5, 0.5))
    powers: tuple[float, ...] = (0.8, 0.9)
    batch: int = 8
    seed: int = 2026


def settings(quick: bool) -> Settings:
    """5,000 comparisons a row (about a minute), or 500."""
    return replace(Settings(), repeats=500) if quick else Settings()


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Plan, simulate, count."""
    say.plan([1.0] * (len(s.cases) * len(s.powers) + len(s.powers)))
    rows: list[dict[str, Any]] = []
    for power in s.powers:
        for number, (a, b, correlation) in enumerate(s.cases):
            say.stage(f"power {power}: {a} against {b}, correlation {correlation}")
            differ = Discordance.of(b, a, correlation)
            fixed, (design, plan) = binary_plan(differ, power), sequential_plan(differ, power)
            runs = simulate(design, draw(differ, s.repeats, plan.pairs, s.seed + number))
            share = differ.share / 2
            null = simulate(design, draw(Discordance(share, share), s.repeats, plan.pairs, s.seed + 100 + number))
            mean, batched = float(runs.pairs.mean()), float(runs.in_batches(s.batch, plan.pairs).mean())
            rows.append({
                "power": power, "rates": f"{a:g}, {b:g}", "correlation": correlation, "fixed pairs": fixed.pairs,
                "fixed power": fixed.power,
                "most pairs": plan.pairs, "sequential power": float((runs.decided > 0).mean()), "mean pairs": mean,
                "fewer": 1 - mean / fixed.pairs, f"fewer, looks every {s.batch}": 1 - batched / fixed.pairs,
                "mean pairs without a difference": float(null.pairs.mean()), "false positives": float((null.decided != 0).mean()),
            })  # fmt: skip
    false: list[dict[str, Any]] = []
    for power in s.powers:
        say.stage(f"power {power}: no difference at {len(s.nulls)} rates, tested as planned for 0.6 against 0.8")
        design, plan = sequential_plan(Discordance.of(0.8, 0.6), power)
        for number, (rate, correlation) in enumerate(s.nulls):
            runs = simulate(
                design, draw(Discordance.of(rate, rate, correlation), s.repeats, plan.pairs, s.seed + 200 + number)
            )
            hits = int((runs.decided != 0).sum())
            false.append(
                {
                    "power": power,
                    "rate": rate,
                    "correlation": correlation,
                    "false positives": hits / s.repeats,
                    "hits": hits,
                }
            )
    table = pd.DataFrame(rows)
    worst = max([*table["false positives"], *[row["false positives"] for row in false]])
    found = proportion_interval(round(worst * s.repeats), s.repeats)
    least = float(table["fewer"].min())
    bars = [
        Bar(f"largest false-positive rate of {len(rows) + len(false)} rows of {s.repeats}", worst, (found.low, found.high), "<= 0.05",
            worst <= 0.05),
        Bar("least saving at equal power, looking after every pair", least, None, ">= 0.30", least >= 0.3),
    ]  # fmt: skip
    return Outcome(
        title="Stopping early at a guaranteed error rate",
        question="For a gap of 20 points in success: how many fewer episodes does the sequential test need than "
        "McNemar's exact test of equal power?",
        verdict=f"Between {100 * least:.0f} and {100 * float(table['fewer'].max()):.0f} % fewer pairs on average "
        f"where the gap exists; false positives "
        f"at most {worst:.4f} over {s.repeats} comparisons of each of {len(rows) + len(false)} rows without one.",
        bars=bars,
        episodes=table.assign(condition="sequential", seed=np.arange(len(table)), episode=np.arange(len(table)), errored=False),
        conditions=table,
        notes=["No episodes: each row is a set of simulated comparisons.", f"Savings shrink where one looks only after {s.batch} pairs."],
        extra={"false_positives": false},
    )  # fmt: skip
