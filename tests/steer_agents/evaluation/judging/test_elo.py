"""Elo over behaviours: closed forms, order, ties; a planted agent that is steered towards one of eight behaviours."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.judging.elo import SCALE, Game, bradley_terry, by_measures, elo, probe, ratings, shift

TRAITS = ("explore", "exploit", "hurry", "wait", "repeat", "alternate", "ask", "stop")
WIDTH = 576
"""Hidden size of a small language model: how far a random push reaches depends on it."""


def test_the_sequential_table_by_hand() -> None:
    table = ratings([Game("a", "b", 1.0), Game("b", "a", 0.5)])
    assert table["a"] + table["b"] == 2000
    expected = 1 / (1 + 10 ** ((1016 - 984) / 400))  # of b in the second game
    assert table["b"] == pytest.approx(984 + 32 * (0.5 - expected), abs=1e-9)


def test_two_behaviours_have_the_log_odds_of_their_wins() -> None:
    """With the prior's two half games: checked at the stationary point."""
    found = bradley_terry([Game("a", "b", 1.0)] * 80 + [Game("a", "b", 0.0)] * 20)
    r = (found["a"] - 1000) / SCALE
    slope = 100 / (1 + np.exp(-2 * r)) - 80 + (1 / (1 + np.exp(-r)) - 0.5)
    assert abs(slope) < 1e-8
    assert found["a"] - found["b"] == pytest.approx(SCALE * np.log(80 / 20), rel=0.03)


def test_the_order_of_the_games_does_not_matter_to_bradley_terry() -> None:
    rng = np.random.default_rng(0)
    games = [Game(*rng.choice(TRAITS, 2, replace=False), float(rng.integers(2))) for _ in range(60)]
    one, other = bradley_terry(games, TRAITS), bradley_terry(games[::-1], TRAITS)
    assert max(abs(one[name] - other[name]) for name in TRAITS) < 1e-3
    assert ratings(games) != ratings(games[::-1])


def test_one_that_never_loses_has_a_finite_rating() -> None:
    assert 1000 < bradley_terry([Game("a", "b", 1.0)] * 50)["a"] < 2500


def test_a_judge_of_the_first_place_only_gives_ties() -> None:
    games = probe(lambda a, b, i: "", lambda answer, a, b: 1.0, TRAITS, 100)
    assert {game.score for game in games} == {0.5}
    table = elo(games, TRAITS, resamples=20)
    assert table.swayed == 1.0
    assert all(abs(value - 1000) < 1e-6 for value in table.ratings.values())


class Agent:
    """Chooses one of two behaviours by its utilities U h and logs what it did; steering adds to h."""

    def __init__(self, push: np.ndarray | None = None, seed: int = 0) -> None:
        rng = np.random.default_rng(11)
        self.readout = np.linalg.qr(rng.standard_normal((WIDTH, len(TRAITS))))[0].T  # (8, D) orthonormal rows
        self.h = 0.3 * rng.standard_normal(WIDTH) + (0 if push is None else push)
        self.rng = np.random.default_rng(seed)

    def __call__(self, a: str, b: str, number: int) -> list[str]:
        u = self.readout @ self.h
        gap = u[TRAITS.index(a)] - u[TRAITS.index(b)]
        chosen = a if self.rng.random() < 1 / (1 + np.exp(-gap)) else b
        return [chosen] * 3 + ["noise"]


def by_log(log: list[str], a: str, b: str) -> float:
    return 0.5 if log.count(a) == log.count(b) else float(log.count(a) > log.count(b))


def test_steering_towards_one_behaviour_raises_its_rating_and_a_random_push_none() -> None:
    """The sheet's acceptance test 1, (i) and (ii), on a planted agent: 8 behaviours, 400 pairings, a judge that reads the log."""
    strength = 3.0
    towards = Agent().readout[0]
    anything = np.random.default_rng(5).standard_normal(WIDTH)
    anything *= strength / np.linalg.norm(anything)

    def table(push: np.ndarray | None) -> object:
        return elo(probe(Agent(push), by_log, TRAITS, 400, seed=2), TRAITS, seed=1)

    base = table(None)
    steered = shift(base, table(strength * towards))
    control = shift(base, table(anything))
    assert steered[TRAITS[0]].low > 100
    others = [abs(steered[name].value) for name in TRAITS[1:]]
    assert np.median(others) <= steered[TRAITS[0]].value / 2
    assert all(one.low < 60 and one.high > -60 for one in control.values())


def test_behaviours_are_read_off_episodes() -> None:
    rng = np.random.default_rng(0)
    base = pd.DataFrame({"speed": rng.normal(1, 0.2, 80), "contact": rng.normal(5, 2, 80), "errored": False})
    quick = base.assign(speed=base["speed"] + 0.4)
    behaviours = {"hurry": ("speed", 1), "dawdle": ("speed", -1), "bump": ("contact", 1)}
    tables = [elo(by_measures(one, base, behaviours, 300), tuple(behaviours)) for one in (base, quick)]
    moved = shift(*tables)
    assert moved["hurry"].low > 100
    assert moved["dawdle"].high < -100
    quick.loc[:5, "errored"] = True
    assert len(by_measures(quick, base, behaviours, 50)) == 50
    assert tables[0].rows()[0].keys() == {"behaviour", "rating", "low", "high", "games", "sequential"}


def test_what_cannot_be_rated_says_why() -> None:
    table = pd.DataFrame({"speed": [1.0, 1.0], "errored": [False, False]})
    with pytest.raises(BadInput, match="never varies"):
        by_measures(table, table, {"hurry": ("speed", 1), "wait": ("speed", -1)})
    with pytest.raises(BadInput, match="lack"):
        by_measures(table, table, {"hurry": ("sped", 1)})
    with pytest.raises(BadInput, match="no games"):
        elo([])
    with pytest.raises(BadInput, match="none of the behaviours"):
        elo([Game("a", "b", 1.0)], ["a", "c"])
    with pytest.raises(BadInput, match="same behaviours"):
        shift(elo([Game("a", "b", 1.0)]), elo([Game("a", "c", 1.0)]))
    with pytest.raises(BadInput, match="or 0"):
        probe(lambda a, b, i: "", lambda answer, a, b: 0.7, TRAITS, 3)
