"""Flow and diffusion policies behind the contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from policies.base import Observation
from policies.errors import BadInput
from policies.flow.config import FlowConfig
from policies.flow.model import ChunkDenoiser
from policies.flow.paths import PATHS
from policies.generative import DenoiseState, GenerativePolicy, PathHook, checked_noise
from policies.site_maps import site_map_for


class FlowPolicy(GenerativePolicy):
    """A `ChunkDenoiser` as a policy. It can be steered at its modules, by its noise and along its path."""

    entrances = frozenset({"modules", "noise", "path"})

    def __init__(self, network: ChunkDenoiser, name: str = "flow") -> None:
        super().__init__()
        self.name = name
        self.config: FlowConfig = network.config
        self.module = network.eval()
        self.network = network
        self.site_map = site_map_for(network)
        self.chunk_size = self.config.chunk_size
        self.n_action_steps = self.config.n_action_steps
        self.action_dim = self.config.action_dim

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "config": vars(self.config)}

    def states(self, observation: Observation) -> torch.Tensor:
        """The (B, n_inputs) float32 network input.

        Raises:
            BadInput: a key is missing, or the width differs from what the network was trained on.
        """
        if not isinstance(observation, Mapping) or any(key not in observation for key in self.config.keys):
            got = sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
            raise BadInput(
                f"{self.name}: expected observations with keys {list(self.config.keys)}, got {got}; "
                "make the environment with obs_type='state'."
            )
        parts = [np.asarray(observation[key], dtype=np.float32) for key in self.config.keys]
        state = np.concatenate([part.reshape(len(part), -1) for part in parts], axis=1)
        if state.shape[1] != self.config.n_inputs:
            raise BadInput(
                f"{self.name}: expected {self.config.n_inputs} numbers in {list(self.config.keys)}, got {state.shape[1]}."
            )
        return torch.from_numpy(state)

    def encode(self, inputs: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Observations (unbatched mappings) -> one batch at noise level 1, with the noise of seed 0 in every row.

        This is the first denoise step, where the state decides most of the chunk.
        """
        keys = self.config.keys
        state = self.states({key: np.stack([np.asarray(entry[key]) for entry in inputs]) for key in keys})
        noise = torch.randn(1, self.chunk_size, self.action_dim, generator=torch.Generator().manual_seed(0))
        return [{"x": noise.expand(len(state), -1, -1), "level": torch.ones(len(state)), "state": state}]

    def action_values(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The sample that starts from the batch's noise, all denoise steps, not clipped."""
        x, state = batch["x"], batch["state"]
        path = PATHS[self.config.path]
        levels = torch.linspace(1, 0, self.config.num_denoise_steps + 1).tolist()
        for i, (level, following) in enumerate(pairwise(levels)):
            with self.context.during(denoise_step=i):
                x = path.step(x, self.network(x, torch.full((len(x),), level), state), level, following)
        return x * self.network.action_scale + self.network.action_mean

    def sample(
        self,
        observation: Observation,
        noise: torch.Tensor | None = None,
        hook: PathHook | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """See `GenerativePolicy.sample`."""
        state = self.states(observation)
        shape = (len(state), self.chunk_size, self.action_dim)
        x = torch.randn(shape, generator=generator) if noise is None else checked_noise(noise, shape, copies=True)
        repeats = len(x) // len(state)
        state, shape = state.repeat_interleave(repeats, 0), (len(x), *shape[1:])
        path = PATHS[self.config.path]
        levels = torch.linspace(1, 0, self.config.num_denoise_steps + 1).tolist()

        def predict(x: torch.Tensor, level: float) -> torch.Tensor:
            out: torch.Tensor = self.network(x, torch.full((len(state),), level), state)
            return out

        def estimate(x: torch.Tensor, level: float) -> torch.Tensor:
            return path.clean(x, predict(x, level), level)

        for i, (level, following) in enumerate(pairwise(levels)):
            with self.context.during(denoise_step=i, repeats=repeats):
                with torch.no_grad():
                    v = predict(x, level)
                    clean = path.clean(x, v, level)
                    x = path.step(x, v, level, following)
                if hook is None:
                    continue
                bent = hook(DenoiseState(i, following, x, clean, estimate, self.network.to_action, observation))
                x = x if bent is None else checked_noise(bent.detach(), shape)
        with torch.no_grad():
            return self.network.to_action(x)
