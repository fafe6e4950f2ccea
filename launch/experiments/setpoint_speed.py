"""Speeds asked for in m/s: held by feedback, and solved from a dose curve, also where actions move the hand less far than usual.

A VLA whose instruction says nothing of speed is pushed along 'slowly' below its own speed and along 'quickly' above it; the signed
strength is what a PI controller moves, every environment step, to hold the speed of its hand.

1. Directions on scenes of their own; the dose curve on validation layouts: usable range, open-loop strengths, slope, gains.
2. Test layouts, 8 speeds inside of that range: closed loop, open loop; unsteered and zero strength; the same controllers on random
   directions of the same norm.
3. The speeds that are still within reach when actions move the hand 25 % less far (shift "gain"): closed and open loop again.

Speeds are means over the episodes that reach their goal: a hand that is stuck has no speed to hold. Success, and the mean over all
episodes, stand beside them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.setpoint_plots import achieved_plot
from launch.experiments.vla import CARRYING, SCENES, Bench, pushed
from launch.rebuild.vla_evaluation import evaluate
from steer_agents.control import tuning
from steer_agents.control.hold import Hold
from steer_agents.direction import Direction
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import random_like
from steer_agents.runs import write_table
from steer_agents.setpoints import SetPoint
from steer_agents.steerer import Part, steer

VALIDATION, TEST = 43_000, 59_000
"""First seed of the layouts that dose curves are measured on, and that everything is tested on. A first version, with a controller
four times as fast, missed four of eight speeds on 57_000; the time constant was then chosen on other layouts of the validation range."""


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: a VLA that understands 'slowly' and 'quickly'; tasks: that are run.
        layers: that 'slowly' and 'quickly' are pushed at (as `vla-speed` found them).
        scene_episodes, validation_episodes, test_episodes: of every task.
        doses: signed strengths of the dose curve [beta], 0 among them.
        margin: largest loss of success within the usable range.
        n_points: speeds asked for.
        gain: size of the shift; n_loaded: how many speeds are tested under it.
    """

    policy: str = "tiny-vla"
    tasks: tuple[str, ...] = CARRYING
    layers: tuple[int, int] = (1, 1)
    scene_episodes: int = 2
    validation_episodes: int = 3
    test_episodes: int = 2
    doses: tuple[float, ...] = (-1.6, -1.3, -1.0, -0.7, -0.35, 0.0, 0.4, 0.7, 1.0, 1.3)
    margin: float = 0.2
    n_points: int = 8
    gain: float = 1.0
    n_loaded: int = 4


def settings(quick: bool) -> Settings:
    """About 25 minutes on a core of its own, or about 3."""
    full = Settings()
    if not quick:
        return full
    return replace(
        full,
        tasks=CARRYING[:2],
        scene_episodes=1,
        validation_episodes=1,
        test_episodes=1,
        doses=(-1.2, 0.0, 1.0),
        n_points=2,
        n_loaded=1,
        margin=1.0,
    )


@dataclass(frozen=True)
class Pushes:
    """One signed strength along two directions: 'slowly' below 0, 'quickly' above."""

    slow: Direction
    quick: Direction
    layers: tuple[int, int]

    def at(self, strength: float) -> Part:
        """Held fast: the open loop."""
        direction, layer = (self.slow, self.layers[0]) if strength < 0 else (self.quick, self.layers[1])
        return pushed(direction, layer, abs(strength))

    def hold(self, speed: float, curve: Curve) -> Hold:
        """Held by feedback, from the open loop's strength on."""
        return Hold(
            pushed(self.quick, self.layers[1], 0.0),
            SetPoint("speed", speed),
            (curve.strengths[0], curve.strengths[-1]),
            slope=tuning.slope(curve.strengths, curve.values),
            start=tuning.solve(curve.strengths, curve.values, speed),
            against=pushed(self.slow, self.layers[0], 0.0),
        )

    def random(self, seed: int) -> Pushes:
        """The same along random directions of the same norm."""
        return replace(self, slow=random_like(self.slow, seed=seed), quick=random_like(self.quick, seed=seed + 1))


@dataclass(frozen=True)
class Curve:
    """The dose curve within the usable range: signed strengths, and mean speed [m/s] of validation episodes at each."""

    strengths: tuple[float, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class Runs:
    """Runs conditions and keeps their episodes on disk."""

    bench: Bench
    s: Settings
    say: Say

    def __call__(
        self, name: str, parts: Sequence[Part], first_seed: int, count: int, gain: float = 0.0
    ) -> pd.DataFrame:
        """One row per episode of `evaluate`, with condition, seed and errored."""
        place = self.bench.folder / f"{name.replace(' ', '-')}-{first_seed}-{count}.parquet"
        if place.exists():
            return pd.read_parquet(place)
        self.say.stage(name)
        rows: list[dict[str, Any]] = []
        for number, task in enumerate(self.s.tasks):
            layouts = [{"seed": first_seed + 100 * number + i} for i in range(count)]
            shift = {"gain": gain} if gain else None
            if parts:
                with steer(self.bench.policy, *parts):
                    rows += evaluate(self.bench.policy, task, layouts, 0, shift)
            else:
                rows += evaluate(self.bench.policy, task, layouts, 0, shift)
        table = pd.DataFrame(rows).assign(condition=name, errored=False, episode=range(len(rows)))
        table = table.astype(
            {"success": float, "speed": float, "height": float, "transit_speed": float, "approach_speed": float}
        )
        place.parent.mkdir(parents=True, exist_ok=True)
        write_table(place, table)
        self.say.note(f"success {table['success'].mean():.2f}, speed {speed_of(table):.3f} m/s")
        return table


def speed_of(table: pd.DataFrame) -> float:
    """Mean speed [m/s] of the episodes that reach their goal; NaN without any."""
    return float(table.loc[table["success"] == 1, "speed"].mean())


def usable(doses: Sequence[float], tables: Sequence[pd.DataFrame], margin: float) -> Curve:
    """All doses between the strongest on either side of 0 that keep success within `margin` of that at 0."""
    at = list(doses).index(0.0)
    base = float(tables[at]["success"].mean())
    able = [i for i, table in enumerate(tables) if float(table["success"].mean()) >= base - margin]
    low, high = min(able), max(able)
    chosen = range(low, high + 1)
    return Curve(tuple(doses[i] for i in chosen), tuple(speed_of(tables[i]) for i in chosen))


def speeds_within(curve: Curve, count: int) -> tuple[float, ...]:
    """Evenly spaced speeds strictly inside of what the curve covers, to the millimetre per second."""
    fitted = tuning.monotone(curve.strengths, curve.values)
    return tuple(float(round(one, 3)) for one in np.linspace(fitted.min(), fitted.max(), count + 2)[1:-1])


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find, measure the dose curve, ask for speeds."""
    bench = Bench(s.policy, s.tasks, folder / f"rollouts-{settings_key(s)}")
    runs = Runs(bench, s, say)
    say.plan(
        [s.scene_episodes]
        + [s.validation_episodes] * len(s.doses)
        + [s.test_episodes] * (2 * s.n_points + 2 * s.n_loaded + 4)
    )
    say.stage(f"directions from scenes of {s.scene_episodes} episodes of {len(s.tasks)} tasks")
    pushes = Pushes(*_directions(bench, s, folder), s.layers)
    tables = [runs(f"validation {dose:+g}", (pushes.at(dose),), VALIDATION, s.validation_episodes) for dose in s.doses]
    curve = usable(s.doses, tables, s.margin)
    speeds = speeds_within(curve, s.n_points)
    reach = (1 - 0.25 * s.gain) * max(curve.values)
    loaded = [one for one in speeds if one <= reach][: s.n_loaded]
    say.note(f"usable: {curve}; asked for: {speeds}; under the shift: {loaded}")
    found = {"unsteered": runs("unsteered", (), TEST, s.test_episodes)}
    found["zero strength"] = runs("zero strength", (pushes.at(0.0),), TEST, s.test_episodes)
    rows: list[dict[str, Any]] = []

    def ask(kind: str, speed: float, part: Part, gain: float = 0.0) -> None:
        name = f"{kind} {speed:g}"
        table = found[name] = runs(name, (part,), TEST, s.test_episodes, gain)
        got = speed_of(table)
        rows.append(
            {"condition": name, "kind": kind, "asked": speed, "achieved": got, "error": abs(got - speed) / speed,
             "of all episodes": float(table["speed"].mean()), "success": float(table["success"].mean()),
             "spread": float(table.loc[table["success"] == 1, "speed"].std())}
        )  # fmt: skip

    def open_loop(speed: float) -> Part:
        return pushes.at(tuning.solve(curve.strengths, curve.values, speed))

    for speed in speeds:
        ask("closed", speed, pushes.hold(speed, curve))
        ask("open", speed, open_loop(speed))
    for speed in loaded:
        ask("closed, gain", speed, pushes.hold(speed, curve), s.gain)
        ask("open, gain", speed, open_loop(speed), s.gain)
    own = curve.values[curve.strengths.index(0.0)]
    farthest = sorted(speeds, key=lambda speed: -abs(speed - own))[:2]  # near its own speed anything holds it
    for number, speed in enumerate(farthest):
        ask("random", speed, pushes.random(10 * number).hold(speed, curve))
    return _outcome(s, curve, found, pd.DataFrame(rows))


def _directions(bench: Bench, s: Settings, folder: Path) -> tuple[Direction, Direction]:
    """'slowly' and 'quickly' minus neither, found once."""
    names = [folder / f"{s.policy}-{words}-{settings_key(s)}.safetensors" for words in ("slowly", "quickly")]
    if not all(name.exists() for name in names):
        scenes = bench.scenes(s.scene_episodes, SCENES)
        for name, words in zip(names, ("slowly", "quickly"), strict=True):
            bench.direction(scenes, words).save(name)
    slow, quick = (Direction.load(name) for name in names)
    return slow, quick


def _outcome(s: Settings, curve: Curve, found: dict[str, pd.DataFrame], table: pd.DataFrame) -> Outcome:
    def errors(kind: str) -> np.ndarray:
        values: np.ndarray = table.loc[table["kind"] == kind, "error"].to_numpy()
        return values

    closed, opened = errors("closed"), errors("open")
    loaded, drifted = errors("closed, gain"), errors("open, gain")
    base = float(found["unsteered"]["success"].mean())
    steered = pd.concat([found[name] for name in table.loc[table["kind"] == "closed", "condition"]])
    same = found["unsteered"].drop(columns="condition").equals(found["zero strength"].drop(columns="condition"))
    need, hit = max(1, s.n_points - 1), int((closed <= 0.10).sum())
    bars = [
        Bar("closed loop: speeds achieved within 10 %", hit, None, f">= {need} of {len(closed)}", hit >= need),
        _at_most("open loop: largest error", opened.max(), 0.20),
        _at_most("closed loop, gain shifted: largest error", loaded.max(), 0.12),
        _at_least("open loop, gain shifted: mean error (it drifts)", drifted.mean(), 0.15),
        _at_least("random directions, same controller: least error", errors("random").min(), 0.10),
        Bar("zero strength gives the unsteered episodes", float(same), None, "bit for bit", same),
    ]
    verdict = (
        f"Closed loop: {hit} of {len(closed)} speeds within 10 % (largest error {closed.max():.0%}), success "
        f"{steered['success'].mean():.2f} beside {base:.2f} unsteered. Open loop: errors up to {opened.max():.0%}. With actions that move "
        f"the hand {0.25 * s.gain:.0%} less far: closed up to {loaded.max():.0%}, open {drifted.mean():.0%} on average."
    )
    return Outcome(
        title=f"Speed of {s.policy}, asked for in m/s",
        question="Can a speed be asked for, and is it held: by a strength from the dose curve, and by feedback during the episode?",
        verdict=verdict,
        bars=bars,
        episodes=pd.concat(found.values(), ignore_index=True),
        conditions=table,
        figures=[
            Figure("speeds", achieved_plot(table, "speed of the hand [m/s]"), "Speed achieved over speed asked for; the line is equality.",
                   "Scatter plot of achieved over asked speeds, closed and open loop, with and without the shift.")
        ],
        notes=[
            "Speeds are means over episodes that reach their goal; the mean over all of them stands beside it.",
            "The dose curve, the range and the gains come from validation layouts that are not tested on.",
            "Under the shift only the speeds are tested that are within reach: at most (1 - 25 % * gain) of the range's top.",
        ],
        extra={"curve": {"strengths": curve.strengths, "speeds": curve.values}},
    )  # fmt: skip


def _at_most(name: str, value: float, bound: float) -> Bar:
    return Bar(name, float(value), None, f"<= {bound:g}", bool(value <= bound))


def _at_least(name: str, value: float, bound: float) -> Bar:
    return Bar(name, float(value), None, f">= {bound:g}", bool(value >= bound))
