"""Lock-in rescue: a language model that was forced onto the worst arm stays there; does raising its entropy free it?

Protocol: Gaussian bandit, means uniform in 35 to 65, sd 10, 25 pulls of which the first 5 are forced on the worst arm. All
conditions see the same episodes: same arms, same reward tapes, same random numbers for the policy's draws. SuffFail: no best
arm in the second half.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

import envs
from envs.bandits.metrics import episode_measures
from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.east import Bench, Choice, EastSettings, choose, controls_of
from launch.experiments.llm.model import language_model
from steer_agents.decisions import Temperature
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.compare import Comparison, compare
from steer_agents.evaluation.intervals import over_time, proportion_interval
from steer_agents.evaluation.report import Bar
from steer_agents.gates import Decay
from steer_agents.interventions import Add
from steer_agents.loop import Rollout, rollout
from steer_agents.steerer import Steerer

MEASURES = ("suff_fail", "stuck", "entropy_bits", "repeat_rate", "coverage", "k_min_frac", "regret", "action_mass")
assert envs.__name__  # importing it registers the environments


@dataclass(frozen=True)
class Settings(EastSettings):
    """Settings of the lock-in experiment.

    Args:
        episodes: paired test episodes per condition.
        n_random, n_permuted: control directions.
        temperatures: of the baseline.
        ablations: numbers of arms for which more is shown: shuffled entropies, no centring, a decaying strength.
        test_seeds: number of arms -> seed of its test episodes. (1002 and 2002 are used up: earlier rules for the strength
            failed on them for two arms, see README.md of this folder.)
        num_envs: episodes per batch.
    """

    episodes: int = 64
    n_random: int = 5
    n_permuted: int = 3
    temperatures: tuple[float, ...] = (2.0, 4.0)
    ablations: tuple[int, ...] = (5,)
    test_seeds: Mapping[int, int] = field(default_factory=lambda: {2: 3002, 3: 1003, 4: 1004, 5: 1005})
    num_envs: int = 32


def settings(quick: bool) -> Settings:
    """The full experiment (about 50 minutes on one core), or its quick form (about 4 minutes)."""
    full = Settings()
    if not quick:
        return full
    return replace(
        full, arms=(5,), train_runs=8, validation_runs=5, episodes=20, n_random=2, n_permuted=1, temperatures=(2.0,), ablations=(),
        num_envs=20,
    )  # fmt: skip


@dataclass(frozen=True)
class Condition:
    """One way of running the test episodes."""

    name: str
    role: str
    steerer: Steerer | None


def conditions(bench: Bench, choice: Choice, direction: Direction, recording: Any, s: Settings) -> list[Condition]:
    """Base, zero, EAST both ways, and every control at the same layer and norm."""
    layer, alpha = choice.layer, choice.alpha
    found = [
        Condition("base", "base", None),
        Condition("zero strength", "base", bench.steered(direction, layer, 0.0)),
        Condition(f"EAST +{alpha:g}", "steered", bench.steered(direction, layer, alpha)),
        Condition(f"EAST -{alpha:g}", "other", bench.steered(direction, layer, -alpha)),
    ]
    for name, control in controls_of(direction, s.n_random, s.n_permuted).items():
        found.append(Condition(name, "control", bench.steered(control, layer, alpha)))
    if bench.n_arms in s.ablations:
        for i in range(2):
            shuffled = bench.direction(recording, weights="shuffled", seed=i)
            found.append(Condition(f"shuffled entropies {i + 1}", "control", bench.steered(shuffled, layer, alpha)))
        plain = bench.direction(recording, center="none")
        found.append(Condition("uncentred mean", "control", bench.steered(plain, layer, alpha)))
        fading = Add(direction.at(layer), strength=alpha, gate=Decay(half_life=5))
        found.append(Condition(f"EAST +{alpha:g}, halved every 5 steps", "other", Steerer(fading)))
    for value in s.temperatures:
        found.append(Condition(f"temperature {value:g}", "other", Steerer(Temperature(value))))
    return found


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Learn the vector, choose layer and strength, run all conditions, compare."""
    n_conditions = 4 + s.n_random + s.n_permuted + len(s.temperatures)
    test_cost = s.episodes * 25
    costs = [test_cost / 4]
    for n_arms in s.arms:
        costs += [s.train_runs * s.steps * n_arms, s.validation_runs * s.steps * 9]
        costs += [test_cost] * (n_conditions + 4 * (n_arms in s.ablations))
    say.plan(costs)
    say.stage(f"loading {s.policy}")
    policy = language_model(s.policy, "east-lockin")
    parts = [_one(policy, n_arms, s, folder, say) for n_arms in s.arms]
    episodes = pd.concat([part.episodes for part in parts], ignore_index=True)
    return Outcome(
        title="EAST: lock-in rescue in a bandit",
        question="A language model is forced onto the worst arm for five pulls. It then tends to stay. Does steering its activations "
        "towards higher action entropy free it, more than equally long control vectors do?",
        verdict=" ".join(part.verdict for part in parts),
        bars=[bar for part in parts for bar in part.bars],
        episodes=episodes,
        conditions=pd.concat([part.table for part in parts], ignore_index=True),
        figures=[figure for part in parts for figure in part.figures],
        notes=[
            "The model does not learn to use rewards: regret falls because it leaves the worst arm, not because it finds the best one.",
            "Temperature is a strong baseline in this read-out, where the answer token is the action; EAST is not shown to beat it.",
            "A very low repeat rate means the model cycles through the arms: a higher dose is not a better one.",
            "Layer and strength were chosen on validation histories by their effect on fixed prompts, before any test episode.",
        ],
        extra={
            "choices": {
                f"K={part.n_arms}": {
                    "layer": part.choice.layer,
                    "alpha": part.choice.alpha,
                    "genuine": part.choice.genuine,
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
    figures: list[Figure]
    verdict: str


def _one(policy: Any, n_arms: int, s: Settings, folder: Path, say: Say) -> _Part:
    bench = Bench(policy, n_arms, s)
    say.stage(f"K={n_arms}: recording {s.train_runs} histories x {n_arms} label rotations")
    recording = bench.train()
    direction = bench.direction(recording)
    say.stage(f"K={n_arms}: choosing layer and strength on {s.validation_runs} validation histories")
    choice = choose(bench, direction)
    direction.save(folder / f"east-k{n_arms}.safetensors")
    say.note(f"layer {choice.layer} of {bench.target.depth()}, alpha {choice.alpha:g}")
    found = conditions(bench, choice, direction, recording, s)
    return _summary(n_arms, choice, found, run_all(bench, found, s, folder, say), s)


def run_all(bench: Bench, found: list[Condition], s: Settings, folder: Path, say: Say) -> dict[str, Rollout]:
    """Every condition on the same test episodes."""
    runs: dict[str, Rollout] = {}
    for condition in found:
        say.stage(f"K={bench.n_arms}: {s.episodes} episodes, {condition.name}")
        runs[condition.name] = rollout(
            f"SteerAgents/BanditLockIn{bench.n_arms}-v0",
            bench.policy,
            condition.steerer,
            episodes=s.episodes,
            seed=s.seed + s.test_seeds[bench.n_arms],
            num_envs=min(s.num_envs, s.episodes),
            run=folder / f"rollouts-{settings_key(s)}" / f"k{bench.n_arms}-{condition.name.replace(' ', '-')}",
            measures=episode_measures,
            condition=f"K={bench.n_arms} {condition.name}",
        )
        say.note(_line(runs[condition.name].episodes))
    return runs


def _line(episodes: pd.DataFrame) -> str:
    shown = {name: episodes[name].mean() for name in ("suff_fail", "entropy_bits", "repeat_rate", "regret")}
    return ", ".join(f"{name} {value:.2f}" for name, value in shown.items())


def _summary(n_arms: int, choice: Choice, found: list[Condition], runs: dict[str, Rollout], s: Settings) -> _Part:
    east, negative = f"EAST +{choice.alpha:g}", f"EAST -{choice.alpha:g}"
    side = {name: _proportion(run.episodes) for name, run in runs.items()}
    against: dict[str, Comparison] = {
        name: compare(
            runs[name], runs[east], "suff_fail", kind="binary", names=(f"K={n_arms} {name}", f"K={n_arms} {east}")
        )
        for name in runs
        if name != east
    }
    raised = compare(runs[negative], runs["base"], "suff_fail", kind="binary", names=(negative, "base"))
    k = f"K={n_arms}: "
    zero_equal = _equal_actions(runs["base"], runs["zero strength"])
    bars = [
        Bar(
            k + "base SuffFail",
            side["base"].value,
            (side["base"].low, side["base"].high),
            ">= 0.55",
            side["base"].value >= 0.55,
        ),
        Bar(
            k + f"{east} SuffFail",
            side[east].value,
            (side[east].low, side[east].high),
            "<= 0.30",
            side[east].value <= 0.30,
        ),
        Bar(
            k + "share of zero-strength episodes equal to base in every action",
            zero_equal,
            None,
            "= 1",
            zero_equal == 1.0,
        ),
    ]
    strict = [name for name in runs if name == "base" or name.startswith(("random", "permuted"))]
    for name in strict:
        c = against[name]
        bars.append(
            Bar(
                k + f"SuffFail, {name} minus EAST",
                c.value,
                (c.low, c.high),
                ">= 0.25, interval above 0",
                c.value >= 0.25 and c.low > 0,
            )
        )
    bars.append(
        Bar(k + f"SuffFail, {negative} minus base", raised.value, (raised.low, raised.high), "> 0", raised.value > 0)
    )
    table = pd.DataFrame(
        [
            {
                "K": n_arms,
                "condition": condition.name,
                "episodes": len(runs[condition.name].episodes),
                "errored": int(runs[condition.name].episodes["errored"].sum()),
                "SuffFail 95% interval": f"{side[condition.name].low:.2f} to {side[condition.name].high:.2f}",
                **{name: float(runs[condition.name].episodes[name].mean()) for name in MEASURES},
            }
            for condition in found
        ]
    )
    episodes = pd.concat([run.episodes for run in runs.values()], ignore_index=True)
    gap = against["base"]
    worst = min((against[name] for name in strict if name != "base"), key=lambda c: c.value)
    beaten = sum(against[name].low > 0 for name in strict if name != "base")
    words = "frees" if gap.low > 0 and worst.low > 0 else "is not shown to free"
    verdict = (
        f"With {n_arms} arms, EAST (layer {choice.layer}, alpha {choice.alpha:g}) {words} the model "
        "from the worst arm more than its controls do: "
        f"SuffFail {side['base'].value:.2f} unsteered, {side[east].value:.2f} steered (difference {gap.value:.2f}, 95% interval "
        f"{gap.low:.2f} to {gap.high:.2f}); it beats {beaten} of {len(strict) - 1} norm-matched controls, the best of which "
        f"leaves {worst.value + side[east].value:.2f}."
    )
    return _Part(
        n_arms,
        choice,
        episodes,
        table,
        bars,
        [*against.values(), raised],
        _figures(n_arms, found, runs, side, east, negative),
        verdict,
    )


def _proportion(episodes: pd.DataFrame) -> Any:
    known = episodes.loc[~episodes["errored"], "suff_fail"]
    return proportion_interval(int(known.sum()), len(known))


def _equal_actions(a: Rollout, b: Rollout) -> float:
    """Share of episodes whose actions are the same, step by step."""
    lists = [run.steps.groupby("episode")["arm"].apply(list) for run in (a, b)]
    return float((lists[0] == lists[1]).mean())


def _figures(
    n_arms: int, found: list[Condition], runs: dict[str, Rollout], side: dict[str, Any], east: str, negative: str
) -> list[Figure]:
    rows = [
        {
            "name": c.name,
            "value": side[c.name].value,
            "low": side[c.name].low,
            "high": side[c.name].high,
            "role": c.role,
        }
        for c in found
    ]
    bars = plots.bars(
        pd.DataFrame(rows), label="SuffFail (lower is better)", title=f"K={n_arms}: never the best arm in the second half",
        reference=side["base"].value,
    )  # fmt: skip
    shown = [
        "base",
        east,
        negative,
        *[c.name for c in found if c.name in ("random 1", "permuted 1") or "temperature 2" in c.name],
    ]
    roles = {c.name: c.role for c in found}
    curves = plots.curves(
        {name: over_time(runs[name].steps, "entropy_bits") for name in shown}, roles, label="action entropy [bits]",
        title=f"K={n_arms}: entropy after five forced pulls", x_label="free pull",
    )  # fmt: skip
    text = ", ".join(f"{row['name']} {row['value']:.2f}" for row in rows)
    return [
        Figure(f"sufffail-k{n_arms}", bars, "Share of episodes that never pull a best arm in the second half, with Wilson 95 % intervals. "
               "Dashed: base.", f"SuffFail by condition: {text}"),
        Figure(f"entropy-k{n_arms}", curves, "Mean action entropy per free pull with pointwise 95 % bands.",
               f"Action entropy over time for {', '.join(shown)}"),
    ]  # fmt: skip
