"""The choices of a user that fix how an OpenVLA model acts: camera, picture transforms, gripper, temperature."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from policies import temperature
from policies.errors import BadInput, nearest

GRIPPERS = ("as_is", "libero")

PRESETS: dict[str, dict[str, Any]] = {
    "plain": {},
    "libero": {"rotate_180": True, "jpeg": True, "lanczos": True, "crop_area": 0.9, "gripper": "libero"},
}
"""Preset -> fields of `OpenVLAOptions`. "libero" is what the published evaluation of the LIBERO checkpoints does."""


@dataclass(frozen=True)
class OpenVLAOptions:
    """How pictures go in and actions come out.

    Args:
        unnorm_key: the data set whose statistics scale the actions; None takes it if there is only one.
        camera: key under `observation["pixels"]`.
        rotate_180: turn pictures upside down (raw LIBERO pictures are).
        jpeg: compress and decompress pictures once, as the training pictures were.
        lanczos: resize to the model's size by Lanczos instead of leaving it to the bicubic resize that always follows.
        crop_area: share of the area that is kept around the centre and enlarged again; None keeps all of it.
        gripper: "as_is", or "libero": the last number, in [0, 1] with 1 open, becomes -1 (open) or +1 (close).
        temperature: 0 takes the most likely token of the whole vocabulary; above 0, tokens are drawn among the action
            tokens with probability proportional to exp(logit / temperature).
    """

    unnorm_key: str | None = None
    camera: str = "image"
    rotate_180: bool = False
    jpeg: bool = False
    lanczos: bool = False
    crop_area: float | None = None
    gripper: str = "as_is"
    temperature: float = 0.0

    def __post_init__(self) -> None:
        if self.gripper not in GRIPPERS:
            raise BadInput(f"OpenVLAOptions: gripper {self.gripper!r} is unknown{nearest(self.gripper, GRIPPERS)}")
        if self.crop_area is not None and not 0 < self.crop_area <= 1:
            raise BadInput(f"OpenVLAOptions: crop_area must be a share in (0, 1], got {self.crop_area!r}; LIBERO: 0.9.")
        temperature.checked(self.temperature)

    @classmethod
    def from_preset(cls, preset: str, options: dict[str, Any]) -> OpenVLAOptions:
        """A preset with some fields replaced.

        Raises:
            BadInput: unknown preset or option; the message lists those that exist.
        """
        if preset not in PRESETS:
            raise BadInput(f"openvla: preset {preset!r} is unknown{nearest(preset, PRESETS)}")
        allowed = [field.name for field in fields(cls)]
        for name in options:
            if name not in allowed:
                extra = ["preset", "device", "dtype", "quantize", "check_image", "allow_too_large"]
                raise BadInput(f"openvla: option {name!r} is unknown{nearest(name, [*allowed, *extra])}")
        return cls(**{**PRESETS[preset], **options})
