"""How much one policy-gradient step changes the entropy of a decision, and weights that hold back what changes it most.

Source: STEER (arXiv 2510.10150), formula as in its released code. With the probability p of the action taken, p_old when it was drawn, the
entropy H of the decision [nats] and the advantage A, a step of size eta on the logits changes the entropy by dH ~ -eta Omega:

    Omega  = (A / p_old) p (1 - p) (ln p + H)                                   `sampled`, the paper's
    Omega  = A (p_a q_a - sum_k p_k^2 q_k),   q = ln p + H                      `exact`, to first order, for a full softmax
    lambda = exp(-kappa |Omega|),   kappa = -ln(lambda_min) / max(max |Omega|, 0.02)      in [lambda_min, 1], detached
    linear: 1.2 at the smallest |Omega| of the batch down to 0.8 at the largest

`exact` is ours: where all actions can be listed (arms, meta-actions, bins of a token) it costs nothing and leaves only the second
order. The paper's weights are on tokens of a text; here they are on actions.
"""

from __future__ import annotations

import math

import torch

from policies.errors import BadInput

FLOOR = 0.02
"""Least |Omega| that the weights are scaled by, as in the paper's code."""


def entropy(log_p: torch.Tensor) -> torch.Tensor:
    """(...) entropy [nats] of (..., K) log-probabilities."""
    return -(log_p.exp() * log_p).sum(-1)


def sampled(log_p: torch.Tensor, taken: torch.Tensor, advantage: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Omega from the action taken alone.

    Args:
        log_p: (B, K) log-probabilities now; taken: (B,) actions; advantage: (B,).
        old: (B,) log-probability of the action when it was drawn.
    """
    own = log_p.gather(-1, taken[..., None])[..., 0]
    p = own.exp()
    return advantage * (own - old).exp() * (1 - p) * (own + entropy(log_p))


def exact(log_p: torch.Tensor, taken: torch.Tensor, advantage: torch.Tensor, old: torch.Tensor) -> torch.Tensor:
    """Omega from the whole distribution; arguments as in `sampled`, with the same importance ratio p / p_old."""
    p, q = log_p.exp(), log_p + entropy(log_p)[..., None]
    own = taken[..., None]
    change = (p * q).gather(-1, own)[..., 0] - (p**2 * q).sum(-1)
    return advantage * (log_p.gather(-1, own)[..., 0] - old).exp() * change


def exponential_weights(omega: torch.Tensor, least: float = 0.8) -> torch.Tensor:
    """Lambda of the module, (B,), without gradient.

    Args:
        omega: (B,); least: lambda_min in (0, 1], the weight of the largest |Omega| of the batch; 1 weighs nothing.
    Raises:
        BadInput: least is out of range.
    """
    if not 0 < least <= 1:
        raise BadInput(f"steer-reweight: the least weight must lie in (0, 1], got {least}.")
    size = omega.detach().abs()
    kappa = -math.log(least) / max(float(size.max()), FLOOR)
    return torch.exp(-kappa * size).clamp(least, 1.0)


def linear_weights(omega: torch.Tensor, least: float = 0.8) -> torch.Tensor:
    """From 2 - least at the smallest |Omega| of the batch down to `least` at the largest; 1 where all are alike."""
    size = omega.detach().abs()
    spread = float(size.max() - size.min())
    if spread == 0:
        return torch.ones_like(size)
    return 2 - least - (2 - 2 * least) * (size - size.min()) / spread


def group_advantages(rewards: torch.Tensor) -> torch.Tensor:
    """(P, n) rewards of n answers to each of P prompts -> (r - mean) / sd within each prompt; 0 where all are equal."""
    centred = rewards - rewards.mean(1, keepdim=True)
    sd = rewards.std(1, keepdim=True, correction=0)
    return torch.where(sd > 1e-6, centred / sd.clamp(min=1e-6), torch.zeros_like(centred))


def clipped_loss(
    own: torch.Tensor,
    old: torch.Tensor,
    advantage: torch.Tensor,
    weight: torch.Tensor,
    low: float = 0.2,
    high: float = 0.28,
    dual: float = 10.0,
) -> torch.Tensor:
    """The dual-clip surrogate that the paper weighs, each action's loss times its weight, averaged.

    -min(r A, clip(r, 1 - low, 1 + high) A), for A < 0 at most -dual A; r = exp(own - old).

    Args:
        own, old: (B,) log-probability of the action now and when it was drawn; advantage, weight: (B,).
    """
    ratio = (own - old).exp()
    loss = -torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)
    loss = torch.where(advantage < 0, torch.minimum(loss, -dual * advantage), loss)
    return (weight * loss).mean()
