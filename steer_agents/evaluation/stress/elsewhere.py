"""Does the effect hold elsewhere: at neighbouring layers, other strengths, in other contexts, tasks, wordings, on other seeds?

After "When the Coffee Feature Activates on Coffins" (arXiv 2601.03047; known to us by its abstract), which finds steering sensitive
to layer, magnitude and context. The formulas are ours:

    layers      1 - IQR_l(effect) / |median_l(effect)|        over the chosen layer and up to two on either side
    magnitudes  log2(high / low), at most 1                   of the strengths with >= half of the largest effect and <= 10 % broken
    contexts    2 share(sign kept) - 1                        over at least 20 contexts; a coin gets 0
    groups      min_g(effect) / max_g(effect)                 over tasks, or over wordings; fitted to one of them: near 0
    seeds       median of min(|a|, |b|) / max(|a|, |b|)       over random halves of the seeds, 0 where their signs differ

All effects are times the sign that is asked for. A linear effect keeps half of itself over one octave of strengths, which is why an
octave is 1; the plain width is among the numbers, in the unit of the strengths.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from policies.errors import BadInput
from steer_agents.evaluation.stress.check import Check, not_measured, unit

LEAST_CONTEXTS = 20
MOST_BROKEN = 0.1
REACH = 2
"""Layers on either side of the chosen one that are looked at."""


def layers(by_layer: Mapping[int, float], chosen: int, sign: int = 1) -> Check:
    """How equal the effect is at neighbouring layers.

    Args:
        by_layer: layer -> mean effect of steering there at the same strength.
        chosen: the layer in use; those further away than two are not looked at.
        sign: that is asked for, -1 or +1.
    Raises:
        BadInput: the chosen layer has no effect given.
    """
    name, bound = "layers", 0.5
    near = {layer: value for layer, value in sorted(by_layer.items()) if abs(layer - chosen) <= REACH}
    if chosen not in near:
        raise BadInput(f"layers: the chosen layer {chosen} is not among {sorted(by_layer)}.")
    if len(near) < 3:
        return not_measured(name, bound, f"needs three neighbouring layers, there are {sorted(near)}")
    values = sign * np.array(list(near.values()))
    low, middle, high = np.percentile(values, [25, 50, 75])
    score = unit(1 - (high - low) / middle) if middle > 0 else 0.0
    told = ", ".join(f"{layer}: {value:+.3g}" for layer, value in near.items())
    return Check(
        name,
        score,
        bound,
        f"effect by layer {told}" + ("" if middle > 0 else "; most layers do not do what is asked"),
        "Steer where the neighbours agree, or at several layers at once; choose the layer on other seeds than the test's.",
        {"effects": near, "chosen": chosen, "iqr": high - low, "median": float(np.median(list(near.values())))},
    )


def magnitudes(
    strengths: Sequence[float], by_strength: Sequence[float], broken: Sequence[float], chosen: float, sign: int = 1
) -> Check:
    """How wide the range of strengths is that do at least half of what can be had, and break little; linear in between.

    Args:
        strengths: above 0, at least three, all different; the chosen one among them.
        by_strength, broken: mean effect of each, and the share of episodes that it costs.
        chosen: the strength in use.
        sign: that is asked for.
    """
    name, bound = "magnitudes", 0.5
    order = np.argsort(strengths)
    at, value, lost = (np.asarray(x, float)[order] for x in (strengths, by_strength, broken))
    if len(at) < 3 or at[0] <= 0 or len(set(at.tolist())) < len(at) or chosen not in at:
        raise BadInput(
            f"magnitudes: needs three different strengths above 0 with {chosen:g} among them, got {list(strengths)}."
        )
    fine = np.union1d(np.linspace(at[0] / 4, at[-1], 2001), at)
    grown = np.interp(fine, np.concatenate([[0.0], at]), np.concatenate([[0.0], sign * value]))
    cost = np.interp(fine, np.concatenate([[0.0], at]), np.concatenate([[0.0], lost]))
    able = cost <= MOST_BROKEN
    top = float(grown[able].max()) if able.any() else 0.0
    low = high = math.nan
    if top > 0:
        fits = able & (grown >= top / 2)
        centre = int(np.argmin(np.abs(fine - chosen)))
        if fits[centre]:
            outside = np.flatnonzero(~fits)
            before, after = outside[outside < centre], outside[outside > centre]
            low = float(fine[before[-1] + 1 if len(before) else 0])
            high = float(fine[after[0] - 1 if len(after) else -1])
    score = unit(math.log2(high / low)) if high > low else 0.0
    if top <= 0:
        verdict = "no strength does what is asked without breaking more than a tenth of the episodes"
    elif math.isnan(low):
        verdict = f"the chosen strength {chosen:g} does less than half of what can be had, or breaks more than a tenth"
    else:
        verdict = f"strengths {low:.3g} to {high:.3g} keep half of the largest effect and break at most a tenth"
    return Check(
        name,
        score,
        bound,
        verdict,
        "Choose a strength inside a wide range, or let a gate or a controller limit it.",
        {
            "strengths": at.tolist(), "effects": value.tolist(), "broken": lost.tolist(), "low": low, "high": high,
            "width": high - low, "chosen": chosen,
        },
    )  # fmt: skip


def contexts(by_context: Sequence[float], sign: int = 1) -> Check:
    """In how many contexts the effect keeps its sign; one without an effect (NaN, or none at all) does not keep it.

    Args:
        by_context: effect of each context: re-seeded scenes, histories of a bandit, paraphrases.
        sign: that is asked for.
    """
    name, bound = "contexts", 0.6
    values = sign * np.asarray(by_context, float)
    if len(values) < LEAST_CONTEXTS:
        return not_measured(name, bound, f"needs {LEAST_CONTEXTS} contexts, got {len(values)}")
    share = float((values > 0).mean())
    return Check(
        name,
        unit(2 * share - 1),
        bound,
        f"the effect keeps its sign in {int((values > 0).sum())} of {len(values)} contexts",
        "Find the direction on more kinds of contexts, or gate it to those where it works.",
        {"share": share, "contexts": len(values)},
    )


def groups(name: str, by_group: Mapping[str, float], sign: int = 1, bound: float = 1 / 3) -> Check:
    """Whether every group has its part of the effect; a direction that was fitted to one of them fails here.

    Args:
        name: of the check: "tasks", "wordings".
        by_group: group -> mean effect, each as a share of the group's own base.
        sign: that is asked for.
    """
    if len(by_group) < 2:
        return not_measured(name, bound, f"needs two {name}, got {len(by_group)}")
    values = {group: sign * value for group, value in by_group.items()}
    least, best = min(values, key=lambda group: values[group]), max(values, key=lambda group: values[group])
    score = unit(values[least] / values[best]) if values[best] > 0 else 0.0
    return Check(
        name,
        score,
        bound,
        f"from {by_group[best]:+.3g} ({best}) to {by_group[least]:+.3g} ({least})",
        f"Find the direction on all {name}: it may have been fitted to {best} only.",
        {"effects": dict(by_group), "least": least, "most": best},
    )


def seeds(by_seed: Sequence[float], sign: int = 1, splits: int = 200, seed: int = 0) -> Check:
    """Whether one half of the test seeds tells what the other does.

    Args:
        by_seed: effect of each seed; those without (NaN) are left out.
        sign: that is asked for.
        splits: random halves; seed: of them.
    """
    name, bound = "seeds", 0.5
    values = sign * np.asarray(by_seed, float)
    values = values[np.isfinite(values)]
    if len(values) < 8:
        return not_measured(name, bound, f"needs 8 seeds with an effect, got {len(values)}")
    rng, half = np.random.default_rng(seed), len(values) // 2
    ratios = []
    for _ in range(splits):
        order = rng.permutation(len(values))
        a, b = float(values[order[:half]].mean()), float(values[order[half:]].mean())
        ratios.append(min(a, b) / max(a, b) if min(a, b) > 0 else 0.0)
    score = unit(float(np.median(ratios)))
    return Check(
        name,
        score,
        bound,
        f"the smaller half effect is {score:.2f} of the larger one over random halves of {len(values)} seeds",
        "Run more seeds before saying how large the effect is.",
        {"median": score, "least": float(np.min(ratios)), "seeds": len(values)},
    )
