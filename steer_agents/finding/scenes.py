"""What the methods that read whole observations ("scenes") have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.sites import Site, Steerable
from steer_agents.tokens import token_class

Scene = Mapping[str, Any]
"""An observation without a batch axis, as a policy's `encode` takes it."""
Moment = Scene | str
"""What a policy decides on: a scene, or the prompt of a language model."""


def check_scenes(target: Steerable, scenes: Sequence[Moment], method: str) -> None:
    """Raise BadInput unless there is a policy to encode scenes, and a scene."""
    if target.policy is None:
        raise BadInput(f"{method} needs a policy that can encode observations, got a bare torch module.")
    if not len(scenes):
        raise BadInput(f"{method}: got no scenes; record some with steer_agents.record_scenes(env, policy, ...).")


def default_site(target: Steerable, site: Site | None) -> Site:
    """The site that was asked for, else every layer at action tokens, or all of it where activations have no token axis."""
    if site is not None:
        return site
    _, stack = target.stack(None)
    return Site(tokens=token_class("action")) if stack.tokens else Site()


def encoded(target: Steerable, scenes: Sequence[Any], batch_size: int) -> Iterator[Any]:
    """Batches of the module, each encoded right before it is used: encoding also notes which tokens the batch has."""
    assert target.policy is not None
    if batch_size < 1:
        raise BadInput(f"batch_size={batch_size}, allowed are integers from 1.")
    for start in range(0, len(scenes), batch_size):
        yield from target.policy.encode(scenes[start : start + batch_size])


def leaves(scene: Moment) -> list[Any]:
    """The values of a nested mapping in order, arrays as tensors: what a data fingerprint is taken of. A prompt is its own leaf."""
    found: list[Any] = []
    for value in scene.values() if isinstance(scene, Mapping) else [scene]:
        if isinstance(value, Mapping):
            found += leaves(value)
        else:
            found.append(torch.as_tensor(value) if isinstance(value, np.ndarray) else value)
    return found


def half_cosine(first: torch.Tensor, second: torch.Tensor) -> float:
    """Cosine between the (D,) vectors that disjoint halves of the data give."""
    return float(torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=0))


def scene_direction(
    target: Steerable,
    scenes: Sequence[Moment],
    site: Site,
    raw: Mapping[str, torch.Tensor],
    seen: Mapping[str, capture.Moments],
    method: str,
    fit: Mapping[str, Mapping[str, float | None]],
    data: Sequence[Any] = (),
    **info: Any,
) -> Direction:
    """The artifact of a method that reads scenes.

    Args:
        raw: location key -> (D,) vector.
        seen: location key -> moments of the activations that strengths are to be measured in.
        fit: location key -> what is known about the vector there.
        data: what else went into the direction beside the scenes (values, labels), for the data fingerprint.
        info: further entries of the direction's `info`.
    """
    statistics = {
        key: capture.statistics_of(seen[key], vector / vector.norm())
        for key, vector in raw.items()
        if vector.norm() > 0
    }
    return Direction.from_raw(
        raw,
        site,
        statistics,
        method=method,
        model=model_fingerprint(target),
        info={
            "data": data_fingerprint(*(part for scene in scenes for part in leaves(scene)), *data),
            "n_scenes": len(scenes),
            "captured_at": site.describe(),
            **info,
            "fit": {key: dict(notes) for key, notes in fit.items()},
        },
    )
