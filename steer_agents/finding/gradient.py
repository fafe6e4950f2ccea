"""Directions from gradients: where the actions themselves would go.

`action_gradient` asks what change of the activations raises a number that is worked out from the actions, such as their speed:

    g_i = dF_i / dh_i      (summed over the selected tokens and over denoise steps, see `steer_agents.gradients`)
    u   = mean_i g_i / ||g_i||     (normalise="scene", the default)   or   mean_i g_i     (normalise="none")

Gradient attribution as in saliency maps (Simonyan et al. 2013, arXiv 1312.6034). We differ in that it is taken at a hidden
layer and averaged over scenes, so that it is an ordinary direction. Normalising per scene lets every scene count once: a
policy that is sure of its bin has a far smaller gradient than one that wavers.

What is exact and what is not: F is differentiated exactly. For policies of action tokens the actions are *expected* actions
under the distribution over bins, not the likeliest ones that are executed; for generative policies the sample at one fixed
noise, before clipping. A gradient says what happens for small pushes only, and may leave the activations that the network
knows: compare with contrasts, and with the controls.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from policies.errors import BadInput, nearest
from steer_agents.direction import Direction
from steer_agents.finding.scenes import Scene, check_scenes, default_site, encoded, half_cosine, scene_direction
from steer_agents.gradients import Functional, gradients
from steer_agents.sites import Site, Steerable

NORMALISE = ("scene", "none")


def _entry(index: int) -> Functional:
    return lambda actions: actions[..., index].mean(1)


def _length(start: int, stop: int) -> Functional:
    return lambda actions: actions[..., start:stop].norm(dim=-1).mean(1)


FUNCTIONALS: dict[str, tuple[int, Functional]] = {
    "speed": (3, _length(0, 3)),
    "turn": (6, _length(3, 6)),
    "x": (1, _entry(0)),
    "y": (2, _entry(1)),
    "z": (3, _entry(2)),
    "gripper": (7, _entry(6)),
}
"""Name -> (least action size, functional), each the mean over the chunk, of actions (x, y, z, three rotations, gripper)."""


def action_gradient(
    target: Steerable,
    *,
    scenes: Sequence[Scene],
    functional: str | Functional = "speed",
    normalise: str = "scene",
    site: Site | None = None,
    batch_size: int = 16,
) -> Direction:
    """The direction along which a number worked out from the actions rises fastest.

    Args:
        scenes: observations without a batch axis, as the policy's `encode` takes them.
        functional: a name in `FUNCTIONALS`, or (B, H, A) action values -> (B,) numbers, row by row. `FUNCTIONALS` suppose that an
            action is (x, y, z, three rotations, gripper).
        normalise: "scene" or "none", see the formula. Scenes whose gradient is zero count as zeros.
        site: where to differentiate, and where to steer; default: see `default_site`.
        batch_size: scenes per pass; gradients need several times the memory of a plain pass.
    Raises:
        BadInput: no policy, one without action values (the message says why), an unknown functional, or a gradient that is zero for all
            scenes.
    """
    check_scenes(target, scenes, "action-gradient")
    if normalise not in NORMALISE:
        raise BadInput(f"action-gradient: normalise {normalise!r} is unknown{nearest(normalise, NORMALISE)}")
    function = named_functional(functional) if isinstance(functional, str) else functional
    site = default_site(target, site)
    found = gradients(target, encoded(target, scenes, batch_size), site, function)
    raw, fit = {}, {}
    for key, g in found.rows.items():
        g = g.double()
        norms = g.norm(dim=-1, keepdim=True)
        if not norms.any():
            raise BadInput(
                f"action-gradient at {key}: the gradient is zero in all {len(g)} scenes; the functional is flat there, or the site is "
                "read after the last token that acts."
            )
        units = torch.where(norms > 0, g / norms.clamp(min=1e-300), 0)
        parts = units if normalise == "scene" else g
        raw[key] = parts.mean(0)
        fit[key] = {
            "half_cosine": half_cosine(parts[::2].mean(0), parts[1::2].mean(0)) if len(parts) > 3 else None,
            "agreement": float(units.mean(0).norm()),
            "mean_gradient_norm": float(norms.mean()),
            "n_flat": int((norms == 0).sum()),
        }
    name = functional if isinstance(functional, str) else getattr(functional, "__qualname__", type(functional).__name__)
    return scene_direction(
        target,
        scenes,
        site,
        raw,
        found.moments,
        "action-gradient",
        fit,
        [name, normalise],
        functional=name,
        normalise=normalise,
        mean_value=float(found.values.mean()),
    )


def named_functional(name: str) -> Functional:
    """The functional of that name; it refuses actions that are too short for it."""
    if name not in FUNCTIONALS:
        raise BadInput(f"action-gradient: functional {name!r} is unknown{nearest(name, FUNCTIONALS)}")
    needed, function = FUNCTIONALS[name]

    def checked(actions: torch.Tensor) -> torch.Tensor:
        if actions.shape[-1] < needed:
            raise BadInput(
                f"action-gradient: {name!r} reads entry {needed - 1} of an action, this policy's have {actions.shape[-1]}; pass a function "
                "of (B, H, A) action values instead."
            )
        return function(actions)

    return checked
