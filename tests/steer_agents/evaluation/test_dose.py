"""Dose studies: planted steerings get their verdicts, strengths and seeds are what they should be, mistakes are told."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput, EngineMismatch
from steer_agents.evaluation.dose import dose, knee_of
from steer_agents.evaluation.runner import Runner
from steer_agents.evaluation.verdict import STEERABLE, UNSTEERABLE

SEEDS = range(24)


def runner(slope: float = 0.1, breaks_at: float = 9.0, jitter: float = 0.01, which: int = 0) -> Runner:
    """Speed 0.3 + slope x strength; every episode fails from `breaks_at` on."""

    def run(strength: float, seeds: Sequence[int]) -> pd.DataFrame:
        rows = []
        for seed in seeds:
            base = np.random.default_rng(seed).normal()
            noise = np.random.default_rng([seed, which, round(1e6 * abs(strength))]).normal() if strength else 0.0
            rows.append(
                {"seed": seed, "errored": False, "success": float(abs(strength) < breaks_at),
                 "speed": 0.3 + 0.03 * base + slope * strength + jitter * noise}
            )  # fmt: skip
        return pd.DataFrame(rows)

    return run


RANDOM = {"random 0": runner(0.0, which=1)}


def test_a_line_is_measured_as_one() -> None:
    found = dose(runner(), seeds=SEEDS, controls=RANDOM, strengths=(-1, -0.5, 0.5, 1), resamples=999)
    assert found.verdict.word == STEERABLE
    assert found.usable == (-1, 1)
    assert found.slope is not None
    assert found.slope.value == pytest.approx(0.1, abs=0.01)
    assert found.slope.low < 0.1 < found.slope.high or found.slope.value == pytest.approx(0.1, abs=0.005)
    assert found.monotonicity == pytest.approx(1.0)
    at = found.responses.set_index(["measure", "strength"])
    assert at.loc[("speed", 0.0), "effect"] == 0
    assert at.loc[("speed", 1.0), "effect"] == pytest.approx(0.1, abs=0.01)
    assert not at.loc[("success", 1.0), "shown"]
    assert found.curve().shape == "rising"


def test_the_search_widens_until_success_falls_and_finds_where() -> None:
    found = dose(
        runner(breaks_at=2.3),
        seeds=SEEDS,
        pilot=range(100, 108),
        controls=RANDOM,
        bracket=(0, 1),
        budget=400,
        resamples=999,
    )
    strengths = sorted(found.losses["strength"])
    assert strengths[0] == 0
    assert strengths[-1] >= 2.3
    assert 1.5 <= found.usable[1] < 2.3
    assert found.losses.set_index("strength").loc[strengths[-1], "lost"] == 1
    assert len(found.episodes) + len(found.pilot) <= 400


def test_what_is_told_is_measured_on_other_seeds_than_the_search_and_on_the_same_at_every_strength() -> None:
    found = dose(runner(), seeds=SEEDS, pilot=range(100, 108), controls=RANDOM, budget=400, resamples=999)
    assert set(found.pilot["seed"]) == set(range(100, 108))
    for _, one in found.episodes.groupby(["condition", "strength"]):
        assert sorted(one["seed"]) == list(SEEDS)


def test_a_null_answer_and_a_failure_are_lost_and_an_errored_episode_is_neither() -> None:
    def run(strength: float, seeds: Sequence[int]) -> pd.DataFrame:
        table = runner()(strength, seeds).astype({"speed": float})
        if strength:
            table.loc[:1, "speed"] = np.nan
            table.loc[2:3, "success"] = 0.0
            table.loc[4, "errored"] = True
        return table

    found = dose(run, seeds=SEEDS, controls=RANDOM, strengths=(1,), resamples=999)
    loss = found.losses.set_index("strength").loc[1.0]
    assert loss["lost"] == pytest.approx(4 / 23)
    assert loss["null"] == pytest.approx(2 / 23)
    assert loss["errored"] == 1
    effect = found.responses[(found.responses["measure"] == "speed") & (found.responses["strength"] == 1)].iloc[0]
    assert effect["n"] == 19
    assert found.usable == (0, 0)


def test_a_policy_that_never_succeeds_has_no_effect_to_show() -> None:
    found = dose(runner(breaks_at=-1.0), seeds=SEEDS, controls=RANDOM, strengths=(1,), resamples=99)
    assert found.verdict.word == UNSTEERABLE
    assert "0 pairs" in str(found.verdict)


def test_strength_zero_must_be_the_unsteered_policy() -> None:
    other = lambda strength, seeds: runner()(strength, seeds).assign(speed=0.31)  # noqa: E731
    with pytest.raises(EngineMismatch, match="strength 0"):
        dose(runner(), seeds=SEEDS, controls=RANDOM, strengths=(1,), unsteered=other)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"controls": {}}, "control"),
        ({"seeds": [1, 1]}, "twice"),
        ({"seeds": range(9)}, "at least 11"),
        ({"strengths": None}, "pilot"),
        ({"strengths": None, "pilot": range(20, 30)}, "in the pilot too"),
        ({"strengths": None, "pilot": range(100, 108), "budget": 100}, "too few"),
        ({"strengths": None, "pilot": range(100, 108), "bracket": (0.5, 1)}, "bracket"),
        ({"strengths": (0,)}, "other than 0"),
        ({"target": "sped"}, "did you mean 'speed'"),
        ({"bound": 0.0}, "bound"),
    ],
)
def test_what_is_wrong_is_said(wrong: dict, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        dose(runner(), **({"seeds": SEEDS, "controls": RANDOM, "strengths": (1,)} | wrong))


def test_the_knee_is_where_a_curve_saturates_or_the_end_of_what_is_usable() -> None:
    x = [0.0, 1.0, 2.0, 3.0, 4.0]
    assert knee_of(x, [0.0, 0.8, 0.95, 1.0, 1.0], 1) == 1.0
    assert knee_of(x, [0.0, 1.0, 2.0, 3.0, 4.0], 1) == 4.0
    assert knee_of([-2.0, -1.0, 0.0], [-1.0, -0.9, 0.0], -1) == -1.0
