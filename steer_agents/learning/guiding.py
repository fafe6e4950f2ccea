"""A controller that says when to steer and how hard: Guiding Giants, weighted activation steering (Hegazy, Elhoushi, Alanwar; arXiv
2505.20309; TrustNLP 2026; code Amr-Hegazy1/GuidingGiantsWAS).

The frozen model's activations x at the last token of some layers are read once; then a network with one hidden layer (`controller.control`)
learns, with label 1 for positive inputs (steer) and 0 for negative ones (leave alone),

    BCE(sigmoid(s), label)  +  0.1 (mean |sigmoid(omega) - 1/2| + 0.01 mean sigmoid(omega))      the second term on positive inputs only

by AdamW. No behaviour enters this loss: `s` learns to tell the inputs apart, but the layers' omega only get the penalty, and stay near
sigmoid(omega) = 1/2. "Per-layer weights" are therefore not learned by it; info["layer_weights"] has them.

We differ from the release in: the direction is yours (there the difference of input-embedding centroids of refusals and compliances);
activations are standardised; the layers read must lie before those steered (there the last four are read, and only the last can act); what
the logit does at run time (see `steer_agents.controller`); held-out inputs decide when to stop.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.controller import Controller, check_order, control
from steer_agents.finding.contrast import batches_of
from steer_agents.fingerprint import model_fingerprint
from steer_agents.learning.trainer import Settings, split, train
from steer_agents.passes import fingerprint_of
from steer_agents.sites import Layer, Site, Steerable, resolve

_DEFAULT = Settings(steps=1250, learning_rate=5e-5, batch_size=8)


def guiding_giants(
    target: Steerable,
    *,
    positive: Sequence[Any],
    negative: Sequence[Any],
    site: Site,
    steer_layers: Layer | tuple[Layer, ...],
    hidden: int = 1024,
    held_out: float = 0.25,
    settings: Settings = _DEFAULT,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Controller:
    """The gate that opens on inputs like the positive ones.

    Args:
        positive: inputs to steer on, see `finding.contrast.Inputs`; negative: those to leave alone.
        site: the layers to read, `block_output`; its tokens are ignored, the last one is read.
        steer_layers: layers to steer, all behind those.
        hidden: width of the network.
        held_out: share of the rows of each side that decides when to stop.
        settings: a step draws `batch_size` rows.
        folder, progress: see `trainer.train`.
    Raises:
        BadInput: a layer is read at or behind one that is steered, another kind of site, or too few inputs.
    """
    if site.kind != "block_output" or site.heads is not None:
        raise BadInput(f"guiding-giants: it reads 'block_output', got {site.kind!r}.")
    read = Site(layer=site.layer, stack=site.stack, tokens="last")
    steered = replace(read, layer=steer_layers)
    keys, places = (tuple(location.key for location in resolve(target, one)) for one in (read, steered))
    check_order(keys, places)
    rows, labels = [], []
    for label, inputs in ((1.0, positive), (0.0, negative)):
        found = capture.rows(target, batches_of(target, inputs), read)
        rows.append(torch.cat([found[key] for key in keys], dim=-1))
        labels.append(torch.full((len(rows[-1]),), label))
    parts = [split(range(len(one)), held_out, settings.seed) for one in rows]
    x, y, x_held, y_held = (
        torch.cat([values[i][parts[i][j]] for i in (0, 1)])
        for j, values in ((0, rows), (0, labels), (1, rows), (1, labels))
    )
    tensors = _start(x, len(places), hidden, settings.seed)

    def loss(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        s, omega = control(x, tensors)
        value = functional.binary_cross_entropy_with_logits(s, y)
        if bool(y.any()):
            open_ = torch.sigmoid(omega[y > 0])
            value = value + 0.1 * ((open_ - 0.5).abs().mean() + 0.01 * open_.mean())
        return value

    def drawn(step: int) -> torch.Tensor:
        chosen = torch.randperm(len(x))[: settings.batch_size]
        return loss(x[chosen], y[chosen])

    data = fingerprint_of(positive, negative)
    done = train(
        {name.replace(".", "_"): value for name, value in tensors.items() if value.requires_grad},
        drawn, lambda: float(loss(x_held, y_held)), settings, folder, optimizer=torch.optim.AdamW,
        asked={"data": data, "reads": keys, "steers": places, "held_out": held_out, "model": model_fingerprint(target)},
        title="guiding-giants", progress=progress,
    )  # fmt: skip
    with torch.no_grad():
        layer_weights = torch.sigmoid(control(x_held, tensors)[1]).mean(0).tolist()
    info = {"data": data, "seed": settings.seed, "trained": done.notes(), "layer_weights": layer_weights}
    kept = {name: value.detach() for name, value in tensors.items()}
    return Controller(keys, places, kept, steered, model_fingerprint(target), info)


def _start(x: torch.Tensor, n_steered: int, hidden: int, seed: int) -> dict[str, torch.Tensor]:
    """Random layers as torch's Linear draws them, and how activations are standardised."""
    if hidden < 1:
        raise BadInput(f"guiding-giants: hidden must be at least 1, got {hidden}.")
    generator = torch.Generator().manual_seed(seed)
    tensors = {"mean": x.mean(0), "sd": x.std(0).clamp(min=1e-6)}
    for name, n_in, n_out in (("hidden", x.shape[1], hidden), ("head", hidden, 1 + n_steered)):
        for part, shape in (("weight", (n_out, n_in)), ("bias", (n_out,))):
            drawn = (2 * torch.rand(*shape, generator=generator) - 1) / math.sqrt(n_in)
            tensors[f"{name}.{part}"] = drawn.requires_grad_()
    return tensors
