"""Lower and higher over the table, on an instruction that says neither."""

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
    full = Settings()
    if not quick:
        return full
    return replace(
        full,
        scene_episodes=1,
        choice_episodes=1,
        test_episodes=1,
        layers=(0, 1),
        strengths=(0.5, 1.0),
        n_random=1,
        n_permuted=1,
    )


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """See `vla_sides`."""
    return vla_sides.run(
        HEIGHT,
        f"Height of {s.policy}",
        f"The instruction says nothing of height. Does steering {s.policy} along 'low' and 'high over the table' lower and raise its way, "
        "more than equally long control directions do, without changing its speed?",
        s,
        folder,
        say,
    )
