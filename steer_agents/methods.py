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


_FINDING, _EDITS = "steer_agents.finding", "steer_agents.interventions"
_JUDGING, _TRAINING = "steer_agents.evaluation.judging", "steer_agents.training"
ANY, PROMPTED, SEEING, CHUNKS = "any network", "LLM agents", "VLAs", "flow, diffusion"

METHODS: dict[str, Method] = {
    "mean-difference": Method("find", f"{_FINDING}.contrast:mean_difference", "CAA, arXiv 2312.06681", "two sets of inputs", ANY, "one pass"),
    "pca": Method("find", f"{_FINDING}.contrast:pca", "RepE, arXiv 2310.01405", "pairs of inputs", ANY, "one pass"),
    "probe": Method("find", f"{_FINDING}.contrast:probe", "RAPTOR, arXiv 2602.00158", "two sets of inputs", ANY, "one pass, seconds of fitting"),
    "lda": Method("find", f"{_FINDING}.contrast:lda", "Fisher 1936", "two sets of inputs", ANY, "one pass"),
    "prompt-contrast": Method("find", f"{_FINDING}.prompts:prompt_contrast", "CAA, arXiv 2312.06681", "scenes, two wordings", SEEING, "one pass a wording"),
    "behaviour-contrast": Method("find", f"{_FINDING}.behaviour:behaviour_contrast", "CAA, arXiv 2312.06681", "own rollouts, a measured quantity", ANY, "one pass"),
    "success-contrast": Method("find", f"{_FINDING}.behaviour:success_contrast", "CAA, arXiv 2312.06681", "own rollouts, their outcome", ANY, "one pass"),
    "image-contrast": Method("find", f"{_FINDING}.images:image_contrast", "VISTA, arXiv 2502.03628", "scenes with pictures", SEEING, "two passes"),
    "action-gradient": Method("find", f"{_FINDING}.gradient:action_gradient", "saliency, arXiv 1312.6034", "scenes, gradients", ANY, "one pass with gradients"),
    "action-entropy": Method("find", f"{_FINDING}.action_entropy:action_entropy", "EAST, arXiv 2406.00244", "own rollouts", SEEING, "one pass"),
    "entropy": Method("find", f"{_FINDING}.entropy:entropy", "EAST, arXiv 2406.00244", "prompts", PROMPTED, "one pass"),
    "vocabulary": Method("find", f"{_FINDING}.vocabulary:vocabulary", "mechanistic VLA steering, arXiv 2509.00328", "a vocabulary", f"{PROMPTED}, {SEEING}", "one product of matrices"),
    "random": Method("control", f"{_FINDING}.controls:random", "ours", "a direction", ANY, "nothing"),
    "permuted": Method("control", f"{_FINDING}.controls:permuted", "ours", "a direction", ANY, "nothing"),
    "random-neurons": Method("control", f"{_FINDING}.controls:random_neurons", "ours", "a set of neurons", ANY, "nothing"),
    "add": Method("apply", f"{_EDITS}:Add", "ActAdd, arXiv 2308.10248", "a direction", ANY, "nothing to 2 %"),
    "norm-kept-add": Method("apply", f"{_EDITS}:NormKeptAdd", "GrAInS, arXiv 2507.18043", "a direction", ANY, "a norm a token"),
    "ablate": Method("apply", f"{_EDITS}:Ablate", "directional ablation, arXiv 2406.11717", "a direction", ANY, "a projection a token"),
    "rotate": Method("apply", f"{_EDITS}:Rotate", "Selective Steering, arXiv 2601.19375", "a plane", ANY, "two projections a token"),
    "clamp": Method("apply", f"{_EDITS}:Clamp", "CDAS, arXiv 2602.05234", "a direction", ANY, "a projection a token"),
    "cap": Method("apply", f"{_EDITS}:Cap", "Assistant Axis, arXiv 2601.10387", "a direction, a bound", ANY, "a projection a token"),
    "set-neurons": Method("apply", f"{_EDITS}:SetNeurons", "mechanistic VLA steering, arXiv 2509.00328", "neurons, values", ANY, "nothing"),
    "affine": Method("apply", f"{_EDITS}:Affine", "AcT, arXiv 2410.23054", "a scale and an offset", ANY, "one product a token"),
    "logit-mix": Method("apply", f"{_EDITS}:LogitMix", "VISTA, arXiv 2502.03628", "layers to read early", PROMPTED, "an unembedding a layer"),
    "kl-budget": Method("calibrate", "steer_agents.calibrate:within_kl_budget", "ASC, arXiv 2507.04742", "a direction, prompts", PROMPTED, "three passes"),
    "bake": Method("bake", "steer_agents.baking:bake", "ours", "constant edits", ANY, "seconds; free at run time"),
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
