"""Plain multi-layer perceptrons: the usual network of an RL policy, on any Box or Dict observation."""

from policies.mlp.adapter import MLPPolicy
from policies.mlp.config import ACTIVATIONS, MLPConfig
from policies.mlp.files import load, save
from policies.mlp.heads import HEADS
from policies.mlp.model import MLP

__all__ = ["ACTIVATIONS", "HEADS", "MLP", "MLPConfig", "MLPPolicy", "load", "save"]
