"""DSRL-NA, the noise-aliased variant (arXiv 2506.15799, algorithm 1), as an algorithm of stable-baselines3.

Many noises give nearly the same action, so value is learned over real actions and carried over to noise:

    action critic   Q^A:  min E[(Q^A(s, a) - r - gamma (1 - terminated) V(s'))^2]
    noise critic    Q^W:  min E[(Q^W(s, w) - Q^A(s, pi(s, w)))^2],  s from the replay buffer, w ~ N(0, I)
    noise actor     pi^W: max E[min_i Q^W_i(s, w) - alpha log pi^W(w | s)]

V(s') = min_i Q^A_i(s', pi(s', w')), w' ~ pi^W(s'), with target critics, as published (`next_value="action"`), or
min_i Q^W_i(s', w') with a target copy of the noise critic (`next_value="noise"`), which denoises nothing in an update.

Different from the published code: noise is given to the policy at its own scale (there the box is ignored); the noises of the distillation
are drawn and denoised once, when a state is met, because the policy is frozen and the pairs never go stale (there anew in every
step); they are
clipped to the box where `clip_distillation` says so; a share of them comes from the actor as it was then; the entropy term in V
is an option that
is off. Head i of Q^W regresses on head i of Q^A, as published.

The replay buffer holds (s, a, r, s'), so that demonstrations and rollouts of other policies can be used as they are.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.buffers import ReplayBuffer
from torch.nn.functional import mse_loss

from policies.errors import BadInput, nearest
from steer_agents.noise.noise_env import NoiseEnv
from steer_agents.noise.sac import DSRLSAC, follow
from steer_agents.noise.states import Flattened
from steer_agents.noise.vec_env import AsVecEnv

NEXT_VALUES = ("noise", "action")


class DSRLNA(DSRLSAC):
    """See the module's docstring.

    Args:
        args, kwargs: of `DSRLSAC`; the environment is an `AsVecEnv` around a `NoiseEnv` whose reader is `Flattened`.
        next_value: "noise" or "action", where the value of the next state comes from.
        pairs: noises per state that are denoised for the distillation.
        actor_share: of them, drawn from the actor instead of N(0, I).
        clip_distillation: clip the others to the box.
        distill_steps: gradient steps of the noise critic per gradient step of the action critic.
    """

    def __init__(
        self,
        *args: Any,
        next_value: str = "noise",
        pairs: int = 4,
        actor_share: float = 0.5,
        clip_distillation: bool = True,
        distill_steps: int = 1,
        **kwargs: Any,
    ) -> None:
        if next_value not in NEXT_VALUES:
            raise BadInput(f"next_value {next_value!r} is unknown{nearest(next_value, NEXT_VALUES)}")
        if pairs < 1 or not 0 <= actor_share <= 1 or distill_steps < 1:
            raise BadInput(
                f"DSRLNA: expected pairs and distill_steps from 1 and actor_share in [0, 1], got {pairs}, {distill_steps}, {actor_share}."
            )
        self.next_value, self.pairs, self.actor_share = next_value, pairs, actor_share
        self.clip_distillation, self.distill_steps = clip_distillation, distill_steps
        self.denoise_seconds = 0.0
        super().__init__(*args, **kwargs)

    # ---- parts

    def _setup_model(self) -> None:
        assert isinstance(self.env, AsVecEnv)
        assert isinstance(self.env.env, NoiseEnv)
        env = self.env.env
        if not isinstance(env.reader, Flattened) or env.policy.n_obs_steps > 1 or env.policy.reads_text:
            raise BadInput(
                "DSRLNA denoises states of the replay buffer, so the policy's observation has to be the flat state of one step; use "
                "DSRLSAC for policies that see pictures, read text or several steps."
            )
        inner = env.env.single_action_space
        assert isinstance(inner, gym.spaces.Box)
        if not np.isfinite([inner.low, inner.high]).all():
            raise BadInput(f"DSRLNA: the environment's actions have no bounds ({inner}); wrap it in RescaleAction.")
        n_steps = env.policy.n_action_steps
        self.low, self.high = (np.tile(edge.reshape(-1), n_steps) for edge in (inner.low, inner.high))
        self.n_actions = len(self.low)
        self.replay_buffer = AliasedBuffer(
            self.buffer_size, self.observation_space, gym.spaces.Box(-1.0, 1.0, (self.n_actions,), np.float32),
            self.device, self.n_envs, pairs=self.pairs, noise_size=env.noise_size,
        )  # fmt: skip
        super()._setup_model()
        self.action_critic = self.policy.critics_over(self.n_actions)
        self.action_critic_target = self.policy.critics_over(self.n_actions)
        self.action_critic_target.load_state_dict(self.action_critic.state_dict())
        self.policy.add_module("action_critic", self.action_critic)
        self.policy.add_module("action_critic_target", self.action_critic_target)
        make = self.policy.optimizer_class
        self.action_critic.optimizer = make(  # type: ignore[call-arg]
            self.action_critic.parameters(), lr=self.lr_schedule(1), **self.policy.optimizer_kwargs
        )

    def scaled(self, actions: np.ndarray) -> np.ndarray:
        """(..., n_action_steps, A) actions of the environment -> (..., n_actions) in [-1, 1]."""
        flat = actions.reshape(*actions.shape[:-2], -1)
        return (2 * (flat - self.low) / (self.high - self.low) - 1).astype(np.float32)

    def denoise(self, states: np.ndarray, w: np.ndarray) -> np.ndarray:
        """pi(s, w): (B, n) states and (N B, d) scaled noise, the N of row 0 first -> (N B, n_actions) scaled actions."""
        from time import process_time

        began = process_time()
        env, policy = self.noise_env, self.noise_env.policy
        noise = env.noise_map.expand(
            torch.from_numpy(w * env.bound), policy.noise_shape, _zeros(len(w), policy.noise_shape)
        )
        chunk = policy.sample(env.reader.back(states), noise).numpy()  # type: ignore[attr-defined]
        env.denoised += len(chunk)
        self.denoise_seconds += process_time() - began
        return self.scaled(chunk[:, : policy.n_action_steps])

    # ---- data

    def _store_transition(self, replay_buffer: Any, buffer_action: np.ndarray, *rest: Any) -> None:
        assert isinstance(self.env, AsVecEnv)
        states = np.asarray(self._last_obs)
        replay_buffer.coming = self.draw_pairs(states)
        super()._store_transition(replay_buffer, self.scaled(self.env.infos["actions"]), *rest)

    def draw_pairs(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Noises in the actor's scale and their actions, (B, pairs, d) and (B, pairs, n_actions)."""
        n_rows, n, size = len(states), self.pairs, self.noise_env.noise_size
        w = np.random.standard_normal((n_rows, n, size)) / self.noise_env.bound
        if self.clip_distillation:
            w = np.clip(w, -1, 1)
        from_actor = round(self.actor_share * n) if self._fitted else 0
        if from_actor:
            again = torch.from_numpy(states).repeat_interleave(from_actor, 0)
            with torch.no_grad():
                w[:, :from_actor] = self.actor(again).numpy().reshape(n_rows, from_actor, size)
        w = w.astype(np.float32)
        return w, self.denoise(states, w.reshape(-1, size)).reshape(n_rows, n, -1)

    # ---- learning

    LOGGED = ("ent_coef", "entropy", "critic_loss", "actor_loss", "q_mean", "distill_loss")

    def update(self, batch_size: int) -> list[float]:
        buffer = self.replay_buffer
        assert isinstance(buffer, AliasedBuffer)
        data = buffer.sample(batch_size)
        with torch.no_grad():
            after, after_log_prob = self.drawn(data.next_observations)
            if self.next_value == "action":
                a = torch.from_numpy(self.denoise(data.next_observations.numpy(), after.numpy()))
                value = self.reduced(self.action_critic_target.all(data.next_observations, a))
            else:
                value = self.reduced(self.critic_target.all(data.next_observations, after))
            if self.backup_entropy:
                value = value - self._alpha() * after_log_prob
            target = data.rewards + (1 - data.dones) * self.gamma * value
        found = self.action_critic.all(data.observations, data.actions)
        critic_loss = 0.5 * mse_loss(found, target.expand_as(found)) * len(found)
        _descend(self.action_critic.optimizer, critic_loss)
        follow(self.action_critic, self.action_critic_target, self.tau)
        distill_loss = np.mean([self.distill(batch_size) for _ in range(self.distill_steps)])
        actions, log_prob = self.drawn(data.observations)
        alpha = self.temperature(log_prob)
        actor_loss = self.improve(data.observations, actions, log_prob, alpha, self.critic)
        entropy = -float(log_prob.detach().mean())
        return [
            float(alpha),
            entropy,
            float(critic_loss.detach()),
            actor_loss,
            float(found.detach().mean()),
            float(distill_loss),
        ]

    def _alpha(self) -> torch.Tensor:
        return self.ent_coef_tensor if self.log_ent_coef is None else self.log_ent_coef.detach().exp()

    def distill(self, batch_size: int) -> float:
        """One gradient step of the noise critic towards the action critic."""
        assert isinstance(self.replay_buffer, AliasedBuffer)
        states, w, a = self.replay_buffer.sample_pairs(batch_size)
        with torch.no_grad():
            target = self.action_critic.all(states, a)
        loss = mse_loss(self.critic.all(states, w), target) * len(target)
        _descend(self.critic.optimizer, loss)
        follow(self.critic, self.critic_target, self.tau)
        return float(loss.detach())

    def distillation_r2(self, states: np.ndarray, w: np.ndarray) -> float:
        """How well Q^W matches Q^A on given (B, n) states and (B, d) scaled noise: 1 - residual / variance, mean over heads."""
        with torch.no_grad():
            s = torch.from_numpy(states)
            target = self.action_critic.all(s, torch.from_numpy(self.denoise(states, w)))[..., 0]
            found = self.critic.all(s, torch.from_numpy(w))[..., 0]
        residual = (found - target).square().mean(1)
        return float((1 - residual / target.var(1, unbiased=False)).mean())

    def action_score(self, observation: Any, noise: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        """Q^A(s, a) of (R, H, A) chunks, for `BestOfN`."""
        env = self.noise_env
        states = torch.from_numpy(env.reader(observation))
        a = torch.from_numpy(self.scaled(chunks[:, : env.policy.n_action_steps].numpy()))
        with torch.no_grad():
            return self.reduced(self.action_critic.all(states, a))[:, 0]


class AliasedBuffer(ReplayBuffer):
    """Transitions with real actions, and beside every state `pairs` noises with the actions that they give.

    Args:
        pairs: per state.
        noise_size: d.
    """

    def __init__(self, *args: Any, pairs: int, noise_size: int, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        lead = (self.buffer_size, self.n_envs, pairs)
        self.noises = np.zeros((*lead, noise_size), dtype=np.float32)
        self.noise_actions = np.zeros((*lead, self.action_dim), dtype=np.float32)
        self.coming: tuple[np.ndarray, np.ndarray] | None = None
        """Pairs of the transition that is added next."""

    def add(self, *args: Any, **kwargs: Any) -> None:
        assert self.coming is not None
        self.noises[self.pos], self.noise_actions[self.pos] = self.coming
        self.coming = None
        super().add(*args, **kwargs)

    def sample_pairs(self, batch_size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """(B, n) states, (B, d) noises, (B, n_actions) actions."""
        most = self.buffer_size if self.full else self.pos
        at = (
            np.random.randint(0, most, batch_size),
            np.random.randint(0, self.n_envs, batch_size),
            np.random.randint(0, self.noises.shape[2], batch_size),
        )
        states = self.observations[at[0], at[1]]
        return (torch.from_numpy(states), torch.from_numpy(self.noises[at]), torch.from_numpy(self.noise_actions[at]))


def _zeros(n_rows: int, shape: tuple[int, int]) -> torch.Tensor:
    return torch.zeros(n_rows, *shape)


def _descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
