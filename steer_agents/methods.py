# ruff: noqa: E501 (one row of the table, one line)
"""The method library: every way of finding, learning, applying, calibrating, baking, training and judging, one row each.

A row says where a method lives (a function or class with the formula, the source and every difference from it), the paper, what it
needs, what it works on, and what it costs. `steer-agents methods` prints the table, `find` and recipes look names up in it. To
add a method: one file, one row here; see steer_agents/README.md for an example that a test runs.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policies.errors import BadInput, UnknownName, nearest

KINDS: Mapping[str, str] = {
    "find": "a direction, from activations",
    "learn": "a direction or map, by gradients on a frozen model",
    "control": "what a direction is compared with",
    "apply": "what is done at a site",
    "calibrate": "layer and strength",
    "bake": "into the weights",
    "train": "the agent itself",
    "judge": "what came of it",
}


@dataclass(frozen=True)
class Method:
    """One row.

    Args:
        kind: one of `KINDS`.
        where: "module:name" of a function or class.
        paper: name and arXiv id, or "ours".
        needs: data and access, in a few words.
        works_on: kinds of policies.
        cost: about how much, in passes over the data or minutes.
        inspired: only the abstract was known when it was written; nothing here claims to reproduce the paper.
    """

    kind: str
    where: str
    paper: str
    needs: str
    works_on: str
    cost: str
    inspired: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BadInput(f"method kind {self.kind!r} is unknown{nearest(self.kind, KINDS)}")

    def load(self) -> Any:
        """The function or class itself."""
        module, _, name = self.where.partition(":")
        return getattr(importlib.import_module(module), name)

    @property
    def source(self) -> str:
        """The paper, and whether it is only an inspiration."""
        return f"inspired by {self.paper}" if self.inspired else self.paper


_CALIBRATE, _BAKE = "steer_agents.calibrate", "steer_agents.baking"
_FINDING, _LEARNING, _EDITS = "steer_agents.finding", "steer_agents.learning", "steer_agents.interventions"
_JUDGING, _TRAINING = "steer_agents.evaluation.judging", "steer_agents.training"
ANY, PROMPTED, SEEING, CHUNKS = "any network", "LLM agents", "VLAs", "flow, diffusion"

METHODS: dict[str, Method] = {
    "mean-difference": Method("find", f"{_FINDING}.contrast:mean_difference", "CAA, arXiv 2312.06681", "two sets of inputs", ANY, "one pass"),
    "pca": Method("find", f"{_FINDING}.contrast:pca", "RepE, arXiv 2310.01405", "pairs of inputs", ANY, "one pass"),
    "probe": Method("find", f"{_FINDING}.contrast:probe", "RAPTOR, arXiv 2602.00158", "two sets of inputs", ANY, "one pass, seconds of fitting"),
    "lda": Method("find", f"{_FINDING}.contrast:lda", "Fisher 1936", "two sets of inputs", ANY, "one pass"),
    "paired-difference": Method("find", f"{_FINDING}.contrast_sets:paired_difference", "CAA, arXiv 2312.06681", "pairs of inputs", ANY, "one pass"),
    "contrast-set": Method("find", f"{_FINDING}.contrast_sets:contrast_difference", "ours", "a contrast set", ANY, "one pass"),
    "asc": Method("find", f"{_FINDING}.styles:asc", "ASC, arXiv 2507.04742", "prompts, texts of a concise teacher and own ones", PROMPTED, "one pass"),
    "efficiency": Method("find", f"{_FINDING}.styles:efficiency", "Efficiency Steering, arXiv 2506.15647", "own attempts, their outcome and length", ANY, "one pass", inspired=True),
    "seal": Method("find", f"{_FINDING}.thoughts:seal", "SEAL, arXiv 2504.07986", "own reasoning texts", PROMPTED, "one pass", inspired=True),
    "assistant-axis": Method("find", f"{_FINDING}.personas:assistant_axis", "Assistant Axis, arXiv 2601.10387", "replies in roles and as oneself", PROMPTED, "one pass"),
    "disagreement": Method("find", f"{_FINDING}.disagreement:disagreement", "REFLEX, arXiv 2511.20233", "a tuned copy, who is right where", ANY, "one pass a model", inspired=True),
    "purified": Method("find", f"{_FINDING}.purified:purified", "Personality as a Probe, arXiv 2509.04794", "a direction, others to take out", ANY, "nothing", inspired=True),
    "conceptor": Method("find", f"{_FINDING}.conceptor:conceptor", "COAST, arXiv 2605.17144", "one or two sets of inputs", ANY, "one pass, an eigenvalue problem a layer", inspired=True),
    "g-act": Method("learn", f"{_FINDING}.clusters:learn_bank", "G-ACT, arXiv 2506.18887", "pairs of inputs", ANY, "one pass, seconds of fitting", inspired=True),
    "prompt-contrast": Method("find", f"{_FINDING}.prompts:prompt_contrast", "CAA, arXiv 2312.06681", "scenes, two wordings", SEEING, "one pass a wording"),
    "behaviour-contrast": Method("find", f"{_FINDING}.behaviour:behaviour_contrast", "CAA, arXiv 2312.06681", "own rollouts, a measured quantity", ANY, "one pass"),
    "success-contrast": Method("find", f"{_FINDING}.behaviour:success_contrast", "CAA, arXiv 2312.06681", "own rollouts, their outcome", ANY, "one pass"),
    "image-contrast": Method("find", f"{_FINDING}.images:image_contrast", "VISTA, arXiv 2502.03628", "scenes with pictures", SEEING, "two passes"),
    "action-gradient": Method("find", f"{_FINDING}.gradient:action_gradient", "saliency, arXiv 1312.6034", "scenes, gradients", ANY, "one pass with gradients"),
    "grains": Method("find", f"{_FINDING}.grains:grains", "GrAInS, arXiv 2507.18043", "prompts with answers or scenes, gradients", f"{PROMPTED}, {SEEING}", "50 passes with gradients an input"),
    "action-entropy": Method("find", f"{_FINDING}.action_entropy:action_entropy", "EAST, arXiv 2406.00244", "own rollouts", SEEING, "one pass"),
    "entropy": Method("find", f"{_FINDING}.entropy:entropy", "EAST, arXiv 2406.00244", "prompts", PROMPTED, "one pass"),
    "vocabulary": Method("find", f"{_FINDING}.vocabulary:vocabulary", "mechanistic VLA steering, arXiv 2509.00328", "a vocabulary", f"{PROMPTED}, {SEEING}", "one product of matrices"),
    "router-bias": Method("find", f"{_FINDING}.router_bias:router_bias", "DriveMoE, arXiv 2505.16278", "nothing", "mixtures of experts", "a pseudo-inverse a layer"),
    "linear-transport": Method("learn", f"{_LEARNING}.transport:linear_transport", "AcT, arXiv 2410.23054", "two sets of inputs, unpaired", ANY, "a pass a layer"),
    "lineas": Method("learn", f"{_LEARNING}.lineas:lineas", "LinEAS, arXiv 2503.10679", "two sets of inputs, unpaired", ANY, "hundreds of passes with gradients"),
    "cdas": Method("learn", f"{_LEARNING}.cdas:cdas", "CDAS, arXiv 2602.05234", "pairs of inputs, responses if any", ANY, "hundreds of passes with gradients"),
    "guiding-giants": Method("learn", f"{_LEARNING}.guiding:guiding_giants", "Guiding Giants, arXiv 2505.20309", "two sets of inputs, a direction", ANY, "one pass, seconds of training"),
    "sae-features": Method("find", "steer_agents.sae.features:sae_features", "Breaking Bad Tokens, arXiv 2505.14536", "two sets of inputs, an SAE", ANY, "one pass", inspired=True),
    "foxp2": Method("find", f"{_FINDING}.foxp2:foxp2", "Neural FOXP2, arXiv 2602.00945", "pairs of inputs, optionally SAEs", ANY, "one pass, 60 more per feature for the lift"),
    "random": Method("control", f"{_FINDING}.controls:random", "ours", "a direction", ANY, "nothing"),
    "permuted": Method("control", f"{_FINDING}.controls:permuted", "ours", "a direction", ANY, "nothing"),
    "random-neurons": Method("control", f"{_FINDING}.controls:random_neurons", "ours", "a set of neurons", ANY, "nothing"),
    "add": Method("apply", f"{_EDITS}:Add", "ActAdd, arXiv 2308.10248", "a direction", ANY, "nothing to 2 %"),
    "norm-kept-add": Method("apply", f"{_EDITS}:NormKeptAdd", "GrAInS, arXiv 2507.18043", "a direction", ANY, "a norm a token"),
    "ablate": Method("apply", f"{_EDITS}:Ablate", "directional ablation, arXiv 2406.11717", "a direction", ANY, "a projection a token"),
    "rotate": Method("apply", f"{_EDITS}:Rotate", "Selective Steering, arXiv 2601.19375", "a plane", ANY, "two projections a token"),
    "rotate-to": Method("apply", "steer_agents.angular:RotateTo", "Angular Steering, arXiv 2510.26243", "a plane", ANY, "two projections a token"),
    "interchange": Method("apply", "steer_agents.interchanging:interchange", "CDAS, arXiv 2602.05234", "a direction, a source input", ANY, "one pass of the source"),
    "any-token": Method("apply", "steer_agents.token_gates:AnyToken", "Breaking Bad Tokens, arXiv 2505.14536", "a gate per token", "networks with tokens", "nothing", inspired=True),
    "clamp": Method("apply", f"{_EDITS}:Clamp", "CDAS, arXiv 2602.05234", "a direction", ANY, "a projection a token"),
    "cap": Method("apply", f"{_EDITS}:Cap", "Assistant Axis, arXiv 2601.10387", "a direction, a bound", ANY, "a projection a token"),
    "set-neurons": Method("apply", f"{_EDITS}:SetNeurons", "mechanistic VLA steering, arXiv 2509.00328", "neurons, values", ANY, "nothing"),
    "affine": Method("apply", f"{_EDITS}:Affine", "AcT, arXiv 2410.23054", "a scale and an offset", ANY, "one product a token"),
    "transport": Method("apply", "steer_agents.affine_maps:Transport", "AcT, arXiv 2410.23054; LinEAS, arXiv 2503.10679", "a learned map", ANY, "one product a token"),
    "logit-mix": Method("apply", f"{_EDITS}:LogitMix", "VISTA, arXiv 2502.03628", "layers to read early", PROMPTED, "an unembedding a layer"),
    "soft-project": Method("apply", "steer_agents.conceptors:SoftProject", "conceptors, arXiv 1403.3369", "a conceptor", ANY, "two products a token"),
    "routed": Method("apply", "steer_agents.routed:Routed", "G-ACT, arXiv 2506.18887", "a bank of directions", ANY, "one small product a token", inspired=True),
    "kl-budget": Method("calibrate", f"{_CALIBRATE}.kl_budget:within_kl_budget", "ASC, arXiv 2507.04742", "a direction, prompts", PROMPTED, "three passes"),
    "percentile": Method("calibrate", f"{_CALIBRATE}.percentile:percentile", "Assistant Axis, arXiv 2601.10387", "a direction, ordinary inputs", ANY, "one pass"),
    "natural-factor": Method("calibrate", f"{_CALIBRATE}.natural_factor:natural_factor", "CDAS, arXiv 2602.05234", "a direction, inputs that show it", ANY, "one pass, a score a multiple"),
    "probability": Method("calibrate", f"{_CALIBRATE}.probability:probability", "RAPTOR, arXiv 2602.00158", "a probe", ANY, "nothing"),
    "noisy-bisection": Method("calibrate", f"{_CALIBRATE}.noisy_bisection:noisy_bisection", "ESR, arXiv 2602.06941", "a noisy score, a goal", ANY, "about 20 scores"),
    "js-layers": Method("calibrate", f"{_CALIBRATE}.js_layers:js_layers", "TA2, arXiv 2311.09433", "pairs of inputs", ANY, "one pass"),
    "sign-layers": Method("calibrate", f"{_CALIBRATE}.sign_layers:sign_layers", "Selective Steering, arXiv 2601.19375", "a direction, two sets of inputs", ANY, "one pass"),
    "two-sided": Method("calibrate", f"{_CALIBRATE}.two_sided:two_sided", "ours", "a measure by seed", ANY, "two runs a strength"),
    "bake": Method("bake", f"{_BAKE}.fold:bake", "ours", "constant edits", ANY, "seconds; free at run time"),
    "steer2edit": Method("bake", f"{_BAKE}.steer2edit:steer2edit", "Steer2Edit, arXiv 2602.09870", "directions, examples", "linear layers", "one pass; free at run time"),
    "casal": Method("bake", f"{_BAKE}.casal:casal", "CASAL, arXiv 2510.02324", "a direction, two sets of inputs", "linear layers", "one pass, a ridge regression; free at run time"),
    "export": Method("bake", f"{_BAKE}.export:export", "ours", "a baked model", "transformers, LeRobot", "a copy of the weights"),
    "vista": Method("apply", "steer_agents.vista:vista", "VISTA, arXiv 2502.03628", "an image-contrast direction, late layers", f"{PROMPTED}, {SEEING}", "a projection a token, an unembedding a layer"),
    "sae-clamp": Method("apply", "steer_agents.sae.edits:SaeClamp", "Breaking Bad Tokens, arXiv 2505.14536", "an SAE, features", ANY, "an encoding a token", inspired=True),
    "sae-shift": Method("apply", "steer_agents.sae.edits:SaeShift", "YaPO, arXiv 2601.08441", "an SAE, a code", ANY, "an encoding a token"),
    "sae": Method("learn", "steer_agents.sae.training:train_sae", "TopK SAEs, arXiv 2406.04093", "inputs", ANY, "one pass, minutes of training"),
    "bipo": Method("learn", "steer_agents.learning.preference:bipo", "BiPO, arXiv 2406.00045", "preferences, one layer", PROMPTED, "minutes of training"),
    "yapo": Method("learn", "steer_agents.learning.preference:yapo", "YaPO, arXiv 2601.08441", "preferences, an SAE", PROMPTED, "minutes of training"),
    "steer-reweight": Method("train", f"{_TRAINING}.reweight:steer_reweight", "STEER, arXiv 2510.10150", "prompts, rewards that can be checked", PROMPTED, "minutes for a small model"),
    "contrastive-value": Method("train", f"{_TRAINING}.contrastive_value:contrastive_value", "goal-conditioned reward models, arXiv 2407.13887", "features of successes and failures", ANY, "seconds"),
    "mentor": Method("train", f"{_TRAINING}.mentor:rule_bank", "MENTOR, arXiv 2511.07107", "rules, situations of each", ANY, "two passes; a lookup a token", inspired=True),
    "elo": Method("judge", f"{_JUDGING}.elo:elo", "Open Character Training, arXiv 2511.01689", "choices between two behaviours, or episodes", ANY, "two answers a game"),
    "depth": Method("judge", f"{_JUDGING}.depth:depth", "Ideological Depth, arXiv 2508.21448", "a direction, both signs", ANY, "two runs a strength"),
    "resistance": Method("judge", f"{_JUDGING}.attempts:resistance", "ESR, arXiv 2602.06941", "replies, a score", PROMPTED, "nothing"),
    "harmonic": Method("judge", "steer_agents.evaluation.scores:harmonic", "CLaS-Bench, arXiv 2601.08331", "control and competence of items", ANY, "nothing"),
}  # fmt: skip


def method(name: str, *kinds: str) -> Method:
    """The row of a name.

    Args:
        kinds: allowed; none allows all.
    Raises:
        UnknownName: no such method, or of another kind; the message lists those that exist.
    """
    known = [key for key, one in METHODS.items() if not kinds or one.kind in kinds]
    if name not in known:
        what = f"{' or '.join(kinds)} method" if kinds else "method"
        raise UnknownName(f"{what} {name!r} is unknown{nearest(name, known)}")
    return METHODS[name]


def call(verb: str, target: Any, name: str, kinds: tuple[str, ...], options: Mapping[str, Any]) -> Any:
    """Call a method on a policy, torch module or `Steerable`: what `find` and `learn` do.

    Args:
        verb: for messages, e.g. "find".
        kinds: that the name may be of.
        options: the method's own arguments.
    Raises:
        UnknownName: see `method`.
        BadInput: an option that the method does not have, or one that it needs is missing.
    """
    row = method(name, *kinds)
    from steer_agents.sites import steerable  # imports torch, which listing methods does not need

    function = row.load()
    place = steerable(target)
    try:
        inspect.signature(function).bind(place, **options)
    except TypeError as error:
        known = [name for name in inspect.signature(function).parameters if name != "target"]
        raise BadInput(
            f"{verb}(..., {name!r}): {error}; its options are {', '.join(known)}, see {row.where.replace(':', '.')}."
        ) from None
    return function(place, **options)
