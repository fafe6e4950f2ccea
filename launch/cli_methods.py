"""`steer-agents methods`: what the library knows, with its sources; `methods compare`: what it does on one policy and one concept."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import tyro

from launch.cli_base import OUT, app, dumps, print_rows
from policies.errors import BadInput, nearest


@app.command(name="methods")
def methods(kind: tyro.conf.Positional[str] = "all", /, json: bool = False) -> None:
    """Every method: name, kind, paper, needs, works on, cost; or `methods compare`, which runs them (see its own --help).

    Args:
        kind: find, learn, control, apply, calibrate, bake, train, judge, or all; compare takes options of its own.
        json: print for programs.
    """
    from steer_agents.methods import KINDS, METHODS

    if kind != "all" and kind not in KINDS:
        raise BadInput(f"methods: kind {kind!r} is unknown{nearest(kind, ['all', 'compare', *KINDS])}")
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
    print_rows(rows, f"{len(rows)} methods", json, whole=("name", "kind"))


def compare(
    concept: str = "slow",
    policy: str = "",
    methods: tuple[str, ...] = (),
    quick: bool = False,
    json: bool = False,
    out: Path | None = None,
) -> None:
    """Run every method that fits a policy and a concept under one protocol, and rank them.

    Layer, strength and gate of each are chosen on layouts of their own, then all are tested on the same further ones, paired with the
    unsteered policy, beside random directions and the words in the prompt. The same command goes on after an interruption.

    Args:
        concept: slow or fast (of a VLA), brief (of a language model's answers), explore (of a language model in a bandit).
        policy: as `policies.load` takes it, e.g. smol-vla-135m; the concept's own by default: tiny-vla, or llm:smollm2-135m.
        methods: names of `steer-agents methods`; all of them by default. The difference of means is always among them.
        quick: few episodes, one strength, learning cut short: shows that everything works, not how well.
        json: print results.json instead of tables.
        out: folder for results; runs/methods-POLICY-CONCEPT by default, with -quick behind it for quick runs.
    """
    from launch.experiments import methods_bench
    from launch.experiments.base import Say, write_outcome

    settings = methods_bench.complete(
        replace(methods_bench.settings(quick), policy=policy, concept=concept, methods=methods)
    )
    policy = settings.policy
    name = f"methods-{policy}-{concept}{'-quick' if quick else ''}".replace("/", "-").replace(":", "-")
    folder = out or Path("runs") / name
    folder.mkdir(parents=True, exist_ok=True)
    options = [
        f"--policy {policy}",
        f"--concept {concept}",
        *(["--methods", *methods] if methods else []),
        *["--quick"] * quick,
    ]
    began = time.time()
    outcome = methods_bench.run(settings, folder, Say())
    command = f"steer-agents methods compare {' '.join(options)}"
    results = write_outcome(folder, "methods-bench", outcome, settings, command, time.time() - began, quick)
    if json:
        print(dumps(results))
        return
    print_rows([_row(one) for one in results["conditions"]], outcome.title, False, whole=("name",))
    left_out = [{"method": name, "why it was not run": why} for name, why in results["left_out"].items()]
    if left_out:
        print_rows(left_out, f"{len(left_out)} not run by themselves", False, whole=("method",))
    OUT.print(outcome.verdict, markup=False)
    OUT.print(f"\nreport: {folder / 'report.html'}", markup=False, soft_wrap=True)


def _row(one: dict[str, Any]) -> dict[str, Any]:
    """A row of the ranking as it is shown."""

    def percent(value: float | None) -> str:
        return "-" if value is None else f"{100 * value:+.0f}"

    seconds = None if one["finding_s"] is None else f"{one['finding_s']:.0f} + {one['choosing_s']:.0f}"
    return {
        "name": one["name"],
        "change %": f"{percent(one['value'])} ({percent(one['low'])} to {percent(one['high'])})",
        "success": f"{100 * one['success']:.0f} ({percent(one['success_change'])})",
        "": "breaks" if one["broken"] else "ties with the best method" if one["tie"] else "",
        "at": one["at"],
        "seconds": seconds,
    }
