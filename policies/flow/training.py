"""Training of a flow or diffusion policy on arrays of demonstrations: a pure function of data, sizes and seed."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import numpy as np
import torch

from policies.errors import BadInput
from policies.flow.config import FlowConfig
from policies.flow.model import ChunkDenoiser
from policies.flow.paths import PATHS

_SMALL = 1e-3
"""Coordinates that vary less than this are constants with rounding."""
_IGNORED = 1e9
"""Scale of states that are constant in training: whatever they are later, the network sees zero."""


def windows(
    states: Sequence[np.ndarray], actions: Sequence[np.ndarray], chunk_size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Every state with the chunk of actions that followed; the last action is repeated beyond an episode's end.

    Args:
        states: per episode (T, n_inputs).
        actions: per episode (T, A).
    Returns:
        (n, n_inputs) and (n, chunk_size, A), float32.
    """
    inputs, chunks = [], []
    for state, action in zip(states, actions, strict=True):
        if len(state) != len(action):
            raise BadInput(f"an episode has {len(state)} states and {len(action)} actions; they must be as many.")
        index = np.minimum(np.arange(len(action))[:, None] + np.arange(chunk_size), len(action) - 1)
        inputs.append(np.asarray(state, dtype=np.float32))
        chunks.append(np.asarray(action, dtype=np.float32)[index])
    return np.concatenate(inputs), np.concatenate(chunks)


def train(
    config: FlowConfig,
    states: Sequence[np.ndarray],
    actions: Sequence[np.ndarray],
    *,
    epochs: int,
    seed: int = 0,
    batch_size: int = 256,
    learning_rate: float = 1e-3,
    weight_decay: float = 1e-4,
    ema: float = 0.995,
    on_epoch: Callable[[int, float], None] | None = None,
) -> ChunkDenoiser:
    """Fit v of `paths.py` by least squares; the returned weights are an exponential moving average.

    Args:
        states, actions: see `windows`.
        epochs: passes over all windows.
        seed: of initial weights, order of the data, noise and noise levels.
        on_epoch: called with (epochs done, mean loss), for progress.
    """
    inputs, chunks = (torch.from_numpy(array) for array in windows(states, actions, config.chunk_size))
    generator = torch.Generator().manual_seed(seed)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = ChunkDenoiser(config)
    network.state_mean.copy_(inputs.mean(0))
    network.state_scale.copy_(_scale(inputs, _IGNORED))
    network.action_mean.copy_(chunks.mean((0, 1)))
    network.action_scale.copy_(_scale(chunks.flatten(0, 1), 1.0))
    targets = network.normalised(chunks)
    path = PATHS[config.path]
    average = copy.deepcopy(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=learning_rate, weight_decay=weight_decay)
    n_batches = -(-len(inputs) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * n_batches)
    done = 0
    for epoch in range(epochs):
        total = 0.0
        for rows in torch.randperm(len(inputs), generator=generator).split(batch_size):
            a, e = targets[rows], torch.randn(targets[rows].shape, generator=generator)
            level = torch.rand(len(rows), 1, 1, generator=generator)
            v = network(path.mix(a, e, level), level[:, 0, 0], inputs[rows])
            loss = (v - path.target(a, e, level)).pow(2).mean()
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            _follow(average, network, min(ema, (1 + done) / (10 + done)))
            total += loss.item() * len(rows)
        if on_epoch is not None:
            on_epoch(epoch + 1, total / len(inputs))
    return average.eval()


def _scale(rows: torch.Tensor, of_constants: float) -> torch.Tensor:
    sd = rows.std(0)
    return torch.where(sd < _SMALL, torch.full_like(sd, of_constants), sd)


@torch.no_grad()
def _follow(average: torch.nn.Module, network: torch.nn.Module, keep: float) -> None:
    for mean, value in zip(average.parameters(), network.parameters(), strict=True):
        mean.lerp_(value, 1 - keep)
