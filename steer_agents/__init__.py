"""Run-time steering of pretrained policies: sites, directions, interventions, gates, strengths, and the loop.

    with sa.steer(policy, sa.Add(direction, strength=0.2)):
        steered = sa.rollout(env, policy, episodes=50, seed=0)

Names are imported on first use, so that `import steer_agents` is fast.
"""

from __future__ import annotations

import importlib
from typing import Any

_EXPORTS: dict[str, tuple[str, ...]] = {
    "steer_agents.sites": ("Site", "steerable"),
    "steer_agents.tokens": ("TokenScope", "after", "at", "index", "span", "token_class"),
    "steer_agents.direction": ("Direction",),
    "steer_agents.finding": ("find",),
    "steer_agents.learning": ("learn",),
    "steer_agents.finding.controls": ("controls",),
    "steer_agents.interventions": (
        "Add",
        "NormKeptAdd",
        "Ablate",
        "Rotate",
        "Clamp",
        "Cap",
        "SetNeurons",
        "Affine",
        "LogitMix",
        "plane",
        "neurons_of",
    ),
    "steer_agents.conceptors": ("SoftProject",),
    "steer_agents.routed": ("Bank", "Routed"),
    "steer_agents.finding.contrast_sets": ("ContrastSet",),
    "steer_agents.finding.excerpts": ("Excerpt", "reply"),
    "steer_agents.angular": ("RotateTo",),
    "steer_agents.interchanging": ("interchange",),
    "steer_agents.token_gates": ("AnyToken",),
    "steer_agents.affine_maps": ("AffineMap", "Transport"),
    "steer_agents.controller": ("Controller",),
    "steer_agents.vista": ("VisualAdd",),
    "steer_agents.sae.edits": ("SaeClamp", "SaeShift"),
    "steer_agents.neuron_sets": ("activation_quantile", "value_direction"),
    "steer_agents.decisions": ("Temperature",),
    "steer_agents.noise.parts": ("ConstantNoise", "BestOfN"),
    "steer_agents.noise.mix": ("NoiseMix",),
    "steer_agents.control.hold": ("Hold",),
    "steer_agents.control.observe": ("Observe",),
    "steer_agents.control.harm": ("HarmLimit", "cap_of"),
    "steer_agents.control.pi": ("Gains", "Limits"),
    "steer_agents.setpoints": ("SetPoint",),
    "steer_agents.noise.noise_policy": ("NoisePolicy",),
    "steer_agents.guidance.guidance": ("RewardGuidance",),
    "steer_agents.training.mentor": ("RetrievedRules",),
    "steer_agents.gates": (
        "Always",
        "Tokens",
        "Probe",
        "Observed",
        "Measured",
        "Window",
        "Ramp",
        "Decay",
        "DenoiseSteps",
    ),
    "steer_agents.strength": ("Strength", "kl_budget", "measure_sensitivity"),
    "steer_agents.calibrate": ("within_kl_budget",),
    "steer_agents.steerer": ("Steerer", "steer"),
    "steer_agents.baking": ("bake",),
    "steer_agents.capture": ("moments", "rows"),
    "steer_agents.doctor": ("examine",),
    "steer_agents.loop": ("Rollout", "rollout"),
    "steer_agents.recording": ("Scenes", "record_scenes"),
    "steer_agents.evaluation.compare": ("compare",),
    "steer_agents.evaluation.sequential": ("SequentialTest", "run_until"),
    "steer_agents.evaluation.dose": ("dose",),
    "steer_agents.evaluation.open_loop": ("open_loop",),
}
_HOME = {name: module for module, names in _EXPORTS.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'steer_agents' has no attribute {name!r}; it has {', '.join(__all__)}.")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
