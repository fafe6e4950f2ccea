"""How many episodes are needed, before any is run.

| plan | of | how |
| --- | --- | --- |
| `binary_plan` | McNemar's exact test on success | exact: Binomial(n, discordance) pairs differ, of each the test's own power |
| `mean_plan` | a mean difference (t or sign-flip test) | noncentral t; sign flips have the same power in the limit |
| `sequential_plan` | `SequentialTest` | simulated: its `n_max` for the power, and the pairs that it needs on average |

Success of two conditions on the same seed is usually positively correlated, which makes fewer pairs differ and so needs fewer episodes:
correlation 0 is the default as the conservative choice; a pilot tells better. Negative correlation needs more.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats

from policies.errors import BadInput
from steer_agents.evaluation.sequential import Design

MOST = 20_000
"""Plans beyond this many pairs are refused."""
RUN = 10
"""An exact test's power goes up and down with n: it has to hold for so many n on end."""


@dataclass(frozen=True)
class Discordance:
    """Shares of pairs in which only one side succeeds.

    Args:
        only_a, only_b: in [0, 1], of all pairs.
    """

    only_a: float
    only_b: float

    def __post_init__(self) -> None:
        if min(self.only_a, self.only_b) < 0 or self.only_a + self.only_b > 1 + 1e-12:
            raise BadInput(
                f"discordance: got shares {self.only_a:.4g} and {self.only_b:.4g}; both are at least 0 and sum to at most 1."
            )

    @classmethod
    def of(cls, p_a: float, p_b: float, correlation: float = 0.0) -> Discordance:
        """From both success rates and the correlation of success within a pair.

        P(both) = p_a p_b + correlation sqrt(p_a (1 - p_a) p_b (1 - p_b)).

        Raises:
            BadInput: rates that are no probabilities, or a correlation that they do not allow.
        """
        for name, rate in (("from", p_a), ("to", p_b)):
            if not 0 <= rate <= 1:
                raise BadInput(f"power: success rate '{name}' is {rate}; allowed are numbers from 0 to 1.")
        deviation = math.sqrt(p_a * (1 - p_a) * p_b * (1 - p_b))
        both = p_a * p_b + correlation * deviation
        least, most = max(0.0, p_a + p_b - 1), min(p_a, p_b)
        if not least - 1e-12 <= both <= most + 1e-12:
            raise BadInput(
                f"power: correlation {correlation} is impossible with rates {p_a} and {p_b}; allowed is "
                f"{(least - p_a * p_b) / deviation:.3f} to {(most - p_a * p_b) / deviation:.3f}."
                if deviation
                else f"power: with rates {p_a} and {p_b} there is no correlation; leave it at 0."
            )
        return cls(max(p_a - both, 0.0), max(p_b - both, 0.0))

    @property
    def share(self) -> float:
        """Of pairs that differ."""
        return self.only_a + self.only_b

    @property
    def gap(self) -> float:
        """Success of a minus success of b."""
        return self.only_a - self.only_b


@dataclass(frozen=True)
class Plan:
    """How many pairs of episodes (each seed is run twice).

    Args:
        pairs: needed; the most that a sequential test may use.
        power: that they give.
        test: which one.
        mean: pairs used on average where the difference exists; as `pairs` for a fixed number.
        mean_null: where there is none.
    """

    pairs: int
    power: float
    test: str
    mean: float
    mean_null: float


def mcnemar_power(n: int, differ: Discordance, alpha: float = 0.05) -> float:
    """Exact power of McNemar's exact two-sided test of n pairs.

    Raises:
        BadInput: n below 1, or alpha no probability.
    """
    if n < 1 or not 0 < alpha < 1:
        raise BadInput(f"mcnemar_power: got n {n} and alpha {alpha}; needed are n >= 1 and alpha between 0 and 1.")
    if differ.share == 0:
        return 0.0
    m = np.arange(1, n + 1)
    weight = stats.binom.pmf(m, n, differ.share)
    m, weight = m[weight > 1e-14], weight[weight > 1e-14]
    # The largest count c of the rarer side with 2 P(X <= c) <= alpha, X ~ Binomial(m, 1/2); -1 for none.
    c = stats.binom.ppf(alpha / 2, m, 0.5)
    c = np.where(stats.binom.cdf(c, m, 0.5) <= alpha / 2, c, c - 1)
    q = differ.only_a / differ.share
    reject = stats.binom.cdf(c, m, q) + stats.binom.sf(m - c - 1, m, q)
    return float(weight @ np.where(c >= 0, reject, 0.0))


def binary_plan(differ: Discordance, power: float = 0.8, alpha: float = 0.05) -> Plan:
    """Pairs for McNemar's exact test: the least n from which the power holds for ten n on end.

    Raises:
        BadInput: no difference to find, or more than `MOST` pairs.
    """
    _check(power, alpha)
    if abs(differ.gap) < 1e-12:
        raise BadInput("power: both sides succeed equally often; there is no difference to find.")
    z = stats.norm.ppf(1 - alpha / 2) * math.sqrt(differ.share) + stats.norm.ppf(power) * math.sqrt(
        max(differ.share - differ.gap**2, 0.0)
    )
    n = max(1, int(0.8 * (z / differ.gap) ** 2))
    held, found = 0, 0.0
    while held < RUN:
        if n > MOST:
            raise BadInput(
                f"power: a difference of {differ.gap:.3g} needs more than {MOST} pairs; ask for a larger one."
            )
        now = mcnemar_power(n, differ, alpha)
        held = held + 1 if now >= power else 0
        found = now if held == 1 else found
        n += 1
    pairs = n - RUN
    return Plan(pairs, found, "McNemar's exact test, fixed number", float(pairs), float(pairs))


def mean_plan(gap: float, sd: float, power: float = 0.8, alpha: float = 0.05) -> Plan:
    """Pairs for a mean difference.

    Args:
        gap: mean difference; sd: standard deviation of the paired differences, in the same unit.
    Raises:
        BadInput: a gap of 0, a deviation that is not positive, or more than `MOST` pairs.
    """
    _check(power, alpha)
    if not (math.isfinite(gap) and gap != 0 and math.isfinite(sd) and sd > 0):
        raise BadInput(f"power: got a mean difference of {gap} with deviation {sd}; needed are gap != 0 and sd > 0.")

    def at(n: int) -> float:
        edge, shift = stats.t.ppf(1 - alpha / 2, n - 1), abs(gap) / sd * math.sqrt(n)
        return float(stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift))

    # Sign flips of n pairs give no p below 2 / 2^n.
    least = max(2, math.ceil(1 + math.log2(1 / alpha)))
    low, high = least, least
    while at(high) < power:
        low, high = high + 1, 2 * high
        if high > MOST:
            raise BadInput(
                f"power: {abs(gap) / sd:.3g} deviations need more than {MOST} pairs; ask for a larger difference."
            )
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if at(middle) >= power else (middle + 1, high)
    return Plan(low, at(low), "paired t or sign-flip test, fixed number", float(low), float(low))


@dataclass(frozen=True)
class Runs:
    """Simulated sequential tests.

    Args:
        decided: (S,) +1 for a, -1 for b, 0 for neither.
        pairs: (S,) used.
    """

    decided: np.ndarray
    pairs: np.ndarray

    def at(self, n_max: int) -> Runs:
        """The same tests with another limit, at most the simulated one."""
        return Runs(np.where(self.pairs <= n_max, self.decided, 0), np.minimum(self.pairs, n_max))

    def in_batches(self, batch: int, n_max: int) -> np.ndarray:
        """(S,) pairs that are run where one looks only after each batch."""
        return np.minimum(-(-self.pairs // batch) * batch, n_max)


def simulate(design: Design, differences: np.ndarray) -> Runs:
    """Many sequential tests at once.

    Args:
        design: its `n_max` is not looked at; the number of columns is the limit.
        differences: (S, n) in the measure's unit.
    """
    repeats, n = differences.shape
    accounts = design.accounts((repeats,))
    decided, used, going = np.zeros(repeats), np.full(repeats, n), np.arange(repeats)
    for t in range(n):
        accounts = design.after(accounts, differences[going, t])
        done = (accounts.reached != 0) | design.futile(accounts)
        if done.any():
            decided[going[done]], used[going[done]] = accounts.reached[done], t + 1
            accounts, going = accounts.rows(~done), going[~done]
        if not len(going):
            break
    return Runs(decided, used)


def draw(differ: Discordance, repeats: int, n: int, seed: int) -> np.ndarray:
    """(repeats, n) differences of success: +1, 0 or -1."""
    u = np.random.default_rng(seed).random((repeats, n))
    return np.where(u < differ.only_a, 1.0, np.where(u < differ.share, -1.0, 0.0))


def sequential_plan(
    differ: Discordance, power: float = 0.8, alpha: float = 0.05, *, repeats: int = 4000, seed: int = 0
) -> tuple[Design, Plan]:
    """The sequential test for a difference of success, with the least `n_max` that gives the power, and what it costs on average.

    Args:
        repeats: simulated tests; one standard error of the simulated power is asked for on top.
        seed: of the simulation.
    Raises:
        BadInput: as `binary_plan`.
    """
    fixed = binary_plan(differ, power, alpha)
    gap = abs(differ.gap)
    if gap >= 1:
        raise BadInput("power: every pair differs the same way; a few episodes of each show that.")
    design = Design(gap, alpha, power, 1.0, max(differ.share, gap**2))
    most = min(4 * fixed.pairs, MOST)
    runs = simulate(design, draw(differ, repeats, most, seed))
    right = np.sort(runs.pairs[runs.decided * differ.gap > 0])
    needed = math.ceil((power + math.sqrt(power * (1 - power) / repeats)) * repeats)
    n_max = int(right[needed - 1]) if len(right) >= needed else most
    same = differ.share / 2
    found, null = runs.at(n_max), simulate(design, draw(Discordance(same, same), repeats, n_max, seed + 1))
    plan = Plan(
        n_max,
        float((found.decided * differ.gap > 0).mean()),
        "sequential, anytime-valid",
        float(found.pairs.mean()),
        float(null.pairs.mean()),
    )
    return Design(gap, alpha, power, 1.0, design.spread, n_max), plan


def _check(power: float, alpha: float) -> None:
    if not (0 < power < 1 and 0 < alpha < 1):
        raise BadInput(f"power: got power {power} and alpha {alpha}; both lie between 0 and 1, e.g. 0.8 and 0.05.")
