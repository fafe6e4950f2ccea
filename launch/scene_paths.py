"""Ways of the hand drawn into the picture of the scene, from the recorded positions alone: nothing is played again for it."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import gymnasium as gym
import numpy as np

from envs.tabletop.env import TabletopEnv
from launch.played_again import CAMERA, environment_of, jpeg
from launch.tabletop_guidance import camera_of
from policies.errors import BadInput
from steer_agents.evaluation.plots import COLOURS
from steer_agents.guidance.pixels import Camera, projected
from steer_agents.loop import Rollout

SIZE = 512
"""Height and width of the picture [px]."""
_POSITION = ["tcp_x", "tcp_y", "height"]
_DASHES = {"steered": "", "base": ' stroke-dasharray="7 4"', "control": ' stroke-dasharray="2 4"', "other": ""}


@dataclass(frozen=True, eq=False)
class Scene:
    """Where the episode of a seed begins: a JPEG, and the camera that saw it."""

    picture: bytes
    camera: Camera


@dataclass(frozen=True, eq=False)
class Way:
    """One episode's way.

    Args:
        places: (T, 3) of the tcp [m].
        role: its colour, one of `plots.COLOURS`.
        success: at the end; None where nobody tells.
    """

    places: np.ndarray
    role: str
    success: bool | None


def scene_of(run: Rollout, seed: int, env: gym.Env | None = None) -> Scene:
    """The scene that a run's seed draws.

    Args:
        env: of `environment_of`, to be used again; None makes one.
    Raises:
        BadInput: not a run on the tabletop.
        NoRenderer: this machine cannot draw.
    """
    made = environment_of(run.config) if env is None else env
    inner = made.unwrapped
    if not isinstance(inner, TabletopEnv):
        raise BadInput("paths: only the tabletop tells where its camera stands.")
    made.reset(seed=int(seed), options=run.config.get("options"))
    found = Scene(jpeg(inner.picture(CAMERA, SIZE, SIZE), 80), camera_of(inner, CAMERA, SIZE))
    if env is None:
        made.close()
    return found


def way_of(run: Rollout, seed: int, role: str) -> Way:
    """The recorded way of a seed."""
    row = run.episodes[run.episodes["seed"] == seed].iloc[0]
    steps = run.steps[run.steps["episode"] == row["episode"]]
    success = row["success"]
    return Way(steps[_POSITION].to_numpy(dtype=float), role, None if np.isnan(success) else bool(success))


def has_ways(run: Rollout) -> bool:
    """Whether the steps tell where the hand was, as the tabletop's do."""
    return set(_POSITION) <= set(run.steps.columns)


def paths_figure(scene: Scene, ways: Sequence[Way], caption: str, alt: str) -> tuple[bytes, str, str]:
    """Ways over the picture of a scene; a dot is an end with success, a cross one without.

    Returns:
        SVG, caption and alternative text, as `write_report` takes figures.
    """
    thin = len(ways) > 4
    parts = [
        f'<image width="{SIZE}" height="{SIZE}" href="data:image/jpeg;base64,{base64.b64encode(scene.picture).decode()}"/>'
    ]
    for way in ways:
        pixels, depth = projected(way.places[np.isfinite(way.places).all(axis=1)], scene.camera)
        pixels = pixels[depth > 0]
        if not len(pixels):
            continue
        line = "M" + " ".join(f"{u:.1f},{v:.1f}" for u, v in _thinned(pixels))
        colour, (u, v) = COLOURS[way.role], pixels[-1]
        style = 'fill="none" stroke-linejoin="round" stroke-linecap="round"'
        if not thin:
            parts.append(f'<path d="{line}" {style} stroke="#ffffff" stroke-width="6" opacity="0.85"/>')
        width, opacity = ("1.3", "0.45") if thin else ("3", "1")
        dashes = "" if thin else _DASHES[way.role]
        parts.append(f'<path d="{line}" {style} stroke="{colour}" stroke-width="{width}" opacity="{opacity}"{dashes}/>')
        r = 3.5 if thin else 7
        if way.success is False:
            cross = f"M{u - r:.1f},{v - r:.1f} l{2 * r},{2 * r} m0,{-2 * r} l{-2 * r},{2 * r}"
            parts.append(f'<path d="{cross}" stroke="#ffffff" stroke-width="{r * 0.9:.1f}" {style}/>')
            parts.append(f'<path d="{cross}" stroke="{colour}" stroke-width="{r * 0.5:.1f}" {style}/>')
        else:
            parts.append(
                f'<circle cx="{u:.1f}" cy="{v:.1f}" r="{r}" fill="{colour}" stroke="#ffffff" stroke-width="{r * 0.3:.1f}"/>'
            )
    inside = "".join(parts)
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {SIZE} {SIZE}" role="img" aria-label="{escape(alt)}">{inside}</svg>'
    return svg.encode(), caption, alt


def _thinned(pixels: np.ndarray, least: float = 1.5) -> np.ndarray:
    """(N, 2) without the points that lie less than `least` pixels from the last one that was kept."""
    kept = [pixels[0]]
    for one in pixels[1:]:
        if np.hypot(*(one - kept[-1])) >= least:
            kept.append(one)
    return np.array([*kept, pixels[-1]])
