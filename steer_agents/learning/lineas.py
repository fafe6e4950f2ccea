"""Maps of all layers learned together: LinEAS (Rodriguez et al., NeurIPS 2025, arXiv 2503.10679).

With maps T_l(h) = a_l h + b_l at the chosen locations, source activations xi^l go through the edited network, wanted ones eta^l through
the original:

    sum_l sum_j W2^2(xi^l_j, eta^l_j)  +  l1 sum |theta|  +  group sum_l sqrt(2 D) ||theta_l||,      theta = (a - 1, b / sd)

W2^2 of one unit j is a sort (`transport.wasserstein2`), so inputs need no pairs and their order does not matter. Proximal gradient descent
with a cosine learning rate: after each step soft-threshold by lr l1, then shrink each layer's theta_l by lr group sqrt(2 D). theta is
measured from the identity, so that a unit whose theta is 0 is left alone to the bit.

We know the paper from its algorithm and notes, not from released code. Ours are: units are standardised by mean and standard deviation of
the negative inputs at the unedited network (b in those units, W2^2 divided by the variance), so that one learning rate and one l1 serve
all units; the centring of the penalties; a group is one layer; gradients together are clipped to norm `max_norm`; the start is the
closed-form map of `transport.linear_transport` ("identity" starts from nothing); held-out inputs decide when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.affine_maps import AffineMap, Transport
from steer_agents.finding.contrast import batches_of
from steer_agents.fingerprint import model_fingerprint
from steer_agents.learning.trainer import Settings, cosine, draw, split, train
from steer_agents.learning.transport import linear_transport, wasserstein2
from steer_agents.passes import device_of, fingerprint_of, pooled
from steer_agents.sites import Site, Steerable
from steer_agents.steerer import steer

STARTS = ("linear-transport", "identity")
_DEFAULT = Settings(steps=300, learning_rate=0.1, batch_size=32, patience=None)


def lineas(
    target: Steerable,
    *,
    positive: Sequence[Any],
    negative: Sequence[Any],
    site: Site | None = None,
    l1: float = 0.0,
    group: float = 0.0,
    start: str = "linear-transport",
    held_out: float = 0.25,
    max_norm: float = 10.0,
    settings: Settings = _DEFAULT,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> AffineMap:
    """The maps that together make negative inputs' activations distributed like positive ones', at every chosen layer at once.

    Args:
        positive, negative: raw inputs or batches, see `finding.contrast.Inputs`; unpaired, sets may differ in size.
        site: where to read and to map; default: every layer's `block_output`, all tokens, of which means are compared.
        l1, group: weights of the penalties; either makes units, or whole layers, the exact identity.
        start: "linear-transport" or "identity".
        held_out: share of the inputs of each side that decides when to stop; 0 lets the training inputs decide.
        max_norm: of all gradients together.
        settings: a step draws `batch_size` negative inputs; an input that is a batch counts once.
        folder, progress: see `trainer.train`.
    Raises:
        BadInput: too few inputs, an unknown start, or a negative penalty.
    """
    if start not in STARTS:
        raise BadInput(f"lineas: start {start!r} is unknown{nearest(start, STARTS)}")
    if not (l1 >= 0 and group >= 0 and math.isfinite(l1 + group)):
        raise BadInput(f"lineas: penalties are numbers from 0, got l1={l1} and group={group}.")
    site = site or Site()
    seed = settings.seed
    plus, plus_held = split(positive, held_out, seed) if held_out else (list(positive), list(positive))
    minus, minus_held = split(negative, held_out, seed) if held_out else (list(negative), list(negative))
    wanted, wanted_held = (capture.scene_means(target, batches_of(target, one), site)[0] for one in (plus, plus_held))
    before, _ = capture.scene_means(target, batches_of(target, minus), site)
    device = device_of(target)
    maps = _Maps(before, device)
    if start == "linear-transport":
        maps.take(linear_transport(target, positive=plus, negative=minus, site=site, support=None))

    def distance(inputs: Sequence[Any], eta: dict[str, torch.Tensor]) -> torch.Tensor:
        with steer(target, Transport(maps.made(site))):
            xi = pooled(target, inputs, site)
        return torch.stack([
            (wasserstein2(xi[key], eta[key].to(device)) / maps.sd[key].square()).sum() for key in xi
        ]).sum()  # fmt: skip

    def after(lr: float) -> None:
        maps.shrink(lr * l1, lr * group)

    done = train(
        maps.theta,
        lambda step: distance(draw(minus, settings.batch_size), wanted),
        lambda: float(distance(minus_held, wanted_held) + maps.penalty(l1, group)),
        settings,
        folder,
        optimizer=torch.optim.SGD,
        rate=cosine,
        after=after,
        max_norm=max_norm,
        asked={
            "data": fingerprint_of(positive, negative), "site": site.describe(), "l1": l1, "group": group, "start": start,
            "held_out": held_out, "max_norm": max_norm, "model": model_fingerprint(target),
        },
        title="lineas",
        progress=progress,
    )  # fmt: skip
    found = maps.made(site)
    info = {"data": fingerprint_of(positive, negative), "seed": seed, "l1": l1, "group": group, "start": start}
    return AffineMap(
        {key: value.detach().cpu() for key, value in found.scale.items()},
        {key: value.detach().cpu() for key, value in found.offset.items()},
        site,
        method="lineas",
        model=model_fingerprint(target),
        info={**info, "active": found.active(), "trained": done.notes()},
    )


class _Maps:
    """theta = (a - 1, (b + (a - 1) mean) / sd) of every location: what is learned.

    h -> mean + sd ((1 + theta_0) z + theta_1) with z = (h - mean) / sd, hence a = 1 + theta_0 and b = sd theta_1 - mean theta_0.
    """

    def __init__(self, before: dict[str, torch.Tensor], device: torch.device) -> None:
        self.mean = {key: h.mean(0).to(device) for key, h in before.items()}
        self.sd = {key: h.std(0).to(device) for key, h in before.items()}
        for key, sd in self.sd.items():
            if len(before[key]) < 2 or not bool((sd > 0).any()):
                raise BadInput(f"lineas at {key}: the negative inputs' activations do not vary; give more of them.")
            self.sd[key] = sd.clamp(
                min=1e-3 * float(sd.median()) + 1e-12
            )  # a unit that hardly varies does not rule all
        self.theta = {key: torch.zeros(2, len(sd), device=device, requires_grad=True) for key, sd in self.sd.items()}

    def take(self, given: AffineMap) -> None:
        """Start from a map."""
        with torch.no_grad():
            for key, theta in self.theta.items():
                theta[0] = given.scale[key].to(theta) - 1
                theta[1] = (given.offset[key].to(theta) + theta[0] * self.mean[key]) / self.sd[key]

    def made(self, site: Site) -> AffineMap:
        """The map that theta stands for, in its graph."""
        scale = {key: 1 + theta[0] for key, theta in self.theta.items()}
        offset = {key: self.sd[key] * theta[1] - self.mean[key] * theta[0] for key, theta in self.theta.items()}
        return AffineMap(scale, offset, site)

    def shrink(self, l1: float, group: float) -> None:
        """The proximal operator of both penalties: soft threshold, then group shrink."""
        for theta in self.theta.values():
            if l1:
                theta.copy_(theta.sign() * (theta.abs() - l1).clamp(min=0))
            if group:
                norm = theta.norm().clamp(min=1e-30)
                theta.mul_((1 - group * math.sqrt(theta.numel()) / norm).clamp(min=0))

    def penalty(self, l1: float, group: float) -> float:
        thetas = [theta.detach() for theta in self.theta.values()]
        return sum(l1 * float(t.abs().sum()) + group * math.sqrt(t.numel()) * float(t.norm()) for t in thetas)
