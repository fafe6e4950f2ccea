"""MLP policies behind the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from policies.base import Decision, Observation, Policy
from policies.errors import BadInput
from policies.mlp.config import MLPConfig
from policies.mlp.heads import HEADS
from policies.mlp.model import MLP
from policies.site_maps import site_map_for


class MLPPolicy(Policy):
    """A policy on an `MLP`; all sites of the map `mlp.toml`."""

    entrances = frozenset({"modules", "decision"})
    no_action_values = "its head turns what the network gives into a choice outside of it."

    def __init__(self, network: MLP, config: MLPConfig, name: str = "mlp") -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.module = network.eval()
        self.site_map = site_map_for(network)
        defaults = {"temperature": 1.0, "std_scale": config.std_scale}
        self._settings = {key: defaults[key] for key in HEADS[config.head].settings}
        self._rngs: list[np.random.Generator] = []

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        """The settings of the head, see `heads.py`."""
        if not settings or not settings.keys() <= self._settings.keys():
            raise BadInput(
                f"{self.name}: decision settings of a {self.config.head} head are {sorted(self._settings)}, "
                f"got {sorted(settings)}."
            )
        if bad := {key: value for key, value in settings.items() if not (np.isfinite(value) and value >= 0)}:
            raise BadInput(f"{self.name}: decision settings are finite and not negative, got {bad}.")
        if settings.get("temperature") == 0:
            raise BadInput(f"{self.name}: temperature must be above 0, got 0.")
        old = {key: self._settings[key] for key in settings}
        self._settings |= {key: float(value) for key, value in settings.items()}
        return old

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "config": vars(self.config), **self._settings}

    def encode(self, inputs: Sequence[Any]) -> list[Any]:
        """Observations (arrays of width n_inputs) -> one batch tensor."""
        return [torch.as_tensor(np.stack([np.asarray(entry, dtype=np.float32).ravel() for entry in inputs]))]

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self._rngs = [np.random.default_rng([seed, 1]) for seed in seeds]

    def _flatten(self, observation: Observation) -> torch.Tensor:
        if self.config.keys:
            parts = [np.asarray(observation[key], dtype=np.float32) for key in self.config.keys]
            x = np.concatenate([part.reshape(len(self._rngs), -1) for part in parts], axis=1)
        else:
            x = np.asarray(observation, dtype=np.float32).reshape(len(self._rngs), -1)
        if x.shape[1] != self.config.n_inputs:
            raise BadInput(f"{self.name}: expected observations of width {self.config.n_inputs}, got {x.shape[1]}.")
        return torch.from_numpy(x)

    @torch.no_grad()
    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        assert self.module is not None
        outputs = self.module(self._flatten(observation)).double().numpy()
        return HEADS[self.config.head].choose(outputs, self._rngs, self.config, self._settings)
