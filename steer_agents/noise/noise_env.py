"""`NoiseEnv`: environments whose action is the noise that a frozen policy starts from.

DSRL (Wagenmaker et al. 2025, arXiv 2506.15799, section 4): a policy sampled deterministically is a function a = pi(s, w), so w can
be the action of another decision process, in which the policy is a part of the environment. One action here is one chunk: noise
in, `n_action_steps` actions executed, the sum of their rewards out. Where the published code differs, it is an option of `ChunkReward`.

Differences from the published wrapper: a row whose episode ends inside a chunk is not stepped any further; a time limit is reported
as `truncated`, so that the value of the last state can count; noise is denoised once, also in the first random rollouts.

Axes: B rows, H chunk, A action, d numbers of noise that are chosen, n numbers that are observed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import process_time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorWrapper
from gymnasium.vector.utils import batch_space

from policies.errors import BadInput, MissingEntrance, NonFinite, nearest
from policies.generative import GenerativePolicy
from steer_agents.env_batch import fit_action, named, stack_observations
from steer_agents.noise.maps import Full, NoiseMap
from steer_agents.noise.states import Flattened, StateReader

RowReward = Callable[[float, Mapping[str, Any]], float]
"""(the environment's reward of a step, its info) -> the reward that counts."""


def step_penalty(reward: float, info: Mapping[str, Any]) -> float:
    """-1 for every environment step without success: the sooner, the better (as in DSRL's robomimic and pi0 runs)."""
    if "is_success" not in info:
        raise BadInput(
            f"reward 'penalty': the environment's info has no 'is_success', it has {sorted(info)[:10]}. Use reward='env' or a function."
        )
    return float(bool(info["is_success"])) - 1.0


def env_reward(reward: float, info: Mapping[str, Any]) -> float:
    """The environment's own reward."""
    return reward


REWARDS: Mapping[str, RowReward] = {"penalty": step_penalty, "env": env_reward}


@dataclass(frozen=True)
class ChunkReward:
    """What a chunk is worth.

    Args:
        per_step: "penalty", "env" or a function, see `REWARDS`.
        discount: of rewards inside of a chunk, per env step; 1 sums them, as published.
        scale: factor of the sum; None divides by the executed steps of a whole chunk, so that a chunk without success costs 1.
        timeout: "bootstrap" reports a time limit as `truncated`; "terminal" as `terminated`, as the published PyTorch code does.
    """

    per_step: str | RowReward = "penalty"
    discount: float = 1.0
    scale: float | None = None
    timeout: str = "bootstrap"

    def __post_init__(self) -> None:
        if isinstance(self.per_step, str) and self.per_step not in REWARDS:
            raise BadInput(f"reward {self.per_step!r} is unknown{nearest(self.per_step, REWARDS)}, or a function.")
        if not 0 < self.discount <= 1:
            raise BadInput(f"discount inside of a chunk must be in (0, 1], got {self.discount}.")
        if self.timeout not in ("bootstrap", "terminal"):
            raise BadInput(f"timeout {self.timeout!r} is unknown{nearest(self.timeout, ('bootstrap', 'terminal'))}")

    @property
    def function(self) -> RowReward:
        return REWARDS[self.per_step] if isinstance(self.per_step, str) else self.per_step


class NoiseEnv(VectorWrapper):
    """A vector environment whose action is (B, d) noise in [-bound, bound], see the module's docstring.

    Rows whose episode ends are reset in the same step (gymnasium's mode SAME_STEP: `final_obs`, `final_info`). Every episode has a seed of
    its own that follows from `seed`, its row and its number, so that a run can be repeated, and `state`/`restore` go on in its middle by
    doing the running episodes' actions again (for environments whose randomness comes from the seed of their reset).

    Infos of `step`, besides those of the environment: `env_steps` (B,) executed in this chunk; `actions` (B, n_action_steps, A) that
    were planned.

    Args:
        env: environments, in a SyncVectorEnv: rows are stepped one by one, so that those that have ended stay where they are.
        policy: frozen. Steering that is attached to its modules acts as it does elsewhere.
        noise_map: from d numbers to the noise.
        bound: of the box; the noise map's scale makes 1 the standard deviation of what the policy knows.
        reward: see `ChunkReward`.
        reader: from observations to the (B, n) state; None flattens all numbers that the environment gives.
        seed: of the episodes.
        options: passed to every reset of an environment.

    Raises:
        MissingEntrance: the policy starts from no noise, or its sampler is stochastic, so that noise would mean nothing.
    """

    def __init__(
        self,
        env: gym.vector.VectorEnv,
        policy: GenerativePolicy,
        noise_map: NoiseMap | None = None,
        bound: float = 1.5,
        reward: ChunkReward | None = None,
        reader: StateReader | None = None,
        seed: int = 0,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(env)
        if env is not env.unwrapped or not isinstance(env, SyncVectorEnv):
            raise BadInput(
                f"NoiseEnv: expected a gymnasium SyncVectorEnv without vector wrappers, got {type(env).__name__}: rows that have ended "
                "inside of a chunk must be left alone. Make it with SyncVectorEnv([make] * n), wrap the single environments."
            )
        check_noise_entrance(policy)
        if not 0 < bound < float("inf"):
            raise BadInput(f"NoiseEnv: bound must be a positive number, got {bound}.")
        self.policy, self.bound, self.reward = policy, float(bound), reward or ChunkReward()
        self.noise_map: NoiseMap = noise_map or Full()
        self.reader: StateReader = reader or Flattened.of(env.single_observation_space)
        self.seed, self.options = int(seed), dict(options or {})
        self._rows: Sequence[gym.Env] = env.envs
        self._env_space = env.single_observation_space
        self._env_action_space = env.single_action_space
        shape = policy.noise_shape
        self.noise_size = self.noise_map.size(shape)
        self.single_action_space = gym.spaces.Box(-self.bound, self.bound, (self.noise_size,), np.float32)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.single_observation_space = gym.spaces.Box(-np.inf, np.inf, (self.reader.size,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}
        self.env_steps = self.chunks = self.denoised = 0
        self.seconds = {"denoise": 0.0, "env": 0.0}
        """CPU seconds of this process so far."""
        self._observations: list[Any] = [None] * self.num_envs
        self._history: list[list[Any]] = [[] for _ in range(self.num_envs)]
        self._infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._episodes = [0] * self.num_envs
        self._done: list[list[np.ndarray]] = [[] for _ in range(self.num_envs)]  # actions of the running episodes
        self._drawing = [np.random.default_rng([self.seed, row, 3]) for row in range(self.num_envs)]
        self._has_reset = False

    # ---- episodes

    def reset(
        self, *, seed: int | list[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Start an episode in every row. `seed` (one number) begins the sequence of episodes again."""
        if isinstance(seed, list):
            raise BadInput("NoiseEnv.reset: seeds of the rows follow from one number; pass seed=<int> or None.")
        if options:
            raise BadInput("NoiseEnv.reset: pass options to NoiseEnv itself, they are those of all its episodes.")
        if seed is not None:
            self.seed = int(seed)
            self._episodes = [0] * self.num_envs
            self._drawing = [np.random.default_rng([self.seed, row, 3]) for row in range(self.num_envs)]
        for row in range(self.num_envs):
            self._begin(row)
        self._has_reset = True
        return self.states(), self._batched_infos(self._infos)

    def episode_seed(self, row: int, episode: int) -> int:
        """The seed of a row's n-th episode, from 0."""
        return int(np.random.SeedSequence(self.seed, spawn_key=(row, episode)).generate_state(1)[0] >> 1)

    def _begin(self, row: int) -> None:
        seed = self.episode_seed(row, self._episodes[row])
        observation, info = self._rows[row].reset(seed=seed, options=dict(self.options) or None)
        self._episodes[row] += 1
        self._done[row] = []
        self._infos[row] = dict(info)
        self._note(row, observation, fresh=True)

    def _note(self, row: int, observation: Any, fresh: bool = False) -> None:
        n_steps = self.policy.n_obs_steps
        self._observations[row] = observation
        self._history[row] = [observation] * n_steps if fresh else [*self._history[row][1:], observation]

    # ---- one chunk

    def step(self, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, dict[str, Any]]:
        """Denoise one chunk per row and execute it.

        Args:
            actions: (B, d) noise in the box.
        Returns:
            (B, n) states, (B,) float64 rewards, (B,) terminated, (B,) truncated, infos.
        Raises:
            BadInput: another shape, noise outside of the box, or `reset` was not called.
            NonFinite: NaN in the noise, the chunk or a reward.
        """
        noise = self.checked(actions)
        began = process_time()
        chunk = self.plan(noise)
        self.seconds["denoise"] += process_time() - began
        began = process_time()
        n_rows, n_steps = self.num_envs, self.policy.n_action_steps
        reward, lengths = np.zeros(n_rows), np.zeros(n_rows, dtype=np.int64)
        terminated, truncated = np.zeros(n_rows, dtype=bool), np.zeros(n_rows, dtype=bool)
        for row in range(n_rows):
            for i in range(n_steps):
                action = fit_action(self._env_action_space, chunk[row, i])
                observation, given, ended, late, info = self._rows[row].step(action)
                value = self.reward.function(float(given), info)
                if not np.isfinite(value):
                    raise NonFinite(f"NoiseEnv: row {row} got the reward {value}; check the reward function.")
                reward[row] += self.reward.discount**i * value
                lengths[row] += 1
                self._done[row].append(np.array(action))
                self._infos[row] = dict(info)
                self._note(row, observation)
                terminated[row], truncated[row] = bool(ended), bool(late) and not ended
                if ended or late:
                    break
        self.env_steps += int(lengths.sum())
        self.chunks += n_rows
        reward *= 1 / n_steps if self.reward.scale is None else self.reward.scale
        states = self.states()
        infos = {"env_steps": lengths, "actions": chunk[:, :n_steps].copy(), "time_limit": truncated.copy()}
        over = terminated | truncated
        if over.any():
            infos |= {"final_obs": states.copy(), "_final_obs": over.copy(), "_final_info": over.copy()}
            infos["final_info"] = np.array(
                [info if ended else None for info, ended in zip(self._infos, over, strict=True)]
            )
            for row in np.flatnonzero(over).tolist():
                self._begin(row)
            states = self.states()
        if self.reward.timeout == "terminal":
            terminated, truncated = over, np.zeros_like(over)
        self.seconds["env"] += process_time() - began
        return states, reward, terminated, truncated, infos

    def checked(self, actions: np.ndarray) -> torch.Tensor:
        """(B, d) noise that may be used; see `step` for what is refused."""
        if not self._has_reset:
            raise BadInput("NoiseEnv: step was called before reset.")
        given = np.asarray(actions, dtype=np.float32)
        if given.shape != self.action_space.shape:
            raise BadInput(
                f"NoiseEnv: expected noise of shape {self.action_space.shape} (rows, numbers of {self.noise_map}), got {given.shape}."
            )
        if not np.isfinite(given).all():
            raise NonFinite("NoiseEnv: the noise holds NaN or infinite values.")
        if np.abs(given).max(initial=0.0) > self.bound * (1 + 1e-5):
            raise BadInput(
                f"NoiseEnv: noise must stay in [-{self.bound:g}, {self.bound:g}], got {float(np.abs(given).max()):.3g}; clip it, or make "
                "the environment with a larger bound."
            )
        return torch.from_numpy(given)

    def plan(self, noise: torch.Tensor) -> np.ndarray:
        """The (B, H, A) chunks that the policy makes now of (B, d) noise."""
        policy, shape = self.policy, self.policy.noise_shape
        drawn = np.stack([rng.standard_normal(shape) for rng in self._drawing]).astype(np.float32)
        observation = self.observation()
        steps = np.array([len(done) for done in self._done], dtype=np.int64)
        policy.context.act_calls += 1
        with policy.context.during(observation=observation, infos=list(self._infos), env_step=steps):
            chunk = policy.sample(observation, self.noise_map.expand(noise, shape, torch.from_numpy(drawn)))
        self.denoised += len(chunk)
        if not bool(torch.isfinite(chunk).all()):
            raise NonFinite(f"{policy.name}: non-finite chunk; check the policy's inputs for NaN.")
        return chunk.detach().numpy()

    def observation(self) -> dict[str, Any]:
        """What the policy is given now: B rows, with an axis for the steps that it reads if they are several."""
        n_steps = self.policy.n_obs_steps
        frames = [
            named(stack_observations(self._env_space, [history[i] for history in self._history]))
            for i in range(n_steps)
        ]
        made = dict(frames[0] if n_steps == 1 else _along_time(frames))
        tasks = [info.get("task_description") for info in self._infos]
        if self.policy.reads_text and all(isinstance(task, str) for task in tasks):
            made["task"] = tuple(tasks)
        return made

    def states(self) -> np.ndarray:
        """The (B, n) float32 states now."""
        return self.reader(named(stack_observations(self._env_space, self._observations)))

    @property
    def infos(self) -> list[dict[str, Any]]:
        """The environments' latest infos, one per row."""
        return list(self._infos)

    def _batched_infos(self, infos: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return {"row_info": np.array([dict(info) for info in infos], dtype=object)}

    # ---- going on later

    def state(self) -> dict[str, Any]:
        """JSON-able: what `restore` needs to go on from here."""
        return {
            "seed": self.seed,
            "episodes": list(self._episodes),
            "actions": [[action.tolist() for action in done] for done in self._done],
            "drawing": [rng.bit_generator.state for rng in self._drawing],
            "counts": [self.env_steps, self.chunks, self.denoised],
            "seconds": dict(self.seconds),
        }

    def restore(self, state: Mapping[str, Any]) -> np.ndarray:
        """Bring every row to where `state` was taken, by doing the actions of its episode again; returns the states."""
        self.seed = int(state["seed"])
        self._has_reset = True
        for row, (episode, actions) in enumerate(zip(state["episodes"], state["actions"], strict=True)):
            self._episodes[row] = int(episode) - 1
            self._begin(row)
            for action in actions:
                again = np.asarray(action, dtype=self._env_action_space.dtype)
                observation, _, ended, late, info = self._rows[row].step(again)
                if ended or late:
                    raise BadInput(
                        f"NoiseEnv.restore: the episode of row {row} ended although it went on before; the environment does not repeat "
                        "itself from the seed of its reset. Train without resuming."
                    )
                self._done[row].append(again)
                self._infos[row] = dict(info)
                self._note(row, observation)
            self._drawing[row].bit_generator.state = state["drawing"][row]
        self.env_steps, self.chunks, self.denoised = (int(count) for count in state["counts"])
        self.seconds = dict(state["seconds"])
        return self.states()


def check_noise_entrance(policy: Any) -> None:
    """Refuse policies for which a given noise means nothing.

    Raises:
        MissingEntrance: no entrance "noise", a stochastic sampler, or parts around the sampler that start afresh with all rows.
    """
    name = getattr(policy, "name", type(policy).__name__)
    if "noise" not in getattr(policy, "entrances", frozenset()) or not isinstance(policy, GenerativePolicy):
        raise MissingEntrance(
            f"{name!r} does not start from noise (entrances: {sorted(getattr(policy, 'entrances', ()))}); use a flow or diffusion policy."
        )
    if policy.stochastic is not None:
        raise MissingEntrance(
            f"{name!r} draws noise while it denoises, so the noise that it starts from does not fix its action: {policy.stochastic}"
        )
    if policy.sampling_parts:
        raise MissingEntrance(
            f"{name!r} has parts around its sampler ({', '.join(type(part).__name__ for part in policy.sampling_parts)}); "
            "learn noise on the "
            "policy without them, and stack the parts when it acts."
        )


def _along_time(frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """B-row observations at several steps -> one, with the steps on axis 1; texts are those of the last."""
    made: dict[str, Any] = {}
    for key, last in frames[-1].items():
        values = [frame[key] for frame in frames]
        if isinstance(last, Mapping):
            made[key] = _along_time(values)
        else:
            made[key] = np.stack(values, axis=1) if isinstance(last, np.ndarray) else last
    return made
