"""Pictures, also without a display.

OpenGL comes from where MUJOCO_GL says (egl, osmesa, glfw); if that is unset, from a window system where there is a display
and from EGL where there is none. It is looked for with the first picture, so that everything else runs without it, and
so that it does not matter who imported mujoco before. Pictures are upright (LIBERO's own are upside down).

In software the vertices cost most, so geoms outside the camera's view are left out (`outside`); no pixel changes by that.
"""

from __future__ import annotations

import atexit
import importlib
import math
import os
import sys
import weakref
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import mujoco
import numpy as np

from envs.errors import NoRenderer

_BACKENDS: Mapping[str, str] = {
    "egl": "mujoco.egl",
    "osmesa": "mujoco.osmesa",
    "glfw": "mujoco.glfw",
    "cgl": "mujoco.cgl",
}
_MAX_GEOMS = 400
_HIDDEN_GROUP = 5
"""A geom group that MuJoCo does not draw by default."""
_MARGIN = 1e-3

_ALL = mujoco.mjtCatBit.mjCAT_ALL.value

_open_cameras: weakref.WeakSet[Camera] = weakref.WeakSet()


def backend() -> str:
    """Name of the OpenGL source: "egl", "osmesa", "glfw" or "cgl"."""
    asked = os.environ.get("MUJOCO_GL", "").lower().strip()
    if asked in _BACKENDS:
        return asked
    if sys.platform == "linux" and not os.environ.get("DISPLAY"):
        return "egl"
    return "cgl" if sys.platform == "darwin" else "glfw"


class Camera:
    """Draws one model; the OpenGL context is made with the first picture, in the process that asks for it.

    Args:
        model: what is drawn.
        height, width: of a picture [pixels].
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        self._model, self._height, self._width = model, height, width
        self._rect = mujoco.MjrRect(0, 0, width, height)
        self._gl: Any = None

    def draw(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Return (height, width, 3) uint8, upright.

        Raises:
            NoRenderer: this machine has no working OpenGL.
        """
        picture = np.empty((self._height, self._width, 3), dtype=np.uint8)
        self._render(data, camera)
        mujoco.mjr_readPixels(picture, None, self._rect, self._context)
        return np.ascontiguousarray(picture[::-1])

    def depth(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Return (height, width) float32, the distance along the line of sight of what each pixel shows [m], upright.

        From OpenGL's depth d between the planes at near and far: near / (1 - d (1 - near / far)).

        Raises:
            NoRenderer: this machine has no working OpenGL.
        """
        buffer = np.empty((self._height, self._width), dtype=np.float32)
        self._render(data, camera)
        mujoco.mjr_readPixels(None, buffer, self._rect, self._context)
        near, far = (getattr(self._model.vis.map, name) * self._model.stat.extent for name in ("znear", "zfar"))
        metres = near / (1.0 - buffer[::-1].astype(np.float64) * (1.0 - near / far))
        return np.ascontiguousarray(metres, dtype=np.float32)

    def _render(self, data: mujoco.MjData, camera: str) -> None:
        if self._gl is None:
            self._open()
        self._gl.make_current()
        model, number = self._model, self._model.camera(camera).id
        self._view.fixedcamid = number
        groups = model.geom_group.copy()
        model.geom_group[outside(model, data, number, self._width / self._height)] = _HIDDEN_GROUP
        mujoco.mjv_updateScene(model, data, self._option, None, self._view, _ALL, self._scene)
        model.geom_group[:] = groups
        mujoco.mjr_render(self._rect, self._scene, self._context)

    def _open(self) -> None:
        name = backend()
        os.environ.setdefault("LP_NUM_THREADS", "0")  # Mesa's software renderer: threads only get in each other's way
        try:
            gl = importlib.import_module(_BACKENDS[name]).GLContext(self._width, self._height)
            gl.make_current()
            buffer = self._model.vis.global_
            buffer.offwidth, buffer.offheight = self._width, self._height
            self._context = mujoco.MjrContext(self._model, mujoco.mjtFontScale.mjFONTSCALE_100.value)
            mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN.value, self._context)
        except Exception as error:  # each OpenGL library fails in its own way
            raise NoRenderer(
                f"cannot draw: no working OpenGL from {name!r} (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')}; "
                f"{type(error).__name__}). Install EGL (Debian: libegl1), or set MUJOCO_GL=osmesa (Debian: libosmesa6) "
                "before Python starts, or use obs_type='state', which needs no pictures."
            ) from error
        self._gl = gl
        self._scene = mujoco.MjvScene(self._model, maxgeom=_MAX_GEOMS)
        self._scene.flags[mujoco.mjtRndFlag.mjRND_SHADOW] = False
        self._scene.flags[mujoco.mjtRndFlag.mjRND_REFLECTION] = False
        self._option = mujoco.MjvOption()
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        if not _open_cameras:
            atexit.register(_close_all)
        _open_cameras.add(self)

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._gl is not None:
            with suppress(Exception):  # at interpreter exit the library may be gone already
                self._gl.make_current()
                self._context.free()
                self._gl.free()
            self._gl = None


def outside(model: mujoco.MjModel, data: mujoco.MjData, camera: int, aspect: float = 1.0) -> np.ndarray:
    """Say which geoms a camera cannot see because they lie outside its pyramid.

    A geom's box with centre c, axes X (columns) and half sizes h lies beyond a plane through the eye e with outward normal n if
    n . (c - e) > |n^T X| h. Planes: the four sides of the picture, and the camera's own.

    Args:
        model, data: after `mj_kinematics` and `mj_camlight`.
        camera: its number.
        aspect: width / height of the picture.
    Returns:
        (ngeom,) bool; conservative by a millimetre.
    """
    tangent = math.tan(math.radians(float(model.cam_fovy[camera])) / 2)
    x, y = 1 / math.hypot(1, tangent * aspect), 1 / math.hypot(1, tangent)
    wide, high = tangent * aspect * x, tangent * y
    sides = np.array([[x, 0, wide], [-x, 0, wide], [0, y, high], [0, -y, high], [0, 0, 1.0]])
    normals = sides @ data.cam_xmat[camera].reshape(3, 3).T  # a camera looks along its -z
    axes = data.geom_xmat.reshape(-1, 3, 3)
    boxes = model.geom_aabb
    projected = normals @ axes  # (ngeom, 5, 3)
    ahead = (data.geom_xpos - data.cam_xpos[camera]) @ normals.T + (projected @ boxes[:, :3, None])[..., 0]
    beyond: np.ndarray = (ahead > (np.abs(projected) @ boxes[:, 3:, None])[..., 0] + _MARGIN).any(axis=1)
    return beyond


def _close_all() -> None:
    for camera in list(_open_cameras):
        camera.close()
