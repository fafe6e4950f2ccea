"""The command line: `steer-agents list | demos | experiment | recipe | rollout | compare | find | neurons | show | reward | train |
doctor | rebuild`, and what the other modules `cli_*` add.

Every command prints tables for people; `--json` prints the same for programs. A mistake in what was asked gives one clear
message and exit status 2, never a traceback.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import tyro
from rich.console import Console
from rich.markup import escape

from launch import (
    cli_dose,
    cli_judge,
    cli_library,
    cli_methods,
    cli_recipe,
    cli_report,
    cli_robot,
    cli_statistics,
    cli_stress,
    cli_sweep,
    cli_train,
)
from launch.cli_base import OUT, app, dumps, is_recipe, print_rows
from policies.errors import BadInput, SteerError
from steer_agents.methods import METHODS
from steer_agents.progress import bar


@app.command(name="list")
def list_(what: tyro.conf.Positional[str] = "all", /, json: bool = False) -> None:
    """List what there is: policies, environments, methods, experiments, or all of them."""
    import gymnasium as gym

    import envs
    import policies
    from launch.experiments.registry import EXPERIMENTS
    from policies.errors import nearest
    from policies.site_maps import site_maps

    assert envs.__name__  # importing it registers the environments
    tables = {
        "policies": [{"policy": f"{family}:...", "from": where} for family, where in policies.families().items()],
        "environments": [{"environment": name} for name in sorted(gym.registry) if name.startswith("SteerAgents/")],
        "methods": [{"method": name, "kind": one.kind, "from": one.source} for name, one in METHODS.items()],
        "architectures": [
            {
                "architecture": name,
                "models": ", ".join((*found.model_types, *found.classes)),
                "stacks": ", ".join(found.stacks),
            }
            for name, found in site_maps().items()
        ],
        "experiments": [{"experiment": name, "what": entry.summary} for name, entry in EXPERIMENTS.items()],
    }
    if what != "all" and what not in tables:
        raise BadInput(f"list: {what!r} is unknown{nearest(what, ['all', *tables])}")
    chosen = tables if what == "all" else {what: tables[what]}
    if json:
        print(dumps(chosen))
        return
    for title, rows in chosen.items():
        print_rows(rows, title, False)


@app.command
def rebuild(
    name: tyro.conf.Positional[str] = "list", /, out: Path = Path("runs/rebuild"), install: bool = False,
    json: bool = False,
) -> None:  # fmt: skip
    """Make an embedded policy again: data, training, evaluation, model card.

    Args:
        name: a recipe, "all" (but for flow-libero, which needs a process of its own), or "list" to see them.
        out: folder for results.
        install: put weights and card into the package, where `policies.load` finds them.
        json: print for programs.
    """
    from launch.rebuild.registry import RECIPES, run_recipe

    if name == "list":
        rows = [{"recipe": key, "what": r.summary, "minutes": r.minutes} for key, r in RECIPES.items()]
        print_rows(rows, "recipes", json)
        return
    wanted = [key for key, recipe in RECIPES.items() if not recipe.apart]
    made = [run_recipe(one, out, install) for one in (wanted if name == "all" else [name])]
    print_rows([{"policy": path.stem, "weights": str(path)} for path in made], "made", json)


experiment = tyro.extras.SubcommandApp()


@experiment.command(name="list")
def experiment_list(json: bool = False) -> None:
    """List the experiments."""
    list_("experiments", json=json)


@experiment.command(name="run")
def experiment_run(
    name: tyro.conf.Positional[str],
    /,
    quick: bool = False,
    runs: Path = Path("runs"),
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Run an experiment into runs/NAME/ and print its bars.

    Args:
        name: an experiment, see `steer-agents experiment list`.
        quick: fewer episodes and conditions, minutes instead of half an hour.
        set: settings other than its own, e.g. policy=smol-vla-135m "layers=[3, 6, 9]"; the folder's name then gets a key.
        runs: folder for results.
        json: print results.json instead of tables.
    """
    from launch.experiments.base import folder_of, run_experiment

    results = run_experiment(name, quick, runs, changed=set)
    if json:
        print(dumps(results))
        return
    print_rows(
        [{key: _interval(bar[key]) if key == "interval" else bar[key] for key in bar} for bar in results["bars"]],
        "bars",
        False,
    )
    OUT.print(results["verdict"], markup=False)
    OUT.print(f"\nreport: {folder_of(name, quick, runs, set) / 'report.html'}", markup=False, soft_wrap=True)


def _interval(interval: Any) -> str | None:
    return None if interval is None else f"{interval[0]:.3f} to {interval[1]:.3f}"


@app.command(name="rollout")
def rollout_(
    policy: tyro.conf.Positional[str],
    env: tyro.conf.Positional[str],
    /,
    episodes: int = 50,
    seed: int = 0,
    num_envs: int = 16,
    direction: Path | None = None,
    strength: float = 0.0,
    layer: int | None = None,
    temperature: float = 1.0,
    strengths: dict[str, float] | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Run a policy in an environment, steered or not.

    Args:
        policy: e.g. llm:smollm2-135m or bandit:ucb1; or a recipe, slow.yaml or its folder.
        env: an environment id, see `steer-agents list environments`.
        episodes: how many.
        seed: of the run; equal seeds give pairs of episodes.
        num_envs: episodes per batch.
        direction: a direction file to add.
        strength: relative dose alpha of the direction.
        layer: use only this layer of the direction.
        temperature: of the decision.
        strengths: of a recipe's parts, in place of its own: --strengths slow 0.2.
        out: run folder; an interrupted run goes on there.
        json: print the mean of every measure as JSON.
    """
    import policies
    from launch.trials import environment_id
    from steer_agents.decisions import Temperature
    from steer_agents.direction import Direction
    from steer_agents.interventions import Add
    from steer_agents.loop import rollout
    from steer_agents.steerer import Steerer

    env = environment_id(env)
    parts: list[Any] = []
    if is_recipe(policy):
        if direction is not None or strength or temperature != 1.0:
            raise BadInput(
                "rollout: a recipe says all of its steering; leave out --direction, --strength and --temperature."
            )
        from launch.steered import load

        steered = load(policy, strengths)
        acting, parts = steered.policy, [one.part for one in steered.recipe.parts]
    else:
        if strengths:
            raise BadInput("rollout: --strengths are those of a recipe's parts; use --strength for a direction.")
        acting = policies.load(policy)
    if direction is not None:
        found = Direction.load(direction)
        parts.append(Add(found if layer is None else found.at(layer), strength=strength))
    elif strength:
        raise BadInput(f"rollout: --strength {strength} needs --direction FILE, the direction to add.")
    if temperature != 1.0:
        parts.append(Temperature(temperature))
    import gymnasium as gym

    from envs.bandits.metrics import episode_measures

    is_bandit = env in gym.registry and "bandits" in str(gym.spec(env).entry_point)
    measures = episode_measures if is_bandit else None
    result = rollout(
        env, acting, Steerer(*parts) if parts else None, episodes=episodes, seed=seed, num_envs=num_envs, run=out,
        measures=measures,
    )  # fmt: skip
    if json:
        numbers = result.episodes.drop(columns=["episode", "seed"]).mean(numeric_only=True)
        print(dumps({name: None if value != value else value for name, value in numbers.items()}))
        return
    OUT.print(str(result), markup=False)
    numbers = result.episodes.drop(columns=["episode", "seed"]).select_dtypes("number")
    print_rows(
        [{"measure": name, "mean": float(numbers[name].mean()), "sd": float(numbers[name].std())} for name in numbers],
        "episodes",
        False,
    )


@app.command(name="demos")
def demos(
    where: tyro.conf.Positional[str],
    /,
    episodes: int = 50,
    root: Path | None = None,
    obs_type: str = "pixels_agent_pos",
    noise: float = 0.2,
    seed: int = 0,
    style: str = "none",
    camera_size: int = 96,
    videos: bool = False,
    push: str | None = None,
    json: bool = False,
) -> None:
    """Record demonstrations of a scripted expert into a LeRobotDataset: noisy in execution, clean in their labels.

    Args:
        where: a task, e.g. PutBowlOnPlate, or a suite: spatial, object, goal, long.
        episodes: successful ones per task; failed ones are dropped and counted.
        root: folder to make, runs/demos/NAME by default.
        obs_type: pixels_agent_pos (two cameras) or state.
        noise: standard deviation of the executed noise, 1 being the largest action.
        seed: of everything drawn.
        style: none, slowly, quickly, low, high, gently or firmly: acted out, and added to the instruction.
        camera_size: height and width of the pictures in pixels.
        videos: store pictures as mp4: smaller, lossy.
        push: user/name of a Hub dataset to upload to afterwards, private unless it exists.
        json: print the counts as JSON.
    """
    from launch.demos import Demos
    from launch.lerobot_dataset import record

    wanted = Demos(where, episodes, obs_type, noise, seed, style, camera_size)
    name = wanted.name if style == "none" else f"{wanted.name}-{style}"
    with _bar("loading LeRobot", wanted.name, episodes * len(wanted.tasks)) as tell:
        try:
            made = record(wanted, root or Path("runs/demos") / name, videos=videos, push=push, tell=tell)
        except KeyboardInterrupt:
            Console(stderr=True).print("interrupted; nothing was kept, the same command starts anew")
            sys.exit(130)
    if json:
        print(dumps(made))
        return
    print_rows(made["tasks"], f"{made['root']}: {made['megabytes']} MB in {made['seconds']:.0f} s", False)
    OUT.print(
        f"train on it: lerobot-train --dataset.repo_id={made['repo_id']} --dataset.root={made['root']} --policy.type=diffusion "
        "--policy.push_to_hub=false",
        soft_wrap=True, markup=False,
    )  # fmt: skip


@contextmanager
def _bar(first: str, then: str, episodes: int) -> Iterator[Callable[[Any], None]]:
    """A bar on stderr with the time left (in a log only its last state); yields what to call with every episode.

    Args:
        first, then: what is said before and after the first episode.
        episodes: how many to expect.
    """
    with bar("{task.completed:.0f}/{task.total:.0f} episodes, {task.fields[failed]} failed") as progress:
        task, failed = progress.add_task(first, total=episodes, failed=0), 0

        def tell(episode: Any) -> None:
            nonlocal failed
            failed += episode.tries - 1
            progress.update(task, advance=1, failed=failed, description=then)

        yield tell


@app.command(name="compare")
def compare_(
    a: tyro.conf.Positional[Path],
    b: tyro.conf.Positional[Path],
    /,
    measure: str = "return",
    by: str | None = None,
    weights: str = "size",
    json: bool = False,
) -> None:
    """Compare two run folders, paired by seed.

    Args:
        a: run folder.
        b: run folder on the same seeds.
        measure: column to compare.
        by: column that names strata, e.g. task: pooled over them, and one line for each.
        weights: of the strata: size or equal.
        json: print for programs.
    """
    from steer_agents.evaluation.compare import compare
    from steer_agents.loop import Rollout

    result = compare(Rollout.load(a), Rollout.load(b), measure, names=(str(a), str(b)), by=by, weights=weights)
    print(dumps(result.to_dict()) if json else str(result))


@app.command(name="neurons")
def neurons(
    policy: tyro.conf.Positional[str],
    /,
    concept: str | None = None,
    stack: str | None = None,
    layers: tuple[int, int] | None = None,
    top_k: int = 10,
    limit: int = 30,
    min_score: float = 0.08,
    final_norm: bool = False,
    html: Path | None = None,
    out: Path | None = None,
    json: bool = False,
) -> None:
    """Read feed-forward neurons through the policy's vocabulary: what each one writes, in tokens.

    Args:
        policy: e.g. tiny-vla or llm:smollm2-135m.
        concept: a word, e.g. slow; neurons that say it (and not its opposite) come first.
        stack: of the policy, its language by default.
        layers: window START STOP, STOP left out; all by default.
        top_k: tokens per neuron.
        limit: neurons to print.
        min_score: lowest score of a neuron that goes into --out.
        final_norm: weigh by the gain of the final norm.
        html: write a page with all of them, to search and sort.
        out: write the neurons that say the concept as a direction (.safetensors), for SetNeurons.
        json: print for programs.
    """
    import policies
    from steer_agents.finding import find, neuron_page
    from steer_agents.finding.concepts import concept_of
    from steer_agents.finding.value_vectors import neuron_table
    from steer_agents.sites import steerable

    if out is not None and concept is None:
        raise BadInput("neurons: --out needs --concept WORD, what the neurons shall say.")
    if limit < 1:
        raise BadInput(f"neurons: --limit must be at least 1, got {limit}.")
    target = steerable(policies.load(policy))
    meaning = None if concept is None else concept_of(concept)
    table = neuron_table(target, stack=stack, layers=layers, top_k=top_k, final_norm=final_norm)
    rows = neuron_page.rows(table, neuron_page.ranked(table, meaning)[:limit])
    title = f"{policy}: neurons of {table.stack}" + (f" that say {concept!r}" if concept else "")
    if html is not None:
        neuron_page.write_page(html, table, title, meaning)
    if out is not None:
        find(
            target, "vocabulary", concept=concept, stack=stack, table=table, min_score=min_score, final_norm=final_norm
        ).save(out)
    if not json:
        rows = [{**row, "tokens": " | ".join(row["tokens"])} for row in rows]
    print_rows(rows, f"{title}; {table.n_neurons} in all", json)
    for path in filter(None, (html, out)):
        Console(stderr=True, highlight=False).print(f"written: {path}", markup=False, soft_wrap=True)


@app.command(name="show")
def show(path: tyro.conf.Positional[Path], /, json: bool = False) -> None:
    """Show what a direction file holds."""
    from steer_agents.direction import Direction

    direction = Direction.load(path)
    rows = [
        {
            "site": key,
            "shape": "x".join(map(str, vector.shape)),
            **{name: float(value) for name, value in direction.statistics.get(key, {}).items()},
        }
        for key, vector in direction.vectors.items()
    ]
    if json:
        print(
            dumps(
                {
                    "method": direction.method,
                    "model": dict(direction.model),
                    "info": dict(direction.info),
                    "sites": rows,
                }
            )
        )
        return
    model = ", ".join(f"{name} {value}" for name, value in direction.model.items())
    print_rows(rows, f"{path}: {direction.method}; made on {model or 'an unknown model'}", False)


@app.command(name="reward")
def reward(
    path: tyro.conf.Positional[Path | None] = None, /, task: str | None = None, seed: int = 0, json: bool = False
) -> None:
    """Check a reward program and show what it asks; without one, print the language.

    Args:
        path: a YAML or JSON file, see steer_agents/guidance/README.md.
        task: of the tabletop: check that it has what the program names, and evaluate it where the task begins.
        seed: of the layout.
        json: print JSON instead of a table.
    """
    from launch.reward_check import reward_rows
    from steer_agents.guidance.endpoint import manual

    if path is None:
        print(manual())
        return
    print_rows(reward_rows(path, task, seed), f"{path}: {'' if task is None else f'on {task}, '}sound", json)


@app.command(name="train")
def train_(
    policy: tyro.conf.Positional[str],
    env: tyro.conf.Positional[str],
    /,
    out: Path,
    variant: str = "sac",
    preset: str = "recommended",
    env_steps: int = 20_000,
    seed: int = 0,
    noise_map: str = "full",
    bound: float = 1.5,
    reward: str = "penalty",
    num_envs: int = 8,
    episodes: int = 40,
    evaluate_every: int = 5_000,
    max_steps: int | None = None,
    shift: dict[str, float] | None = None,
    patience: int | None = 3,
    checkpoint_minutes: float = 5.0,
    tensorboard: bool = False,
    json: bool = False,
) -> None:
    """Learn which noise a flow or diffusion policy should start from (DSRL); the same command goes on after an interruption.

    Or `train steer-reweight | contrastive-value | mentor`, which take options of their own (see their --help).

    Args:
        policy: e.g. flow-medium.
        env: an environment id, e.g. SteerAgents/PutBowlOnPlate-v0.
        out: folder of the run; the noise policies are noise_policy.safetensors (the last) and best.safetensors.
        variant: sac, or na (noise-aliased).
        preset: recommended, or paper.
        env_steps: of training.
        seed: of training.
        noise_map: full, repeat, dct:2, interpolated:3.
        bound: of the noise, in standard deviations.
        reward: penalty (-1 per step without success), or env.
        num_envs: environments side by side.
        episodes: of every evaluation; twice as many in the end.
        evaluate_every: env steps between evaluations.
        max_steps: time limit of an episode; the environment's own if not given.
        shift: axis and size pairs of the tabletop, e.g. object_position 0.5.
        patience: evaluations without gain until training stops.
        checkpoint_minutes: between checkpoints.
        tensorboard: also log for TensorBoard.
        json: print results.json.
    """
    from launch.train import train
    from launch.trials import environment_id

    results = train(
        policy, environment_id(env), out, variant, preset, env_steps, seed, noise_map, bound, reward, num_envs, episodes, evaluate_every,
        max_steps, shift, patience, checkpoint_minutes, tensorboard, progress=not json,
    )  # fmt: skip
    if json:
        print(dumps(results))
        return
    print_rows(results["rows"], "held-out starts", False)
    OUT.print(f"noise policies: {out}", soft_wrap=True)


@app.command(name="doctor")
def doctor(policy: tyro.conf.Positional[str], /, calls: int = 1000, json: bool = False) -> None:
    """Check on your own model that steering does what it says: sites fire, zero is zero, rows stay apart, memory does not grow.

    Args:
        policy: e.g. llm:smollm2-135m or llm:<folder>.
        calls: forward passes of the memory check.
        json: print the checks as JSON.
    """
    from dataclasses import asdict

    import policies
    from steer_agents.doctor import examine, render
    from steer_agents.runs import jsonable

    checks = examine(policies.load(policy), n_calls=calls)
    if json:
        print(dumps(jsonable([asdict(check) for check in checks])))
    else:
        OUT.print(render(checks))
    if any(check.passed is False for check in checks):
        sys.exit(1)


@app.command(name="libero-table")
def libero_table(
    fill: str | None = None,
    suite: str = "spatial",
    episodes: int | None = None,
    out: Path = Path("runs/libero-table"),
    json: bool = False,
) -> None:
    """LIBERO as the papers evaluate it: published figures, and yours beside them.

    Args:
        fill: evaluate this model first (on a machine with its weights and hf-libero).
        suite: goal, spatial, object or 10.
        episodes: a task, 1 to 50; as published unless given.
        out: where results are kept.
        json: print the table as JSON.
    """
    from launch import libero_table as module

    if fill is not None:
        module.fill(fill, suite, episodes, out)
    print_rows(module.table(out), "LIBERO, success [%]", json)


assert all(
    (cli_dose, cli_library, cli_methods, cli_report, cli_statistics, cli_stress, cli_sweep)
)  # importing them adds their commands
GROUPS = {"experiment": experiment, "judge": cli_judge.judge, "recipe": cli_recipe.recipe}
"""Words that have commands of their own."""
TRAINERS = tuple(name for name, one in METHODS.items() if one.kind == "train")
"""What may follow `train` in place of a policy whose noise is learned."""


def main() -> None:
    """Entry point of `steer-agents`."""
    try:
        args = cli_robot.robot_arguments()
        if args[:2] == ["methods", "compare"]:
            tyro.cli(cli_methods.compare, prog="steer-agents methods compare", args=args[2:])
        elif args[:1] == ["train"] and args[1:2] and args[1] in TRAINERS:
            cli_train.trainers.cli(prog="steer-agents train", args=args[1:])
        elif args and args[0] in GROUPS:
            GROUPS[args[0]].cli(prog=f"steer-agents {args[0]}", args=args[1:])
        else:
            more = f"With commands of their own: {', '.join(GROUPS)}."
            app.cli(prog="steer-agents", description=f"Steer pretrained policies at run time. {more}", args=args)
    except SteerError as error:
        Console(stderr=True, highlight=False).print(
            f"[bold red]{type(error).__name__}[/]: {escape(str(error))}", soft_wrap=True
        )
        sys.exit(2)
    except KeyboardInterrupt:
        Console(stderr=True).print("interrupted; the same command goes on where it stopped")
        sys.exit(130)


if __name__ == "__main__":
    main()
