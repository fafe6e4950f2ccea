"""Directions from pictures: the same scenes seen, and not seen.

`image_contrast` is the mean over scenes of h(scene) - h(scene with blank pictures), every scene with itself: the visual
steering vector of VISTA (Li et al. 2025, arXiv 2502.03628; code LzVv123456/VISTA), which pushes a model back towards what it
sees.

We differ from VISTA in: one direction from many scenes instead of one per picture; no rank-1 PCA (of a single pair it is the
difference plus an arbitrary unit component); pictures are blanked instead of left out, since the tokens of a VLA's pass are
fixed; tokens are those of the site (action tokens by default) instead of the last one. What is done with it is up to the
intervention: VISTA's renormalised push is near to `NormKeptAdd`, which has not its factor 1 + max(0, cos(x, -v)).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.scenes import Scene, check_scenes, default_site, encoded, half_cosine, scene_direction
from steer_agents.sites import Site, Steerable

BLANKS = ("black", "mean")


def image_contrast(
    target: Steerable,
    *,
    scenes: Sequence[Scene],
    blank: str = "black",
    cameras: Sequence[str] | None = None,
    site: Site | None = None,
    batch_size: int = 64,
) -> Direction:
    """From blind to seeing.

    Args:
        scenes: observations without a batch axis, with "pixels": camera -> (H, W, 3) array, or one such array.
        blank: "black" pictures, or pictures of their own "mean" colour.
        cameras: blank only these; None blanks all.
        site: where to read, and where to steer; default: see `default_site`.
        batch_size: scenes per forward pass.
    Raises:
        BadInput: no policy, no scenes, no pictures, an unknown camera or blank, or pictures that are blank already.
    """
    check_scenes(target, scenes, "image-contrast")
    site = default_site(target, site)
    if blank not in BLANKS:
        raise BadInput(f"image-contrast: blank {blank!r} is unknown{nearest(blank, BLANKS)}")
    blind = [blanked(scene, blank, cameras) for scene in scenes]
    seen, moments = capture.scene_means(target, encoded(target, scenes, batch_size), site)
    unseen, blind_moments = capture.scene_means(target, encoded(target, blind, batch_size), site)
    raw, fit, both = {}, {}, {}
    for key, h in seen.items():
        change = h.double() - unseen[key].double()
        raw[key] = change.mean(0)
        if not change.any():
            raise BadInput(
                f"image-contrast at {key}: the activations are the same without pictures; they are {blank} already, or this site "
                "does not see them."
            )
        fit[key] = {"half_cosine": half_cosine(change[::2].mean(0), change[1::2].mean(0)) if len(change) > 3 else None}
        both[key] = moments[key].merged(blind_moments[key])
    options = {"blank": blank, "cameras": None if cameras is None else list(cameras)}
    return scene_direction(
        target, scenes, site, raw, both, "image-contrast", fit, [blank, options["cameras"]], **options
    )


def blanked(scene: Scene, blank: str, cameras: Sequence[str] | None = None) -> dict[str, Any]:
    """A copy of a scene whose pictures say nothing: zeros, or the mean colour of each, of the same shape and type."""
    pixels = scene.get("pixels")
    if pixels is None:
        raise BadInput(
            f"image-contrast: a scene has no 'pixels', it has {sorted(scene)}. Use obs_type='pixels_agent_pos'."
        )
    if not isinstance(pixels, Mapping):
        if cameras is not None:
            raise BadInput(f"image-contrast: cameras={list(cameras)}, but this scene has one picture without a name.")
        return {**scene, "pixels": _blank(pixels, blank)}
    chosen = list(pixels) if cameras is None else list(cameras)
    for camera in chosen:
        if camera not in pixels:
            raise BadInput(f"image-contrast: camera {camera!r} is not in the scene{nearest(camera, pixels)}")
    if not chosen:
        raise BadInput("image-contrast: cameras is empty; None blanks all of them.")
    return {**scene, "pixels": {**pixels, **{camera: _blank(pixels[camera], blank) for camera in chosen}}}


def _blank(picture: Any, blank: str) -> np.ndarray:
    picture = np.asarray(picture)
    if picture.ndim != 3:
        raise BadInput(f"image-contrast: expected pictures of shape (H, W, 3), got {picture.shape}.")
    if blank == "black":
        return np.zeros_like(picture)
    colour = picture.mean(axis=(0, 1), dtype=np.float64)
    if np.issubdtype(picture.dtype, np.integer):
        colour = np.round(colour)
    return np.broadcast_to(colour.astype(picture.dtype), picture.shape).copy()
