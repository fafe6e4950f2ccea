"""Policies that sample a chunk of actions from noise: the contract of flow and diffusion policies.

    chunk = sample(observation, noise, hook, generator)

is deterministic given `noise`; `hook` sees and may bend the path between two denoise steps. Here are the noise that a
sample starts from (entrance "noise") and the path (entrance "path"); how chunks are executed is in `policies/chunks.py`.

Axes: B rows, H chunk_size, A action size. Noise level: 1 is pure noise, 0 is the action (as in pi0, arXiv 2410.24164).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import Observation
from policies.chunks import ChunkPolicy
from policies.errors import BadInput, NonFinite

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DenoiseState:
    """Where a sample is on its path, after a denoise step.

    Args:
        denoise_step: 0 to num_denoise_steps - 1.
        noise_level: the level that x now has; 0 after the last step.
        x: (B, H, A) the sample, normalised; (B, *noise_shape) where the noise has another shape than the chunk.
        clean: like x, the network's estimate of the noise-free chunk, made at the start of this step, normalised.
        estimate: (x, noise_level) -> clean estimate, differentiable in x: what guidance takes gradients of.
        to_action: normalised chunk -> chunk in the environment's units, differentiable.
        observation: the batch that the sample is made for.
    """

    denoise_step: int
    noise_level: float
    x: torch.Tensor
    clean: torch.Tensor
    estimate: Callable[[torch.Tensor, float], torch.Tensor]
    to_action: Callable[[torch.Tensor], torch.Tensor]
    observation: Observation


PathHook = Callable[[DenoiseState], "torch.Tensor | None"]
"""Returns the (B, H, A) sample to go on with, or None to leave it."""


class GenerativePolicy(ChunkPolicy):
    """A policy that predicts chunks of actions by denoising. Subclasses write `sample`."""

    @property
    def noise_shape(self) -> tuple[int, int]:
        """Shape of one row's noise: (H, A), unless the network denoises more than what is executed."""
        return self.chunk_size, self.action_dim

    @abstractmethod
    def sample(
        self,
        observation: Observation,
        noise: torch.Tensor | None = None,
        hook: PathHook | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """Denoise one chunk per row.

        Args:
            observation: named arrays with leading axis B.
            noise: (B, *noise_shape) standard normal, where the sample starts; None draws it from `generator`.
            hook: called after every denoise step.
            generator: of the noise; None uses torch's global one.
        Returns:
            (B, H, A) float32, in the environment's units.
        """

    def draw_noise(self) -> torch.Tensor:
        """The (B, *noise_shape) noise of the next chunk, each row from its own seed: equal seeds share it."""
        import torch

        shape = self.noise_shape
        return torch.from_numpy(np.stack([rng.standard_normal(shape) for rng in self._rngs]).astype(np.float32))

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        super()._reset(seeds, infos)
        self._rngs = [np.random.default_rng([seed, 2]) for seed in seeds]

    def _plan(self, observation: Observation) -> torch.Tensor:
        return self.sample(observation, self.draw_noise())


def checked_noise(noise: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """Noise of the expected shape, float32 and finite.

    Raises:
        BadInput: another shape.
        NonFinite: NaN or infinite values.
    """
    import torch

    if tuple(noise.shape) != shape:
        raise BadInput(
            f"sample: expected noise of shape {shape} (B, chunk_size, action_dim), got {tuple(noise.shape)}."
        )
    if not bool(torch.isfinite(noise).all()):
        raise NonFinite("sample: the noise holds NaN or infinite values; pass standard normal numbers.")
    return noise.float()
