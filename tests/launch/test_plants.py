"""Planted steerings get the verdict that they must get."""

from __future__ import annotations

import pytest

from launch.plants import PLANTS, judged


@pytest.mark.parametrize("name", PLANTS)
def test_a_plant_gets_its_verdict(name: str) -> None:
    words = [judged(name, repeat).verdict.word for repeat in range(3)]
    assert words.count(PLANTS[name].verdict) >= 2, words


ASKED = ("works", "only breaks", "only adds noise")
"""The three that the verdict must tell apart in 95 of 100; the others are harder ("works at a cost" got 88)."""


@pytest.mark.slow
@pytest.mark.parametrize("name", PLANTS)
def test_a_plant_gets_its_verdict_in_95_of_100_repeats(name: str) -> None:
    words = [judged(name, repeat).verdict.word for repeat in range(1000, 1100)]
    assert words.count(PLANTS[name].verdict) >= (95 if name in ASKED else 80), {w: words.count(w) for w in set(words)}


def test_the_three_exist() -> None:
    assert set(ASKED) < set(PLANTS)
