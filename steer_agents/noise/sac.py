"""DSRL-SAC: stable-baselines3's SAC on the noise of a frozen policy (arXiv 2506.15799, section 4.2).

What is ours is one choice in the target of the critics, y = r + gamma (1 - terminated) [min_i Q_i(s', w') - b alpha log pi(w'|s')]:
b = `backup_entropy` is 0. With a penalty per step and an end on success, b = 1 (stock SAC, and the published PyTorch code) pays an
actor for staying alive as soon as alpha times its entropy exceeds the penalty, and success falls to zero. The published pi0 code
has b = 0 as well.

Different from SB3 besides: the first rollouts draw standard normal noise, clipped to the box, not uniform noise; states are standardised by
them; critics are batched (`networks.py`); gradient steps count per chunk; what is evaluated and saved is a running average of the actor
(the last one of a run swings between evaluations: measured on `dsrl-shift`, .92 to 1.0 where the average holds .97 to 1.0).
"""

from __future__ import annotations

import math
from time import process_time
from typing import Any

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.noise import ActionNoise
from torch.nn.functional import mse_loss

from steer_agents.noise.networks import Critics, NoisePolicyNetworks
from steer_agents.noise.noise_env import NoiseEnv

_LOG_UNIT = 0.5 * math.log(2 * math.pi)
"""Of one number's normal density."""


class DSRLSAC(SAC):
    """SAC without the entropy term in the critics' target, unless asked for.

    Args:
        args, kwargs: of SB3's SAC; the policy is `NoisePolicyNetworks`.
        backup_entropy: the term b of the module's docstring.
        reduction: of the critics in target and actor: "min", or "mean" as the published pi0 code has it.
        actor_average: weight of the newest actor in the average `averaged_actor`.
    """

    policy: NoisePolicyNetworks
    critic: Critics  # type: ignore[assignment]
    critic_target: Critics  # type: ignore[assignment]

    def __init__(
        self,
        *args: Any,
        backup_entropy: bool = False,
        reduction: str = "min",
        actor_average: float = 1.0,
        **kwargs: Any,
    ) -> None:
        self.backup_entropy, self.reduction, self.actor_average = backup_entropy, reduction, actor_average
        self.update_seconds = 0.0
        self._fitted = False
        super().__init__(*args, **kwargs)

    def _setup_model(self) -> None:
        super()._setup_model()
        self.averaged_actor = self.policy.make_actor()  # its own optimiser is never made
        self.averaged_actor.load_state_dict(self.policy.actor.state_dict())
        self.averaged_actor.requires_grad_(False)
        self.policy.add_module("averaged_actor", self.averaged_actor)

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[np.ndarray, np.ndarray]:
        if self.num_timesteps >= learning_starts:
            return super()._sample_action(learning_starts, action_noise, n_envs)
        drawn = self.first_actions(n_envs)
        return drawn, self.policy.scale_action(drawn)

    def first_actions(self, n_envs: int) -> np.ndarray:
        """(B, d) standard normal noise, clipped to the box: what is executed before anything is learned."""
        low, high = self.action_space.low, self.action_space.high  # type: ignore[attr-defined]
        return np.clip(np.random.standard_normal((n_envs, *self.action_space.shape)), low, high).astype(np.float32)  # type: ignore[misc]

    def begin_learning(self) -> None:
        """Called once before the first gradient step: standardise states by what the replay buffer holds."""
        if self._fitted:
            return
        buffer = self.replay_buffer
        assert buffer is not None
        n = buffer.buffer_size if buffer.full else buffer.pos
        self.policy.fit_states(buffer.observations[:n].reshape(n * self.n_envs, -1))
        self._fitted = True

    def reduced(self, values: torch.Tensor) -> torch.Tensor:
        """(n, B, 1) -> (B, 1)."""
        return values.amin(0) if self.reduction == "min" else values.mean(0)

    def temperature(self, log_prob: torch.Tensor) -> torch.Tensor:
        """One step of alpha towards the target entropy, where it is learned; returns alpha."""
        if self.ent_coef_optimizer is None or self.log_ent_coef is None:
            return self.ent_coef_tensor
        alpha = self.log_ent_coef.detach().exp()
        loss = -(self.log_ent_coef * (log_prob.detach() + float(self.target_entropy)).mean())
        self.ent_coef_optimizer.zero_grad()
        loss.backward()
        self.ent_coef_optimizer.step()
        return alpha

    def train(self, gradient_steps: int, batch_size: int = 64) -> None:
        began = process_time()
        self.begin_learning()
        self.policy.set_training_mode(True)
        told = np.mean([self.update(batch_size) for _ in range(gradient_steps)], axis=0)
        self._n_updates += gradient_steps
        for name, value in zip(self.LOGGED, told, strict=True):
            self.logger.record(f"train/{name}", float(value))
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.update_seconds += process_time() - began

    LOGGED: tuple[str, ...] = ("ent_coef", "entropy", "critic_loss", "actor_loss", "q_mean")

    def update(self, batch_size: int) -> list[float]:
        """One gradient step of everything; returns what `LOGGED` names."""
        assert self.replay_buffer is not None
        data = self.replay_buffer.sample(batch_size)
        discount = self.gamma if data.discounts is None else data.discounts
        actions, log_prob = self.drawn(data.observations)
        alpha = self.temperature(log_prob)
        with torch.no_grad():
            after, after_log_prob = self.drawn(data.next_observations)
            value = self.reduced(self.critic_target.all(data.next_observations, after))
            if self.backup_entropy:
                value = value - alpha * after_log_prob
            target = data.rewards + (1 - data.dones) * discount * value
        found = self.critic.all(data.observations, data.actions)
        critic_loss = 0.5 * mse_loss(found, target.expand_as(found)) * len(found)
        self.critic.optimizer.zero_grad()
        critic_loss.backward()
        self.critic.optimizer.step()
        actor_loss = self.improve(data.observations, actions, log_prob, alpha, self.critic)
        follow(self.critic, self.critic_target, self.tau)
        entropy = -float(log_prob.detach().mean())
        return [float(alpha), entropy, float(critic_loss.detach()), actor_loss, float(found.detach().mean())]

    def drawn(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The actor's (B, d) noise and its (B, 1) log probability, log N(u; m, s) - sum log(1 - tanh(u)^2 + 1e-6).

        What SB3's `action_log_prob` computes, in a quarter of its time: no distribution objects, u is not drawn back through tanh.
        """
        mean, log_std, _ = self.actor.get_action_dist_params(states)
        eps = torch.randn_like(mean)
        actions = torch.tanh(torch.addcmul(mean, log_std.exp(), eps))
        terms = 0.5 * eps.square() + log_std + torch.log(1 - actions.square() + 1e-6)
        return actions, -terms.sum(1, keepdim=True) - _LOG_UNIT * terms.shape[1]

    def noise_score(self, observation: Any, noise: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """Q(s, w) of (R, H, A) noise, for `BestOfN`; chunks are not looked at."""
        env = self.noise_env
        w = (env.noise_map.reduce(noise) / env.bound).clamp(-1, 1)
        with torch.no_grad():
            return self.reduced(self.critic.all(torch.from_numpy(env.reader(observation)), w))[:, 0]

    @property
    def noise_env(self) -> NoiseEnv:
        """The environment below SB3's."""
        env = getattr(self.env, "env", None)
        assert isinstance(env, NoiseEnv)
        return env

    def improve(
        self, states: torch.Tensor, actions: torch.Tensor, log_prob: torch.Tensor, alpha: torch.Tensor, critics: Critics
    ) -> float:
        """One step of the actor on some critics: max E[Q(s, w) - alpha log pi(w|s)]."""
        for parameter in critics.parameters():
            parameter.requires_grad_(False)
        loss = (alpha * log_prob - self.reduced(critics.all(states, actions))).mean()
        self.actor.optimizer.zero_grad()
        loss.backward()
        self.actor.optimizer.step()
        follow(self.actor, self.averaged_actor, self.actor_average)
        for parameter in critics.parameters():
            parameter.requires_grad_(True)
        return float(loss.detach())


def follow(network: torch.nn.Module, target: torch.nn.Module, tau: float) -> None:
    """target <- (1 - tau) target + tau network."""
    with torch.no_grad():
        torch._foreach_lerp_(list(target.parameters()), list(network.parameters()), tau)
