"""Sizes of a flow-matching or diffusion policy on a flat state."""

from __future__ import annotations

from dataclasses import dataclass

from policies.errors import BadInput, nearest
from policies.flow.paths import PATHS


@dataclass(frozen=True)
class FlowConfig:
    """Sizes of a policy.

    Args:
        keys: entries of the observation that are flattened, in this order.
        n_inputs: their width together.
        action_dim: A.
        chunk_size: H, actions predicted at once.
        n_action_steps: executed before the next chunk.
        path: a name in `PATHS`.
        num_denoise_steps: network calls per chunk.
        width, n_blocks, expansion: of the residual network.
        frequencies: sines and cosines of the noise level each.
    """

    n_inputs: int
    keys: tuple[str, ...] = ("agent_pos", "environment_state")
    action_dim: int = 7
    chunk_size: int = 8
    n_action_steps: int = 4
    path: str = "flow"
    num_denoise_steps: int = 5
    width: int = 256
    n_blocks: int = 3
    expansion: int = 2
    frequencies: int = 16

    def __post_init__(self) -> None:
        if self.path not in PATHS:
            raise BadInput(f"path {self.path!r} is unknown{nearest(self.path, PATHS)}")
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        if small := {name: value for name, value in sizes.items() if value < 1}:
            raise BadInput(f"all sizes must be positive, got {small}.")
        if self.n_action_steps > self.chunk_size:
            raise BadInput(
                f"n_action_steps {self.n_action_steps} is more than chunk_size {self.chunk_size}: "
                "a chunk cannot be executed beyond its end."
            )
