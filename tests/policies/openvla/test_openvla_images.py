"""Pictures, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from policies.errors import BadInput
from policies.openvla.images import centre_crop, jpeg_round_trip, normalised, pixel_values, resized
from policies.openvla.options import OpenVLAOptions


def gradient(height: int = 64, width: int = 64) -> np.ndarray:
    """Red grows to the right, green downwards."""
    picture = np.zeros((height, width, 3), dtype=np.uint8)
    picture[..., 0] = np.linspace(0, 255, width)[None]
    picture[..., 1] = np.linspace(0, 255, height)[:, None]
    return picture


def test_both_normalisations_are_stacked_dinov2_first() -> None:
    picture = np.full((5, 7, 3), 102, dtype=np.uint8)  # 0.4
    out = pixel_values(picture[None], 8)
    assert out.shape == (1, 6, 8, 8)
    assert out.dtype == torch.float32
    expected = [(0.4 - 0.484375) / 0.228515625, (0.4 - 0.455078125) / 0.2236328125, (0.4 - 0.40625) / 0.224609375]
    np.testing.assert_allclose(out[0, :, 3, 4], [*expected, -0.2, -0.2, -0.2], atol=1e-6)


def test_a_picture_is_resized_without_keeping_its_aspect_ratio() -> None:
    out = normalised(gradient(40, 80), 16)
    assert out.shape == (6, 16, 16)
    red = (out[3] + 1) / 2 * 255
    assert red[:, 0].max() < 20
    assert red[:, -1].min() > 235


def test_libero_pictures_are_turned_cropped_and_enlarged() -> None:
    libero = OpenVLAOptions.from_preset("libero", {})
    out = (pixel_values(gradient()[None], 32, libero)[0, 3:].numpy() + 1) / 2 * 255
    assert out[0, :, 0].min() > out[0, :, -1].max()  # red now grows to the left
    assert out[1, 0].min() > out[1, -1].max()  # and green upwards
    # a crop of area 0.9 leaves (1 - sqrt(0.9)) / 2 = 2.57 % away on each side
    assert abs(out[0].max() - 255 * (1 - 0.0257)) < 4
    assert abs(out[0].min() - 255 * 0.0257) < 4


def test_a_crop_samples_evenly_between_the_corners_of_its_box() -> None:
    picture = np.zeros((9, 9, 3), dtype=np.uint8)
    picture[...] = (np.arange(9) * 20)[None, :, None]
    # side 0.5 of 9 pixels: from 0.25 * 8 = 2 to 0.75 * 8 = 6, five points, so exactly pixels 2 to 6
    row = centre_crop(picture, 0.25, 5)[2, :, 0].astype(int)
    assert np.abs(row - [40, 60, 80, 100, 120]).max() <= 1
    np.testing.assert_array_equal(centre_crop(picture, 1.0, 9), picture)


def test_jpeg_and_lanczos_change_little_and_keep_the_shape() -> None:
    picture = gradient()
    again = jpeg_round_trip(picture)
    assert again.shape == picture.shape
    assert 0 < np.abs(again.astype(int) - picture).mean() < 3
    assert resized(picture, 64, "LANCZOS") is picture
    assert resized(picture, 16, "LANCZOS").shape == (16, 16, 3)


@pytest.mark.parametrize(
    "pictures",
    [
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((1, 3, 8, 8), np.uint8),
        np.zeros((1, 8, 8, 3), np.float32),
        np.zeros((1, 0, 8, 3), np.uint8),
    ],
)
def test_a_wrong_shape_or_dtype_is_refused_with_both(pictures: np.ndarray) -> None:
    with pytest.raises(BadInput, match=r"expected pictures of shape \(B, H, W, 3\) and dtype uint8, got \("):
        pixel_values(pictures, 8)


def test_options_are_checked_by_name() -> None:
    with pytest.raises(BadInput, match="did you mean 'libero'"):
        OpenVLAOptions.from_preset("liber", {})
    with pytest.raises(BadInput, match="did you mean 'camera'"):
        OpenVLAOptions.from_preset("plain", {"camra": "image"})
    with pytest.raises(BadInput, match="crop_area must be a share"):
        OpenVLAOptions(crop_area=1.5)
    with pytest.raises(BadInput, match="gripper 'franka' is unknown"):
        OpenVLAOptions(gripper="franka")
    with pytest.raises(BadInput, match="temperature must be"):
        OpenVLAOptions(temperature=-1)
    assert OpenVLAOptions.from_preset("libero", {"jpeg": False}).rotate_180
