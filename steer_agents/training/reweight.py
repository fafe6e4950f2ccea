"""Reinforcement learning of an agent's choices with rewards that can be checked, and entropy-change-aware weights on its actions.

Source: STEER (arXiv 2510.10150); estimator, weights and surrogate are in `entropy_change.py`. Per step: P prompts, n actions drawn for
each, rewards, advantages normalised within each prompt's group (GRPO), one step on low-rank adapters beside the frozen model.

`weights` is one of
    exact, sampled   exponential weights by `entropy_change.exact` or the paper's `sampled`
    linear           the paper's linear variant, on `exact`
    uniform          none: plain group-normalised policy gradient
    norm-matched     the control: uniform, with the gradient shrunk to the norm that `exact` gives it at that step

Without `norm-matched` nothing is shown: weights below 1 shrink the step, and much of what the entropy then does is the smaller step
(measured on a stationary bandit: most of it).

We differ from the paper in: one action is one decision with all its alternatives at hand, so that `exact` is possible and rewards need no
parsing; every batch is used once, so the ratio p / p_old is 1 at the step and the clip does nothing (`clipped_loss` is there for
those who reuse batches); Adam on adapters of rank 4 instead of all weights, for minutes on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput, nearest
from steer_agents.capture import Batch
from steer_agents.finding.contrast import batches_of
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.learning.trainer import Settings, draw, split, train
from steer_agents.sites import Steerable
from steer_agents.training.entropy_change import (
    clipped_loss,
    exact,
    exponential_weights,
    group_advantages,
    linear_weights,
    sampled,
)
from steer_agents.training.lora import TARGETS, Adapters

Weigh = Callable[..., torch.Tensor]
"""(log_p, taken, advantage, old, least) -> (B,) weights."""
WEIGHTS: Mapping[str, Weigh] = {
    "exact": lambda log_p, taken, advantage, old, least: exponential_weights(
        exact(log_p, taken, advantage, old), least
    ),
    "sampled": lambda log_p, taken, advantage, old, least: exponential_weights(
        sampled(log_p, taken, advantage, old), least
    ),
    "linear": lambda log_p, taken, advantage, old, least: linear_weights(exact(log_p, taken, advantage, old), least),
    "uniform": lambda log_p, taken, advantage, old, least: torch.ones_like(advantage),
}
MATCHED = "norm-matched"
Reward = Callable[[Any, int], float]
"""(input, action) -> a reward that can be checked."""


def steer_reweight(
    target: Steerable,
    *,
    inputs: Sequence[Any],
    actions: Sequence[int],
    reward: Reward,
    weights: str = "exact",
    least: float = 0.8,
    group: int = 8,
    rank: int = 4,
    targets: tuple[str, ...] = TARGETS,
    settings: Settings | None = None,
    share: float = 0.25,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Adapters:
    """Train adapters so that the agent's choices earn more; the model itself stays as it is (arXiv 2510.10150).

    Args:
        target: a policy with a language model.
        inputs: prompts, each ending where the action is named.
        actions: K token ids that name the actions (`policies.llm_agent.prompts.label_token_ids`).
        reward: see `Reward`; asked of every action of the held-out prompts, and of drawn ones in training.
        weights: see the module; least: lambda_min.
        group: n, actions drawn per prompt.
        rank, targets: of the adapters.
        settings: of the training; `batch_size` is P.
        share: of the prompts that early stopping is judged on, by the expected reward under the exact probabilities.
        folder: of the run; an interrupted one goes on there.
    Returns:
        `with adapters.on(policy.module): ...`, `adapters.merge(policy.module)`, `adapters.save(folder)`. Their `info` has the curve's ends
        and the entropy [nats] on held-out prompts before and after.
    Raises:
        BadInput: unknown weights, fewer than two actions or prompts, or a model that gives no logits.
    """
    if weights not in (*WEIGHTS, MATCHED):
        raise BadInput(f"steer-reweight: weights {weights!r} are unknown{nearest(weights, (*WEIGHTS, MATCHED))}")
    if len(set(actions)) < 2 or group < 2:
        raise BadInput(
            f"steer-reweight: needs two different actions or more, and groups from 2; got {actions}, {group}."
        )
    settings = settings or Settings(learning_rate=0.01)
    learnt, held = split(list(inputs), share, settings.seed)
    module, ids = target.module, torch.as_tensor(list(actions))
    adapters = Adapters.beside(module, rank, 2.0 * rank, targets, settings.seed)
    payoff = torch.tensor([[float(reward(one, k)) for k in range(len(ids))] for one in held])

    def log_p(some: Sequence[Any]) -> torch.Tensor:
        return torch.cat([_last_logits(module, batch, ids) for batch in batches_of(target, some)]).log_softmax(-1)

    def surrogate(step: int) -> torch.Tensor:
        some = draw(learnt, settings.batch_size)
        now = log_p(some)
        taken = torch.multinomial(now.detach().exp(), group, replacement=True)
        rewards = torch.tensor(
            [[float(reward(one, int(k))) for k in row] for one, row in zip(some, taken, strict=True)]
        )
        advantage = group_advantages(rewards).flatten()
        every, flat = now.repeat_interleave(group, 0), taken.flatten()
        own = every.gather(1, flat[:, None])[:, 0]
        old = own.detach()

        def weighed(name: str) -> torch.Tensor:
            return clipped_loss(own, old, advantage, WEIGHTS[name](every.detach(), flat, advantage, old, least))

        if weights != MATCHED:
            return weighed(weights)
        return norm_matched(weighed("uniform"), weighed("exact"), list(attached.values()))

    def loss_held() -> float:
        return -float((log_p(held).exp() * payoff).sum(1).mean())

    def entropy_held() -> float:
        with torch.no_grad():
            now = log_p(held)
            return float(-(now.exp() * now).sum(1).mean())

    asked = {
        "weights": weights,
        "least": least,
        "group": group,
        "rank": rank,
        "targets": list(targets),
        "data": data_fingerprint(*map(str, inputs)),
    }
    fingerprint = model_fingerprint(target)  # of the model alone
    with adapters.on(module) as attached:
        before = entropy_held()
        done = train(
            attached, surrogate, loss_held, settings, folder, asked=asked, title="steer-reweight", progress=progress
        )
        info = {**asked, **done.notes(), "entropy": [before, entropy_held()], "seed": settings.seed}
        return Adapters(adapters.config, {name: p.detach().clone() for name, p in attached.items()}, fingerprint, info)


def norm_matched(plain: torch.Tensor, weighed: torch.Tensor, tensors: Sequence[torch.Tensor]) -> torch.Tensor:
    """The plain loss times a constant, so that its gradient has the norm of the weighed one's."""
    sizes = [
        torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, tensors, retain_graph=True)]).norm()
        for loss in (plain, weighed)
    ]
    return plain * (sizes[1] / sizes[0].clamp(min=1e-30)).detach()


def _last_logits(module: torch.nn.Module, batch: Batch, ids: torch.Tensor) -> torch.Tensor:
    """(B, K) logits of the actions at the last position."""
    output = module(**batch) if isinstance(batch, Mapping) else module(batch)
    logits = getattr(output, "logits", None)
    if logits is None:
        raise BadInput(f"steer-reweight: the model gives {type(output).__name__} without logits; use a language agent.")
    return logits[:, -1, ids.to(logits.device)].float().cpu()  # rewards and draws are there
