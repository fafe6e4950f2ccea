"""From an MLP's output to an action: one row of data per kind of policy.

| head | outputs | action | settings |
| --- | --- | --- | --- |
| `categorical` | K logits | drawn from softmax(outputs / temperature) | temperature |
| `deterministic` | A numbers | tanh(outputs) | |
| `gaussian` | A means | mean + std_scale exp(log_std) e, clipped to [-1, 1] (PPO) | std_scale |
| `squashed-gaussian` | A means, A log_stds | tanh(mean + std_scale exp(log_std) e), log_std in [-20, 2] (SAC) | std_scale |

e is standard normal, from each row's own generator. `entropy_bits` of the Gaussian heads is the differential entropy of the
Gaussian before clipping or squashing; it is left out at std_scale 0, where it does not exist.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from policies.base import Decision

if TYPE_CHECKING:
    from policies.mlp.config import MLPConfig

Generators = Sequence[np.random.Generator]
LOG_STD_RANGE = (-20.0, 2.0)


@dataclass(frozen=True)
class Head:
    """How an action is chosen.

    Args:
        choose: (outputs (B, n_outputs) float64, one generator per row, config, settings) -> `Decision`.
        settings: what `Policy.set_decision` may change.
    """

    choose: Callable[[np.ndarray, Generators, MLPConfig, Mapping[str, float]], Decision]
    settings: tuple[str, ...] = ()


def _categorical(outputs: np.ndarray, rngs: Generators, config: MLPConfig, settings: Mapping[str, float]) -> Decision:
    logits = outputs / settings["temperature"]
    p = np.exp(logits - logits.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    uniform = np.array([rng.random() for rng in rngs])
    action = (p.cumsum(1) < uniform[:, None]).sum(1).clip(max=p.shape[1] - 1)
    entropy = -(p * np.log2(np.clip(p, 1e-300, None))).sum(1)
    return Decision(action, {"entropy_bits": entropy, "probabilities": p})


def _deterministic(outputs: np.ndarray, rngs: Generators, config: MLPConfig, settings: Mapping[str, float]) -> Decision:
    return Decision(np.tanh(outputs).astype(np.float32))


def _normal(
    mean: np.ndarray, log_std: np.ndarray, rngs: Generators, scale: float
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    e = np.stack([rng.standard_normal(mean.shape[1]) for rng in rngs])
    measures = {}
    if scale > 0:
        bits = (log_std + np.log(scale) + 0.5 * np.log(2 * np.pi * np.e)) / np.log(2)
        measures["entropy_bits"] = np.broadcast_to(bits, mean.shape).sum(1)
    return mean + scale * np.exp(log_std) * e, measures


def _gaussian(outputs: np.ndarray, rngs: Generators, config: MLPConfig, settings: Mapping[str, float]) -> Decision:
    x, measures = _normal(outputs, np.asarray(config.log_std), rngs, settings["std_scale"])
    return Decision(x.clip(-1, 1).astype(np.float32), measures)


def _squashed(outputs: np.ndarray, rngs: Generators, config: MLPConfig, settings: Mapping[str, float]) -> Decision:
    mean, log_std = np.split(outputs, 2, axis=1)
    x, measures = _normal(mean, log_std.clip(*LOG_STD_RANGE), rngs, settings["std_scale"])
    return Decision(np.tanh(x).astype(np.float32), measures)


HEADS: Mapping[str, Head] = {
    "categorical": Head(_categorical, ("temperature",)),
    "deterministic": Head(_deterministic),
    "gaussian": Head(_gaussian, ("std_scale",)),
    "squashed-gaussian": Head(_squashed, ("std_scale",)),
}
