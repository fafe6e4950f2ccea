"""`steer-agents stress`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro

from launch.cli_base import OUT, app, dumps, print_rows, prompt_lines
from policies.errors import BadInput
from steer_agents.progress import bar


@app.command(name="stress")
def stress_(
    policy: tyro.conf.Positional[str],
    direction: tyro.conf.Positional[Path],
    /,
    env: tuple[str, ...],
    measure: str = "speed",
    strength: float = 0.2,
    unit: str = "alpha",
    layer: int | None = None,
    sign: int = 0,
    absolute: bool = False,
    episodes: int = 24,
    part: int = 16,
    scene_episodes: int = 2,
    neighbours: tuple[str, ...] = (),
    wordings: tuple[str, ...] = (),
    positive: Path | None = None,
    negative: Path | None = None,
    quick: bool = False,
    seed: int = 0,
    max_steps: int | None = None,
    out: Path = Path("runs/stress"),
    json: bool = False,
) -> None:
    """Stress a direction: layers, strengths, contexts, tasks, wordings, seeds, neighbour concepts, halves, resistance, controls.

    The score is that of the weakest check. What cannot be measured says why and never passes. Exit status 1 if a check fails.

    Args:
        policy: e.g. tiny-vla.
        direction: a .safetensors file, best with several layers.
        env: tasks; seeds name them in turn.
        measure: that the direction changes, e.g. speed or entropy_bits.
        strength: the one in use, chosen on other seeds; unit: alpha, beta, sd or absolute.
        layer: the one in use.
        sign: of the change that is asked for, -1 or 1; 0 finds it on seeds of its own.
        absolute: effects in the measure's unit, not as shares of the unsteered mean (for measures that may be 0).
        episodes: of the test; part: of them for layers, controls and wordings.
        scene_episodes: of every task, for what is read off activations.
        neighbours: concepts that it should not be, [theme=|form=]FILE[:MEASURE].
        wordings: "{} gently" says the instruction otherwise; wording=adverts changes the environment (bandits).
        positive: prompts with the concept, one a line, that the direction was not found on (language agents); negative: without it.
        quick: 8 episodes, one random direction, two further strengths; too few for the check of contexts.
        seed: added to all seeds.
        max_steps: of an episode.
        out: folder of results; the same command goes on where it was interrupted.
        json: print for programs.
    """
    from launch.judged import print_study
    from launch.stress import Neighbour, StressSettings, how_many, stress
    from launch.trials import Trials
    from steer_agents.direction import Direction
    from steer_agents.evaluation.stress.figure import picture
    from steer_agents.runs import jsonable, write_bytes, write_json, write_table

    less: dict[str, Any] = (
        {"episodes": 8, "part": 8, "scene_episodes": 1, "n_random": 1, "shares": (0.5, 1.5)}
        if quick
        else {"episodes": episodes, "part": min(part, episodes), "scene_episodes": scene_episodes}
    )
    settings = StressSettings(
        measure=measure, strength=strength, unit=unit, layer=layer, sign=sign, relative=not absolute, wordings=wordings, seed=seed,
        **less,
    )  # fmt: skip
    if (positive is None) != (negative is None):
        raise BadInput("stress: --positive and --negative belong together, prompts with and without the concept.")
    contrast = None if positive is None or negative is None else (prompt_lines(positive), prompt_lines(negative))
    found = Direction.load(direction)
    near = [Neighbour.read(one) for one in neighbours]
    total = how_many(found, settings)
    trials = Trials.of(policy, env, (measure,), max_steps=max_steps, keep=out / "rollouts")
    with _bar(total) as tell:
        made = stress(trials, found, settings, direction.stem, near, tell, contrast)
    battery = made.battery
    told = jsonable(
        {**battery.to_dict(), "layer": made.layer, "judged": made.extra["judged"], "settings": vars(settings),
         "trials": trials.describe()}
    )  # fmt: skip
    write_table(out / "episodes.parquet", made.episodes)
    write_bytes(out / "stress.png", picture(battery))
    write_json(out / "results.json", told)
    if json:
        print(dumps(told))
    else:
        print_rows(
            [{**row, "score": _score(row["score"])} for row in battery.rows()], f"{direction.stem} on {policy}", False
        )
        print_study(made.extra["judged"])
        OUT.print(battery.verdict, markup=False)
        OUT.print(f"\nresults: {out}", markup=False, soft_wrap=True)
    if battery.failed:
        sys.exit(1)


def _score(score: float | None) -> str:
    return "-" if score is None else f"{score:.2f}"


@contextmanager
def _bar(total: int) -> Iterator[Callable[[str], None]]:
    """A bar with the time left, one step per condition; yields what to call with the name of the next one."""
    with bar() as progress:
        task, begun = progress.add_task("loading", total=total), False

        def tell(name: str) -> None:
            nonlocal begun
            progress.update(task, advance=int(begun), description=name)
            begun = True

        yield tell
        progress.update(task, completed=total)
