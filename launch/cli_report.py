"""`steer-agents report | export`: finished folders as a page to look at, and as tables for other programs."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import tyro

from launch.cli_base import OUT, app, dumps
from policies.errors import BadInput
from steer_agents.progress import bar


@app.command(name="report")
def report(
    folders: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path | None = None,
    measure: Annotated[str, tyro.conf.arg(metavar="NAME,NAME")] = "",
    videos: int = 0,
    title: str = "",
    question: str = "",
    json: bool = False,
) -> None:
    """Write one self-contained HTML page: of a run, of runs compared with the first, of an experiment, a dose study or a sweep.

    Args:
        folders: of rollout --out; one alone, or the base first and then what is compared with it on the same seeds.
        out: the page; report.html in the last folder by default.
        measure: what is compared, e.g. speed,success; the verdict is about the first.
        videos: so many seeds are played again from their recorded actions and shown side by side.
        title: of the page.
        question: that it answers.
        json: print the verdict as JSON.
    """
    from launch.run_report import report_runs
    from launch.study_report import kind_of, report_study

    if not folders:
        raise BadInput("report: name at least one folder, e.g. steer-agents report runs/unsteered runs/slow.")
    if videos < 0:
        raise BadInput(f"report: --videos must be from 0, got {videos}.")
    place = out or folders[-1] / "report.html"
    command = shlex.join(["steer-agents", *sys.argv[1:]])
    kinds = [kind_of(folder) for folder in folders]
    if set(kinds) == {"run"}:
        measures = [name.strip() for name in measure.split(",") if name.strip()]
        with _told(not json) as tell:
            verdict = report_runs(
                folders,
                place,
                measures=measures,
                videos=videos,
                title=title,
                question=question,
                command=command,
                tell=tell,
            )
    elif len(folders) == 1:
        if videos or measure:
            raise BadInput(f"report: --videos and --measure are for runs; {folders[0]} holds a {kinds[0]}.")
        verdict = report_study(folders[0], place, title=title, question=question, command=command)
    else:
        found = ", ".join(f"{folder} ({kind})" for folder, kind in zip(folders, kinds, strict=True))
        raise BadInput(f"report: only runs are compared; got {found}. Report on the others one by one.")
    size = place.stat().st_size
    if json:
        print(dumps({"report": str(place), "bytes": size, "verdict": verdict}))
        return
    OUT.print(verdict, markup=False)
    OUT.print(f"\nreport: {place} ({size / 1e6:.1f} MB)", markup=False, soft_wrap=True)


@contextmanager
def _told(wanted: bool) -> Iterator[Callable[[str, float], None]]:
    """A bar on stderr with the time left (in a log only its last state); yields what to call with text and share done."""
    with bar(quiet=not wanted) as progress:
        task = progress.add_task("reading", total=1.0)

        def tell(text: str, done: float) -> None:
            progress.update(task, description=text, completed=done)

        yield tell


@app.command(name="export")
def export(
    folder: tyro.conf.Positional[Path],
    target: tyro.conf.Positional[Path],
    /,
    to: str = "csv",
    project: str = "steer-agents",
    name: str = "",
    json: bool = False,
) -> None:
    """Write a run's tables for other programs.

    Args:
        folder: of rollout --out, or of an experiment.
        target: a new folder.
        to: csv, parquet, tensorboard, or wandb (offline unless WANDB_MODE says otherwise).
        project: of Weights & Biases.
        name: of its run; the folder's name by default.
        json: print what was written as JSON.
    """
    from launch.exports import export as write

    made = write(folder, to, target, project=project, name=name)
    files = sorted(str(path) for path in made.rglob("*") if path.is_file())
    if json:
        print(dumps({"folder": str(made), "form": to, "files": files}))
        return
    OUT.print(f"written: {made} ({len(files)} files, {to})", markup=False, soft_wrap=True)
