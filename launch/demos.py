"""Demonstrations: scripted experts act with noise, what they would have done without it is the label.

After DART (Laskey et al., arXiv 1703.09327): the executed action is the expert's plus Gaussian noise, the stored one is the
expert's own, so that the data hold the way back from small mistakes. Differences: the noise has a given size instead of a
fitted one, is smaller on rotation (`ROTATION_SHARE`) and for slow experts, and spares the gripper and the last steps.

    for episode in collect(Demos("PutBowlOnPlate", episodes=20)):
        episode.observations["observation.state"], episode.actions     # (T, 8), (T, 7) float32

Arrays only: `launch/lerobot_dataset.py` makes a LeRobotDataset of them, recipes in numpy or torch take them as they are.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from envs.errors import BadSetting, NoRenderer, PhysicsDiverged
from policies.errors import BadInput, MissingExtra, NonFinite, UnknownName, nearest

if TYPE_CHECKING:
    from envs.tabletop.env import TabletopEnv
    from envs.tabletop.tasks import Task

STYLES: Mapping[str, tuple[dict[str, str], str]] = {
    "none": ({}, "{}"),
    "slowly": ({"speed": "slowly"}, "{} slowly"),
    "quickly": ({"speed": "quickly"}, "{} quickly"),
    "low": ({"height": "low"}, "{}, staying low"),
    "high": ({"height": "high"}, "{}, staying high"),
    "gently": ({"firmness": "gently"}, "{} gently"),
    "firmly": ({"firmness": "firmly"}, "{} firmly"),
}
"""Adverb -> (fields of the expert's `Style`, the instruction with the adverb in words)."""

OBS_TYPES = ("pixels_agent_pos", "state")
N_CONTINUOUS = 6
"""Leading dimensions of an action that get noise: position and rotation; the gripper is open or closed."""
ROTATION_SHARE = 0.3
"""Noise on rotation relative to position. At 1 the hand turns by 0.1 rad a step and episodes take twice as long: experts
wait until it is aligned to 0.06 rad."""
MAX_TRIES = 30
"""Failures in a row after which the noise counts as too large."""

IMAGES, STATE, ENVIRONMENT_STATE = "observation.images.", "observation.state", "observation.environment_state"
"""LeRobot's names (`lerobot.utils.constants`)."""


@dataclass(frozen=True)
class Demos:
    """What to demonstrate.

    Args:
        where: a task ("PutBowlOnPlate", its id also) or a suite ("goal").
        episodes: successful ones to collect per task.
        obs_type: "pixels_agent_pos" or "state".
        noise: standard deviation of the executed noise in units of action (1 is the largest action).
        seed: of everything drawn; episode n of a task is the same in every collection with these settings.
        style: an adverb of `STYLES`, acted out and said.
        camera_size: height and width of the pictures [pixels].
        retreat: steps after success, executed without noise.
    """

    where: str
    episodes: int = 50
    obs_type: str = "pixels_agent_pos"
    noise: float = 0.2
    seed: int = 0
    style: str = "none"
    camera_size: int = 96
    retreat: int = 3

    def __post_init__(self) -> None:
        for name, least in (("episodes", 1), ("seed", 0), ("camera_size", 8), ("retreat", 0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < least:
                raise BadInput(f"demos: {name} must be an integer of at least {least}, got {value!r}.")
        if isinstance(self.noise, bool) or not 0.0 <= self.noise <= 1.0:
            raise BadInput(f"demos: noise must lie in 0..1 (1 is the largest action), got {self.noise!r}.")
        for name, allowed in (("style", STYLES), ("obs_type", OBS_TYPES)):
            if getattr(self, name) not in allowed:
                raise BadInput(
                    f"demos: {name} {getattr(self, name)!r} is unknown{nearest(getattr(self, name), allowed)}"
                )
        assert self.tasks  # an unknown name is refused here, not with the first episode

    @property
    def name(self) -> str:
        """The task or suite without namespace and version."""
        return self.where.removeprefix("SteerAgents/").removesuffix("-v0")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks in order.

        Raises:
            UnknownName: neither a task nor a suite.
        """
        from envs.tabletop.tasks import SUITES, TASKS

        if self.name in SUITES:
            return SUITES[self.name]
        if self.name not in TASKS:
            raise UnknownName(
                f"demos: {self.where!r} is neither a task nor a suite{nearest(self.name, [*SUITES, *TASKS])}"
            )
        return (TASKS[self.name],)


@dataclass(frozen=True, eq=False)
class Episode:
    """One successful demonstration of T steps.

    Args:
        observations: LeRobot's key -> (T, ...); pictures (T, H, W, 3) uint8, the rest float32.
        actions: (T, 7) float32, the labels: what the expert would do, clean.
        executed: (T, 7) float32, what was done: with noise, clipped to [-1, 1].
        instruction: what is said, the adverb included.
        task: its name.
        seed: of the reset it began with.
        tries: how many it took; those before failed and are dropped.
    """

    observations: Mapping[str, np.ndarray]
    actions: np.ndarray
    executed: np.ndarray
    instruction: str
    task: str
    seed: int
    tries: int

    def __len__(self) -> int:
        return len(self.actions)


def collect(demos: Demos) -> Iterator[Episode]:
    """Yield successful demonstrations, task by task.

    Raises:
        BadInput: a setting the environment refuses, or noise under which the expert only fails.
        MissingExtra: pictures on a machine without OpenGL.
    """
    from envs.tabletop.env import TabletopEnv

    for task in demos.tasks:
        with _explained():
            env = TabletopEnv(task=task.name, obs_type=demos.obs_type, camera_size=demos.camera_size)
        try:
            for number in range(demos.episodes):
                with _explained():
                    episode = _demonstration(env, task, demos, number)
                yield episode
        finally:
            env.close()


def _demonstration(env: TabletopEnv, task: Task, demos: Demos, number: int) -> Episode:
    """Try until the expert succeeds; every try draws from a stream of its own."""
    for attempt in range(MAX_TRIES):
        rng = np.random.default_rng([demos.seed, zlib.crc32(task.name.encode()), number, attempt])
        episode = _attempt(env, task, demos, rng, attempt + 1)
        if episode is not None:
            return episode
    raise BadInput(
        f"demos: the expert of {task.name} failed {MAX_TRIES} times in a row with noise {demos.noise:g} (style {demos.style}) "
        f"within {task.max_episode_steps} steps; use less noise."
    )


def _attempt(env: TabletopEnv, task: Task, demos: Demos, rng: np.random.Generator, tries: int) -> Episode | None:
    from envs.tabletop.experts import SPEEDS, Style, make_expert

    fields, words = STYLES[demos.style]
    style = Style(**fields)
    sigma = demos.noise * min(1.0, SPEEDS[style.speed] / SPEEDS["normal"]) * np.array([1.0] * 3 + [ROTATION_SHARE] * 3)
    seed = int(rng.integers(2**31))
    observation, _ = env.reset(seed=seed)
    expert = make_expert(env, style, seed=int(rng.integers(2**31)))
    steps: list[dict[str, np.ndarray]] = []
    actions: list[np.ndarray] = []
    executed: list[np.ndarray] = []
    done_at: int | None = None
    while len(actions) < (task.max_episode_steps if done_at is None else done_at + demos.retreat):
        action = expert.act()
        noisy = action.copy()
        if done_at is None:
            noisy[:N_CONTINUOUS] = np.clip(action[:N_CONTINUOUS] + sigma * rng.standard_normal(N_CONTINUOUS), -1, 1)
        steps.append(lerobot_observation(observation))
        actions.append(action)
        executed.append(noisy)
        observation, _, terminated, _, _ = env.step(noisy)
        if terminated and done_at is None:
            done_at = len(actions)
    if done_at is None:
        return None
    return Episode(
        observations={key: np.stack([step[key] for step in steps]) for key in steps[0]},
        actions=np.stack(actions),
        executed=np.stack(executed),
        instruction=words.format(env.task_description),
        task=task.name,
        seed=seed,
        tries=tries,
    )


def lerobot_observation(observation: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """An environment's observation under LeRobot's keys; arrays are not copied."""
    renamed = {f"{IMAGES}{name}": picture for name, picture in observation.get("pixels", {}).items()}
    for theirs, ours in ((STATE, "agent_pos"), (ENVIRONMENT_STATE, "environment_state")):
        if ours in observation:
            renamed[theirs] = observation[ours]
    return renamed


@contextmanager
def _explained() -> Iterator[None]:
    """Turn what environments raise into errors of this project's tree."""
    try:
        yield
    except NoRenderer as error:
        raise MissingExtra(f"demos: {error}") from error
    except BadSetting as error:
        raise BadInput(f"demos: {error}") from error
    except PhysicsDiverged as error:
        raise NonFinite(f"demos: {error}") from error
