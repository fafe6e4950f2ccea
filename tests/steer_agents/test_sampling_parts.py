"""Parts at the noise and along the path: layers around the sampler in the order given, which leave nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

import policies
from policies.base import Observation
from policies.errors import MissingEntrance
from policies.flow import FlowConfig, FlowPolicy
from policies.flow.model import ChunkDenoiser
from policies.generative import DenoiseState, GenerativePolicy, PathHook, Sample
from steer_agents.steerer import steer

OBSERVATION = {"state": np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)}


def flow() -> FlowPolicy:
    network = ChunkDenoiser(
        FlowConfig(n_inputs=3, keys=("state",), action_dim=2, chunk_size=4, n_action_steps=4, width=32, n_blocks=2)
    )
    torch.nn.init.normal_(network.head.weight, std=0.3)
    policy = FlowPolicy(network)
    policy.reset([7, 8])
    return policy


@dataclass(eq=False)
class Layer:
    """Noise * times + plus, and the same along the path."""

    times: float = 1.0
    plus: float = 0.0
    bends: bool = False
    started: list[tuple[int, ...]] = field(default_factory=list)
    seen: list[float] = field(default_factory=list)
    entrance: ClassVar[str] = "noise"

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        hook: PathHook | None = self._bend if self.bends else None
        self.seen.append(float(noise.mean()))
        return sample(observation, noise * self.times + self.plus, hook)

    def _bend(self, state: DenoiseState) -> torch.Tensor:
        return state.x * self.times + self.plus

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        self.started.append(tuple(seeds))

    def describe(self) -> dict[str, Any]:
        return {"noise": "Layer"}


def plan(policy: FlowPolicy) -> torch.Tensor:
    policy.reset([7, 8])
    return policy._plan(OBSERVATION)


def test_parts_act_in_their_order_and_are_gone_afterwards() -> None:
    policy = flow()
    stock, noise = plan(policy), (policy.reset([7, 8]), policy.draw_noise())[1]
    double, shift = Layer(times=2.0), Layer(plus=1.0)
    with steer(policy, double, shift):
        torch.testing.assert_close(plan(policy), policy.sample(OBSERVATION, 2 * noise + 1))
        with steer(policy, Layer(times=3.0)):
            torch.testing.assert_close(plan(policy), policy.sample(OBSERVATION, 3 * (2 * noise + 1)))
        torch.testing.assert_close(plan(policy), policy.sample(OBSERVATION, 2 * noise + 1))
    assert torch.equal(plan(policy), stock)
    assert policy.sampling_parts == ()


def test_hooks_of_several_parts_follow_one_another() -> None:
    policy = flow()
    noise = (policy.reset([7, 8]), policy.draw_noise())[1]
    with steer(policy, Layer(times=2.0, bends=True), Layer(plus=1.0, bends=True)):
        found = plan(policy)
    wanted = policy.sample(OBSERVATION, 2 * noise + 1, lambda state: state.x * 2 + 1)
    torch.testing.assert_close(found, wanted)


def test_a_part_is_told_when_episodes_start_also_when_it_is_attached_later() -> None:
    policy, outer, inner = flow(), Layer(), Layer()
    with steer(policy, outer), steer(policy, inner):
        assert (outer.started, inner.started) == ([(7, 8)], [(7, 8)])
        policy.reset([9, 10])
        assert (outer.started, inner.started) == ([(7, 8), (9, 10)], [(7, 8), (9, 10)])


def test_a_policy_that_does_not_sample_is_refused() -> None:
    with pytest.raises(MissingEntrance, match="enters a policy at its 'noise', which 'tiny-vla' does not have"):
        steer(policies.load("tiny-vla"), Layer())
