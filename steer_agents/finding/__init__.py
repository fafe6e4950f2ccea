"""Finding directions: one file per family of methods, all of them give the same `Direction`. See the README.md here."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

from policies.errors import BadInput, UnknownName, nearest

if TYPE_CHECKING:
    from steer_agents.direction import Direction

METHODS: dict[str, str] = {
    "mean-difference": "steer_agents.finding.contrast:mean_difference",
    "pca": "steer_agents.finding.contrast:pca",
    "probe": "steer_agents.finding.contrast:probe",
    "lda": "steer_agents.finding.contrast:lda",
    "prompt-contrast": "steer_agents.finding.prompts:prompt_contrast",
    "behaviour-contrast": "steer_agents.finding.behaviour:behaviour_contrast",
    "success-contrast": "steer_agents.finding.behaviour:success_contrast",
    "image-contrast": "steer_agents.finding.images:image_contrast",
    "action-gradient": "steer_agents.finding.gradient:action_gradient",
    "action-entropy": "steer_agents.finding.action_entropy:action_entropy",
    "entropy": "steer_agents.finding.entropy:entropy",
    "vocabulary": "steer_agents.finding.vocabulary:vocabulary",
    "random": "steer_agents.finding.controls:random",
    "permuted": "steer_agents.finding.controls:permuted",
    "random-neurons": "steer_agents.finding.controls:random_neurons",
}


def find(target: Any, method: str, **options: Any) -> Direction:
    """Find a direction on a policy or torch module.

    Args:
        target: a policy, a torch module, or a `Steerable`.
        method: a name in `METHODS`.
        options: the method's own arguments, see its docstring.
    Raises:
        UnknownName: no such method; the message lists those that exist.
        BadInput: an option that the method does not have, or one that it needs is missing.
    """
    if method not in METHODS:
        raise UnknownName(f"finding method {method!r} is unknown{nearest(method, METHODS)}")
    from steer_agents.sites import steerable  # imports torch, which listing METHODS does not need

    module_name, _, function = METHODS[method].partition(":")
    method_of = getattr(importlib.import_module(module_name), function)
    place = steerable(target)
    try:
        inspect.signature(method_of).bind(place, **options)
    except TypeError as error:
        known = [name for name in inspect.signature(method_of).parameters if name != "target"]
        raise BadInput(
            f"find(..., {method!r}): {error}; its options are {', '.join(known)}, see {module_name}.{function}."
        ) from None
    found: Direction = method_of(place, **options)
    return found
