"""Every intervention, ready to attach to any tiny model: what the contract tests are parametrised over."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import tiny_models
import torch
from torch import nn

from steer_agents.affine_maps import AffineMap, Transport
from steer_agents.angular import RotateTo
from steer_agents.capture import Reader
from steer_agents.conceptors import SoftProject
from steer_agents.direction import Direction
from steer_agents.gates import ALWAYS, Gate
from steer_agents.intervention import Intervention
from steer_agents.interventions import Ablate, Add, Affine, Cap, Clamp, LogitMix, NormKeptAdd, Rotate, SetNeurons
from steer_agents.routed import Bank, Routed, Stage
from steer_agents.sae.edits import SaeClamp, SaeShift
from steer_agents.sae.model import Form, Sae, Weights
from steer_agents.sites import Site, Steerable, resolve, steerable
from steer_agents.strength import Strength
from steer_agents.training.mentor import RetrievedRules, RuleBank
from steer_agents.vista import VisualAdd

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


def softened(plane: Direction) -> Direction:
    """A conceptor of a plane's two directions, which lets the rest through."""
    entry = {"gains": [0.1, 0.6], "rest": 1.0}
    return replace(plane, info={"conceptor": dict.fromkeys(plane.vectors, entry)})


def banked(plane: Direction) -> Bank:
    """A plane's two directions with a router between them."""
    stages = {key: Stage(2 * rows, rows.flip(0).contiguous(), torch.zeros(2)) for key, rows in plane.vectors.items()}
    return Bank(stages, plane.site)


def _transport(target: Any, site: Site, strength: Any, gate: Gate) -> Transport:
    """Maps that differ from layer to layer; half of the values lie in their support."""
    generator = torch.Generator().manual_seed(6)
    sizes = widths(steerable(target), site)
    tables = [{key: torch.randn(width, generator=generator) for key, width in sizes.items()} for _ in range(2)]
    scale, offset = ({key: 1 + 0.3 * t for key, t in tables[0].items()}, tables[1])
    low, high = ({key: torch.full((width,), end) for key, width in sizes.items()} for end in (0.0, 1e6))
    return Transport(AffineMap(scale, offset, site, low, high), strength=strength, gate=gate)


def sae_of(width: int, site: Site, n_features: int = 12) -> Sae:
    """An SAE with random weights that explain little."""
    generator = torch.Generator().manual_seed(7)
    W = torch.randn(n_features, width, generator=generator) / width**0.5
    weights = Weights(W.T.contiguous(), torch.full((n_features,), 0.1), W, torch.zeros(width), torch.zeros(n_features))
    return Sae(weights, Site(site.kind, 0), Form(norm="constant_norm_rescale"))


def sae_at(target: Any, site: Site) -> Sae:
    """One as wide as a site."""
    return sae_of(next(iter(widths(steerable(target), site).values())), site)


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
    "rotate-to": lambda t, site, s, gate: RotateTo(direction_at(t, site, rows=2), angle=1.2, strength=s, gate=gate),
    "clamp": lambda t, site, s, gate: Clamp(direction_at(t, site), value=2.0, strength=s, gate=gate),
    "cap": lambda t, site, s, gate: Cap(direction_at(t, site), bound=0.4, strength=s, gate=gate),
    "set-neurons": lambda t, site, s, gate: SetNeurons(
        indices=(0, 3, 7), values=(1.0, -1.0, 2.0), site=site, strength=s, gate=gate
    ),
    "visual-add": lambda t, site, s, gate: VisualAdd(direction_at(t, site), strength=s, gate=gate),
    "affine": _affine,
    "soft-project": lambda t, site, s, gate: SoftProject(
        softened(direction_at(t, site, rows=2)), strength=s, gate=gate
    ),
    "routed": lambda t, site, s, gate: Routed(banked(direction_at(t, site, rows=2)), strength=s, gate=gate),
    "transport": _transport,
    "sae-clamp": lambda t, site, s, gate: SaeClamp(
        sae_at(t, site), features=(0, 3), values=(1.0, 2.0), site=site, strength=s, gate=gate
    ),
    "sae-shift": lambda t, site, s, gate: SaeShift(
        sae_at(t, site), code=torch.linspace(0.1, 1, 12), site=site, strength=s, gate=gate
    ),
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
