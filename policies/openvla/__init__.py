"""OpenVLA and its fine-tuned checkpoints as policies. See README.md of this folder."""

from policies.openvla.adapter import OpenVLAPolicy
from policies.openvla.config import OpenVLAConfig
from policies.openvla.loading import load
from policies.openvla.model import OpenVLAModel
from policies.openvla.options import OpenVLAOptions

__all__ = ["OpenVLAConfig", "OpenVLAModel", "OpenVLAOptions", "OpenVLAPolicy", "load"]
