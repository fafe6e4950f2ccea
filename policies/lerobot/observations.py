"""Observations of an environment -> batches under LeRobot's names, checked against what the policy was trained on.

| observation | LeRobot |
| --- | --- |
| "pixels": {"image": (B, H, W, 3) uint8} | "observation.images.image": (B, 3, H, W) float32 in [0, 1] |
| "pixels": (B, H, W, 3) uint8 | "observation.image" |
| "agent_pos": (B, D) | "observation.state": (B, D) float32 |
| "environment_state": (B, E) | "observation.environment_state" |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from policies.base import Observation
from policies.errors import BadInput, nearest

PIXELS = "pixels"
VECTORS = {"agent_pos": "observation.state", "environment_state": "observation.environment_state"}
IMAGE, IMAGES = "observation.image", "observation.images."


@dataclass(frozen=True)
class Translation:
    """From an environment's names to a policy's.

    Args:
        features: LeRobot name -> shape that the policy was trained on, (3, H, W) for pictures.
        rename: name in the table above -> the policy's name for it.
        resizes: whether pictures may have any size.
        allow_missing_cameras: let the policy run without some of its cameras (it must do so itself).
    """

    features: Mapping[str, tuple[int, ...]]
    rename: Mapping[str, str] = field(default_factory=dict)
    resizes: bool = True
    allow_missing_cameras: bool = False

    def __post_init__(self) -> None:
        for name in self.rename.values():
            if name not in self.features:
                raise BadInput(f"rename: this policy has no feature {name!r}{nearest(name, self.features)}")

    def __call__(self, observation: Observation) -> dict[str, torch.Tensor]:
        """Translate a batch. What the policy does not know is left out.

        Raises:
            BadInput: a feature is missing, or has another shape than the policy was trained on.
        """
        found = {self.rename.get(name, name): value for name, value in _named(observation).items()}
        missing = [name for name in self.features if name not in found and not self._may_miss(name)]
        cameras = [name for name, shape in self.features.items() if len(shape) == 3]
        if not missing and cameras and not any(name in found for name in cameras):
            missing = cameras
        if missing:
            raise BadInput(
                f"the policy needs {missing}, the observation gives {sorted(found) or 'nothing of use'}. Make the "
                "environment with obs_type='pixels_agent_pos', rename what goes under another name with "
                f"rename={{given: needed}}, or allow_missing_cameras=True. The policy's features: "
                f"{ {name: tuple(shape) for name, shape in self.features.items()} }."
            )
        convert = {3: self._image, 1: self._vector}
        return {
            name: convert[len(shape)](name, found[name], tuple(shape))
            for name, shape in self.features.items()
            if name in found
        }

    def _may_miss(self, name: str) -> bool:
        camera = len(self.features[name]) == 3
        return camera and (self.allow_missing_cameras or ".empty_camera_" in name)

    def _image(self, name: str, value: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
        wanted = "(B, H, W, 3)" if self.resizes else f"(B, {shape[1]}, {shape[2]}, 3)"
        fits = value.ndim == 4 and value.shape[-1] == 3 and (self.resizes or value.shape[1:3] == shape[1:])
        if not fits or value.dtype != np.uint8:
            raise BadInput(
                f"{name}: expected pictures of shape {wanted} uint8, got {value.shape} {value.dtype}. "
                + ("" if self.resizes else f"Make the environment with camera_size={shape[1]}.")
            )
        pixels = torch.from_numpy(np.ascontiguousarray(value.transpose(0, 3, 1, 2)))
        return pixels.float() / 255

    def _vector(self, name: str, value: np.ndarray, shape: tuple[int, ...]) -> torch.Tensor:
        if value.ndim != 2 or value.shape[1:] != shape:
            raise BadInput(
                f"{name}: expected shape (B, {shape[0]}), got {value.shape}. This policy was trained on another robot or "
                "environment; its statistics fit that width only."
            )
        return torch.from_numpy(np.array(value, dtype=np.float32))


def _named(observation: Observation) -> dict[str, np.ndarray]:
    """The entries of an observation under LeRobot's names."""
    if not isinstance(observation, Mapping):
        raise BadInput(f"expected an observation with names, got {type(observation).__name__}.")
    found: dict[str, np.ndarray] = {}
    pixels = observation.get(PIXELS)
    if isinstance(pixels, Mapping):
        found |= {IMAGES + camera: np.asarray(value) for camera, value in pixels.items()}
    elif pixels is not None:
        found[IMAGE] = np.asarray(pixels)
    found |= {name: np.asarray(observation[key]) for key, name in VECTORS.items() if key in observation}
    return found


def stacked(history: list[Observation]) -> dict[str, Any]:
    """Observations of the last T environment steps as one, with an axis T behind the rows."""
    latest = history[-1]
    found: dict[str, Any] = {}
    for key, value in latest.items():
        if isinstance(value, Mapping):
            found[key] = {name: np.stack([past[key][name] for past in history], 1) for name in value}
        elif key in (PIXELS, *VECTORS):
            found[key] = np.stack([past[key] for past in history], 1)
        else:
            found[key] = value
    return found


def frames(observation: Observation, n_obs_steps: int) -> list[Observation]:
    """The observations of T steps, oldest first: an axis T behind the rows is taken apart, without one all are equal.

    Raises:
        BadInput: another number of steps than the policy reads.
    """
    state = np.asarray(observation.get("agent_pos", np.zeros((0, 0))))
    if n_obs_steps == 1 or state.ndim != 3:
        return [observation] * n_obs_steps
    if state.shape[1] != n_obs_steps:
        raise BadInput(f"expected the observations of {n_obs_steps} steps, got agent_pos of shape {state.shape}.")

    def at(value: Any, t: int) -> Any:
        return {name: entry[:, t] for name, entry in value.items()} if isinstance(value, Mapping) else value[:, t]

    return [
        {key: at(value, t) if key in (PIXELS, *VECTORS) else value for key, value in observation.items()}
        for t in range(n_obs_steps)
    ]
