"""`steer-agents deploy`: a recipe file on a robot, with recorder and dashboard where asked for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from launch import served, steered
from launch.robot.contract import FlightSink
from launch.robot.dashboard import Dashboard
from launch.robot.deploy import Deployment, deploy, parse_robot
from launch.robot.operator import Operator
from launch.robot.recorder import Flight, FlightRecorder
from policies.errors import BadInput
from steer_agents import recipe as recipes


def fly(
    path: Path,
    robot: Sequence[str],
    *,
    seconds: float = float("inf"),
    fps: int = 30,
    seed: int = 0,
    instruction: str | None = None,
    strengths: Mapping[str, float] | None = None,
    record: Path | None = None,
    dashboard: bool = False,
    server: str | None = None,
    token_file: Path | None = None,
    dry_run: bool = False,
    yes: bool = False,
    until_success: bool = False,
    console: Console | None = None,
) -> Deployment:
    """See `launch.cli_robot.deploy`, whose arguments these are.

    Raises:
        BadInput: the recipe has no safety envelope; the robot is unknown; what `deploy` raises.
    """
    console = console or Console(stderr=True, highlight=False)
    found = recipes.load(path)
    if found.envelope is None:
        raise BadInput(
            f"{path}: the recipe has no `safety:`, and nothing moves a robot without limits. `steer-agents deploy --example-safety` "
            "prints one for sim_follower to begin with."
        )
    if server is None and not found.policy:
        raise BadInput(f"{path}: the recipe names no policy; write `policy: NAME` (see `steer-agents list policies`).")
    config = parse_robot(robot)
    load = (
        steered.loader(path, strengths) if server is None else served.remote_loader(path, server, token_file, strengths)
    )
    said = instruction if instruction is not None else found.instruction or None

    def watch(operator: Operator) -> list[FlightSink]:
        sinks: list[FlightSink] = []
        if record is not None:
            assert found.envelope is not None
            limits = {name: (limit.low, limit.high) for name, limit in found.envelope.limits.items()}
            knobs = {name: (low, high) for name, (_, low, high) in found.knobs().items()}
            flight = Flight(config.type, fps, said or "", found.policy, found.digest(), limits, knobs)
            sinks.append(FlightRecorder(record, flight))
        if dashboard:
            page = Dashboard(operator).__enter__()
            console.print(f"dashboard: {page.url}", markup=False, soft_wrap=True)
            sinks.append(page)
        return sinks

    return deploy(
        config, load, fps=fps, seconds=seconds, seed=seed, instruction=said, dry_run=dry_run, yes=yes, watch=watch,
        until_success=until_success, console=console,
    )  # fmt: skip
