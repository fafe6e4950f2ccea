"""The dense reward: how far a task has got, between 0 and 1, as ManiSkill's normalised dense rewards.

reward = (stages done + progress of the current stage) / stages, and 1 on success. Progress of a stage is a weighted sum of
1 - tanh(k * distance) terms: first reach the thing, then hold it, then bring it to its target, then let go.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

import numpy as np

from envs.tabletop.tasks import Stage
from envs.tabletop.world import World

_REACH, _BRING = 6.0, 6.0  # k [1/m] of the tanh


def _near(a: np.ndarray, b: np.ndarray, k: float) -> float:
    d = a - b
    return 1.0 - math.tanh(k * math.sqrt(float(d @ d)))


def _pick(world: World, stage: Stage) -> float:
    thing, target = world.object_point(stage), world.target_point(stage)
    reached, held = _near(world.tcp, thing, _REACH), world.holding(stage.object)
    brought = _near(thing, target, _BRING)
    at_target = brought > 0.85
    if not held and not at_target:
        return 0.3 * reached
    opened = sum(world.finger_travel) / 0.08 if at_target else 0.0
    return 0.4 + 0.45 * brought + 0.15 * opened


def _push(world: World, stage: Stage) -> float:
    thing, target = world.object_point(stage), world.target_point(stage)
    away = (thing - target)[:2]
    length = math.hypot(*away) or 1.0
    behind = thing + np.array([*(0.07 * away / length), -0.005])
    return 0.3 * _near(world.tcp, behind, _REACH) + 0.7 * _near(thing, target, _BRING)


def _slide(world: World, stage: Stage) -> float:
    opening = world.opening(stage.object)
    done = opening if stage.skill == "open" else 1.0 - opening
    return 0.35 * _near(world.tcp, world.object_point(stage), _REACH) + 0.65 * max(0.0, min(1.0, done))


def _press(world: World, stage: Stage) -> float:
    if stage.object in world.lit:  # what is missing is to leave it
        return 0.95
    pressed = world.opening(f"{stage.object}/cap")
    return 0.55 * _near(world.tcp, world.object_point(stage), _REACH) + 0.4 * pressed


PROGRESS: Mapping[str, Callable[[World, Stage], float]] = {
    "pick": _pick,
    "push": _push,
    "open": _slide,
    "close": _slide,
    "press": _press,
}
"""Skill -> function of (world, stage) giving the progress of an unfinished stage in [0, 1]."""
