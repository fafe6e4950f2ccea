"""Flow-matching and diffusion policies on a flat state. See README.md of this folder."""

from policies.flow.adapter import FlowPolicy
from policies.flow.config import FlowConfig
from policies.flow.files import load, save
from policies.flow.model import ChunkDenoiser
from policies.flow.training import train

__all__ = ["ChunkDenoiser", "FlowConfig", "FlowPolicy", "load", "save", "train"]
