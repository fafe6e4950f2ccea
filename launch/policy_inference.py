"""A policy of this project as `contract.Inference`: whole chunks, steered or not from one to the next, strengths live."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from launch.robot.contract import Chunk, Knob
from policies.base import Policy
from policies.chunks import ChunkPolicy
from policies.errors import BadInput, nearest

if TYPE_CHECKING:  # a policy without a network and without steering needs no torch
    from steer_agents.steerer import Attached, Steerer

Turn = Callable[["Attached", str, float], None]
"""(steering, part, strength) -> None: sets a strength, or raises."""


class PolicyInference:
    """Asks a policy in this process, one episode at a time.

    Every call plans a new chunk, from its first action on, all of it: a control loop needs the rest while the next one is under way.
    Policies without chunks give one action. How much of the last chunk was executed is read off the clock: gates that look at
    `Context.env_step` see (observed_at - first observed_at) / dt, rounded. A policy that looks back on several observations sees
    those that it was asked with.

    Args:
        policy: one row is used.
        steerer: None for a policy without steering.
        dt: seconds between two actions of a chunk.
        knobs: strengths that may be changed, with their limits.
        turn: how one is changed; a recipe's own `turn` also knows parts that are no activation parts.

    Attributes:
        policy_name: for people.
        length, executed: actions of a chunk, and how many of them the policy would execute before the next.
    """

    def __init__(
        self, policy: Policy, steerer: Steerer | None, dt: float, knobs: Sequence[Knob] = (), turn: Turn | None = None
    ) -> None:
        if not dt > 0:
            raise BadInput(f"inference: dt must be a positive number of seconds, got {dt!r}.")
        self.policy, self.steerer, self.dt = policy, steerer, dt
        self.policy_name = policy.name
        self.length, self.executed = 1, 1
        if isinstance(policy, ChunkPolicy):
            self.length, self.executed = policy.chunk_size, policy.n_action_steps
        self._knobs = {knob.part: knob for knob in knobs}
        self._values: dict[str, float] = {name: knob.value for name, knob in self._knobs.items()}
        self._turn: Turn = turn or (lambda attached, part, value: attached.set_strength(value, part))
        self._attached: Attached | None = None
        self._began: float | None = None  # of the first observation
        self._last: float | None = None
        self._number = 0
        self._is_reset = False

    def reset(self, seed: int, info: Mapping[str, Any]) -> None:
        """See `contract.Inference`."""
        self._steer(True)
        self.policy.reset([seed], [dict(info)])
        self._began, self._last, self._number, self._is_reset = None, None, 0, True

    def infer(self, observation: Mapping[str, Any], observed_at: float, steered: bool = True) -> Chunk:
        """See `contract.Inference`; unsteered it is the bare policy.

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
        batch = batched(observation)
        if isinstance(self.policy, ChunkPolicy):
            decision = self.policy.replan(batch, executed)
            actions = self.policy.chunk[0]
        else:
            decision = self.policy.act(batch)
            actions = np.asarray(decision.action)
        measures = {
            name: float(np.ravel(values[0])[0]) for name, values in decision.measures.items() if np.size(values[0]) == 1
        }
        measures["inference_s"] = time.perf_counter() - began
        self._number += 1
        plain = np.array(actions, dtype=np.float32).reshape(-1, np.shape(actions)[-1])
        return Chunk(plain, self.dt, observed_at, steered, measures, self._number - 1)

    def set_strength(self, part: str, value: float) -> None:
        """See `contract.Inference`; it holds from the next chunk on."""
        if part not in self._knobs:
            raise BadInput(f"strength: part {part!r} has no knob{nearest(part, self._knobs)}")
        knob = self._knobs[part]
        if not knob.low <= value <= knob.high:
            raise BadInput(f"strength of {part!r} must lie in {knob.low:g} to {knob.high:g}, got {value!r}.")
        self._values[part] = float(value)
        if self._attached is not None:
            self._turn(self._attached, part, float(value))

    def knobs(self) -> list[Knob]:
        """What may be changed, with the values now."""
        return [Knob(name, self._values[name], knob.low, knob.high) for name, knob in self._knobs.items()]

    def close(self) -> None:
        """Leave the policy as it was found."""
        self._steer(False)
        self._is_reset = False

    def _steer(self, wanted: bool) -> None:
        if self.steerer is None or wanted == (self._attached is not None):
            return
        if not wanted:
            assert self._attached is not None
            attached, self._attached = self._attached, None
            # left as after an exception: a site that had no time to fire is no error here
            attached.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
            return
        self._attached = self.steerer.attach(self.policy).__enter__()
        for part, value in self._values.items():
            self._turn(self._attached, part, value)


def batched(observation: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of one: arrays get a leading axis, texts become tuples."""
    found: dict[str, Any] = {}
    for name, value in observation.items():
        if isinstance(value, Mapping):
            found[name] = batched(value)
        else:
            found[name] = (value,) if isinstance(value, str) else np.asarray(value)[None]
    return found
