"""What learning noise costs: env steps per CPU second of DSRL-SAC and DSRL-NA on the two-goal toy, and where the time goes.

Eight environments in one process, recommended settings, first rollouts not counted. Shares are of denoising (in rollouts and in
updates), gradient
steps and the environment; bounds: denoising at most 10 % of SAC's time and 35 % of NA's. NA is timed with the value of the next
state from its noise
critic (the default), and denoised in the update, as published.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from gymnasium.vector import SyncVectorEnv
from rich.console import Console
from rich.table import Table

from bench.two_goals import TwoGoals, taught

WANTED = {"DSRL-SAC": 0.10, "DSRL-NA": 0.35}
"""Largest share of denoising."""


@dataclass(frozen=True)
class Profile:
    """One run.

    Args:
        name: of the algorithm.
        env_steps, seconds: learned in, CPU.
        denoise, update, env: CPU seconds; what is left is stable-baselines3's loop and the actor in rollouts.
        denoised: chunks.
    """

    name: str
    env_steps: int
    seconds: float
    denoise: float
    update: float
    env: float
    denoised: int

    @property
    def rate(self) -> float:
        """Env steps per CPU second."""
        return self.env_steps / self.seconds

    def share(self, part: str) -> float:
        """Of the CPU seconds."""
        return float(getattr(self, part)) / self.seconds

    @property
    def holds(self) -> bool | None:
        """Whether the bound on denoising holds; None without one."""
        return self.share("denoise") <= WANTED[self.name] if self.name in WANTED else None

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        return {
            "env_steps": self.env_steps, "cpu_seconds": self.seconds, "env_steps_per_cpu_second": self.rate,
            "shares": {part: self.share(part) for part in ("denoise", "update", "env")}, "chunks_denoised": self.denoised,
            "bound": {"limit": WANTED.get(self.name), "holds": self.holds},
        }  # fmt: skip


@dataclass(frozen=True)
class Profiles:
    """One per algorithm."""

    found: list[Profile]

    def as_json(self) -> dict[str, Any]:
        """The results as one JSON-able object."""
        return {one.name: one.as_json() for one in self.found}


def measure(rounds: int = 1, env_steps: int = 2_400, epochs: int = 4) -> Profiles:
    """Learn for some env steps after 800 random ones.

    Args:
        rounds: ignored, one long run is timed.
        env_steps: timed.
        epochs: of the base policy's training; its skill does not change what a step costs.
    """
    from steer_agents.noise.noise_env import NoiseEnv
    from steer_agents.noise.presets import preset
    from steer_agents.noise.training import learn

    policy = taught(epochs=epochs)
    found = []
    for name, variant, options in (
        ("DSRL-SAC", "sac", {}),
        ("DSRL-NA", "na", {}),
        ("DSRL-NA, denoised in the update", "na", {"next_value": "action"}),
    ):
        settings = replace(preset("recommended", variant), first_env_steps=800, **options)  # type: ignore[arg-type]
        env = NoiseEnv(SyncVectorEnv([TwoGoals] * 8), policy)
        before = learn(env, settings, 800, 0).costs
        env = NoiseEnv(SyncVectorEnv([TwoGoals] * 8), policy)
        after = learn(env, settings, 800 + env_steps, 0).costs
        spent = {key: after[key] - before[key] for key in after}
        inside = spent["update_denoise"]
        in_update = inside if options else 0.0  # pairs of NA are denoised in the rollout
        found.append(
            Profile(
                name,
                env_steps,
                spent["all"],
                spent["denoise"] + inside,
                spent["update"] - in_update,
                spent["env"],
                env.denoised,
            )
        )
    return Profiles(found)


def show(console: Console, profiles: Profiles, rounds: int = 1) -> None:
    """Print the table."""
    table = Table(
        title="Learning noise: two-goal toy, 8 environments, recommended settings",
        title_justify="left",
        header_style="bold",
    )
    for column in (
        "algorithm",
        "env steps / CPU s",
        "denoising",
        "updates",
        "environment",
        "rest",
        "bound on denoising",
    ):
        table.add_column(column)
    for one in profiles.found:
        shares = [one.share(part) for part in ("denoise", "update", "env")]
        bound = "" if one.holds is None else f"{WANTED[one.name]:.0%}: {'holds' if one.holds else 'NO'}"
        table.add_row(
            one.name, f"{one.rate:.0f}", *[f"{share:.0%}" for share in shares], f"{1 - sum(shares):.0%}", bound
        )
    console.print(table)
