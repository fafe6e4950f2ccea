"""Many comparisons at once: p-values that stay honest when the best of many strengths is looked at.

| method | holds | source |
| --- | --- | --- |
| `holm` | family-wise error rate, whatever the dependence | Holm 1979, Scand. J. Stat. 6:65 |
| `benjamini_hochberg` | false discovery rate, independent or positively dependent tests | Benjamini and Hochberg 1995 (SciPy's) |
| `max_t` | family-wise error rate, using the dependence that shared seeds bring | Westfall and Young 1993, step-down max T |

All give adjusted p-values: compare them with alpha as they are. `max_t` flips the sign of a seed in all conditions at once, so it is exact
where "no difference" means that the differences of a seed are jointly as likely as their opposites.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd
from scipy import stats

from policies.errors import BadInput
from steer_agents.evaluation.compare import EXACT_PAIRS, compare
from steer_agents.evaluation.intervals import RESAMPLES
from steer_agents.evaluation.pairing import HasEpisodes, pairs


def holm(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p = max over j <= rank of min(1, (K - j + 1) p_(j)).

    Args:
        p_values: (K,) in [0, 1].
    """
    p = _checked(p_values)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(np.minimum(1.0, p[order] * np.arange(len(p), 0, -1)))
    adjusted = np.empty_like(p)
    adjusted[order] = stepped
    return adjusted


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Adjusted p for the false discovery rate.

    Args:
        p_values: (K,) in [0, 1].
    """
    return np.asarray(stats.false_discovery_control(_checked(p_values), method="bh"), dtype=np.float64)


def max_t(differences: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> np.ndarray:
    """Step-down max-T adjusted p-values of K conditions on the same n seeds, by flipping signs of whole seeds.

    T_k = |sum_i d_ik| / sqrt(sum_i d_ik^2), which flipping leaves on one scale for all conditions; its order over patterns of signs is that
    of Student's t. All 2^n patterns for up to 13 seeds, else p = (1 + hits) / (1 + resamples).

    Args:
        differences: (n, K), condition minus base; finite.
        seed: of the patterns.
    Returns:
        (K,); 1 for a condition that never differs.
    Raises:
        BadInput: not a table of finite numbers.
    """
    d = np.asarray(differences, dtype=np.float64)
    if d.ndim != 2 or 0 in d.shape or not np.isfinite(d).all():
        raise BadInput(f"max_t: expected a table of finite differences (seeds, conditions), got shape {d.shape}.")
    n, conditions = d.shape
    norm = np.sqrt(np.square(d).sum(axis=0))
    unit = np.divide(d, norm, out=np.zeros_like(d), where=norm > 0)
    observed = np.abs(unit.sum(axis=0))
    order = np.argsort(-observed, kind="stable")
    unit, observed = unit[:, order], observed[order]
    exact = n <= EXACT_PAIRS
    total = 2**n if exact else resamples
    rng = np.random.default_rng(seed)
    hits = np.zeros(conditions)
    for start in range(0, total, 1000):
        count = min(1000, total - start)
        if exact:
            signs = ((np.arange(start, start + count)[:, None] >> np.arange(n)) & 1) * 2.0 - 1.0
        else:
            signs = rng.choice((-1.0, 1.0), size=(count, n))
        flipped = np.abs(signs @ unit)
        largest = np.maximum.accumulate(flipped[:, ::-1], axis=1)[:, ::-1]
        hits += (largest >= observed - 1e-12 * n).sum(axis=0)
    p = hits / total if exact else (1 + hits) / (1 + total)
    p = np.where(observed > 0, np.maximum.accumulate(p), 1.0)
    adjusted = np.empty(conditions)
    adjusted[order] = p
    return adjusted


def compare_many(
    conditions: Mapping[str, HasEpisodes | pd.DataFrame],
    base: HasEpisodes | pd.DataFrame,
    measure: str = "success",
    *,
    confidence: float = 0.95,
    seed: int = 0,
) -> pd.DataFrame:
    """Every condition against one base, all on the same seeds.

    Returns:
        one row per condition: condition, value, low, high (each at its own confidence), n, p, p_holm, p_bh, p_max_t, and shown: the
        family-wise p_max_t < 1 - confidence. Max T uses the seeds that all conditions have.
    Raises:
        BadInput: no conditions, or what `compare` refuses.
    """
    if not conditions:
        raise BadInput("compare_many: got no conditions.")
    found = {
        name: compare(table, base, measure, confidence=confidence, names=(name, "base"), seed=seed)
        for name, table in conditions.items()
    }
    paired = {name: pairs(table, base, measure) for name, table in conditions.items()}
    common = sorted(set.intersection(*[set(one.seeds) for one in paired.values()]))
    if not common:
        raise BadInput(f"compare_many: no seed without an error is common to {', '.join(conditions)}.")
    columns = [pd.Series(one.x - one.y, index=one.seeds).loc[common].to_numpy() for one in paired.values()]
    p = np.array([one.p_value for one in found.values()])
    joint = max_t(np.column_stack(columns), seed)
    table = pd.DataFrame(
        [
            {"condition": name, "value": one.value, "low": one.low, "high": one.high, "n": one.n}
            for name, one in found.items()
        ]
    )
    return table.assign(
        p=p, p_holm=holm(p), p_bh=benjamini_hochberg(p), p_max_t=joint, shown=joint < 1 - confidence
    )  # fmt: skip


def _checked(p_values: np.ndarray) -> np.ndarray:
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1 or not len(p) or not ((p >= 0) & (p <= 1)).all():
        raise BadInput(f"p-values: expected a list of numbers in [0, 1], got {p_values!r}.")
    return p
