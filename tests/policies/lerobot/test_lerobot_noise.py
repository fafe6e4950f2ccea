"""`NoiseEnv` and parts at the noise on LeRobot's policies: what is executed is LeRobot's own for the same noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from tiny_lerobot import CAMERAS, INFOS, N_ACTION, N_ACTION_STEPS, N_STATE, TASKS, observation, side

import steer_agents as sa
from policies.errors import MissingEntrance
from steer_agents.noise.maps import Dct, Masked
from steer_agents.noise.noise_env import ChunkReward, NoiseEnv
from steer_agents.noise.parts import BestOfN, ConstantNoise, repeated
from steer_agents.noise.states import Flattened

DENOISERS = ("smolvla", "pi0", "pi05", "diffusion")
Shared = Callable[[str], Any]


class Toy(gym.Env[dict[str, Any], np.ndarray]):
    """Noisy pictures, a state that the action moves, an instruction."""

    metadata = {"render_modes": []}  # noqa: RUF012

    def __init__(self, kind: str) -> None:
        picture = gym.spaces.Box(0, 255, (side(kind), side(kind), 3), np.uint8)
        self.observation_space = gym.spaces.Dict(
            {
                "agent_pos": gym.spaces.Box(-np.inf, np.inf, (N_STATE,), np.float32),
                "pixels": gym.spaces.Dict(dict.fromkeys(CAMERAS, picture)),
            }
        )
        self.action_space = gym.spaces.Box(-np.inf, np.inf, (N_ACTION,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.state = self.np_random.normal(size=N_STATE).astype(np.float32)
        self.steps = 0
        return self._seen(), {"task_description": TASKS[0], "is_success": False}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        self.state = self.state + 0.01 * np.resize(action, N_STATE).astype(np.float32)
        self.steps += 1
        return self._seen(), 0.0, False, self.steps >= 10, {"task_description": TASKS[0], "is_success": False}

    def _seen(self) -> dict[str, Any]:
        pixels = self.observation_space["pixels"]
        pictures = {
            name: self.np_random.integers(0, 256, space.shape, dtype=np.uint8) for name, space in pixels.spaces.items()
        }  # type: ignore[attr-defined]
        return {"agent_pos": self.state.copy(), "pixels": pictures}


def own(policy: Any, seen: list[dict[str, Any]], noise: torch.Tensor) -> np.ndarray:
    """What stock LeRobot executes of one chunk: its own preprocessing, queues and sampler."""
    from lerobot.envs.utils import preprocess_observation

    stock, diffusion = policy.stock, policy.stock.config.type == "diffusion"
    stock.policy.reset()
    for one in seen:
        tasks = {} if diffusion else {"task": [TASKS[0]] * len(one["agent_pos"])}
        batch = stock.pre({**preprocess_observation(one), **tasks})
        if diffusion:
            from lerobot.policies.utils import populate_queues
            from lerobot.utils.constants import OBS_IMAGES

            batch = dict(batch)
            batch[OBS_IMAGES] = torch.stack([batch[key] for key in stock.config.image_features], dim=-4)
            batch.pop("action", None)
            stock.policy._queues = populate_queues(stock.policy._queues, batch)
    chunk = stock.policy.predict_action_chunk(batch, noise=noise)
    made: np.ndarray = stock.post(chunk).numpy()[:, :N_ACTION_STEPS]
    stock.policy.reset()
    return made


@pytest.mark.parametrize("kind", DENOISERS)
def test_noise_env_runs_end_to_end_and_executes_lerobots_own_actions(shared: Shared, kind: str) -> None:
    policy = shared(kind)
    width = policy.noise_shape[1]
    noise_map = Masked(tuple(range(min(N_ACTION, width))), Dct(2))
    reader = Flattened.of(Toy(kind).observation_space, ["agent_pos"])
    env = NoiseEnv(
        SyncVectorEnv([lambda: Toy(kind)] * 2), policy, noise_map, reward=ChunkReward("env"), reader=reader, seed=3
    )
    states, _ = env.reset()
    assert states.shape == (2, N_STATE)
    rng = np.random.default_rng(0)
    ended = 0
    for _ in range(4):
        w = rng.uniform(-1, 1, env.action_space.shape).astype(np.float32)
        now = env.observation()
        frames = [now] if policy.n_obs_steps == 1 else [_frame(now, i) for i in range(policy.n_obs_steps)]
        seen = [{"pixels": frame["pixels"], "agent_pos": frame["agent_pos"]} for frame in frames]
        expected = own(policy, seen, noise_map.expand(torch.from_numpy(w), policy.noise_shape))
        _, _, _, truncated, infos = env.step(w)
        np.testing.assert_array_equal(infos["actions"], expected)
        ended += int(truncated.sum())
    assert ended == 2


def _frame(stacked: Any, i: int) -> Any:
    return {
        key: _frame(value, i) if isinstance(value, dict) else value[:, i] if isinstance(value, np.ndarray) else value
        for key, value in stacked.items()
    }


@pytest.mark.parametrize("kind", DENOISERS)
def test_samples_of_a_row_share_its_prefix_and_equal_single_ones(shared: Shared, kind: str) -> None:
    policy = shared(kind)
    seen = {**observation(kind), "task": TASKS}
    noise = torch.randn(6, *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    calls: list[int] = []
    core = policy.stock.policy.diffusion.rgb_encoder if kind == "diffusion" else policy.stock.policy.model
    encoder = (
        core
        if kind == "diffusion"
        else next(m for n, m in core.named_modules() if n.endswith(("vision_model", "vision_tower")))
    )
    encoder = encoder[0] if isinstance(encoder, torch.nn.ModuleList) else encoder
    handle = encoder.register_forward_hook(lambda module, args, output: calls.append(1))
    together = policy.sample(seen, noise)
    n_together, calls[:] = len(calls), []
    policy.sample(seen, noise[::2])
    assert n_together == len(calls)  # as many passes over pictures as for one sample per row
    handle.remove()
    apart = policy.sample(repeated(seen, 2), noise)
    torch.testing.assert_close(together, apart, atol=1e-4, rtol=1e-4)
    assert policy.context.repeats == 1


@pytest.mark.parametrize("kind", DENOISERS)
def test_constant_noise_and_best_of_n_act(shared: Shared, kind: str) -> None:
    policy = shared(kind)
    with sa.steer(policy, ConstantNoise()):
        action = policy.act(observation(kind)).action
    seen = {**observation(kind), "task": TASKS}
    zeros = policy.sample(_doubled(seen, policy.n_obs_steps), torch.zeros(3, *policy.noise_shape))
    np.testing.assert_allclose(action, zeros[:, 0].numpy(), atol=1e-6)
    policy.reset([1, 2, 3], INFOS)
    part = BestOfN(lambda o, w, chunks: chunks[:, 0, 0], n=4)
    with sa.steer(policy, part):
        best = policy.act(observation(kind)).action
    policy.reset([1, 2, 3], INFOS)
    assert (best[:, 0] >= policy.act(observation(kind)).action[:, 0] - 1e-4).all()


def _doubled(seen: Any, n: int) -> Any:
    if n == 1:
        return seen
    return {
        key: _doubled(value, n)
        if isinstance(value, dict)
        else np.stack([value] * n, 1)
        if isinstance(value, np.ndarray)
        else value
        for key, value in seen.items()
    }


def test_policies_that_start_from_no_noise_are_refused(shared: Shared) -> None:
    with pytest.raises(MissingEntrance, match="does not start from noise"):
        NoiseEnv(SyncVectorEnv([lambda: Toy("act")]), shared("act"))
