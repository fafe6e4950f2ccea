"""The form that `dsrl-cue`, `dsrl-mode` and `dsrl-speed` share: learn noise in one world, then every row on the same held-out starts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.dsrl import TEST, VALIDATION, World, merged, row, summary, told
from policies.generative import GenerativePolicy
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.noise.baselines import golden_ticket
from steer_agents.noise.check import RandomNoise
from steer_agents.noise.maps import MAPS
from steer_agents.noise.parts import BestOfN, ConstantNoise
from steer_agents.noise.presets import preset
from steer_agents.steerer import Part


@dataclass(frozen=True)
class Settings:
    """Settings of a study.

    Args:
        variants: "sac", "na".
        seeds: of each variant.
        env_steps, evaluate_every: of training; between points of the curve.
        updates_per_chunk: gradient steps.
        validation_episodes, test_episodes: starts.
        noise_map: name in `steer_agents.noise.maps.MAPS`, from what is chosen to the noise; bound: of what is chosen.
        tickets, ticket_episodes: constant noises tried, and episodes of each.
        candidates: of best-of-N; 0 leaves it out, and random noise too.
    """

    variants: tuple[str, ...]
    seeds: tuple[int, ...]
    env_steps: int
    evaluate_every: int
    updates_per_chunk: float = 1.0
    validation_episodes: int = 40
    test_episodes: int = 100
    noise_map: str = "full"
    bound: float = 1.5
    tickets: int = 32
    ticket_episodes: int = 10
    candidates: int = 8


Tables = Mapping[str, pd.DataFrame]


@dataclass(frozen=True)
class Study:
    """What is asked.

    Args:
        name, title, question: of the experiment.
        world: where.
        bars: (settings, tables by condition, names of the learned conditions) -> bars.
        notes: limits of the result.
    """

    name: str
    title: str
    question: str
    world: World
    bars: Callable[[Settings, Tables, list[str]], list[Bar]]
    notes: tuple[str, ...] = ()


def run(study: Study, s: Settings, folder: Path, say: Say) -> Outcome:
    """See the module's docstring."""
    from dataclasses import replace

    from steer_agents.noise.training import Schedule, learn

    world, place = study.world, folder / f"runs-{settings_key(s)}"
    noise_map = MAPS[s.noise_map]()
    policy: GenerativePolicy = world.load()
    n_runs = len(s.variants) * len(s.seeds)
    say.plan([20.0] * n_runs + [6.0] + [3.0] * (2 * n_runs + 5))
    learned: dict[str, Any] = {}
    for variant in s.variants:
        for seed in s.seeds:
            name = f"DSRL-{variant.upper()} seed {seed}"
            say.stage(f"{name}: {s.env_steps} env steps")
            chosen = replace(preset("recommended", variant), updates_per_chunk=s.updates_per_chunk)
            learned[name] = learn(
                world.noise_env(policy, noise_map, s.bound, chosen, seed), chosen, s.env_steps, seed,
                world.evaluation(policy, s.validation_episodes), Schedule(evaluate_every=s.evaluate_every, checkpoint_minutes=2),
                place / name.replace(" ", "-"), info={"experiment": study.name, "policy": world.policy, "task": world.task},
            )  # fmt: skip
            told(say, learned[name].curve)
    say.stage(f"golden ticket: {s.tickets} constant noises x {s.ticket_episodes} episodes")

    def ticket_score(part: ConstantNoise) -> float:
        return summary(world.episodes(policy, part, s.ticket_episodes, VALIDATION + 1, "ticket"))["success"]

    ticket = golden_ticket(policy, noise_map, ticket_score, s.tickets, s.bound)
    tables: dict[str, pd.DataFrame] = {}

    def tested(name: str, part: Part | None) -> None:
        say.stage(f"{name}: {s.test_episodes} held-out starts")
        tables[name] = world.episodes(policy, part, s.test_episodes, TEST, name, place)
        say.note(str(summary(tables[name])))

    tested("unsteered", None)
    if s.candidates:
        tested("random noise in the box", RandomNoise(noise_map, s.bound))
    tested("zero noise", ConstantNoise())
    tested("best constant noise", ticket.part)
    first, name = next(iter(learned.values())), next(iter(learned))
    if s.candidates:
        critic = BestOfN(first.model.noise_score, s.candidates, name=f"critic of {name}")
        tested(f"best of {s.candidates} by the critic", critic)
    for name, one in learned.items():
        tested(name, one.best)
        tested(f"{name}, sampled", one.best.sampled())
    base = tables["unsteered"]
    conditions = pd.DataFrame([row(table, None if name == "unsteered" else base) for name, table in tables.items()])
    bars = study.bars(s, tables, list(learned))
    at = conditions.set_index("condition")["success"]
    verdict = (
        f"{sum(bool(bar.holds) for bar in bars)} of {len(bars)} bars hold. Success: unsteered {at['unsteered']:.2f}, zero noise "
        f"{at['zero noise']:.2f}, best constant {at['best constant noise']:.2f}; "
        + ", ".join(f"{name} {at[name]:.2f}" for name in learned) + "."
    )  # fmt: skip
    shown = [
        {"name": r["condition"], "value": r["success"], "low": r["low"], "high": r["high"],
         "role": "steered" if "DSRL" in r["condition"] else "base" if r["condition"] == "unsteered" else "other"}
        for r in conditions.to_dict("records")
    ]  # fmt: skip
    return Outcome(
        title=study.title,
        question=study.question,
        verdict=verdict,
        bars=bars,
        episodes=merged(list(tables.values())),
        conditions=conditions,
        figures=[
            Figure("success", plots.bars(pd.DataFrame(shown), label="success", title="Held-out starts"), "Wilson 95 % intervals.",
                   ", ".join(f"{r['condition']} {r['success']:.2f}" for r in conditions.to_dict("records"))),
        ],
        notes=[
            "CPU seconds are of training with one thread, without the evaluations of the curve.",
            "A learned row is the best of its curve on validation starts, by mean return (a failure counts as the time limit).",
            *study.notes,
        ],
        extra={
            "curves": {name: one.curve.to_dict("records") for name, one in learned.items()},
            "costs": {name: dict(one.costs) for name, one in learned.items()},
            "tickets": ticket.scores.tolist(),
        },
    )  # fmt: skip
