"""A mediocre flow policy under position shift, lifted by the noise that it starts from (DSRL-SAC), beside all cheap baselines."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.dsrl import TEST, VALIDATION, World, merged, paired, row, summary, told
from policies.generative import GenerativePolicy
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.noise.baselines import DirectActions, ResidualActions, golden_ticket
from steer_agents.noise.check import RandomNoise
from steer_agents.noise.maps import Dct, Full, NoiseMap, Repeat
from steer_agents.noise.parts import BestOfN, ConstantNoise
from steer_agents.noise.presets import preset
from steer_agents.steerer import Part

if TYPE_CHECKING:
    from steer_agents.noise.training import Learned


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        seeds: of DSRL-SAC with the full map.
        env_steps: of every run; evaluate_every: between points of its curve.
        validation_episodes, test_episodes: starts.
        updates_per_chunk: gradient steps.
        shift: size of `object_position`; 0.5 moves object and target by 2.5 cm each.
        bound: of the noise.
        tickets, ticket_episodes: constant noises tried, and episodes of each.
        candidates: of best-of-N.
        residual: scale of the residual.
        other_maps, baselines: also run the other noise maps, SAC from scratch and the residual (one seed each).
    """

    seeds: tuple[int, ...] = (0, 1, 2)
    env_steps: int = 20_000
    evaluate_every: int = 2_500
    validation_episodes: int = 40
    test_episodes: int = 100
    updates_per_chunk: float = 0.75
    shift: float = 0.5
    bound: float = 1.5
    tickets: int = 32
    ticket_episodes: int = 10
    candidates: int = 8
    residual: float = 0.2
    other_maps: bool = True
    baselines: bool = True


def settings(quick: bool) -> Settings:
    """Three seeds with all baselines (about 25 CPU minutes), or one short run (about 3)."""
    if not quick:
        return Settings()
    return replace(
        Settings(), seeds=(0,), env_steps=10_000, test_episodes=20, validation_episodes=10, tickets=4, ticket_episodes=4,
        other_maps=False, baselines=False, evaluate_every=5_000,
    )  # fmt: skip


MAPS: dict[str, NoiseMap] = {"full": Full(), "two DCT components": Dct(2), "repeated": Repeat()}


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Train, then run every row on the same held-out starts."""
    from steer_agents.noise.training import Schedule, learn

    world = World("flow-medium", "PutBowlOnPlate", {"object_position": s.shift})
    policy, place = world.load(), folder / f"runs-{settings_key(s)}"
    n_runs = len(s.seeds) + (2 if s.other_maps else 0) + (2 if s.baselines else 0)
    say.plan([20.0] * n_runs + [10.0, 6.0] + [3.0] * (3 * len(s.seeds) + 4))

    def trained(name: str, steered: GenerativePolicy, noise_map: NoiseMap, bound: float, seed: int) -> Learned:
        say.stage(f"{name}, seed {seed}: {s.env_steps} env steps")
        chosen = replace(preset("recommended"), updates_per_chunk=s.updates_per_chunk)
        env = world.noise_env(steered, noise_map, bound, chosen, seed)
        schedule = Schedule(evaluate_every=s.evaluate_every, checkpoint_minutes=2)
        found = learn(
            env, chosen, s.env_steps, seed, world.evaluation(steered, s.validation_episodes), schedule,
            place / f"{name}-{seed}",
            info={"experiment": "dsrl-shift", "policy": world.policy, "task": world.task, "shift": dict(world.shift)},
        )  # fmt: skip
        told(say, found.curve)
        return found

    learned = {seed: trained("full", policy, MAPS["full"], s.bound, seed) for seed in s.seeds}
    say.stage("the base policy under each noise map, validation starts")
    maps = {
        name: summary(world.episodes(policy, RandomNoise(one, s.bound), s.validation_episodes, VALIDATION, f"map {name}", place))["success"]
        for name, one in MAPS.items()
    }  # fmt: skip
    maps["base"] = summary(world.episodes(policy, None, s.validation_episodes, VALIDATION, "map base", place))[
        "success"
    ]
    say.note(", ".join(f"{name} {value:.2f}" for name, value in maps.items()))
    say.stage(f"golden ticket: {s.tickets} constant noises x {s.ticket_episodes} episodes")

    def ticket_score(part: ConstantNoise) -> float:
        return summary(world.episodes(policy, part, s.ticket_episodes, VALIDATION + 1, "ticket"))["success"]

    ticket = golden_ticket(policy, Full(), ticket_score, s.tickets, s.bound)
    tables: dict[str, pd.DataFrame] = {}

    def tested(name: str, part: Part | None, steered: GenerativePolicy = policy) -> None:
        say.stage(f"{name}: {s.test_episodes} held-out starts")
        tables[name] = world.episodes(steered, part, s.test_episodes, TEST, name, place)
        say.note(str(summary(tables[name])))

    tested("unsteered", None)
    tested("zero noise", ConstantNoise())
    tested("best constant noise", ticket.part)
    first = learned[s.seeds[0]]
    tested(
        f"best of {s.candidates} by the critic", BestOfN(first.model.noise_score, s.candidates, name="critic of seed 0")
    )
    for seed, one in learned.items():
        tested(f"DSRL-SAC seed {seed}", one.best)
        tested(f"DSRL-SAC seed {seed}, sampled", one.best.sampled())
        tested(f"DSRL-SAC seed {seed}, last", one.policy)
    curves = {f"full, seed {seed}": one.curve for seed, one in learned.items()}
    if s.other_maps:
        for name in ("two DCT components", "repeated"):
            one = trained(name, policy, MAPS[name], s.bound, 0)
            curves[name] = one.curve
            tested(f"DSRL-SAC, {name}", one.best)
            tested(f"DSRL-SAC, {name}, sampled", one.best.sampled())
    if s.baselines:
        for name, other in (
            ("SAC from scratch", DirectActions(policy)),
            ("residual SAC", ResidualActions(policy, s.residual)),
        ):
            one = trained(name, other, Full(), 1.0, 0)
            curves[name] = one.curve
            tested(name, one.best, other)
    base = tables["unsteered"]
    conditions = pd.DataFrame([row(table, None if name == "unsteered" else base) for name, table in tables.items()])
    bars = _bars(s, tables, learned)
    held = sum(bool(bar.holds) for bar in bars)
    at = conditions.set_index("condition")["success"]
    best = " / ".join(f"{at[f'DSRL-SAC seed {seed}']:.2f}" for seed in s.seeds)
    zero, unsteered = at["zero noise"], at["unsteered"]
    verdict = (
        f"{held} of {len(bars)} bars hold. Choosing the noise lifts success from {unsteered:.2f} (zero noise {zero:.2f}, best constant "
        f"{at['best constant noise']:.2f}) to {best} on {s.test_episodes} held-out starts."
    )
    shown = [
        {"name": r["condition"], "value": r["success"], "low": r["low"], "high": r["high"],
         "role": "steered" if "DSRL" in r["condition"] else "base" if r["condition"] == "unsteered" else "other"}
        for r in conditions.to_dict("records")
    ]  # fmt: skip
    return Outcome(
        title="DSRL under position shift",
        question=f"flow-medium fails most episodes when bowl and plate stand {5 * s.shift:g} cm from where they "
        "stood in its demonstrations. Can the noise that it starts from, chosen by a small learned policy, bring it back?",
        verdict=verdict,
        bars=bars,
        episodes=merged(list(tables.values())),
        conditions=conditions,
        figures=[
            Figure("success", plots.bars(pd.DataFrame(shown), label="success", title="Held-out starts"), "Wilson 95 % intervals.",
                   ", ".join(f"{r['condition']} {r['success']:.2f}" for r in conditions.to_dict("records"))),
        ],
        notes=[
            "CPU seconds are of training with one thread, without the evaluations of the curve; first rollouts are included.",
            f"Success of the base under random noise of each map (validation): {', '.join(f'{k} {v:.2f}' for k, v in maps.items())}.",
            f"The best constant noise had {ticket.scores.max():.2f} on the episodes that chose it "
            f"(mean of all {ticket.scores.mean():.2f}).",
            "Scratch, residual and the other maps have one seed.",
            f"A learned row is the best of its curve by mean return (a failure counts as the time limit) on {s.validation_episodes} "
            "validation starts, which are not counted as env steps; the rows named last are what training ended with.",
        ],
        extra={
            "curves": {name: curve.to_dict("records") for name, curve in curves.items()},
            "costs": {str(seed): dict(one.costs) for seed, one in learned.items()},
            "maps": maps,
        },
    )  # fmt: skip


def _bars(s: Settings, tables: dict[str, pd.DataFrame], learned: Mapping[int, Learned]) -> list[Bar]:
    bars = []
    zero = summary(tables["zero noise"])["length"]
    for seed in s.seeds:
        plain, drawn = tables[f"DSRL-SAC seed {seed}"], tables[f"DSRL-SAC seed {seed}, sampled"]
        found, gain = row(plain), paired(drawn, tables["unsteered"])
        cpu = float(learned[seed].costs["all"])
        ratio = found["length"] / zero
        bars += [
            Bar(f"seed {seed}: deterministic success", found["success"], (found["low"], found["high"]), "at least 0.95",
                found["success"] >= 0.95),
            Bar(f"seed {seed}: sampled success over the base", gain.value, (gain.low, gain.high), "at least 0.35", gain.value >= 0.35),
            Bar(f"seed {seed}: length of successes / zero noise's", ratio, None, "at most 0.90", bool(ratio <= 0.9)),
            Bar(f"seed {seed}: CPU seconds of training", cpu, None, "at most 90", cpu <= 90),
        ]  # fmt: skip
    return bars
