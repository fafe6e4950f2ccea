"""Router bias: make a mixture of experts prefer chosen experts, before its top-k.

A router gives expert i the logit W_i . x. The shortest change of its input alone that adds s e to the logits is s times

    u = W^+ e      (pseudo-inverse of the (E, D) router weights; e a one-hot vector of an expert, or any (E,) vector)

since W u = e where W has full row rank. `Add` along u at the site "router", which only the router reads, is therefore exactly the bias
s e on the logits before softmax and top-k; the experts still see x. A strength in "absolute" counts in logits.

    overtake = find(policy, "router-bias", expert=3)
    with steer(policy, Add(overtake, strength=Strength(1.5))): ...

Source: DriveMoE, arXiv 2505.16278 (a skill router whose logits choose the expert of a manoeuvre). We differ in: the paper trains its
router on labelled skills and adds no bias at run time, that use of it is ours; and biasing through the router's input is ours too: it
needs no access to logits that today's implementations keep inside of the router's own forward pass. In half precision the input's
rounding adds to the bias.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import Layer, Site, Steerable, resolve

_EXACT = 1e-4


def router_bias(
    target: Steerable,
    *,
    expert: int | None = None,
    logits: Sequence[float] | None = None,
    layer: Layer | tuple[Layer, ...] = "all",
    stack: str | None = None,
) -> Direction:
    """The change of a router's input that adds one unit to chosen experts' logits.

    Args:
        expert: number of one expert, the same at all layers.
        logits: or (E,) numbers to add; a random unit vector is the control.
        layer, stack: which routers.
    Raises:
        BadInput: neither or both of expert and logits, no such expert, or weights that cannot give these logits (rank below E).
    """
    if (expert is None) == (logits is None):
        raise BadInput(f"router_bias: give either expert=... or logits=..., got {expert} and {logits}.")
    site = Site("router", layer, stack)
    raw, statistics = {}, {}
    for location in resolve(target, site):
        W = location.module.weight.detach().double().cpu()  # type: ignore[operator]
        wanted = _wanted(len(W), expert, logits, location.key)
        u = torch.linalg.pinv(W) @ wanted
        missed = float((W @ u - wanted).abs().max())
        if missed > _EXACT * float(wanted.abs().max()):
            raise BadInput(
                f"router_bias at {location.key}: no input gives these logits (off by {missed:.2g}): the (experts, width) weights "
                f"{tuple(W.shape)} have rank {int(torch.linalg.matrix_rank(W))}."
            )
        raw[location.key] = u
        statistics[location.key] = {"scale": float(u.norm())}
    info = {"expert": expert, "logits": None if logits is None else [float(value) for value in logits]}
    return Direction.from_raw(raw, site, statistics, method="router-bias", model=model_fingerprint(target), info=info)


def _wanted(n_experts: int, expert: int | None, logits: Sequence[float] | None, key: str) -> torch.Tensor:
    """(E,) float64 logits to add."""
    if expert is not None:
        if not 0 <= expert < n_experts:
            raise BadInput(f"router_bias at {key}: expert {expert} does not exist; experts are 0 to {n_experts - 1}.")
        return torch.eye(n_experts, dtype=torch.float64)[expert]
    wanted = torch.as_tensor(logits, dtype=torch.float64)
    if wanted.shape != (n_experts,) or not torch.isfinite(wanted).all() or not wanted.any():
        raise BadInput(
            f"router_bias at {key}: expected {n_experts} finite logits that are not all 0, got {list(logits or ())}."
        )
    return wanted
