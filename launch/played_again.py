"""A recorded episode played again: its actions in its environment from its seed, so that it can be looked at without its policy.

What it gives is compared with what was recorded, number by number; an environment whose next state depends on more than seed and
actions is found out, and said.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
from PIL import Image, ImageDraw

import envs
from envs.tabletop.env import TabletopEnv
from launch.tabletop_guidance import camera_of
from policies.errors import BadInput
from steer_agents.evaluation.plots import COLOURS
from steer_agents.guidance.pixels import projected
from steer_agents.loop import Rollout

assert envs.__name__  # importing it registers the environments

EDGE = 256
"""Largest height and width of a film [px]; even, as the encoder wants it."""
CAMERA = "agentview"
_RECORDS = ("episode", "env_step", "truncated", "action")
"""Step columns that replaying does not make."""


@dataclass(frozen=True, eq=False)
class PlayedAgain:
    """One episode, played again.

    Args:
        frames: (T + 1, H, W, 3) uint8, from the start to the last step.
        pixels: (T + 1, 2) where the tcp is in each frame [px]; None outside of the tabletop.
        differs: what differs from the record, "" where every number is the same.
        success: at the end, None where the environment does not tell.
        fps: frames per second of real time.
    """

    frames: np.ndarray
    pixels: np.ndarray | None
    differs: str
    success: bool | None
    fps: int


def environment_of(config: Mapping[str, Any]) -> gym.Env:
    """The environment of a run, drawing pictures.

    Args:
        config: of `Rollout.config`.
    Raises:
        BadInput: it was made by a function, or wrapped, in a way that the record does not hold.
    """
    env = config["env"]
    made, name, settings = env.get("factory"), env.get("id"), dict(env.get("kwargs") or {})
    if isinstance(made, Mapping) and str(made["function"]).endswith(".make") and len(made["args"]) == 1:
        name, settings = made["args"][0], dict(made["kwargs"])
    if not isinstance(name, str) or name not in gym.registry or env.get("wrappers"):
        raise BadInput(f"films: the run's environment cannot be made again from its record ({env}); "
                       "run it by the id of a registered environment, without wrappers of one's own.")  # fmt: skip
    options = config.get("options")
    if options is not None and not isinstance(options, Mapping):
        raise BadInput(
            f"films: the run's reset options came from a function ({options}), which the record does not hold."
        )
    entry = gym.spec(name).entry_point
    if "envs.tabletop" in (entry if isinstance(entry, str) else entry.__module__):
        settings |= {"obs_type": "state", "render_size": EDGE, "render_camera": CAMERA}
    return gym.make(name, **{**settings, "render_mode": "rgb_array"})


def play_again(run: Rollout, seed: int, env: gym.Env) -> PlayedAgain:
    """Play the episode of a seed.

    Args:
        run: with its steps.
        seed: of the episode.
        env: see `environment_of`.
    Raises:
        BadInput: the run has no such seed, or its episode errored.
    """
    row = run.episodes[run.episodes["seed"] == seed]
    if len(row) != 1 or bool(row["errored"].iloc[0]):
        raise BadInput(f"films: the run has {len(row)} episodes of seed {seed} that did not error; one is needed.")
    steps = run.steps[run.steps["episode"] == row["episode"].iloc[0]].reset_index(drop=True)
    inner = env.unwrapped
    _, info = env.reset(seed=int(seed), options=run.config.get("options"))
    frames, places = [_frame(env)], [_tcp(info)]
    differs = ""
    for number, record in enumerate(steps.to_dict("records")):
        action = np.asarray(record["action"])
        _, reward, terminated, _, info = env.step(action.item() if action.ndim == 0 else action)
        frames.append(_frame(env))
        places.append(_tcp(info))
        now = {**info, "reward": float(reward), "terminated": bool(terminated)}
        for name, value in record.items():
            if not differs and name in now and name not in _RECORDS and not _equal(now[name], value):
                differs = f"{name} at step {number}: recorded {value}, played {now[name]}"
    success = info.get("is_success")
    pixels = None
    if isinstance(inner, TabletopEnv):
        pixels = projected(np.array(places), camera_of(inner, CAMERA, frames[0].shape[0]))[0]
    return PlayedAgain(
        np.stack(frames),
        pixels,
        differs,
        None if success is None else bool(success),
        env.metadata.get("render_fps", 20),
    )


def encode(frames: np.ndarray, fps: int) -> bytes:
    """An mp4 (H.264) in real time: (T, H, W, 3) uint8 with even H and W."""
    import imageio.v2 as imageio

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        imageio.mimwrite(
            path, list(frames), fps=fps, codec="libx264", quality=None, macro_block_size=2, pixelformat="yuv420p",
            output_params=["-crf", "27", "-movflags", "+faststart", "-threads", "1"],
        )  # fmt: skip
        return path.read_bytes()


def jpeg(picture: np.ndarray, quality: int = 85) -> bytes:
    """A JPEG of (H, W, 3) uint8."""
    import io

    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=quality)
    return buffer.getvalue()


def still(played: PlayedAgain, role: str) -> bytes:
    """The last frame with the way of the tcp drawn in, as JPEG."""
    picture = Image.fromarray(played.frames[-1]).resize((2 * EDGE, 2 * EDGE))
    if played.pixels is not None:
        points = [tuple(map(float, one)) for one in played.pixels * 2 * EDGE / played.frames.shape[1]]
        draw = ImageDraw.Draw(picture)
        draw.line(points, fill="#ffffff", width=7, joint="curve")
        draw.line(points, fill=COLOURS[role], width=4, joint="curve")
    return jpeg(np.asarray(picture), 80)


def _frame(env: gym.Env) -> np.ndarray:
    """(H, W, 3) uint8, at most `EDGE` and even."""
    picture: Any = env.render()
    if not isinstance(picture, np.ndarray):
        raise BadInput(f"films: {env.spec and env.spec.id} draws no pictures (render gave {type(picture).__name__}).")
    if max(picture.shape[:2]) > EDGE:
        image = Image.fromarray(picture)
        image.thumbnail((EDGE, EDGE))
        picture = np.asarray(image)
    return picture[: picture.shape[0] // 2 * 2, : picture.shape[1] // 2 * 2].copy()


def _tcp(info: Mapping[str, Any]) -> Sequence[float]:
    return [float(info.get(name, np.nan)) for name in ("tcp_x", "tcp_y", "height")]


def _equal(now: Any, then: Any) -> bool:
    """Whether a played value is the recorded one, bit for bit; values that no table holds are not compared."""
    if now is None or not np.isscalar(now) or not np.isscalar(then):
        return True
    if isinstance(now, str) or isinstance(then, str):
        return str(now) == str(then)
    return bool(now == then) or (pd.isna(now) and pd.isna(then))
