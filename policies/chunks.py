"""Policies that predict a chunk of actions at once and execute its first `n_action_steps` before they predict again.

Axes: B rows, H chunk_size, A action size. All rows replan together: episodes of a batch start together.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from policies.base import Decision, Observation, Policy

if TYPE_CHECKING:
    import torch


class ChunkPolicy(Policy):
    """A policy that acts in chunks. Subclasses write `_plan`.

    Args:
        chunk_size: H, actions predicted at once.
        n_action_steps: how many of them are executed before the next chunk.
        action_dim: A.
    """

    chunk_size: int
    n_action_steps: int
    action_dim: int

    @abstractmethod
    def _plan(self, observation: Observation) -> torch.Tensor:
        """The (B, H, A) chunk that starts now, in the environment's units, on the CPU."""

    @property
    def chunk(self) -> np.ndarray:
        """(B, H, A) float32, the chunk that is being executed, in the environment's units; H is 0 before the first one."""
        return self._chunk

    def replan(
        self,
        observation: Observation,
        executed: int = 0,
        active: np.ndarray | None = None,
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> Decision:
        """`act`, with a new chunk that starts with this observation, wherever the last one stood.

        Args:
            observation, active, infos: as for `act`.
            executed: how many actions of the last chunk were executed, for policies that look at the previous action.
        """
        if self._batch_size is not None:
            self._next, self._stale = min(max(executed, 0), self._chunk.shape[1]), True
        return self.act(observation, active, infos)

    def _measures(self) -> Mapping[str, np.ndarray]:
        """What is recorded with every action of the latest chunk."""
        return {}

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self._chunk = np.zeros((len(seeds), 0, self.action_dim), dtype=np.float32)
        self._next, self._stale = 0, False

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        if self._stale or self._next == min(self.n_action_steps, self._chunk.shape[1]):
            self._chunk = self._plan(observation).numpy()
            self._next, self._stale = 0, False
        action = self._chunk[:, self._next]
        self._next += 1
        return Decision(action, self._measures())
