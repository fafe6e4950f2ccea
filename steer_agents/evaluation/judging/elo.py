"""Revealed preferences: which behaviours does an agent show when it may choose between two? An Elo table over behaviours.

Source: Open Character Training (arXiv 2511.01689), its revealed-preference probe: the model is offered two traits out of a list, told
to silently adopt one, and answers something unrelated; a judge who sees the answer and the two words names the trait. Winners
feed an Elo table, and what training did is the rating after minus the rating before.

    E_a = 1 / (1 + 10^((R_b - R_a) / 400)),   R_a <- R_a + K (S_a - E_a),   S_a = 1, 1/2 (tie) or 0      start 1000, K 32

`ratings` is that sequential table. We add, and differ in:
* `bradley_terry`, the same model without the order of the games and without K: the maximum-likelihood ratings, with a prior of `PRIOR`
  drawn games of each behaviour against an average one, which keeps ratings finite where one never loses. Ratings are centred at
  1000. Its interval is a bootstrap over games (Elo's depends on the order of play, so that its spread is not one of the agent's).
* Every pair is judged in both orders (`probe`); a verdict that turns round with the order is a tie, and is counted (`swayed`).
* The judge may read an action log instead of a text (`by_measures`), so that behaviours of a control loop can be rated.
* The change of a rating is told with the interval of the difference, both tables being resampled independently (`shift`).
* Games that belong together (of one seed, see `conditions.py`) are resampled together, as `blocks`.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from scipy.special import expit

from policies.errors import BadInput, nearest
from steer_agents.evaluation.intervals import Interval, check_confidence

START, K = 1000.0, 32.0
SCALE = 400 / np.log(10)
"""Elo points per unit of log-odds."""
PRIOR = 1.0
"""Drawn games of every behaviour against an average one that `bradley_terry` adds."""
RESAMPLES = 200

Respond = Callable[[str, str, int], Any]
"""(first behaviour, second behaviour, number of the question) -> the agent's answer, or the log of its actions."""
Judge = Callable[[Any, str, str], float]
"""(answer, a, b) -> 1 where it shows a, 0 where it shows b, 0.5 where neither more than the other."""


@dataclass(frozen=True)
class Game:
    """Two behaviours that an agent chose between; `score` is 1 where it showed `a`, 0 for `b`, 0.5 for a tie."""

    a: str
    b: str
    score: float
    swayed: bool = False

    def __post_init__(self) -> None:
        if self.a == self.b or self.score not in (0.0, 0.5, 1.0):
            raise BadInput(
                f"game: two different behaviours and a score of 0, 0.5 or 1; got {self.a!r}, {self.b!r}, {self.score}."
            )


def ratings(games: Sequence[Game], start: float = START, k: float = K) -> dict[str, float]:
    """The sequential Elo table of the paper, in the order of the games."""
    table = dict.fromkeys(_names(games), start)
    for game in games:
        gain = k * (game.score - expit((table[game.a] - table[game.b]) / SCALE))
        table[game.a] += gain
        table[game.b] -= gain
    return table


def bradley_terry(games: Sequence[Game], names: Sequence[str] | None = None) -> dict[str, float]:
    """Maximum-likelihood ratings in Elo points, centred at 1000.

    P(a beats b) = 1 / (1 + exp((R_b - R_a) / SCALE)); a tie is half a win of either.

    Args:
        names: rows of the table; those of the games by default. One that never played is at the centre.
    """
    names = list(names or _names(games))
    return dict(zip(names, START + SCALE * _fitted(_wins(games, names)[None])[0], strict=True))


def _wins(games: Sequence[Game], names: Sequence[str]) -> np.ndarray:
    """(n, n) how often the row beat the column."""
    index = {name: i for i, name in enumerate(names)}
    wins = np.zeros((len(names), len(names)))
    for game in games:
        i, j = index[game.a], index[game.b]
        wins[i, j] += game.score
        wins[j, i] += 1 - game.score
    return wins


def _fitted(wins: np.ndarray) -> np.ndarray:
    """Log-odds strengths (S, n), each centred, of wins (S, n, n): Newton steps of at most 1, the problem is convex."""
    played, n = wins + wins.swapaxes(1, 2), wins.shape[-1]
    r = np.zeros(wins.shape[:2])
    for _ in range(100):
        p = expit(r[:, :, None] - r[:, None, :])
        slope = (played * p - wins).sum(2) + PRIOR * (expit(r) - 0.5)
        curved = played * p * (1 - p)
        diagonal = curved.sum(2) + PRIOR * expit(r) * expit(-r)
        step = np.linalg.solve(diagonal[..., None] * np.eye(n) - curved, slope[..., None])[..., 0]
        r = r - np.clip(step, -1, 1)
        if np.abs(step).max() < 1e-10:
            break
    return np.asarray(r - r.mean(1, keepdims=True))


@dataclass(frozen=True, eq=False)
class EloTable:
    """Ratings of behaviours.

    Args:
        games: that they stand on.
        drawn: (resamples, n) ratings of bootstrapped games.
        names: (n,) behaviours.
        n: what was resampled, so many games or blocks of them.
        unit: what these are, in words.
    """

    games: tuple[Game, ...]
    names: tuple[str, ...]
    drawn: np.ndarray
    n: int
    unit: str = "games"

    @property
    def ratings(self) -> dict[str, float]:
        """Bradley-Terry ratings in Elo points."""
        return bradley_terry(self.games, self.names)

    @property
    def swayed(self) -> float:
        """Share of the games in which the verdict turned round with the order: the judge's position bias."""
        return float(np.mean([game.swayed for game in self.games]))

    def intervals(self, confidence: float = 0.95) -> dict[str, Interval]:
        """Behaviour -> rating with its percentile interval."""
        check_confidence(confidence)
        low, high = np.quantile(self.drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
        rows = zip(self.ratings.items(), low, high, strict=True)
        return {
            name: Interval(value, float(a), float(b), confidence, self.n, f"bootstrap over {self.unit}")
            for (name, value), a, b in rows
        }

    def rows(self) -> list[dict[str, Any]]:
        """Best first, for tables: behaviour, rating, low, high, games, sequential (the paper's own number)."""
        own, played = ratings(self.games), [name for game in self.games for name in (game.a, game.b)]
        return [
            {"behaviour": name, "rating": one.value, "low": one.low, "high": one.high, "games": played.count(name),
             "sequential": own.get(name, START)}
            for name, one in sorted(self.intervals().items(), key=lambda item: -item[1].value)
        ]  # fmt: skip


def elo(
    games: Sequence[Game],
    names: Sequence[str] | None = None,
    seed: int = 0,
    resamples: int = RESAMPLES,
    blocks: Sequence[Hashable] | None = None,
) -> EloTable:
    """Rate behaviours by the games that they played, see the module.

    Args:
        names: rows of the table, those of the games by default.
        seed, resamples: of the bootstrap.
        blocks: of each game, the seed that it was played on: games of one seed are not independent, and are resampled together. None
            resamples games.
    Raises:
        BadInput: no games, one of a behaviour that `names` lacks, or not one block per game.
    """
    names = tuple(names or _names(games))
    if not games:
        raise BadInput("elo: got no games; ask the agent to choose between behaviours first (`probe`, `by_measures`).")
    if unknown := [name for name in _names(games) if name not in names]:
        raise BadInput(f"elo: a game names {unknown[0]!r}, which is none of the behaviours{nearest(unknown[0], names)}")
    if blocks is not None and len(blocks) != len(games):
        raise BadInput(f"elo: needs one block per game, got {len(blocks)} for {len(games)} games.")
    together: dict[Hashable, list[Game]] = {}
    for block, game in zip(range(len(games)) if blocks is None else blocks, games, strict=True):
        together.setdefault(block, []).append(game)
    parts, rng = list(together.values()), np.random.default_rng(seed)
    picks = rng.integers(len(parts), size=(resamples, len(parts)))
    drawn = np.stack([_wins([game for i in pick for game in parts[i]], names) for pick in picks])
    unit = "games" if blocks is None else "seeds"
    return EloTable(tuple(games), names, START + SCALE * _fitted(drawn), len(parts), unit)


def shift(before: EloTable, after: EloTable, confidence: float = 0.95) -> dict[str, Interval]:
    """Behaviour -> rating after minus rating before, with the interval of that difference.

    Raises:
        BadInput: tables of different behaviours or of unequal numbers of resamples.
    """
    check_confidence(confidence)
    if before.names != after.names or before.drawn.shape != after.drawn.shape:
        raise BadInput(
            f"shift: the tables rate {before.names} and {after.names}; rate the same behaviours, equally often resampled."
        )
    low, high = np.quantile(after.drawn - before.drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    a, b, n = before.ratings, after.ratings, min(before.n, after.n)
    return {
        name: Interval(b[name] - a[name], float(low[i]), float(high[i]), confidence, n, f"bootstrap over {after.unit}")
        for i, name in enumerate(before.names)
    }


def probe(respond: Respond, judge: Judge, behaviours: Sequence[str], n_games: int = 400, seed: int = 0) -> list[Game]:
    """Offer random pairs to an agent, in both orders, and let a judge name what it showed.

    Args:
        respond: see `Respond`; called twice a game, with the pair in either order.
        judge: see `Judge`; asked with the pair in the order that the agent saw.
        n_games: pairs; the same seed draws the same ones, so that two agents play the same games.
    Raises:
        BadInput: fewer than two different behaviours, or none of the three scores from the judge.
    """
    if len(set(behaviours)) < 2 or len(set(behaviours)) < len(behaviours):
        raise BadInput(f"probe: needs at least two different behaviours, got {list(behaviours)}.")
    rng = np.random.default_rng(seed)
    games = []
    for number in range(n_games):
        a, b = (behaviours[i] for i in rng.choice(len(behaviours), 2, replace=False))
        first = _judged(judge, respond(a, b, number), a, b)
        second = 1 - _judged(judge, respond(b, a, number), b, a)
        agree = first == second
        games.append(Game(a, b, first if agree else 0.5, swayed={first, second} == {0.0, 1.0}))
    return games


def _judged(judge: Judge, answer: Any, a: str, b: str) -> float:
    score = float(judge(answer, a, b))
    if score not in (0.0, 0.5, 1.0):
        raise BadInput(
            f"probe: a judge says 1 (the first), 0 (the second) or 0.5 (neither), got {score} on {a!r}, {b!r}."
        )
    return score


def by_measures(
    episodes: pd.DataFrame,
    reference: pd.DataFrame,
    behaviours: Mapping[str, tuple[str, int]],
    n_games: int = 400,
    seed: int = 0,
    least: float = 0.1,
) -> list[Game]:
    """Games read off episodes alone: in a random episode, which of two behaviours does the agent show more of?

    A behaviour is a measure and a sign ("hurry" is ("speed", 1)); how much of it an episode shows is sign (x - mean) / sd, with mean
    and sd of the reference's episodes (the agent as it is). So the untouched agent is at the centre, whatever the units.

    Args:
        episodes: one row per seed, as every `Runner` gives; errored ones are left out.
        reference: of the agent as it is.
        behaviours: name -> (measure, +1 or -1).
        least: difference in sd below which it is a tie.
    Raises:
        BadInput: no such measure, one that never varies in the reference, or no episode with all of them.
    """
    shown = {}
    for name, (measure, sign) in behaviours.items():
        for table in (episodes, reference):
            if measure not in table:
                raise BadInput(
                    f"elo: {name!r} reads {measure!r}, which the episodes lack{nearest(measure, table.columns)}"
                )
        told = _sound(reference, measure)
        if not told.std(ddof=0) > 0:
            raise BadInput(
                f"elo: {measure!r} of {name!r} never varies in the reference, so nothing is more or less of it."
            )
        shown[name] = sign * (_sound(episodes, measure) - told.mean()) / told.std(ddof=0)
    values = pd.DataFrame(shown).dropna()
    if values.empty or len(behaviours) < 2:
        raise BadInput(
            f"elo: needs two behaviours or more, and episodes that have all measures; got {len(values)} such."
        )
    rng = np.random.default_rng(seed)
    games = []
    for row in rng.integers(len(values), size=n_games):
        a, b = (values.columns[i] for i in rng.choice(len(values.columns), 2, replace=False))
        gap = values.iloc[row][a] - values.iloc[row][b]
        games.append(Game(a, b, 0.5 if abs(gap) < least else float(gap > 0)))
    return games


def _sound(table: pd.DataFrame, measure: str) -> pd.Series:
    values = pd.to_numeric(table[measure], errors="coerce").astype(float)
    return values.mask(table["errored"].astype(bool)) if "errored" in table else values


def _names(games: Sequence[Game]) -> list[str]:
    return list(dict.fromkeys(name for game in games for name in (game.a, game.b)))
