"""Searches: complete, repeatable, and the same whoever answers."""

from __future__ import annotations

import pytest

from launch.sweep.space import SAMPLERS, Adaptive, Axis, Grid, Point, Random
from policies.errors import BadInput

LAYER = Axis("layer", ("parts", 0, "site", "layer"), values=(2, 4, 8))
CONTROL = Axis("control", ("control",), values=("none", "random 0"))
STRENGTH = Axis("strength", ("parts", 0, "strength"), low=-1.0, high=1.0)


def test_a_grid_is_every_combination_once() -> None:
    grid = Grid([LAYER, CONTROL])
    points = grid.ask()
    assert len(points) == grid.count == 6
    assert points[:3] == [
        {"layer": 2, "control": "none"}, {"layer": 2, "control": "random 0"}, {"layer": 4, "control": "none"}
    ]  # fmt: skip
    assert grid.ask() == []


def test_random_points_are_distinct_and_repeat_with_their_seed() -> None:
    points = Random([LAYER, CONTROL], 6, seed=3).ask()
    assert len({tuple(point.items()) for point in points}) == 6
    assert points == Random([LAYER, CONTROL], 6, seed=3).ask()
    assert Random([LAYER, STRENGTH], 5, seed=3).ask() != Random([LAYER, STRENGTH], 5, seed=4).ask()
    with pytest.raises(BadInput, match="7 distinct points"):
        Random([LAYER, CONTROL], 7)


def test_ranges_keep_their_ends() -> None:
    log = Axis("rate", ("env", "rate"), low=1e-3, high=10.0, log=True)
    whole = Axis("steps", ("max_steps",), low=1, high=3, integer=True)
    points = Random([log, whole], 300, seed=0).ask()
    assert all(1e-3 <= point["rate"] <= 10 for point in points)
    assert 0.4 < sum(point["rate"] < 0.1 for point in points) / 300 < 0.6
    assert {point["steps"] for point in points} == {1, 2, 3}
    with pytest.raises(BadInput, match="above 0"):
        Axis("rate", ("env",), low=0.0, high=1.0, log=True)


def answered(search: Adaptive) -> list[Point]:
    """What is asked when the best is layer 4 at strength 0.5, and layer 8 always fails."""
    asked: list[Point] = []
    while points := search.ask():
        asked += points
        search.tell([
            None if point["layer"] == 8 else -abs(point["strength"] - 0.5) - (point["layer"] != 4) for point in points
        ])  # fmt: skip
    return asked


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "gp"])
def test_an_adaptive_search_repeats_itself_and_is_told_in_rounds(sampler: str) -> None:
    pytest.importorskip("optuna")
    first, again = (answered(Adaptive([LAYER, STRENGTH], 22, True, 5, sampler, round_size=4)) for _ in range(2))
    assert first == again
    assert len(first) == 22
    assert first != answered(Adaptive([LAYER, STRENGTH], 22, True, 6, sampler, round_size=4))


def test_an_adaptive_search_goes_where_the_numbers_are_good() -> None:
    pytest.importorskip("optuna")
    asked = answered(Adaptive([LAYER, STRENGTH], 60, True, 0, "tpe", round_size=5))
    late = asked[-25:]
    assert sum(point["layer"] == 4 for point in late) > 15
    assert sum(abs(point["strength"] - 0.5) < 0.3 for point in late) > 13
    search = Adaptive([LAYER], 4, False)
    search.ask()
    with pytest.raises(BadInput, match="tell the results"):
        search.ask()
    with pytest.raises(BadInput, match="did you mean 'tpe'"):
        Adaptive([LAYER], 4, True, sampler="tpo")
