"""B environments as one batch whose rows fail, end and wait one by one.

`rollout` needs three things that a plain gymnasium vector environment does not give together: an environment that
raises must cost its own episode only, a row that has ended must keep its place until the others end, and the infos must
come back per row, unchanged. `GuardedEnvs` gives them for environments that we build; `UserVectorEnv` gives what can be
had of them around a vector environment that somebody else built, whatever its autoreset mode.

Observations leave as a mapping of names to arrays with a leading axis B, or tuples of B strings, as gymnasium batches a
Dict space; an environment whose space is not a Dict has its observation under the name "observation".
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.registration import EnvSpec
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import concatenate, create_empty_array

from policies.base import Observation
from policies.errors import BadInput
from steer_agents.runs import jsonable

DEFAULT_NUM_ENVS = 8

EnvLike = str | EnvSpec | gym.Env | VectorEnv | Callable[[], gym.Env]
"""An id, a spec, one environment (copied from its spec), a vector environment, or a function that makes one."""


@dataclass(frozen=True)
class Step:
    """What one step gave, per row; rows that were not active hold no meaning.

    Args:
        observation: name -> (B, ...) array or tuple of B strings.
        reward: (B,) float64.
        terminated, truncated: (B,) bool.
        infos: B dicts.
        errors: B texts; None where the environment did not raise.
    """

    observation: Observation
    reward: np.ndarray
    terminated: np.ndarray
    truncated: np.ndarray
    infos: list[dict[str, Any]]
    errors: list[str | None]


class EnvBatch(ABC):
    """B episodes side by side.

    Attributes:
        num_envs: most rows at once.
        fixed_rows: True if every batch has exactly `num_envs` rows.
        max_episode_steps: the environment's own time limit, None if it has none or does not tell.
    """

    num_envs: int
    fixed_rows: bool = False
    max_episode_steps: int | None = None

    @abstractmethod
    def reset(
        self, seeds: Sequence[int], options: Sequence[Mapping[str, Any] | None]
    ) -> tuple[Observation | None, list[dict[str, Any]], list[str | None]]:
        """Start one episode per seed, with its options; returns observation, infos and errors.

        The rows whose reset raised carry a copy of another row's observation and info, so that the batch stays well
        formed; where every row raised, the observation is None.
        """

    @abstractmethod
    def step(self, action: np.ndarray, active: np.ndarray) -> Step:
        """Do one step of the active rows; `action` is (B,) or (B, A), its other rows are ignored."""

    @abstractmethod
    def describe(self) -> dict[str, Any]:
        """A JSON-able description of the environment, the same in every process."""

    @abstractmethod
    def close(self) -> None:
        """Close the environments that this batch made."""


def make_batch(env: EnvLike, num_envs: int | None = None) -> EnvBatch:
    """Wrap anything that can be rolled out.

    Args:
        env: see `EnvLike`.
        num_envs: rows at once; by default 8, or what `env` dictates (a vector environment has its number, a single
            environment without a spec cannot be copied and has 1).
    Raises:
        BadInput: not an environment, or `num_envs` does not fit it.
    """
    if num_envs is not None and num_envs < 1:
        raise BadInput(f"num_envs: got {num_envs}, allowed are integers from 1.")
    if isinstance(env, VectorEnv):
        if num_envs not in (None, env.num_envs):
            raise BadInput(f"num_envs: got {num_envs} for a vector environment of {env.num_envs}; leave num_envs out.")
        return UserVectorEnv(env)
    if isinstance(env, str):
        env = gym.spec(env)
    if isinstance(env, gym.Env):
        single = env
        if single.spec is None:
            if num_envs not in (None, 1):
                raise BadInput(
                    f"num_envs: got {num_envs}, but {single} has no spec to copy it from; "
                    "pass a function that makes it, or num_envs=1."
                )
            return GuardedEnvs(lambda: single, 1, {"env": str(single)}, owned=False)
        missing = [wrapper.name for wrapper in single.spec.additional_wrappers if wrapper.kwargs is None]
        if missing:
            raise BadInput(
                f"{single} cannot be copied from its spec: its wrappers {missing} do not record their arguments "
                "(gymnasium.utils.RecordConstructorArgs). Pass a function that makes it instead."
            )
        env = single.spec
    if isinstance(env, EnvSpec):
        spec = env
        return GuardedEnvs(lambda: gym.make(spec), num_envs or DEFAULT_NUM_ENVS, {})
    if callable(env):
        return GuardedEnvs(env, num_envs or DEFAULT_NUM_ENVS, {"factory": jsonable(env)})
    raise BadInput(
        f"env: got {type(env).__name__}; allowed are an id, an EnvSpec, a gymnasium Env, a function that makes one, "
        "or a VectorEnv."
    )


def describe_spec(spec: EnvSpec | None) -> dict[str, Any]:
    """Id, arguments, time limit and wrappers of a spec; {} for None."""
    if spec is None:
        return {}
    wrappers = [{"name": wrapper.name, "kwargs": wrapper.kwargs} for wrapper in spec.additional_wrappers]
    return jsonable(
        {"id": spec.id, "kwargs": spec.kwargs, "max_episode_steps": spec.max_episode_steps, "wrappers": wrappers}
    )


def named(observation: Any) -> Observation:
    """A batched observation as a mapping of names."""
    return observation if isinstance(observation, Mapping) else {"observation": observation}


def stack_observations(space: spaces.Space, observations: Sequence[Any]) -> Any:
    """Batch observations the way gymnasium batches this space: arrays stacked, texts as a tuple, Dicts by key."""
    empty: Any = create_empty_array(space, n=len(observations))
    return concatenate(space, observations, empty)


def fit_action(space: spaces.Space, action: np.ndarray) -> Any:
    """Give an action the dtype of its space. Values are never clipped: judging them is the environment's part.

    Raises:
        BadInput: the shape differs from the space's, or a fraction was given where an integer is needed.
    """
    given = np.asarray(action)
    shape = () if isinstance(space, spaces.Discrete) else space.shape
    if given.shape != shape:
        raise BadInput(f"action: expected shape {shape} for {space}, got {given.shape}. Check the policy's action_dim.")
    fitted = given.astype(space.dtype)
    if np.issubdtype(fitted.dtype, np.integer) and not (fitted == given).all():
        raise BadInput(f"action: expected integers for {space}, got {given.tolist()}. Check the policy's action type.")
    return fitted[()] if shape == () else fitted


def _message(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


class _Row:
    """One environment that keeps its last observation, and whose exceptions become text."""

    def __init__(self, make: Callable[[], gym.Env], env: gym.Env | None, owned: bool) -> None:
        self._make, self.env, self._owned = make, env, owned
        self.observation: Any = None
        self._previous: Any = None

    def reset(self, seed: int, options: Mapping[str, Any] | None) -> tuple[dict[str, Any], str | None]:
        try:
            if self.env is None:
                self.env = self._make()
            observation, info = self.env.reset(seed=seed, options=None if options is None else dict(options))
            self.observation = observation
            self.check()
            return dict(info), None
        except Exception as error:
            return {}, self.failed(error)

    def step(self, action: Any) -> tuple[float, bool, bool, dict[str, Any], str | None]:
        assert self.env is not None
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            reward = float(reward)
            if not np.isfinite(reward):
                raise ValueError(f"the reward is {reward}")
            self._previous, self.observation = self.observation, observation
            return reward, bool(terminated), bool(truncated), dict(info), None
        except Exception as error:
            return 0.0, False, False, {}, self.failed(error)

    def check(self) -> None:
        """Raise if the observation does not fit its space (a misshapen one must not fail the other rows)."""
        assert self.env is not None
        stack_observations(self.env.observation_space, [self.observation])

    def step_back(self) -> None:
        """Show the observation before the last one again."""
        self.observation = self._previous

    def failed(self, error: Exception) -> str:
        """After an exception the environment is not trusted: the next episode of this row gets a new one."""
        if self._owned:
            self.close()
        return _message(error)

    def close(self) -> None:
        if self._owned and self.env is not None:
            with suppress(Exception):  # an environment that has just crashed may well fail to close
                self.env.close()
            self.env = None


class GuardedEnvs(EnvBatch):
    """Environments made by one function, stepped in turn in this process.

    The environment must be fixed by `reset(seed=...)`: rows are used again for later episodes.

    Args:
        make: makes one environment.
        num_envs: most rows at once; environments are made when first needed.
        about: what is known beyond the spec, for `describe`.
        owned: False if the one environment is the caller's: it is then neither closed nor made again.
    """

    def __init__(
        self, make: Callable[[], gym.Env], num_envs: int, about: Mapping[str, Any], owned: bool = True
    ) -> None:
        first = make()
        if not isinstance(first, gym.Env):
            raise BadInput(f"env: expected the function to make a gymnasium Env, got {type(first).__name__}.")
        self.num_envs = num_envs
        self._space, self._action_space = first.observation_space, first.action_space
        if isinstance(self._action_space, spaces.Dict | spaces.Tuple | spaces.Text | spaces.Sequence):
            raise BadInput(f"action space {self._action_space}: allowed are Discrete, Box, MultiDiscrete, MultiBinary.")
        self.max_episode_steps = None if first.spec is None else first.spec.max_episode_steps
        self._about = {**about, **describe_spec(first.spec)}
        self._make, self._owned = make, owned
        self._rows = [_Row(make, first, owned)]
        self._running = 0

    def reset(
        self, seeds: Sequence[int], options: Sequence[Mapping[str, Any] | None]
    ) -> tuple[Observation | None, list[dict[str, Any]], list[str | None]]:
        while len(self._rows) < len(seeds):
            self._rows.append(_Row(self._make, self._make(), self._owned))
        self._running = len(seeds)
        rows = self._rows[: self._running]
        results = [row.reset(seed, own) for row, seed, own in zip(rows, seeds, options, strict=True)]
        infos, errors = [info for info, _ in results], [error for _, error in results]
        healthy = [index for index, error in enumerate(errors) if error is None]
        if not healthy:
            return None, infos, errors
        for index, error in enumerate(errors):
            if error is not None:
                rows[index].observation, infos[index] = rows[healthy[0]].observation, dict(infos[healthy[0]])
        return self._observation(), infos, errors

    def step(self, action: np.ndarray, active: np.ndarray) -> Step:
        rows = self._rows[: self._running]
        fitted = {row: fit_action(self._action_space, action[row]) for row in np.flatnonzero(active).tolist()}
        results = [
            rows[index].step(fitted[index]) if index in fitted else (0.0, False, False, {}, None)
            for index in range(len(rows))
        ]
        reward, terminated, truncated, infos, found = zip(*results, strict=True)
        errors = list(found)
        try:
            observation = self._observation()
        except Exception:  # one of the observations does not fit: find out whose
            for index in fitted:
                try:
                    if errors[index] is None:
                        rows[index].check()
                except Exception as error:
                    errors[index] = rows[index].failed(error)
                    rows[index].step_back()
            observation = self._observation()
        return Step(observation, np.array(reward), np.array(terminated), np.array(truncated), list(infos), errors)

    def _observation(self) -> Observation:
        observations = [row.observation for row in self._rows[: self._running]]
        return named(stack_observations(self._space, observations))

    def describe(self) -> dict[str, Any]:
        return dict(self._about)

    def close(self) -> None:
        for row in self._rows:
            row.close()


class UserVectorEnv(EnvBatch):
    """A vector environment made by the caller, in any autoreset mode; it is not closed.

    What a row does after its first end is ignored. An exception cannot be traced to one row, so it fails every row that
    is still running. In mode DISABLED, rows that ended are reset by gymnasium's `reset_mask` option so that the others
    can go on.

    Args:
        env: the vector environment; every batch has `env.num_envs` rows.
    """

    fixed_rows = True

    def __init__(self, env: VectorEnv) -> None:
        self.env = env
        self.num_envs = env.num_envs
        inner = getattr(env.unwrapped, "envs", None)
        self._spec = env.spec or (inner[0].spec if inner else None)
        self.max_episode_steps = None if self._spec is None else self._spec.max_episode_steps
        mode = env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
        self._mode = mode if isinstance(mode, AutoresetMode) else AutoresetMode(mode)

    def reset(
        self, seeds: Sequence[int], options: Sequence[Mapping[str, Any] | None]
    ) -> tuple[Observation | None, list[dict[str, Any]], list[str | None]]:
        if any(own != options[0] for own in options):
            raise BadInput(
                "options: a vector environment resets all rows with the same options; pass the environment's id or a "
                "function that makes it, and every episode can have its own."
            )
        empty: list[dict[str, Any]] = [{} for _ in seeds]
        try:
            observation, info = self.env.reset(
                seed=[int(seed) for seed in seeds],  # type: ignore[arg-type]  # vector envs take one seed per row
                options=None if options[0] is None else dict(options[0]),
            )
            return named(observation), unbatch_info(info, self.num_envs), [None] * self.num_envs
        except Exception as error:
            return None, empty, [_message(error)] * self.num_envs

    def step(self, action: np.ndarray, active: np.ndarray) -> Step:
        action = np.array(action)
        action[~active] = action[np.flatnonzero(active)[0]]  # what stands in rows that have ended may be anything
        action = np.stack([fit_action(self.env.single_action_space, row) for row in action])
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
            reward = np.asarray(reward, dtype=np.float64)
            terminated, truncated = np.array(terminated, dtype=bool), np.array(truncated, dtype=bool)
            infos = unbatch_info(info, self.num_envs)
            for row, ended in enumerate(terminated | truncated):
                final = infos[row].pop("final_info", None)
                if ended and final is not None:  # mode SAME_STEP: the info beside it belongs to the next episode
                    infos[row] = dict(final)
            ended = terminated | truncated
            if self._mode is AutoresetMode.DISABLED and ended.any() and (active & ~ended).any():
                self.env.reset(options={"reset_mask": ended})
        except Exception as error:
            count = self.num_envs
            nothing = np.zeros(count, dtype=bool)
            return Step({}, np.zeros(count), nothing, nothing, [{} for _ in range(count)], [_message(error)] * count)
        errors = [None if np.isfinite(value) else f"ValueError: the reward is {value}" for value in reward]
        return Step(named(observation), reward, terminated, truncated, infos, errors)

    def describe(self) -> dict[str, Any]:
        return {"vector_env": jsonable(type(self.env.unwrapped)), "autoreset_mode": self._mode.value} | describe_spec(
            self._spec
        )

    def close(self) -> None:
        return None


def unbatch_info(info: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Split a vector environment's info into one dict per row.

    Gymnasium packs key -> (B, ...) array beside "_key" -> (B,) bool, which says which rows have it; dicts likewise.
    """
    rows: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, value in info.items():
        if key.startswith("_") and key[1:] in info:
            continue
        if isinstance(value, Mapping):
            values: Sequence[Any] = unbatch_info(value, count)
        elif isinstance(value, np.ndarray | list | tuple) and len(value) == count:
            values = list(value)
        else:
            values = [value] * count
        mask = info.get(f"_{key}", np.ones(count, dtype=bool))
        for row in range(count):
            if mask[row]:
                rows[row][key] = values[row]
    return rows
