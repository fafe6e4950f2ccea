"""The experiments by name: where each is, and what it asks. Importing this module imports nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """One line of the table: the experiment's module, and one line on what it shows."""

    module: str
    summary: str


EXPERIMENTS: dict[str, Entry] = {
    "demo": Entry("launch.experiments.demo", "all three channels in one report with films (`make demo`)"),
    "east-lockin": Entry(
        "launch.experiments.east_lockin",
        "EAST frees a language model that is locked into the worst arm of a bandit (closed loop, with all controls)",
    ),
    "east-offline": Entry(
        "launch.experiments.east_offline",
        "EAST moves the entropy of a language model's decisions both ways on held-out prompts (with all controls)",
    ),
    "suite-experts": Entry(
        "launch.experiments.suite_experts", "the scripted expert of every tabletop task on held-out seeds"
    ),
    "suite-policies": Entry(
        "launch.experiments.suite_policies", "the embedded policies on fixed initial states, in range and shifted"
    ),
    "vla-speed": Entry(
        "launch.experiments.vla_speed", "steering a VLA along 'slowly' and 'quickly' (closed loop, with all controls)"
    ),
    "setpoint-speed": Entry(
        "launch.experiments.setpoint_speed", "speeds asked for in m/s: held by feedback, and solved from a dose curve"
    ),
    "setpoint-harm": Entry(
        "launch.experiments.setpoint_harm",
        "the strongest push whose share of spoilt episodes is bounded, checked on held-out ones",
    ),
    "setpoint-entropy": Entry(
        "launch.experiments.setpoint_entropy",
        "entropies asked for in bits, held by EAST or the temperature in a bandit",
    ),
    "vla-height": Entry(
        "launch.experiments.vla_height",
        "steering a VLA along 'low' and 'high over the table' (closed loop, with all controls)",
    ),
    "vla-height-attention": Entry(
        "launch.experiments.vla_height_attention", "the same, pushed at the attention outputs of all layers"
    ),
    "vla-stage": Entry("launch.experiments.vla_stage", "steering a VLA only while it carries something"),
    "vla-glass": Entry("launch.experiments.vla_glass", "raising a VLA's hand only near a glass that stands in the way"),
    "vla-entropy": Entry(
        "launch.experiments.vla_entropy",
        "making a VLA less and more sure of its action tokens (EAST), beside the temperature",
    ),
    "vla-neurons": Entry(
        "launch.experiments.vla_neurons", "setting the neurons of a VLA that say 'slowly', against random ones"
    ),
    "dose-verdicts": Entry(
        "launch.experiments.dose_verdicts",
        "dose curves and verdicts: planted steerings, tiny-vla along 'slowly' with requested speeds, guided denoising",
    ),
    "dsrl-shift": Entry(
        "launch.experiments.dsrl_shift",
        "a flow policy under position shift, lifted by learned noise (with all baselines)",
    ),
    "dsrl-cue": Entry(
        "launch.experiments.dsrl_cue",
        "learned noise where a cue decides, so that no constant noise can win (both variants)",
    ),
    "dsrl-mode": Entry("launch.experiments.dsrl_mode", "learned noise takes one of a policy's two modes"),
    "dsrl-speed": Entry("launch.experiments.dsrl_speed", "learned noise makes a good policy faster"),
    "noise-baselines": Entry(
        "launch.experiments.noise_baselines", "what zero noise, constant noise and noise maps do without learning"
    ),
    "robot-faults": Entry(
        "launch.experiments.robot_faults",
        "a thousand faults put into a deployment on the simulated robot: limits at the actuator, time to rest",
    ),
    "vls-obstacle": Entry(
        "launch.experiments.vls_obstacle",
        "guided denoising over a wall that the policy never saw (with every part taken away in turn)",
    ),
    "vls-mode": Entry(
        "launch.experiments.vls_mode", "guided denoising to one side of a post that the policy passes on either"
    ),
    "vls-language": Entry(
        "launch.experiments.vls_language",
        "the same wall with a reward that an endpoint wrote from the instruction (recorded replies)",
    ),
    "steerability": Entry(
        "launch.experiments.steerability",
        "a VLA asked for speed, height or both: how much of it happens, and what else moves (directions, adverbs, random)",
    ),
    "sequential-power": Entry(
        "launch.experiments.sequential_power",
        "what an anytime-valid test saves over a fixed number of episodes, and its error rate",
    ),
    "stress": Entry(
        "launch.experiments.stress",
        "the fragility battery on a direction of a VLA, beside one of one task, a shuffled and a confounded one",
    ),
    "methods-bench": Entry(
        "launch.experiments.methods_bench",
        "every method that fits a policy and a concept, under one protocol, ranked beside random directions and the prompt",
    ),
    "llm-effects": Entry(
        "launch.experiments.llm_effects",
        "directions in a language model: length, language, refusing, roles, sentiment (with all controls)",
    ),
    "libero-speed": Entry(
        "launch.experiments.libero_speed",
        "LIBERO: slower and faster along one direction of a flow policy (needs hf-libero)",
    ),
    "libero-dsrl": Entry(
        "launch.experiments.libero_dsrl",
        "LIBERO under a shifted start: learned noise, with baselines (needs hf-libero)",
    ),
    "libero-keepout": Entry(
        "launch.experiments.libero_keepout",
        "LIBERO: guided denoising around a box that the policy crosses, with ablations (needs hf-libero)",
    ),
}
