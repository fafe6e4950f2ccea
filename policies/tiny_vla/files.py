"""tiny-vla as a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from policies import weights
from policies.tiny_vla.adapter import TinyVLAPolicy
from policies.tiny_vla.config import TinyVLAConfig
from policies.tiny_vla.model import TinyVLA

KIND = "tiny-vla"


def save(network: TinyVLA, path: str | Path) -> None:
    """Write weights, sizes and words."""
    weights.write(path, KIND, vars(network.config), network.state_dict())


def read(path: str | Path) -> TinyVLA:
    """Read what `save` wrote.

    Raises:
        BadArtifact: no such file, a damaged one, or one of another kind.
    """
    config, tensors = weights.read(path, KIND)
    network = TinyVLA(TinyVLAConfig(**config))
    weights.fill(network, tensors, path)
    return network


def load(argument: str = KIND, **options: Any) -> TinyVLAPolicy:
    """Load an embedded policy by name, or a file written by `save`; options of `TinyVLAPolicy`: adverb, instruction."""
    path = weights.located("policies.tiny_vla", argument or KIND)
    return TinyVLAPolicy(read(path), name=path.stem, **options)
