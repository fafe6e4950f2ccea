"""Look at the tabletop: `python -m envs.tabletop` lists the tasks; with a task it plays it and saves a picture or a film."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from envs.errors import BadSetting, NoRenderer, UnknownTask, nearest
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import FIRMNESS, HEIGHTS, SIDES, SPEEDS, Agent, RandomAgent, Style, ZeroAgent, make_expert
from envs.tabletop.init_states import PATH, write_init_states
from envs.tabletop.scene import CONTROL_DT, VIEWS
from envs.tabletop.shifts import AXES
from envs.tabletop.tasks import TASKS

HELD_OUT = 10_000
"""First of the seeds that no expert was tuned on."""

_TILE, _CAPTION, _COLUMNS = 200, 16, 6


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options)
    except (gym.error.Error, NoRenderer) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def _run(options: argparse.Namespace) -> int:
    if options.write_init_states:
        write_init_states()
        print(f"wrote {PATH}")
    elif options.contact_sheet is not None:
        contact_sheet(options.contact_sheet)
        print(f"wrote {options.contact_sheet}")
    elif options.check_experts is not None:
        return check_experts(options.check_experts, [options.task] if options.task else list(TASKS))
    elif options.task is None:
        list_tasks()
    else:
        _play(options)
    return 0


def list_tasks() -> None:
    """Print one line per task."""
    for task in TASKS.values():
        print(f"{task.suite:8s} {task.id:46s} {task.instruction}")
    print(f"\n{len(TASKS)} tasks. Play one: python -m envs.tabletop {next(iter(TASKS))} --save film.mp4")


def episode(env: TabletopEnv, agent: Agent, seed: int) -> tuple[bool, int]:
    """Play one episode; returns (success, number of steps)."""
    env.reset(seed=seed)
    agent.reset(seed)
    for env_step in range(1, env.spec_of_task.max_episode_steps + 1):
        terminated = env.step(agent.act())[2]
        if terminated:
            return True, env_step
    return False, env_step


def check_experts(episodes: int, names: Sequence[str]) -> int:
    """Print how often the expert of each task succeeds on held-out seeds; 1 if one is below 95 %."""
    import mujoco

    worst = 1.0
    print(f"mujoco {mujoco.__version__}, seeds {HELD_OUT}..{HELD_OUT + episodes - 1}")
    for name in names:
        env = TabletopEnv(name)
        env.reset(seed=HELD_OUT)
        expert = make_expert(env)
        played = [episode(env, expert, HELD_OUT + number) for number in range(episodes)]
        successes = sum(success for success, _ in played)
        worst = min(worst, successes / episodes)
        print(
            f"{name:30s} {successes:3d}/{episodes}  mean steps {np.mean([steps for _, steps in played]):.0f}",
            flush=True,
        )
    return int(worst < 0.95)


def contact_sheet(path: Path) -> None:
    """Save one picture of all tasks, each at its first fixed initial state."""
    image_module, draw_module = _pillow()
    rows = -(-len(TASKS) // _COLUMNS)
    sheet = image_module.new("RGB", (_COLUMNS * _TILE, rows * (_TILE + _CAPTION)), "white")
    for number, name in enumerate(TASKS):
        env = TabletopEnv(name)
        env.reset(seed=0, options={"init_state_id": 0})
        tile = image_module.fromarray(env.picture("agentview", _TILE, _TILE))
        env.close()
        left, top = number % _COLUMNS * _TILE, number // _COLUMNS * (_TILE + _CAPTION)
        sheet.paste(tile, (left, top + _CAPTION))
        draw_module.Draw(sheet).text((left + 3, top + 2), name, fill="black")
    _atomically(path, lambda partial: sheet.save(partial, format="png", optimize=True))


def _play(options: argparse.Namespace) -> None:
    if (
        options.viewer
        and sys.platform == "linux"
        and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    ):
        raise BadSetting("--viewer needs a display, and this machine has none; use --save film.mp4 instead.")
    env = TabletopEnv(options.task, shift=_shift(options.shift))
    env.reset(seed=options.seed)
    style = Style(options.speed, options.height, options.firmness)
    agents: dict[str, Any] = {
        "expert": lambda: make_expert(env, style, options.side, options.seed),
        "zero": ZeroAgent,
        "random": lambda: RandomAgent(options.seed),
    }
    agent = agents[options.agent]()
    if options.viewer:
        _watch(env, agent, options.seed)
        return
    path = options.save or Path(f"{options.task}.png")
    if path.suffix not in (".png", ".mp4"):
        raise BadSetting(f"--save {path}: expected a name that ends in .png (the last picture) or .mp4 (a film).")
    frames, success = _film(env, agent, options)
    imageio = _imageio()
    if path.suffix == ".png":
        _atomically(path, lambda partial: imageio.imwrite(partial, frames[-1]))
    else:
        rate = round(1 / CONTROL_DT)
        _atomically(path, lambda partial: imageio.mimwrite(partial, frames, fps=rate, macro_block_size=16, quality=7))
    env.close()
    print(
        f"{options.task}, seed {options.seed}: {'success' if success else 'no success'} after {len(frames) - 1} steps; wrote {path}"
    )


def _film(env: TabletopEnv, agent: Agent, options: argparse.Namespace) -> tuple[list[np.ndarray], bool]:
    env.reset(seed=options.seed)
    agent.reset(options.seed)
    frames, terminated = [env.picture(options.camera, options.size, options.size)], False
    while not terminated and len(frames) <= env.spec_of_task.max_episode_steps:
        terminated = env.step(agent.act())[2]
        frames.append(env.picture(options.camera, options.size, options.size))
    return frames, terminated


def _watch(env: TabletopEnv, agent: Agent, seed: int) -> None:
    import time

    import mujoco.viewer

    env.reset(seed=seed)
    agent.reset(seed)
    with mujoco.viewer.launch_passive(env.world.model, env.world.data) as window:
        while window.is_running():
            started = time.monotonic()
            if env.step(agent.act())[2]:
                time.sleep(1.0)
                seed += 1
                env.reset(seed=seed)
                agent.reset(seed)
            env.world.show_lamps()
            window.sync()
            time.sleep(max(0.0, CONTROL_DT - (time.monotonic() - started)))


def _shift(texts: Sequence[str]) -> dict[str, float]:
    sizes = {}
    for text in texts:
        name, _, size = text.partition("=")
        try:
            sizes[name] = float(size)
        except ValueError:
            raise BadSetting(
                f"--shift {text}: expected AXIS=SIZE, for example lighting=1. Axes: {', '.join(AXES)}."
            ) from None
    return sizes


def _atomically(path: Path, write: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".part-{path.name}")  # keeps the ending, which says what is written
    write(partial)
    os.replace(partial, path)


def _imageio() -> Any:
    try:
        import imageio.v2 as imageio
    except ImportError as error:
        raise BadSetting("saving pictures needs imageio: pip install imageio imageio-ffmpeg.") from error
    return imageio


def _pillow() -> tuple[Any, Any]:
    try:
        from PIL import Image, ImageDraw
    except ImportError as error:
        raise BadSetting("the contact sheet needs Pillow: pip install pillow.") from error
    return Image, ImageDraw


def _task(name: str) -> str:
    short = name.removeprefix("SteerAgents/").removesuffix("-v0")
    if short not in TASKS:
        raise argparse.ArgumentTypeError(str(UnknownTask(f"task {name!r} is unknown{nearest(short, TASKS)}")))
    return short


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m envs.tabletop", description=__doc__)
    parser.add_argument("task", nargs="?", type=_task, help="name or id of a task; without one, the tasks are listed")
    parser.add_argument("--save", type=Path, metavar="PATH", help="name.png for the last picture, name.mp4 for a film")
    parser.add_argument("--viewer", action="store_true", help="watch in a window")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--agent", choices=("expert", "zero", "random"), default="expert")
    parser.add_argument("--speed", choices=tuple(SPEEDS), default="normal")
    parser.add_argument("--height", choices=tuple(HEIGHTS), default="normal")
    parser.add_argument("--firmness", choices=tuple(FIRMNESS), default="normal")
    parser.add_argument("--side", choices=SIDES, default="random")
    parser.add_argument("--shift", nargs="*", default=[], metavar="AXIS=SIZE", help=f"axes: {', '.join(AXES)}")
    parser.add_argument("--camera", choices=(*VIEWS, "robot0/wrist"), default="frontview")
    parser.add_argument("--size", type=int, default=480, help="height and width of the picture [pixels]")
    parser.add_argument("--contact-sheet", type=Path, metavar="PATH", help="save one picture of all tasks")
    parser.add_argument("--check-experts", type=int, metavar="N", help="play N held-out episodes of every task")
    parser.add_argument(
        "--write-init-states", action="store_true", help="draw the 50 fixed initial states of every task anew"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
