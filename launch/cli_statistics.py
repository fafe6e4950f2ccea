"""`steer-agents sequential | power`: comparisons that stop when they are clear, and how many episodes one will need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import tyro

from launch.cli_base import OUT, app, dumps, print_rows
from policies.errors import BadInput
from steer_agents.progress import bar


@app.command(name="power")
def power_(
    from_: Annotated[float | None, tyro.conf.arg(name="from")] = None,
    to: float | None = None,
    correlation: float = 0.0,
    gap: float | None = None,
    sd: float | None = None,
    pilot: Path | None = None,
    measure: str = "success",
    power: float = 0.8,
    alpha: float = 0.05,
    json: bool = False,
) -> None:
    """Say how many episodes are needed: for success rates, for a mean difference, or from a pilot.

    Args:
        from_: success rate as it is (--from .8).
        to: success rate that should be told from it (--to .6).
        correlation: of success within a pair of equal seed; 0 is the conservative choice where it is not negative.
        gap: mean difference that should be told from none; with --sd or --pilot.
        sd: standard deviation of the paired differences.
        pilot: an episodes.parquet with two conditions on the same seeds.
        measure: its column.
        power: probability of finding the difference.
        alpha: two-sided error rate.
        json: print for programs.
    """
    from steer_agents.evaluation.power import Discordance, binary_plan, mean_plan, sequential_plan

    if pilot is not None:
        differ, gap, sd = of_pilot(pilot, measure, gap)
    elif from_ is not None and to is not None:
        differ = Discordance.of(from_, to, correlation)
    elif gap is not None and sd is not None:
        differ = None
    else:
        raise BadInput(
            "power: give --from RATE --to RATE, or --gap DIFFERENCE --sd DEVIATION, or --pilot episodes.parquet."
        )
    if differ is None:
        assert gap is not None
        assert sd is not None
        plans = [mean_plan(gap, sd, power, alpha)]
    else:
        plans = [binary_plan(differ, power, alpha), sequential_plan(differ, power, alpha)[1]]
    rows = [
        {"test": one.test, "pairs at most": one.pairs, "on average": round(one.mean, 1), "without a difference": round(one.mean_null, 1),
         "episodes at most": 2 * one.pairs, "power": one.power}
        for one in plans
    ]  # fmt: skip
    print_rows(rows, "each pair is one seed, run twice", json)


def of_pilot(pilot: Path, measure: str, gap: float | None) -> tuple[Any, float | None, float | None]:
    """What a pilot of two conditions says: the discordance of success, or the gap and deviation of anything else.

    Raises:
        BadInput: no such file, not two conditions, or what `compare` refuses.
    """
    import pandas as pd

    from steer_agents.evaluation.pairing import pairs
    from steer_agents.evaluation.power import Discordance

    if not pilot.is_file():
        raise BadInput(f"power: there is no file {pilot}; a run folder holds an episodes.parquet.")
    table = pd.read_parquet(pilot)
    names = list(dict.fromkeys(table["condition"])) if "condition" in table else []
    if len(names) != 2:
        raise BadInput(
            f"power: {pilot} has to hold two conditions, it holds {len(names)}: {', '.join(map(str, names)) or 'none'}."
        )
    first, second = (table[table["condition"] == name] for name in names)
    found = pairs(first, second, measure)
    d = found.x - found.y
    if set(map(float, (*found.x, *found.y))) <= {0.0, 1.0}:
        return Discordance(float((d > 0).mean()), float((d < 0).mean())), None, None
    return None, float(d.mean()) if gap is None else gap, float(d.std(ddof=1))


@contextmanager
def looking(n_max: int) -> Iterator[Callable[[Any], None]]:
    """A bar on stderr up to the most pairs; yields what to call after every batch with the test."""
    with bar(
        "{task.completed:.0f} of at most {task.total:.0f} pairs, e = {task.fields[e]:.3g}", "left at most"
    ) as progress:
        task = progress.add_task("pairs", total=n_max, e=1.0)
        yield lambda test: progress.update(task, completed=test.n, e=test.e_value)


@app.command(name="sequential")
def sequential_(
    policy: tyro.conf.Positional[str],
    tasks: tyro.conf.Positional[tuple[str, ...]],
    /,
    direction: Path | None = None,
    strength: float = 0.2,
    layer: int | None = None,
    recipe: Path | None = None,
    measure: str = "success",
    gap: float = 0.2,
    bound: float = 1.0,
    spread: float | None = None,
    alpha: float = 0.05,
    power: float = 0.8,
    n_max: int = 200,
    batch: int = 8,
    first_seed: int = 900_000,
    num_envs: int = 8,
    max_steps: int | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Run steered and unsteered episodes on the same seeds until it is clear whether they differ.

    The error rate holds however often one looks. `a` is steered, `b` is not.

    Args:
        policy: as `policies.load` takes it.
        tasks: environments; seed s is of task s mod their number.
        direction: a direction file to add; strength: relative dose alpha; layer: use only this one.
        recipe: or a recipe, whose parts steer the policy.
        measure: to compare.
        gap: least difference of interest.
        bound: largest difference that a pair can show; 1 for success.
        spread: expected mean square of the differences (for success the share of pairs that differ).
        alpha: error rate.
        power: wanted.
        n_max: most pairs; `steer-agents power` says how many give the power.
        batch: pairs per look.
        first_seed: seeds count up from here; nothing may have been chosen on them.
        num_envs: episodes side by side.
        max_steps: per episode.
        out: folder for episodes.parquet and results.json.
        json: print for programs.
    """
    from launch.trials import Trials
    from steer_agents.direction import Direction
    from steer_agents.evaluation.sequential import SequentialTest, run_until
    from steer_agents.interventions import Add
    from steer_agents.runs import write_json, write_table
    from steer_agents.steerer import Part

    parts: Sequence[Part]
    if (direction is None) == (recipe is None):
        raise BadInput(
            "sequential: give either --direction FILE or --recipe FILE, what is to be compared with the unsteered policy."
        )
    if direction is not None:
        found = Direction.load(direction)
        parts = (Add(found if layer is None else found.at(layer), strength=strength),)
    else:
        from steer_agents import recipe as recipes

        assert recipe is not None
        parts = [one.part for one in recipes.load(recipe).parts]
    trials = Trials.of(policy, tasks, [measure], num_envs=num_envs, max_steps=max_steps)
    test = SequentialTest(gap, alpha=alpha, power=power, bound=bound, spread=spread, n_max=n_max)
    with looking(n_max) as tell:
        result = run_until(
            lambda _, seeds: trials.run(parts, seeds, "steered"),
            lambda _, seeds: trials.run((), seeds, "unsteered"),
            test, measure, batch=batch, first_seed=first_seed, tell=tell,
        )  # fmt: skip
    if out is not None:
        write_table(out / "episodes.parquet", result.episodes)
        write_json(
            out / "results.json", {**result.to_dict(), "design": asdict(test.design), "asked": trials.describe()}
        )
    if json:
        print(dumps(result.to_dict()))
        return
    OUT.print(str(result), markup=False)
