"""Sizes of an MLP policy."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from policies.errors import BadInput, nearest
from policies.mlp.heads import HEADS

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of an MLP policy.

    Args:
        n_inputs: width of the flattened observation.
        n_outputs: width of the network's output, as the head reads it.
        hidden: widths of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        head: a name in `heads.HEADS`: from the network's output to an action.
        keys: which entries of a Dict observation are flattened, in this order; () takes a plain array.
        log_std: per action dimension, of the head "gaussian".
        std_scale: of the Gaussian heads: the policy's standard deviation is multiplied by it; 0 is deterministic.
    """

    n_inputs: int
    n_outputs: int
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    head: str = "categorical"
    keys: tuple[str, ...] = ()
    log_std: tuple[float, ...] = ()
    std_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise BadInput(f"activation {self.activation!r} is unknown{nearest(self.activation, ACTIVATIONS)}")
        if self.head not in HEADS:
            raise BadInput(f"head {self.head!r} is unknown{nearest(self.head, HEADS)}")
        if min(self.n_inputs, self.n_outputs, *self.hidden) < 1:
            raise BadInput(f"all sizes must be positive, got {self.n_inputs}, {self.hidden}, {self.n_outputs}.")
        if self.head == "gaussian" and len(self.log_std) != self.n_outputs:
            raise BadInput(f"head 'gaussian' needs {self.n_outputs} values of log_std, got {len(self.log_std)}.")
        if self.head == "squashed-gaussian" and self.n_outputs % 2:
            raise BadInput(
                f"head 'squashed-gaussian' reads means and log_stds: n_outputs is even, got {self.n_outputs}."
            )
