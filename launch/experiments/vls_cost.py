"""What guidance costs: CPU time per chunk and peak memory, guided over unsteered.

python -m launch.experiments.vls_cost 1        # MiB that planning guided chunks with K = 1 takes
"""

from __future__ import annotations

import json
import math
import random
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import policies
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import make_expert
from launch.tabletop_guidance import KINEMATICS
from policies.generative import GenerativePolicy
from steer_agents.guidance import RewardGuidance
from steer_agents.guidance.language import parse
from steer_agents.steerer import Steerer

TASK, POLICY = "CarryBlockOverWall", "flow-unaware"
REWARD = "reward:\n  - keep_out: {of: wall, margin: [0.05, 0.07, 0.08], leave: +z}\n"
"""Over the wall, with what is held: the tcp 8 cm above its top from 7 cm before it to 7 cm behind it."""


@dataclass(frozen=True)
class Cost:
    """CPU milliseconds per call for a number of episodes side by side; the medians over rounds, and the ratio of each round."""

    rows: int
    unsteered_ms: float
    guided_ms: float
    ratios: tuple[float, ...]

    @property
    def ratio(self) -> float:
        """Guided over unsteered, the median over rounds."""
        return statistics.median(self.ratios)


def guidance(strength: float = 3.0, **settings: Any) -> RewardGuidance:
    """Guidance around the wall."""
    return RewardGuidance(parse(REWARD), KINEMATICS, strength, **settings)


def scene(rows: int) -> tuple[dict[str, np.ndarray], list[dict[str, Any]]]:
    """Observations and infos of episodes in which the block is held low and just before the wall, so that guidance has work to do."""
    seen, infos = [], []
    for seed in range(rows):
        env = TabletopEnv("CarryBlockOverWall")
        observation, info = env.reset(seed=seed)
        expert = make_expert(env, seed=seed)
        while not info["held"]:
            observation, *_, info = env.step(expert.act())
        seen.append(observation)
        infos.append(info)
        env.close()
    return {key: np.stack([one[key] for one in seen]) for key in seen[0]}, infos


def planner(part: RewardGuidance | None, rows: int) -> Callable[[], Any]:
    """Plans one chunk per call, each from other noise."""
    policy = policies.load(POLICY)
    assert isinstance(policy, GenerativePolicy)
    observation, infos = scene(rows)
    steering = nullcontext() if part is None else Steerer(part).attach(policy)
    policy.reset(range(rows))
    steering.__enter__()  # for as long as the process or the policy lives
    policy.n_action_steps = 1  # every call of act plans
    return lambda: policy.act(observation, infos=infos)


def latency(rows: int, rounds: int = 15, calls: int = 20, **settings: Any) -> Cost:
    """CPU time per chunk in interleaved rounds."""
    jobs = {"unsteered": planner(None, rows), "guided": planner(guidance(**settings), rows)}
    spent: dict[str, list[float]] = {name: [] for name in jobs}
    order, shuffle = list(jobs), random.Random(0).shuffle
    for job in jobs.values():
        job()
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            began = time.process_time()
            for _ in range(calls):
                jobs[name]()
            spent[name].append((time.process_time() - began) / calls)
    pairs = zip(spent["guided"], spent["unsteered"], strict=True)
    medians = {name: 1e3 * statistics.median(times) for name, times in spent.items()}
    return Cost(rows, medians["unsteered"], medians["guided"], tuple(a / b for a, b in pairs))


def peak_memory(n_particles: int) -> float:
    """MiB that a fresh process takes at most beyond what it held before, while it plans chunks for 8 episodes; 0 particles is unsteered.

    NaN where the system does not tell (it is read from /proc).
    """
    done = subprocess.run(
        [sys.executable, "-m", "launch.experiments.vls_cost", str(n_particles)],
        capture_output=True,
        text=True,
        check=True,
    )
    return float(json.loads(done.stdout))


def _status(field: str) -> float:
    """A line of /proc/self/status in MiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found[1]) / 1024 if found else math.nan


def _grown(n_particles: int) -> float:
    run = planner(guidance(n_particles=n_particles) if n_particles else None, 8)
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return math.nan
    reset.write_text("5")  # the peak begins anew
    before = _status("VmRSS")
    for _ in range(20):
        run()
    return _status("VmHWM") - before


if __name__ == "__main__":
    print(json.dumps(_grown(int(sys.argv[1]))))
