"""Lower and higher over the table, on an instruction that says neither: at the output of one block.

The effect of words is built up over the layers, so that one block output holds only a part of it: see `vla_height_attention`.
The first run tried strengths up to 1.5 without the gate "carrying" and fell short (-1.1 cm); this one has test layouts of its own.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.experiments import vla_sides
from launch.experiments.base import Outcome, Say
from launch.experiments.vla_sides import Settings, Side, Sides

HEIGHT = Sides(
    measure="height",
    label="height of the tcp while it carries [m]",
    low=Side("low over the table", -1, 0.015),
    high=Side("high over the table", +1, 0.015),
    unit=("cm", 100.0),
    measured_in="m",
    relative=False,
    side_effect="transit_speed",
)


def settings(quick: bool) -> Settings:
    """104 paired episodes a condition (about 40 minutes), or 8 with few controls (about 3 minutes)."""
    full = Settings(layers=(1,), strengths=(1.0, 1.5, 2.0, 2.5), gates=("always", "carrying"), first_test_seed=61_000)
    if not quick:
        return full
    return replace(
        full,
        scene_episodes=1,
        choice_episodes=1,
        test_episodes=1,
        strengths=(1.0, 2.0),
        n_random=1,
        n_permuted=1,
    )


def run(s: Settings, folder: Path, say: Say, sides: Sides = HEIGHT) -> Outcome:
    """See `vla_sides`."""
    return vla_sides.run(
        sides,
        f"Height of {s.policy}",
        f"The instruction says nothing of height. Does steering {s.policy} along 'low' and 'high over the table' lower and raise its way, "
        "more than equally long control directions do, without changing its speed?",
        s,
        folder,
        say,
    )
