"""Less and more sure of its actions: EAST on the action tokens of a policy that sees pictures and hears words.

Tokens are drawn at temperature 1 everywhere, and what is measured is the entropy of the distribution that they are drawn from. The baseline
is the temperature itself: it reaches any entropy at no cost in computation, so a direction has to show what else it is good for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from launch.experiments import vla_sides
from launch.experiments.base import Outcome, Say
from launch.experiments.vla import Bench
from launch.experiments.vla_sides import Settings, Side, Sides
from steer_agents.direction import Direction
from steer_agents.finding import find


def towards(bench: Bench, scenes: Sequence[Mapping[str, Any]], side: Side, kind: str) -> Direction:
    """EAST over the episodes of the scenes; turned round for the side that is to get surer."""
    found = find(
        bench.policy,
        "action-entropy",
        scenes=scenes,
        runs=[scene["episode"] for scene in scenes],
        site=bench.site(kind),
    )
    return found if side.sign > 0 else -found


ENTROPY = Sides(
    measure="draw_entropy_bits",
    label="mean entropy of an action token [bits]",
    low=Side("surer", -1, 0.1, temperature=0.7),
    high=Side("less sure", +1, 0.1, temperature=1.4),
    unit=("bits", 1.0),
    measured_in="bits",
    relative=False,
    side_effect="transit_speed",
    temperature=1.0,
    strength="alpha",
    find=towards,
    quiet=0.5,
)


def settings(quick: bool) -> Settings:
    """104 paired episodes a condition (about 30 minutes), or 8 with few controls (about 3 minutes)."""
    full = Settings(layers=(1, 2, 3), strengths=(0.2, 0.4), gates=("always",))
    if not quick:
        return full
    return replace(full, scene_episodes=1, choice_episodes=1, test_episodes=1, layers=(3,), n_random=1, n_permuted=1)


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """See `vla_sides`."""
    return vla_sides.run(
        ENTROPY,
        f"How sure {s.policy} is",
        f"Does steering {s.policy} along the entropy of its own action tokens make it less and more sure of its actions, more than equally "
        "long control directions do, and does it still succeed?",
        s,
        folder,
        say,
    )
