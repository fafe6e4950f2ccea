"""`steer-agents dose`: what the strengths of a direction do to a policy, what is usable, and whether it steers."""

from __future__ import annotations

import hashlib
import json as json_
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import tyro

from launch.cli_base import OUT, app, dumps, print_rows
from policies.errors import BadInput
from steer_agents.progress import bar


@app.command(name="dose")
def dose(
    policy: tyro.conf.Positional[str],
    direction: tyro.conf.Positional[Path],
    /,
    env: tuple[str, ...],
    measure: str = "speed,success",
    target: str | None = None,
    layer: int | None = None,
    unit: str = "alpha",
    bracket: tuple[float, float] = (-0.5, 0.5),
    strengths: tuple[float, ...] | None = None,
    episodes: int = 300,
    seeds: int = 24,
    pilot: int = 8,
    seed: int = 0,
    controls: int = 3,
    bound: float = 0.2,
    num_envs: int = 16,
    store: bool = True,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Measure the dose-response curve of a direction: target, side effects, usable range, knee, verdict.

    The curve is stored in the direction's file: later uses warn outside of the usable range, and `strength: ee_speed=0.08` is solved
    from it. The same command goes on after an interruption.

    Args:
        policy: e.g. tiny-vla.
        direction: a direction file.
        env: tasks; a seed names its task, so that more tasks do not cost more episodes.
        measure: names, see steer_agents/evaluation/measures.py, with commas.
        target: of the measures, the one that shall move; the first if not given.
        layer: use only this layer of the direction.
        unit: of the strengths: alpha, sd, beta or absolute.
        bracket: strengths to begin with, widened by itself.
        strengths: at which to measure, in place of a search.
        episodes: budget of all.
        seeds: episodes per strength.
        pilot: further episodes per strength that is tried in the search.
        seed: the first.
        controls: random directions of the same norm.
        bound: rise of the share of failures that is allowed.
        num_envs: episodes side by side.
        store: keep the curve in the direction's file.
        out: folder for results, runs/dose/... by default.
        json: print dose.json.
    """
    from launch.dosing import PILOT, of_direction, rows
    from launch.judged import print_study
    from launch.trials import Trials
    from steer_agents.direction import Direction
    from steer_agents.dosed import with_dose
    from steer_agents.interventions import Add
    from steer_agents.strength import Strength

    measures = [name.strip() for name in measure.split(",") if name.strip()]
    if not measures:
        raise BadInput("dose: --measure names what is measured, e.g. ee_speed,success.")
    aim = target or measures[0]
    if seed < 0 or seeds < 1 or pilot < 0 or seeds > PILOT:
        raise BadInput(f"dose: seed, seeds and pilot must be from 0, 1 and 0, got {seed}, {seeds}, {pilot}.")
    found = Direction.load(direction)
    part = Add(found if layer is None else found.at(layer), strength=Strength(0.0, unit))
    key = [
        policy,
        list(env),
        measures,
        aim,
        layer,
        unit,
        bracket,
        strengths,
        seeds,
        pilot,
        seed,
        controls,
        bound,
        num_envs,
    ]
    folder = out or Path("runs/dose") / f"{direction.stem}-{hashlib.sha256(json_.dumps(key).encode()).hexdigest()[:8]}"
    asked = list(dict.fromkeys([aim, *measures]))
    trials = Trials.of(policy, env, asked, num_envs=num_envs, keep=folder / "kept")
    study = of_direction(
        trials, part, controls, seed=seed, seeds=range(seed, seed + seeds), pilot=range(seed + PILOT, seed + PILOT + pilot), target=aim,
        side=tuple(name for name in asked if name != aim), strengths=strengths or None, bracket=bracket, budget=episodes, bound=bound,
    )  # fmt: skip
    total = (
        episodes
        if strengths is None
        else seeds * (len({0.0, *strengths}) + controls * len({s > 0 for s in strengths if s}))
    )
    with _bar(f"{direction.stem} on {policy}", total) as tell:
        result = study.run(tell)
    told = study.write(result, folder, shlex.join(["steer-agents", *sys.argv[1:]]))
    if store:
        made = with_dose(found, part, result, policy=trials.policy.name, tasks=trials.tasks, env=trials.env)
        made.save(direction)
    if json:
        print(dumps(told))
        return
    print_rows(
        rows(result), f"{aim} over strength [{unit}]; usable {result.usable[0]:.3g} to {result.usable[1]:.3g}", False
    )
    print_study(told["judged"])
    OUT.print(f"{result.verdict.word}", style="bold", markup=False)
    for reason in result.verdict.reasons:
        OUT.print(f"  {reason}", markup=False)
    for sign, at in result.knee.items():
        OUT.print(f"knee at {at:+.3g}" if sign else "", markup=False)
    where = f"{folder}; the curve is in {direction}" if store else str(folder)
    OUT.print(f"results: {where}", markup=False, soft_wrap=True)


@contextmanager
def _bar(what: str, episodes: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with the time left; yields what to tell of finished episodes."""
    with bar("{task.completed:.0f}/{task.total:.0f} episodes", "left at most") as progress:
        task = progress.add_task(what, total=episodes)
        yield lambda done: progress.update(task, advance=done)
