"""From camera pictures to what the vision towers see.

Always: a plain bicubic resize to a square, then two normalisations stacked on channels (DINOv2's first). For LIBERO,
before that, what the published evaluation does: turn by 180 degrees, JPEG, Lanczos resize, centre crop.

Differs from the original, which uses TensorFlow for the LIBERO steps: Pillow's Lanczos rounds in fixed point, and
JPEG decoders may differ, both by about one grey level of 255.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from policies.errors import BadInput
from policies.openvla.options import OpenVLAOptions

if TYPE_CHECKING:
    import torch

MEAN = np.array([[0.484375, 0.455078125, 0.40625], [0.5, 0.5, 0.5]], dtype=np.float32)
STD = np.array([[0.228515625, 0.2236328125, 0.224609375], [0.5, 0.5, 0.5]], dtype=np.float32)
"""Of DINOv2 and SigLIP, per colour. The released processor holds DINOv2's numbers rounded to bfloat16, as here."""

JPEG_QUALITY = 95


def pixel_values(pictures: np.ndarray, size: int, options: OpenVLAOptions | None = None) -> torch.Tensor:
    """Prepare a batch of pictures.

    Args:
        pictures: (B, H, W, 3) uint8.
        size: S, height and width of the model's input [pixels].
        options: which of the LIBERO steps are done; None is none of them.
    Returns:
        (B, 6, S, S) float32: channels 0 to 2 normalised for DINOv2, 3 to 5 for SigLIP.
    Raises:
        BadInput: another shape or dtype.
    """
    import torch

    pictures = np.asarray(pictures)
    if pictures.ndim != 4 or pictures.shape[-1] != 3 or 0 in pictures.shape or pictures.dtype != np.uint8:
        raise BadInput(
            f"openvla: expected pictures of shape (B, H, W, 3) and dtype uint8, got {pictures.shape} {pictures.dtype}. "
            "Colours come last, in the order red, green, blue."
        )
    options = options or OpenVLAOptions()
    return torch.from_numpy(np.stack([normalised(_prepared(picture, size, options), size) for picture in pictures]))


def _prepared(picture: np.ndarray, size: int, options: OpenVLAOptions) -> np.ndarray:
    if options.rotate_180:
        picture = picture[::-1, ::-1]
    if options.jpeg:
        picture = jpeg_round_trip(picture)
    if options.lanczos:
        picture = resized(picture, size, "LANCZOS")
    if options.crop_area is not None:
        picture = centre_crop(picture, options.crop_area, size)
    return picture


def normalised(picture: np.ndarray, size: int) -> np.ndarray:
    """(H, W, 3) uint8 -> (6, S, S) float32, resized as it is, without keeping the aspect ratio."""
    scaled = resized(picture, size, "BICUBIC").astype(np.float32).transpose(2, 0, 1) / 255
    return np.concatenate([(scaled - m[:, None, None]) / s[:, None, None] for m, s in zip(MEAN, STD, strict=True)])


def resized(picture: np.ndarray, size: int, method: str) -> np.ndarray:
    """(H, W, 3) uint8 -> (S, S, 3) uint8 by Pillow's resampling `method`."""
    from PIL import Image

    if picture.shape[:2] == (size, size):
        return picture
    return np.asarray(Image.fromarray(np.ascontiguousarray(picture)).resize((size, size), Image.Resampling[method]))


def jpeg_round_trip(picture: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 compressed to JPEG and back."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(buffer, format="JPEG", quality=JPEG_QUALITY)
    return np.asarray(Image.open(buffer).convert("RGB"))


def centre_crop(picture: np.ndarray, area: float, size: int) -> np.ndarray:
    """Cut out the centre and enlarge it again, bilinearly.

    The box has side sqrt(area) of the picture's; its S sample points per axis lie evenly between its edges, both
    included, at corner-aligned coordinates (TensorFlow's `crop_and_resize`).

    Args:
        picture: (H, W, 3) uint8.
        area: share of the picture's area that is kept, in (0, 1].
        size: S [pixels].
    Returns:
        (S, S, 3) uint8.
    """
    side = np.sqrt(area)

    def samples(length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lower neighbour, upper neighbour and weight of the upper one, for each of the S points."""
        at = np.linspace((1 - side) / 2, (1 + side) / 2, size) * (length - 1)
        low = np.clip(np.floor(at).astype(int), 0, length - 1)
        return low, np.minimum(low + 1, length - 1), at - low

    top, bottom, down = samples(picture.shape[0])
    left, right, across = samples(picture.shape[1])
    p = picture.astype(np.float64)
    rows = p[top] * (1 - down)[:, None, None] + p[bottom] * down[:, None, None]
    out = rows[:, left] * (1 - across)[None, :, None] + rows[:, right] * across[None, :, None]
    # the original scales to [0, 1] and back with x -> floor(255.5 x)
    return np.clip(np.floor(out / 255 * 255.5), 0, 255).astype(np.uint8)
