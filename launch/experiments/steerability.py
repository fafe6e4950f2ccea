"""A VLA asked for several behaviours at once: speed, height over the table, smoothness (jerk) and path length as one goal-space.

1. Directions at the action tokens: 'slowly', 'quickly', 'low over the table', 'high over the table' against no words (`prompt-contrast`).
2. Validation layouts: unsteered episodes and a few strengths of each direction fix the scale of the goals (quantiles) and the dose:
how far each
   strength moves every goal on average, interpolated in between, added for two directions.
3. Requests: changes of speed, of height or of both, drawn once. For each, the two strengths whose predicted movement leaves the least
error over all
   four goals (`solve`).
4. Test layouts, paired with the unsteered episode: each request answered by the directions, by adverbs in the prompt, by random directions
   of the same norms at the same strengths, and by nothing. Reported are medians of miscalibration and orthogonality with intervals.

Formulas: `steer_agents.evaluation.steerability` (arXiv 2505.23816). Episodes that lack a goal (nothing was carried, so no height) are
left out
and counted.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.steerability_figure import answers
from launch.experiments.vla import CARRYING, CHOICE, TEST, Bench, Condition, pushed
from launch.experiments.vla_sides import GATES
from launch.rebuild.vla_evaluation import evaluate
from steer_agents.direction import Direction
from steer_agents.evaluation.compare import sign_flip_p
from steer_agents.evaluation.coverage import coverage
from steer_agents.evaluation.report import Bar
from steer_agents.evaluation.scores import harmonic
from steer_agents.evaluation.steerability import Scale, requests, steering
from steer_agents.finding.controls import random_like
from steer_agents.interventions import Add
from steer_agents.runs import write_table
from steer_agents.steerer import steer

GOALS = ("speed", "height", "jerk", "path_length")
AXES: Mapping[str, tuple[str, str]] = {
    "speed": ("slowly", "quickly"),
    "height": ("low over the table", "high over the table"),
}
"""Goal that can be asked for -> the words that lower and raise it."""
PLACES: Mapping[str, tuple[str, int | str, str]] = {
    "slowly": ("block_output", 1, "in transit"),
    "quickly": ("block_output", 0, "in transit"),
    "low over the table": ("attention_output", "all", "carrying"),
    "high over the table": ("attention_output", "all", "carrying"),
}
"""Words -> site kind, layer and gate at which their direction is pushed: what `vla-speed` and `vla-height-attention` chose on
validation layouts."""
ARMS: Mapping[str, str] = {
    "directions": "steered",
    "adverbs": "other",
    "random directions": "control",
    "nothing": "base",
}
"""Way of answering -> its role in plots."""

CAPTION = (
    "Every answer: what was done along the request (1 is all of it) and what nobody asked for, both as shares of the request. "
    "Large marks: medians."
)


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: a name that `policies.load` takes; load: its options.
        tasks: that are run.
        scene_episodes, dose_episodes, test_episodes: of every task.
        strengths: of the dose, in beta; each of every direction; of `PLACES`.
        n_requests: drawn; reach: largest change asked for, in units of the goal-space.
        seed: of the requests, the random directions and the intervals.
    """

    policy: str = "tiny-vla"
    load: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = CARRYING
    scene_episodes: int = 2
    dose_episodes: int = 2
    test_episodes: int = 2
    strengths: Mapping[str, tuple[float, ...]] = field(
        default_factory=lambda: {
            "slowly": (0.75, 1.0, 1.25, 1.5),
            "quickly": (0.5, 0.75, 1.0, 1.25),
            "low over the table": (0.75, 1.25, 1.75),
            "high over the table": (1.0, 1.5, 2.0),
        }
    )
    n_requests: int = 8
    reach: float = 0.5
    seed: int = 7


def settings(quick: bool) -> Settings:
    """8 requests on 16 layouts (about 10 minutes), or 3 on 8 (about 2)."""
    full = Settings()
    return (
        replace(
            full,
            scene_episodes=1,
            dose_episodes=1,
            test_episodes=1,
            strengths=dict.fromkeys(PLACES, (1.25,)),
            n_requests=3,
        )
        if quick
        else full
    )


class Episodes:
    """Episodes of a bench under any steering and words, kept on disk."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def of(self, name: str, parts: Sequence[Add], words: str, first_seed: int, count: int) -> pd.DataFrame:
        """`count` episodes of every task; columns condition, seed, task, errored, episode and those of `evaluate`."""
        place = self.bench.folder / f"{name.replace(' ', '-')}-{first_seed}-{count}.parquet"
        if place.exists():
            return pd.read_parquet(place)
        if len(parts) == 0:
            table = self.bench.episodes(Condition(f"{name} ", "other", adverb=words), first_seed, count)
        else:
            rows: list[dict[str, Any]] = []
            before = (
                self.bench.policy.set_decision(temperature=0.0) if "decision" in self.bench.policy.entrances else {}
            )
            try:
                with steer(self.bench.policy, *parts):
                    for number, task in enumerate(self.bench.tasks):
                        layouts = [{"seed": first_seed + 100 * number + i} for i in range(count)]
                        rows += evaluate(
                            self.bench.policy, task, layouts, 0, say=lambda text: self.bench.said(text, words)
                        )
            finally:
                if before:
                    self.bench.policy.set_decision(**before)
            table = pd.DataFrame(rows).assign(errored=False, episode=range(len(rows)))
        table = table.assign(condition=name).astype(dict.fromkeys(("success", *GOALS), float))
        place.parent.mkdir(parents=True, exist_ok=True)
        write_table(place, table)
        return table


@dataclass(frozen=True)
class Dose:
    """Mean movement in goal-space by signed strength along one axis.

    Args:
        strengths: (k,) ascending, with 0; negative ones are those of the lowering word.
        movement: (k, d) mean of z - z0.
    """

    strengths: np.ndarray
    movement: np.ndarray

    def at(self, strength: float) -> np.ndarray:
        """(d,) interpolated."""
        return np.array([np.interp(strength, self.strengths, column) for column in self.movement.T])


def solve(doses: Mapping[str, Dose], request: np.ndarray, steps: int = 61) -> tuple[dict[str, float], np.ndarray]:
    """Strengths with the least predicted error, on a grid of each dose's range, and the movement that they predict.

    Args:
        request: (d,) r; axes whose movements add up.
    """
    grids = [np.linspace(dose.strengths[0], dose.strengths[-1], steps) for dose in doses.values()]
    moved = [np.array([dose.at(s) for s in grid]) for dose, grid in zip(doses.values(), grids, strict=True)]
    best, least = (0,) * len(grids), np.inf
    for place in itertools.product(range(steps), repeat=len(grids)):
        total = np.sum([moved[axis][i] for axis, i in enumerate(place)], axis=0)
        error = float(np.linalg.norm(request - total)) + 1e-9 * sum(abs(grids[axis][i]) for axis, i in enumerate(place))
        if error < least:
            best, least = place, error
    strengths = {axis: float(grids[i][best[i]]) for i, axis in enumerate(doses)}
    return strengths, np.sum([doses[axis].at(s) for axis, s in strengths.items()], axis=0)


def push(word: str, direction: Direction, strength: float) -> Add:
    """The direction of a word, where and when it is pushed."""
    _, layer, gate = PLACES[word]
    return replace(pushed(direction, layer, strength), gate=GATES[gate])


def pushes(directions: Mapping[str, Direction], strengths: Mapping[str, float]) -> list[Add]:
    """The parts of signed strengths: each axis by its lowering or raising direction."""
    words = {AXES[axis][0 if s < 0 else 1]: abs(s) for axis, s in strengths.items() if s}
    return [push(word, directions[word], s) for word, s in words.items()]


def words_for(request: np.ndarray) -> str:
    """What one would say instead."""
    asked = {axis: request[GOALS.index(axis)] for axis in AXES}
    return " ".join(AXES[axis][0 if change < 0 else 1] for axis, change in asked.items() if change)


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find, calibrate, ask, answer, measure."""
    bench = Bench(s.policy, s.tasks, folder / f"rollouts-{settings_key(s)}", s.load)
    episodes, rng = Episodes(bench), np.random.default_rng(s.seed)
    words = [word for pair in AXES.values() for word in pair]
    n_doses = sum(len(s.strengths[word]) for word in words)
    say.plan([2.0 * s.scene_episodes, (n_doses + 1) * s.dose_episodes, (2 + 3 * s.n_requests) * s.test_episodes])
    say.stage(f"{s.policy}: scenes, and the directions of {', '.join(words)}")
    scenes = bench.scenes(s.scene_episodes)
    directions = {word: bench.direction(scenes, word, PLACES[word][0]) for word in words}
    for word, direction in directions.items():
        direction.save(folder / f"{s.policy}-{word.replace(' ', '-')}.safetensors")
    randoms = {word: random_like(one, seed=s.seed + i) for i, (word, one) in enumerate(directions.items())}
    say.stage(f"{n_doses} strengths on validation layouts")
    base = episodes.of("validation base", [], "", CHOICE, s.dose_episodes)
    tried = {
        (axis, sign * strength): episodes.of(
            f"validation {AXES[axis][side]} {strength:g}", [push(AXES[axis][side], directions[AXES[axis][side]], strength)], "",
            CHOICE, s.dose_episodes,
        )
        for axis in AXES for side, sign in enumerate((-1, 1)) for strength in s.strengths[AXES[axis][side]]
    }  # fmt: skip
    scale = Scale.fit(pd.concat([base, *tried.values()]), GOALS)
    doses = {
        axis: _dose(scale, base, {key[1]: table for key, table in tried.items() if key[0] == axis}) for axis in AXES
    }
    middle = np.nanmedian(scale(base), axis=0)[None]
    wanted = requests(np.repeat(middle, s.n_requests, axis=0), [0, 1], rng, reach=s.reach, most=2) - middle
    say.stage(f"{s.n_requests} requests on {len(s.tasks) * s.test_episodes} test layouts, answered in three ways")
    test = episodes.of("base", [], "", TEST, s.test_episodes)
    zero = episodes.of(
        "zero strength",
        [push(word, directions[word], 0.0) for word in words],
        "",
        TEST,
        s.test_episodes,
    )
    tables, rows = [test, zero], []
    for number, request in enumerate(wanted):
        strengths, _ = solve(doses, request)
        asked = {
            "directions": (pushes(directions, strengths), ""),
            "adverbs": ([], words_for(request)),
            "random directions": (pushes(randoms, strengths), ""),
        }
        for arm, (parts, said) in asked.items():
            table = (
                episodes.of(f"{arm} {number}", parts, said, TEST, s.test_episodes)
                if parts or said
                else test.assign(condition=f"{arm} {number}")
            )
            tables.append(table)
            rows.append(_measured(arm, number, request, scale, test, table))
        rows.append(_measured("nothing", number, request, scale, test, test))
        say.note(
            f"request {number + 1}: {_told(request)}; strengths {', '.join(f'{a} {x:+.2f}' for a, x in strengths.items())}"
        )
    measured = pd.concat(rows, ignore_index=True)
    same = bool(np.array_equal(test[list(GOALS)].to_numpy(), zero[list(GOALS)].to_numpy(), equal_nan=True))
    return _outcome(s, measured, pd.concat(tables, ignore_index=True), scale, base, tried, wanted, same)


def _dose(scale: Scale, base: pd.DataFrame, tables: Mapping[float, pd.DataFrame]) -> Dose:
    z0 = scale(base)
    moved = {0.0: np.zeros(len(GOALS)), **{key: np.nanmean(scale(table) - z0, axis=0) for key, table in tables.items()}}
    order = sorted(moved)
    return Dose(np.array(order), np.array([moved[key] for key in order]))


def _measured(
    arm: str, number: int, request: np.ndarray, scale: Scale, base: pd.DataFrame, table: pd.DataFrame
) -> pd.DataFrame:
    """One row per episode that has all goals on both sides and whose request is not used up by the edge of the goal-space."""
    z0, z = scale(base), scale(table)
    target = np.where(request == 0, z0, np.clip(z0 + request, 0.0, 1.0))
    asks = np.linalg.norm(target - z0, axis=1) > np.linalg.norm(request) / 2
    kept = np.isfinite(z0).all(axis=1) & np.isfinite(z).all(axis=1) & asks
    found = steering(z0[kept], target[kept], z[kept]).table()
    return found.assign(
        arm=arm, number=number, seed=base["seed"].to_numpy()[kept], success=table["success"].to_numpy()[kept], left_out=int((~kept).sum())
    )  # fmt: skip


def _told(request: np.ndarray) -> str:
    return ", ".join(f"{goal} {change:+.2f}" for goal, change in zip(GOALS, request, strict=True) if change)


def _median(table: pd.DataFrame, column: str, seed: int) -> tuple[float, float, float]:
    """Median over requests and layouts, with a percentile bootstrap over layouts."""
    groups = [group.to_numpy() for _, group in table.groupby("seed")[column]]
    rng = np.random.default_rng(seed)
    drawn = [
        np.median(np.concatenate([groups[i] for i in rng.integers(len(groups), size=len(groups))])) for _ in range(2000)
    ]
    low, high = np.quantile(drawn, (0.025, 0.975))
    return float(table[column].median()), float(low), float(high)


def _outcome(
    s: Settings, measured: pd.DataFrame, episodes: pd.DataFrame, scale: Scale, base: pd.DataFrame,
    tried: Mapping[tuple[str, float], pd.DataFrame], wanted: np.ndarray, same: bool,
) -> Outcome:  # fmt: skip
    rows: list[dict[str, Any]] = []
    for arm in ARMS:
        own = measured[measured["arm"] == arm]
        told: dict[str, Any] = {"answered by": arm}
        for column in ("error", "miscalibration", "orthogonality"):
            value, low, high = _median(own, column, s.seed)
            told |= {column: value, f"{column} low": low, f"{column} high": high}
        control = np.clip(1 - own["miscalibration"], 0, 1) * (1 - own["orthogonality"])
        score = harmonic(control.to_numpy(), own["success"].to_numpy())
        rows.append({**told, "success": float(own["success"].mean()), "score aggregated": score.aggregated,
                     "score per item": score.per_item, "answers": len(own)})  # fmt: skip
    shown = pd.DataFrame(rows).set_index("answered by", drop=False)

    def against(arm: str, column: str) -> tuple[float, float]:
        """Mean difference of the directions to an arm over layouts, and its sign-flip p."""
        each = measured.groupby(["arm", "seed"])[column].mean()
        d = (each.loc["directions"] - each.loc[arm]).dropna().to_numpy()
        return float(d.mean()), sign_flip_p(d, s.seed)

    error_random, p_random = against("random directions", "error")
    error_nothing, p_nothing = against("nothing", "error")
    error_words, p_words = against("adverbs", "error")
    bars = [
        Bar(
            "steering error: directions minus random directions",
            error_random,
            None,
            "< 0, p < 0.05",
            error_random < 0 and p_random < 0.05,
        ),
        Bar(
            "steering error: directions minus nothing",
            error_nothing,
            None,
            "< 0, p < 0.05",
            error_nothing < 0 and p_nothing < 0.05,
        ),
        Bar(
            "steering error: directions minus adverbs",
            error_words,
            None,
            "< 0, p < 0.05",
            error_words < 0 and p_words < 0.05,
        ),
        Bar("zero strength is the unsteered run", str(same), None, "True", same),
    ]
    z = scale(pd.concat([base, *tried.values()]))
    covered = coverage(z[np.isfinite(z).all(axis=1)][:, :2], s.seed) if len(z) >= 20 else None
    said = {
        arm: f"{shown.loc[arm, 'miscalibration']:.2f} and {shown.loc[arm, 'orthogonality']:.2f}"
        for arm in ("directions", "adverbs", "random directions")
    }
    verdict = (
        f"Over {len(wanted)} requests, the directions' median miscalibration and orthogonality are {said['directions']} (adverbs "
        f"{said['adverbs']}, random directions {said['random directions']}); steering error {error_nothing:+.3f} against doing nothing "
        f"(p = {p_nothing:.2g}), {error_words:+.3f} against adverbs (p = {p_words:.2g}), {error_random:+.3f} against random directions "
        f"(p = {p_random:.2g})."
    )
    left_out = int(measured.groupby(["arm", "number"])["left_out"].first().sum())
    alt = "; ".join(f"{row['answered by']}: {row['miscalibration']:.2f}, {row['orthogonality']:.2f}" for row in rows)
    return Outcome(
        title=f"Goal-space steerability of {s.policy}",
        question="Asked for a change of speed, of height over the table, or of both: how much of it happens, and what else moves?",
        verdict=verdict,
        bars=bars,
        episodes=episodes,
        conditions=shown.reset_index(drop=True),
        figures=[Figure("answers", answers(measured, ARMS), CAPTION, f"Median miscalibration, orthogonality: {alt}")],
        notes=[
            "Strengths are solved on validation layouts; all numbers are of test layouts. Intervals are over layouts, not over requests.",
            f"{left_out} answers are left out: no height (nothing was carried), or a request cut to less than half by the edge of the "
            "goal-space.",
            "Doing nothing has miscalibration 1 and orthogonality 0 by definition.",
        ],
        extra={
            "requests": [dict(zip(GOALS, one, strict=True)) for one in wanted],
            "scale": {"low": dict(scale.low), "high": dict(scale.high)},
            "coverage_auc_speed_height": None if covered is None else covered.auc,
        },
    )  # fmt: skip
