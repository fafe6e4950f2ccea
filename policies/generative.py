"""Policies that sample a chunk of actions from noise: the contract of flow and diffusion policies.

    chunk = sample(observation, noise, hook, generator)

is deterministic given `noise`; `hook` sees and may bend the path between two denoise steps. Here are the noise that a
sample starts from (entrance "noise") and the path (entrance "path"); how chunks are executed is in `policies/chunks.py`.

Axes: B rows, H chunk_size, A action size. Noise level: 1 is pure noise, 0 is the action (as in pi0, arXiv 2410.24164).
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, runtime_checkable

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


class Sample(Protocol):
    """What a `SamplingPart` calls: the policy's sampler, with every part further in already around it."""

    def __call__(self, observation: Observation, noise: torch.Tensor, hook: PathHook | None = None) -> torch.Tensor: ...


@runtime_checkable
class SamplingPart(Protocol):
    """A part that enters a policy at its noise or along its path, e.g. a constant noise, best-of-N, reward guidance.

    Parts stand around the sampler like layers: the first one of a steerer is the outermost. A part may change the noise, give a
    hook, sample more often or for more rows than there are episodes (B rows of candidates times B episodes), and choose.

    Attributes:
        entrance: "noise" or "path".
    """

    entrance: ClassVar[str]

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        """The (B, H, A) chunk in the environment's units, from what `sample` gives for some noise and hook.

        Args:
            policy: that is steered; `policy.context` says env step and the environment's infos.
            observation: named arrays with leading axis B.
            noise: (B, *noise_shape) that the policy would have started from.
            sample: `(observation, noise, hook) -> chunk`; a hook given here acts after those of the parts further out.
        """
        ...

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        """Called when episodes start, one seed per row, also when the part is attached in their middle: forget the last ones."""
        ...

    def describe(self) -> dict[str, Any]: ...


class GenerativePolicy(ChunkPolicy):
    """A policy that predicts chunks of actions by denoising. Subclasses write `sample`."""

    n_obs_steps: int = 1
    """Observations that `sample` reads; several come as an axis behind the rows."""
    reads_text: bool = False
    """Whether the observation should hold each row's instruction under "task"."""
    stochastic: str | None = None
    """Why the noise that a sample starts from does not fix it, and how to change that; None if it does fix it."""
    sampling_parts: tuple[SamplingPart, ...] = ()
    """What stands around the sampler now, the outermost first; see `set_sampling`."""
    _seeds: tuple[int, ...] = ()

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
            noise: (B, *noise_shape) standard normal, where the sample starts; None draws it from `generator`. N samples per row
                are (N B, *noise_shape), the N of row 0 first: what depends on the observation alone is then computed once per row.
            hook: called after every denoise step.
            generator: of the noise; None uses torch's global one.
        Returns:
            (B, H, A) float32, or (N B, H, A), in the environment's units.
        """

    def draw_noise(self) -> torch.Tensor:
        """The (B, *noise_shape) noise of the next chunk, each row from its own seed: equal seeds share it."""
        import torch

        shape = self.noise_shape
        return torch.from_numpy(np.stack([rng.standard_normal(shape) for rng in self._rngs]).astype(np.float32))

    def set_sampling(self, parts: Sequence[SamplingPart]) -> tuple[SamplingPart, ...]:
        """Put parts around the sampler (entrances "noise" and "path"), the first one outermost; returns the previous ones."""
        before, self.sampling_parts = self.sampling_parts, tuple(parts)
        if self._seeds:
            for part in self.sampling_parts:
                if not any(part is known for known in before):
                    part.start(self, self._seeds)
        return before

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        super()._reset(seeds, infos)
        self._rngs = [np.random.default_rng([seed, 2]) for seed in seeds]
        self._seeds = tuple(seeds)
        for part in self.sampling_parts:
            part.start(self, self._seeds)

    def _plan(self, observation: Observation) -> torch.Tensor:
        sample: Sample = self.sample
        for part in reversed(self.sampling_parts):
            sample = partial(_through, self, part, sample)
        return sample(observation, self.draw_noise())


def _through(
    policy: GenerativePolicy,
    part: SamplingPart,
    inner: Sample,
    observation: Observation,
    noise: torch.Tensor,
    outer: PathHook | None = None,
) -> torch.Tensor:
    """One layer: what the part asks of the sampler reaches it together with the hook of the layers further out."""

    def sample(observation: Observation, noise: torch.Tensor, hook: PathHook | None = None) -> torch.Tensor:
        return inner(observation, noise, _both(outer, hook))

    return part.plan(policy, observation, noise, sample)


def _both(first: PathHook | None, second: PathHook | None) -> PathHook | None:
    if first is None or second is None:
        return first or second

    def hook(state: DenoiseState) -> torch.Tensor | None:
        bent = first(state)
        if bent is None:
            return second(state)
        again = second(replace(state, x=bent))
        return bent if again is None else again

    return hook


def checked_noise(noise: torch.Tensor, shape: tuple[int, int, int], copies: bool = False) -> torch.Tensor:
    """Noise of the expected shape, float32 and finite.

    Args:
        noise: what was given.
        shape: (B, *noise_shape).
        copies: also accept (N B, *noise_shape), N samples per row.
    Raises:
        BadInput: another shape.
        NonFinite: NaN or infinite values.
    """
    import torch

    given = tuple(noise.shape)
    several = copies and len(given) == 3 and given[0] > 0 and given[0] % shape[0] == 0 and given[1:] == shape[1:]
    if given != shape and not several:
        raise BadInput(f"sample: expected noise of shape {shape} (B, chunk_size, action_dim), got {given}.")
    # a sum is finite unless an entry is not, or it overflows: cheaper than a look at each, and this is done at every denoise step
    if not math.isfinite(float(noise.sum())) and not bool(torch.isfinite(noise).all()):
        raise NonFinite("sample: the noise holds NaN or infinite values; pass standard normal numbers.")
    return noise.float()
