"""Pictures, also without a display.

OpenGL comes from where MUJOCO_GL says (egl, osmesa, glfw); if that is unset, from a window system where there is a display
and from EGL where there is none. It is looked for with the first picture, so that everything else runs without it, and
so that it does not matter who imported mujoco before. Pictures are upright (LIBERO's own are upside down).
"""

from __future__ import annotations

import atexit
import importlib
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
        if self._gl is None:
            self._open()
        self._gl.make_current()
        self._view.fixedcamid = self._model.camera(camera).id
        mujoco.mjv_updateScene(
            self._model, data, self._option, None, self._view, mujoco.mjtCatBit.mjCAT_ALL.value, self._scene
        )
        picture = np.empty((self._height, self._width, 3), dtype=np.uint8)
        mujoco.mjr_render(self._rect, self._scene, self._context)
        mujoco.mjr_readPixels(picture, None, self._rect, self._context)
        return np.ascontiguousarray(picture[::-1])

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


def _close_all() -> None:
    for camera in list(_open_cameras):
        camera.close()
