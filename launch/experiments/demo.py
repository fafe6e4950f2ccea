"""All three channels in one report: activations of a language agent and of a VLA, the path of a flow policy, the noise of another.

Short forms of `east-lockin`, `vla-speed`, `vla-height-attention`, `vls-obstacle` and `dsrl-shift`, with settings that
those chose on other seeds. Each claim has its unsteered and zero-strength runs and its controls on the same starts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

import policies
from launch.experiments import dsrl, east, east_lockin, films, vla, vls, vls_cost
from launch.experiments.base import Film, Outcome, Say, settings_key
from launch.experiments.claims import UNSTEERED, ZERO, Claim
from launch.experiments.vla_sides import GATES
from policies.flow.files import NOISE_POLICIES
from steer_agents.direction import Direction
from steer_agents.finding.controls import permuted_like, random_like
from steer_agents.intervention import Intervention
from steer_agents.noise.check import RandomNoise
from steer_agents.noise.maps import Full
from steer_agents.noise.noise_policy import NoisePolicy
from steer_agents.noise.parts import ConstantNoise
from steer_agents.steerer import Part

Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Settings:
    """Settings of the demo; where, how strongly and when are those that the full experiments chose.

    Args:
        agent: a language model; pulls of its bandit are paired over `agent_episodes`.
        agent_runs: histories that EAST is found on; agent_layer, agent_alpha: where and how strongly it is added.
        hand: a policy that sees pictures and hears words.
        hand_episodes: of each of its tasks; scene_episodes: that directions are found on.
        slow_layer, slow_beta, high_beta: where and how strongly.
        wall_episodes, noise_episodes: of the flow policies.
        guidance: strength along the path.
        shift: of the task that the noise was learned for.
        film_task, film_limit: of the films.
    """

    agent: str = "llm:smollm2-135m"
    agent_runs: int = 8
    agent_episodes: int = 20
    agent_layer: int = 20
    agent_alpha: float = 0.2
    hand: str = "tiny-vla"
    tasks: tuple[str, ...] = vla.CARRYING
    hand_episodes: int = 2
    scene_episodes: int = 1
    slow_layer: int = 1
    slow_beta: float = 1.5
    high_beta: float = 2.0
    wall_episodes: int = 20
    guidance: float = 2.0
    noise_episodes: int = 50
    shift: float = 0.5
    film_task: str = "PutBowlOnPlate"
    film_limit: int | None = None


def settings(quick: bool) -> Settings:
    """About five minutes on two cores; the quick form is for machines that only want to see it run."""
    if not quick:
        return Settings()
    return replace(
        Settings(), agent_runs=2, agent_episodes=4, tasks=vla.CARRYING[:2], hand_episodes=1, wall_episodes=4, noise_episodes=4,
        film_limit=20,
    )  # fmt: skip


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Every act in turn."""
    say.plan([2.0, *[2.0] * 5, 2.0, *[0.8] * 8, 0.8, *[0.8] * 4, *[0.6] * 4])
    place = folder / f"rollouts-{settings_key(s)}"
    freed = _agent(s, folder, say)
    slower, higher, hand_film = _hand(s, place, say)
    around, wall_film = _wall(s, place, say)
    learned = _noise(s, place, say)
    claims = [freed, slower, higher, around, learned]
    bars = [bar for claim in claims for bar in claim.bars()]
    tables = [
        table.assign(condition=f"{claim.short}: {name}") for claim in claims for name, table in claim.tables.items()
    ]
    return Outcome(
        title="Steering pretrained policies: activations, the sampling path, the noise",
        question="Do pretrained policies do something else when they are steered, with no training of their weights, and do equally strong "
        "controls not do it?",
        verdict="\n".join(claim.sentence() for claim in claims),
        bars=bars,
        episodes=pd.concat(tables, ignore_index=True),
        conditions=pd.DataFrame([row for claim in claims for row in claim.rows()]),
        figures=[claim.figure() for claim in claims],
        films=[hand_film, wall_film],
        notes=[
            "Few episodes, wide intervals: `steer-agents experiment run` of east-lockin, vla-speed, vla-height-attention, vls-obstacle and "
            "dsrl-shift shows each of these in full, with more controls. Strengths come from there, none was chosen on these starts.",
            "The noise policy was learned in 20,000 env steps under this shift; its weights are shipped, "
            "`steer-agents experiment run dsrl-shift` makes them again. The other claims needed no training at all.",
            "The films show the first layout of the test, whatever happens on it.",
        ],
    )  # fmt: skip


def _agent(s: Settings, folder: Path, say: Say) -> Claim:
    """A language agent that was forced onto the worst arm leaves it."""
    asked = replace(
        east_lockin.settings(True),
        policy=s.agent,
        train_runs=s.agent_runs,
        episodes=s.agent_episodes,
        num_envs=s.agent_episodes,
    )
    say.stage(f"{s.agent}: finding the entropy direction on {s.agent_runs} histories x 5 rotations of the labels")
    bench = east.Bench(policies.load(s.agent), 5, asked)
    direction = bench.direction(bench.train())
    layer, alpha = min(bench.layers, key=lambda one: abs(one - s.agent_layer)), s.agent_alpha
    found = {
        UNSTEERED: ("base", None),
        ZERO: ("base", bench.steered(direction, layer, 0.0)),
        "EAST": ("steered", bench.steered(direction, layer, alpha)),
        "random direction": ("control", bench.steered(random_like(direction, seed=0), layer, alpha)),
        "permuted direction": ("control", bench.steered(permuted_like(direction, seed=0), layer, alpha)),
    }
    conditions = [east_lockin.Condition(name, role, steerer) for name, (role, steerer) in found.items()]
    runs = east_lockin.run_all(bench, conditions, asked, folder, say)
    tables = {name: one.episodes for name, one in runs.items()}
    roles = {name: role for name, (role, _) in found.items()}
    return Claim(
        "agent",
        "the language agent leaves the worst arm",
        "suff_fail",
        "share of episodes locked in",
        -1,
        tables,
        roles,
        True,
        False,
    )


def _hand(s: Settings, place: Path, say: Say) -> tuple[Claim, Claim, Film]:
    """A VLA slower and higher while it carries, on an instruction that says neither."""
    bench = vla.Bench(s.hand, s.tasks, place)
    say.stage(f"{s.hand}: finding 'slowly' and 'high over the table' on scenes of {len(s.tasks)} tasks")
    scenes = bench.scenes(s.scene_episodes)
    slowly, high = bench.direction(scenes, "slowly"), bench.direction(scenes, "high over the table", "attention_output")

    def slow(direction: Direction, share: float = 1.0) -> Intervention:
        return replace(vla.pushed(direction, s.slow_layer, share * s.slow_beta), gate=GATES["in transit"])

    def raised(direction: Direction, share: float = 1.0) -> Intervention:
        return replace(vla.pushed(direction, "all", share * s.high_beta), gate=GATES["carrying"])

    parts: dict[str, Intervention | None] = {
        UNSTEERED: None,
        ZERO: slow(slowly, 0.0),
        "steered along 'slowly'": slow(slowly),
        "random, as long as 'slowly'": slow(random_like(slowly, seed=0)),
        "permuted 'slowly'": slow(permuted_like(slowly, seed=0)),
        "steered along 'high'": raised(high),
        "random, as long as 'high'": raised(random_like(high, seed=0)),
        "permuted 'high'": raised(permuted_like(high, seed=0)),
    }
    tables: Tables = {}
    for name, part in parts.items():
        say.stage(f"{s.hand}: {s.hand_episodes} episodes of {len(s.tasks)} tasks: {name}")
        tables[name] = bench.episodes(vla.Condition(name, "other", part), vla.TEST, s.hand_episodes)
        say.note(_told(tables[name], "transit_speed", "height", "success"))

    def claim(short: str, name: str, measure: str, label: str, sign: int, word: str) -> Claim:
        own = {one: table for one, table in tables.items() if one in (UNSTEERED, ZERO) or f"'{word}'" in one}
        roles = {
            one: "base" if one in (UNSTEERED, ZERO) else "steered" if one.startswith("steered") else "control"
            for one in own
        }
        return Claim(short, name, measure, label, sign, own, roles, False)

    say.note("a film")
    shown = [films.episode(bench.policy, s.film_task, vla.TEST, [one] if one else [], s.film_limit)
             for one in (None, parts["steered along 'slowly'"], parts["steered along 'high'"])]  # fmt: skip
    film = Film(
        "hand-film",
        films.side_by_side(shown),
        "The same start three times: unsteered, along 'slowly', along 'high'. It hears only what to put where.",
        "A robot arm moves a bowl to a plate at three paces and heights.",
    )
    return (
        claim("slower", "the VLA slows down while it carries", "transit_speed", "speed in transit [m/s]", -1, "slowly"),
        claim("higher", "the VLA carries higher", "height", "height while it carries [m]", 1, "high"),
        film,
    )


def _wall(s: Settings, place: Path, say: Say) -> tuple[Claim, Film]:
    """A flow policy that never saw a wall, guided over one."""
    bench = vls.Bench(vls_cost.POLICY, vls_cost.TASK, place)
    found = [
        vls.Condition(UNSTEERED, "base"),
        vls.Condition(ZERO, "base", vls_cost.guidance(0.0)),
        vls.Condition("guided", "steered", vls_cost.guidance(s.guidance)),
        vls.Condition("random direction", "control", vls_cost.guidance(s.guidance, random=True)),
    ]
    tables = vls.run_all(bench, found, s.wall_episodes, say)
    claim = Claim("wall", "the flow policy passes a wall it never saw", "touched", "share of episodes that touch it", -1, tables,
                  {one.name: one.role for one in found}, True)  # fmt: skip
    policy = policies.load(vls_cost.POLICY)
    parts: list[list[Part]] = [[], [vls_cost.guidance(s.guidance)]]
    shown = [films.episode(policy, vls_cost.TASK, vls.TEST, one, s.film_limit) for one in parts]
    film = Film("wall-film", films.side_by_side(shown), "The same start twice: unsteered, and guided over the wall.",
                "A robot arm carries a block into a wall, and over it.")  # fmt: skip
    return claim, film


def _noise(s: Settings, place: Path, say: Say) -> Claim:
    """A mediocre flow policy that starts from learned noise."""
    world = dsrl.World("flow-medium", "PutBowlOnPlate", {"object_position": s.shift})
    policy = world.load()
    learned = NoisePolicy.load(NOISE_POLICIES / "flow-medium-shift.safetensors")
    parts: Mapping[str, tuple[str, Part | None]] = {
        UNSTEERED: ("base", None),
        "learned noise": ("steered", learned),
        "zero noise": ("control", ConstantNoise()),
        "random noise in the same box": ("control", RandomNoise(Full(), learned.bound)),
    }
    tables: Tables = {}
    for name, (_, part) in parts.items():
        say.stage(f"flow-medium, moved by {5 * s.shift:g} cm: {s.noise_episodes} episodes, {name}")
        tables[name] = world.episodes(policy, part, s.noise_episodes, dsrl.TEST, name, place)
        say.note(_told(tables[name], "success", "length"))
    roles = {name: role for name, (role, _) in parts.items()}
    tables = {name: table.assign(solved=(table["success"] > 0).astype(float)) for name, table in tables.items()}
    return Claim(
        "noise",
        "learned noise brings a mediocre policy back",
        "solved",
        "share of episodes that succeed",
        1,
        tables,
        roles,
        True,
    )


def _told(table: pd.DataFrame, *measures: str) -> str:
    return ", ".join(f"{name} {table[name].mean():.2f}" for name in measures)
