"""Experiments that steer VLAs: what they conclude from constructed episodes, and one real episode of each kind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from launch.experiments import (
    vla,
    vla_entropy,
    vla_glass,
    vla_height,
    vla_height_attention,
    vla_neurons,
    vla_sides,
    vla_speed,
    vla_stage,
)
from launch.experiments.base import Say
from launch.experiments.subjects import Subject
from launch.experiments.vla_sides import Settings
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.evaluation.open_loop import OpenLoop
from steer_agents.sites import Site
from steer_agents.strength import Strength

QUICK = Settings(
    test_episodes=2,
    choice_episodes=2,
    layers=(0, 1),
    strengths=(0.5, 1.0),
    gates=("always",),
    doses=(0.5, 1.0),
    n_random=1,
    n_permuted=1,
)


def episodes(speed: float, success: float = 1.0, n: int = 40, seed: int = 0, approach: float = 0.5) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {"seed": range(n), "episode": range(n), "errored": False, "condition": "x", "steps": 50, "task": "PutRedBlockOnPlate",
         "success": (np.arange(n) < success * n).astype(float), "transit_speed": speed * (1 + rng.normal(0, 0.02, n)),
         "approach_speed": approach * (1 + rng.normal(0, 0.01, n)), "height": speed * (1 + rng.normal(0, 0.01, n))}
    )  # fmt: skip


class World:
    """Stands in for `Bench`: a condition's speed and success follow from its name by a rule."""

    def __init__(self, rule: Any) -> None:
        self.rule, self.asked = rule, []
        self.conditions: dict[str, vla.Condition] = {}
        self.policy: Any = None
        self.subject, self.folder = Subject(), Path()
        self.made: list[tuple[Any, ...]] = []

    def __call__(self, *args: Any) -> World:
        self.made.append(args)
        return self

    def scenes(self, episodes: int, first_seed: int = 0) -> list[Any]:
        return []

    def direction(self, scenes: Any, words: str, kind: str = "block_output") -> Direction:
        keys = [f"language.{layer}.{kind}" for layer in range(2)]
        raw = {key: np.eye(4)[hash(words) % 4] for key in keys}
        return Direction.from_raw(
            {key: torch.tensor(value) for key, value in raw.items()}, Site(kind, "all"), method=words
        )

    def open_loop(self, condition: vla.Condition, scenes: Any) -> OpenLoop:
        base = np.ones((3, 4, 7)) * np.arange(1, 4)[:, None, None]
        return OpenLoop(base, 0.5 * base)

    def episodes(self, condition: vla.Condition, first_seed: int, count: int) -> pd.DataFrame:
        self.asked.append((condition.name, first_seed))
        self.conditions[condition.name] = condition
        return self.rule(condition.name)


def outcome(rule: Any, monkeypatch: pytest.MonkeyPatch, folder: Path) -> Any:
    monkeypatch.setattr(vla_sides, "Bench", World(rule))
    return vla_speed.run(QUICK, folder, Say())


def ideal(name: str) -> pd.DataFrame:
    if name.startswith("choice"):
        if "base" in name:
            return episodes(1.0)
        side = 0.4 if "slowly" in name else 1.6
        if " 1 0.5 " in name:  # the best that keeps its success
            return episodes(0.6 if "slowly" in name else 1.3)
        return episodes(side, success=0.5) if " 1 1 " in name else episodes(0.9 if "slowly" in name else 1.1)
    if "slowly x 0.25" in name or "quickly x 0.25" in name:
        return episodes(0.8 if "slowly" in name else 1.15)
    if name in ("slowly x 0.5", "the words 'slowly'"):
        return episodes(0.6)
    if name in ("quickly x 0.5", "the words 'quickly'"):
        return episodes(1.3)
    return episodes(1.0)


def test_an_effect_is_shown_and_the_choice_keeps_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = outcome(ideal, monkeypatch, tmp_path)
    assert {name: (one["layer"], one["strength"]) for name, one in found.extra["choices"].items()} == {
        "slowly": (1, 0.5), "quickly": (1, 0.5)
    }  # fmt: skip
    assert all(bar.holds for bar in found.bars), [bar for bar in found.bars if not bar.holds]
    assert "-40 %" in found.verdict
    assert "+30 %" in found.verdict
    assert "100 %" in found.verdict
    assert "not followed, the planned speed changes by -50 %" in found.verdict
    assert set(found.conditions["role"]) == {"base", "steered", "control", "other"}
    assert found.conditions.set_index("condition").loc["base", "change"] == 0
    assert (tmp_path / "tiny-vla-slowly-block_output.safetensors").exists()


@pytest.mark.parametrize(
    ("changed", "text"),
    [
        ("random 1- as long as slowly", "loudest"),
        ("permuted 1 as long as quickly", "loudest"),
        ("zero strength", "zero strength"),
    ],
)
def test_a_control_that_does_as_much_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: str, text: str
) -> None:
    found = outcome(lambda name: episodes(0.7) if name == changed else ideal(name), monkeypatch, tmp_path)
    short = [bar.name for bar in found.bars if not bar.holds]
    assert len(short) == 1
    assert text in short[0]


def test_a_control_that_breaks_every_episode_is_not_called_quiet(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def rule(name: str) -> pd.DataFrame:
        return episodes(math.nan, success=0) if name == "random 1+ as long as slowly" else ideal(name)

    found = outcome(rule, monkeypatch, tmp_path)
    assert [bar.holds for bar in found.bars if "loudest" in bar.name] == [False, True]


def test_lost_success_and_a_missing_effect_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def rule(name: str) -> pd.DataFrame:
        return episodes(0.95, success=0.9) if name == "slowly x 0.5" else ideal(name)

    short = [bar.name for bar in outcome(rule, monkeypatch, tmp_path).bars if not bar.holds]
    assert any("change of transit_speed" in name for name in short)
    assert any("change of success" in name for name in short)


def test_layouts_differ_between_tasks_and_finished_conditions_are_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bench = vla.Bench("tiny-vla", ("PressButton", "CloseDrawer"), tmp_path)
    calls = []

    def evaluate(
        policy: Any, task: str, layouts: list[dict[str, int]], seed: int, say: Any = None
    ) -> list[dict[str, Any]]:
        calls.append((task, [one["seed"] for one in layouts], say("do it")))
        return [{"task": task, "seed": one["seed"], "success": True, "steps": 3, "speed": 0.1, "height": None,
                 "transit_speed": None, "approach_speed": 0.1, "least_clearance": math.inf, "touched": False, "draw_entropy_bits": 0.0}
                for one in layouts]  # fmt: skip

    monkeypatch.setattr(vla, "evaluate", evaluate)
    condition = vla.Condition("said", "other", adverb="slowly")
    table = bench.episodes(condition, 500, 2)
    assert calls == [("PressButton", [500, 501], "do it slowly"), ("CloseDrawer", [600, 601], "do it slowly")]
    assert vla.Bench("tiny-vla", (), tmp_path, instruction="stop").said("do it", "slowly") == "stop slowly"
    assert table["seed"].is_unique
    assert table["transit_speed"].isna().all()
    pd.testing.assert_frame_equal(bench.episodes(condition, 500, 2), table)
    assert len(calls) == 2


@pytest.mark.usefixtures("can_draw")
def test_scenes_are_what_the_policy_decides_on(tmp_path: Path) -> None:
    bench = vla.Bench("tiny-vla", ("PressButton",), tmp_path)
    scenes = bench.scenes(1)
    assert scenes[0]["instruction"] == "press the button"
    assert scenes[0]["pixels"]["image"].shape == (64, 64, 3)
    assert not scenes[0]["previous_action"].any()
    assert scenes[1]["previous_action"].any()
    direction = bench.direction(scenes, "slowly")
    assert len(direction.vectors) == 4
    steered = bench.episodes(vla.Condition("strong", "steered", vla.pushed(direction, 0, 1.0)), 500, 1)
    plain = bench.episodes(vla.Condition("base", "base"), 500, 1)
    zero = bench.episodes(vla.Condition("zero", "base", vla.pushed(direction, 0, 0.0)), 500, 1)
    assert zero["speed"].equals(plain["speed"])
    assert steered["speed"].item() < plain["speed"].item()
    planned = bench.open_loop(vla.Condition("strong", "steered", vla.pushed(direction, 0, 1.0)), scenes)
    assert planned.change().high < 0
    assert planned.base.shape == (len(scenes), 4, 7)
    drawn = bench.episodes(vla.Condition("drawn", "base", temperature=1.0), 500, 1)
    assert plain["draw_entropy_bits"].item() == 0
    assert drawn["draw_entropy_bits"].item() > 1
    assert bench.policy.temperature == 0
    found = vla_entropy.towards(bench, scenes, vla_entropy.ENTROPY.high, "block_output")
    assert found.cosine(vla_entropy.towards(bench, scenes, vla_entropy.ENTROPY.low, "block_output")) == pytest.approx(
        dict.fromkeys(found.vectors, -1.0)
    )


def test_entropy_is_steered_at_temperature_one_and_judged_beside_other_temperatures(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[vla.Condition] = []

    class Unsure(World):
        def episodes(self, condition: vla.Condition, first_seed: int, count: int) -> pd.DataFrame:
            asked.append(condition)
            table = episodes(1.0)
            shift = -0.3 if "surer x" in condition.name else 0.3 if "less sure x" in condition.name else 0.0
            return table.assign(draw_entropy_bits=4 + shift + table["approach_speed"])

    monkeypatch.setattr(vla_sides, "Bench", Unsure(None))
    spec = replace(
        vla_entropy.ENTROPY, find=lambda bench, scenes, side, kind: World(None).direction([], side.name, kind)
    )
    found = vla_sides.run(spec, "", "", QUICK, tmp_path, Say())
    temperatures = {one.name: one.temperature for one in asked}
    assert {name: t for name, t in temperatures.items() if t != 1.0} == {"temperature 0.7": 0.7, "temperature 1.4": 1.4}
    assert "-0.3 bits" in found.verdict
    assert "Temperature 1.4 does +0 bits" in found.verdict


def test_only_policies_that_see_pictures_and_hear_words(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="pictures and hear words"):
        vla.Bench("flow-weak", ("PressButton",), tmp_path)


@pytest.mark.parametrize(
    ("leak", "random", "short"),
    [(0.5, 1.0, []), (0.4, 1.0, ["approach speed"]), (0.5, 0.7, ["random 1-"])],
)
def test_a_stage_gate_that_leaks_or_a_loud_control_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, leak: float, random: float, short: list[str]
) -> None:
    def rule(name: str) -> pd.DataFrame:
        if name == "slowly, while carrying":
            return episodes(0.5, approach=leak)
        return episodes(random if name.startswith("random 1-") else 1.0)

    monkeypatch.setattr(vla_stage, "Bench", World(rule))
    found = vla_stage.run(vla_stage.settings(True), tmp_path, Say())
    broken = [bar.name for bar in found.bars if not bar.holds]
    assert len(broken) == len(short)
    assert all(text in name for text, name in zip(short, broken, strict=True))
    assert "-50 %" in found.verdict


def test_a_stage_gate_is_on_every_steered_condition_but_one() -> None:
    direction = World(None).direction([], "slowly", "block_output")
    found = vla_stage.conditions(vla_stage.settings(True), direction)
    gates = {one.name: one.part.gate for one in found if one.part is not None}
    assert gates.pop("slowly, always") == vla_sides.GATES["always"]
    assert all(gate == vla_sides.GATES["in transit"] for gate in gates.values())


@pytest.mark.parametrize(("own", "holds"), [(0.6, True), (0.9, False)])
def test_neurons_are_judged_by_random_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: float, holds: bool
) -> None:
    def find(policy: Any, method: str, concept: str, max_neurons: int) -> Direction:
        if concept == "quickly":
            raise BadInput("none of 8 neurons says it")
        neurons = [{"layer": 0, "index": 1, "tokens": ["slowly", "gently", "put"]}]
        site = Site("mlp_neurons", (0,), "language")
        raw = {"language.0.mlp_neurons": torch.eye(8)[1]}
        return Direction.from_raw(raw, site, method="vocabulary", info={"neurons": neurons})

    def rule(name: str) -> pd.DataFrame:
        return episodes(own if name.startswith("'slowly'") else 0.8 if name.startswith("random") else 1.0)

    monkeypatch.setattr(vla_neurons, "Bench", World(rule))
    monkeypatch.setattr(vla_neurons, "find", find)
    found = vla_neurons.run(vla_neurons.settings(True), tmp_path, Say())
    (bar,) = found.bars
    assert bar.holds is holds
    assert "slowly, gently, put" in found.verdict
    assert "No neuron says 'quickly'" in found.verdict


@pytest.mark.parametrize(
    ("own", "control", "steps", "short"),
    [(0.0, 0.2, 50, []), (0.2, 0.2, 50, ["share of episodes", "the fewest"]), (0.0, 0.0, 50, ["the fewest"]), (0.0, 0.2, 60, ["time"])],
)  # fmt: skip
def test_a_glass_is_touched_less_or_it_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: float, control: float, steps: int, short: list[str]
) -> None:
    def rule(name: str) -> pd.DataFrame:
        raised = name == "raised near the glass"
        share = own if raised else control if name.startswith(("random", "permuted")) else 0.2
        table = episodes(1.0, n=100).assign(touched=(np.arange(100) < 100 * share).astype(float))
        return table.assign(steps=steps if raised else 50)

    world = World(rule)
    monkeypatch.setattr(vla_glass, "Bench", world)
    found = vla_glass.run(vla_glass.settings(True), tmp_path, Say())
    broken = [bar.name for bar in found.bars if not bar.holds]
    assert len(broken) == len(short)
    assert all(text in name for text, name in zip(short, broken, strict=True))
    assert world.made[-1][-1] == vla_glass.INSTRUCTION
    gates = {name: one.part.gate.describe()["gate"] for name, one in world.conditions.items() if one.part is not None}
    assert gates.pop("raised always") == "Always"
    assert set(gates.values()) == {"Measured"}


def test_the_attention_outputs_of_all_layers_are_pushed_at_once() -> None:
    asked = vla_height_attention.settings(False)
    direction = World(None).direction([], "low over the table", "attention_output")
    choice = vla_sides.Choice("attention_output", "all", 2.0, "carrying", pd.DataFrame())
    part = choice.push(direction, 0.5)
    assert part.the_site.layer == "all"
    assert part.the_strength == Strength(1.0, "beta")
    assert asked.first_test_seed != vla.TEST
    assert vla_height_attention.ATTENTION.low.bound == 0.03


def test_quick_forms_are_smaller() -> None:
    for module in (vla_speed, vla_height, vla_height_attention, vla_glass, vla_entropy, vla_stage, vla_neurons):
        assert module.settings(True).test_episodes < module.settings(False).test_episodes
