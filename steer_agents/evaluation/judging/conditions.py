"""Conditions as players: on every seed, which of two conditions shows more of a measure? Games for an Elo table, paired by seed.

    played = between({"unsteered": a, "slow": b, "random": c}, "speed")
    elo(played.games, list(tables), blocks=played.seeds).rows()

Source: the Elo table of Open Character Training (arXiv 2511.01689), see `elo.py`; ours is that the players are conditions, not
behaviours. A seed gives one game for every two conditions; equal values are a tie. A rating therefore says how often a condition has
more on the same seed, never by how much. The games of one seed share its world: intervals are a bootstrap over seeds (`blocks`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import pandas as pd

from policies.errors import BadInput
from steer_agents.evaluation.judging.elo import Game
from steer_agents.evaluation.pairing import pairs


@dataclass(frozen=True)
class Played:
    """Games between conditions.

    Args:
        games: all of them.
        seeds: of each game.
        left_out: pairs of episodes without a game, since one errored or lacks the measure.
    """

    games: tuple[Game, ...]
    seeds: tuple[int, ...]
    left_out: int


def between(tables: Mapping[str, pd.DataFrame], measure: str, sign: int = 1) -> Played:
    """See the module.

    Args:
        tables: condition -> one row per seed, the same seeds in all of them.
        measure: column; sign: +1 where more of it wins, -1 where less.
    Raises:
        BadInput: fewer than two conditions, seeds that do not pair, no such column, or no pair left.
    """
    if len(tables) < 2 or sign not in (-1, 1):
        raise BadInput(
            f"elo: needs two conditions or more and a sign of -1 or 1, got {', '.join(tables) or 'none'} and {sign}."
        )
    games, seeds, left_out = list[Game](), list[int](), 0
    for a, b in combinations(tables, 2):
        found = pairs(tables[a], tables[b], measure, missing="exclude", none_left=True)
        left_out += found.n_errored + found.n_missing
        seeds += found.seeds
        for x, y in zip(found.x, found.y, strict=True):
            games.append(Game(a, b, 0.5 if x == y else float(sign * (x - y) > 0)))
    if not games:
        raise BadInput(f"elo: of {left_out} pairs of episodes none has {measure!r} on both sides.")
    return Played(tuple(games), tuple(seeds), left_out)
