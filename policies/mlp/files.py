"""MLP policies as files."""

from __future__ import annotations

from pathlib import Path
from typing import cast

from policies import weights
from policies.mlp.adapter import MLPPolicy
from policies.mlp.config import MLPConfig
from policies.mlp.model import MLP

KIND = "mlp"


def save(policy: MLPPolicy, path: str | Path) -> None:
    """Write weights and sizes."""
    weights.write(path, KIND, vars(policy.config), cast(MLP, policy.module).state_dict())


def load(argument: str) -> MLPPolicy:
    """Load "mlp:NAME" (an embedded policy) or "mlp:FILE" (written by `save`)."""
    path = weights.located("policies.mlp", argument)
    raw, tensors = weights.read(path, KIND)
    config = MLPConfig(**raw)
    network = MLP(config)
    weights.fill(network, tensors, path)
    return MLPPolicy(network, config, name=path.stem)
