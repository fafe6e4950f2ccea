"""The rules of the comparison of methods, on constructed candidates and tables."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from launch.methods_bench import protocol
from launch.methods_bench.protocol import Candidate
from launch.methods_bench.ranking import measured, ranked


def test_best_is_the_largest_wanted_effect_within_the_margin() -> None:
    mild, strong, breaks = (
        Candidate(0, 0.5, "always", -0.2, 0.0),
        Candidate(0, 1.0, "always", -0.4, -0.05),
        Candidate(0, 1.5, "always", -0.8, -0.3),
    )
    nothing = Candidate(1, 1.0, "always", math.nan, 0.0)
    assert protocol.best_of([mild, nothing, strong, breaks], -1, 0.1) is strong
    assert protocol.best_of([mild, nothing, strong, breaks], -1, 0.01) is mild
    assert protocol.best_of([mild, strong], +1, 0.1) is mild
    assert protocol.best_of([breaks, replace(breaks, success=-0.2)], -1, 0.1).success == -0.2


def table(value: float, spread: float = 0.01, success: float = 1.0, n: int = 30) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    good = np.arange(n) < round(success * n)
    level = value + spread * rng.standard_normal(n) * np.arange(n)
    return pd.DataFrame({"seed": range(n), "success": good.astype(float), "level": level, "errored": False})


def test_what_breaks_the_policy_ranks_below_all_that_does_not() -> None:
    base = table(1.0, 0.0)
    tables = {"huge but broken": table(0.1, success=0.5), "mild": table(0.8), "strong": table(0.6), "nothing": base,
              "never measured": base.assign(level=np.nan), "wrong way": table(1.4)}  # fmt: skip
    found = ranked(measured(tables, base, "level"), -1, 0.1)
    order = list(found["name"])
    assert order == ["strong", "mild", "nothing", "wrong way", "huge but broken", "never measured"]
    assert list(found["rank"]) == [1, 2, 3, 4, 5, 6]
    assert list(found.loc[found["broken"], "name"]) == order[4:]
    assert not found.set_index("name").loc["huge but broken", "tie"]
    shown = found.set_index("name")["shown"]
    assert shown["strong"]
    assert shown["mild"]
    assert not shown["nothing"]
    assert not shown["wrong way"], "a large effect the other way is no success"


def test_ties_are_overlaps_with_the_best_and_losses_at_the_margin_are_allowed() -> None:
    base = table(1.0, 0.0)
    tables = {
        "best": table(0.6, 0.02),
        "near": table(0.62, 0.02),
        "far": table(0.9, 0.0001),
        "edge": table(0.8, 0.0001, success=0.9),
    }
    found = ranked(measured(tables, base, "level"), -1, 0.1).set_index("name")
    assert found.loc["best", "tie"]
    assert found.loc["near", "tie"]
    assert not found.loc["far", "tie"]
    assert not found.loc["edge", "broken"]
    second = ranked(measured(tables, base, "level"), -1, 0.1, ["far", "edge"]).set_index("name")
    assert not second.loc["best", "tie"], "what is no contender, e.g. the prompt, is told apart from the best contender"
    assert second.loc["edge", "tie"]
    assert ranked(measured(tables, base, "level"), -1, 0.05).set_index("name").loc["edge", "broken"]


def test_p_values_are_corrected_over_all_rows() -> None:
    base = table(1.0, 0.0)
    rng = np.random.default_rng(1)
    tables = {f"noise {i}": base.assign(level=1 + 0.1 * rng.standard_normal(30)) for i in range(40)}
    found = measured(tables, base, "level")
    assert (found["p_holm"] >= found["p"]).all()
    assert found["p_holm"].min() >= 20 * found["p"].min()
    assert not ranked(found, -1, 0.1)["shown"].any()


def test_a_measure_below_zero_does_not_turn_effects_round() -> None:
    base = table(-1.0, 0.0)
    found = measured({"less": table(-1.4)}, base, "level").iloc[0]
    assert found["low"] < found["value"] < found["high"] < 0
    assert found["value"] == pytest.approx(-0.4, abs=0.1)
