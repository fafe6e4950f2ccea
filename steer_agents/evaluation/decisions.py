"""How a distribution over actions changed: diagnostics that tell a change of certainty from a change of preference.

With logits z (base) and z' (steered), centred over the actions of each decision, z' = a z + b: genuine uncertainty steering has a slope
0 < a < 1 and a small offset b; a negative slope has turned the choice round, and a large offset has moved a preference, which can
raise the entropy for a while and is no uncertainty.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from policies.errors import BadInput


@dataclass(frozen=True)
class DecisionShift:
    """How steered decisions differ from base decisions on the same prompts.

    Args:
        entropy_bits: mean change of the entropy [bits].
        share_up: share of decisions whose entropy rose.
        slope: a of z' = a z + b, by least squares over all decisions.
        offset: largest |b_k| over the actions k, mean of z'_k - a z_k [nats].
        top_kept: share of decisions with the same most likely action.
    """

    entropy_bits: float
    share_up: float
    slope: float
    offset: float
    top_kept: float


def entropy_bits(logits: np.ndarray) -> np.ndarray:
    """Entropy [bits] of softmax(logits) along the last axis."""
    z = logits - logits.max(-1, keepdims=True)
    log_p = z - np.log(np.exp(z).sum(-1, keepdims=True))
    entropy: np.ndarray = -(np.exp(log_p) * log_p).sum(-1) / np.log(2)
    return entropy


def decision_shift(base: np.ndarray, steered: np.ndarray) -> DecisionShift:
    """Compare action logits on the same prompts.

    Args:
        base, steered: (..., K) logits or log-probabilities over the K actions.
    """
    base, steered = (np.asarray(logits, dtype=np.float64) for logits in (base, steered))
    if base.shape != steered.shape or base.shape[-1] < 2:
        raise BadInput(
            f"decision_shift: expected two equal shapes (..., K >= 2), got {base.shape} and {steered.shape}."
        )
    z = (base - base.mean(-1, keepdims=True)).reshape(-1, base.shape[-1])
    y = (steered - steered.mean(-1, keepdims=True)).reshape(-1, base.shape[-1])
    if not (z**2).sum() > 0:
        raise BadInput("decision_shift: all base decisions are exactly uniform, so there is no slope to measure.")
    z_free, y_free = z - z.mean(0), y - y.mean(0)
    spread = (z_free**2).sum()
    slope = float((z_free * y_free).sum() / spread) if spread > 1e-12 else float((z * y).sum() / (z**2).sum())
    change = entropy_bits(steered) - entropy_bits(base)
    return DecisionShift(
        entropy_bits=float(change.mean()),
        share_up=float((change > 0).mean()),
        slope=slope,
        offset=float(np.abs((y - slope * z).mean(0)).max()),
        top_kept=float((z.argmax(-1) == y.argmax(-1)).mean()),
    )
