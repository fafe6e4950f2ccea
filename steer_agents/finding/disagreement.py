"""What a tuned copy of a policy does otherwise: directions from two models that disagree.

    d(x) = h_tuned(x) - h_base(x)
    S+ = {tuned right, base wrong}     S- = {base right, tuned wrong}     S0 = {both right}

| part | u |
| --- | --- |
| "substance" | mean over S+ of d - mean over S- of d, without what lies along "style" |
| "style" | mean over S0 of d: what tuning changed although the answer stayed |
| "all" | mean of d over all inputs: the control without selection |

Inspired by REFLEX, arXiv 2511.20233, known from its abstract and summaries; the concrete form is ours and nothing here claims
to reproduce it. Where the tuned model is never worse, S- is empty and its mean is left out (`info["n_minus"]` says so).

Compare with "all" before trusting the selection. On a small contextual bandit where tuning taught a third action (three seeds, 465
contexts, S- of 6 to 10 of them) unpurified "substance" recovered 34, 26 and 13 % of the return that tuning gained, purified 15, 19
and 7 %, "all" 47, 33 and 42 %, and S+ alone 50, 30 and 42 %: the mean of a few overshoots, subtracted in full, cost more than it cleared.

For any two policies of one architecture: a VLA and its fine-tuned copy with labels from the success of episodes, an agent before and
after reinforcement learning. The direction belongs to the base; on the tuned copy attach it with allow_other_model=True.
`info["fit"]` tells layers apart: `auc`, how well the projection of d on a direction found on one half of S+ and S- separates the
other half (mean of both ways).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from scipy import stats

from policies.errors import BadInput, WrongModel
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, identity, steer_site
from steer_agents.finding.excerpts import item_means
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import Site, Steerable, steerable

PARTS = ("substance", "style", "all")


def disagreement(
    target: Steerable,
    *,
    tuned: Any,
    inputs: Inputs,
    base_right: Sequence[bool] | np.ndarray,
    tuned_right: Sequence[bool] | np.ndarray,
    part: str = "substance",
    purify: bool = True,
    site: Site | None = None,
) -> Direction:
    """The direction from the base model towards its tuned copy, on the inputs that matter.

    Args:
        target: the base model.
        tuned: its copy: a policy, torch module or `Steerable` of the same architecture and size.
        inputs: n inputs, encoded by each model itself.
        base_right, tuned_right: (n,) bool, whether each model was right (or succeeded) there.
        part: one of `PARTS`.
        purify: take "style" out of "substance", where both models are right on some inputs.
        site: where to read; default: every layer's `block_output` at the last token.
    Raises:
        WrongModel: the two models are of different architectures or sizes, or the same.
        BadInput: labels that do not fit, or no input of the kind that is needed; the message counts them.
    """
    if part not in PARTS:
        raise BadInput(f"disagreement: part must be one of {', '.join(PARTS)}, got {part!r}.")
    other = steerable(tuned)
    mine, theirs = model_fingerprint(target), model_fingerprint(other)
    if different := [name for name in ("architecture", "parameters", "depth") if mine[name] != theirs[name]]:
        raise WrongModel(
            f"disagreement: the models differ in {', '.join(f'{name} ({mine[name]}, {theirs[name]})' for name in different)}; it needs a "
            "model and its fine-tuned copy. Merge adapters into the weights first."
        )
    if mine["weights"] == theirs["weights"]:
        raise WrongModel(
            "disagreement: both models have the same weights, so they never disagree; pass the tuned copy."
        )
    site = site or Site(tokens="last")
    base, seen = item_means(target, inputs, site)
    after, _ = item_means(other, inputs, site)
    kinds = _kinds(base_right, tuned_right, len(next(iter(base.values()))), part)
    pure = purify and part == "substance" and bool(kinds["both"].any())
    raw, statistics, fit = {}, {}, {}
    for key, h in base.items():
        d = after[key].double() - h.double()
        u = _vector(d, kinds, part)
        notes: dict[str, float | None] = {"auc": _separability(d, kinds)}
        style = d[kinds["both"]].mean(0) if pure else u.new_zeros(len(u))
        if style.norm() > 0:
            notes["style_cosine"] = float(torch.nn.functional.cosine_similarity(u, style, dim=0))
            u = u - (u @ style) / (style @ style) * style
        raw[key], fit[key] = u, notes
        if u.norm() > 0:
            statistics[key] = capture.statistics_of(seen[key], u / u.norm())
    found = Direction.from_raw(
        raw,
        steer_site(site),
        statistics,
        method=f"disagreement ({part})",
        **identity(target, inputs, [], site, part=part),
    )
    counts = {f"n_{name}": int(chosen.sum()) for name, chosen in kinds.items()}
    return replace(found, info={**found.info, "tuned": theirs, **counts, "fit": fit})


def _kinds(base_right: Any, tuned_right: Any, n: int, part: str) -> dict[str, np.ndarray]:
    """Name -> (n,) bool: "plus", "minus" and "both", see the formula."""
    labels = [np.asarray(given) for given in (base_right, tuned_right)]
    if any(one.shape != (n,) or not np.isin(one, (0, 1)).all() for one in labels):
        raise BadInput(
            f"disagreement: expected {n} labels of each model, true or false, got shapes {[one.shape for one in labels]}."
        )
    base, after = (one.astype(bool) for one in labels)
    kinds = {"plus": after & ~base, "minus": base & ~after, "both": base & after}
    needed = {"substance": "plus", "style": "both"}.get(part)
    if needed and not kinds[needed].any():
        counts = {name: int(one.sum()) for name, one in kinds.items()}
        raise BadInput(
            f"disagreement: part {part!r} needs inputs of kind {needed!r}; of {n} inputs there are {counts} (plus: only the tuned model "
            "is right, minus: only the base, both). Collect inputs on which they differ."
        )
    return kinds


def _vector(d: torch.Tensor, kinds: dict[str, np.ndarray], part: str) -> torch.Tensor:
    if part == "all":
        return d.mean(0)
    if part == "style":
        return d[kinds["both"]].mean(0)
    u = d[kinds["plus"]].mean(0)
    return u - d[kinds["minus"]].mean(0) if kinds["minus"].any() else u


def _separability(d: torch.Tensor, kinds: dict[str, np.ndarray]) -> float | None:
    """Held-out area under the ROC curve of S+ against S-; None with fewer than 2 of either."""
    plus, minus = d[kinds["plus"]], d[kinds["minus"]]
    if min(len(plus), len(minus)) < 2:
        return None
    found = []
    for start in (0, 1):
        v = plus[start::2].mean(0) - minus[start::2].mean(0)
        a, b = (rows[1 - start :: 2] @ v for rows in (plus, minus))
        found.append(float(stats.mannwhitneyu(a.numpy(), b.numpy()).statistic) / (len(a) * len(b)))
    return float(np.mean(found))
