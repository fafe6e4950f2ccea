"""A chunk policy that is asked for a new chunk before the last one is through."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies.base import Observation
from policies.chunks import ChunkPolicy
from policies.errors import BadInput


class Counting(ChunkPolicy):
    """Every chunk counts on from the observation; the policy remembers where the last one stood."""

    chunk_size, n_action_steps, action_dim = 6, 3, 1

    def _plan(self, observation: Observation) -> torch.Tensor:
        self.stood = self._next
        return torch.as_tensor(observation["x"], dtype=torch.float32)[:, None, None] + torch.arange(6)[None, :, None]


def test_a_new_chunk_starts_with_the_observation_and_is_then_executed_like_any_other() -> None:
    policy = Counting()
    policy.reset([0])
    assert policy.chunk.shape == (1, 0, 1)
    seen = {"x": np.array([100.0])}
    assert [float(policy.act({"x": np.array([0.0])}).action[0, 0]) for _ in range(2)] == [0, 1]
    assert policy.replan(seen, executed=5).action[0, 0] == 100
    assert policy.stood == 5
    np.testing.assert_array_equal(policy.chunk[0, :, 0], 100 + np.arange(6))
    assert [float(policy.act({"x": np.array([7.0])}).action[0, 0]) for _ in range(3)] == [101, 102, 7]
    policy.replan(seen, executed=99)
    assert policy.stood == 6
    policy.reset([0])
    assert policy.act({"x": np.array([3.0])}).action[0, 0] == 3


def test_replanning_before_reset_is_refused() -> None:
    with pytest.raises(BadInput, match="before reset"):
        Counting().replan({"x": np.zeros(1)})
