"""The progress bar of everything that takes long: on stderr, with the time left."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress


def bar(counted: str = "", left: str = "left", behind: str = "", quiet: bool = False) -> Progress:
    """A progress bar on stderr with the time left; in a log only its last state is kept.

    Args:
        counted: shown behind the bar, in rich's form, e.g. "{task.completed:.0f}/{task.total:.0f} episodes".
        left: said before the time left; behind: shown after it.
        quiet: show nothing.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    console = Console(stderr=True, quiet=quiet)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn(counted),
        TimeElapsedColumn(),
        TextColumn(left),
        TimeRemainingColumn(),
        TextColumn(behind),
    )
    return Progress(*columns, console=console, transient=console.is_terminal)
