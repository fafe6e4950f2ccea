"""A policy of this project as `contract.Inference`: whole chunks, with the steering on or off from one to the next."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np

from launch.robot.contract import Chunk, Knob
from policies.base import Policy
from policies.chunks import ChunkPolicy
from policies.errors import BadInput, nearest

if TYPE_CHECKING:  # a policy without a network and without steering needs no torch
    from steer_agents.steerer import Steerer


class PolicyInference:
    """Asks a policy in this process.

    A policy that predicts chunks gives all of a chunk, not only what it would execute: the control loop needs the rest while the next
    one is under way. Others give one action. A policy that looks back on several observations sees the one it is asked with in
    place of those that it was not asked with.

    Args:
        policy: one row is used.
        steerer: None for a policy without steering.
        dt: seconds between two actions.
        knobs: strengths that may be changed; those of the steerer's named activation parts, between 0 and their values, if None.
    """

    def __init__(self, policy: Policy, steerer: Steerer | None, dt: float, knobs: list[Knob] | None = None) -> None:
        self.policy, self.steerer, self.dt = policy, steerer, dt
        self.length, self.executed = 1, 1
        if isinstance(policy, ChunkPolicy):
            self.length, self.executed = policy.chunk_size, policy.n_action_steps
            policy.n_action_steps = policy.chunk_size
        self._knobs = {knob.part: knob for knob in (named_knobs(steerer) if knobs is None else knobs)}
        self._values: dict[str, float] = {name: knob.value for name, knob in self._knobs.items()}
        self._attached: AbstractContextManager[Any] | None = None
        self._number, self._began = 0, 0.0
        self._fresh = True

    def reset(self, seed: int, info: Mapping[str, Any]) -> None:
        """See `contract.Inference`."""
        self._steer(True)
        self.policy.reset([seed], [info])
        self._number, self._fresh = 0, True

    def infer(self, observation: Mapping[str, Any], observed_at: float, steered: bool = True) -> Chunk:
        """See `contract.Inference`; unsteered it is the bare policy."""
        if self._fresh:
            self._began, self._fresh = observed_at, False
        self._steer(steered)
        step = max(round((observed_at - self._began) / self.dt), 0)
        self.policy.context.env_step = np.array(
            [step]
        )  # gates that count env steps count those executed, not those predicted
        batch = _batched(observation)
        actions: list[np.ndarray] = []
        measures: Mapping[str, np.ndarray] = {}
        for _ in range(self.length):
            decision = self.policy.act(batch)
            actions.append(np.asarray(decision.action[0], dtype=np.float32).reshape(-1))
            measures = decision.measures
        said = {name: float(np.mean(value)) for name, value in measures.items()}
        self._number += 1
        return Chunk(np.stack(actions), self.dt, observed_at, steered, said, self._number - 1)

    def set_strength(self, part: str, value: float) -> None:
        """See `contract.Inference`; it holds from the next chunk on."""
        if part not in self._knobs:
            raise BadInput(f"strength: part {part!r} has no knob{nearest(part, self._knobs)}")
        knob = self._knobs[part]
        if not knob.low <= value <= knob.high:
            raise BadInput(f"strength of {part!r} must lie in {knob.low:g} to {knob.high:g}, got {value!r}.")
        self._values[part] = float(value)
        if self._attached is not None:
            self._attached.set_strength(float(value), part)  # type: ignore[attr-defined]

    def knobs(self) -> list[Knob]:
        """What may be changed, with the values now."""
        return [Knob(name, self._values[name], knob.low, knob.high) for name, knob in self._knobs.items()]

    def close(self) -> None:
        """Take the steering off."""
        self._steer(False)

    def _steer(self, wanted: bool) -> None:
        if self.steerer is None or wanted == (self._attached is not None):
            return
        if not wanted:
            assert self._attached is not None
            # left as after an exception: a site that had no time to fire is no error here
            self._attached.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
            self._attached = None
            return
        attached = self.steerer.attach(self.policy)
        attached.__enter__()
        self._attached = attached
        for part, value in self._values.items():
            attached.set_strength(value, part)

    def warm_up(self, observation: Mapping[str, Any]) -> float:
        """Ask once and forget it, so that the first chunk is not the slowest; returns how long a chunk takes [s]."""
        spent = 0.0
        for steered in (False, True):
            began = time.monotonic()
            self.infer(observation, began, steered)
            spent = time.monotonic() - began
        return spent


def named_knobs(steerer: Steerer | None) -> list[Knob]:
    """One knob per named activation part of scalar strength, between 0 and its value."""
    if steerer is None:
        return []
    from steer_agents.interventions import Intervention

    found = []
    for part in steerer.parts:
        if isinstance(part, Intervention) and part.name:
            value = np.asarray(part.the_strength.value, dtype=float)
            if value.ndim == 0:
                found.append(Knob(part.name, float(value), min(0.0, float(value)), max(0.0, float(value))))
    return found


def _batched(observation: Mapping[str, Any]) -> dict[str, Any]:
    """With a leading axis of one row, also inside of "pixels"."""
    return {
        name: _batched(value) if isinstance(value, Mapping) else np.asarray(value)[None]
        for name, value in observation.items()
    }
