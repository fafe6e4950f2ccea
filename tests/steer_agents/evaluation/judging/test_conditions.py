"""Elo of conditions by seed: a known winner, ties, what is left out, and intervals that are over seeds."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import fsolve
from scipy.special import expit

from policies.errors import BadInput
from steer_agents.evaluation.judging.conditions import between
from steer_agents.evaluation.judging.elo import SCALE, elo


def table(values: list[float], **columns: object) -> pd.DataFrame:
    return pd.DataFrame({"seed": range(len(values)), "speed": values, **columns})


def test_three_conditions_by_hand() -> None:
    """b has more than a on 3 of 4 seeds; c equals a everywhere."""
    a = [1.0, 2.0, 3.0, 4.0]
    played = between({"a": table(a), "b": table([2.0, 3.0, 4.0, 3.0]), "c": table(a)}, "speed")
    assert len(played.games) == 12
    assert played.left_out == 0
    scores = {(x, y): [g.score for g in played.games if (g.a, g.b) == (x, y)] for x, y in (("a", "b"), ("a", "c"))}
    assert scores == {("a", "b"): [0, 0, 0, 1], ("a", "c"): [0.5] * 4}
    found = elo(played.games, blocks=played.seeds)
    rating = {name: one.value for name, one in found.intervals().items()}
    assert rating["a"] == pytest.approx(rating["c"])
    # At the maximum every rating's slope is 0; the prior is half a game won of one against an average player.
    x, y = fsolve(
        lambda r: [4 * expit(r[0] - r[1]) - 1 + expit(r[0]) - 0.5, 8 * expit(r[1] - r[0]) - 6 + expit(r[1]) - 0.5],
        [0, 0],
    )
    assert rating["b"] - rating["a"] == pytest.approx(SCALE * (y - x), abs=1e-5)
    assert {one.n for one in found.intervals().values()} == {4}
    assert {one.method for one in found.intervals().values()} == {"bootstrap over seeds"}
    less = between({"a": table(a), "b": table([2.0, 3.0, 4.0, 3.0])}, "speed", sign=-1)
    assert [g.score for g in less.games] == [1, 1, 1, 0]


def test_errored_and_missing_episodes_leave_their_pairs_and_are_counted() -> None:
    a = table([1.0, 2.0, np.nan, 4.0])
    b = table([2.0, 3.0, 4.0, 5.0], errored=[True, False, False, False])
    played = between({"a": a, "b": b}, "speed")
    assert (played.seeds, played.left_out) == ((1, 3), 2)


def test_games_of_one_seed_are_no_further_evidence() -> None:
    """Nine copies of b: every seed gives ten times the games, and the interval of a must not shrink as if they were new."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 40))
    tables = {"a": table(a.tolist()), **{f"b{i}": table(b.tolist()) for i in range(9)}}
    played = between(tables, "speed")
    few = between({"a": tables["a"], "b0": tables["b0"]}, "speed")

    def width(found: object) -> float:
        one = found.intervals()["a"]  # type: ignore[attr-defined]
        return one.high - one.low

    by_seed = width(elo(played.games, blocks=played.seeds))
    assert by_seed > 2 * width(elo(played.games))
    assert by_seed > width(elo(few.games, blocks=few.seeds))  # a against the centre of ten is further than of two


def test_mistakes_are_told() -> None:
    one = table([1.0, 2.0])
    with pytest.raises(BadInput, match="two conditions"):
        between({"a": one}, "speed")
    with pytest.raises(BadInput, match="same seeds"):
        between({"a": one, "b": table([1.0])}, "speed")
    with pytest.raises(BadInput, match="did you mean 'speed'"):
        between({"a": one, "b": one}, "sped")
    with pytest.raises(BadInput, match="2 pairs"):
        between({"a": one, "b": table([np.nan, np.nan])}, "speed")
    with pytest.raises(BadInput, match="one block per game"):
        elo(between({"a": one, "b": one}, "speed").games, blocks=[1])
