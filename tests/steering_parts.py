"""Every intervention, ready to attach to any tiny model: what the contract tests are parametrised over."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import tiny_models
import torch
from torch import nn

from steer_agents.capture import Reader
from steer_agents.direction import Direction
from steer_agents.gates import ALWAYS, Gate
from steer_agents.interventions import (
    Ablate,
    Add,
    Affine,
    Cap,
    Clamp,
    Intervention,
    LogitMix,
    NormKeptAdd,
    Rotate,
    SetNeurons,
)
from steer_agents.sites import Site, Steerable, resolve, steerable
from steer_agents.strength import Strength
from steer_agents.training.mentor import RetrievedRules, RuleBank

STATISTICS = {"mean_norm": 1.5, "sd": 0.5, "mean_projection": 0.3}


def batch_for(target: Any) -> Any:
    """A batch that every stack of a tiny model has something to do with."""
    module = steerable(target).module
    if isinstance(module, tiny_models.MLP):
        return tiny_models.inputs("mlp").to(next(module.parameters()).dtype)
    if isinstance(module, tiny_models.ChunkDenoiser):
        return tiny_models.inputs("chunk-denoiser")
    if isinstance(module, tiny_models.TinyVLA):
        return tiny_models.inputs("tiny-vla")
    if isinstance(module, tiny_models.SmolVLA):
        return tiny_models.inputs("smol-vla")
    if isinstance(module, tiny_models.OpenVLAModel):
        return tiny_models.inputs("openvla")
    return tiny_models.image_inputs(3) if hasattr(module.config, "vision_config") else tiny_models.inputs("llama")


def widths(target: Steerable, site: Site) -> dict[str, int]:
    """Location key -> width of the activation, head subset included, found by running the model."""
    with Reader(target, resolve(target, site)) as reader:
        return {key: h.shape[-1] for key, h in reader.run(batch_for(target)).items()}


def direction_at(target: Any, site: Site, rows: int = 1, seed: int = 0, **fields: Any) -> Direction:
    """A random direction (or plane, rows = 2) at a site, with made-up statistics."""
    place = steerable(target)
    generator = torch.Generator().manual_seed(seed)
    raw = {key: torch.randn(rows, width, generator=generator) for key, width in widths(place, site).items()}
    return Direction.from_raw(raw, site, dict.fromkeys(raw, STATISTICS), **fields)


def _affine(target: Any, site: Site, strength: Any, gate: Gate) -> Affine:
    width = next(iter(widths(steerable(target), site).values()))
    generator = torch.Generator().manual_seed(5)
    scale, offset = 1 + 0.3 * torch.randn(width, generator=generator), torch.randn(width, generator=generator)
    return Affine(scale=scale, offset=offset, site=site, strength=strength, gate=gate)


def _rules(target: Any, site: Site, strength: Any, gate: Gate) -> RetrievedRules:
    """Two rules of which the likelier one always fits."""
    found = widths(steerable(target), site)
    rows = {key: torch.randn(3, width, generator=torch.Generator().manual_seed(7)) for key, width in found.items()}
    keys = {key: torch.cat([one[:1], -one[:1]]) / one[0].norm() for key, one in rows.items()}
    vectors, means = {key: one[1:] for key, one in rows.items()}, {key: 0 * one[0] for key, one in rows.items()}
    bank = RuleBank(("this", "or that"), keys, vectors, means, site)
    return RetrievedRules(bank, strength=strength, threshold=0.0, gate=gate)


# name -> (target, site, strength, gate) -> part, in the part's own unit
PARTS: dict[str, Callable[[Any, Site, Any, Gate], Intervention]] = {
    "add": lambda t, site, s, gate: Add(direction_at(t, site), strength=s, gate=gate),
    "norm-kept-add": lambda t, site, s, gate: NormKeptAdd(direction_at(t, site), strength=s, gate=gate),
    "ablate": lambda t, site, s, gate: Ablate(direction_at(t, site), strength=s, gate=gate),
    "rotate": lambda t, site, s, gate: Rotate(direction_at(t, site, rows=2), strength=s, gate=gate),
    "clamp": lambda t, site, s, gate: Clamp(direction_at(t, site), value=2.0, strength=s, gate=gate),
    "cap": lambda t, site, s, gate: Cap(direction_at(t, site), bound=0.4, strength=s, gate=gate),
    "set-neurons": lambda t, site, s, gate: SetNeurons(
        indices=(0, 3, 7), values=(1.0, -1.0, 2.0), site=site, strength=s, gate=gate
    ),
    "affine": _affine,
    "retrieved-rules": _rules,
    "logit-mix": lambda t, site, s, gate: LogitMix(site=site, strength=s, gate=gate),
}
BLOCKS = Site("block_output", layer=(0, 2))


def part(name: str, target: Any, strength: Any = 0.7, site: Site = BLOCKS, gate: Gate = ALWAYS) -> Intervention:
    """The part called `name`."""
    return PARTS[name](target, site, strength, gate)


def pairs(models: list[str] | None = None, parts: list[str] | None = None) -> list[tuple[str, str]]:
    """(model, part) of everything that fits together: only language models have logits that can be read off early."""
    models, parts = models or list(tiny_models.TINY), parts or list(PARTS)
    misfits = {(model, "logit-mix") for model in tiny_models.TOKENLESS}
    return [(model, name) for model in models for name in parts if (model, name) not in misfits]


def n_hooks(model: nn.Module) -> int:
    """Forward hooks and pre-hooks on all modules."""
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def absolute(value: Any) -> Strength:
    """A strength in absolute units."""
    return Strength(value, "absolute")
