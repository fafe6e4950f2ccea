"""Policies that sample a chunk of actions from noise: the contract of flow and diffusion policies.

    chunk = sample(observation, noise, hook, generator)

is deterministic given `noise`; `hook` sees and may bend the path between two denoise steps. Here are the noise that a
sample starts from (entrance "noise"), the path (entrance "path") and the queue of actions that a chunk becomes.

Axes: B rows, H chunk_size, A action size. Noise level: 1 is pure noise, 0 is the action (as in pi0, arXiv 2410.24164).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import Decision, Observation, Policy
from policies.errors import BadInput, NonFinite

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class DenoiseState:
    """Where a sample is on its path, after a denoise step.

    Args:
        denoise_step: 0 to num_denoise_steps - 1.
        noise_level: the level that x now has; 0 after the last step.
        x: (B, H, A) the sample, normalised.
        clean: (B, H, A) the network's estimate of the noise-free chunk, made at the start of this step, normalised.
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


class GenerativePolicy(Policy):
    """A policy that predicts chunks of actions by denoising, and executes the first `n_action_steps` of each.

    Subclasses write `sample`. All rows replan together: episodes of a batch start together.

    Args:
        chunk_size: H, actions predicted at once.
        n_action_steps: how many of them are executed before the next chunk.
        action_dim: A.
    """

    chunk_size: int
    n_action_steps: int
    action_dim: int

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
            noise: (B, H, A) standard normal, where the sample starts; None draws it from `generator`.
            hook: called after every denoise step.
            generator: of the noise; None uses torch's global one.
        Returns:
            (B, H, A) float32, in the environment's units.
        """

    def draw_noise(self) -> torch.Tensor:
        """The (B, H, A) noise of the next chunk, each row from its own seed: equal seeds share it over conditions."""
        import torch

        shape = (self.chunk_size, self.action_dim)
        return torch.from_numpy(np.stack([rng.standard_normal(shape) for rng in self._rngs]).astype(np.float32))

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self._rngs = [np.random.default_rng([seed, 2]) for seed in seeds]
        self._chunk = np.zeros((len(seeds), 0, self.action_dim), dtype=np.float32)
        self._next = 0

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        if self._next == min(self.n_action_steps, self._chunk.shape[1]):
            self._chunk = self.sample(observation, self.draw_noise()).numpy()
            self._next = 0
        action = self._chunk[:, self._next]
        self._next += 1
        return Decision(action)


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
