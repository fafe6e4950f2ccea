"""How much: strengths in units that mean something, and the KL budget that picks one.

| unit | displacement along the unit vector v |
| --- | --- |
| "absolute" | value |
| "alpha" (relative dose) | value x E||h|| at the site |
| "sd" | value x standard deviation of h . v |
| "beta" | value x ||u||, the vector's raw norm (the multiplier of the EAST paper) |

Interventions that are no displacement (ablate, clamp, cap, ...) take an absolute value: 0 is off, 1 is the full
operation. A value is one number, or a (B,) tensor with one per row of the batch; it may be changed while steering is
attached.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import BadInput, NonFinite, nearest
from steer_agents.direction import Direction

_STATISTIC_OF_UNIT = {"absolute": None, "alpha": "mean_norm", "sd": "sd", "beta": "raw_norm"}
UNITS = tuple(_STATISTIC_OF_UNIT)


@dataclass(frozen=True)
class Strength:
    """A strength with its unit.

    Args:
        value: a number, or a (B,) tensor.
        unit: one of `UNITS`.
    """

    value: float | torch.Tensor
    unit: str = "absolute"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise BadInput(f"strength unit {self.unit!r} is unknown{nearest(self.unit, UNITS)}")
        check_value(self.value)

    def factor(self, direction: Direction | None, key: str) -> float:
        """What one unit is worth at a location, as a displacement along the unit vector.

        Raises:
            BadInput: the direction does not carry the statistic that the unit needs.
        """
        name = _STATISTIC_OF_UNIT[self.unit]
        scale = 1.0 if direction is None else direction.scale(key)
        if name is None:
            return scale
        known = None if direction is None else direction.statistic(key, name)
        if known is None:
            raise BadInput(
                f"strength unit {self.unit!r} at {key} needs the statistic {name!r}, which this direction does not "
                "carry. Find it with steer_agents.find, or use unit='absolute'."
            )
        return scale * known

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        return {"value": torch.as_tensor(self.value, dtype=torch.float64).tolist(), "unit": self.unit}


def check_value(value: Any) -> None:
    """Refuse a strength that is not finite or not a number or (B,) tensor."""
    if isinstance(value, str):
        raise BadInput(
            f"strength {value!r}: set-points belong to parts along a direction whose doses were measured, e.g. Add."
        )
    tensor = torch.as_tensor(value)
    if tensor.dim() > 1:
        raise BadInput(f"strength: expected one number or one per row, shape (B,), got shape {tuple(tensor.shape)}.")
    if not torch.isfinite(tensor.float()).all():
        raise NonFinite(f"strength must be finite, got {value}.")


def kl_budget(epsilon: float, slope: float, curvature: float) -> float:
    """The largest displacement g whose output divergence is bounded by `epsilon` nats.

    With a = ||J v|| (`slope`: logit change per unit displacement) and L (`curvature`) a bound on the second directional
    derivative of the logits, KL(p || p~) <= 1/4 (a g + L g^2 / 2)^2, a perfect square, which g* saturates:

        g* = 4 sqrt(epsilon) / (a + sqrt(a^2 + 4 L sqrt(epsilon)))

    Source: ASC, arXiv 2507.04742, whose recipe drops the quartic term and shrinks a cubic's root; this form needs
    neither and agrees with it to 2 %. Limits: 2 sqrt(epsilon) / a for L -> 0; (16 epsilon)^(1/4) / sqrt(L) for a = 0.

    Raises:
        BadInput: epsilon <= 0, a negative slope or curvature, or both of them zero (no effect: no bound).
    """
    if not (epsilon > 0 and slope >= 0 and curvature >= 0):
        raise BadInput(f"kl_budget: need epsilon > 0, slope >= 0, curvature >= 0; got {epsilon}, {slope}, {curvature}.")
    if slope == 0 and curvature == 0:
        raise BadInput(
            "kl_budget: slope and curvature are both 0, the direction has no effect on the output; there is no bound."
        )
    root = math.sqrt(epsilon)
    return 4 * root / (slope + math.sqrt(slope**2 + 4 * curvature * root))


def measure_sensitivity(
    logits: Callable[[float], torch.Tensor], step: float, quantile: float = 0.95
) -> tuple[float, float]:
    """Estimate (slope, curvature) of logits along a direction by central differences.

    Args:
        logits: displacement -> (S, V) logits of S states; called three times.
        step: displacement used for the differences; 1e-2 x E||h|| works in float32.
        quantile: over the states, for both numbers. The paper takes the median of the slope, with which half of all
            states can exceed the budget; the default takes the 95th percentile of both.
    """
    if step <= 0:
        raise BadInput(f"measure_sensitivity: step must be positive, got {step}.")
    minus, zero, plus = (logits(g).double() for g in (-step, 0.0, step))
    first = ((plus - minus) / (2 * step)).norm(dim=-1)
    second = ((plus - 2 * zero + minus) / step**2).norm(dim=-1)
    return float(first.quantile(quantile)), float(second.quantile(quantile))
