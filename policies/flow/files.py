"""Flow and diffusion policies as files."""

from __future__ import annotations

from pathlib import Path

from policies import weights
from policies.flow.adapter import FlowPolicy
from policies.flow.config import FlowConfig
from policies.flow.model import ChunkDenoiser

KIND = "chunk-denoiser"
NOISE_POLICIES = Path(__file__).parent / "noise"
"""Learned noise policies that are shipped, for `steer_agents.noise.NoisePolicy.load`."""


def save(network: ChunkDenoiser, path: str | Path) -> None:
    """Write weights and sizes."""
    weights.write(path, KIND, vars(network.config), network.state_dict())


def read(path: str | Path) -> ChunkDenoiser:
    """Read what `save` wrote.

    Raises:
        BadArtifact: no such file, a damaged one, or one of another kind.
    """
    config, tensors = weights.read(path, KIND)
    network = ChunkDenoiser(FlowConfig(**config))
    weights.fill(network, tensors, path)
    return network


def load(argument: str) -> FlowPolicy:
    """Load an embedded policy by name, or a file written by `save`."""
    path = weights.located("policies.flow", argument)
    return FlowPolicy(read(path), name=path.stem)
