"""Rates of the tabletop: what a step, an episode of each embedded policy and one more environment cost.

Where `libero` and its assets are installed, LIBERO is measured in the same rounds (`bench/libero.py`). Elsewhere its figures are constants,
measured with hf-libero 0.1.4 on robosuite 1.4.0 and mujoco 3.8.1, libero_goal task 8, software OpenGL, CPU time of one 2.5 GHz core (5 to
8 steps with cameras, so good to 20 %); a ratio to them is only as good as this machine is like that one.

Ours is one expert episode of PutBowlOnPlate, acted again from its first fixed initial state; resets are not timed.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from bench.libero import Libero
from bench.timing import Spread, interleave

ROOT = Path(__file__).resolve().parent.parent
TASK = "PutBowlOnPlate"
STATE, CAMERAS = "state", "two cameras, 128 px"
SETTINGS: dict[str, dict[str, Any]] = {
    STATE: {"obs_type": "state"},
    CAMERAS: {"obs_type": "pixels_agent_pos", "camera_size": 128},
}
LIBERO_SECONDS = {STATE: 0.013, CAMERAS: 0.22}
"""CPU seconds of one LIBERO step on another machine, see above."""
WANTED = {STATE: 12.0, CAMERAS: 40.0}
"""How many times faster than LIBERO a step should be."""
PIXEL_SIZE = 64
"""Camera size of the embedded policies that see pictures."""
STATE_FAMILIES = ("flow", "mlp")
"""Families of embedded policies that act on `obs_type="state"`; all others see pictures."""
PATIENCE = 20.0
"""CPU seconds after which a policy gets no further round."""


@dataclass
class Rates:
    """What was measured.

    Args:
        steps: setting -> CPU seconds per step in each round.
        libero: setting -> CPU seconds per LIBERO step in each round: measured here, or the constants.
        libero_source: where they come from.
        policies: name -> one entry per round.
        not_run: policy -> why it is missing.
        memory: setting -> resident MiB per further environment; None where it cannot be told.
    """

    steps: dict[str, list[float]]
    libero: dict[str, list[float]]
    libero_source: str
    policies: dict[str, list[Episodes]] = field(default_factory=dict)
    not_run: dict[str, str] = field(default_factory=dict)
    memory: dict[str, float | None] = field(default_factory=dict)

    def times_faster(self, setting: str) -> float:
        """LIBERO's time per step divided by ours of the same round, the median."""
        return Spread.of([a / b for a, b in zip(self.libero[setting], self.steps[setting], strict=True)]).median

    def as_json(self) -> dict[str, Any]:
        """The results as one JSON-able object."""
        return {
            "task": TASK,
            "libero": {"rounds_cpu_seconds_per_step": self.libero, "source": self.libero_source},
            "steps": {
                name: {
                    "cpu_ms": 1e3 * Spread.of(values).median,
                    "rounds_cpu_seconds": values,
                    "times_faster_than_libero": self.times_faster(name),
                    "bound": {"limit": WANTED[name], "holds": self.times_faster(name) >= WANTED[name]},
                }
                for name, values in self.steps.items()
            },
            "policies": {name: [vars(entry) for entry in entries] for name, entries in self.policies.items()},
            "policies_not_run": self.not_run,
            "memory_mib_per_env": self.memory,
        }


@dataclass(frozen=True)
class Episodes:
    """Episodes of one policy in one round: how many, their steps together, those that succeeded, and the CPU seconds of all."""

    task: str
    episodes: int
    steps: int
    successes: int
    seconds: float

    @property
    def per_minute(self) -> float:
        """Episodes per CPU minute."""
        return 60 * self.episodes / self.seconds


class Stopwatch:
    """A clock of CPU seconds that can stand still."""

    def __init__(self) -> None:
        self._excluded = 0.0

    def __call__(self) -> float:
        return time.process_time() - self._excluded

    def untimed(self, work: Callable[[], object]) -> None:
        """Do something that does not count."""
        began = time.process_time()
        work()
        self._excluded += time.process_time() - began


def measure(rounds: int, names: Sequence[str] | None = None, episodes: int = 4, further: int = 6) -> Rates:
    """Measure everything.

    Args:
        rounds: of the steps; policies get as many until `PATIENCE` is spent.
        names: of embedded policies; None is all of them.
        episodes: of a policy in a round.
        further: environments over which the growth of memory is averaged.
    """
    import envs

    assert envs.__name__  # importing it registers the environments
    import policies.registry

    rates = steps(rounds)
    for name in policies.registry.EMBEDDED if names is None else names:
        try:
            rates.policies[name] = episodes_of(name, rounds, episodes)
        except Exception as error:  # a policy whose parts are not installed is told, the others are measured
            rates.not_run[name] = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
    rates.memory = {setting: memory_growth(setting, further) for setting in SETTINGS}
    return rates


def steps(rounds: int) -> Rates:
    """CPU seconds per step in interleaved rounds, with LIBERO's beside them where it can run."""
    from envs.tabletop.env import TabletopEnv
    from envs.tabletop.experts import make_expert

    env = TabletopEnv(TASK)
    env.reset(seed=0, options={"init_state_id": 0})
    expert, actions, done = make_expert(env, seed=0), [], False
    while not done and len(actions) < env.spec_of_task.max_episode_steps:
        actions.append(expert.act())
        done = env.step(actions[-1])[2]
    env.close()
    clock, jobs, opened = Stopwatch(), {}, []
    for setting, options in SETTINGS.items():
        one = TabletopEnv(TASK, **options)
        jobs[setting] = _acting(one, lambda one=one: one.reset(seed=0, options={"init_state_id": 0}), actions, clock)
        opened.append(one)
    source = "constants measured on another machine, see bench/tabletop.py"
    theirs: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    with ExitStack() as stack:
        for one in opened:
            stack.callback(one.close)
        if importlib.util.find_spec("libero") is not None:
            try:
                libero = stack.enter_context(Libero())
            except RuntimeError as error:
                source += f"; libero is installed but does not run: {error}"
            else:
                source = "measured in the same rounds"
                for setting in SETTINGS:
                    jobs[f"libero {setting}"] = _asking(libero, setting, actions, theirs[setting])
        seconds = interleave(jobs, rounds, clock=clock)
    ours = {setting: [value / len(actions) for value in seconds[setting]] for setting in SETTINGS}
    constants = {setting: [LIBERO_SECONDS[setting]] * rounds for setting in SETTINGS}
    return Rates(ours, {setting: theirs[setting][1:] or constants[setting] for setting in SETTINGS}, source)


def _asking(libero: Libero, setting: str, actions: Sequence[np.ndarray], noted: list[float]) -> Callable[[], None]:
    cameras = setting == CAMERAS
    asked = actions[:8] if cameras else actions
    return lambda: noted.append(libero.seconds_per_step(cameras, asked))


def _acting(env: Any, reset: Callable[[], object], actions: Sequence[np.ndarray], clock: Stopwatch) -> Any:
    def act() -> None:
        clock.untimed(reset)
        for action in actions:
            env.step(action)

    return act


def task_of(name: str) -> str:
    """The task that a policy's card says it is for; `TASK` where a card names none."""
    for card in (ROOT / "policies").glob(f"*/cards/{name}.md"):
        if found := re.search(r"^\| task \| (\w+) \|", card.read_text(), re.MULTILINE):
            return found[1]
    return TASK


def settings_of(name: str) -> dict[str, Any]:
    """What an embedded policy's environment has to be made with."""
    import policies.registry

    if policies.registry.EMBEDDED[name].split(":")[0] in STATE_FAMILIES:
        return {"obs_type": "state"}
    return {"obs_type": "pixels_agent_pos", "camera_size": PIXEL_SIZE}


def episodes_of(name: str, rounds: int, episodes: int) -> list[Episodes]:
    """Let an embedded policy act, `episodes` side by side, on the fixed initial states; the first round always counts."""
    import gymnasium as gym

    import policies
    from envs.tabletop.init_states import fixed_init_state
    from steer_agents.loop import rollout

    policy, task = policies.load(name), task_of(name)
    spec = copy.deepcopy(gym.spec(f"SteerAgents/{task}-v0"))
    spec.kwargs = {**spec.kwargs, **settings_of(name)}
    found: list[Episodes] = []
    while len(found) < rounds and sum(one.seconds for one in found) < PATIENCE:
        began = time.process_time()
        table = rollout(
            spec,
            policy,
            episodes=episodes,
            seed=len(found),
            num_envs=episodes,
            options=fixed_init_state,
            progress=False,
        ).episodes
        spent = time.process_time() - began
        good = table[~table["errored"]]
        if len(good) < len(table):
            raise RuntimeError(
                f"{len(table) - len(good)} of {len(table)} episodes errored: {table['error'].dropna().iloc[0]}"
            )
        found.append(Episodes(task, episodes, int(good["length"].sum()), int(good["success"].sum()), spent))
    return found


def memory_growth(setting: str, further: int) -> float | None:
    """Resident MiB that one more environment of a setting takes, in a process of its own; None where it cannot be told."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.tabletop", setting, str(further)], cwd=ROOT, capture_output=True, text=True
    )
    return float(json.loads(done.stdout)) if done.returncode == 0 else None


def _grow(setting: str, further: int) -> float:
    from envs.tabletop.env import TabletopEnv

    def one_more() -> TabletopEnv:
        env = TabletopEnv(TASK, **SETTINGS[setting])
        env.reset(seed=0)
        env.step(np.zeros(7, dtype=np.float32))
        return env

    kept = [one_more() for _ in range(2)]
    before = _resident()
    kept += [one_more() for _ in range(further)]
    return (_resident() - before) / further


def _resident() -> float:
    """Resident MiB of this process (Linux)."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def show(console: Console, rates: Rates, rounds: int) -> None:
    """Print three tables."""
    table = Table(title=f"tabletop, one step of {TASK}; {rounds} rounds", title_justify="left")
    for title in ("observation", "CPU ms", "quartiles", "LIBERO, CPU ms", "times faster", "bound", "holds"):
        table.add_column(title, justify="left" if title == "observation" else "right")
    for setting, values in rates.steps.items():
        spread, faster = Spread.of(values), rates.times_faster(setting)
        table.add_row(
            setting, f"{1e3 * spread.median:.2f}", f"{1e3 * spread.low:.2f} to {1e3 * spread.high:.2f}",
            f"{1e3 * Spread.of(rates.libero[setting]).median:.0f}", f"{faster:.1f}", f">= {WANTED[setting]:g}",
            "yes" if faster >= WANTED[setting] else "NO",
        )  # fmt: skip
    console.print(table)
    console.print(f"LIBERO: {rates.libero_source}")
    table = Table(title="tabletop, embedded policies in the loop", title_justify="left")
    for title in ("policy", "task", "episodes / CPU minute", "quartiles", "steps an episode", "episodes", "success"):
        table.add_column(title, justify="left" if title in ("policy", "task") else "right")
    for name, entries in rates.policies.items():
        spread = Spread.of([entry.per_minute for entry in entries])
        total = sum(entry.episodes for entry in entries)
        table.add_row(
            name, entries[0].task, f"{spread.median:.1f}", f"{spread.low:.1f} to {spread.high:.1f}",
            f"{sum(entry.steps for entry in entries) / total:.0f}", str(total),
            f"{sum(entry.successes for entry in entries) / total:.2f}",
        )  # fmt: skip
    console.print(table)
    for name, reason in rates.not_run.items():
        console.print(f"{name} was not measured: {reason}")
    table = Table(title="tabletop, memory of one more environment in a process", title_justify="left")
    for title in ("observation", "resident MiB"):
        table.add_column(title, justify="left" if title == "observation" else "right")
    for setting, size in rates.memory.items():
        table.add_row(setting, "not measured here" if size is None else f"{size:.1f}")
    console.print(table)


if __name__ == "__main__":
    print(_grow(sys.argv[1], int(sys.argv[2])))
