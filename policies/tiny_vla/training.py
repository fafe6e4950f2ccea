"""Training of tiny-vla: losses and steps, in two stages that can go on where they stopped.

1. Grounding: the vision tower learns, for a random instruction per picture, where its object and target are. Without it
   behaviour cloning of this size never learns which word means which thing.
2. Behaviour cloning of the decoder on what the frozen tower sees (kept per frame, which makes this stage cheap). Loss: cross-entropy over
   the whole vocabulary, with the action's bin blurred over its neighbours; next words of the instruction (so that words
   mean something at the output too); the points again, read off the middle of the decoder.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch.nn import functional

from policies.tiny_vla.config import N_BINS, TinyVLAConfig
from policies.tiny_vla.model import TinyVLA
from policies.tiny_vla.vision import N_AGENT_POS, N_POINTS, POINT_SCALE

_POINT_WEIGHTS = torch.tensor(
    [1.0] * 6 + [0.2] * 2
)  # the turn of round and square things is hard to see and matters little

Progress = Callable[[int, float], None]
"""Called with (steps done, loss)."""


@dataclass(frozen=True)
class Stage:
    """How long and how fast a stage learns.

    Args:
        steps: of the optimiser; batch_size: frames each.
        learning_rate: at its highest, after a warm-up; falls to a twentieth by a cosine.
        weight_decay: of AdamW; warm_up: steps until the rate is reached, also after an interruption.
    """

    steps: int
    batch_size: int = 128
    learning_rate: float = 2e-3
    weight_decay: float = 1e-4
    warm_up: int = 50


def relative(points: torch.Tensor, agent_pos: torch.Tensor) -> torch.Tensor:
    """(B, 8) points [m] -> relative to the tcp, in units of 10 cm; the turn as it is."""
    tcp = agent_pos[:, :3]
    return torch.cat([(points[:, :3] - tcp) / POINT_SCALE, (points[:, 3:6] - tcp) / POINT_SCALE, points[:, 6:]], dim=1)


def blurred(actions: torch.Tensor, blur: float) -> torch.Tensor:
    """(...) actions in [-1, 1] -> (..., 256) probabilities, a Gaussian of `blur` bins around the value."""
    value = (actions[..., None] + 1) * (N_BINS - 1) / 2
    weight = torch.exp(-0.5 * ((torch.arange(N_BINS) - value) / blur) ** 2)
    return weight / weight.sum(-1, keepdim=True)


def grounding_loss(
    network: TinyVLA, pixels: torch.Tensor, ids: torch.Tensor, state: torch.Tensor, points: torch.Tensor, spots: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Loss of stage 1, and the distance between where object and target are said to be and where they are, (B, 2) [m].

    Args:
        points: (B, 8) [m]; spots: (B, cameras, 2, 2) in the pictures, see `launch.rebuild.tabletop_data`.
    """
    features, heat = network.ground(pixels, ids, state)
    seen = features[:, -N_POINTS:]
    wanted, inside = spot_targets(spots, torch.linspace(-1, 1, network.config.camera_size // 2))
    away = functional.kl_div(heat, wanted, reduction="none").sum(-1)
    heat_loss = (away * inside).sum() / inside.sum().clamp(min=1)
    error = (seen - relative(points, state[:, :N_AGENT_POS])).detach()[:, :6].unflatten(1, (2, 3)).norm(dim=-1)
    return 0.2 * heat_loss + 2 * point_loss(seen, points, state), POINT_SCALE * error


def spot_targets(spots: torch.Tensor, line: torch.Tensor, blur: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """(..., 2) places in a picture -> (..., L * L) Gaussians of `blur` cells around them, and whether they are inside.

    Args:
        line: (L,) places of the cells' middles.
    """
    width = blur * (line[1] - line[0])
    x, y = (torch.exp(-0.5 * ((line - spots[..., i, None]) / width) ** 2) for i in range(2))
    grid = (y[..., :, None] * x[..., None, :]).flatten(-2)
    inside = (spots.abs() < 1).all(-1)
    return grid / grid.sum(-1, keepdim=True).clamp(min=1e-9), inside.float()


def point_loss(seen: torch.Tensor, points: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
    """Weighted smooth L1 between (B, 8) answers and the points they should be, relative to the tcp."""
    each = functional.smooth_l1_loss(seen, relative(points, state[:, :N_AGENT_POS]), beta=0.1, reduction="none")
    return (each * _POINT_WEIGHTS).mean()


def cloning_loss(
    network: TinyVLA, features: torch.Tensor, ids: torch.Tensor, mask: torch.Tensor, state: torch.Tensor, chunk: torch.Tensor,
    points: torch.Tensor, blur: float = 2.0, word_weight: float = 0.05, point_weight: float = 0.5,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """Loss of stage 2, and its action part alone.

    Args:
        features: (B, F); ids, mask: (B, N); state: (B, 15); chunk: (B, H, A) actions; points: (B, 8) [m].
    """
    c = network.config
    out = network(ids, state=state, attention_mask=mask, features=features)
    wanted = blurred(chunk[:, :, list(c.active)], blur).flatten(1, 2)
    # log-softmax over the whole vocabulary: words are wrong answers at action tokens
    logs = out.logits[:, -c.n_action_tokens :].log_softmax(-1)[..., -N_BINS:]
    action = -(wanted * logs).sum(-1).mean()
    first = c.n_image_tokens
    words = network.words_of(ids)
    spoken = functional.cross_entropy(
        out.logits[:, first - 1 : first - 1 + words.shape[1]].flatten(0, 1), words.flatten(), ignore_index=0
    )
    known = point_loss(out.readout, points, state)
    return action + word_weight * spoken + point_weight * known, action.detach()


def optimise(
    parameters: list[torch.nn.Parameter], stage: Stage, losses: Iterator[tuple[torch.Tensor, float]], on_step: Progress, start: int = 0
) -> None:  # fmt: skip
    """Take steps from `start` on; `losses` yields (loss, number to show)."""
    optimizer = torch.optim.AdamW(
        parameters, lr=stage.learning_rate, weight_decay=stage.weight_decay, betas=(0.9, 0.98)
    )
    for step in range(start, stage.steps):
        share = step / stage.steps
        rate = (
            stage.learning_rate
            * min(1.0, (step - start + 1) / stage.warm_up)
            * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * share)))
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss, shown = next(losses)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        on_step(step + 1, shown)


def new(config: TinyVLAConfig, seed: int) -> TinyVLA:
    """A network with weights from a seed."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return TinyVLA(config)
