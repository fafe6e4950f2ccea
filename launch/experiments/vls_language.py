"""A reward in words: an instruction goes to an OpenAI-compatible endpoint, the program that comes back guides the policy over the wall.

The endpoint is a server on loopback that replays recorded replies (`recorded/vls_language.json`), so that the experiment runs
without a network and always the same. The replies were written by hand in the form of a chat model's, a wrong one first: this
shows that the way from an instruction to a steered episode works, correction included, and nothing about how well some model writes.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import gymnasium as gym
import pandas as pd

import envs
from launch.experiments.base import Outcome, Say, settings_key
from launch.experiments.vls import Bench, Condition, figure, run_all, table_of
from launch.experiments.vls_cost import POLICY, TASK
from launch.experiments.vls_cost import guidance as by_hand
from launch.experiments.vls_obstacle import bars, same_as_base
from launch.replay import ReplayServer, Reply
from launch.tabletop_guidance import AXES, KINEMATICS
from policies.errors import EndpointError
from steer_agents.evaluation.report import Bar
from steer_agents.guidance import Endpoint, RewardGuidance, RewardWriter, Scene, from_infos
from steer_agents.guidance.endpoint import Written

assert envs.__name__  # importing it registers the environments
RECORDED = Path(__file__).parent / "recorded" / "vls_language.json"


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment: guidance's strength (as `vls-obstacle` chose it) and the episodes of every condition."""

    strength: float = 2.0
    episodes: int = 100


def settings(quick: bool) -> Settings:
    """100 test layouts (about 5 minutes), or 10."""
    return replace(Settings(), episodes=10) if quick else Settings()


def first_scene() -> Scene:
    """What the model is told: the first fixed initial state."""
    env = gym.make(f"SteerAgents/{TASK}-v0")
    _, info = env.reset(seed=0, options={"init_state_id": 0})
    env.close()
    return from_infos()({}, [info])


def asked(cache: Path, say: Say) -> tuple[str, Written, Written, int]:
    """The instruction, what the endpoint wrote for it, what the cache gives the second time, and the requests that were made."""
    recorded = json.loads(RECORDED.read_text())
    scene, instruction = first_scene(), recorded["instruction"]
    with ReplayServer([Reply(content) for content in recorded["replies"]]) as server:
        writer = RewardWriter(Endpoint(server.url, model="recorded", timeout=20.0), cache=cache, show=say.note)
        for old in cache.glob("*.json"):
            old.unlink()
        written = writer.write(instruction, scene, AXES)
        again = writer.write(instruction, scene, AXES)
        return instruction, written, again, len(server.requests)


def refused(say: Say) -> str:
    """What happens when the endpoint is down: the error's message, or that there was none."""
    with ReplayServer([]) as server:
        url = server.url
    try:
        RewardWriter(Endpoint(url, model="recorded", timeout=5.0), attempts=1, show=say.note).write(
            "", first_scene(), AXES
        )
    except EndpointError as error:
        return str(error)
    return ""


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Ask, check, guide, compare."""
    bench = Bench(POLICY, TASK, folder / f"rollouts-{settings_key(s)}")
    say.plan([0.1, 1.0, 1.0, 1.0, 1.0, 1.0])
    say.stage("asking the endpoint for a reward")
    instruction, written, again, requests = asked(folder / "rewards", say)
    down = refused(say)

    def guided(strength: float, random: bool = False) -> RewardGuidance:
        return RewardGuidance(written.program, KINEMATICS, strength, random=random)

    found = [
        Condition("unsteered", "base"),
        Condition("zero strength", "base", guided(0.0)),
        Condition("reward in words", "steered", guided(s.strength)),
        Condition("reward by hand", "other", by_hand(s.strength)),
        Condition("random direction as long", "control", guided(s.strength, random=True)),
    ]
    tables = run_all(bench, found, s.episodes, say)
    table = table_of(found, tables, ("touched",), bench.counters)
    at = table.set_index("condition")
    corrected = written.source == "endpoint" and len(written.errors) == 1 and requests == 2
    return Outcome(
        title="A reward in words",
        question="Does a reward program that comes from an endpoint, checked and corrected, steer as one written by hand?",
        verdict=f"Asked to {instruction!r}, the endpoint's first program was refused "
        f"({written.errors[0] if written.errors else 'not at all'}), the "
        f"second one was accepted. Wall touched and success: unsteered {at.loc['unsteered', 'touched']:.2f} and "
        f"{at.loc['unsteered', 'success']:.2f}, guided by it {at.loc['reward in words', 'touched']:.2f} and "
        f"{at.loc['reward in words', 'success']:.2f}, by hand {at.loc['reward by hand', 'touched']:.2f} and "
        f"{at.loc['reward by hand', 'success']:.2f}.",
        bars=[
            *bars(tables, "reward in words"),
            same_as_base(tables),
            Bar(
                "wrong program",
                "corrected" if corrected else "not corrected",
                None,
                "one refused, one accepted",
                corrected,
            ),
            Bar(
                "asked again",
                again.source,
                None,
                "from the cache",
                again.source == "cache" and again.program == written.program,
            ),
            Bar("endpoint down", "EndpointError" if down else "no error", None, "EndpointError", bool(down)),
        ],
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[figure(table, "touched", "Episodes that touch the wall"), figure(table, "success", "Success")],
        notes=[
            "The replies were written by hand in the form of a chat model's and are replayed: nothing is claimed about any model.",
            "The test layouts and the strength are those of vls-obstacle.",
        ],
        extra={
            "instruction": instruction,
            "program": written.program.text,
            "errors": written.errors,
            "when_down": down,
        },
    )
