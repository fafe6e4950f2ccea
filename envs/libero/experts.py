"""A scripted controller for LIBERO's pick-and-place tasks, which reads the privileged state.

It keeps no memory: what to do follows from where things are now, so it also labels states that others brought about (execute a noisy
action, record the clean one) and starts anew when a grasp failed.

    expert = make_expert(env, Style("quickly"))     # env after reset
    action = expert.act()                           # (7,) float32

What it can do is in `GRASPS`: the things it can pick up. Doors, drawers, knobs and pushing are not among it; for those
`make_expert` raises.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import gymnasium as gym
import numpy as np

from envs.errors import BadSetting, nearest
from envs.libero.env import LiberoEnv
from envs.libero.observations import axis_angle

SPEEDS: Mapping[str, float] = {"slowly": 0.4, "normal": 0.65, "quickly": 1.0}
"""Adverb -> largest length of the position part of an action; 1 is 26 cm/s."""


@dataclass(frozen=True)
class Grasp:
    """How a kind of thing is picked up with a hand that points down.

    Args:
        offsets: of the tcp from the thing's origin, the best first [m], along the world's axes; the first with free space
        around is taken.
        release: height of the thing's origin above its target at which it may be let go [m].
    """

    offsets: tuple[tuple[float, float, float], ...]
    release: float = 0.02


_RIM = ((0.0, 0.05, 0.02), (0.0, -0.05, 0.02))
GRASPS: Mapping[str, Grasp] = {
    "akita_black_bowl": Grasp(_RIM),
    "cream_cheese": Grasp(((0.0, 0.0, 0.0),), 0.04),
    "wine_bottle": Grasp(((0.0, 0.0, 0.05),), 0.03),
    "alphabet_soup": Grasp(((0.0, 0.0, 0.0),), 0.10),
    "tomato_sauce": Grasp(((0.0, 0.0, 0.0),), 0.10),
    "butter": Grasp(((0.0, 0.0, 0.0),), 0.10),
    "chocolate_pudding": Grasp(((0.0, 0.0, 0.0),), 0.10),
}
"""Kind of thing -> how it is grasped."""

_GAIN = 16.0  # action per metre of error; 20 puts the controller's target on the goal
_TURN_GAIN = 1.5  # action per rad
_FUNNEL, _RISE = 2.0, 0.10  # the hand comes down in a cone of this slope, from this height above [m]
_NEAR = 0.012  # of the tcp to where it should be, to close or open the hand [m]
_KEPT = 0.035  # of the tcp to the grasp while the thing is in the hand [m]
_CLEAR = 0.06  # between a grasp and the origins of other things [m]
_HOME = np.diag([1.0, -1.0, -1.0])


@dataclass(frozen=True)
class Style:
    """How it is done.

    Args:
        speed: "slowly", "normal" or "quickly".
    """

    speed: str = "normal"

    def __post_init__(self) -> None:
        if self.speed not in SPEEDS:
            raise BadSetting(f"style speed={self.speed!r} is unknown{nearest(self.speed, SPEEDS)}")


class Expert:
    """The controller of one environment; `make_expert` makes it."""

    def __init__(self, env: LiberoEnv, style: Style) -> None:
        self.env, self.style = env, style

    def act(self) -> np.ndarray:
        """The action for the state the environment is in, (7,) float32."""
        env = self.env
        _, thing, place = env.goal
        if env.is_success:
            return self._aim(env.tcp + _up(0.05), closing=False)
        grasp = self._grasp(thing)
        here, there, tcp = env.position(thing), env.position(place), env.tcp
        if self._in_hand(thing, here + grasp):
            return self._carry(thing, here, there, tcp)
        goal = here + grasp
        away = float(np.linalg.norm((goal - tcp)[:2]))
        if away < _NEAR and abs(goal[2] - tcp[2]) < _NEAR:
            return self._aim(goal, closing=True)
        return self._aim(goal + _up(_cone(away)), closing=False)

    def _carry(self, thing: str, here: np.ndarray, there: np.ndarray, tcp: np.ndarray) -> np.ndarray:
        away = float(np.linalg.norm((there - here)[:2]))
        low = here[2] - there[2]
        if away < _NEAR and low < GRASPS[_kind(thing)].release:
            return self._aim(tcp, closing=False)
        wish = there - here
        if away >= _NEAR:
            top = max(there[2], self.env.table_height) + _RISE
            wish[2] = min(top, there[2] + _cone(away)) - here[2]
            wish[:2] *= np.clip(1 - 1.5 * wish[2] / _RISE, 0.1, 1.0)  # first up, then across
        else:
            wish[2] -= 0.02
        return self._aim(tcp + wish, closing=True)

    def _in_hand(self, thing: str, grasp: np.ndarray) -> bool:
        gap = float(np.abs(self.env.fingers).sum())
        near = float(np.linalg.norm(self.env.tcp - grasp)) < _KEPT
        return near and (self.env.holding(thing) or gap < 0.012)

    def _grasp(self, thing: str) -> np.ndarray:
        """The offset with the most room around, the first among those with enough; nearest to the hand once it is close."""
        env = self.env
        offsets = [np.array(offset) for offset in GRASPS[_kind(thing)].offsets]
        here, tcp = env.position(thing), env.tcp
        for offset in offsets:
            if np.linalg.norm(tcp - here - offset) < _KEPT:
                return offset
        others = [env.position(name) for name in env.sim_env.objects_dict if name not in (thing, env.goal[-1])]

        def room(offset: np.ndarray) -> float:
            return min((float(np.linalg.norm((here + offset - other)[:2])) for other in others), default=_CLEAR)

        return next((offset for offset in offsets if room(offset) >= _CLEAR), max(offsets, key=room))

    def _aim(self, goal: np.ndarray, closing: bool) -> np.ndarray:
        env = self.env
        move = _GAIN * (goal - env.tcp)
        move *= min(1.0, SPEEDS[self.style.speed] / max(1e-9, float(np.linalg.norm(move))))
        turn = np.clip(_TURN_GAIN * axis_angle(_HOME @ env.tcp_mat.T), -0.3, 0.3)
        return np.clip(np.concatenate([move, turn, [1.0 if closing else -1.0]]), -1, 1).astype(np.float32)


def _up(height: float) -> np.ndarray:
    return np.array([0.0, 0.0, height])


def _cone(away: float) -> float:
    return min(_RISE, _FUNNEL * max(0.0, away - _NEAR / 2))


def _kind(thing: str) -> str:
    return thing.rpartition("_")[0]


def make_expert(env: gym.Env, style: Style | None = None) -> Expert:
    """The controller of a LIBERO environment; wrappers are looked through.

    Raises:
        BadSetting: another environment, or a task that asks for more than picking up and putting down things of `GRASPS`.
    """
    inner = env.unwrapped
    if not isinstance(inner, LiberoEnv):
        raise BadSetting(f"make_expert: expected a LIBERO environment, got {type(inner).__name__}.")
    for predicate, thing, *_ in inner.task.goal:
        if predicate not in ("on", "in") or _kind(thing) not in GRASPS:
            raise BadSetting(
                f"make_expert: {inner.task.name} asks for {predicate!r} of {thing}; the controller can put down, "
                f"on or in something: {', '.join(GRASPS)}."
            )
    return Expert(inner, style or Style())
