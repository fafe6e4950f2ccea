"""The tabletop's experts on every task: do they succeed, how long does it take, what does a step cost?

Seeds are held out: the experts were written on other ones. Failed episodes stay in the table, errored ones apart.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pandas as pd

from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import make_expert
from envs.tabletop.tasks import TASKS
from launch.experiments.base import Figure, Outcome, Say
from steer_agents.evaluation import plots
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.report import Bar

WANTED = 0.95


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        episodes: per task.
        seed: the episodes' resets are drawn from it.
        tasks: names; () is all of them.
    """

    episodes: int = 50
    seed: int = 4242
    tasks: tuple[str, ...] = ()


def settings(quick: bool) -> Settings:
    """All tasks with 50 episodes (about 4 minutes), or with 5."""
    return replace(Settings(), episodes=5) if quick else Settings()


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Let every expert act, then count."""
    names = s.tasks or tuple(TASKS)
    say.plan([1.0] * len(names))
    tables, steps, seconds = [], 0, 0.0
    for name in names:
        say.stage(f"{name}: {s.episodes} episodes")
        table, spent = expert_episodes(name, s.episodes, s.seed)
        tables.append(table)
        steps, seconds = steps + int(table["length"].sum()), seconds + spent
    episodes = pd.concat(tables, ignore_index=True)
    rows: list[dict[str, Any]] = []
    bars = []
    for name in names:
        own = episodes[episodes["condition"] == name]
        good = own[~own["errored"]]
        share = proportion_interval(int(good["success"].sum()), len(own))
        task = TASKS[name]
        rows.append(
            {"task": name, "suite": task.suite, "instruction": task.instruction, "success": share.value,
             "interval": f"{share.low:.2f} to {share.high:.2f}", "errored": int(own["errored"].sum()),
             "steps": float(good["length"].mean()), "path [m]": float(good["path_length"].mean()),
             "speed [m/s]": float(good["speed"].mean())}
        )  # fmt: skip
        bars.append(
            Bar(f"{name}: success", share.value, (share.low, share.high), f">= {WANTED}", share.value >= WANTED)
        )
    shown = pd.DataFrame(
        {"name": row["task"], "value": row["success"], "low": np.nan, "high": np.nan, "role": "base"} for row in rows
    )
    picture = plots.bars(shown, label="success", title="Experts on held-out seeds", reference=WANTED)
    text = ", ".join(f"{row['task']} {row['success']:.2f}" for row in rows)
    cost = 1e3 * seconds / steps
    held = sum(bool(bar.holds) for bar in bars)
    return Outcome(
        title="The tabletop's experts",
        question="Does the scripted expert of every task succeed on held-out seeds?",
        verdict=f"The experts of {held} of {len(bars)} tasks succeed in at least 95 % of {s.episodes} episodes (the least: "
        f"{min(row['success'] for row in rows):.2f}); an environment step with its expert took {cost:.2f} ms of CPU time on MuJoCo "
        f"{mujoco.__version__}.",
        bars=bars,
        episodes=episodes,
        conditions=pd.DataFrame(rows),
        figures=[Figure("success", picture, f"Share of {s.episodes} episodes; dashed: {WANTED}.", f"Success by task: {text}")],
        notes=["Experts read the privileged state. They are there to record demonstrations and to show that tasks can be done."],
        extra={"mujoco": mujoco.__version__, "cpu_ms_per_step": cost},
    )  # fmt: skip


def expert_episodes(name: str, episodes: int, seed: int) -> tuple[pd.DataFrame, float]:
    """One row per episode of a task's expert, and the CPU seconds that stepping and acting took."""
    env = TabletopEnv(name)
    rows: list[dict[str, Any]] = []
    began = time.process_time()
    for episode in range(episodes):
        own = int(np.random.SeedSequence([seed, episode]).generate_state(1)[0])
        row: dict[str, Any] = {"condition": name, "seed": own, "episode": episode, "errored": False, "success": 0.0}
        speeds = []
        try:
            _, info = env.reset(seed=own)
            expert = make_expert(env, seed=own)
            for _ in range(TASKS[name].max_episode_steps):
                _, _, success, _, info = env.step(expert.act())
                speeds.append(info["speed"])
                if success:
                    row["success"] = 1.0
                    break
            row |= {"length": len(speeds), "path_length": info["path_length"], "speed": float(np.mean(speeds))}
        except Exception as error:
            row |= {"errored": True, "error": f"{type(error).__name__}: {error}", "length": len(speeds)}
        rows.append(row)
    spent = time.process_time() - began
    env.close()
    return pd.DataFrame(rows), spent
