"""What sweep.yaml says, and how its mistakes are told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from launch.sweep.document import parse
from launch.sweep.plan import seeds_of
from policies.errors import BadInput, SteerError
from steer_agents.direction import Direction
from steer_agents.sites import Site

TEXT = """\
sweep: 1
policy: flow-medium
parts:
  - add: some.safetensors
    strength: 0.2
    name: slow
tasks: [PutBowlOnPlate, PressButton]
seeds: 0-3
measures: [ee_speed, success]
num_envs: 2
max_steps: 15
vary:
  layer: [0, 1]
  strength: [-0.5, 0, 0.5]
maximise: ee_speed
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("sweep")
    for number, name in enumerate(("some", "other")):
        generator = torch.Generator().manual_seed(100 + number)
        raw = {f"denoiser.{layer}.block_output": torch.randn(1, 256, generator=generator) for layer in range(3)}
        statistics = {key: {"mean_norm": 3.0} for key in raw}
        Direction.from_raw(raw, Site("block_output"), statistics).save(made / f"{name}.safetensors")
    return made


def test_a_point_is_put_in_its_places(folder: Path) -> None:
    sweep = parse(TEXT, folder)
    trial = sweep.trial({"layer": 1, "strength": -0.5})
    (part,) = trial.settings["parts"]
    assert part["site"] == {"layer": 1}
    assert part["strength"] == -0.5
    assert trial.settings["seeds"] == [0, 1, 2, 3]
    assert "site" not in sweep.settings["parts"][0]
    base = sweep.unsteered(trial)
    assert base is not None
    assert base.settings["parts"] == []
    assert sweep.unsteered(base) is None


def test_the_key_is_that_of_the_description_and_of_the_files(folder: Path) -> None:
    sweep, point = parse(TEXT, folder), {"layer": 1, "strength": 0.5}
    assert sweep.trial(point).key == parse(TEXT.replace("[0, 1]", "[1, 2]"), folder).trial(point).key
    assert sweep.trial(point).key != sweep.trial({**point, "layer": 0}).key
    assert sweep.trial(point).key != sweep.trial(point, seeds=(7,)).key
    assert parse(TEXT.replace("num_envs: 2", "num_envs: 3"), folder).trial(point).key != sweep.trial(point).key
    before, key = (folder / "some.safetensors").read_bytes(), sweep.trial(point).key
    try:
        (folder / "some.safetensors").write_bytes((folder / "other.safetensors").read_bytes())
        assert parse(TEXT, folder).trial(point).key != key
    finally:
        (folder / "some.safetensors").write_bytes(before)


def test_anything_varies_by_its_path(folder: Path) -> None:
    more = (
        "vary:\n  direction: [some.safetensors, other.safetensors]\n  control: [none, random 3]\n  seed: [0-3, 4-7]\n"
        "  task: [PressButton, [PressButton, PutBowlOnPlate]]\n  parts.slow.gate: [{window: [0, 5]}, {window: [0, null]}]\n"
        "  payload: {path: env.shift.payload, values: [0, 1.0]}\n  num_envs: [1, 2]\n  dose: {path: parts.0.strength, values: [1e-1]}\n"
    )
    sweep = parse(TEXT[: TEXT.index("vary:")] + more, folder)
    point = {axis.name: axis.values[-1] for axis in sweep.axes}
    trial = sweep.trial(point)
    assert trial.settings["env"] == {"shift": {"payload": 1.0}}
    assert trial.settings["parts"][0]["gate"] == {"window": [0, None]}
    assert trial.settings["parts"][0]["strength"] == pytest.approx(0.1)
    assert trial.settings["seeds"] == [4, 5, 6, 7]
    assert trial.settings["num_envs"] == 2
    assert list(trial.files) == ["other.safetensors"]
    assert set(sweep.files) == {"some.safetensors", "other.safetensors"}


@pytest.mark.parametrize(
    ("old", "new", "line", "says"),
    [
        ("sweep: 1", "sweep: 2", 1, "sweep: 1"),
        ("tasks:", "taks:", 7, "did you mean 'tasks'"),
        ("[PutBowlOnPlate,", "[PutBowlOnPlatt,", 7, "PutBowlOnPlate"),
        ("some.safetensors", "none.safetensors", 4, "no file 'none.safetensors'"),
        ("strength: 0.2", "strenght: 0.2", 5, "did you mean 'strength'"),
        ("seeds: 0-3", "seeds: [1, 1]", 8, "distinct"),
        ("success]", "success.middle]", 9, "write COLUMN"),
        ("num_envs: 2", "num_envs: 0", 10, "at least 1"),
        ("layer: [0, 1]", "layer: []", 13, "no values"),
        ("layer: [0, 1]", "layr: [0, 1]", 13, "did you mean 'layer'"),
        ("layer: [0, 1]", "parts.fast.strength: [0, 1]", 13, "did you mean 'slow'|Allowed: slow"),
        ("layer: [0, 1]", "layer: [0, one]", 13, "layer = 'one'"),
        ("layer: [0, 1]", "seed: [0-2, x]", 13, "seed = 'x'"),
        ("layer: [0, 1]", "ee_speed: [0]", 13, "column of the tables"),
        ("layer: [0, 1]", "control: [rando 1]", 13, "random SEED"),
        ("layer: [0, 1]", "layer: {from: 0, to: 2, integer: true}", 13, "grid needs lists"),
        ("layer: [0, 1]", "layer: {from: 2, to: 0}", 13, "from a smaller"),
        ("layer: [0, 1]", "layer: {from: 2, values: [1]}", 13, "either values"),
        ("[-0.5, 0, 0.5]", "[-0.5, .nan]", 14, "finite"),
        ("maximise: ee_speed", "search: random", 15, "grid"),
        ("maximise: ee_speed", "search: {adaptive: 9}", 15, "maximise or minimise"),
        ("maximise: ee_speed", "search: {random: 9, sampler: tpe}", 15, "adaptive"),
        ("maximise: ee_speed", "maximise: ee_speed\nsearch: {adaptive: 9, sampler: tpee}", 16, "did you mean 'tpe'"),
        ("maximise: ee_speed", "maximise: ee_speed\ntest: {best: 1, seeds: 3-9}", 16, "must not judge"),
        ("maximise: ee_speed", "test: {best: 1, seeds: 4-9}", 15, "maximise or minimise"),
        ("maximise: ee_speed", "resources: {num_gpus: 1.5}", 15, "fraction"),
    ],
)
def test_mistakes_are_told_with_their_line(folder: Path, old: str, new: str, line: int, says: str) -> None:
    assert old in TEXT
    with pytest.raises(SteerError, match=says) as told:
        parse(TEXT.replace(old, new, 1), folder)
    assert f"line {line}:" in str(told.value)


def test_a_recipe_can_be_swept(folder: Path) -> None:
    (folder / "slow.yaml").write_text(
        "recipe: 1\npolicy: flow-medium\nparts:\n  - {add: some.safetensors, strength: 0.3}\n"
    )
    text = "sweep: 1\nrecipe: slow.yaml\ntasks: PressButton\nseeds: [5]\nvary: {strength: [0.1, 0.2]}\n"
    sweep = parse(text, folder)
    assert sweep.trial({"strength": 0.2}).settings["parts"] == [{"add": "some.safetensors", "strength": 0.2}]
    assert sweep.settings["measures"] == ["success"]
    with pytest.raises(BadInput, match="line 3: policy is in the recipe"):
        parse(text.replace("tasks:", "policy: flow-weak\ntasks:"), folder)


def test_seeds_are_a_span_or_a_list() -> None:
    assert seeds_of("3 - 5") == (3, 4, 5)
    assert seeds_of(7) == (7,)
    for wrong in ("5-3", "a", [], [1, True], [-1]):
        with pytest.raises(BadInput, match="distinct whole numbers"):
            seeds_of(wrong)
