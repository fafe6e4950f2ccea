"""`steer-agents methods`: what the library knows, with its sources."""

from __future__ import annotations

import tyro

from launch.cli_base import app, print_rows
from policies.errors import BadInput, nearest


@app.command(name="methods")
def methods(kind: tyro.conf.Positional[str] = "all", /, json: bool = False) -> None:
    """Every method: name, kind, paper, needs, works on, cost.

    Args:
        kind: find, learn, control, apply, calibrate, bake, train, judge, or all.
        json: print for programs.
    """
    from steer_agents.methods import KINDS, METHODS

    if kind != "all" and kind not in KINDS:
        raise BadInput(f"methods: kind {kind!r} is unknown{nearest(kind, ['all', *KINDS])}")
    rows = [
        {
            "name": name,
            "kind": one.kind,
            "paper": one.source,
            "needs": one.needs,
            "works on": one.works_on,
            "cost": one.cost,
        }
        for name, one in METHODS.items()
        if kind in ("all", one.kind)
    ]
    print_rows(rows, f"{len(rows)} methods", json)
