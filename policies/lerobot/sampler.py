"""The network of a LeRobot policy as one torch module whose call predicts a chunk."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.base import Context
from policies.lerobot.passes import Bend, Call

if TYPE_CHECKING:
    from policies.lerobot.types import PolicyType


class ChunkSampler(nn.Module):
    """Calls `predict_action_chunk`, which LeRobot's policies do not do when they are called (that is their training).

    It has the policy's own children under their own names, so that a site map fits both, and state dicts agree.

    Args:
        policy: LeRobot's, in eval mode.
        kind: its row of `TYPES`.
        context: told what runs inside of a call.
        autocast: dtype that torch casts to where weights and inputs differ; None leaves all to the policy.
    """

    def __init__(self, policy: Any, kind: PolicyType, context: Context, autocast: torch.dtype | None = None) -> None:
        super().__init__()
        for name, child in policy.named_children():
            self.add_module(name, child)
        object.__setattr__(self, "policy", policy)  # not a child: its children are ours already
        self.config = policy.config
        self.kind = kind
        self.context = context
        self.autocast = autocast
        self._options: Mapping[str, Any] = {}
        self.eval()

    @contextmanager
    def host_options(self, options: Mapping[str, Any]) -> Iterator[None]:
        """Also pass these to `predict_action_chunk` until the block is left, e.g. what real-time chunking says of the last chunk."""
        before, self._options = self._options, options
        try:
            yield
        finally:
            self._options = before

    def forward(
        self,
        noise: torch.Tensor | None = None,
        bend: Bend | None = None,
        choose: Callable[[torch.Tensor], torch.Tensor] | None = None,
        **batch: torch.Tensor,
    ) -> torch.Tensor:
        """Predict a chunk.

        Args:
            noise: (B, *noise_shape) where the sample starts, for policies that denoise; (N B, ...) for N samples per row.
            bend, choose: see `Call`.
            batch: what LeRobot's preprocessor made, "observation.state" and so on.
        Returns:
            (B, H, A), normalised.
        """
        policy: Any = self.policy
        noisy = {} if self.kind.noise is None else {"noise": noise}
        device = next(policy.parameters()).device.type
        nothing: dict[str, Any] = {"phase": None, "token_classes": {}, "denoise_step": None, "repeats": 1}
        with (
            self.context.during(**nothing),
            torch.autocast(device, self.autocast, enabled=self.autocast is not None),
            self.kind.passes(policy, Call(self.context, bend, choose)),
        ):
            chunk: torch.Tensor = policy.predict_action_chunk(dict(batch), **noisy, **self._options)
        return chunk

    def example_inputs(self, n_rows: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        """Arguments of `forward`, for checks that have no data."""
        config = self.config
        lead = (n_rows,) if config.n_obs_steps == 1 else (n_rows, config.n_obs_steps)
        made = {
            name: torch.rand(*lead, *feature.shape, generator=generator)
            for name, feature in config.input_features.items()
        }
        if self.kind.reads_text:
            made["observation.language.tokens"] = torch.randint(5, 100, (n_rows, 6), generator=generator)
            made["observation.language.attention_mask"] = torch.ones(n_rows, 6, dtype=torch.bool)
        if self.kind.noise is not None:
            made["noise"] = torch.randn(n_rows, *self.kind.noise(config), generator=generator)
        return made
