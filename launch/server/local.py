"""A policy in this process behind the contract of a deployment: one episode at a time, steered or not, strengths live."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from launch.robot.contract import Chunk
from policies.base import Policy
from policies.chunks import ChunkPolicy
from policies.errors import BadInput, nearest
from steer_agents.steerer import Attached, Steerer


class PolicyInference:
    """`launch.robot.contract.Inference` over a `Policy`.

    Every call plans a new chunk, from its first action on. How much of the last one was executed is read off the clock: gates
    that look at `Context.env_step` see (observed_at - first observed_at) / dt, rounded; what a robot did with an action that came
    late, or was blended with another, is not known here.

    Args:
        policy: that acts.
        steerer: how it is steered; None leaves it as it is.
        dt: seconds between two actions of a chunk.
        limits: part -> (low, high): the strengths that may be changed while it runs.
    """

    def __init__(
        self,
        policy: Policy,
        steerer: Steerer | None = None,
        *,
        dt: float,
        limits: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        if not dt > 0:
            raise BadInput(f"inference: dt must be a positive number of seconds, got {dt!r}.")
        self.policy, self.steerer, self.dt = policy, steerer, dt
        self.limits = dict(limits or {})
        named = [] if steerer is None else [getattr(part, "name", None) for part in steerer.parts]
        for part in self.limits:
            if part not in named:
                raise BadInput(
                    f"inference: limits name {part!r}, no part{nearest(part, [name for name in named if name])}"
                )
        self._attached: Attached | None = None
        self._strengths: dict[str, float] = {}
        self._began: float | None = None  # of the first observation
        self._last: float | None = None
        self._number = 0
        self._is_reset = False

    def reset(self, seed: int, info: Mapping[str, Any]) -> None:
        """Start an episode."""
        self.policy.reset([seed], [dict(info)])
        self._began, self._last, self._number, self._is_reset = None, None, 0, True

    def infer(self, observation: Mapping[str, Any], observed_at: float, steered: bool = True) -> Chunk:
        """The chunk that starts with this observation.

        Raises:
            BadInput: before `reset`; and what the policy raises.
        """
        if not self._is_reset:
            raise BadInput("inference: infer was called before reset; call reset(seed, info) first.")
        self._steer(steered)
        executed = 0 if self._last is None else round((observed_at - self._last) / self.dt)
        self._began = observed_at if self._began is None else self._began
        self._last = observed_at
        self.policy.context.env_step = np.array([max(0, round((observed_at - self._began) / self.dt))], dtype=np.int64)
        began = time.perf_counter()
        if isinstance(self.policy, ChunkPolicy):
            decision = self.policy.replan(batched(observation), executed)
            actions = self.policy.chunk[0]
        else:
            decision = self.policy.act(batched(observation))
            actions = np.asarray(decision.action)
        measures = {
            name: float(np.ravel(values[0])[0]) for name, values in decision.measures.items() if np.size(values[0]) == 1
        }
        measures["inference_s"] = time.perf_counter() - began
        self._number += 1
        return Chunk(
            np.array(actions, dtype=np.float32).reshape(-1, np.shape(actions)[-1]),
            self.dt,
            observed_at,
            steered,
            measures,
            self._number - 1,
        )

    def set_strength(self, part: str, value: float) -> None:
        """Change a part's strength, from the next chunk on."""
        if part not in self.limits:
            raise BadInput(f"strength: part {part!r} does not exist{nearest(part, self.limits)}")
        low, high = self.limits[part]
        if not low <= value <= high:
            raise BadInput(f"strength: {part} may be {low:g} to {high:g}, got {value!r}.")
        self._strengths[part] = float(value)
        if self._attached is not None:
            self._attached.set_strength(float(value), part)

    def close(self) -> None:
        """Leave the policy as it was found."""
        self._steer(False)
        self._is_reset = False

    def _steer(self, wanted: bool) -> None:
        """Attach or detach, where that is not so already."""
        if self.steerer is None or wanted == (self._attached is not None):
            return
        if self._attached is not None:
            attached, self._attached = self._attached, None
            attached.__exit__(None, None, None)
            return
        attached = self.steerer.attach(self.policy)
        for part, value in self._strengths.items():
            attached.set_strength(value, part)
        self._attached = attached.__enter__()


def batched(observation: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of one: arrays get a leading axis, texts become tuples."""
    found: dict[str, Any] = {}
    for name, value in observation.items():
        if isinstance(value, Mapping):
            found[name] = batched(value)
        else:
            found[name] = (value,) if isinstance(value, str) else np.asarray(value)[None]
    return found
