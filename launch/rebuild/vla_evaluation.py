"""Pixel policies on the fixed initial states: success in range and shifted, and whether they do what adverbs say."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from envs.tabletop.env import TabletopEnv
from envs.tabletop.scene import CAMERAS
from envs.tabletop.tasks import TASKS
from launch.experiments.base import Say
from launch.rebuild.vla_data import ADVERBS
from policies.action_tokens import ActionTokenPolicy
from policies.base import INSTRUCTION, TASK_DESCRIPTION, Policy


@dataclass(frozen=True)
class EvaluationSettings:
    """What is measured.

    Args:
        init_states: fixed initial states of each task.
        seeds: the first takes the likeliest action, the others draw actions at temperature 1.
        adverb_init_states: of each task with each adverb.
        shift: a second condition; shifted_seeds: with which of the seeds.
    """

    init_states: int = 50
    seeds: tuple[int, ...] = (0, 1)
    adverb_init_states: int = 10
    shift: tuple[tuple[str, float], ...] = (("object_position", 1.0),)
    shifted_seeds: tuple[int, ...] = (0, 1)


@dataclass
class Note:
    """What is noted in one episode, step by step: the tcp's speed [m/s], height and way sideways [m], whether it carries, clearance [m],
    jerk [m/s^3], the entropy of the distribution that tokens are drawn from [bits], and the whole way of the tcp [m]."""

    speed: list[float] = field(default_factory=list)
    height: list[float] = field(default_factory=list)
    held: list[bool] = field(default_factory=list)
    way: list[float] = field(default_factory=list)
    clearance: list[float] = field(default_factory=list)
    jerk: list[float] = field(default_factory=list)
    draw_entropy: list[float] = field(default_factory=list)
    path_length: float = 0.0
    success: bool = False
    touched: bool = False

    def row(self) -> dict[str, Any]:
        """The episode's numbers, see `evaluate`."""
        speed, height = np.array(self.speed), np.array(self.height)
        held, way = np.array(self.held), np.array(self.way) * self.held
        total = float(way.sum())
        carried = total > _LEAST_WAY
        gone = np.cumsum(way) / total if carried else way
        transit = held & (gone >= 0.1) & (gone <= 0.9)
        before = ~np.logical_or.accumulate(held)
        return {
            "success": self.success,
            "steps": len(speed),
            "speed": float(speed.mean()),
            "height": float(height @ way / total) if carried else None,
            "transit_speed": float(speed[transit].mean()) if carried and transit.any() else None,
            "approach_speed": float(speed[before].mean()) if before.any() else None,
            "jerk": float(np.mean(self.jerk)),
            "path_length": self.path_length,
            "least_clearance": min(self.clearance),
            "touched": self.touched,
            "draw_entropy_bits": float(np.mean(self.draw_entropy)),
        }


PICTURE_SIZE = 256
"""Edge of the pictures for policies that take any [px]: LIBERO's."""
N_ACTION = 7
_LEAST_WAY = 0.05
"""Way with an object in hand [m] from which it counts as carried."""


class Pictures(Mapping[str, np.ndarray]):
    """Pictures of a batch of environments that are drawn when they are looked at: once per chunk, not once per step."""

    def __init__(self, envs: list[TabletopEnv], size: int) -> None:
        self._envs, self._size = envs, size

    def __getitem__(self, key: str) -> np.ndarray:
        return np.stack([env.picture(CAMERAS[key], self._size, self._size) for env in self._envs])

    def __iter__(self) -> Iterator[str]:
        return iter(("image", "image2"))

    def __len__(self) -> int:
        return 2


def evaluate(
    policy: Policy,
    name: str,
    layouts: list[dict[str, Any]],
    seed: int,
    shift: Mapping[str, float] | None = None,
    batch: int = 25,
    max_steps: int | None = None,
    watch: Callable[[dict[str, Any]], None] | None = None,
    say: Callable[[str], str] = str,
) -> list[dict[str, Any]]:
    """Run one episode per layout.

    Args:
        policy: that sees pictures and hears words; what it wants beyond [-1, 1] is cut off, as LIBERO's controller does.
        layouts: options of `reset`, e.g. {"init_state_id": 3}, or {"seed": 7} for a drawn one.
        seed: of the policy's own randomness and of what the shift draws.
        shift: of the environment.
        watch: called with every observation on which the policy decides, one row at a time: pixels, agent_pos, previous_action and
            instruction (the task's own), as `encode` takes it, and besides the name of its episode and the environment's info.
        say: the task's instruction -> what the policy hears.
    Returns:
        per episode: success, steps, speed (mean of the tcp's [m/s]), height (mean of the tcp's while it carries, weighted by the way it
        makes sideways [m]), transit_speed (mean of the tcp's from a tenth to nine tenths of that way [m/s]), approach_speed (mean before it
        first holds something [m/s]), None where nothing was carried or nothing was approached; jerk (mean
        [m/s^3]), path_length [m], least_clearance (to the nearest
        obstacle [m], infinite without one), touched (an obstacle), draw_entropy_bits (mean entropy of an action token as it
        is drawn, 0 where the likeliest is taken; NaN of policies that do not tell it).
    """
    task = TASKS[name]
    limit = max_steps or task.max_episode_steps
    envs = [TabletopEnv(name, obs_type="state", shift=dict(shift or {})) for _ in range(min(batch, len(layouts)))]
    size, every, keep = (
        policy.picture_size or PICTURE_SIZE,
        getattr(policy, "n_action_steps", 1),
        None if policy.attendants else getattr(policy, "keep", None),
    )
    done: list[dict[str, Any]] = []
    for start in range(0, len(layouts), len(envs)):
        options = layouts[start : start + len(envs)]
        now = envs[: len(options)]
        first = []
        for env, option in zip(now, options, strict=True):
            option = dict(option)
            first.append(env.reset(seed=int(option.pop("seed", seed)), options=option))
        position = [observation["agent_pos"] for observation, _ in first]
        infos = [info for _, info in first]
        told = [{**info, TASK_DESCRIPTION: say(info[TASK_DESCRIPTION])} for info in infos]
        policy.reset([1000 * seed + start + i for i in range(len(now))], told)
        notes = [Note() for _ in now]
        rows = list(
            range(len(now))
        )  # episodes in the policy's batch; those that have ended leave it where the policy lets them
        active = np.ones(len(rows), dtype=bool)
        latest = np.zeros((len(now), N_ACTION), np.float32)
        for step in range(limit):
            pixels = Pictures([now[i] for i in rows], size)
            if watch is not None and step % every == 0:
                seen = dict(pixels)
                for row in np.flatnonzero(active):
                    i = rows[row]
                    watch(
                        {"pixels": {key: value[row] for key, value in seen.items()}, "agent_pos": position[i],
                         "previous_action": latest[i].copy(), INSTRUCTION: first[i][1][TASK_DESCRIPTION],
                         "episode": f"{name} {start + i}", "info": infos[i]}
                    )  # fmt: skip
            seen_now = {"pixels": pixels, "agent_pos": np.stack([position[i] for i in rows])}
            decision = policy.act(seen_now, active, infos=[infos[i] for i in rows])
            latest[rows] = decision.action
            unsure = decision.measures.get("draw_entropy_bits", np.full(len(rows), np.nan))
            for row in np.flatnonzero(active):
                i, one = rows[row], decision.action[row]
                notes[i].draw_entropy.append(float(unsure[row]))
                observation, _, success, _, info = now[i].step(np.clip(one, -1.0, 1.0))
                notes[i].held.append(bool(info["held"]))
                notes[i].height.append(info["height"])
                notes[i].way.append(float(np.linalg.norm(observation["agent_pos"][:2] - position[i][:2])))
                notes[i].speed.append(info["speed"])
                notes[i].clearance.append(info["clearance"])
                notes[i].jerk.append(info["jerk"])
                notes[i].path_length = float(info["path_length"])
                infos[i] = info
                position[i] = observation["agent_pos"]
                notes[i].success, notes[i].touched = bool(success), bool(info["touched"])
                active[row] = not success
            if not active.any():
                break
            if keep is not None and not active.all():
                going = np.flatnonzero(active)
                keep(going)
                rows, active = [rows[row] for row in going], np.ones(len(going), dtype=bool)
        done += [{"task": name, **option, **note.row()} for option, note in zip(options, notes, strict=True)]
    for env in envs:
        env.close()
    return done


def assess(
    settings: EvaluationSettings,
    tasks: tuple[str, ...],
    policy: Callable[[str], ActionTokenPolicy],
    path: Path,
    say: Say,
) -> dict[str, list[dict[str, Any]]]:
    """Run all episodes; an interrupted evaluation goes on from its file.

    Args:
        policy: adverb -> the policy with that adverb.
        path: of the JSON table, "task|adverb|condition|seed" -> rows of `evaluate`.
    """
    table: dict[str, list[dict[str, Any]]] = json.loads(path.read_text()) if path.exists() else {}
    jobs = [(name, "", "in range", seed, settings.init_states) for seed in settings.seeds for name in tasks]
    first = settings.seeds[0]
    jobs += [
        (name, said, "in range", first, settings.adverb_init_states) for said in list(ADVERBS)[1:] for name in tasks
    ]
    jobs += [(name, "", "shifted", seed, settings.init_states) for seed in settings.shifted_seeds for name in tasks]
    for number, (name, adverb, condition, seed, count) in enumerate(jobs, start=1):
        key = "|".join(map(str, (name, adverb, condition, seed)))
        if key in table:
            continue
        acting = policy(adverb)
        acting.set_decision(temperature=0.0 if seed == first else 1.0)
        states = [{"init_state_id": index} for index in range(count)]
        table[key] = evaluate(acting, name, states, seed, dict(settings.shift) if condition == "shifted" else {})
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        partial.write_text(json.dumps(table))
        partial.replace(path)
        good = sum(row["success"] for row in table[key])
        say.note(
            f"{number} of {len(jobs)}: {name} {adverb or '(no adverb)'}, {condition}, seed {seed}: {good} of {count}"
        )
    return table
