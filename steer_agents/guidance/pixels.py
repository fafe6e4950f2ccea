"""Keypoints from camera pixels with depth: the pinhole model (x right, y down, z ahead; Hartley and Zisserman 2004, chapter 6).

    z K^-1 [u, v, 1]^T = T^-1 p        u, v [pixels], z depth [m], K intrinsics, T camera to world, p point [m]

Depth is along the line of sight's z (what depth cameras and renderers give), not along the ray. The middle of the upper left pixel
is at (0.5, 0.5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from policies.errors import BadInput, NonFinite


@dataclass(frozen=True, eq=False)
class Camera:
    """How a camera sees and where it stands.

    Args:
        intrinsics: (3, 3) [pixels].
        pose: (4, 4) camera to world [m].
    Raises:
        BadInput: other shapes, or a pose whose rotation is none.
        NonFinite: NaN or infinite values.
    """

    intrinsics: np.ndarray
    pose: np.ndarray

    def __post_init__(self) -> None:
        if self.intrinsics.shape != (3, 3) or self.pose.shape != (4, 4):
            raise BadInput(
                f"Camera: expected intrinsics (3, 3) and pose (4, 4), got {self.intrinsics.shape} and {self.pose.shape}."
            )
        if not (np.isfinite(self.intrinsics).all() and np.isfinite(self.pose).all()):
            raise NonFinite("Camera: intrinsics and pose must be finite.")
        turn = self.pose[:3, :3]
        if not np.allclose(turn @ turn.T, np.eye(3), atol=1e-4) or np.linalg.det(turn) < 0:
            raise BadInput(
                "Camera: the upper left (3, 3) of the pose is no rotation; pass camera to world, right-handed."
            )


def points(pixels: np.ndarray, depth: np.ndarray, camera: Camera) -> np.ndarray:
    """(N, 3) world positions [m] of (N, 2) pixels (u, v) at (N,) depths [m].

    Raises:
        BadInput: shapes that do not fit.
        NonFinite: a depth that is no positive number: a depth camera saw nothing there.
    """
    pixels, depth = np.asarray(pixels, dtype=np.float64), np.asarray(depth, dtype=np.float64)
    if pixels.ndim != 2 or pixels.shape[1] != 2 or depth.shape != pixels.shape[:1]:
        raise BadInput(f"pixels: expected (N, 2) pixels and (N,) depths, got {pixels.shape} and {depth.shape}.")
    if not (np.isfinite(depth).all() and (depth > 0).all() and np.isfinite(pixels).all()):
        bad = np.flatnonzero(~(np.isfinite(depth) & (depth > 0))).tolist()
        raise NonFinite(
            f"pixels: no depth at pixels {pixels[bad].tolist()}, got {depth[bad].tolist()}; choose pixels on the thing."
        )
    rays = np.concatenate([pixels, np.ones((len(pixels), 1))], axis=1) @ np.linalg.inv(camera.intrinsics).T
    seen = rays * depth[:, None]
    found: np.ndarray = seen @ camera.pose[:3, :3].T + camera.pose[:3, 3]
    return found


def projected(world: np.ndarray, camera: Camera) -> tuple[np.ndarray, np.ndarray]:
    """The inverse of `points`: (N, 2) pixels and (N,) depths of (N, 3) positions; depths below 0 lie behind the camera."""
    seen = (np.asarray(world, dtype=np.float64) - camera.pose[:3, 3]) @ camera.pose[:3, :3]
    flat = seen @ camera.intrinsics.T
    return flat[:, :2] / flat[:, 2:], seen[:, 2]


def keypoints(picked: Mapping[str, Sequence[float]], depth: np.ndarray, camera: Camera) -> dict[str, list[float]]:
    """Name -> position [m] of pixels that somebody (a person, a detector, a vision model) picked, for `scene.fixed`.

    Args:
        picked: name -> (u, v).
        depth: (height, width) [m].
    Raises:
        BadInput: a pixel outside of the picture.
        NonFinite: no depth there.
    """
    height, width = depth.shape
    for name, (u, v) in picked.items():
        if not (0 <= u < width and 0 <= v < height):
            raise BadInput(
                f"pixels: {name!r} at ({u:g}, {v:g}) lies outside of the picture, {width} wide and {height} high."
            )
    pixels = np.array([[u, v] for u, v in picked.values()], dtype=np.float64).reshape(-1, 2)
    at = pixels.astype(int)
    found = points(pixels, depth[at[:, 1], at[:, 0]], camera)
    return dict(zip(picked, found.tolist(), strict=True))
