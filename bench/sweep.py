"""What Ray costs a sweep, beside plain processes: the same real trials on both, round by round.

    python bench/sweep.py --rounds 5 --trials 16 --workers 2

Both pools are warm (policies loaded) before the first round. Wall time is what a user waits, and on a shared machine it moves with
whatever else runs there; so beside it stands what no other load changes much: the share of the workers' time that was spent in
trials, sum of the trials' seconds / (workers x wall time). A round runs on both, in shuffled order.
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[0] = str(ROOT)
for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"

import argparse  # noqa: E402
import json  # noqa: E402

from bench.timing import Bound, Spread  # noqa: E402

LIMIT = 1.10
SWEEP = """\
sweep: 1
policy: flow-medium
tasks: [PressButton, PutBowlOnPlate]
seeds: 0-3
measures: [ee_speed, success]
num_envs: 2
max_steps: {steps}
vary:
  seed: {seeds}
"""


@dataclass(frozen=True)
class Found:
    """Per round and backend.

    Args:
        wall: backend -> seconds of each round.
        busy: backend -> share of the workers' time spent in trials, of each round.
        trial_seconds: median of a trial.
        equal: whether every trial gave the same episodes on both.
    """

    wall: dict[str, list[float]]
    busy: dict[str, list[float]]
    trial_seconds: float
    equal: bool

    @property
    def ratios(self) -> list[float]:
        """Wall time on Ray over that on plain processes, round by round."""
        return [a / b for a, b in zip(self.wall["ray"], self.wall["local"], strict=True)]

    def as_json(self) -> dict[str, Any]:
        """For results.json."""
        spread = Spread.of(self.ratios)
        bound = Bound("plain processes + 10 %", LIMIT, spread.median)
        return {
            "wall": self.wall, "busy": self.busy, "trial_seconds": self.trial_seconds, "equal": self.equal,
            "ratio": vars(spread), "bound": {**vars(bound), "holds": bound.holds},
        }  # fmt: skip


def measure(rounds: int, trials: int = 16, workers: int = 2, steps: int = 40) -> Found:
    """Run the rounds.

    Raises:
        MissingExtra: Ray is not installed.
    """
    from launch.sweep.document import parse
    from launch.sweep.local import Local
    from launch.sweep.ray_backend import RayBackend
    from launch.sweep.workers import Pool

    seeds = [[100 * number + one for one in range(4)] for number in range(trials)]
    sweep = parse(SWEEP.format(steps=steps, seeds=json.dumps(seeds)))
    asked = [sweep.trial(point) for point in sweep.searching().ask()]
    wall: dict[str, list[float]] = {"local": [], "ray": []}
    busy: dict[str, list[float]] = {"local": [], "ray": []}
    seconds: list[float] = []
    episodes: dict[str, dict[str, Any]] = {"local": {}, "ray": {}}
    with Pool(Local({}, workers)) as local, Pool(RayBackend({}, workers)) as ray:
        pools = {"local": local, "ray": ray}
        for pool in pools.values():
            list(pool.answers(asked[:workers]))
        shuffle = random.Random(0).shuffle
        for _ in range(rounds):
            order = list(pools)
            shuffle(order)
            for name in order:
                start = time.perf_counter()
                answers = list(pools[name].answers(asked))
                spent = time.perf_counter() - start
                wall[name].append(spent)
                busy[name].append(sum(one.seconds for one in answers) / (workers * spent))
                seconds += [one.seconds for one in answers]
                episodes[name] |= {one.key: one.episodes for one in answers}
    equal = all(table is not None and table.equals(episodes["ray"][key]) for key, table in episodes["local"].items())
    return Found(wall, busy, sorted(seconds)[len(seconds) // 2], equal)


def show(console: Any, found: Found, rounds: int) -> None:
    """Print a table."""
    from rich.table import Table

    table = Table(title=f"sweep: {rounds} rounds, trials of {found.trial_seconds:.2f} s; equal episodes: {found.equal}")
    for name in ("workers", "wall [s]", "share of time in trials"):
        table.add_column(name)
    for name in found.wall:
        wall, busy = Spread.of(found.wall[name]), Spread.of(found.busy[name])
        table.add_row(name, f"{wall.median:.2f} ({wall.low:.2f} to {wall.high:.2f})", f"{busy.median:.3f}")
    console.print(table)
    spread = Spread.of(found.ratios)
    console.print(
        f"ray / local: {spread.median:.3f} ({spread.low:.3f} to {spread.high:.3f}), expected at most {LIMIT:g}"
    )


def main() -> int:
    """The command line."""
    from rich.console import Console

    parser = argparse.ArgumentParser(prog="python bench/sweep.py", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--steps", type=int, default=40, help="environment steps of an episode")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    found = measure(options.rounds, options.trials, options.workers, options.steps)
    if options.json:
        print(json.dumps(found.as_json(), indent=1))
    else:
        show(Console(), found, options.rounds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
