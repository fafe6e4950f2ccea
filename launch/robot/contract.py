"""What the parts of a deployment know of each other: chunks, inference, what the operator may do, what is written down.

    robot ─► observation ─► Inference ─► Chunk ─► gate ─► robot        at `fps`, inference in another process
                               ▲                    ▲
                               └── OperatorPanel ───┘       Flight: one `Tick` per control step, for recorder and dashboard

Units: seconds, metres, radians, newtons; times are `time.monotonic()` of the machine that made them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

if TYPE_CHECKING:  # the control process loads no network
    from policies.base import Policy
    from steer_agents.envelope import SafetyEnvelope
    from steer_agents.steerer import Steerer


@dataclass(frozen=True)
class Chunk:
    """Actions that a policy asked for.

    Args:
        actions: (H, A) float32, in the units of the policy's environment.
        dt: seconds between two of them.
        observed_at: when the observation was made from which they follow.
        steered: False where the policy was asked without its steering.
        measures: what the policy says of its choice, name -> number.
        number: counts from 0 in an episode.
    """

    actions: np.ndarray
    dt: float
    observed_at: float
    steered: bool = True
    measures: Mapping[str, float] = field(default_factory=dict)
    number: int = 0


class Inference(Protocol):
    """Asks a policy, in this process, in another one, or over a network."""

    def reset(self, seed: int, info: Mapping[str, Any]) -> None:
        """Start an episode; `info` as the `reset` of an environment gives it (instruction)."""
        ...

    def infer(self, observation: Mapping[str, Any], observed_at: float, steered: bool = True) -> Chunk:
        """The chunk that starts with this observation (arrays without a batch axis); blocks.

        Raises:
            TimeoutError: no answer in time; ConnectionError: nobody there.
        """
        ...

    def set_strength(self, part: str, value: float) -> None:
        """Change a part's strength, within the recipe's limits (`BadInput` beyond them)."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class Knob:
    """A strength that an operator may change while it runs.

    Args:
        part: its name in the recipe.
        value, low, high: the strength now, and its limits in the recipe.
    """

    part: str
    value: float
    low: float
    high: float


class OperatorPanel(Protocol):
    """What a person at the machine may do, and see; every method may be called from another thread."""

    def knobs(self) -> list[Knob]: ...

    def turn(self, part: str, value: float) -> None:
        """Ask for a strength; beyond the limits `BadInput`."""
        ...

    def stop(self, why: str) -> None:
        """Stop the robot now, within its limits."""
        ...

    def latest(self) -> Tick | None: ...


@dataclass(frozen=True)
class Tick:
    """One step of the control loop.

    Args:
        number: from 0; at: when; period: since the one before [s].
        observation: name -> array (pictures (H, W, 3) uint8) as the robot gave it, or {} where it gave none.
        asked: name -> number, what policy and blending asked for; {} without a chunk.
        sent: name -> number, what went to the robot; {} where nothing was sent.
        mode: "steered", "unsteered", "hold" or "stopped".
        decisions: names of what the gate did in this step ("clip speed shoulder_pan.pos", "stale observation", ...).
        strengths: part -> strength.
        chunk: number of the chunk that was executed, -1 for none; chunk_age: since its observation [s].
    """

    number: int
    at: float
    period: float
    observation: Mapping[str, Any]
    asked: Mapping[str, float]
    sent: Mapping[str, float]
    mode: str
    decisions: tuple[str, ...] = ()
    strengths: Mapping[str, float] = field(default_factory=dict)
    chunk: int = -1
    chunk_age: float = float("nan")


class FlightSink(Protocol):
    """Takes ticks and never blocks the control loop: recorder, dashboard."""

    def write(self, tick: Tick) -> None: ...

    def close(self) -> None: ...


class LoadedRecipe(Protocol):
    """What a recipe is once it is loaded: made in the process that infers, by a function that can be imported there.

    Three things may be there besides: `knobs` (a list of `Knob`; without it nothing can be turned), `turn` (how a strength is changed, see
    `launch.policy_inference`), and `inference` (dt -> what is asked in place of the policy, e.g. one over a network).
    """

    @property
    def policy(self) -> Policy | None: ...

    @property
    def steerer(self) -> Steerer | None: ...

    @property
    def envelope(self) -> SafetyEnvelope: ...


Recipe = Callable[[], "LoadedRecipe"]
"""Loads a recipe. It is sent to another process, so it is a function of a module, or a `functools.partial` of one."""


class Asker(Protocol):
    """Inference that the control loop never waits for."""

    @property
    def ready(self) -> bool:
        """It can be asked now."""
        ...

    def ask(
        self, observation: Mapping[str, Any], observed_at: float, steered: bool, strengths: Mapping[str, float]
    ) -> None:
        """Ask for a chunk; one at a time."""
        ...

    def answer(self, now: float) -> Chunk | None:
        """The chunk that was asked for, once it is there; called every step, and where a dead process is started again."""
        ...

    def waiting(self, now: float) -> float:
        """How long it has been asked without an answer [s]; 0 if it was not."""
        ...

    def close(self) -> None: ...
