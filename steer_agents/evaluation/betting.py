"""Betting against "no difference": capital that cannot be expected to grow unless there is one.

Of paired differences d_1, d_2, ... in [-1, 1], the hypothesis with mean m says E[d_t | past] = m. Two accounts start with 1 and stake

    up_t   = up_{t-1}   (1 + stake_t (d_t - m))          stake_t = gap / E[(d - m)^2], as far as the past tells it
    down_t = down_{t-1} (1 - stake_t (d_t - m))

which for pairs of 0 and 1 is the likelihood ratio of a difference of `gap`, either way, against none (for a bounded difference, its
growth-rate-optimal bet to second order). Their mean is the capital: a nonnegative martingale under the hypothesis, so that by Ville's
inequality it ever reaches 1 / alpha with probability at most alpha, whenever one looks and however one stops. Nothing is asked of the
d_t but that mean: they may depend on one another and change their distribution.

Sources: Waudby-Smith and Ramdas 2024 (J. R. Stat. Soc. B 86:1, arXiv 2010.09686): hedged capital process, confidence sequences from
one bet per m; Gruenwald, de Heide and Koolen 2024 (arXiv 1906.07801): growth-rate optimality. Different here:

* the stake is tuned to the least difference of interest instead of to the data (aGRAPA): this needs fewer pairs where that difference
  exists, and the confidence sequence does not become much narrower than `gap`;
* of pairs of 0 and 1, no more is staked than a win would need to reach 1 / alpha, so that nothing is risked for what exceeds it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

TOP = 0.95
"""Largest stake, as a share of what would ruin an account in one bet."""
ROUNDING = 1e-9


@dataclass(frozen=True)
class Accounts:
    """The accounts of many hypotheses, or of many repeats of one; arrays broadcast.

    Args:
        up, down: what each account holds; both start with 1.
        capital: largest mean of the two that was ever reached.
        reached: +1 where the capital reached 1 / alpha with more in `up`, -1 with more in `down`, 0 where it has not; no more bets then.
        whole: whether all differences so far were -1, 0 or 1.
        n, first, second: how many differences were seen (with those of the prior), their sum and sum of squares.
    """

    up: np.ndarray
    down: np.ndarray
    capital: np.ndarray
    reached: np.ndarray
    whole: np.ndarray
    n: float
    first: np.ndarray
    second: np.ndarray

    @classmethod
    def start(cls, shape: tuple[int, ...], spread: float, weight: float) -> Accounts:
        """Accounts before the first pair.

        Args:
            spread: mean square of the differences that is expected.
            weight: how many pairs that expectation is worth.
        """
        one, zero = np.ones(shape), np.zeros(shape)
        return cls(one, one, one, zero, one > 0, weight, zero, np.full(shape, spread * weight))

    def rows(self, keep: np.ndarray) -> Accounts:
        """Some of many repeats, by mask or index."""
        return replace(
            self, up=self.up[keep], down=self.down[keep], capital=self.capital[keep], reached=self.reached[keep], whole=self.whole[keep],
            first=self.first[keep], second=self.second[keep],
        )  # fmt: skip


def bet(accounts: Accounts, d: np.ndarray | float, m: np.ndarray | float, gap: float, alpha: float) -> Accounts:
    """The accounts after one more difference.

    Args:
        d: in [-1, 1]; one for all, or one for each.
        m: mean that the hypothesis says, in (-1, 1).
        gap: least difference of interest, in (0, 1).
        alpha: error rate.
    """
    now, goal = accounts, 1 / alpha
    square = now.second / now.n - 2 * m * now.first / now.n + np.square(m)
    # A mean of gap has E[d^2] >= gap for d of -1, 0 and 1, else >= gap^2: smaller estimates are chance.
    wanted = gap / np.maximum(square, np.where(now.whole, gap, gap**2))
    up, down = np.minimum(wanted, TOP / (1 + m)), np.minimum(wanted, TOP / (1 - m))
    net = (up * now.up - down * now.down) / 2
    gain = np.maximum(net * (1 - m), -net * (1 + m))
    missing = goal - (now.up + now.down) / 2
    enough = np.where(now.whole, np.minimum(1.0, missing / np.maximum(gain, 1e-300)), 1.0)
    share = np.where(now.reached == 0, enough, 0.0)
    above, below = now.up * (1 + share * up * (d - m)), now.down * (1 - share * down * (d - m))
    capital = (above + below) / 2
    crossed = (now.reached == 0) & (capital >= goal * (1 - ROUNDING))
    return replace(
        now,
        up=above,
        down=below,
        capital=np.maximum(now.capital, capital),
        reached=np.where(crossed, np.where(above > below, 1.0, -1.0), now.reached),
        whole=now.whole & (np.abs(d) * (1 - np.abs(d)) < ROUNDING),
        n=now.n + 1,
        first=now.first + d,
        second=now.second + np.square(d),
    )
