"""EAST on fixed prompts: does the vector move the entropy of decisions, both ways, and is it uncertainty that moves?

An "episode" here is one held-out history under all label rotations: the model is asked what it would do before each of its pulls, and
is never followed. Every condition sees the same histories. The rotations matter: without them a vector that favours a label, as any
random one does, moves the mean entropy by whatever label the few histories happen to repeat.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.base import Figure, Outcome, Say
from launch.experiments.east import Bench, Choice, EastSettings, choose, controls_of, shift_of
from launch.experiments.llm.model import language_model
from steer_agents.decisions import Temperature
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.compare import Comparison, compare
from steer_agents.evaluation.intervals import Interval, mean_interval
from steer_agents.evaluation.report import Bar
from steer_agents.finding.entropy import Recording
from steer_agents.steerer import Steerer

UP, DOWN, QUIET, LOSS = 0.4, -0.25, 0.12, 0.05


@dataclass(frozen=True)
class Settings(EastSettings):
    """Settings of the offline experiment.

    Args:
        streak: higher than for the lock-in, where the model's own play commits it further.
        wording: letters keep more action mass on the labels than colours do.
        test_runs: held-out histories, before label rotation.
        n_random, n_permuted: control directions at +-probe_dose.
        all_layers: also the other candidate layers, at +-probe_dose.
        temperatures: of the baseline.
    """

    streak: float = 0.9
    wording: str = "letters"
    test_runs: int = 10
    n_random: int = 3
    n_permuted: int = 3
    all_layers: bool = True
    temperatures: tuple[float, ...] = (0.5, 1.5, 2.0, 4.0)


def settings(quick: bool) -> Settings:
    """The full experiment (about 20 minutes on 2 cores), or its quick form (about 2 minutes)."""
    full = Settings()
    if not quick:
        return full
    return replace(
        full,
        arms=(5,),
        train_runs=8,
        validation_runs=5,
        test_runs=4,
        n_random=2,
        n_permuted=1,
        all_layers=False,
        temperatures=(2.0,),
    )


@dataclass(frozen=True)
class Condition:
    """One way of asking the model about the test histories."""

    name: str
    role: str
    steerer: Steerer | None
    layer: int | None = None
    alpha: float | None = None
    family: str = ""


def conditions(
    bench: Bench, choice: Choice, direction: Direction, recording: Recording, s: Settings
) -> list[Condition]:
    """Base, zero, the dose curve, and every control at plus and minus the probing dose."""
    found = [
        Condition("base", "base", None),
        Condition("zero strength", "base", bench.steered(direction, choice.layer, 0.0)),
    ]
    for layer in bench.layers if s.all_layers else [choice.layer]:
        chosen = layer == choice.layer
        for alpha in sorted(sign * dose for sign in (-1, 1) for dose in (s.doses if chosen else (s.probe_dose,))):
            steerer = bench.steered(direction, layer, alpha)
            name = f"EAST layer {layer} {alpha:+g}"
            found.append(Condition(name, "steered" if chosen else "other", steerer, layer, alpha, "east"))
    for sign in (1, -1):
        alpha = sign * s.probe_dose
        for name, control in controls_of(direction, s.n_random, s.n_permuted).items():
            steerer = bench.steered(control, choice.layer, alpha)
            found.append(Condition(f"{name} {alpha:+g}", "control", steerer, choice.layer, alpha, name.split()[0]))
    for seed in range(2):
        shuffled = bench.direction(recording, weights="shuffled", seed=seed)
        steerer = bench.steered(shuffled, choice.layer, s.probe_dose)
        found.append(
            Condition(
                f"shuffled entropies {seed + 1} {s.probe_dose:+g}",
                "control",
                steerer,
                choice.layer,
                s.probe_dose,
                "shuffled",
            )
        )
    plain = bench.steered(bench.direction(recording, center="none"), choice.layer, s.probe_dose)
    found.append(
        Condition(f"uncentred mean {s.probe_dose:+g}", "control", plain, choice.layer, s.probe_dose, "uncentred")
    )
    for value in s.temperatures:
        found.append(Condition(f"temperature {value:g}", "other", Steerer(Temperature(value))))
    return found


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Learn the vector, choose the layer on validation histories, measure on test histories."""
    n_conditions = 2 + 2 * len(s.doses) + 4 * s.all_layers + 2 * (s.n_random + s.n_permuted) + 3 + len(s.temperatures)
    costs = [10.0]
    for n_arms in s.arms:
        costs += [s.train_runs * n_arms, s.validation_runs * 9, s.test_runs * n_arms * n_conditions]
    say.plan(costs)
    say.stage(f"loading {s.policy}")
    policy = language_model(s.policy, "east-offline")
    parts = [_one(policy, n_arms, s, folder, say) for n_arms in s.arms]
    return Outcome(
        title="EAST on held-out prompts",
        question="Does adding the entropy-weighted direction raise the entropy of a language model's choices, does subtracting "
        "it lower it, "
        "and do equally long control vectors leave it alone?",
        verdict=" ".join(part.verdict for part in parts),
        bars=[bar for part in parts for bar in part.bars],
        episodes=pd.concat([part.episodes for part in parts], ignore_index=True),
        conditions=pd.concat([part.table for part in parts], ignore_index=True),
        figures=[part.figure for part in parts],
        notes=[
            "Entropy on fixed prompts is necessary, not sufficient: what it does to behaviour is measured by east-lockin.",
            "slope is a of (steered logits) = a (base logits) + b: below 1 the choice gets less certain, below 0 it is turned round. "
            "offset is the largest |b| over the arms: a preference that was moved.",
            "Temperature divides the logits: its slope is 1 / T, and the action mass does not change.",
        ],
        extra={
            "choices": {
                f"K={part.n_arms}": {
                    "layer": part.choice.layer,
                    "alpha": part.choice.alpha,
                    "tried": part.choice.table.to_dict("records"),
                }
                for part in parts
            },
            "comparisons": [comparison.to_dict() for part in parts for comparison in part.comparisons],
        },
    )


@dataclass(frozen=True)
class _Part:
    """The result for one number of arms."""

    n_arms: int
    choice: Choice
    episodes: pd.DataFrame
    table: pd.DataFrame
    bars: list[Bar]
    comparisons: list[Comparison]
    figure: Figure
    verdict: str


def _one(policy: Any, n_arms: int, s: Settings, folder: Path, say: Say) -> _Part:
    bench = Bench(policy, n_arms, s)
    say.stage(f"K={n_arms}: recording {s.train_runs} histories x {n_arms} label rotations")
    recording = bench.train()
    direction = bench.direction(recording)
    direction.save(folder / f"east-k{n_arms}.safetensors")
    say.stage(f"K={n_arms}: choosing the layer on {s.validation_runs} validation histories")
    choice = choose(bench, direction)
    histories = bench.balanced("test", s.test_runs)
    found = conditions(bench, choice, direction, recording, s)
    say.stage(
        f"K={n_arms}: {len(found)} conditions on {s.test_runs} test histories x {n_arms} rotations (layer {choice.layer})"
    )
    base = bench.under(None, histories)
    tables, rows = {}, []
    for number, condition in enumerate(found):
        steered = base if condition.steerer is None else bench.under(condition.steerer, histories)
        tables[condition.name] = _episodes(f"K={n_arms} {condition.name}", histories, steered, s.skip)
        shift = shift_of(base, steered)
        means = {
            name: float(tables[condition.name][name].mean()) for name in ("entropy_bits", "action_mass", "p_repeat")
        }
        shown = {"slope": shift.slope, "offset": shift.offset, "top_kept": shift.top_kept}
        rows.append({"K": n_arms, "condition": condition.name, **means, **shown})
        if number % 5 == 0:
            say.note(f"{number + 1} of {len(found)}: {condition.name}, entropy {rows[-1]['entropy_bits']:.3f} bits")
    table = pd.DataFrame(rows)
    comparisons = {
        name: compare(one, tables["base"], "entropy_bits", kind="continuous")
        for name, one in tables.items()
        if name not in ("base", "zero strength")
    }
    return _Part(
        n_arms,
        choice,
        pd.concat(tables.values(), ignore_index=True),
        table,
        _bars(n_arms, choice, found, tables, table, comparisons, s),
        list(comparisons.values()),
        _figure(n_arms, choice, found, tables),
        _verdict(n_arms, choice, comparisons, s),
    )


def _episodes(condition: str, histories: list[Any], recording: Recording, skip: int) -> pd.DataFrame:
    """One row per history: means over its label rotations and over its decisions from `skip` on."""
    p = recording.measures["probabilities"]  # (R, T - skip, K), R = runs x K
    previous = np.array([[arm for arm, _ in history] for history in histories])[:, skip - 1 : -1]
    repeat = np.take_along_axis(p, previous[..., None], axis=2)[..., 0]
    runs = len(histories) // p.shape[2]

    def per_history(values: np.ndarray) -> np.ndarray:
        means: np.ndarray = values.reshape(runs, -1).mean(1)
        return means

    return pd.DataFrame(
        {
            "condition": condition,
            "seed": range(runs),
            "episode": range(runs),
            "errored": False,
            "entropy_bits": per_history(recording.measures["entropy_bits"]),
            "action_mass": per_history(recording.measures["action_mass"]),
            "p_repeat": per_history(repeat),
        }
    )


def _bars(
    n_arms: int, choice: Choice, found: list[Condition], tables: dict[str, pd.DataFrame], table: pd.DataFrame,
    comparisons: dict[str, Comparison], s: Settings,
) -> list[Bar]:  # fmt: skip
    k, dose = f"K={n_arms}: ", s.probe_dose
    up, down = (comparisons[f"EAST layer {choice.layer} {sign * dose:+g}"] for sign in (1, -1))
    row = table.set_index("condition")
    zero_equal = float((tables["zero strength"]["entropy_bits"] == tables["base"]["entropy_bits"]).mean())
    wanted_up, wanted_down = (UP, DOWN) if n_arms == 5 else (0.0, 0.0)
    bars = [
        Bar(k + "share of zero-strength histories equal to base", zero_equal, None, "= 1", zero_equal == 1.0),
        _entropy_bar(
            k + f"entropy change at alpha {dose:+g} [bits]",
            up,
            f">= {wanted_up:g}, interval above 0",
            up.value >= wanted_up and up.low > 0,
        ),
        _entropy_bar(
            k + f"entropy change at alpha {-dose:+g} [bits]",
            down,
            f"<= {wanted_down:g}, interval below 0",
            down.value <= wanted_down and down.high < 0,
        ),
    ]
    for c in found:
        if c.family == "random":
            change = comparisons[c.name]
            bars.append(
                _entropy_bar(
                    k + f"entropy change, {c.name} [bits]", change, f"within +-{QUIET:g}", abs(change.value) <= QUIET
                )
            )
    for c in found:
        if c.role == "steered" and c.alpha is not None and c.alpha > 0:
            lost = compare(tables["base"], tables[c.name], "action_mass", kind="continuous")
            bars.append(_entropy_bar(k + f"action mass lost, {c.name}", lost, f"< {LOSS:g}", lost.value < LOSS))
            slope = float(row.loc[c.name, "slope"])
            bars.append(Bar(k + f"slope of steered on base logits, {c.name}", slope, None, "in (0, 1)", 0 < slope < 1))
    return bars


def _entropy_bar(name: str, c: Comparison, bound: str, holds: bool) -> Bar:
    return Bar(name, c.value, (c.low, c.high), bound, bool(holds))


def _verdict(n_arms: int, choice: Choice, comparisons: dict[str, Comparison], s: Settings) -> str:
    up, down = (comparisons[f"EAST layer {choice.layer} {sign * s.probe_dose:+g}"] for sign in (1, -1))
    loudest = max((c for name, c in comparisons.items() if name.startswith("random")), key=lambda c: abs(c.value))
    both = up.low > 0 and down.high < 0
    return (
        f"With {n_arms} arms, at layer {choice.layer} the direction {'moves' if both else 'is not shown to move'} "
        f"the entropy both ways: {up.value:+.2f} bits at "
        f"alpha +{s.probe_dose:g} (95% interval {up.low:+.2f} to {up.high:+.2f}), {down.value:+.2f} at -{s.probe_dose:g} "
        f"({down.low:+.2f} to {down.high:+.2f}); "
        f"the loudest random direction gives {loudest.value:+.2f}."
    )


def _figure(n_arms: int, choice: Choice, found: list[Condition], tables: dict[str, pd.DataFrame]) -> Figure:
    def point(c: Condition) -> dict[str, float]:
        value = mean_interval(tables[c.name]["entropy_bits"].to_numpy())
        return {"dose": float(c.alpha or 0), "value": value.value, "low": value.low, "high": value.high}

    zero = next(c for c in found if c.name == "zero strength")
    dose = pd.DataFrame([point(c) for c in found if c.role == "steered"] + [point(zero)]).sort_values("dose")
    controls = {}
    for family in ("random", "permuted"):
        members = [point(c) for c in found if c.family == family]
        controls[f"{family} (mean of all)"] = (
            pd.DataFrame([*members, point(zero)]).groupby("dose", as_index=False).mean()
        )
    base: Interval = mean_interval(tables["base"]["entropy_bits"].to_numpy())
    png = plots.dose_curve(
        dose, label="action entropy [bits]", title=f"K={n_arms}, layer {choice.layer}: dose and response on held-out prompts", base=base,
        controls=controls, dose_label="strength alpha (share of the mean activation norm)",
    )  # fmt: skip
    text = ", ".join(f"{r.dose:+g}: {r.value:.2f}" for r in dose.itertuples())
    return Figure(f"dose-k{n_arms}", png, "Mean action entropy by strength with bootstrap 95 % intervals; controls have its norm.",
                  f"Entropy in bits by strength: {text}")  # fmt: skip
