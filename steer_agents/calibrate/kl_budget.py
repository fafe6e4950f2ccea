"""Calibration: the strength whose effect on the next token's distribution stays within a budget.

    strength = within_kl_budget(policy, direction, prompts, epsilon=1e-3)
    with steer(policy, Add(direction, strength=strength)):
        ...

Source: ASC, arXiv 2507.04742 (the bound, epsilon = 1e-3 and 50 states). With unit v, a = ||J v|| and L a bound on the second
directional derivative of the logits, steering by g changes the output by KL(p || p~) <= 1/4 (a g + L g^2 / 2)^2, in both
directions; `strength.kl_budget` solves it for g, `strength.measure_sensitivity` estimates a and L by central differences.

We differ from the source in: the exact solution instead of a truncated cubic; the 95th percentile over the states of both
a and L, where the paper takes the median of a (with which half of all states may exceed the budget); and logits with their
mean taken off, since a shift of all of them changes no probability but would use up the budget.

What is approximate. (1) a and L come from differences at displacement 0, so L is the curvature there and no bound on the
whole way to g; the bound itself is several times loose, which usually covers it. (2) A quantile below 1 lets the remaining
states exceed the budget. (3) The budget is per token and for the tokens already there: sustained steering also changes
the cache of keys and values, and the divergence of a sequence adds up over its tokens. (4) Rounding in float32 adds to L and
so only lowers the strength.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from policies.errors import BadInput, NonFinite
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.contrast import batches_of
from steer_agents.interventions import Add
from steer_agents.sites import Site, Steerable, resolve, steerable
from steer_agents.steerer import steer
from steer_agents.strength import Strength, kl_budget, measure_sensitivity


def within_kl_budget(
    target: Any,
    direction: Direction,
    inputs: Sequence[Any],
    epsilon: float,
    site: Site | None = None,
    quantile: float = 0.95,
    step: float = 0.01,
    all_layers: bool = False,
    allow_other_model: bool = False,
) -> Strength:
    """The strength of `Add(direction)` at which the next-token KL divergence stays below `epsilon` nats.

    Args:
        target: a policy, torch module or `Steerable`, in float32 (second differences drown in bfloat16's rounding).
        direction: what is added; the result is in its "absolute" unit, so that its scale is accounted for.
        inputs: prompts of the policy, or batches of module inputs; the last real position of every row is one state.
        epsilon: the budget [nats] per token.
        site: where it is added; None takes the direction's own site, tokens and phases included.
        quantile: over the states, in (0, 1]; 1 makes every state measured keep to the budget.
        step: displacement of the differences, as a fraction of the mean activation norm E||h|| at the site.
        all_layers: calibrate a site of several layers as a whole: every layer is displaced by the same strength (times the
            direction's scale there), and the budget holds for all of them together. Without it several layers are refused.
        allow_other_model: accept a direction that was found on another model.
    Returns:
        Strength(value, "absolute"), positive. By symmetry of the bound, minus the value keeps to the budget as well.

    Raises:
        BadInput: several layers without `all_layers`, half-precision, no logits, or a direction without any effect.
        NonFinite: the logits are NaN or infinite.
    """
    if epsilon <= 0 or not 0 < quantile <= 1 or step <= 0:
        raise BadInput(
            f"within_kl_budget: need epsilon > 0, 0 < quantile <= 1 and step > 0; got {epsilon}, {quantile} and {step}."
        )
    if len(inputs) == 0:
        raise BadInput("within_kl_budget: got no inputs; pass prompts or batches, about 50 states.")
    target = steerable(target)
    site = site or direction.site
    locations = resolve(target, site)
    if len(locations) > 1 and not all_layers:
        raise BadInput(
            f"within_kl_budget: the site covers {len(locations)} layers, and one number then means a displacement at all of them "
            "together. Pass all_layers=True if that is meant, or one layer: direction.at(layer)."
        )
    half = {str(p.dtype) for p in target.module.parameters() if p.dtype in (torch.bfloat16, torch.float16)}
    if half:
        raise BadInput(
            f"within_kl_budget: the model is in {', '.join(sorted(half))}, whose rounding hides second differences. Load it "
            "in float32 to calibrate; the strength then holds for the half-precision model too."
        )
    batches = batches_of(target, inputs)
    norms = _mean_norms(target, direction, batches, site, [location.key for location in locations])
    smallest = min(norm / direction.scale(key) for key, norm in norms.items())
    part = Add(direction, strength=Strength(0.0), site=site)
    with steer(target, part, allow_other_model=allow_other_model) as steering:

        def logits(displacement: float) -> torch.Tensor:
            steering.set_strength(displacement)
            return torch.cat([_last_logits(target, batch) for batch in batches])

        slope, curvature = measure_sensitivity(logits, step * smallest, quantile)
    return Strength(kl_budget(epsilon, slope, curvature), "absolute")


def _mean_norms(
    target: Steerable, direction: Direction, batches: list[capture.Batch], site: Site, keys: list[str]
) -> dict[str, float]:
    """E||h|| per location: the direction's own, or measured on the inputs where it does not carry it."""
    known = {key: direction.statistic(key, "mean_norm") for key in keys}
    if all(known.values()):
        return {key: float(value or 0.0) for key, value in known.items()}
    last = Site(site.kind, site.layer, site.stack, heads=site.heads)
    measured = capture.moments(target, batches, last, covariance=False)
    return {key: known[key] or measured[key].mean_norm for key in keys}


def _last_logits(target: Steerable, batch: capture.Batch) -> torch.Tensor:
    """(B, V) float64 logits at the last real position of every row, their mean taken off: it cancels in the softmax.

    The output of a module without a token axis is taken as it is.
    """
    module = target.module
    device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
    mask = None
    with torch.no_grad():
        if isinstance(batch, Mapping):
            batch = {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
            mask = batch.get("attention_mask")
            options: dict[str, Any] = {"use_cache": False} if hasattr(module, "lm_head") else {}
            if options and (
                mask is None or bool(mask[:, -1].all())
            ):  # the last column is the last position of every row
                options["logits_to_keep"] = 1
            output = module(**{**options, **batch})
        else:
            output = module(batch.to(device))
    logits = getattr(output, "logits", output)
    if not torch.is_tensor(logits) or logits.dim() not in (2, 3):
        raise BadInput(
            f"within_kl_budget: {type(module).__name__} returned {type(output).__name__}, no (B, N, V) or (B, V) logits. Pass "
            "the policy's model that ends in logits."
        )
    if logits.dtype not in (torch.float32, torch.float64):
        raise BadInput(f"within_kl_budget: the logits are {logits.dtype}; load the model in float32 to calibrate.")
    if logits.dim() == 3:
        B, N = logits.shape[:2]
        last = torch.full((B,), N - 1, device=logits.device)
        if mask is not None:
            last = (mask[:, -N:].long() * torch.arange(N, device=mask.device)).argmax(1)
        logits = logits[torch.arange(B, device=logits.device), last]
    if not torch.isfinite(logits).all():
        raise NonFinite("within_kl_budget: the model gave NaN or infinite logits on these inputs.")
    logits = logits.double().cpu()
    return logits - logits.mean(-1, keepdim=True)
