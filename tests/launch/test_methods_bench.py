"""The comparison of methods: everything is accounted for, the rules hold on constructed tables, and it runs from end to end."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from launch import cli
from launch.experiments import methods_bench
from launch.experiments.base import Say
from launch.methods_bench import protocol, subjects
from launch.methods_bench.family import DOUBLING, Family, Ladder, as_long_as, pushes
from launch.methods_bench.protocol import Candidate, Choice
from launch.methods_bench.run import UNSTEERED, ZERO, compare_all, twin_of, wanted
from launch.methods_bench.subject import NEEDS, Subject, Trial
from launch.methods_bench.table import ENTRIES, KINDS, REFERENCE, accounted, entry_of
from policies.errors import BadInput, UnknownName
from policies.mlp import MLP, MLPConfig
from steer_agents.direction import Direction
from steer_agents.gates import ALWAYS
from steer_agents.methods import METHODS, Method
from steer_agents.sites import Site

# ---- accounting


def test_every_method_is_run_or_has_a_reason() -> None:
    rows = {name for name, one in METHODS.items() if one.kind in KINDS}
    assert set(ENTRIES) == rows
    for name, entry in ENTRIES.items():
        assert entry.build is not None or len(entry.why.split()) > 2, f"{name}: neither run nor explained"
        assert set(entry.needs) <= set(NEEDS), f"{name} needs {entry.needs}"
    bare = planted()
    assert all(entry.reason(bare) for entry in ENTRIES.values() if entry.needs or entry.build is None)
    assert sum(entry.build is not None for entry in ENTRIES.values()) >= 30


def test_every_reason_that_names_another_row_names_one_that_runs() -> None:
    for name, entry in ENTRIES.items():
        if entry.why.startswith("run as "):
            told = entry.why.split("`")[1]
            assert ENTRIES[told].build is not None, f"{name} is said to run as {told}"


def test_a_method_that_was_added_elsewhere_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    where = "steer_agents.finding.contrast:mean_difference"
    monkeypatch.setitem(METHODS, "mine", Method("find", where, "ours", "two sets of inputs", "any network", "one pass"))
    monkeypatch.setitem(METHODS, "odd", replace(METHODS["mine"], where="steer_agents.finding.gradient:action_gradient"))
    assert accounted()[-2:] == ["mine", "odd"]
    assert entry_of("mine").build is not None
    assert "no row" in str(entry_of("odd").reason(planted()))


def test_the_reference_is_always_run_and_unknown_names_are_refused() -> None:
    assert wanted(["pca"]) == [REFERENCE, "pca"]
    with pytest.raises(UnknownName, match="pca"):
        wanted(["pcb"])
    with pytest.raises(UnknownName, match="slow"):
        subjects.concept("slwo")


# ---- a planted subject: the concept is one coordinate of a network, and too much of it breaks the policy

WIDTH = 16
BREAKS_AT = 2.5
SMALL = 0.01


def network() -> MLP:
    """An MLP whose neurons are its inputs, made small so that tanh is a line; its output is input 3."""
    model = MLP(MLPConfig(WIDTH, 1, (WIDTH,)))
    with torch.no_grad():
        first, last = (module for module in model.modules() if isinstance(module, torch.nn.Linear))
        first.weight.copy_(SMALL * torch.eye(WIDTH))
        first.bias.zero_()
        last.weight.zero_()
        last.weight[0, 3] = 1 / SMALL
        last.bias.zero_()
    return model


def planted(n: int = 12, quick: bool = False) -> Subject:
    model, generator = network(), torch.Generator().manual_seed(0)
    x = torch.randn(40, WIDTH, generator=generator)
    concept = 2.0 * torch.nn.functional.one_hot(torch.tensor(3), WIDTH).float()

    def run(trial: Trial, stage: str) -> pd.DataFrame:
        seeds = range(1000 if stage == protocol.TEST else 0, 1000 + n if stage == protocol.TEST else n)
        inputs = torch.stack([torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        inputs = inputs + (concept if trial.words else 0)
        with torch.no_grad():
            if trial.attach is None:
                out = model(inputs)
            else:
                with trial.attach(model):
                    out = model(inputs)
        value = out[:, 0].double().numpy()
        success = np.abs(value - inputs[:, 3].numpy()) < BREAKS_AT
        return pd.DataFrame({"seed": list(seeds), "success": success.astype(float), "level": value, "errored": False})

    return Subject(
        name="planted",
        concept="more",
        policy=model,
        measure="level",
        label="level",
        sign=1,
        words="more",
        positive=[x + concept],
        negative=[x],
        opposite=[x - concept],
        groups=["all"],
        site=lambda kind: Site("mlp_neurons", "all"),
        layers=(0,),
        gates={"always": ALWAYS},
        run=run,
        quick=quick,
    )


def test_a_planted_concept_is_found_chosen_and_beats_its_controls(tmp_path: Path) -> None:
    subject = planted()
    found = compare_all(subject, ("pca", "norm-kept-add", "seal"), 0.1, 2, 1, tmp_path, Say())
    best = found.built[REFERENCE].choice
    assert best.best.strength == 1.0, "1.4 times is 2.8 and breaks it"
    assert [one.strength for one in best.tried] == pytest.approx([1, 2, math.sqrt(2)]), (
        "up until it breaks, then halfway"
    )
    assert all(one.success < -0.1 for one in best.tried[1:])
    assert found.left_out["seal"] == NEEDS["thoughts"]
    assert found.left_out["pca"].startswith(f"the direction of `{REFERENCE}`"), "all pairs differ by the same vector"
    pd.testing.assert_frame_equal(found.tables[ZERO], found.tables[UNSTEERED])
    base = found.tables[UNSTEERED]["level"]
    assert found.tables[REFERENCE]["level"].sub(base).to_numpy() == pytest.approx(2.0, abs=1e-2)
    assert found.tables["turned round"]["level"].sub(base).to_numpy() == pytest.approx(-2.0, abs=1e-2)
    shown = methods_bench.outcome(subject, found, 0.1)
    assert [bar.holds for bar in shown.bars] == [True, True, True]
    assert shown.conditions["name"].iloc[0] in (REFERENCE, "the words 'more'")
    assert {"random 1+", "random 1-", "random 2+", "permuted 1"} <= set(shown.conditions["name"])
    assert {figure.name for figure in shown.figures} == {"ranking", "effect-success"}


@pytest.mark.parametrize(
    ("breaks_at", "tried"),
    [(100.0, [2, 4, 8, 16, 32]), (3.0, [2, 4, math.sqrt(8)]), (0.8, [0.5, math.sqrt(0.5)]), (0.1, [0.5, 0.25])],
)
def test_a_ladder_is_climbed_until_it_breaks_and_down_until_it_does_not(breaks_at: float, tried: list[float]) -> None:
    seen: list[float] = []

    def breaks(strength: float) -> bool:
        seen.append(strength)
        return strength >= breaks_at

    protocol.climb(DOUBLING, DOUBLING.first >= breaks_at, breaks)
    assert seen == pytest.approx(tried)


def test_a_ladder_without_its_first_rung_is_refused() -> None:
    with pytest.raises(BadInput, match="first"):
        Ladder((1.0, 2.0), 3.0)


def test_an_interrupted_comparison_ends_where_the_uninterrupted_one_does(tmp_path: Path) -> None:
    methods = ("lda", "ablate")
    whole = compare_all(planted(), methods, 0.1, 1, 1, tmp_path / "whole", Say())
    subject, ran = planted(), []

    def stops(trial: Trial, stage: str) -> pd.DataFrame:
        ran.append(trial.name)
        if len(ran) == 10:
            raise KeyboardInterrupt
        return subject.run(trial, stage)

    with pytest.raises(KeyboardInterrupt):
        compare_all(replace(subject, run=stops), methods, 0.1, 1, 1, tmp_path / "cut", Say())
    ran.clear()
    again = compare_all(replace(subject, run=lambda t, s: (ran.append(t.name), subject.run(t, s))[1]), methods, 0.1, 1, 1,
                        tmp_path / "cut", Say())  # fmt: skip
    assert not any(name.startswith(f"choice {REFERENCE}") for name in ran), "what was chosen is not chosen again"
    assert again.tables.keys() == whole.tables.keys()
    for name, table in whole.tables.items():
        pd.testing.assert_frame_equal(again.tables[name], table)


def test_choices_survive_their_file(tmp_path: Path) -> None:
    tried = (Candidate(0, 1.0, "always", 0.2, 0.0), Candidate((0, 1), 0.5, "in transit", math.nan, -1.0))
    kept = {"one": Choice(tried[0], tried, 1.5), "all": Choice(replace(tried[1], layer="all"), tried[:1], 2.0)}
    protocol.keep(tmp_path / "choices.json", kept)
    read = protocol.kept(tmp_path / "choices.json")
    assert repr(read) == repr(kept)
    assert protocol.kept(tmp_path / "none.json") == {}


# ---- pushes of equal length


def test_a_push_is_as_long_as_the_natural_displacement_whatever_the_method_gave() -> None:
    subject = planted()
    key = next(iter(subject.natural().vectors))
    raw = torch.zeros(WIDTH)
    raw[5] = 700.0
    other = Direction.from_raw({key: raw}, subject.site(""), model=subject.natural().model)
    assert as_long_as(other, subject.natural()).statistics[key]["raw_norm"] == pytest.approx(2.0, abs=1e-3)
    family = pushes(subject, other)
    x = torch.randn(6, WIDTH)
    with torch.no_grad():
        before = subject.policy(x)
        with family.attach(0, 1.5, ALWAYS)(subject.policy):
            assert torch.equal(subject.policy(x), before), "neuron 5 is not read"


def test_twins_are_told_by_direction_and_layers() -> None:
    subject = planted()
    one = pushes(subject, subject.natural())
    key = next(iter(one.direction.vectors))  # type: ignore[union-attr]
    turned = subject.natural().vector(key) + 0.05 * torch.nn.functional.one_hot(torch.tensor(0), WIDTH)
    near = Direction.from_raw({key: turned}, subject.site(""), model=subject.natural().model)
    assert twin_of(pushes(subject, 3 * subject.natural()), {"a": one}) == "a"
    assert twin_of(pushes(subject, near), {"a": one}) is None
    assert twin_of(replace(one, layers=(1,)), {"a": one}) is None
    assert twin_of(Family(one.attach, (0,)), {"a": one}) is None


# ---- the command line


def command(monkeypatch: pytest.MonkeyPatch, *args: str) -> None:
    monkeypatch.setattr(sys, "argv", ["steer-agents", *args])
    cli.main()


def test_the_table_breaks_no_name(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    command(monkeypatch, "methods")
    out = capsys.readouterr().out
    missing = [name for name, one in METHODS.items() if f" {name} " not in out or f" {one.kind} " not in out]
    assert not missing
    assert max(map(len, out.splitlines())) <= 80
    command(monkeypatch, "methods", "bake", "--json")
    assert [row["name"] for row in json.loads(capsys.readouterr().out)] == ["bake", "steer2edit", "casal", "export"]


def test_an_unknown_concept_is_refused_before_anything_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit) as ended:
        command(monkeypatch, "methods", "compare", "--concept", "slwo", "--out", str(tmp_path))
    assert ended.value.code == 2
    assert "slow" in capsys.readouterr().err


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quick runs on one task."""
    quick: Any = methods_bench.settings
    monkeypatch.setattr(
        methods_bench, "settings", lambda quick_: replace(quick(True), tasks=("PutBowlOnPlate",), finding=1)
    )


@pytest.mark.usefixtures("short")
def test_the_comparison_runs_from_the_command_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = tmp_path / "found"
    command(monkeypatch, "methods", "compare", "--quick", "--methods", "bake", "vista", "--out", str(out), "--json")
    told = json.loads(capsys.readouterr().out)
    names = {row["name"] for row in told["conditions"]}
    assert {REFERENCE, "bake", "random 1+", "random 1-", "permuted 1", "turned round", "the words 'slowly'"} == names
    assert told["left_out"] == {"vista": NEEDS["pictures"]}
    assert told["sizes"]["policy"] == "tiny-vla"
    assert told["bars"][0]["holds"], "strength 0 changes nothing"
    assert (out / "report.html").exists()
    episodes = pd.read_parquet(out / "episodes.parquet")
    assert set(episodes["seed"]) == {methods_bench.QUICK_TEST}, "quick runs never look at the test layouts"
    slow = episodes.set_index("condition")["transit_speed"]
    assert slow[REFERENCE] < slow[UNSTEERED]
