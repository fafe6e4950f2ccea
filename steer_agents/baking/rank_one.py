"""Rank-1 changes of linear layers, W <- W + v k^T, kept as their factors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import NonFinite, WrongWidth
from steer_agents.baking.handle import Handle, matrix
from steer_agents.fingerprint import data_fingerprint
from steer_agents.sites import Location, Steerable


@dataclass(frozen=True)
class RankOne:
    """The change of one linear layer.

    Args:
        location: whose module's input it reads, e.g. "language.3.mlp_neurons".
        output: (out,) unit vector v.
        row: (in,) k, whatever length; zero where a component is left alone.
        n_components: heads or neurons that k touches.
    """

    location: Location
    output: torch.Tensor
    row: torch.Tensor
    n_components: int


class RankOneEdits(Handle):
    """A model with rank-1 changes in its weights.

    Args:
        changes: one per layer and kind.
        method: for `describe`.
        notes: how they were chosen, JSON-able.
    Raises:
        NotBakeable: a module is no linear layer, or quantised; nothing was changed.
    """

    def __init__(
        self, target: Steerable, changes: Sequence[RankOne], method: str, notes: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__(target)
        self.changes, self.method, self.notes = tuple(changes), method, dict(notes or {})
        plan = []
        for change in self.changes:
            W = matrix(change.location.module, change.location.key)
            if W.shape != (len(change.output), len(change.row)):
                raise WrongWidth(
                    f"{method} at {change.location.key}: the weight is {tuple(W.shape)}, the change "
                    f"{(len(change.output), len(change.row))}. The direction belongs to another site or model."
                )
            if not (torch.isfinite(change.output).all() and torch.isfinite(change.row).all()):
                raise NonFinite(f"{method} at {change.location.key}: the change contains NaN or infinity.")
            plan.append((change, W))
        self._begin()
        for change, W in plan:
            self._keep(change.location.module)
            with torch.no_grad():
                delta = torch.outer(change.output.double(), change.row.double()).to(W.device)
                W.copy_((W.double() + delta).to(W.dtype))
        self._pin()

    @property
    def n_components(self) -> int:
        """Heads and neurons changed."""
        return sum(change.n_components for change in self.changes)

    def describe(self) -> list[dict[str, Any]]:
        return [
            {
                "method": self.method,
                "location": change.location.key,
                "components": change.n_components,
                "hash": data_fingerprint(change.output, change.row),
                **self.notes,
            }
            for change in self.changes
        ]
