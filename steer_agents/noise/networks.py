"""Actor and critics of latent-noise RL, as an SB3 SAC policy: twin critics in one batched product, LayerNorm in the critics only.

LayerNorm keeps critics from growing where no data are (Ball et al. 2023, arXiv 2302.02948, RLPD); DSRL's code has it in the actor as well.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.sac.policies import SACPolicy
from torch import nn

_CLIP = 5.0
_FLAT = 1e-6


class Standardised(BaseFeaturesExtractor):
    """(B, n) states -> clip((state - mean) / scale, -5, 5); mean and scale are set once, from the first rollouts.

    Numbers that did not move there keep scale 1.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, observation_space: gym.spaces.Box) -> None:
        n = int(np.prod(observation_space.shape))
        super().__init__(observation_space, n)
        self.register_buffer("mean", torch.zeros(n))
        self.register_buffer("scale", torch.ones(n))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return ((observations - self.mean) / self.scale).clamp(-_CLIP, _CLIP)

    def fit(self, states: np.ndarray) -> None:
        """Take mean and standard deviation of (N, n) states."""
        spread = states.std(axis=0)
        self.mean.copy_(torch.from_numpy(states.mean(axis=0)))
        self.scale.copy_(torch.from_numpy(np.where(spread > _FLAT, spread, 1.0)))


class Critics(nn.Module):
    """n critics side by side: (B, n_states), (B, d) -> n tensors (B, 1), each its own MLP.

    Args:
        extractor: of the states.
        n_actions: d.
        hidden: widths.
        n_critics: n.
        layer_norm: after every hidden layer's product.
        activation: of the hidden layers.
    """

    optimizer: torch.optim.Optimizer
    """Set by whoever trains them, as SB3 does."""

    def __init__(
        self,
        extractor: BaseFeaturesExtractor,
        n_actions: int,
        hidden: list[int],
        n_critics: int = 2,
        layer_norm: bool = True,
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        self.features_extractor = extractor
        self.layer_norm, self.activation = layer_norm, activation()
        widths = [extractor.features_dim + n_actions, *hidden, 1]
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        self.gains, self.shifts = nn.ParameterList(), nn.ParameterList()
        for i, (before, after) in enumerate(itertools.pairwise(widths)):
            reach = 1 / math.sqrt(before)  # as nn.Linear does
            self.weights.append(nn.Parameter(torch.empty(n_critics, before, after).uniform_(-reach, reach)))
            self.biases.append(nn.Parameter(torch.empty(n_critics, 1, after).uniform_(-reach, reach)))
            if layer_norm and i < len(hidden):
                self.gains.append(nn.Parameter(torch.ones(n_critics, 1, after)))
                self.shifts.append(nn.Parameter(torch.zeros(n_critics, 1, after)))

    def all(self, states: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        """(n, B, 1)."""
        with torch.no_grad():
            states = self.features_extractor(states)
        h = torch.cat([states, actions], dim=1).expand(len(self.weights[0]), -1, -1)
        last = len(self.weights) - 1
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            h = torch.baddbmm(bias, h, weight)
            if i < last:
                if self.layer_norm:
                    h = torch.addcmul(self.shifts[i], torch.nn.functional.layer_norm(h, h.shape[-1:]), self.gains[i])
                h = self.activation(h)
        return h

    def forward(self, states: torch.Tensor, actions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(self.all(states, actions))

    def set_training_mode(self, mode: bool) -> None:
        """What SB3 asks of a critic."""
        self.train(mode)


class NoisePolicyNetworks(SACPolicy):
    """SB3's SAC policy with `Critics`.

    Args:
        layer_norm: in the critics.
    """

    def __init__(self, *args: Any, layer_norm: bool = True, **kwargs: Any) -> None:
        self._layer_norm = layer_norm
        kwargs.setdefault("features_extractor_class", Standardised)
        super().__init__(*args, **kwargs)

    def make_critic(self, features_extractor: BaseFeaturesExtractor | None = None) -> Critics:  # type: ignore[override]
        return self.critics_over(int(np.prod(self.action_space.shape or (1,))))

    def critics_over(self, n_actions: int) -> Critics:
        """Critics of this policy's sizes over some other actions."""
        extractor = self.make_features_extractor()
        return Critics(
            extractor,
            n_actions,
            list(self.critic_kwargs["net_arch"]),  # type: ignore[call-overload]
            int(self.critic_kwargs["n_critics"]),  # type: ignore[call-overload]
            self._layer_norm,
            self.activation_fn,
        ).to(self.device)

    def fit_states(self, states: np.ndarray) -> None:
        """Set mean and scale of every extractor."""
        for module in self.modules():
            if isinstance(module, Standardised):
                module.fit(states)
