"""When, and for whom: gates multiply the strength.

A gate returns a weight: one number, (B,) for one per row, or (B, N) for one per token. Gates multiply: `Window(5, 10) *
my_gate`. `Observed` reads the observation, `Measured` what the environment reports in info. Schedules read
`Context.env_step` (environment steps since reset, per row); outside of a control loop, where no policy keeps that count,
they raise instead of guessing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from policies.base import Context
from policies.errors import BadInput, NonFinite, nearest
from steer_agents.fingerprint import data_fingerprint
from steer_agents.tokens import Pass, TokenScope, as_scope, per_row

Weight = float | torch.Tensor


class Gate(ABC):
    """Decides how much of the strength is applied now. Subclasses write `weight`."""

    constant: bool = False
    """True if the weight never changes; such a gate can be baked."""
    needs_activation: bool = False
    """True if the weight depends on the activation at the site and must be worked out there."""

    @abstractmethod
    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        """The weight for this pass: a number, (B,) or (B, N).

        Args:
            context: what the policy says about the step.
            current: the tokens of this pass, None where the network has no token axis.
            h: (B, N, D) activation at the site, only if `needs_activation`.
        """

    def scopes(self) -> list[TokenScope]:
        """Token scopes that this gate reads (delimiters must be tracked)."""
        return []

    def reads(self) -> tuple[str, ...]:
        """Location keys of `block_output` whose activations of the same pass it looks at; the steerer taps them."""
        return ()

    def bound(self, key: str, taps: Mapping[str, Any]) -> Gate:
        """The gate as it acts at one location, with the taps of what it reads."""
        return self

    def __mul__(self, other: Gate) -> Gate:
        return Product(self, other)

    def describe(self) -> dict[str, Any]:
        """JSON-able form; names with an underscore are what a gate remembers, not what it is."""
        return {"gate": type(self).__name__, **{k: _plain(v) for k, v in vars(self).items() if not k.startswith("_")}}


def _plain(value: Any) -> Any:
    if isinstance(value, Gate):
        return value.describe()
    if torch.is_tensor(value):
        return f"tensor{tuple(value.shape)} {data_fingerprint(value)}"
    if callable(value):
        return f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', type(value).__name__)}"
    return value if isinstance(value, (int, float, str, bool, type(None))) else str(value)


@dataclass(frozen=True)
class Product(Gate):
    """Both gates: their weights multiplied."""

    first: Gate
    second: Gate

    @property
    def constant(self) -> bool:  # type: ignore[override]
        return self.first.constant and self.second.constant

    @property
    def needs_activation(self) -> bool:  # type: ignore[override]
        return self.first.needs_activation or self.second.needs_activation

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        a, b = (gate.weight(context, current, h) for gate in (self.first, self.second))
        if not (torch.is_tensor(a) and torch.is_tensor(b)):
            return a * b
        b = b.to(a.device)
        if a.dim() and b.dim():
            n_rows = max(len(a), len(b))
            a, b = (per_row(w, n_rows, context.repeats, "gate weight") for w in (a, b))
        if a.dim() + b.dim() == 3:  # (B,) with (B, N)
            a, b = (w[:, None] if w.dim() == 1 else w for w in (a, b))
        return a * b

    def scopes(self) -> list[TokenScope]:
        return self.first.scopes() + self.second.scopes()

    def reads(self) -> tuple[str, ...]:
        return self.first.reads() + self.second.reads()

    def bound(self, key: str, taps: Mapping[str, Any]) -> Gate:
        return Product(self.first.bound(key, taps), self.second.bound(key, taps))


@dataclass(frozen=True)
class Always(Gate):
    """Weight 1 (or another constant)."""

    value: float = 1.0
    constant = True

    def __post_init__(self) -> None:
        if not math.isfinite(self.value):
            raise NonFinite(f"Always: the weight must be finite, got {self.value}.")

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        return self.value


@dataclass(frozen=True)
class Tokens(Gate):
    """1 at the tokens of a scope, 0 elsewhere: narrows a site further, e.g. `Tokens(token_class("action"))`."""

    scope: TokenScope | str

    def __post_init__(self) -> None:
        object.__setattr__(self, "scope", as_scope(self.scope))

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        if current is None:
            raise BadInput(
                "a token gate needs a network with a token axis; this one has none. Use Always or a schedule."
            )
        mask = current.mask(as_scope(self.scope))
        return 1.0 if mask is None else mask.float()

    def scopes(self) -> list[TokenScope]:
        return [as_scope(self.scope)]


@dataclass(frozen=True)
class Probe(Gate):
    """1 where a linear probe on the activation at the site fires: sigmoid(h . w + b) >= threshold, per token.

    Args:
        weight_vector: (D,) probe weights w in raw (not standardised) coordinates.
        bias: b.
        threshold: probability from which the gate opens.
        soft: pass the probability itself instead of 0 or 1.
    """

    weight_vector: torch.Tensor
    bias: float = 0.0
    threshold: float = 0.5
    soft: bool = False
    needs_activation = True

    def __post_init__(self) -> None:
        if self.weight_vector.dim() != 1:
            raise BadInput(f"probe gate: expected weights of shape (D,), got {tuple(self.weight_vector.shape)}.")
        if not (torch.isfinite(self.weight_vector).all() and math.isfinite(self.bias)):
            raise NonFinite("probe gate: weights and bias must be finite; fit the probe again.")

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        assert h is not None
        w = self.weight_vector.to(h.device, torch.float32)
        if w.shape != h.shape[-1:]:
            raise BadInput(
                f"probe gate: weights have shape {tuple(w.shape)}, the activation at its site is {h.shape[-1]} wide."
            )
        probability = torch.sigmoid(h.float() @ w + self.bias)
        return probability if self.soft else (probability >= self.threshold).float()


@dataclass(frozen=True)
class Observed(Gate):
    """A function of the observation: `Observed(lambda obs: obs["height"] < 0.1)`, called once per environment step.

    The function gets the batch that `Policy.act` was given and returns (B,) numbers or booleans.
    """

    function: Callable[[Any], Any]

    def __post_init__(self) -> None:
        object.__setattr__(self, "_memory", None)

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        if context.observation is None:
            raise BadInput(
                "an Observed gate needs an observation: run the policy through policy.act(observation) or rollout."
            )
        memory = self._memory  # type: ignore[attr-defined]
        if memory is None or memory[0] is not context.observation or memory[1] != context.act_calls:
            weight = torch.as_tensor(self.function(context.observation)).float()
            if weight.dim() > 1 or not torch.isfinite(weight).all():
                raise BadInput(f"an Observed gate's function must give (B,) finite numbers or booleans, got {weight}.")
            memory = (context.observation, context.act_calls, weight)
            object.__setattr__(self, "_memory", memory)
        remembered: torch.Tensor = memory[2]
        return remembered

    def describe(self) -> dict[str, Any]:
        return {"gate": "Observed", "function": _plain(self.function)}


@dataclass(frozen=True)
class Measured(Gate):
    """1 while a quantity that the environment reports is in range, per row: "only while carrying", "only near the glass".

        Measured("held")                                              while info["held"] is true
        Measured("stage", equals=1)                                   in the second stage
        Measured("clearance_glass", below=0.08, release=0.10)         from within 8 cm until beyond 10 cm

    The quantity is read from the infos that came with the observation (`rollout` passes them; your own loop does with
    `policy.act(observation, infos=infos)`), when the network runs: a policy that acts in chunks looks once per chunk.
    Like all gates these multiply.

    Args:
        quantity: key of info; its value must be a number or a boolean, infinity included.
        above: open where value > above; without `below` and `equals` this is 0.5, so that a boolean opens when true.
        below: open where value < below.
        equals: open where value == equals.
        release: hysteresis: once open, a row's gate stays open until value <= release (with `above`) or value >= release
            (with `below`), or a new episode begins. None closes it as soon as it would not open.
    Raises:
        BadInput: nonsense bounds; when run: no infos, or no such quantity in a row's info.
        NonFinite: when run: the quantity is NaN.
    """

    quantity: str
    above: float | None = None
    below: float | None = None
    equals: float | None = None
    release: float | None = None

    def __post_init__(self) -> None:
        given = {name: getattr(self, name) for name in ("above", "below", "equals") if getattr(self, name) is not None}
        if len(given) > 1:
            raise BadInput(
                f"Measured({self.quantity!r}): give one of above, below, equals; got {given}. Multiply gates."
            )
        if not given:
            object.__setattr__(self, "above", 0.5)
        bounds = [value for value in (self.above, self.below, self.equals, self.release) if value is not None]
        if any(math.isnan(bound) for bound in bounds):
            raise NonFinite(f"Measured({self.quantity!r}): bounds must be numbers, got {bounds}.")
        if self.release is not None:
            late = (self.above is not None and self.release > self.above) or (
                self.below is not None and self.release < self.below
            )
            if late or self.equals is not None:
                raise BadInput(
                    f"Measured({self.quantity!r}): release={self.release} must lie below `above` ({self.above}) or above `below` "
                    f"({self.below}), where the gate is open already; `equals` has none."
                )
        object.__setattr__(self, "_memory", None)

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        if context.infos is None:
            raise BadInput(
                f"Measured({self.quantity!r}) needs the environment's infos: use rollout, or policy.act(observation, infos=infos)."
            )
        memory = self._memory  # type: ignore[attr-defined]
        if memory is not None and memory[0] is context and memory[1] == context.act_calls:
            remembered: torch.Tensor = memory[2]
            return remembered
        value = torch.tensor([self._value(info, row) for row, info in enumerate(context.infos)], dtype=torch.float64)
        opened = self._opens(value)
        if self.release is not None:
            opened |= self._were_open(context, memory, len(value)) & self._holds(value)
        weight = opened.float()
        object.__setattr__(self, "_memory", (context, context.act_calls, weight))
        return weight

    def _value(self, info: Mapping[str, Any], row: int) -> float:
        if self.quantity not in info:
            raise BadInput(
                f"Measured({self.quantity!r}): the info of batch row {row} has no such quantity"
                f"{nearest(self.quantity, sorted(key for key, value in info.items() if _is_number(value)))}"
            )
        value = info[self.quantity]
        if not _is_number(value):
            raise BadInput(
                f"Measured({self.quantity!r}): expected a number in the info of batch row {row}, got {value!r}; numbers are "
                f"{', '.join(sorted(key for key, value in info.items() if _is_number(value)))}."
            )
        if math.isnan(value):
            raise NonFinite(f"Measured({self.quantity!r}): the info of batch row {row} says NaN.")
        return float(value)

    def _opens(self, value: torch.Tensor) -> torch.Tensor:
        if self.above is not None:
            return value > self.above
        if self.below is not None:
            return value < self.below
        assert self.equals is not None
        return value.eq(self.equals)

    def _holds(self, value: torch.Tensor) -> torch.Tensor:
        assert self.release is not None
        return value > self.release if self.above is not None else value < self.release

    def _were_open(self, context: Context, memory: Any, n_rows: int) -> torch.Tensor:
        """(B,) bool of the last look in the same episodes."""
        if context.env_step is None:
            raise BadInput(
                f"Measured({self.quantity!r}) with release needs to know when episodes begin: run the policy through reset and act."
            )
        going_on = torch.as_tensor(context.env_step) > 0
        if not going_on.any() or memory is None or memory[0] is not context:
            return torch.zeros(n_rows, dtype=torch.bool)
        if len(memory[2]) != n_rows:
            raise BadInput(
                f"Measured({self.quantity!r}): the batch went from {len(memory[2])} to {n_rows} rows within an episode, so it is not "
                "known whose gate was open. Leave release=None, or keep all rows."
            )
        return going_on & memory[2].bool()

    def describe(self) -> dict[str, Any]:
        bounds = {name: getattr(self, name) for name in ("above", "below", "equals", "release")}
        return {"gate": "Measured", "quantity": self.quantity, **{k: v for k, v in bounds.items() if v is not None}}


def _is_number(value: Any) -> bool:
    if getattr(value, "ndim", 0) or isinstance(value, str | bytes):
        return False
    return isinstance(value, bool | int | float) or hasattr(value, "dtype")


class Schedule(Gate):
    """A weight that depends on the environment step only. Subclasses write `at`."""

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        if context.env_step is None:
            raise BadInput(
                f"{type(self).__name__} needs the environment step: run the policy through reset and act (or rollout), "
                "or set policy.context.env_step."
            )
        return self.at(torch.as_tensor(context.env_step).float())

    @abstractmethod
    def at(self, step: torch.Tensor) -> torch.Tensor:
        """Weight at (B,) steps."""


@dataclass(frozen=True)
class Window(Schedule):
    """1 in [start, stop), 0 outside."""

    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise BadInput(f"Window({self.start}, {self.stop}) is empty; it is [start, stop) with 0 <= start < stop.")

    def at(self, step: torch.Tensor) -> torch.Tensor:
        stop = float("inf") if self.stop is None else self.stop
        return ((step >= self.start) & (step < stop)).float()


@dataclass(frozen=True)
class Ramp(Schedule):
    """From `low` at step `start`, linearly, to `high` at step `stop`, constant before and after."""

    start: int
    stop: int
    low: float = 0.0
    high: float = 1.0

    def __post_init__(self) -> None:
        if self.stop <= self.start:
            raise BadInput(f"Ramp: stop must be after start, got start={self.start}, stop={self.stop}.")

    def at(self, step: torch.Tensor) -> torch.Tensor:
        share = ((step - self.start) / (self.stop - self.start)).clamp(0, 1)
        return self.low + (self.high - self.low) * share


@dataclass(frozen=True)
class Decay(Schedule):
    """2^(-(t - start) / half_life) from step `start` on, 1 before."""

    half_life: float
    start: int = 0

    def __post_init__(self) -> None:
        if not self.half_life > 0:
            raise BadInput(f"Decay: half_life must be positive, got {self.half_life}.")

    def at(self, step: torch.Tensor) -> torch.Tensor:
        return torch.exp2(-(step - self.start).clamp(min=0) / self.half_life)


@dataclass(frozen=True)
class DenoiseSteps(Gate):
    """1 at denoise steps start, ..., stop - 1 of a chunk, 0 at the others: steers a part of the flow only.

    Step 0 starts from noise. For sites inside of the denoising loop (the expert of a flow policy, a U-Net).
    """

    start: int = 0
    stop: int | None = None

    def __post_init__(self) -> None:
        if self.start < 0 or (self.stop is not None and self.stop <= self.start):
            raise BadInput(
                f"DenoiseSteps({self.start}, {self.stop}) is empty; it is [start, stop) with 0 <= start < stop."
            )

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        if context.denoise_step is None:
            raise BadInput(
                "DenoiseSteps: no denoise step is running at this site, or the policy does not say which. Use it at a "
                "site inside of the denoising loop, e.g. stack 'expert' of a flow policy."
            )
        inside = context.denoise_step >= self.start and (self.stop is None or context.denoise_step < self.stop)
        return float(inside)


ALWAYS = Always()
