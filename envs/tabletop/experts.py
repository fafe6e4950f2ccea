"""Scripted experts: for every task a policy that reads the privileged state and always knows what to do.

A plan is a generator that yields one action per control step; small plans compose into larger ones (`yield from`). Every
step aims anew from where things are now, and a plan that failed (a missed grasp, a lost object) is started again. So an
expert labels perturbed states as well: execute a noisy action, record the clean one.

    expert = make_expert(env, style=Style(speed="slowly"), seed=0)   # after env.reset
    action = expert.act()                                            # (7,) float32

Adverbs are acted out by `Style`; `side` picks the way around a tall obstacle.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Protocol

import gymnasium as gym
import numpy as np

from envs.errors import BadSetting, nearest
from envs.tabletop.arm import FINGER_RANGE
from envs.tabletop.control import POSITION_SCALE, ROTATION_SCALE, rotation, rotation_vector
from envs.tabletop.env import TabletopEnv
from envs.tabletop.observations import object_turn, target_turn, wrapped
from envs.tabletop.tasks import Stage

SPEEDS: Mapping[str, float] = {"slowly": 0.20, "normal": 0.45, "quickly": 1.00}
"""Adverb -> largest length of the position part of an action."""
HEIGHTS: Mapping[str, float] = {"low": 0.11, "normal": 0.16, "high": 0.25}
"""Adverb -> height of the tcp on the way [m], where nothing in the way asks for more."""
FIRMNESS: Mapping[str, tuple[float, float]] = {"gently": (0.35, 0.0), "normal": (0.6, 0.004), "firmly": (1.0, 0.016)}
"""Adverb -> (share of the speed on the last centimetres, how far beyond contact the hand presses [m])."""
SIDES = ("left", "right", "random")

Plan = Generator[np.ndarray, None, bool]
"""Yields actions; returns whether it reached what it was for."""

_HOME_MAT = np.diag([1.0, -1.0, -1.0])
_FINAL = 0.05  # the last centimetres [m], done at the speed that FIRMNESS says
_CLEAR = 0.045  # between what is carried and what it passes over [m]
_ASIDE = 0.125  # between the tcp and a tall obstacle's middle [m]


@dataclass(frozen=True)
class Style:
    """How an expert does it.

    Args:
        speed: "slowly", "normal" or "quickly".
        height: "low", "normal" or "high", of the way between things.
        firmness: "gently", "normal" or "firmly", of touching down and pressing.
    """

    speed: str = "normal"
    height: str = "normal"
    firmness: str = "normal"

    def __post_init__(self) -> None:
        for name, allowed in (("speed", SPEEDS), ("height", HEIGHTS), ("firmness", FIRMNESS)):
            if getattr(self, name) not in allowed:
                raise BadSetting(
                    f"style {name}={getattr(self, name)!r} is unknown{nearest(getattr(self, name), allowed)}"
                )


class Agent(Protocol):
    """What acts without observations: experts and the two simplest baselines."""

    def reset(self, seed: int | None = None) -> None:
        """Forget the last episode; call after `env.reset`."""

    def act(self) -> np.ndarray:
        """Return the next action, (7,) float32 in [-1, 1]."""


class ZeroAgent:
    """Stays where it is, gripper open."""

    def reset(self, seed: int | None = None) -> None:
        """Nothing to forget."""

    def act(self) -> np.ndarray:
        return np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32)


class RandomAgent:
    """Draws every action uniformly."""

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        self._rng = np.random.default_rng(self._seed if seed is None else seed)

    def act(self) -> np.ndarray:
        return self._rng.uniform(-1, 1, 7).astype(np.float32)


class Expert:
    """The scripted expert of one environment.

    Args:
        env: the environment it reads; wrappers are looked through.
        style: adverbs.
        side: way around tall obstacles, as the picture shows it: "left", "right", or "random" (half and half per episode).
        seed: of the choice of side.
    """

    def __init__(self, env: TabletopEnv, style: Style, side: str, seed: int) -> None:
        self.env, self.style, self.side = env, style, side
        self._seed = seed
        self.reset()

    def reset(self, seed: int | None = None) -> None:
        """Begin anew from the state the environment is in; call after `env.reset` or `env.set_state`."""
        if seed is not None:
            self._seed = seed
            self._rng = np.random.default_rng(seed)
        elif not hasattr(self, "_rng"):
            self._rng = np.random.default_rng(self._seed)
        drawn = SIDES[int(self._rng.integers(2))]
        self.chosen_side = drawn if self.side == "random" else self.side
        """The side of this episode."""
        self._plan = self._run()

    def act(self) -> np.ndarray:
        """Return the action for the state the environment is in, (7,) float32."""
        return next(self._plan)

    # ----------------------------------------------------------------------------------------------------- the plans

    def _run(self) -> Generator[np.ndarray, None, None]:
        while True:
            if self.env.is_success:
                yield from self._rise()
                yield self._aim(self.env.controller.target, 0.0, closing=False)
            else:
                stage = self.env.stage
                plan = _SKILLS[stage.skill](self, stage)
                for action in plan:
                    yield action
                    if self.env.is_success or self.env.stage is not stage:
                        break  # the task went on, or fell back: the rest of this plan is of no use

    def pick_and_place(self, stage: Stage) -> Plan:
        """Grasp unless it is held already, carry, let go."""
        world = self.env.world
        rider = self._rider(stage.object)
        if rider is not None and not world.holding(stage.object):
            return (yield from self._set_aside(rider))
        if not world.holding(stage.object):
            yield from self._grasp(stage)
            if not world.holding(stage.object):
                yield from self._rise()
                return False
        return (yield from self._place(stage))

    def push(self, stage: Stage) -> Plan:
        """Go behind the box with open fingers as a broad front, push it along the line to its target, back off."""
        world = self.env.world
        thing, target = world.object_point(stage), world.target_point(stage)
        line = (target - thing)[:2]
        line /= np.linalg.norm(line)
        ahead = np.array([*line, 0.0])
        yaw = wrapped(math.atan2(line[1], line[0]), math.pi)
        reach = world.kind(stage.object).half_size[0] + 0.010
        height = 0.026
        start = thing - ahead * (reach + 0.035)
        start[2] = height
        yield from self._travel(start, yaw, closing=False)
        yield from self._go(lambda: start, yaw, closing=False, final=True)
        for _ in range(200):
            thing, target, tcp = world.object_point(stage), world.target_point(stage), world.tcp
            left = float((target - thing)[:2] @ line)
            off = (thing - tcp)[:2] - line * float((thing - tcp)[:2] @ line)
            if left < 0.008:
                break
            if np.linalg.norm(off) > 0.03 or world.tilt(stage.object) > 0.3:
                break  # it slipped away: come again
            lead = min(left, 0.045) + 0.010
            goal = np.array([*(tcp[:2] + lead * line + off), height])
            yield self._aim(goal, yaw, closing=False, cap=self._cap(final=True))
        back = world.tcp - ahead * 0.045
        back[2] = height
        yield from self._go(lambda: back, yaw, closing=False)
        yield from self._rise()
        return True

    def open_drawer(self, stage: Stage) -> Plan:
        """Grasp the handle from above, pull, let go."""
        world = self.env.world
        handle = lambda: world.object_point(stage)  # noqa: E731
        yield from self._travel(handle(), 0.0, closing=False)
        yield from self._go(handle, 0.0, closing=False, final=True, tolerance=0.008)
        for step in range(8):
            if step >= 3 and world.holding(stage.object):
                break
            yield self._aim(self.env.controller.target, 0.0, closing=True)
        pulled = _moved(world.target_point(stage), y=0.012)
        for _ in range(120):
            if world.opening(stage.object) > 0.88 or abs(world.tcp[1] - handle()[1]) > 0.03:
                break
            yield self._aim(pulled, 0.0, closing=True)
        yield from self._wait(4, 0.0, closing=False)
        yield from self._rise()
        return True

    def close_drawer(self, stage: Stage) -> Plan:
        """Push the handle in with closed fingers, back off."""
        world = self.env.world
        before = _moved(world.object_point(stage), y=0.050)
        yield from self._travel(before, 0.0, closing=True)
        yield from self._go(lambda: before, 0.0, closing=True, final=True)
        shut = _moved(world.target_point(stage), y=0.010)
        for _ in range(120):
            if world.opening(stage.object) < 0.03:
                break
            yield self._aim(shut, 0.0, closing=True, cap=self._cap(final=True))
        back = _moved(world.tcp, y=0.035)
        yield from self._go(lambda: back, 0.0, closing=True)
        yield from self._rise()
        return True

    def press(self, stage: Stage) -> Plan:
        """Push the button down with closed fingers and leave it."""
        world, beyond = self.env.world, FIRMNESS[self.style.firmness][1]
        top = world.object_point(stage).copy()
        yield from self._travel(top, 0.0, closing=True)
        down = _moved(top, z=-0.006 - beyond)
        for _ in range(80):
            if stage.object in world.lit:
                break
            yield self._aim(down, 0.0, closing=True, cap=self._cap(final=world.tcp[2] < top[2] + _FINAL))
        yield from self._rise()
        return True

    def _grasp(self, stage: Stage) -> Plan:
        world = self.env.world
        yield from self._travel(world.object_point(stage), None, closing=False, stage=stage)
        reached = yield from self._go(lambda: world.object_point(stage), None, closing=False, final=True, stage=stage)
        if not reached:
            return False
        yaw = world.gripper_yaw
        for step in range(10):
            if step >= 3 and world.holding(stage.object):
                break
            yield self._aim(self.env.controller.target, yaw, closing=True)
        return world.holding(stage.object)

    def _place(self, stage: Stage) -> Plan:
        env, world = self.env, self.env.world
        beyond = FIRMNESS[self.style.firmness][1]

        def goal() -> np.ndarray:  # where the tcp must be for the object to be at its target
            return world.target_point(stage) - world.object_point(stage) + world.tcp

        yaw = wrapped(world.gripper_yaw + target_turn(world, env.spec_of_task, stage), math.pi)
        return (yield from self._put(goal, yaw, stage, beyond))

    def _put(self, goal: Callable[[], np.ndarray], yaw: float, stage: Stage, beyond: float) -> Plan:
        """Carry what is held to a goal of the tcp, lower it and let go."""
        carried = (yield from self._carry(goal, yaw, stage)) and (yield from self._lower(goal, yaw, stage, beyond))
        if not carried:
            return False
        for step in range(8):
            if step >= 3 and self.env.world.released(stage.object):
                break
            yield self._aim(_moved(self.env.controller.target, z=beyond if step == 0 else 0.0), yaw, closing=False)
        yield from self._rise(0.06)
        return True

    def _set_aside(self, name: str) -> Plan:
        """Put something that stands on the wanted object on the table."""
        world = self.env.world
        stage = replace(self.env.stage, object=name, target="table")
        if not (yield from self._grasp(stage)):
            return False
        others = np.array([world.position(other)[:2] for other in world.scene.entities if other != name])
        spots = [np.array([x, y]) for x in (0.40, 0.48, 0.56) for y in (-0.22, -0.14, -0.07, 0.0, 0.07, 0.14, 0.22)]
        spot = max(spots, key=lambda spot: float(np.linalg.norm(others - spot, axis=1).min()))
        above_foot = float(world.tcp[2] - world.foot(name)[2])
        return (yield from self._put(_fixed(np.array([*spot, above_foot])), world.gripper_yaw, stage, 0.0))

    def _rider(self, name: str) -> str | None:
        """Name of the graspable thing that stands on another, if any."""
        world = self.env.world
        for other in world.scene.free_qpos:
            if other != name and world.kind(other).grasp and world.kind(name).tumbles and world.touching(other, name):
                away = world.middle(other) - world.middle(name)
                if away[2] > 0.03 and math.hypot(away[0], away[1]) < 0.03:
                    return other
        return None

    def _carry(self, goal: Callable[[], np.ndarray], yaw: float, stage: Stage) -> Plan:
        world = self.env.world
        depth = float(world.tcp[2] - world.foot(stage.object)[2])
        height = max(self._transit_height(depth), float(goal()[2]) + _CLEAR)
        start_yaw = world.gripper_yaw
        up = np.array([*world.tcp[:2], height])
        if not (yield from self._go(lambda: up, start_yaw, closing=True, tolerance=0.02, keep=stage)):
            return False
        for point in self._detour(world.tcp, goal()):
            point[2] = height
            if not (yield from self._go(_fixed(point), yaw, closing=True, tolerance=0.02, keep=stage)):
                return False
        over = lambda: np.array([*goal()[:2], height])  # noqa: E731
        return (yield from self._go(over, yaw, closing=True, tolerance=0.008, keep=stage))

    def _lower(self, goal: Callable[[], np.ndarray], yaw: float, stage: Stage, beyond: float) -> Plan:
        world = self.env.world
        into_drawer = stage.target.endswith("/drawer")
        lift = 0.020 if into_drawer else 0.0  # the hand stays above the cabinet's top; the last bit is dropped
        for _ in range(80):
            if not world.holding(stage.object):
                return False
            point = goal()
            left = float(world.tcp[2] - point[2]) - lift
            if left < 0.004 or (world.touching(stage.object, stage.target) and left < 0.012):
                break
            yield self._aim(_moved(point, z=lift - beyond), yaw, closing=True, cap=self._cap(final=left < _FINAL))
        for _ in range(2 if beyond > 0.01 else 0):
            yield self._aim(_moved(self.env.controller.target, z=-beyond / 2), yaw, closing=True)
        return True

    # ------------------------------------------------------------------------------------------------ smaller plans

    def _travel(self, point: np.ndarray, yaw: float | None, closing: bool, stage: Stage | None = None) -> Plan:
        """Rise, go over a point at the height of the style, around tall obstacles."""
        world = self.env.world
        apart = float(np.linalg.norm((point - world.tcp)[:2]))
        height = max(self._transit_height(0.012), float(point[2]) + 0.05)
        if apart > 0.03:
            up = np.array([*world.tcp[:2], height])
            if world.tcp[2] < height - 0.02:
                # What was let go of just now stays where it is: the gripper closes only on the way.
                yield from self._go(lambda: up, world.gripper_yaw, self.env.controller.closing, tolerance=0.02)
            for via in self._detour(world.tcp, point):
                via[2] = height
                yield from self._go(_fixed(via), yaw, closing, tolerance=0.02, stage=stage)
        over = np.array([*point[:2], height])
        return (yield from self._go(lambda: over, yaw, closing, tolerance=0.012, stage=stage))

    def _go(
        self,
        goal: Callable[[], np.ndarray],
        yaw: float | None,
        closing: bool,
        tolerance: float = 0.006,
        final: bool = False,
        stage: Stage | None = None,
        keep: Stage | None = None,
    ) -> Plan:
        """Go straight to a point (asked anew every step) until the tcp is within `tolerance` of it and turned right.

        Args:
            yaw: of the gripper; None turns it across the object of `stage`.
            final: use the speed of the last centimetres when near.
            keep: stop when the object of this stage is no longer held.
        """
        world, patience = self.env.world, tolerance
        for _ in range(150):
            if keep is not None and not world.holding(keep.object):
                return False
            point = goal()
            aim_yaw = self._across(stage) if yaw is None and stage is not None else (yaw or 0.0)
            away = float(np.linalg.norm(point - world.tcp))
            turned = abs(wrapped(aim_yaw - world.gripper_yaw, 2 * math.pi))
            if away < patience and turned < 0.06 * patience / tolerance:
                return True
            if away < _FINAL:  # under noise the hand never comes to rest: ask for less and less
                patience = min(patience + tolerance / 10, 2.5 * tolerance, max(tolerance, 0.02))
            yield self._aim(point, aim_yaw, closing, cap=self._cap(final=final and away < _FINAL))
        return False

    def _wait(self, steps: int, yaw: float, closing: bool) -> Plan:
        for _ in range(steps):
            yield self._aim(self.env.controller.target, yaw, closing)
        return True

    def _rise(self, by: float = 0.05) -> Plan:
        world = self.env.world
        height = min(float(world.tcp[2]) + by, 0.40)
        point, yaw = np.array([*world.tcp[:2], height]), world.gripper_yaw
        for _ in range(40):
            if world.tcp[2] > height - 0.015:
                return True
            yield self._aim(
                point, yaw, closing=False if sum(world.finger_travel) > FINGER_RANGE else self.env.controller.closing
            )
        return False

    # -------------------------------------------------------------------------------------------------- small questions

    def _aim(self, point: np.ndarray, yaw: float, closing: bool, cap: float | None = None) -> np.ndarray:
        """The action that moves the controller's target towards a pose, no faster than the style allows."""
        controller = self.env.controller
        cap = SPEEDS[self.style.speed] if cap is None else cap
        move = (point - controller.target) / POSITION_SCALE
        length = float(np.linalg.norm(move))
        if length > cap:
            move *= cap / length
        wanted = rotation(np.array([0.0, 0.0, yaw])) @ _HOME_MAT
        turn = rotation_vector(wanted @ controller.target_mat.T) / ROTATION_SCALE
        angle, turn_cap = float(np.linalg.norm(turn)), max(0.25, 0.8 * SPEEDS[self.style.speed])
        if angle > turn_cap:
            turn *= turn_cap / angle
        action = np.array([*move, *turn, 1.0 if closing else -1.0], dtype=np.float32)
        return np.clip(action, -1.0, 1.0)

    def _cap(self, final: bool) -> float:
        share = FIRMNESS[self.style.firmness][0] if final else 1.0
        return SPEEDS[self.style.speed] * share

    def _across(self, stage: Stage) -> float:
        """Yaw of the gripper that grasps across the object, within a quarter turn of home."""
        return wrapped(self.env.world.gripper_yaw + object_turn(self.env.world, stage), math.pi)

    def _transit_height(self, depth: float) -> float:
        """Height of the tcp on the way [m]: the style's, or what obstacles ask of something `depth` below the tcp."""
        world = self.env.world
        tops = [world.kind(name).height for name in world.obstacles if not world.kind(name).tall]
        return max([HEIGHTS[self.style.height], *(top + depth + _CLEAR for top in tops)])

    def _detour(self, start: np.ndarray, end: np.ndarray) -> list[np.ndarray]:
        """Way points around the tall obstacle between two points, on the chosen side; none if the way is free."""
        world = self.env.world
        for name in world.obstacles:
            if not world.kind(name).tall:
                continue
            middle = world.middle(name)
            way = (end - start)[:2]
            length = float(np.linalg.norm(way))
            if length < 0.03:
                continue
            ahead = way / length
            share = float((middle - start)[:2] @ ahead)
            side = np.array([-ahead[1], ahead[0]])
            if side[1] > 0:  # left is -y in the picture
                side = -side
            gap = abs(float((middle - start)[:2] @ side))
            if -0.02 < share < length + 0.02 and gap < _ASIDE - 0.02:
                out = side * (_ASIDE if self.chosen_side == "left" else -_ASIDE)
                points = [middle[:2] + out + ahead * along for along in (-0.07, 0.07)]
                return [np.array([*point, 0.0]) for point in points]
        return []


def _moved(point: np.ndarray, y: float = 0.0, z: float = 0.0) -> np.ndarray:
    """A point moved along y and z [m]."""
    return point + np.array([0.0, y, z])


def _fixed(point: np.ndarray) -> Callable[[], np.ndarray]:
    """A goal that stays where it is."""
    return lambda: point


_SKILLS: Mapping[str, Callable[[Expert, Stage], Plan]] = {
    "pick": Expert.pick_and_place,
    "push": Expert.push,
    "open": Expert.open_drawer,
    "close": Expert.close_drawer,
    "press": Expert.press,
}


def make_expert(
    env: gym.Env, style: Style | Mapping[str, str] | None = None, side: str = "random", seed: int = 0
) -> Expert:
    """Make the expert of a tabletop environment.

    Args:
        env: after its reset; wrappers are looked through.
        style: a `Style`, or its fields as a dict.
        side: "left", "right" or "random".
        seed: of the choice of side.
    Raises:
        BadSetting: not a tabletop environment, an unknown style or side.
    """
    inner = env.unwrapped
    if not isinstance(inner, TabletopEnv):
        raise BadSetting(f"experts act in tabletop environments, got {type(inner).__name__}.")
    if side not in SIDES:
        raise BadSetting(f"side={side!r} is unknown{nearest(side, SIDES)}")
    if isinstance(style, Mapping):
        names = [field.name for field in fields(Style)]
        for name in style:
            if name not in names:
                raise BadSetting(f"style {name!r} is unknown{nearest(name, names)}")
        style = Style(**style)
    return Expert(inner, style or Style(), side, seed)
