"""`steer-agents sweep`."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import tyro
from rich.console import Console

from launch.cli_base import OUT, app, dumps, print_rows
from steer_agents.progress import bar


@app.command(name="sweep")
def sweep_(
    path: tyro.conf.Positional[Path],
    /,
    out: Path | None = None,
    backend: Literal["local", "ray"] = "local",
    workers: int | None = None,
    address: str | None = None,
    resume: bool = False,
    retry: bool = False,
    json: bool = False,
) -> None:
    """Run many trials: every combination, random ones, or those that a sampler asks for; exit status 1 if a trial failed.

    Args:
        path: sweep.yaml, see launch/sweep/README.md.
        out: folder; runs/sweep/NAME by default, NAME being the file's.
        backend: local (processes of this machine) or ray.
        workers: at once; as many as the machine or the cluster takes by default.
        address: of a Ray cluster, in place of RAY_ADDRESS; without either a Ray of its own on this machine.
        resume: go on with what is in the folder; finished trials are not run again.
        retry: go on, and run failed trials again (not for adaptive search).
        json: print for programs.
    """
    from launch.sweep import document
    from launch.sweep.run import run
    from launch.sweep.workers import Backend
    from policies.errors import BadInput

    if address is not None and backend != "ray":
        raise BadInput("sweep: --address is that of a Ray cluster; add --backend ray.")
    sweep = document.load(path)
    folder = out or Path("runs/sweep") / path.stem

    def made() -> Backend:
        if backend == "ray":
            from launch.sweep.ray_backend import RayBackend

            return RayBackend(sweep.files, workers, sweep.resources, address)
        from launch.sweep.local import Local

        return Local(sweep.files, workers, sweep.resources)

    try:
        with _bar() as say:
            outcome = run(sweep, folder, made, resume, retry, say)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command with --resume goes on where it stopped")
        sys.exit(130)
    measures = [*sweep.settings["measures"]]
    objective = sweep.objective or (measures[0], True)
    _show(outcome, folder, objective, has_objective=sweep.objective is not None, json=json)
    if outcome.failed:
        sys.exit(1)


def _show(outcome: Any, folder: Path, objective: tuple[str, bool], has_objective: bool, json: bool) -> None:
    from launch.sweep.tables import best, square
    from steer_agents.runs import jsonable

    measure, maximise = objective
    trials, axes = outcome.trials, [*outcome.axes]
    columns = ["trial", *axes, "episodes", measure, f"{measure}.low", f"{measure}.high", f"{measure}.effect"]
    chosen = best(trials, measure, maximise, 10, axes)
    top = _rows(chosen, columns) if has_objective else []
    tests = trials[(trials["role"] == "test") & (trials["status"] == "finished")]
    tested = _rows(tests, columns) if len(tests) else []
    failures = _rows(trials[trials["status"] == "failed"], ["trial", "role", *axes, "error"])
    counts = {
        "trials": len(trials),
        "distinct": int(trials["trial"].nunique()),
        "ran": outcome.ran,
        "failed": outcome.failed,
    }
    if json:
        print(dumps(jsonable({"folder": str(folder), **counts, "best": top, "test": tested, "failures": failures})))
        return
    if {"layer", "strength"} <= set(axes):
        print_rows(square(outcome.table, measure), f"{measure}: layer x strength, mean [95 % interval]", False)
    if top:
        print_rows(top, f"best by {measure}, on the seeds that chose them", False)
    if tested:
        print_rows(tested, f"{measure} of the chosen, on other seeds", False)
    if failures:
        shown = [{**row, "error": row["error"].strip().splitlines()[-1]} for row in failures]
        print_rows(shown, "failed; whole tracebacks are in trials.parquet", False)
    OUT.print(
        f"{counts['distinct']} trials, {counts['ran']} of them run now, {counts['failed']} failed; tables: {folder}/trials.parquet, "
        "table.parquet, table.csv", soft_wrap=True, markup=False,
    )  # fmt: skip


def _rows(table: Any, columns: list[str]) -> list[dict[str, Any]]:
    rows: list[Mapping[str, Any]] = table.to_dict("records")
    return [{name: row.get(name) for name in columns} for row in rows]


@contextmanager
def _bar() -> Iterator[Callable[[int, int, int], None]]:
    """A bar on stderr with the time left; yields what to call with (done, of, failed)."""
    with bar("{task.completed:.0f}/{task.total:.0f} trials, {task.fields[failed]} failed") as progress:
        task = progress.add_task("sweep", total=1, failed=0)

        def say(done: int, of: int, failed: int) -> None:
            progress.update(task, completed=done, total=of, failed=failed)

        yield say
