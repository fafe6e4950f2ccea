"""Directions from attribution: which tokens made the choice, and what is missing without them.

GrAInS (Nguyen, Prasad, Stengel-Eskin, Bansal; ACL 2026, arXiv 2507.18043; code duykhuongnguyen/GrAInS). For an objective f(x) of the
token embeddings x (N, D) and a baseline x0, integrated gradients give each token a signed score, and their sum is what there is to say:

    score_n = (x_n - x0_n) . mean_k df/dx_n (x0 + (k - 1/2)/K (x - x0)),   k = 1 ... K,        sum_n score_n ~ f(x) - f(x0)

The `top_k` tokens of largest score are replaced by the baseline, likewise those of most negative score; then, over the inputs,

    v+ = mean or first principal component of h(x) - h(x without its positive tokens),      v- the same without its negative tokens
    v  = v+ - v-

at the tokens of the site (the last one by default). f is log p(preferred) - log p(dispreferred) of the next token, or any number worked out
from a policy's actions: then image patches, words and state are tokens alike. Use `NormKeptAdd`, which restores the norm of *each token*.

Where the released code errs, and we do not: it restores norms over the sequence axis, and takes a principal component with whatever sign
the solver gave; ours is turned towards the mean difference. We also differ in: embeddings are what enters the first block, so that pictures
and words are treated alike; the baseline is the mean embedding of the inputs' tokens (`baseline="zero"` is the paper's, where networks that
normalise have a kink that integration misses), and masked tokens get that baseline instead of a pad token; the component is that of
uncentred differences, as in `pca`; v+ and v- are unit vectors before they are subtracted where they are components. Completeness, the
largest |sum of scores - (f(x) - f(x0))|, is in info["completeness"].
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from policies.errors import BadInput, NonFinite, nearest
from steer_agents import capture
from steer_agents.capture import Batch
from steer_agents.direction import Direction
from steer_agents.finding.contrast import batches_of
from steer_agents.finding.gradient import named_functional
from steer_agents.finding.scenes import default_site, half_cosine, leaves
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.gradients import Functional
from steer_agents.passes import device_of, n_rows, outputs
from steer_agents.sites import Site, Steerable, resolve
from steer_agents.tokens import Pass, TokenScope, as_scope, declared_pass

Objective = Callable[[Batch], torch.Tensor]
"""batch -> (B,) numbers of the module's pass on it, with a graph."""
BASELINES, COMBINE = ("mean", "zero"), ("pca", "mean")


@dataclass(frozen=True)
class Attribution:
    """Of one batch: (B, N) scores, 0 at tokens that do not count; which tokens count; (B,) f(x) and f(x0)."""

    scores: torch.Tensor
    counted: torch.Tensor
    value: torch.Tensor
    baseline: torch.Tensor

    @property
    def gap(self) -> float:
        """How far the scores are from adding up, at worst."""
        return float((self.scores.sum(1) - (self.value - self.baseline)).abs().max())


def grains(
    target: Steerable,
    *,
    inputs: Sequence[Any],
    preferred: int | Sequence[int] | None = None,
    dispreferred: int | Sequence[int] | None = None,
    functional: str | Functional | None = None,
    top_k: int = 10,
    among: TokenScope | str = "all",
    steps: int = 50,
    baseline: str = "mean",
    combine: str = "pca",
    site: Site | None = None,
) -> Direction:
    """What the tokens that speak for the preferred answer add, less what those against it add.

    Args:
        inputs: prompts or scenes that the policy's `encode` takes, or batches of the module.
        preferred, dispreferred: token ids of the answers, one for all inputs or one each; for language models.
        functional: or else a number worked out from the actions, see `action_gradient`; for policies that give action values.
        top_k: tokens that are masked of either sign, at most half of those that count.
        among: only these tokens may be masked, e.g. token_class("image").
        steps: K of the integral.
        baseline: "mean" or "zero".
        combine: "pca" or "mean".
        site: where to read; default: every layer's `block_output` at the last token, for a functional as in `default_site`. It is
            applied at all tokens of the same layers.
    Raises:
        BadInput: no objective or two, answers that do not fit, a network without tokens, or no token of some sign in all inputs.
    """
    for name, value, known in (("baseline", baseline, BASELINES), ("combine", combine, COMBINE)):
        if value not in known:
            raise BadInput(f"grains: {name} {value!r} is unknown{nearest(value, known)}")
    if top_k < 1 or steps < 1:
        raise BadInput(f"grains: top_k and steps start at 1, got {top_k} and {steps}.")
    objective = _objective(target, preferred, dispreferred, functional)
    site = site or (Site(tokens="last") if functional is None else default_site(target, None))
    door = _Door(target, as_scope(among), site.stack)
    changes: dict[str, dict[str, list[torch.Tensor]]] = {"positive": {}, "negative": {}}
    seen: dict[str, capture.Moments] = {}
    gap, start = 0.0, 0
    for one in inputs:
        (batch,) = batches_of(target, [one])
        stop = start + n_rows(batch)
        found, empty = attribute(door, batch, partial(objective, slice(start, stop)), steps, baseline)
        gap, start = max(gap, found.gap), stop
        whole, moments = capture.scene_means(target, [batch], site)
        for side, sign in (("positive", 1.0), ("negative", -1.0)):
            masked = top_tokens(sign * found.scores, found.counted, top_k)
            with door.replaced(partial(_masked, masked, empty)):
                without, _ = capture.scene_means(target, [batch], site)
            for key, h in whole.items():
                changes[side].setdefault(key, []).append(h.double() - without[key].double())
        for key, moment in moments.items():
            seen[key] = seen[key].merged(moment) if key in seen else moment
    if not start:
        raise BadInput("grains: got no inputs.")
    raw, fit = {}, {}
    for key in seen:
        sides = {side: torch.cat(rows[key]) for side, rows in changes.items()}
        if not all(rows.any() for rows in sides.values()):
            idle = [side for side, rows in sides.items() if not rows.any()]
            raise BadInput(
                f"grains at {key}: masking {idle} tokens changes nothing; this site does not see them, or there are none."
            )
        raw[key] = _combined(sides, combine)
        halves = [_combined({s: rows[i::2] for s, rows in sides.items()}, combine) for i in (0, 1)] if start > 3 else []
        fit[key] = {"half_cosine": half_cosine(*halves) if halves else None}
    statistics = {key: capture.statistics_of(seen[key], v / v.norm()) for key, v in raw.items() if v.norm() > 0}
    data = [leaf for one in inputs for leaf in (leaves(one) if isinstance(one, Mapping) else [one])]
    info = {
        "data": data_fingerprint(*data), "n_inputs": start, "completeness": gap, "captured_at": site.describe(), "top_k": top_k,
        "steps": steps, "baseline": baseline, "combine": combine, "fit": fit,
    }  # fmt: skip
    where = Site(site.kind, site.layer, site.stack, heads=site.heads)
    return Direction.from_raw(raw, where, statistics, method="grains", model=model_fingerprint(target), info=info)


def _objective(
    target: Steerable,
    preferred: int | Sequence[int] | None,
    dispreferred: int | Sequence[int] | None,
    functional: str | Functional | None,
) -> Callable[[slice, Batch], torch.Tensor]:
    """(which of all inputs the rows are, batch) -> (B,) numbers."""
    if (functional is None) == (preferred is None) or (preferred is None) != (dispreferred is None):
        raise BadInput(
            "grains: give preferred and dispreferred token ids (language models), or a functional of the actions, and not both."
        )
    if functional is not None:
        policy = target.policy
        if policy is None:
            raise BadInput("grains: a functional needs a policy that gives action values, got a bare torch module.")
        function = named_functional(functional) if isinstance(functional, str) else functional
        return lambda rows, batch: function(policy.action_values(dict(batch)))
    assert preferred is not None
    assert dispreferred is not None

    def ids(given: int | Sequence[int], rows: slice) -> torch.Tensor:
        chosen = [given] * (rows.stop - rows.start) if isinstance(given, int) else list(given)[rows]
        if len(chosen) != rows.stop - rows.start:
            raise BadInput(f"grains: expected one answer for each input, got {len(list(given))}.")  # type: ignore[arg-type]
        return torch.tensor(chosen, device=device_of(target))[:, None]

    def margin(rows: slice, batch: Batch) -> torch.Tensor:
        padding = batch.get("attention_mask") if isinstance(batch, Mapping) else None
        if padding is not None and not bool(padding[:, -1].all()):
            raise BadInput("grains: the next token is read off the last column; pad batches on the left.")
        log_p = outputs(target, batch)[:, -1].log_softmax(-1)
        return (log_p.gather(1, ids(preferred, rows)) - log_p.gather(1, ids(dispreferred, rows)))[:, 0]

    return margin


def attribute(
    door: _Door, batch: Batch, objective: Objective, steps: int, baseline: str
) -> tuple[Attribution, torch.Tensor]:
    """Integrated gradients of an objective over the tokens of a batch; and the (B, 1, D) baseline embedding."""
    with door.reads() as held, torch.no_grad():
        value = objective(batch)
    x, counted = held[0], door.counted(batch, held[0])
    share = counted.to(x)[..., None]
    mean = (x * share).sum(1, keepdim=True) / share.sum(1, keepdim=True).clamp(min=1)
    empty = mean if baseline == "mean" else torch.zeros_like(mean)
    way = (x - empty) * share
    total = torch.zeros_like(x)
    for k in range(steps):
        at = (x - way * (1 - (k + 0.5) / steps)).requires_grad_()
        with door.replaced(partial(_instead, at)), torch.enable_grad():
            (slope,) = torch.autograd.grad(objective(batch).sum(), at)
        total += slope / steps
    with door.replaced(partial(_instead, x - way)), torch.no_grad():
        none = objective(batch)
    scores = (way * total).sum(-1)
    if not (torch.isfinite(scores).all() and torch.isfinite(value).all()):
        raise NonFinite("grains: scores or objective are NaN or infinite; the objective may have no gradient there.")
    return Attribution(scores, counted, value, none), empty


def top_tokens(scores: torch.Tensor, counted: torch.Tensor, top_k: int) -> torch.Tensor:
    """(B, N) bool: the `top_k` largest scores of each row that are above 0, at most half of the tokens that count."""
    order = scores.masked_fill(~counted, -torch.inf).argsort(1, descending=True)
    rank = order.argsort(1)
    most = (counted.sum(1, keepdim=True) // 2).clamp(min=1, max=top_k)
    return (rank < most) & counted & (scores > 0)


def _masked(masked: torch.Tensor, empty: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return torch.where(masked[..., None], empty, x)


def _instead(new: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    return new


def first_component(rows: torch.Tensor, towards: torch.Tensor) -> torch.Tensor:
    """The (D,) leading unit eigenvector of sum_i d_i d_i^T over (n, D) rows, turned so that its product with `towards` is not negative."""
    component = torch.linalg.svd(rows, full_matrices=False).Vh[0]
    return component if float(component @ towards) >= 0 else -component


def _combined(sides: Mapping[str, torch.Tensor], combine: str) -> torch.Tensor:
    """v+ - v-."""
    means = {side: rows.mean(0) for side, rows in sides.items()}
    if combine == "mean":
        return means["positive"] - means["negative"]
    parts = {side: first_component(rows, means[side]) for side, rows in sides.items()}
    return parts["positive"] - parts["negative"]


class _Door:
    """What enters the first block of a stack: where tokens are read, and replaced."""

    def __init__(self, target: Steerable, among: TokenScope, stack_name: str | None) -> None:
        name, stack = target.stack(stack_name)
        if not stack.tokens or stack.repeated or stack.axes != "BND":
            raise BadInput(
                f"grains: stack {name!r} of {target.site_map.name} has no tokens that enter once; take action-gradient instead."
            )
        self._block = target.blocks(name)[0][1][0]
        first = Site(layer=0, stack=stack_name, tokens=among)
        resolve(target, first)  # refuses scopes that mean nothing there
        self._target, self._tracked = target, capture.Tracked(target, first)
        self._declared: Pass | None = None

    def counted(self, batch: Batch, x: torch.Tensor) -> torch.Tensor:
        """(B, N) bool of the tokens that may be masked; the pass on the batch has just been."""
        current = self._tracked.observe(batch)
        mask = self._tracked.mask(current or self._declared)
        return torch.ones(x.shape[:2], dtype=torch.bool, device=x.device) if mask is None else mask.to(x.device)

    @contextmanager
    def reads(self) -> Iterator[list[torch.Tensor]]:
        """Keep what enters while the block lasts."""
        held: list[torch.Tensor] = []

        def keep(x: torch.Tensor) -> torch.Tensor:
            held.append(x.detach())
            return x

        with self.replaced(keep):
            yield held

    @contextmanager
    def replaced(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Iterator[None]:
        """Let change(x) (B, N, D) enter in place of x while the block lasts."""
        policy = self._target.policy

        def before(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            self._declared = None if policy is None else declared_pass(policy.context)
            if args:
                return (change(args[0]), *args[1:]), kwargs
            return args, {**kwargs, "hidden_states": change(kwargs["hidden_states"])}

        handle = self._block.register_forward_pre_hook(before, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()
