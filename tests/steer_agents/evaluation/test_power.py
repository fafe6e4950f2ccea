"""Planning: exact power against enumeration and simulation, and what is refused."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.compare import mcnemar_p
from steer_agents.evaluation.power import Discordance, binary_plan, draw, mcnemar_power, mean_plan, sequential_plan


def test_mcnemars_power_equals_the_sum_over_all_tables() -> None:
    differ, n = Discordance(0.5, 0.1), 14
    expected = 0.0
    for only_a, only_b in itertools.product(range(n + 1), repeat=2):
        if only_a + only_b <= n and mcnemar_p(only_a, only_b) <= 0.05:
            rest = n - only_a - only_b
            ways = math.factorial(n) / (math.factorial(only_a) * math.factorial(only_b) * math.factorial(rest))
            expected += ways * 0.5**only_a * 0.1**only_b * 0.4**rest
    assert mcnemar_power(n, differ) == pytest.approx(expected, rel=1e-9)
    assert mcnemar_power(5, differ) == 0.0  # five pairs cannot give p <= .05


def test_the_level_of_the_exact_test_is_kept() -> None:
    assert all(mcnemar_power(n, Discordance(0.2, 0.2)) <= 0.05 for n in range(1, 80, 7))


def test_the_fixed_plan_has_its_power_in_simulation() -> None:
    differ = Discordance.of(0.8, 0.6)
    plan = binary_plan(differ, 0.8)
    assert plan.pairs == 91
    d = draw(differ, 1500, plan.pairs, 0)
    tables = [((row > 0).sum(), (row < 0).sum()) for row in d]
    p = {table: mcnemar_p(*map(int, table)) for table in set(tables)}
    reject = [p[table] <= 0.05 for table in tables]
    assert np.mean(reject) == pytest.approx(plan.power, abs=0.035)
    assert all(mcnemar_power(n, differ) >= 0.8 for n in range(plan.pairs, plan.pairs + 10))
    assert mcnemar_power(plan.pairs - 1, differ) < 0.8


def test_correlated_pairs_need_fewer() -> None:
    needed = [binary_plan(Discordance.of(0.8, 0.6, rho)).pairs for rho in (0.0, 0.3, 0.6)]
    assert needed == sorted(needed, reverse=True)
    assert needed[0] > 1.5 * needed[2]


def test_mean_plans_match_the_textbook_and_simulation() -> None:
    assert mean_plan(0.5, 1.0).pairs == 34  # Cohen 1988: d_z = .5, power .8, two-sided .05
    assert mean_plan(-1.0, 2.0).pairs == 34
    plan = mean_plan(1.0, 1.0, power=0.9)
    x = np.random.default_rng(0).normal(1.0, 1.0, size=(4000, plan.pairs))
    t = np.abs(x.mean(axis=1)) / (x.std(axis=1, ddof=1) / math.sqrt(plan.pairs))
    from scipy import stats

    assert (t > stats.t.ppf(0.975, plan.pairs - 1)).mean() == pytest.approx(plan.power, abs=0.02)
    assert mean_plan(50.0, 1.0).pairs >= 6  # below six pairs, sign flips cannot give p <= .05


def test_the_sequential_plan_needs_fewer_on_average_either_way_round() -> None:
    down, up = (sequential_plan(Discordance.of(*rates), 0.8, repeats=800) for rates in ((0.6, 0.8), (0.8, 0.6)))
    for design, plan in (down, up):
        assert plan.mean < 0.75 * binary_plan(Discordance.of(0.8, 0.6)).pairs
        assert plan.power >= 0.8
        assert design.n_max == plan.pairs
    assert down[1].mean == pytest.approx(up[1].mean, rel=0.1)


def test_what_is_wrong_is_said() -> None:
    with pytest.raises(BadInput, match="no difference"):
        binary_plan(Discordance(0.2, 0.2))
    with pytest.raises(BadInput, match="impossible"):
        Discordance.of(0.9, 0.2, 0.9)
    with pytest.raises(BadInput, match="from 0 to 1"):
        Discordance.of(1.2, 0.2)
    with pytest.raises(BadInput, match="more than"):
        binary_plan(Discordance(0.301, 0.3))
    with pytest.raises(BadInput, match="sd > 0"):
        mean_plan(0.1, 0.0)
    with pytest.raises(BadInput, match="between 0 and 1"):
        mean_plan(0.1, 1.0, power=1.0)
