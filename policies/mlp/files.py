"""MLP policies as files."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path
from typing import cast

from policies import weights
from policies.errors import UnknownName, nearest
from policies.mlp.adapter import MLPPolicy
from policies.mlp.config import MLPConfig
from policies.mlp.model import MLP

KIND = "mlp"


def embedded() -> dict[str, Path]:
    """Name -> weight file of the policies that come with the package."""
    folder = Path(str(files("policies.mlp"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def save(policy: MLPPolicy, path: str | Path) -> None:
    """Write weights and sizes."""
    weights.write(path, KIND, vars(policy.config), cast(MLP, policy.module).state_dict())


def load(argument: str) -> MLPPolicy:
    """Load "mlp:NAME" (an embedded policy) or "mlp:FILE" (written by `save`)."""
    known = embedded()
    path = known.get(argument) or Path(argument)
    if not path.is_file():
        raise UnknownName(f"mlp policy {argument!r} is neither embedded nor a file{nearest(argument, known)}")
    raw, tensors = weights.read(path, KIND)
    config = MLPConfig(**raw)
    network = MLP(config)
    weights.fill(network, tensors, path)
    return MLPPolicy(network, config, name=path.stem)
