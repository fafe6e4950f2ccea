"""LIBERO: slower and faster by one direction inside of `flow-libero`, that nobody named: found by contrast on the policy's own rollouts.

1. Scenes of unsteered episodes; the direction is the mean activation where the hand moved fast in the next steps minus where it moved
   slowly, within groups of what it was doing (held or not, how high).
2. Layer, strength and gate (always, or above a height over the table: see `GATES`) of each side are chosen on other starts: the largest
   effect among those that keep success within `margin`.
3. Test on further starts: base, zero strength, both sides, random directions as long (both signs).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd

import policies
from launch.experiments import libero
from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import Change, change, pushed
from launch.experiments.vls import VALIDATION, Bench, Condition, run_all
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.finding import find
from steer_agents.finding.controls import random_like
from steer_agents.gates import Always, Gate, Measured
from steer_agents.interventions import Add
from steer_agents.recording import record_scenes
from steer_agents.sites import Site

SCENES = 61_000
GATES: Mapping[str, Gate] = {
    "always": Always(),
    "above 5 cm": Measured("height", above=0.05),
    "in transit": Measured("height", above=0.08),
}
"""By height of the tcp over the table [m]; above 8 cm it is on its way, neither grasping nor placing."""
SIDES: Mapping[str, int] = {"slower": -1, "faster": +1}


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        scene_episodes, choice_episodes, test_episodes: starts of each.
        quantile: share of the scenes of each group on either side of the contrast.
        layers, strengths, gates: tried; strengths in multiples of the raw direction ("beta"), gates by their names in `GATES`.
        bound: least relative change of the mean speed, each way; margin: largest loss of success.
        n_random: control directions per side, with both signs.
        test_seed: of the test starts. Two earlier full runs, with other candidates, were on others: see README.md.
    """

    scene_episodes: int = 24
    quantile: float = 0.4
    choice_episodes: int = 12
    test_episodes: int = 40
    layers: tuple[int | str, ...] = (1, "all")
    strengths: tuple[float, ...] = (0.7, 1.0, 1.4)
    gates: tuple[str, ...] = tuple(GATES)
    bound: float = 0.2
    margin: float = 0.1
    n_random: int = 1
    test_seed: int = 6300


def settings(quick: bool) -> Settings:
    """40 starts (about 8 minutes), or 4."""
    small = replace(
        Settings(),
        scene_episodes=4,
        choice_episodes=2,
        test_episodes=4,
        layers=(1,),
        strengths=(1.0,),
        gates=("in transit",),
        n_random=1,
    )
    return small if quick else Settings()


def direction(policy: Any, world: Any, episodes: int, quantile: float) -> Direction:
    """Fast minus slow, over an unsteered policy's own scenes."""
    scenes = record_scenes(world.make, policy, episodes=episodes, seed=SCENES, every=4, ahead=4, num_envs=libero.ROWS)
    groups = [(bool(held), int(height / 0.04)) for held, height in zip(scenes["held"], scenes["height"], strict=True)]
    return find(
        policy, "behaviour-contrast", scenes=scenes.observations, values=scenes["next_speed"], groups=groups,
        episodes=scenes["episode"], quantile=quantile, site=Site("block_output", "all"),
    )  # fmt: skip


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find, choose, test, compare."""
    world, policy = libero.world(), policies.load(libero.POLICY)
    place = folder / f"rollouts-{settings_key(s)}"
    bench = Bench(libero.POLICY, libero.TASK, place, world.make, libero.measures, libero.ROWS)
    tried = len(s.layers) * len(s.strengths) * len(s.gates)
    say.plan([s.scene_episodes, s.choice_episodes * (2 * tried + 1)] + [s.test_episodes] * (4 + 4 * s.n_random))
    say.stage(f"{libero.POLICY}: scenes from {s.scene_episodes} episodes, and the direction")
    found = direction(policy, world, s.scene_episodes, s.quantile)
    found.save(folder / f"{libero.POLICY}-speed.safetensors")
    say.stage(f"choosing layer and strength on {s.choice_episodes} other starts")
    base = bench.episodes(Condition("choice base", "base"), VALIDATION, s.choice_episodes)
    rows = []
    for layer, strength, gate, sign in itertools.product(s.layers, s.strengths, s.gates, SIDES.values()):
        one = Choice(layer, sign * strength, gate)
        condition = Condition(f"choice {layer} {sign * strength:g} {gate}", "other", one.push(found))
        effect = change(bench.episodes(condition, VALIDATION, s.choice_episodes), base, "mean_speed")
        rows.append(
            {
                "layer": layer,
                "strength": strength,
                "gate": gate,
                "sign": sign,
                "effect": effect.value,
                "success": effect.success,
            }
        )
        say.note(f"{one}: {effect.value:+.2f} of the speed, success {effect.success:+.2f}")
    table = pd.DataFrame(rows)
    choices = {side: choose(table, sign, s.margin) for side, sign in SIDES.items()}
    asked = conditions(found, choices, s)
    tables = run_all(bench, asked, s.test_episodes, say, "mean_speed", s.test_seed)
    return _outcome(s, asked, tables, choices, table)


@dataclass(frozen=True)
class Choice:
    """Where, how strongly (with the sign of the side) and when the direction is added."""

    layer: int | str
    strength: float
    gate: str

    def __str__(self) -> str:
        return f"layer {self.layer}, strength {self.strength:+g}, {self.gate}"

    def push(self, along: Direction, share: float = 1.0) -> Add:
        """A share of the strength along some direction."""
        return replace(pushed(along, self.layer, share * self.strength), gate=GATES[self.gate])


def choose(table: pd.DataFrame, sign: int, margin: float) -> Choice:
    """The largest effect that keeps success within the margin; without any, the best success."""
    own = table[table["sign"] == sign]
    able = own[own["success"] >= -margin]
    best = (able["effect"] * sign).idxmax() if len(able) else own["success"].idxmax()
    row = own.loc[best]
    layer = row["layer"] if isinstance(row["layer"], str) else int(row["layer"])
    return Choice(layer, sign * float(row["strength"]), str(row["gate"]))


def conditions(found: Direction, choices: Mapping[str, Choice], s: Settings) -> list[Condition]:
    """Everything that is run on the test starts."""
    asked = [Condition("unsteered", "base"), Condition("zero strength", "base", choices["slower"].push(found, 0.0))]
    asked += [Condition(side, "steered", choice.push(found)) for side, choice in choices.items()]
    for (side, choice), number in itertools.product(choices.items(), range(s.n_random)):
        other = random_like(found, seed=10 * number + 2 + SIDES[side])
        for mark, sign in (("+", 1.0), ("-", -1.0)):
            asked.append(Condition(f"random {number + 1}{mark} as long as {side}", "control", choice.push(other, sign)))
    return asked


def _outcome(
    s: Settings, asked: list[Condition], tables: dict[str, pd.DataFrame], choices: dict[str, Choice], tried: pd.DataFrame
) -> Outcome:  # fmt: skip
    base = tables["unsteered"]
    moved: dict[str, Change] = {name: change(table, base, "mean_speed") for name, table in tables.items()}
    table = pd.DataFrame(
        [
            {"condition": one.name, "role": one.role, "success": float(tables[one.name]["success"].mean()),
             "mean_speed": float(tables[one.name]["mean_speed"].mean()), "change": moved[one.name].value, "low": moved[one.name].low,
             "high": moved[one.name].high, "change of success": moved[one.name].success, "steps": float(tables[one.name]["length"].mean()),
             "episodes": len(tables[one.name])}
            for one in asked
        ]
    )  # fmt: skip
    bars, told = [], []
    for side, sign in SIDES.items():
        one = moved[side]
        loud = max(
            (moved[c.name] for c in asked if c.name.endswith(f"as long as {side}")), key=lambda found: found.size
        )
        sense = "at most" if sign < 0 else "at least"
        bars += [
            Bar(f"{side}: relative change of the mean speed", one.value, (one.low, one.high), f"{sense} {sign * s.bound:+g}",
                bool(sign * one.value >= s.bound)),
            Bar(f"{side}: change of success", one.success, None, f"at least -{s.margin:g}", one.success >= -s.margin),
            Bar(f"{side}: the loudest control as long", loud.value, (loud.low, loud.high), "less than half of it",
                loud.size < one.size / 2),
        ]  # fmt: skip
        told.append(
            f"{side} at {choices[side]}: mean speed {100 * one.value:+.0f} % "
            f"({100 * one.low:+.0f} to {100 * one.high:+.0f}), success {one.success:+.2f}; the loudest control {100 * loud.value:+.0f} %."
        )
    columns = ["seed", "success", "length", "mean_speed"]
    same = tables["zero strength"][columns].equals(base[columns])
    bars.append(Bar("zero strength", "as unsteered" if same else "differs", None, "every episode as unsteered", same))
    shown = table.rename(columns={"condition": "name", "change": "value"})
    alt = ", ".join(f"{row['name']} {row['value']:+.2f}" for row in shown.to_dict("records"))
    label = "relative change of the mean tcp speed"
    return Outcome(
        title="LIBERO: slower and faster along one direction",
        question="flow-libero was taught at three speeds that nobody named. Is there a direction inside of it that changes its speed "
        "both ways while it still succeeds, more than equally long control directions do?",
        verdict=" ".join(told),
        bars=bars,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[
            Figure("speed", plots.bars(shown, label=label, title="Mean tcp speed", reference=0.0),
                   "Paired with the unsteered policy; BCa 95 % intervals.", f"{label}: {alt}"),
        ],
        notes=[
            f"Layer and strength were chosen on {s.choice_episodes} starts of another seed, the direction was found on a third.",
            "Mean speed is of the tcp over the whole episode, closing the gripper and failures included.",
            'The simulation runs with physics="lite", see envs/libero.',
        ],
        extra={"choices": {side: vars(choice) for side, choice in choices.items()}, "tried": tried.to_dict("records")},
    )  # fmt: skip
