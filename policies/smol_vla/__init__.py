"""smol-vla-135m: the first blocks of SmolLM2-135M-Instruct with eyes and action tokens. See README.md of this folder."""

from policies.smol_vla.adapter import SmolVLAPolicy
from policies.smol_vla.config import SmolVLAConfig
from policies.smol_vla.files import load, save
from policies.smol_vla.model import SmolVLA

__all__ = ["SmolVLA", "SmolVLAConfig", "SmolVLAPolicy", "load", "save"]
