"""Guided denoising takes a policy over a wall that it never saw, without training; with every part of the method taken away in turn.

`flow-unaware` carries a block low and was taught without the wall. The reward is one term of the reward language: keep out of
the box around the wall, upwards. Strength is chosen on validation layouts with the gradient alone, K = 1; the particle
variants use the same.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from launch.experiments import vls_cost
from launch.experiments.base import Outcome, Say, settings_key
from launch.experiments.vls import (
    VALIDATION,
    Bench,
    Condition,
    choose_strength,
    figure,
    paired,
    run_all,
    share,
    table_of,
)
from launch.experiments.vls_cost import POLICY, REWARD, TASK, guidance
from steer_agents.evaluation.report import Bar
from steer_agents.guidance import FeynmanKac, Repulsion


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        strengths: tried on `validation_episodes` layouts.
        episodes: of the test, for every condition.
        n_particles: K of the ablation.
        scale: of Feynman-Kac; repulsion: strength of the repulsion.
        rounds: of the latency.
    """

    strengths: tuple[float, ...] = (1.0, 2.0, 3.0, 5.0)
    validation_episodes: int = 25
    episodes: int = 100
    n_particles: int = 5
    scale: float = 1000.0
    repulsion: float = 1.0
    rounds: int = 15


def settings(quick: bool) -> Settings:
    """100 test layouts (about 15 minutes), or 10 with two strengths."""
    small = replace(Settings(), strengths=(2.0, 3.0), validation_episodes=5, episodes=10, rounds=3)
    return small if quick else Settings()


def conditions(strength: float, s: Settings) -> list[Condition]:
    """Everything that is run on the test layouts."""
    weighing, apart = FeynmanKac(s.scale), Repulsion(s.repulsion)
    many = {"n_particles": s.n_particles}
    k = f"K = {s.n_particles}"
    return [
        Condition("unsteered", "base"),
        Condition("zero strength", "base", guidance(0.0)),
        Condition("guided", "steered", guidance(strength)),
        Condition("guided, of the noisy sample", "steered", guidance(strength, of="sample")),
        Condition("guided, through the network", "steered", guidance(strength, of="network")),
        Condition(f"all parts, {k}", "steered", guidance(strength, feynman_kac=weighing, repulsion=apart, **many)),
        Condition(f"without gradient, {k}", "other", guidance(0.0, feynman_kac=weighing, repulsion=apart, **many)),
        Condition(f"without Feynman-Kac, {k}", "steered", guidance(strength, repulsion=apart, **many)),
        Condition(f"without repulsion, {k}", "steered", guidance(strength, feynman_kac=weighing, **many)),
        Condition(f"best of {s.n_particles}, nothing else", "other", guidance(0.0, **many)),
        Condition("random direction as long", "control", guidance(strength, random=True)),
    ]


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Choose, test, compare, time."""
    bench = Bench(POLICY, TASK, folder / f"rollouts-{settings_key(s)}")
    say.plan([s.validation_episodes * len(s.strengths) / s.episodes, *[1.0] * len(conditions(1.0, s)), 0.5])
    say.stage(f"choosing the strength on {s.validation_episodes} other layouts")
    scores = {}
    for strength in s.strengths:
        one = bench.episodes(
            Condition(f"strength {strength:g}", "steered", guidance(strength)), VALIDATION, s.validation_episodes
        )
        scores[strength] = (float(one["success"].mean()), 1 - float(one["touched"].mean()))
        say.note(f"strength {strength:g}: success {scores[strength][0]:.2f}, wall touched {one['touched'].mean():.2f}")
    strength = choose_strength(scores)
    found = conditions(strength, s)
    tables = run_all(bench, found, s.episodes, say)
    say.stage("CPU time per chunk, and memory")
    costs = {rows: vls_cost.latency(rows, s.rounds) for rows in (1, 8)}
    memory = {k: vls_cost.peak_memory(k) for k in (0, 1, s.n_particles)}
    table = table_of(found, tables, ("touched",), bench.counters)
    return _outcome(s, strength, scores, found, tables, table, costs, memory)


def bars(tables: dict[str, pd.DataFrame], guided: str = "guided") -> list[Bar]:
    """What is asked of guidance around an obstacle."""
    base, steered = tables["unsteered"], tables[guided]
    before, after = share(base, "touched"), share(steered, "touched")
    gain = paired(steered, base, "success")
    return [
        Bar(
            "unsteered: episodes that touch the wall",
            before.value,
            (before.low, before.high),
            ">= 0.5",
            before.value >= 0.5,
        ),
        Bar(
            f"{guided}: episodes that touch the wall",
            after.value,
            (after.low, after.high),
            "<= 0.1",
            after.value <= 0.1,
        ),
        Bar(f"{guided}: gain of success", gain.value, (gain.low, gain.high), ">= 0.25", gain.value >= 0.25),
    ]


def same_as_base(tables: dict[str, pd.DataFrame]) -> Bar:
    """Zero strength changes nothing, to the last bit of every episode."""
    columns = ["seed", "success", "length", "path_length", "least_clearance"]
    same = tables["zero strength"][columns].equals(tables["unsteered"][columns])
    return Bar("zero strength", "as unsteered" if same else "differs", None, "every episode as unsteered", same)


def _outcome(
    s: Settings, strength: float, scores: dict[float, tuple[float, float]], found: list[Condition], tables: dict[str, pd.DataFrame],
    table: pd.DataFrame, costs: dict[int, vls_cost.Cost], memory: dict[int, float],
) -> Outcome:  # fmt: skip
    random = share(tables["random direction as long"], "touched")
    ratios = {rows: cost.ratio for rows, cost in costs.items()}
    at = table.set_index("condition")
    fired = float(at.loc[f"all parts, K = {s.n_particles}", "share_resampled"])
    judged = [
        *bars(tables),
        same_as_base(tables),
        Bar("random direction as long: episodes that touch the wall", random.value, (random.low, random.high), ">= 0.5",
        random.value >= 0.5), *(
            Bar(f"CPU time per chunk, guided over unsteered, {rows} episodes side by side", ratio, None, "<= 2", ratio <= 2)
            for rows, ratio in ratios.items()
        ),
        Bar("Feynman-Kac: share of looks at which particles were drawn anew", fired, None, "> 0", fired > 0),
    ]  # fmt: skip

    def told(name: str) -> str:
        return f"{at.loc[name, 'touched']:.2f} and {at.loc[name, 'success']:.2f}"

    k = s.n_particles
    return Outcome(
        title="Over a wall that the policy never saw",
        question="Does bending the sampling path along a reward keep a policy off an obstacle that it was taught without?",
        verdict=f"Share of episodes that touch the wall, and success: unsteered {told('unsteered')}; guided with strength {strength:g} "
        f"{told('guided')}; a random direction as long {told('random direction as long')}; best of {k} without gradient "
        f"{told(f'best of {k}, nothing else')}; particles, Feynman-Kac and repulsion without gradient "
        f"{told(f'without gradient, K = {k}')}. "
        f"The gradient is what does it. A guided chunk takes {ratios[1]:.2f} times the CPU time of an unsteered one.",
        bars=judged,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[
            figure(table, "touched", "Episodes that touch the wall"),
            figure(table, "success", "Success"),
        ],
        notes=[
            f"Strength {strength:g} of {list(s.strengths)} was chosen on {s.validation_episodes} layouts of another seed, K = "
            f"1; nothing else was.",
            f"Peak memory of planning for 8 episodes [MiB beyond what the process held]: unsteered {memory[0]:.1f}, guided "
            f"{memory[1]:.1f}, "
            f"guided with K = {k} {memory[k]:.1f}.",
            "Touched: the robot or the block has touched the wall, by MuJoCo's contacts. The reward knows the wall's box from "
            "the simulator.",
            "Path and length of successes show what guidance costs the episode.",
        ],
        extra={
            "strength": strength,
            "validation": {f"{key:g}": value for key, value in scores.items()},
            "reward": REWARD,
            "latency": {rows: vars(cost) | {"ratio": cost.ratio} for rows, cost in costs.items()},
            "peak_memory_mib": memory,
        },
    )
