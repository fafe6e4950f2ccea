"""`steer-agents find | learn | calibrate | bake`: the method library from the shell, on text files of prompts and files of directions."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tyro

from launch.cli_base import OUT, app, print_rows, training_folder
from launch.method_options import EVERY_LAYER, NO_CONTRAST, READ, Contrast, Place, pair, plain
from policies.errors import BadInput


@app.command(name="find")
def find(
    policy: tyro.conf.Positional[str],
    method: tyro.conf.Positional[str],
    /,
    out: Path,
    contrast: Contrast = NO_CONTRAST,
    place: Place = EVERY_LAYER,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Find a direction from text files of prompts, one prompt per line.

    Args:
        policy: e.g. llm:smollm2-135m.
        method: see `steer-agents methods find`; those that need scenes, pictures or rollouts are for Python.
        out: the .safetensors file to write.
        set: further arguments of the method, name=value; a value that names prompts or a direction is a file.
        json: print the header as JSON.
    """
    from launch.cli import show
    from steer_agents.finding import FINDING

    _made(policy, method, FINDING, vars(contrast), set, place).save(out)
    show(out, json=json)


@app.command(name="learn")
def learn(
    policy: tyro.conf.Positional[str],
    method: tyro.conf.Positional[str],
    /,
    out: Path,
    contrast: Contrast = NO_CONTRAST,
    folder: Path | None = None,
    place: Place = EVERY_LAYER,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Learn a direction, a map, a controller or an autoencoder on a frozen model.

    Args:
        policy: e.g. llm:smollm2-135m.
        method: see `steer-agents methods learn`.
        out: the .safetensors file to write.
        folder: that keeps the run; by default one beside `out` that lasts until it is written. The same command goes on after a kill.
        set: further arguments, name=value: settings='{"steps": 100}', triples=FILE.json (a list of [prompt, wanted, unwanted]),
            plan='{"n_features": 512}' ...
        json: print for programs.
    """
    from steer_agents import methods
    from steer_agents.sae import files as sae_files
    from steer_agents.sae.model import Sae

    learns = inspect.signature(methods.method(method, "learn").load()).parameters
    with training_folder(folder, out) as kept:
        files = {**vars(contrast), "folder": kept if folder or "folder" in learns else None}
        made = _made(policy, method, ("learn",), files, set, place)
        path = sae_files.save(made, out) if isinstance(made, Sae) else made.save(out)
    print_rows([{"method": method, "holds": type(made).__name__, "file": str(path or out)}], "learned", json)


@app.command(name="calibrate")
def calibrate(
    policy: tyro.conf.Positional[str],
    method: tyro.conf.Positional[str],
    /,
    direction: Path | None = None,
    out: Path | None = None,
    contrast: Contrast = NO_CONTRAST,
    inputs: Path | None = None,
    place: Place = EVERY_LAYER,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Choose layers, a strength, or a value that a direction then carries.

    Args:
        policy: e.g. llm:smollm2-135m.
        method: see `steer-agents methods calibrate`; those that call a measure of yours are for Python.
        direction: its file.
        out: where the direction is written with the values that it now carries.
        inputs: ordinary prompts, one per line.
        set: further arguments, name=value: q=25, probability=0.9, epsilon=1e-3 ...
        json: print for programs.
    """
    from steer_agents.calibrate.reports import Layers, Values

    files = {"direction": direction, **vars(contrast), "inputs": inputs}
    found = _made(policy, method, ("calibrate",), files, set, place)
    if isinstance(found, Values):
        rows = [{"location": key, found.name: value} for key, value in found.values.items()]
        if out is not None:
            found.direction.save(out)
    elif isinstance(found, Layers):
        rows = [{"location": key, "score": score} for key, score in found.scores.items()]
        rows = [{**row, "chosen": int(str(row["location"]).split(".")[-2]) in found.layers} for row in rows]
    else:
        rows = [{"strength": float(found.value), "unit": found.unit}]
    print_rows(rows, f"{method} on {policy}", json)


@app.command(name="bake")
def bake(
    source: tyro.conf.Positional[str],
    method: tyro.conf.Positional[str] = "bake",
    /,
    *,
    out: Path,
    direction: Path | None = None,
    contrast: Contrast = NO_CONTRAST,
    inputs: Path | None = None,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Write steering into weights, and the model as a folder that stock transformers load.

    Args:
        source: with "bake" a recipe, whose constant edits are folded in; with casal or steer2edit a policy.
        method: see `steer-agents methods bake`.
        out: a new or empty folder.
        direction: of casal.
        inputs: of steer2edit.
        set: further arguments, name=value: mlp=FILE.safetensors, rho_mlp=0.5 ...
        json: print for programs.
    """
    from steer_agents.baking import bake as fold
    from steer_agents.baking.export import export

    if method == "bake":
        from launch import steered

        one = steered.load(source)
        if one.steerer is None:
            raise BadInput(f"bake: {source} has no parts; there is nothing to write into the weights.")
        baked: Any = fold(one.policy, one.steerer)
    else:
        files = {"direction": direction, **vars(contrast), "inputs": inputs}
        baked = _made(source, method, ("bake",), files, set, None)
    made = export(baked, out)
    told = {
        "folder": str(made.folder),
        "tensors": made.n_tensors,
        "biases turned on": ", ".join(made.switches) or "none",
    }
    print_rows([told], f"{method}: {source}", json)
    if not json:
        OUT.print(f'load it with transformers: AutoModelForCausalLM.from_pretrained("{made.folder}")', markup=False)


def _made(
    policy: str,
    method: str,
    kinds: tuple[str, ...],
    files: Mapping[str, Path | None],
    given: tuple[str, ...],
    place: Place | None,
) -> Any:
    """Call a method on a policy with what the command line says of it."""
    import policies
    from steer_agents import methods

    function = methods.method(method, *kinds).load()
    parameters = inspect.signature(function).parameters
    loaded = policies.load(policy)
    asked = {name: str(path) for name, path in files.items() if path is not None} | dict(map(pair, given))
    options = {name: READ.get(name, plain)(loaded, text) for name, text in asked.items()}
    if place is not None and "site" in parameters and "direction" not in parameters:
        options["site"] = place.site
    if "measure" in parameters:
        raise BadInput(
            f"{method} calls a measure of yours; use it from Python: {function.__module__}.{function.__name__}."
        )
    if "target" not in parameters:
        return function(**options)
    return methods.call(kinds[0], loaded, method, kinds, options)
