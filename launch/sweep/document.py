"""`sweep.yaml`: what is tried, on what, and what is measured. Every mistake is told with its line.

    sweep: 1
    policy: tiny-vla                          # or {name: ..., options of its family}
    parts:                                    # as in a recipe; or `recipe: slow.yaml` for policy and parts of a recipe
      - add: slow.safetensors                 # files lie beside the sweep
        strength: 0.2
    tasks: [PutBowlOnPlate, PutBlockOnPlate]
    seeds: 0-19                               # or a list of numbers; a seed names its task as well as its layout
    measures: [ee_speed, success]
    num_envs: 10                              # episodes side by side: part of the trial, since batched numerics depend on it
    max_steps: 120
    vary:
      layer: [3, 6, 9]                        # short words: layer, strength, direction (of the only part), control, task, seed
      strength: [-0.4, 0, 0.4]
      control: [none, random 0, random 1]
      payload: {path: env.shift.payload, values: [0, 1]}     # anything else by its dotted path
    search: grid                              # {random: 40, seed: 0}; {adaptive: 40, sampler: tpe, round: 8, seed: 0}
    maximise: ee_speed                        # or minimise: what adaptive search and `test` go by
    test: {best: 3, seeds: 100-149}           # the best, measured again on seeds that chose nothing
    resources: {num_cpus: 1, num_gpus: 0.25}  # of one worker

Ranges, for random and adaptive search: `strength: {from: -1, to: 1}`, with `log: true` or `integer: true`. Every trial that steers has
the unsteered one beside it (`baseline: false` leaves it out).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from launch.sweep.plan import Sweep, Test, path_of, placed, seeds_of
from launch.sweep.space import SAMPLERS, Axis
from launch.sweep.trial import control_of, recipe_of
from launch.trials import environment_id
from policies.errors import BadInput, NonFinite, SteerError
from steer_agents import recipe as recipes
from steer_agents import yaml_nodes as nodes
from steer_agents.evaluation.measures import Measure
from steer_agents.recipe.parts import read_part
from steer_agents.yaml_nodes import Node

VERSION = 1
_KEYS = (
    "sweep", "about", "policy", "recipe", "parts", "control", "tasks", "env", "seeds", "measures", "num_envs", "max_steps", "vary",
    "search", "maximise", "minimise", "baseline", "test", "resources",
)  # fmt: skip
_TAKEN = ("number", "role", "round", "trial", "status", "error", "episodes", "errored", "seconds", "measure", "mean", "low", "high",
          "n", "effect", "effect_low", "effect_high", "description")  # fmt: skip
_FLOAT = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+")
"""What YAML 1.1 takes for a text: 1e-3."""


def load(path: str | Path) -> Sweep:
    """Read a sweep from a file.

    Raises:
        BadInput: no such file, or see `parse`.
    """
    path = Path(path).expanduser()
    if not path.is_file():
        raise BadInput(f"sweep: {path} is not a file; docs/examples/sweep.yaml is one to begin with.")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BadInput(f"sweep: {path} is not a text file: {error}.") from None
    return parse(text, path.parent, path.name)


def parse(text: str, folder: str | Path = ".", name: str = "sweep.yaml") -> Sweep:
    """Check a sweep and find the files that it names.

    Args:
        folder: where its files lie.
        name: for messages.
    Raises:
        BadInput, NonFinite, UnknownName: not YAML, an unknown word, a missing or wrong setting, a missing file; with the line.
    """
    root = nodes.compose(text, f"sweep {name}")
    if root is None:
        raise BadInput(f"sweep {name}: it is empty; a sweep has {', '.join(_KEYS)}.")
    entries = nodes.mapping(root, "a sweep", _KEYS)
    if "sweep" not in entries or nodes.integer(entries["sweep"], "sweep") != VERSION:
        raise nodes.fail(
            entries.get("sweep", root), f"a sweep begins with `sweep: {VERSION}`, the version of its format."
        )
    for needed in ("tasks", "seeds", "vary"):
        if needed not in entries:
            raise nodes.fail(root, f"a sweep needs {needed}.")
    reading = _Reading(Path(folder), entries)
    settings = reading.settings(root)
    objective = reading.objective()
    axes = tuple(reading.axis(key, node, settings) for key, node in nodes.mapping(entries["vary"], "vary").items())
    if not axes:
        raise nodes.fail(entries["vary"], "vary holds nothing; a sweep varies at least one thing.")
    measures = [*settings["measures"]]
    if objective is not None and objective[0] not in measures:
        measures.append(objective[0])
    settings = {**settings, "measures": measures or ["success"]}
    sweep = Sweep(
        settings, axes, reading.search(objective), objective,
        nodes.boolean(entries["baseline"], "baseline") if "baseline" in entries else True,
        reading.test(objective), reading.resources(), reading.files,
    )  # fmt: skip
    reading.check(sweep)
    return sweep


class _Reading:
    """The entries of a sweep, one by one; collects the files that are named."""

    def __init__(self, folder: Path, entries: Mapping[str, Node]) -> None:
        self.folder, self.entries = folder, entries
        self.files: dict[str, Path] = {}
        self.places: dict[str, Node] = {}

    def settings(self, root: Node) -> dict[str, Any]:
        policy, parts = self._policy_and_parts(root)
        entries = self.entries
        measures = nodes.list_of(nodes.text)(entries["measures"], "measures") if "measures" in entries else ()
        for measure in measures:
            _at(entries["measures"], Measure.of, measure)
        whole = {
            key: nodes.integer(entries[key], key) for key in ("num_envs", "max_steps") if key in entries
        }  # fmt: skip
        for key, value in whole.items():
            if value < 1:
                raise nodes.fail(entries[key], f"{key} must be at least 1, got {value}.")
        env = nodes.plain(entries["env"]) if "env" in entries else {}
        if not isinstance(env, dict):
            raise nodes.fail(entries["env"], f"env must be a mapping of options of the environment, got {env!r}.")
        made: dict[str, Any] = {
            "policy": policy, "parts": parts, "control": _plain(entries["control"]) if "control" in entries else "none",
            "tasks": list(nodes.list_of(nodes.text)(entries["tasks"], "tasks")), "env": env,
            "seeds": list(_at(entries["seeds"], seeds_of, nodes.plain(entries["seeds"]))), "measures": list(measures),
            "num_envs": whole.get("num_envs", 16), "max_steps": whole.get("max_steps"),
        }  # fmt: skip
        for task in made["tasks"]:
            _at(entries["tasks"], environment_id, task)
        if "control" in entries:
            _at(entries["control"], control_of, made["control"])
        return made

    def _policy_and_parts(self, root: Node) -> tuple[dict[str, Any], list[Any]]:
        entries = self.entries
        if "recipe" in entries:
            if twice := [key for key in ("policy", "parts") if key in entries]:
                raise nodes.fail(
                    entries[twice[0]], f"{twice[0]} is in the recipe; give the recipe, or policy and parts."
                )
            path = self._where(entries["recipe"], "recipe", keep=False)
            found = _at(entries["recipe"], recipes.load, path)
            self.files |= found.files
            if not found.policy:
                raise nodes.fail(entries["recipe"], "the recipe names no policy; give policy and parts here.")
            tree = nodes.mapping(nodes.compose(found.text, "recipe"), "a recipe")
            parts = nodes.plain(tree["parts"]) if "parts" in tree else []
            return {"name": found.policy, **found.options}, parts
        if "policy" not in entries:
            raise nodes.fail(root, "a sweep needs policy, or recipe.")
        said = nodes.plain(entries["policy"])
        policy = said if isinstance(said, dict) else {"name": nodes.text(entries["policy"], "policy")}
        if not isinstance(policy.get("name"), str):
            raise nodes.fail(entries["policy"], "policy needs a name, e.g. {name: flow-medium}.")
        items = nodes.items(entries["parts"], "parts") if "parts" in entries else []
        for node in items:
            read_part(node, self._where)
        return policy, [_plain(node) for node in items]

    def _where(self, node: Node, what: str, keep: bool = True) -> Path:
        given = nodes.text(node, what)
        path = self.folder / Path(given).expanduser()
        if not path.is_file():
            raise nodes.fail(node, f"{what}: there is no file {given!r} beside the sweep ({path}).")
        if keep:
            self.files[given] = path
        return path

    def axis(self, name: str, node: Node, settings: Mapping[str, Any]) -> Axis:
        self.places[name] = node
        if name in _TAKEN or name in settings["measures"]:
            raise nodes.fail(node, f"{name!r} is a column of the tables; call the axis otherwise, and give its path.")
        options: dict[str, Any] = {}
        if isinstance(node, yaml.MappingNode):
            found = nodes.mapping(node, f"axis {name!r}", ("path", "values", "from", "to", "log", "integer"))
            said = nodes.text(found["path"], "path") if "path" in found else name
            if ("values" in found) == ("from" in found or "to" in found) or ("from" in found) != ("to" in found):
                raise nodes.fail(node, f"axis {name!r} has either values, or from and to.")
            values_at = found.get("values")
            if values_at is None:
                options = {
                    "low": nodes.number(found["from"], "from"), "high": nodes.number(found["to"], "to"),
                    **{key: nodes.boolean(found[key], key) for key in ("log", "integer") if key in found},
                }  # fmt: skip
            elif extra := [key for key in ("log", "integer") if key in found]:
                raise nodes.fail(node, f"{extra[0]} belongs to a range, and axis {name!r} has values.")
        else:
            said, values_at = name, node
        if values_at is not None:
            options = {"values": tuple(_plain(item) for item in nodes.items(values_at, f"values of {name!r}"))}
            if not options["values"]:
                raise nodes.fail(values_at, f"axis {name!r} has no values.")
        path = _at(node, lambda: path_of(said, settings))
        axis: Axis = _at(node, lambda: Axis(name, path, **options))
        return axis

    def objective(self) -> tuple[str, bool] | None:
        said = [key for key in ("maximise", "minimise") if key in self.entries]
        if not said:
            return None
        if len(said) == 2:
            raise nodes.fail(self.entries["minimise"], "give maximise or minimise, not both.")
        measure = nodes.text(self.entries[said[0]], said[0])
        _at(self.entries[said[0]], Measure.of, measure)
        return measure, said[0] == "maximise"

    def search(self, objective: tuple[str, bool] | None) -> dict[str, Any]:
        node = self.entries.get("search")
        if node is None:
            return {"kind": "grid"}
        if isinstance(node, yaml.ScalarNode):
            return {"kind": nodes.choice("grid")(node, "search without a number of trials")}
        found = nodes.mapping(node, "search", ("random", "adaptive", "seed", "sampler", "round"))
        kinds = [key for key in ("random", "adaptive") if key in found]
        if len(kinds) != 1:
            raise nodes.fail(node, "search is grid, {random: COUNT} or {adaptive: COUNT}.")
        made: dict[str, Any] = {"kind": kinds[0], "count": nodes.integer(found[kinds[0]], kinds[0])}
        made["seed"] = nodes.integer(found["seed"], "seed") if "seed" in found else 0
        if kinds[0] == "random" and (extra := [key for key in ("sampler", "round") if key in found]):
            raise nodes.fail(found[extra[0]], f"{extra[0]} belongs to adaptive search.")
        if kinds[0] == "adaptive":
            if objective is None:
                raise nodes.fail(node, "adaptive search needs maximise or minimise, a measure.")
            made["sampler"] = nodes.choice(*SAMPLERS)(found["sampler"], "sampler") if "sampler" in found else "tpe"
            made["round_size"] = nodes.integer(found["round"], "round") if "round" in found else 8
        if min(made["count"], made.get("round_size", 1)) < 1 or made["seed"] < 0:
            raise nodes.fail(node, "search: counts are from 1 and the seed from 0.")
        return made

    def test(self, objective: tuple[str, bool] | None) -> Test | None:
        if "test" not in self.entries:
            return None
        node = self.entries["test"]
        found = nodes.mapping(node, "test", ("best", "seeds"))
        if "seeds" not in found or objective is None:
            raise nodes.fail(
                node, "test needs seeds, and the sweep maximise or minimise, to know which trials are best."
            )
        best = nodes.integer(found["best"], "best") if "best" in found else 1
        if best < 1:
            raise nodes.fail(found["best"], f"best must be at least 1, got {best}.")
        return Test(best, _at(found["seeds"], seeds_of, nodes.plain(found["seeds"])))

    def resources(self) -> dict[str, float]:
        if "resources" not in self.entries:
            return {}
        found = nodes.mapping(self.entries["resources"], "resources", ("num_cpus", "num_gpus"))
        made = {key: nodes.number(node, key) for key, node in found.items()}
        for key, value in made.items():
            if value < 0 or (value > 1 and value != int(value)):
                raise nodes.fail(found[key], f"{key} is a fraction of one, or a whole number; got {value:g}.")
        return made

    def check(self, sweep: Sweep) -> None:
        """Every value in its place, alone; and the seeds of search and test apart."""
        middle = {axis.name: axis.values[0] if axis.values else axis.low for axis in sweep.axes}
        tested = set(sweep.test.seeds) if sweep.test else set()
        for axis in sweep.axes:
            node = self.places[axis.name]
            for value in axis.values or (axis.low, axis.high):
                value = int(value) if axis.integer and not axis.values else value

                def tried(value: Any = value, axis: Axis = axis) -> dict[str, Any]:
                    settings = placed(sweep.settings, sweep.axes, {**middle, axis.name: value})
                    if settings["parts"]:
                        self.files |= recipe_of(settings, self.folder).files
                    return settings

                settings = _at(node, tried, before=f"{axis.name} = {value!r}: ")
                if both := sorted(tested & set(settings["seeds"])):
                    raise nodes.fail(
                        self.entries["test"], f"seeds {both[:5]} are of search and test; what chooses must not judge."
                    )
        if sweep.search["kind"] == "grid":
            _at(self.entries["vary"], sweep.searching)


def _plain(node: Node) -> Any:
    """As `nodes.plain`; 1e-3 is a number, which YAML takes for a text."""

    def mended(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: mended(item) for key, item in value.items()}
        if isinstance(value, list):
            return [mended(item) for item in value]
        return float(value) if isinstance(value, str) and _FLOAT.fullmatch(value) else value

    return mended(nodes.plain(node))


def _at(node: Node, make: Any, *arguments: Any, before: str = "") -> Any:
    """What a function makes; its errors are told with the line of the node."""
    try:
        return make(*arguments)
    except NonFinite as error:
        raise NonFinite(f"{node.start_mark.name}, line {nodes.line(node)}: {before}{error}") from None
    except SteerError as error:
        raise nodes.fail(node, f"{before}{_bare(str(error))}") from None


def _bare(message: str) -> str:
    """Without the line that it had in the text that a trial's parts are put into."""
    return re.sub(r"^recipe of the trial, line \d+: ", "", message)
