"""Pictures without a display. Import this before anything else imports mujoco: the choice of OpenGL is made there.

If MUJOCO_GL is unset and there is no display, EGL is chosen. Pictures are upright (LIBERO's own are upside down).
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

if "MUJOCO_GL" not in os.environ and sys.platform == "linux" and not os.environ.get("DISPLAY"):
    os.environ["MUJOCO_GL"] = "egl"

import mujoco
import numpy as np

from envs.errors import NoRenderer


class Camera:
    """Draws one model; the OpenGL context is made with the first picture, in the process that asks for it.

    Args:
        model: what is drawn.
        height, width: of a picture [pixels].
    """

    def __init__(self, model: mujoco.MjModel, height: int, width: int) -> None:
        self._model, self._height, self._width = model, height, width
        self._renderer: mujoco.Renderer | None = None

    def draw(self, data: mujoco.MjData, camera: str) -> np.ndarray:
        """Return (height, width, 3) uint8, upright.

        Raises:
            NoRenderer: this machine has no working OpenGL.
        """
        if self._renderer is None:
            self._renderer = self._open()
        self._renderer.update_scene(data, camera=camera)
        return self._renderer.render()

    def _open(self) -> mujoco.Renderer:
        try:
            return mujoco.Renderer(self._model, self._height, self._width, max_geom=400)
        except Exception as error:  # each OpenGL library fails in its own way
            raise NoRenderer(
                f"cannot draw: no working OpenGL (MUJOCO_GL={os.environ.get('MUJOCO_GL', 'unset')}; {type(error).__name__}: "
                f"{error}). Install EGL (Debian: libegl1) or set MUJOCO_GL=osmesa (Debian: libosmesa6) before Python starts, "
                "or use obs_type='state', which needs no pictures."
            ) from error

    def close(self) -> None:
        """Free the OpenGL context."""
        if self._renderer is not None:
            with suppress(Exception):  # at interpreter exit the library may be gone already
                self._renderer.close()
            self._renderer = None
