"""What guided denoising costs: CPU time per chunk over the unsteered sampler, at K = 1 and with particles."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from bench.timing import Spread
from launch.experiments.vls_cost import Cost, latency

WANTED = 2.0
"""Most that a guided chunk may take of an unsteered one, at K = 1."""
ROWS = (1, 8, 25)
"""Episodes side by side."""


@dataclass(frozen=True)
class Costs:
    """(episodes side by side, particles) -> what was measured."""

    of: dict[tuple[int, int], Cost]

    def as_json(self) -> list[dict[str, Any]]:
        """One object per row of the table."""
        return [
            {
                "rows": rows,
                "particles": k,
                **vars(cost),
                "ratio": cost.ratio,
                "bound": {"limit": WANTED, "holds": cost.ratio <= WANTED} if k == 1 else None,
            }
            for (rows, k), cost in self.of.items()
        ]


def measure(rounds: int, calls: int = 20) -> Costs:
    """Guided and unsteered chunks in interleaved rounds."""
    found = {(rows, 1): latency(rows, rounds, calls) for rows in ROWS}
    found[8, 5] = latency(8, rounds, calls, n_particles=5)
    return Costs(found)


def show(console: Console, costs: Costs, rounds: int) -> None:
    """Print one table."""
    table = Table(title=f"guidance, one chunk of flow-unaware; {rounds} rounds", title_justify="left")
    for title in (
        "episodes",
        "particles",
        "unsteered, CPU ms",
        "guided, CPU ms",
        "ratio",
        "quartiles",
        "bound",
        "holds",
    ):
        table.add_column(title, justify="right")
    for (rows, k), cost in costs.of.items():
        spread = Spread.of(cost.ratios)
        bound = (f"<= {WANTED:g}", "yes" if cost.ratio <= WANTED else "NO") if k == 1 else ("", "")
        table.add_row(
            str(rows), str(k), f"{cost.unsteered_ms:.2f}", f"{cost.guided_ms:.2f}", f"{cost.ratio:.2f}",
            f"{spread.low:.2f} to {spread.high:.2f}", *bound,
        )  # fmt: skip
    console.print(table)
