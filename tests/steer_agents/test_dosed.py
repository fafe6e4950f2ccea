"""A direction remembers what its strengths do: it survives its file, warns outside of it, and solves set-points."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

import steer_agents as sa
from policies.errors import BadInput
from steer_agents import artifacts, dosed, recipe
from steer_agents.dosed import OutsideRange, with_dose
from steer_agents.evaluation.dose import Dose, dose
from steer_agents.gates import Measured
from steer_agents.interventions import Add, Clamp
from steer_agents.sites import Site
from steer_agents.strength import Strength

KEY = "net.0.block_output"
SITE = Site(layer=0)


def plain() -> sa.Direction:
    return sa.Direction.from_raw({KEY: torch.arange(1.0, 5.0)}, SITE, {KEY: {"mean_norm": 4.0}}, method="test")


@pytest.fixture(scope="module")
def found() -> Dose:
    def runner(slope: float) -> Any:
        def run(strength: float, seeds: Sequence[int]) -> pd.DataFrame:
            base = [np.random.default_rng(seed).normal() for seed in seeds]
            rows = {"seed": list(seeds), "errored": False, "success": float(strength < 2.5)}
            return pd.DataFrame(rows | {"ee_speed": 0.3 + 0.01 * np.array(base) + slope * strength})

        return run

    strengths = (0.5, 1.0, 2.0, 3.0)
    return dose(
        runner(-0.05),
        seeds=range(16),
        controls={"r": runner(0.0)},
        target="ee_speed",
        strengths=strengths,
        resamples=199,
    )


@pytest.fixture
def slow(found: Dose) -> sa.Direction:
    part = Add(plain(), strength=Strength(0.0, "alpha"))
    return with_dose(plain(), part, found, policy="toy", tasks=("B", "A"), env={})


def test_it_survives_the_file_and_files_without_it_are_read(slow: sa.Direction, tmp_path: Path) -> None:
    path = artifacts.save(slow, tmp_path / "slow.safetensors")
    assert artifacts.load(path).doses == slow.doses
    (record,) = artifacts.read_header(path)["doses"].values()
    assert record["tasks"] == ["A", "B"]
    assert record["usable"] == [0.0, 2.0]
    assert record["verdict"] == "steerable"
    header, tensors = artifacts.read(path)
    del header["doses"]
    (tmp_path / "old.safetensors").write_bytes(artifacts.encode(header, tensors))
    assert artifacts.load(tmp_path / "old.safetensors").doses == {}


def test_a_second_study_of_the_same_place_replaces_the_first_and_another_stands_beside_it(
    slow: sa.Direction, found: Dose
) -> None:
    part = Add(plain(), strength=Strength(0.0, "alpha"))
    assert len(with_dose(slow, part, found, policy="toy", tasks=("A", "B"), env={}).doses) == 1
    assert len(with_dose(slow, part, found, policy="toy", tasks=("A",), env={}).doses) == 2


def test_arithmetic_drops_it(slow: sa.Direction) -> None:
    for other in (2 * slow, -slow, slow + 2 * slow):
        assert not other.doses
    assert slow.at(0).doses


@pytest.mark.parametrize("strength", [2.1, -0.1, Strength(8.2, "absolute"), torch.tensor([1.0, 2.5])])
def test_a_strength_outside_warns_with_the_range_in_any_unit(slow: sa.Direction, strength: Any) -> None:
    with pytest.warns(OutsideRange, match=r"outside of 0 to 2.*toy on A, B"):
        dosed.warn_outside(Add(slow, strength=strength))


@pytest.mark.parametrize("strength", [0.0, 2.0, Strength(8.0, "absolute"), torch.tensor([0.0, 2.0])])
def test_a_strength_inside_does_not(slow: sa.Direction, strength: Any) -> None:
    assert not dosed.outside(Add(slow, strength=strength))


def test_other_places_are_not_spoken_for(slow: sa.Direction) -> None:
    assert not dosed.outside(Add(slow, strength=9.0, gate=Measured("held")))
    assert not dosed.outside(Clamp(slow, strength=9.0, value=1.0))
    assert not dosed.outside(Add(slow, strength=9.0, site=replace(SITE, phase="decode")))


def test_attaching_warns(slow: sa.Direction) -> None:
    import tiny_models

    module = tiny_models.tiny("mlp")
    from steering_parts import direction_at

    place = direction_at(module, Site(layer=0))
    held = replace(place, doses={key: {**record, "site": place.site.describe()} for key, record in slow.doses.items()})
    with pytest.warns(OutsideRange, match="usable"):
        sa.steer(module, Add(held, strength=9.0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sa.steer(module, Add(held, strength=1.0))


def test_a_set_point_is_solved_from_the_curve(slow: sa.Direction) -> None:
    base = float(next(iter(slow.doses.values()))["curves"]["ee_speed"]["values"][0])
    part = Add(slow, strength=f"speed={base - 0.06}")
    assert part.the_strength.value == pytest.approx(1.2, abs=1e-6)
    assert part.the_strength.unit == "alpha"
    assert Add(slow, strength=part.the_strength).describe() == part.describe()


def test_a_set_point_that_cannot_be_solved_says_what_to_do(slow: sa.Direction, found: Dose) -> None:
    with pytest.raises(BadInput, match="steer-agents dose"):
        Add(plain(), strength="ee_speed=0.2")
    with pytest.raises(BadInput, match=r"reach ee_speed from 0\.1999"):
        Add(slow, strength="ee_speed=0.1")
    both = with_dose(slow, Add(plain(), strength=Strength(0.0, "alpha")), found, policy="toy", tasks=("C",), env={})
    with pytest.raises(BadInput, match="A, B and on C"):
        Add(both, strength="ee_speed=0.25")
    with pytest.raises(BadInput, match="set-points belong"):
        sa.SetNeurons(indices=(0,), values=1.0, site=SITE, strength="ee_speed=0.2")  # type: ignore[arg-type]


def test_a_recipe_takes_a_set_point_and_an_operator_a_number(slow: sa.Direction, tmp_path: Path) -> None:
    artifacts.save(slow, tmp_path / "slow.safetensors")
    text = "recipe: 1\npolicy: flow-medium\nparts:\n  - add: slow.safetensors\n    strength: ee_speed=0.25\n    limits: [0, 1.5]\n"
    (tmp_path / "recipe.yaml").write_text(text)
    read = recipe.load(tmp_path)
    (one,) = read.parts
    assert one.strength == pytest.approx(1.0, abs=0.1)
    assert (one.unit, one.low, one.high) == ("alpha", 0, 1.5)
    assert read.with_strengths({"add": 0.5}).parts[0].strength == 0.5
    for wrong, message in (
        ("ee_speed=0.1", "line 4.*reach"),
        ("ee_speed=0.21", "limits must hold"),
        ("ee_speed=0.25\n    unit: sd", "leave out"),
    ):
        (tmp_path / "recipe.yaml").write_text(text.replace("ee_speed=0.25", wrong))
        with pytest.raises(BadInput, match=message):
            recipe.load(tmp_path)
