"""tiny-vla: pixels and words in, action tokens out. See README.md of this folder."""

from policies.tiny_vla.adapter import TinyVLAPolicy
from policies.tiny_vla.config import TinyVLAConfig
from policies.tiny_vla.files import load, save
from policies.tiny_vla.model import TinyVLA

__all__ = ["TinyVLA", "TinyVLAConfig", "TinyVLAPolicy", "load", "save"]
