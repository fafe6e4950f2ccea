"""What noise alone does, without any learning: the base, zero noise, noise maps and the best constant, for several policies."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.dsrl import TEST, VALIDATION, World, merged, row, summary
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.noise.baselines import golden_ticket
from steer_agents.noise.check import RandomNoise
from steer_agents.noise.maps import Dct, Full, Repeat
from steer_agents.noise.parts import ConstantNoise


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policies: embedded policies of PutBowlOnPlate.
        shift: size of `object_position`.
        episodes: held-out starts.
        tickets, ticket_episodes: constant noises tried, and episodes of each.
        bound: of the box.
    """

    policies: tuple[str, ...] = ("flow-weak", "flow-medium", "diffusion-medium")
    shift: float = 0.5
    episodes: int = 100
    tickets: int = 32
    ticket_episodes: int = 10
    bound: float = 1.5


def settings(quick: bool) -> Settings:
    """Three policies (about 15 CPU minutes), or one with few episodes (about 1)."""
    return (
        replace(Settings(), policies=("flow-medium",), episodes=10, tickets=2, ticket_episodes=4)
        if quick
        else Settings()
    )


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """All rows of all policies on the same starts."""
    place = folder / f"runs-{settings_key(s)}"
    say.plan([5.0, *[1.0] * 6] * len(s.policies))
    tables, rows = [], []
    for name in s.policies:
        world = World(name, "PutBowlOnPlate", {"object_position": s.shift})
        policy = world.load()
        say.stage(f"{name}: {s.tickets} constant noises x {s.ticket_episodes} episodes")

        def score(part: ConstantNoise, world: World = world) -> float:
            return summary(world.episodes(world.load(), part, s.ticket_episodes, VALIDATION + 1, "ticket"))["success"]

        ticket = golden_ticket(policy, Full(), score, s.tickets, s.bound)
        parts = {
            "unsteered": None, "zero noise": ConstantNoise(), "best constant noise": ticket.part, 
            "noise in the box": RandomNoise(Full(), s.bound),
            "two DCT components": RandomNoise(Dct(2), s.bound), "repeated": RandomNoise(Repeat(), s.bound),
        }  # fmt: skip
        base: pd.DataFrame | None = None
        for label, part in parts.items():
            say.stage(f"{name}, {label}: {s.episodes} held-out starts")
            table = world.episodes(policy, part, s.episodes, TEST, f"{name}, {label}", place)
            base = table if base is None else base
            tables.append(table)
            rows.append({"policy": name, "noise": label, **row(table, None if part is None else base)})
    conditions = pd.DataFrame(rows)
    at = conditions.set_index(["policy", "noise"])["success"]
    effects = [float(at[(name, "zero noise")] - at[(name, "unsteered")]) for name in s.policies]
    bars = [
        Bar(f"{name}: zero noise differs from the base", effect, None, "reported, no bound", None)
        for name, effect in zip(s.policies, effects, strict=True)
    ]
    text = "; ".join(
        f"{name}: unsteered {at[(name, 'unsteered')]:.2f}, zero noise {at[(name, 'zero noise')]:.2f}, best constant "
        f"{at[(name, 'best constant noise')]:.2f}"
        for name in s.policies
    )
    shown = [
        {"name": r["condition"], "value": r["success"], "low": r["low"], "high": r["high"],
         "role": "base" if r["noise"] == "unsteered" else "other"}
        for r in rows
    ]  # fmt: skip
    return Outcome(
        title="Noise without learning",
        question="How much do zero noise, the best of some constant noises and poorer noise maps change by themselves? Whoever "
        "reports a learned noise "
        "policy beside sampled noise only would count these as its doing.",
        verdict=f"Success under position shift. {text}.",
        bars=bars,
        episodes=merged(tables),
        conditions=conditions,
        figures=[
            Figure(
                "success",
                plots.bars(pd.DataFrame(shown), label="success", title="Held-out starts"),
                "Wilson 95 % intervals.",
                text,
            )
        ],
        notes=["The best constant is chosen on other starts than these."],
    )
