"""The sequential test: its error rate, what it saves, what it decides, and that looking costs nothing."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.power import Discordance, Runs, binary_plan, draw, sequential_plan, simulate
from steer_agents.evaluation.sequential import Design, SequentialTest, run_until

NULLS = ("0.1", "0.5", "0.9", "0.5 correlated", "drifting")


def null_differences(name: str, repeats: int, n: int, seed: int) -> np.ndarray:
    """(repeats, n) differences of two conditions that are equally good."""
    rng = np.random.default_rng(seed)
    if (
        name == "drifting"
    ):  # rates that wander with the seed's number and with what happened before, the same on both sides
        rate = np.clip(0.5 + 0.4 * np.sin(np.arange(n) / 9) + 0.1 * rng.normal(size=(repeats, 1)), 0.02, 0.98)
        first = rng.random((repeats, n)) < rate
        rate = np.clip(rate + 0.3 * np.roll(first, 1, axis=1) - 0.15, 0.02, 0.98)
        return (rng.random((repeats, n)) < rate).astype(float) - (rng.random((repeats, n)) < rate)
    rate = float(name.split()[0])
    differ = Discordance.of(rate, rate, 0.5 if "correlated" in name else 0.0)
    return draw(differ, repeats, n, seed)


def false_positives(design: Design, repeats: int, n: int, seed: int = 0) -> dict[str, float]:
    return {
        name: float((simulate(design, null_differences(name, repeats, n, seed + i)).decided != 0).mean())
        for i, name in enumerate(NULLS)
    }


def test_no_null_is_rejected_more_often_than_alpha() -> None:
    design, _ = sequential_plan(Discordance.of(0.8, 0.6), 0.8, repeats=1000)
    found = false_positives(design, 800, design.n_max or 0)
    # 800 repeats know a rate of .05 to .0077; a test that looks at every pair without paying is near .3.
    assert max(found.values()) <= 0.05 + 2.5 * 0.0077, found
    assert max(found.values()) > 0.01, found


def test_looking_at_a_fixed_test_after_every_pair_would_not_do() -> None:
    d = null_differences("0.5", 400, 120, 3)
    z = np.abs(np.cumsum(d, axis=1)) / np.sqrt(np.maximum(np.cumsum(d**2, axis=1), 1))
    assert (z[:, 20:].max(axis=1) > 1.96).mean() > 0.15


@pytest.mark.slow
@pytest.mark.parametrize("power", [0.8, 0.9])
def test_five_thousand_null_comparisons_and_thirty_per_cent_fewer_episodes(power: float) -> None:
    differ = Discordance.of(0.8, 0.6)
    design, plan = sequential_plan(differ, power)
    found = false_positives(design, 5000, design.n_max or 0, seed=100)
    assert max(found.values()) <= 0.05, found
    runs, fixed = simulate(design, draw(differ, 5000, plan.pairs, 7)), binary_plan(differ, power)
    assert (runs.decided > 0).mean() >= power - 2 * np.sqrt(power * (1 - power) / 5000)
    assert runs.pairs.mean() <= 0.7 * fixed.pairs


def test_a_gap_of_twenty_points_takes_fewer_pairs_than_a_fixed_number() -> None:
    differ = Discordance.of(0.8, 0.6)
    design, plan = sequential_plan(differ, 0.9, repeats=1500)
    runs = simulate(design, draw(differ, 1500, plan.pairs, 7))
    assert runs.pairs.mean() < 0.7 * binary_plan(differ, 0.9).pairs
    assert (runs.decided > 0).mean() > 0.87
    assert (runs.decided < 0).mean() < 0.005
    assert (runs.in_batches(8, plan.pairs) % 8 == 0).mean() > 0.5


def test_one_test_and_many_at_once_agree() -> None:
    design = Design(0.2, power=0.8, spread=0.5, n_max=90)
    d = draw(Discordance(0.35, 0.15), 12, 90, 1)
    many = simulate(design, d)
    for row, side, used in zip(d, many.decided, many.pairs, strict=True):
        test = SequentialTest(0.2, spread=0.5, n_max=90)
        taken = 0
        while test.decision is None:
            test.update([row[taken] * 0.5 + 0.5], [0.5 - row[taken] * 0.5])
            taken += 1
        assert taken == used
        assert {"a": 1, "b": -1}.get(test.decision, 0) == side


def test_batches_do_not_matter_and_the_sides_are_alike() -> None:
    x, y = np.random.default_rng(0).random((2, 40)) < np.array([[0.9], [0.4]])
    whole = SequentialTest(0.2, n_max=100).update(x, y)
    parts = SequentialTest(0.2, n_max=100)
    for k in range(0, 40, 7):
        parts.update(x[k : k + 7], y[k : k + 7])
    turned = SequentialTest(0.2, n_max=100).update(y, x)
    assert whole.decision == parts.decision == "a"
    assert turned.decision == "b"
    assert whole.interval == parts.interval
    assert turned.interval.low == pytest.approx(-whole.interval.high)
    assert whole.p_value == pytest.approx(0.05)
    assert whole.interval.low >= 0


def test_the_confidence_sequence_covers_at_all_times_together() -> None:
    missed = 0
    for repeat in range(25):
        test = SequentialTest(0.2, alpha=0.2)
        for d in draw(Discordance(0.35, 0.25), 1, 60, repeat)[0]:
            test.update([max(d, 0.0)], [max(-d, 0.0)])
        missed += not test.interval.low <= 0.1 <= test.interval.high  # it never widens again
    assert missed <= 25 * 0.2 + 2 * np.sqrt(25 * 0.2 * 0.8)
    assert test.interval.high - test.interval.low < 1.0


def test_bounded_differences_are_tested_in_their_own_unit() -> None:
    rng = np.random.default_rng(2)
    x, y = 0.3 + 0.02 * rng.random(80), 0.25 + 0.02 * rng.random(80)
    test = SequentialTest(0.04, bound=0.4, spread=0.003, n_max=200).update(x, y)
    assert test.decision == "a"
    assert 0 <= test.interval.low < 0.05 < test.interval.high
    with pytest.raises(BadInput, match="within"):
        test.update([1.0], [0.0])


def test_it_gives_up_without_rejecting() -> None:
    test = SequentialTest(0.3, power=0.9)
    while test.decision is None:
        test.update([1, 0], [0, 1])
    assert test.decision == "futile"
    assert test.p_value > 0.05
    short = SequentialTest(0.2, n_max=3).update([1, 1, 1], [1, 1, 1])
    assert short.decision == "exhausted"


def runner(rate: float, errors: int = 0) -> object:
    def run(strength: float, seeds: Sequence[int]) -> pd.DataFrame:
        good = [np.random.default_rng(seed).random() < rate + 0.4 * strength for seed in seeds]
        return pd.DataFrame(
            {"seed": list(seeds), "errored": [seed < errors for seed in seeds], "success": np.array(good, float)}
        )

    return run


def test_a_loop_over_runners_stops_when_it_is_clear() -> None:
    one = runner(0.4, errors=9)
    looks: list[int] = []
    found = run_until(one, one, SequentialTest(0.3, n_max=80), batch=6, tell=lambda test: looks.append(test.n))  # type: ignore[arg-type]
    assert found.decision == "a"
    assert found.n_errored == 9
    assert found.n == looks[-1] < 80
    assert len(found.episodes) == 2 * (found.n + found.n_errored)
    assert set(found.episodes["side"]) == {"a", "b"}
    assert "higher with a" in str(found)
    assert found.to_dict()["interval"]["low"] >= 0
    same = run_until(one, one, SequentialTest(0.3, n_max=20), strengths=(0.0, 0.0))  # type: ignore[arg-type]
    assert same.decision == "exhausted"
    assert same.n == 20
    assert "not" in same.verdict or "no difference" in same.verdict


def test_what_is_wrong_is_said() -> None:
    for bad in ({"gap": 0.0}, {"gap": 1.0}, {"alpha": 1.0}, {"power": 0.2}, {"spread": 2.0}, {"n_max": 0}):
        with pytest.raises(BadInput):
            SequentialTest(**bad)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="one length"):
        SequentialTest().update([1.0], [1.0, 0.0])
    with pytest.raises(BadInput, match="finite"):
        SequentialTest().update([np.nan], [0.0])
    with pytest.raises(BadInput, match="n_max"):
        run_until(runner(0.5), runner(0.5), SequentialTest())  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="errored"):
        run_until(runner(0.5, 10**6), runner(0.5), SequentialTest(n_max=5))  # type: ignore[arg-type]


def test_a_smaller_limit_only_takes_decisions_away() -> None:
    runs = Runs(np.array([1.0, 0.0, -1.0]), np.array([5, 20, 12]))
    assert runs.at(10).decided.tolist() == [1.0, 0.0, 0.0]
    assert runs.at(10).pairs.tolist() == [5, 10, 10]
