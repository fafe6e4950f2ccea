"""Entropy asked for in bits: a language model in a bandit, held at a set-point during each episode, by EAST or by the temperature.

1. The EAST direction from training histories; dose curves (entropy over strength, entropy over temperature) on validation
   histories, by their effect on fixed prompts: open-loop strengths, slopes, gains.
2. Test episodes of the lock-in bandit: entropies asked for, held in closed loop through EAST and through the temperature, and the open
   loop of each; unsteered; the EAST controller on a random direction of the same norm.

The entropy of an episode is the mean over its decisions of the entropy that the action was drawn from.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import envs
from envs.bandits.metrics import episode_measures
from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.east import Bench, EastSettings
from launch.experiments.llm.model import language_model
from launch.experiments.setpoint_plots import achieved_plot
from steer_agents.control import tuning
from steer_agents.control.hold import Hold
from steer_agents.decisions import Temperature
from steer_agents.direction import Direction
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import random_like
from steer_agents.interventions import Add
from steer_agents.loop import rollout
from steer_agents.runs import write_json
from steer_agents.setpoints import SetPoint
from steer_agents.steerer import Part, Steerer

assert envs.__name__  # importing it registers the environments


@dataclass(frozen=True)
class Settings(EastSettings):
    """Settings of the experiment.

    Args:
        n_arms: of the bandit; layer: that is steered (what `east-lockin` chose).
        alphas: strengths of EAST's dose curve; temperatures: of the other one.
        by_east, by_temperature: entropies asked for [bits].
        episodes: per condition.
        closed: time constant of the closed loop through EAST [decisions]; temperature keeps `Hold`'s own.
        test_seed: of the test episodes. An earlier full run was on 7005, with `Hold`'s own time constant for EAST too.
    """

    n_arms: int = 5
    layer: int = 20
    train_runs: int = 8
    validation_runs: int = 10
    alphas: tuple[float, ...] = (-0.2, -0.1, 0.0, 0.1, 0.2, 0.3, 0.4)
    temperatures: tuple[float, ...] = (0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
    by_east: tuple[float, ...] = (0.6, 0.9, 1.2)
    by_temperature: tuple[float, ...] = (0.8, 1.2, 1.6)
    episodes: int = 16
    closed: float = 1.5
    test_seed: int = 7006


def settings(quick: bool) -> Settings:
    """About 15 minutes on a core of its own, or about 2."""
    full = Settings()
    if not quick:
        return full
    return replace(
        full,
        train_runs=2,
        validation_runs=4,
        steps=8,
        alphas=(-0.2, 0.0, 0.2),
        temperatures=(0.5, 1.0, 2.0, 4.0),
        by_east=(0.9,),
        by_temperature=(1.2,),
        episodes=4,
    )


def entropy_at(logits: np.ndarray, temperature: float) -> float:
    """Mean entropy [bits] of softmax(logits / temperature), (..., K) log-probabilities of the actions."""
    z = logits / temperature
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    return float(-(p * np.log2(np.clip(p, 1e-300, None))).sum(-1).mean())


@dataclass(frozen=True)
class Lever:
    """A way of moving the entropy: its dose curve, and its part at a strength."""

    name: str
    strengths: tuple[float, ...]
    values: tuple[float, ...]
    direction: Direction | None

    def part(self, strength: float) -> Part:
        """The part at a strength."""
        return Temperature(strength) if self.direction is None else Add(self.direction, strength=strength)

    def solve(self, entropy: float) -> float:
        """The open loop's strength; the nearest end of the curve for what it does not cover."""
        covered = tuning.monotone(self.strengths, self.values)
        return tuning.solve(self.strengths, self.values, float(np.clip(entropy, covered.min(), covered.max())))

    def hold(self, entropy: float, closed: float | None = None) -> Hold:
        """The closed loop; what the dose curve gives is where it starts."""
        return Hold(
            self.part(1.0),
            SetPoint("entropy_bits", entropy),
            (self.strengths[0], self.strengths[-1]),
            slope=tuning.slope(self.strengths, self.values),
            closed=closed,
            start=self.solve(entropy),
        )


def levers(bench: Bench, s: Settings, folder: Path, say: Say) -> dict[str, Lever]:
    """EAST and the temperature, with dose curves of validation histories."""
    place = folder / f"east-k{s.n_arms}-{settings_key(s)}.safetensors"
    if not place.exists():
        say.stage(f"EAST direction from {s.train_runs} histories x {s.n_arms} label rotations")
        bench.direction(bench.train()).save(place)
    direction = Direction.load(place).at(s.layer)
    say.stage(f"dose curves on {s.validation_runs} validation histories")
    curves = folder / f"dose-{settings_key(s)}.json"
    if not curves.exists():
        histories = bench.spread("validation", s.validation_runs)
        logits = bench.under(None, histories).measures["logits"]
        found = [
            bench.under(Steerer(Add(direction, strength=alpha)), histories).measures["entropy_bits"]
            for alpha in s.alphas
        ]
        warm = [entropy_at(logits, one) for one in s.temperatures]
        write_json(curves, {"EAST": [float(one.mean()) for one in found], "temperature": warm})
    told = json.loads(curves.read_text())
    east, warm = told["EAST"], told["temperature"]
    say.note(f"EAST {dict(zip(s.alphas, np.round(east, 2).tolist(), strict=True))}")
    say.note(f"temperature {dict(zip(s.temperatures, np.round(warm, 2).tolist(), strict=True))}")
    return {
        "EAST": Lever("EAST", s.alphas, tuple(east), direction),
        "temperature": Lever("temperature", s.temperatures, tuple(warm), None),
    }


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Learn the direction, measure the dose curves, ask for entropies."""
    n_conditions = 2 * (len(s.by_east) + len(s.by_temperature)) + 2
    say.plan([s.train_runs * s.n_arms, s.validation_runs * len(s.alphas), *[3 * s.episodes] * n_conditions])
    policy = language_model(s.policy, "setpoint-entropy")
    bench = Bench(policy, s.n_arms, s)
    found = levers(bench, s, folder, say)
    tables: dict[str, pd.DataFrame] = {}
    rows: list[dict[str, Any]] = []

    def episodes(name: str, parts: Sequence[Part]) -> pd.DataFrame:
        say.stage(f"{s.episodes} episodes, {name}")
        made = rollout(
            f"SteerAgents/BanditLockIn{s.n_arms}-v0",
            policy,
            Steerer(*parts) if parts else None,
            episodes=s.episodes,
            seed=s.test_seed,
            num_envs=min(16, s.episodes),
            run=folder / f"rollouts-{settings_key(s)}" / name.replace(" ", "-"),
            measures=episode_measures,
            condition=name,
        )
        tables[name] = made.episodes
        say.note(f"entropy {made.episodes['entropy_bits'].mean():.2f} bits")
        return made.episodes

    def ask(kind: str, lever: str, entropy: float, part: Part) -> None:
        got = episodes(f"{lever} {kind} {entropy:g}", (part,))["entropy_bits"]
        off = (got - entropy).abs()
        rows.append(
            {"condition": f"{lever} {kind} {entropy:g}", "kind": kind, "lever": lever, "asked": entropy, "achieved": float(got.mean()),
             "error": float(abs(got.mean() - entropy)), "error of an episode": float(off.mean()),
             "episodes within .1": float((off <= 0.1).mean()), "spread": float(got.std())}
        )  # fmt: skip

    episodes("unsteered", ())
    asked = [("EAST", one) for one in s.by_east] + [("temperature", one) for one in s.by_temperature]
    for name, entropy in asked:
        ask("closed", name, entropy, found[name].hold(entropy, s.closed if name == "EAST" else None))
    for name, entropy in asked:
        ask("open", name, entropy, found[name].part(found[name].solve(entropy)))
    east = found["EAST"]
    assert east.direction is not None
    random = replace(east, direction=random_like(east.direction, seed=1))
    ask("random", "EAST", s.by_east[-1], random.hold(s.by_east[-1], s.closed))
    return _outcome(s, found, tables, pd.DataFrame(rows))


def _outcome(s: Settings, found: dict[str, Lever], tables: dict[str, pd.DataFrame], table: pd.DataFrame) -> Outcome:
    def errors(kind: str, lever: str) -> np.ndarray:
        values: np.ndarray = table.loc[(table["kind"] == kind) & (table["lever"] == lever), "error"].to_numpy()
        return values

    bars = []
    for lever in found:
        held = float(errors("closed", lever).max())
        name = f"{lever}: largest error of the mean entropy [bits], closed loop"
        bars.append(Bar(name, held, None, "<= 0.1", held <= 0.1))
    control = float(errors("random", "EAST").min())
    bars.append(Bar("random direction, same controller: error [bits]", control, None, ">= 0.1", control >= 0.1))
    base = tables["unsteered"]["entropy_bits"].mean()
    told = [
        f"through {lever} within {errors('closed', lever).max():.2f} bits in closed loop, {errors('open', lever).max():.2f} in open loop"
        for lever in found
    ]
    return Outcome(
        title="Entropy of a language model's decisions, asked for in bits",
        question="Can the entropy of an agent's choices be held at a value during an episode, through its activations or temperature?",
        verdict=f"Mean entropy of episodes: {'; '.join(told)}; unsteered {base:.2f} bits.",
        bars=bars,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[
            Figure("entropy", achieved_plot(table, "entropy of decisions [bits]"), "Entropy achieved over asked; the line is equality.",
                   "Scatter plot of achieved over asked entropies.")
        ],
        notes=[
            "The entropy of an episode is the mean over its decisions; a single episode is off by more than the mean over episodes.",
            "Dose curves, slopes and starts come from validation histories (fixed prompts), never from test episodes.",
            "How useful an entropy is for the bandit is not asked here; `east-lockin` does.",
        ],
        extra={"levers": {name: {"strengths": one.strengths, "entropy_bits": one.values} for name, one in found.items()}},
    )  # fmt: skip
