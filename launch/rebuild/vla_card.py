"""The card of a VLA: what was measured, as text. Pure functions of the evaluation's rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from launch.rebuild.vla_data import ADVERBS
from launch.rebuild.vla_evaluation import EvaluationSettings
from steer_agents.evaluation.intervals import Interval, proportion_interval

Rows = Sequence[Mapping[str, Any]]

WORST_BAR, SLOW_BAR, QUICK_BAR, HEIGHT_BAR, TEXT_BAR = 0.50, 0.65, 1.30, 0.04, 0.05


def success(rows: Rows) -> Interval:
    """Share of episodes that succeeded, with Wilson's interval."""
    return proportion_interval(sum(bool(row["success"]) for row in rows), len(rows))


def pairs(with_adverb: Rows, without: Rows, key: str) -> np.ndarray:
    """(n, 2) a measure with and without an adverb, for equal tasks and initial states where both have it."""
    plain = {(row["task"], row["init_state_id"]): row[key] for row in without}
    found = [(row[key], plain.get((row["task"], row["init_state_id"]))) for row in with_adverb]
    return np.array([pair for pair in found if None not in pair], dtype=float).reshape(-1, 2)


def speed_ratio(with_adverb: Rows, without: Rows, succeeded: bool = False) -> float:
    """Mean speed with an adverb over mean speed without, on pairs, or on those where both succeeded; NaN without any.

    An arm that is stuck until the time limit is slow whatever it was told, so failures pull both speeds down.
    """
    if succeeded:
        with_adverb, without = ([row for row in rows if row["success"]] for rows in (with_adverb, without))
    both = pairs(with_adverb, without, "speed")
    return float(both[:, 0].mean() / both[:, 1].mean()) if len(both) else float("nan")


def height_difference(one: Rows, other: Rows) -> float:
    """Mean difference of the transit height [m], on pairs; NaN without any."""
    both = pairs(one, other, "height")
    return float((both[:, 0] - both[:, 1]).mean()) if len(both) else float("nan")


def rows_of(table: Mapping[str, Rows], adverb: str, condition: str, seeds: Sequence[int]) -> list[Mapping[str, Any]]:
    """Rows of `vla_evaluation.assess` under an adverb, a condition and any of the seeds."""
    found = []
    for key, rows in table.items():
        _, said, where, seed = key.split("|")
        if (said, where) == (adverb, condition) and int(seed) in seeds:
            found += list(rows)
    return found


def shown(interval: Interval) -> str:
    """A share with its interval, e.g. "0.82 [0.79, 0.85]"."""
    return f"{interval.value:.2f} [{interval.low:.2f}, {interval.high:.2f}]"


def _bar(name: str, value: str, bound: str, holds: bool) -> str:
    return f"| {name} | {value} | {bound} | {'holds' if holds else '**falls short**'} |"


def render(
    name: str,
    table: Mapping[str, Rows],
    tasks: Sequence[str],
    evaluation: EvaluationSettings,
    facts: Mapping[str, str],
    success_bar: float = 0.80,
    text: tuple[float, float] | None = None,
) -> str:
    """The card as Markdown.

    Args:
        table: from `vla_evaluation.assess`.
        facts: what -> how, of the model and its training.
        success_bar: least success over all tasks, in range.
        text: cross-entropy on ordinary text of the language model and of the policy [nats per token].
    """
    seeds = evaluation.seeds
    plain, first = rows_of(table, "", "in range", seeds), rows_of(table, "", "in range", seeds[:1])
    away = rows_of(table, "", "shifted", evaluation.shifted_seeds)
    said = {adverb: rows_of(table, adverb, "in range", seeds[:1]) for adverb in ADVERBS if adverb}
    by_task = {task: [row for row in plain if row["task"] == task] for task in tasks}
    worst = min(by_task, key=lambda task: success(by_task[task]).value)
    slow, quick = (speed_ratio(said[word], first) for word in ("slowly", "quickly"))
    gap = height_difference(said["high over the table"], said["low over the table"])
    low = success(by_task[worst])
    bars = [
        _bar("success over all tasks", shown(success(plain)), f">= {success_bar}", success(plain).value >= success_bar),
        _bar(f"success of the worst task ({worst})", shown(low), f">= {WORST_BAR}", low.value >= WORST_BAR),
        _bar("speed with 'slowly', times that without", f"{slow:.2f}", f"<= {SLOW_BAR}", slow <= SLOW_BAR),
        _bar("speed with 'quickly', times that without", f"{quick:.2f}", f">= {QUICK_BAR}", quick >= QUICK_BAR),
        _bar("transit height, high minus low [m]", f"{gap:.3f}", f">= {HEIGHT_BAR}", gap >= HEIGHT_BAR),
    ]
    if text is not None:
        more = text[1] / text[0] - 1
        bars.append(
            _bar(
                f"cross-entropy on text: {text[0]:.4f} nats before, {text[1]:.4f} after",
                f"{more:+.2%}", f"<= {TEXT_BAR:.0%}", more <= TEXT_BAR,
            )
        )  # fmt: skip
    lines = [
        f"# {name}", "", "| | |", "| --- | --- |", *(f"| {what} | {how} |" for what, how in facts.items()),
        f"| made by | `steer-agents rebuild {name} --install` |", "", "## Bars", "",
        f"{evaluation.init_states} fixed initial states of each task with seeds {', '.join(map(str, seeds))}: the first takes the "
        "likeliest action, the others draw actions at temperature 1. "
        f"Shifted: seeds {', '.join(map(str, evaluation.shifted_seeds))}. "
        f"Adverbs: seed {seeds[0]}, the first {evaluation.adverb_init_states} states of each task. Intervals are Wilson's, 95 %.", "",
        "| what | measured | bar | |", "| --- | --- | --- | --- |", *bars, "",
        "## Success by task, no adverb", "",
        "| task | likeliest actions | drawn actions | shifted objects | mean env_steps | mean speed [m/s] |",
        "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for task, rows in {**by_task, "all": plain}.items():
        parts = [
            [row for row in part if task in ("all", row["task"])]
            for part in (first, rows_of(table, "", "in range", seeds[1:]), away)
        ]
        shares = " | ".join(shown(success(part)) if part else "-" for part in parts)
        steps, speed = np.mean([row["steps"] for row in rows]), np.mean([row["speed"] for row in rows])
        lines.append(f"| {task} | {shares} | {steps:.0f} | {speed:.3f} |")
    lines += [
        "", "## Adverbs, over all tasks", "", "| said | success | speed, times that without "
        "| the same where both succeed | transit height minus that without [m] |",
        "| --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for adverb, rows in said.items():
        lines.append(
            f"| {adverb} | {shown(success(rows))} (n = {len(rows)}) | {speed_ratio(rows, first):.2f} "
            f"| {speed_ratio(rows, first, succeeded=True):.2f} | {height_difference(rows, first):+.3f} |"
        )
    return "\n".join([*lines, ""])
