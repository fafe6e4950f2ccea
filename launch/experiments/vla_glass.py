"""A gate on a measured distance: raised only near a glass that stands in the way, so that it is touched less, at hardly any cost in time.

`PassGlass` puts a glass between the block and its plate; `tiny-vla` was never taught to mind it and hears only "put the green block on the
plate". What the words 'high over the table' add at the attention outputs of all layers is pushed while the hand is within a few centimetres
of the glass, and nowhere else. Site, strength and distance were chosen on layouts from seed 61000 on; slowing down near the glass
('slowly', as in `vla-speed`) stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import CARRYING, TEST, Bench, Condition, change, pushed
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.compare import compare
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import permuted_like, random_like
from steer_agents.gates import Measured

TASK, INSTRUCTION = "PassGlass", "put the green block on the plate"
RAISED, SLOWED = "high over the table", "slowly"


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: a name that `policies.load` takes; load: its options.
        scene_tasks: whose scenes the directions are found on; the glass is in none of them.
        beta: strength at the attention outputs of all layers.
        near: distance to the glass below which the gate is open [m].
        slow_layer, slow_beta, slow_near: the same of 'slowly', at one block output.
        scene_episodes: of every task; test_episodes: of `PassGlass`.
        n_random: control directions, with both signs; n_permuted.
        time_bound: largest growth of the number of steps.
    """

    policy: str = "tiny-vla"
    load: Mapping[str, Any] = field(default_factory=dict)
    scene_tasks: tuple[str, ...] = CARRYING
    beta: float = 1.5
    near: float = 0.12
    slow_layer: int = 1
    slow_beta: float = 1.0
    slow_near: float = 0.08
    scene_episodes: int = 3
    test_episodes: int = 150
    n_random: int = 3
    n_permuted: int = 1
    time_bound: float = 0.15


def settings(quick: bool) -> Settings:
    """150 paired episodes a condition (about 10 minutes), or 10 (about 1 minute)."""
    return replace(Settings(), scene_episodes=1, test_episodes=10, n_random=1) if quick else Settings()


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find the directions where no glass is, then pass the glass with and without them."""
    say.stage("scenes and directions")
    finder = Bench(s.policy, s.scene_tasks, folder / f"rollouts-{settings_key(s)}", s.load)
    scenes = finder.scenes(s.scene_episodes)
    raised = finder.direction(scenes, RAISED, "attention_output")
    slowed = finder.direction(scenes, SLOWED)
    raised.save(folder / f"{s.policy}-high-attention_output.safetensors")
    bench = Bench(s.policy, (TASK,), finder.folder, s.load, INSTRUCTION)
    found = conditions(s, raised, slowed)
    say.plan([1.0] * len(found))
    tables = {}
    for condition in found:
        say.stage(f"{s.test_episodes} episodes of {TASK}: {condition.name}")
        tables[condition.name] = table = bench.episodes(condition, TEST, s.test_episodes)
        say.note(f"touched {table['touched'].mean():.2f}, success {table['success'].mean():.2f}")
    return _outcome(s, found, tables)


def conditions(s: Settings, raised: Direction, slowed: Direction) -> list[Condition]:
    """Base, zero strength, raised near the glass and always, slowed near the glass, and controls behind the gate."""
    near = Measured("clearance_glass", below=s.near)

    def push(direction: Direction, share: float) -> Condition:
        return Condition("", "", replace(pushed(direction, "all", share * s.beta), gate=near))

    slow = replace(pushed(slowed, s.slow_layer, s.slow_beta), gate=Measured("clearance_glass", below=s.slow_near))
    found = [
        Condition("base", "base"),
        replace(push(raised, 0.0), name="zero strength", role="base"),
        replace(push(raised, 1.0), name="raised near the glass", role="steered"),
        Condition("raised always", "other", pushed(raised, "all", s.beta)),
        Condition("slowed near the glass", "other", slow),
        replace(push(raised, -1.0), name="turned round near the glass", role="other"),
    ]
    for i in range(s.n_random):
        for mark, sign in (("+", 1.0), ("-", -1.0)):
            found.append(replace(push(random_like(raised, seed=i), sign), name=f"random {i + 1}{mark}", role="control"))
    for i in range(s.n_permuted):
        found.append(replace(push(permuted_like(raised, seed=i), 1.0), name=f"permuted {i + 1}", role="control"))
    return found


def _outcome(s: Settings, found: list[Condition], tables: dict[str, pd.DataFrame]) -> Outcome:
    base = tables["base"]
    touched = {name: compare(table, base, "touched", kind="binary") for name, table in tables.items()}
    longer = {name: change(table, base, "steps") for name, table in tables.items()}
    rows = []
    for one in found:
        share = proportion_interval(int(tables[one.name]["touched"].sum()), len(tables[one.name]))
        rows.append(
            {"condition": one.name, "role": one.role, "touched": share.value, "low": share.low, "high": share.high,
             "touched change": touched[one.name].value, "success": float(tables[one.name]["success"].mean()),
             "steps change": longer[one.name].value, "height": float(tables[one.name]["height"].mean())}
        )  # fmt: skip
    table = pd.DataFrame(rows)
    less, time = touched["raised near the glass"], longer["raised near the glass"]
    controls = [one.name for one in found if one.role == "control"]
    best = min(controls, key=lambda name: touched[name].value)
    same = all(tables["zero strength"][column].equals(base[column]) for column in ("touched", "steps"))
    bars = [
        Bar("zero strength", "as the base" if same else "differs", None, "every episode as the base", same),
        Bar("raised near the glass: change of the share of episodes that touch it", less.value, (less.low, less.high),
            "below 0 with its interval", less.high < 0),
        Bar("raised near the glass: relative change of time", time.value, (time.low, time.high), f"< {s.time_bound:g}",
            time.value < s.time_bound),
        Bar(f"{best}, of {len(controls)} controls the one with the fewest touches: change", touched[best].value,
            (touched[best].low, touched[best].high), f"above {less.value / 2:.3g}, half of the effect",
            touched[best].value > less.value / 2),
    ]  # fmt: skip
    shown = table.rename(columns={"condition": "name", "touched": "value"})
    title = f"{s.policy}: past a glass"
    own = table.set_index("condition")
    return Outcome(
        title=title,
        question="Does steering upwards only near a glass make a policy that was not taught to mind it touch it less, losing no time?",
        verdict=f"Raised within {100 * s.near:g} cm of the glass, {own.touched['raised near the glass']:.2f} of the episodes touch it "
        f"(unsteered {own.touched['base']:.2f}; change {less.value:+.2f}, {less.low:+.2f} to {less.high:+.2f}), success "
        f"{own.success['raised near the glass']:.2f} (unsteered {own.success['base']:.2f}), time {100 * time.value:+.0f} %. Slowed "
        f"within {100 * s.slow_near:g} cm instead: {own.touched['slowed near the glass']:.2f}, time "
        f"{100 * longer['slowed near the glass'].value:+.0f} %. Controls as long: {own.touched[controls].min():.2f} to "
        f"{own.touched[controls].max():.2f}.",
        bars=bars,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[
            Figure("conditions", plots.bars(shown, label="share of episodes that touch the glass", title=title,
                                            reference=float(base["touched"].mean())),
                   "Wilson 95 % intervals.", "; ".join(f"{row['condition']} {row['touched']:.2f}" for row in rows)),
        ],
        notes=["The gate reads the simulator's clearance, once per chunk of four actions; success asks that the glass was not touched."],
        extra={"comparisons": {name: one.to_dict() for name, one in touched.items()}},
    )  # fmt: skip
