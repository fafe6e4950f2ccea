"""Is there an effect at all, beyond what any push does, and does the activation say what the policy will do?

    controls   1 - |loudest control| / |effect|   controls: random directions of the same norm, shuffled labels, permuted coordinates;
               further the direction turned round, which must not do the same; and 0 unless zero strength changes nothing
    validity   Spearman's correlation of the logged activation h . v with what the policy then does, over held-out contexts

A low score of `controls` says that the effect is that of being pushed, not of being pushed *there*.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

from policies.errors import BadInput
from steer_agents.evaluation.stress.check import Check, not_measured, unit


def controls(
    effect: float, loud: Mapping[str, float], flipped: float | None, zero_is_zero: bool, sign: int = 1
) -> Check:
    """Whether the effect is the direction's own.

    Args:
        effect: mean effect of the direction at the chosen strength.
        loud: control -> mean effect at the same strength, at least one.
        flipped: mean effect of the direction turned round; None if it was not run.
        zero_is_zero: whether strength 0 left every episode as it is.
        sign: that is asked for.
    Raises:
        BadInput: no controls.
    """
    if not loud:
        raise BadInput("controls: needs at least one control, a random direction of the same norm.")
    name, bound = "controls", 0.5
    own = sign * effect
    worst = max(loud, key=lambda control: abs(loud[control]))
    score = unit(1 - abs(loud[worst]) / own) if own > 0 else 0.0
    told = f"effect {effect:+.3g}; the loudest of {len(loud)} controls, {worst}, does {loud[worst]:+.3g}"
    if flipped is not None:
        score = min(score, unit(1 - sign * flipped / own) if own > 0 else 0.0)
        told += f"; turned round {flipped:+.3g}"
    if not zero_is_zero:
        score, told = 0.0, f"zero strength changes episodes; {told}"
    return Check(
        name,
        score,
        bound,
        told,
        "Do not report it: pushes of the same size elsewhere do as much. Choose a smaller strength or another layer.",
        {"effect": effect, "controls": dict(loud), "flipped": flipped, "zero_is_zero": zero_is_zero, "loudest": worst},
    )


def validity(
    activation: Sequence[float], behaviour: Sequence[float], sign: int = 1, groups: Sequence[str] | None = None
) -> Check:
    """Whether a higher activation goes with what steering up the direction does, on contexts that nothing was chosen on.

    Args:
        activation: logged h . v of each context; behaviour: what was measured after it.
        sign: of the effect of steering along the direction.
        groups: of the contexts (tasks); their means are taken out of both sides first.
    Raises:
        BadInput: lists of different lengths.
    """
    name, bound = "validity", 0.3
    a, b = np.asarray(activation, float), np.asarray(behaviour, float)
    if len(a) != len(b) or (groups is not None and len(groups) != len(a)):
        raise BadInput(f"validity: got {len(a)} activations and {len(b)} behaviours; pass one of each per context.")
    known = np.isfinite(a) & np.isfinite(b)
    a, b = a[known], b[known]
    if groups is not None:
        own = np.asarray(groups)[known]
        for group in np.unique(own):
            a[own == group] -= a[own == group].mean()
            b[own == group] -= b[own == group].mean()
    if len(a) < 8:
        return not_measured(name, bound, f"needs 8 contexts with both, got {len(a)}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant values give NaN, which `unit` reads as no correlation
        rho = sign * float(stats.spearmanr(a, b).statistic)
    return Check(
        name,
        unit(rho),
        bound,
        f"activation and later behaviour have rank correlation {sign * rho:+.2f} over {len(a)} contexts (asked for: sign {sign:+d})",
        "Read the direction as a push only, not as a reading of what the policy is about to do.",
        {"rho": sign * rho, "contexts": len(a), "sign": sign},
    )
