"""Slower and faster, on an instruction that says neither: activation steering of a policy that sees pictures and hears words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.experiments import vla_sides
from launch.experiments.base import Outcome, Say
from launch.experiments.vla_sides import Settings, Side, Sides

SPEED = Sides(
    measure="transit_speed",
    label="tcp speed in transit [m/s]",
    low=Side("slowly", -1, 0.35),
    high=Side("quickly", +1, 0.25),
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
        SPEED,
        f"Speed of {s.policy}",
        f"The instruction says nothing of speed. Does steering {s.policy} along 'slowly' and 'quickly' slow it down and speed it up while "
        "it still succeeds, more than equally long control directions do?",
        s,
        folder,
        say,
    )
