"""`steer-agents deploy | replay | serve | lerobot-server`: from a recipe to an arm.

LeRobot's own robot arguments (`--robot.type=so101_follower --robot.port=...`) are taken as they are.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import tyro

from launch.cli_base import OUT, app, dumps, print_rows
from policies.errors import BadInput

ROBOT = "--robot."


def gathered(args: Sequence[str]) -> list[str]:
    """`--robot.K=V` and `--robot.K V` of a command line as one option `--robot K=V ...`, which tyro can read."""
    rest: list[str] = []
    robot: list[str] = []
    given = iter(args)
    for arg in given:
        if not arg.startswith(ROBOT):
            rest.append(arg)
            continue
        name, equals, value = arg.removeprefix(ROBOT).partition("=")
        robot.append(f"{name}={value if equals else next(given, '')}")
    return [*rest, *(["--robot", *robot] if robot else [])]


@app.command
def deploy(
    recipe: tyro.conf.Positional[Path] = Path("recipe.yaml"),
    /,
    robot: tuple[str, ...] = (),
    seconds: float = float("inf"),
    fps: int = 30,
    seed: int = 0,
    instruction: str | None = None,
    strengths: dict[str, float] | None = None,
    record: Path | None = None,
    dashboard: bool = False,
    server: str | None = None,
    token_file: Path | None = None,
    dry_run: bool = False,
    yes: bool = False,
    until_success: bool = False,
    example_safety: bool = False,
    json: bool = False,
) -> None:
    """Run a recipe on a robot, behind the safety gate.

    Args:
        recipe: recipe file, or its folder; it needs `safety:`.
        robot: LeRobot's arguments, written as there: --robot.type=sim_follower --robot.task=PutBowlOnPlate.
        seconds: how long at most.
        fps: of the control loop.
        seed: of the policy's randomness.
        instruction: what to do, in place of the recipe's.
        strengths: of the recipe's parts, within its limits: --strengths slow 0.2.
        record: folder for the flight recorder; see `steer-agents replay`.
        dashboard: a page on this machine with pictures, gate counters, strength sliders and STOP; its address is printed.
        server: ws://HOST:PORT of `steer-agents serve`, which then infers; the recipe here gives limits and safety.
        token_file: the server's token.
        dry_run: print what would be sent, send nothing.
        yes: ask only for the robot's name instead of the whole checklist.
        until_success: end when a simulated robot says that its task is done.
        example_safety: print a `safety:` for sim_follower and stop.
        json: print what happened for programs.
    """
    if example_safety:
        import yaml

        from launch.robot.sim_envelope import sim_envelope

        print(yaml.safe_dump({"safety": sim_envelope(fps).to_mapping()}, sort_keys=False), end="")
        return
    from dataclasses import asdict

    from launch.robot.flying import fly

    done = fly(
        recipe, [f"{ROBOT}{one}" for one in robot], seconds=seconds, fps=fps, seed=seed, instruction=instruction, strengths=strengths,
        record=record, dashboard=dashboard, server=server, token_file=token_file, dry_run=dry_run, yes=yes, until_success=until_success,
    )  # fmt: skip
    if json:
        from steer_agents.runs import jsonable

        print(dumps(jsonable(asdict(done))))
        return
    rows = [{"what": name, "times": count} for name, count in {**done.counts, **done.inference}.items()]
    if rows:
        print_rows(rows, f"{done.why} after {done.seconds:.1f} s: what the gate and inference did", False)
    if record is not None:
        OUT.print(f"recorded: {record}; look at it with steer-agents replay {record}", markup=False, soft_wrap=True)


@app.command
def replay(
    folder: tyro.conf.Positional[Path],
    /,
    repair: bool = False,
    videos: bool = False,
    report: bool = True,
    json: bool = False,
) -> None:
    """Show a recorded flight: faults, interventions of the gate, strengths over time; writes FOLDER/report.html.

    Args:
        folder: of the flight.
        repair: also make its LeRobotDataset, e.g. after a crash.
        videos: store the dataset's pictures as mp4.
        report: write the page.
        json: print for programs.
    """
    from launch.robot.replay import replay as told
    from steer_agents.runs import jsonable

    found = told(folder, repair=repair, videos=videos, report=report)
    if json:
        print(dumps(jsonable(found)))
        return
    OUT.print(found["verdict"], markup=False, soft_wrap=True)
    for key in ("modes", "interventions", "strengths", "actions"):
        if found.get(key):
            print_rows(found[key], key, False)
    for key in ("report", "dataset"):
        if found.get(key):
            OUT.print(f"{key}: {found[key]}", markup=False, soft_wrap=True)


@app.command
def serve(
    recipe: tyro.conf.Positional[Path],
    /,
    env: str,
    host: str = "127.0.0.1",
    port: int = 8765,
    token_file: Path | None = None,
    clients: int = 1,
    fps: int = 20,
) -> None:
    """Serve a recipe's policy to robots without a GPU: websocket and msgpack, authenticated, no pickle.

    Args:
        recipe: recipe file, or its folder.
        env: the environment whose observation and action the robot has, e.g. SteerAgents/PutBowlOnPlate-v0.
        host: an address of this machine; other than loopback only with --token-file.
        port: 0 takes a free one.
        token_file: the token that clients need; without one it is made now and said once.
        clients: that may come at once.
        fps: actions per second of a chunk.
    """
    from launch.served import servable
    from launch.server.start import serve as run

    run(
        servable(recipe, env, 1 / fps),
        host=host,
        port=port,
        token_file=token_file,
        clients=clients,
        say=lambda text: OUT.print(text, markup=False, soft_wrap=True),
    )


@app.command(name="lerobot-server")
def lerobot_server(
    host: str = "127.0.0.1", port: int = 8080, fps: int = 30, logs: Path = Path("runs/lerobot-server")
) -> None:
    """Start LeRobot's asynchronous inference server with steered policies in it; it unpickles, so it stays on loopback.

    Args:
        host: a loopback address.
        port: 0 takes a free one.
        fps: of the clients.
        logs: folder for LeRobot's logs.
    """
    from launch.lerobot_server import start

    server, bound = start(host, port, fps, logs)
    OUT.print(
        f"LeRobot's inference server at {host}:{bound}, policy type 'steered' included. It unpickles what clients send: keep it on "
        f"loopback, reach it through ssh -L {bound}:127.0.0.1:{bound}. Ctrl-C ends it.", markup=False,
    )  # fmt: skip
    try:
        server.wait_for_termination()
    finally:
        server.stop(1)


def robot_arguments() -> list[str]:
    """This process's arguments, with LeRobot's robot arguments gathered."""
    args = sys.argv[1:]
    if any(arg.startswith(ROBOT) for arg in args) and args[0] != "deploy":
        raise BadInput(f"{ROBOT}... belongs to `steer-agents deploy`, got it with {args[0]!r}.")
    return gathered(args)
