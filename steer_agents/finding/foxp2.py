"""A behaviour that a model can do but does not default to: found in a few features, a few directions of them, a few layers.

From meaning-matched pairs of inputs (target, default), with z the codes at the last token of layer l, in an SAE's features or, without one,
in the site's own coordinates (`mlp_neurons` of a small model):

    I    Sel_j = (mean z_j^tgt - mean z_j^def) / (sd z_j^tgt + sd z_j^def + eps)
         Lift_j = median_a [(DM_a - DM_0) / a],  DM = P(target tokens) - P(default tokens) after neutral prompts, a W_dec[j] added there
         support: of the `n_selective` most selective, those with max(Sel, 0) max(Lift, 0) > 0
    II   singular values of the differences z^tgt - z^def on the support: rank, its null, mass, stability (`spectrum.py`); the window of
         layers with the largest mean mass x stability
    III  m_tgt = P (mean z^tgt - mean z^def) and m_def = P mean z^neutral, both of norm 1, P = V_r^T V_r on the support

`foxp2` gives m_tgt, decoded, over the window, or with `side="default"` m_def. The paper's signed edit
dz = lambda m_tgt - beta (z . m_def) m_def is `Add` of the one and `Ablate` of the other at strength beta: exactly so in the site's own
coordinates (but for the order of the two), while in an SAE's features z . m_def is read off the decoded direction, not the code.

Source: Neural FOXP2, arXiv 2602.00945, from an open implementation. We differ in: the two traps that `spectrum.py` names; layers without a
significant gap count 0 and, where no layer has one, nothing is found (the released code always answers); features are selected on the even
pairs and the spectrum is taken of the odd ones, since features that were selected for a mean shift show one in the same data, even
in noise, and pass for a direction; SAEs are given, not trained here
(the paper's are `training.Plan(1024, k=None, l1=5e-3, tied=True, norm="unit")`); without pairs of token sets the lift is left out
and the support is the selective features; beta is not searched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.finding.spectrum import Spectrum, spectrum, window
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.interventions import Add
from steer_agents.sae.model import Sae
from steer_agents.sites import Location, Site, Steerable, resolve
from steer_agents.steerer import steer
from steer_agents.strength import Strength

SIDES = ("target", "default")
ALPHAS = (0.5, 1.0, 2.0, 5.0, 10.0, 15.0)


def selectivity(target_codes: torch.Tensor, default_codes: torch.Tensor, eps: float = 1e-6) -> torch.Tensor:
    """(F,) Sel of codes (n, F) each."""
    spread = target_codes.std(0) + default_codes.std(0)
    return (target_codes.mean(0) - default_codes.mean(0)) / (spread + eps)


@dataclass(frozen=True)
class Gap:
    """A difference of the probability of two sets of next tokens: DM.

    Args:
        target_tokens, default_tokens: ids, at least one each and none in both.
    """

    target_tokens: tuple[int, ...]
    default_tokens: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.target_tokens or not self.default_tokens or set(self.target_tokens) & set(self.default_tokens):
            raise BadInput(
                f"foxp2: token sets must not be empty and share nothing, got {self.target_tokens} and {self.default_tokens}."
            )

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """(B,) DM of next-token logits (B, V)."""
        p = logits.double().softmax(-1)
        return p[:, list(self.target_tokens)].sum(1) - p[:, list(self.default_tokens)].sum(1)


def measured_gap(target: Steerable, batches: Sequence[capture.Batch], gap: Gap) -> float:
    """Mean DM after prompts, as the model is now."""
    values = []
    for batch in batches:
        if not isinstance(batch, Mapping):
            raise BadInput(
                "foxp2: the lift needs a language model's batches (input_ids), got tensors; leave out `tokens`."
            )
        with torch.no_grad():
            logits = target.module(**batch, use_cache=False).logits
        real = batch.get("attention_mask")
        last = torch.full((len(logits),), logits.shape[1] - 1)
        if real is not None:
            last = torch.where(real.bool(), torch.arange(real.shape[1]), -1).max(1).values
        values.append(gap(logits[torch.arange(len(logits)), last.to(logits.device)]))
    return float(torch.cat(values).mean())


def lifts(
    target: Steerable, location: Location, rows: torch.Tensor, batches: Sequence[capture.Batch], gap: Gap
) -> torch.Tensor:
    """(k,) Lift of vectors (k, D) that are added at the last token of a location; see the module's docstring."""
    start = measured_gap(target, batches, gap)
    site = Site(location.kind, location.layer, location.stack, tokens="last")
    found = []
    for row in rows:
        direction = Direction.from_raw({location.key: row}, site)
        slopes = []
        for alpha in ALPHAS:
            with steer(target.policy or target.module, Add(direction, strength=Strength(alpha * float(row.norm())))):
                slopes.append((measured_gap(target, batches, gap) - start) / alpha)
        found.append(float(torch.tensor(slopes).median()))
    return torch.tensor(found)


@dataclass(frozen=True)
class _Layer:
    """What was found at one layer; vectors (F,) float64 on its support."""

    support: tuple[int, ...]
    spectrum: Spectrum | None
    vectors: dict[str, torch.Tensor]

    @property
    def score(self) -> float:
        return 0.0 if self.spectrum is None else self.spectrum.score


def foxp2(
    target: Steerable,
    *,
    positive: Inputs,
    negative: Inputs,
    site: Site | None = None,
    saes: Sequence[Sae] = (),
    neutral: Inputs = (),
    tokens: Gap | None = None,
    n_selective: int = 50,
    shortest: int = 3,
    longest: int = 6,
    side: str = "target",
    seed: int = 0,
) -> Direction:
    """The signed shift towards a behaviour, on the features, directions and layers that carry it.

    Args:
        positive, negative: pairs: the i-th of each mean the same, in the target's way and in the default one.
        site: without SAEs: where to read; default `mlp_neurons` of all layers.
        saes: one per layer, all of one site kind; the basis. Empty takes the site's own coordinates.
        neutral: prompts that ask for neither, for the lift (needed with `tokens`) and the default attractor (else that of `negative`).
        tokens: what the lift is measured by; None leaves it out.
        n_selective: how many features enter stage II at most, from 2.
        shortest, longest: of the window, in layers that were read (the paper's; fewer where fewer were read).
        side: one of `SIDES`: "target" to add, "default" to ablate.
        seed: of null and bootstraps.
    Returns:
        a direction over the window, at the last token; `info["layers"]` has support, ranks, gap, null, mass and stability of every layer.
    Raises:
        BadInput: no pairs, or no layer in which the differences have more structure than chance gives.
    """
    if tokens is not None and len(neutral) == 0:
        raise BadInput("foxp2: the lift is measured after neutral prompts; pass neutral=[...], or leave out `tokens`.")
    if n_selective < 2:
        raise BadInput(f"foxp2: n_selective must be at least 2, got {n_selective}.")
    if side not in SIDES:
        raise BadInput(f"foxp2: side {side!r} is unknown{nearest(side, SIDES)}")
    by_key = {sae.key_on(target): sae for sae in saes}
    layers = tuple(sae.site.layer for sae in saes)
    kind, stack = (saes[0].site.kind, saes[0].site.stack) if saes else ("mlp_neurons", None)
    where = Site(kind, layers, stack, tokens="last") if saes else (site or Site(kind, tokens="last"))  # type: ignore[arg-type]
    locations = resolve(target, where)
    plus, minus = (capture.rows(target, batches_of(target, inputs), where) for inputs in (positive, negative))
    neutrals = batches_of(target, neutral) if len(neutral) else []
    resting = capture.rows(target, neutrals, where) if neutrals else minus
    found: dict[str, _Layer] = {}
    for location in locations:
        sae, h_plus, h_minus = by_key.get(location.key), plus[location.key], minus[location.key]
        if len(h_plus) != len(h_minus):
            raise BadInput(f"foxp2 needs pairs: got {len(h_plus)} positive and {len(h_minus)} negative inputs.")
        codes = (h_plus, h_minus) if sae is None else (sae.encode(h_plus), sae.encode(h_minus))
        basis = torch.eye(h_plus.shape[1]) if sae is None else sae.weights.W_dec
        support = _support(target, location, (codes[0][::2], codes[1][::2]), basis, n_selective, neutrals, tokens)
        rest = resting[location.key] if sae is None else sae.encode(resting[location.key])
        found[location.key] = _at_layer(codes, rest.mean(0), support, seed)
    scores = [found[location.key].score for location in locations]
    start, stop = window(scores, min(shortest, len(scores)), max(longest, shortest))
    kept = [location for location in locations[start:stop] if found[location.key].score > 0]
    table = [_told(location, found[location.key]) for location in locations]
    if not kept:
        gaps = ", ".join(f"layer {entry['layer']}: {entry['gap']} against {entry['null_gap']}" for entry in table)
        raise BadInput(
            f"foxp2: no significant gap in the differences at any layer ({gaps}); they hold no few directions more than chance does. "
            "Give more pairs, other layers, or use mean-difference."
        )
    raw, statistics = {}, {}
    for location in kept:
        sae = by_key.get(location.key)
        vector = found[location.key].vectors[side].float()
        raw[location.key] = vector if sae is None else vector @ sae.weights.W_dec
        h = torch.cat([plus[location.key], minus[location.key]])
        statistics[location.key] = capture.statistics_of_rows(h, raw[location.key] / raw[location.key].norm())
    info: dict[str, Any] = {
        "data": data_fingerprint(*plus.values(), "|", *minus.values()),
        "n_pairs": len(next(iter(plus.values()))),
        "captured_at": where.describe(),
        "layers": table,
        "window": [locations[start].layer, locations[stop - 1].layer],
        "saes": [sae.fingerprint for sae in saes],
        "options": {
            "n_selective": n_selective,
            "shortest": shortest,
            "longest": longest,
            "seed": seed,
            "lift": tokens is not None,
        },
    }
    site_of = Site(kept[0].kind, tuple(location.layer for location in kept), where.stack, tokens="last")
    return Direction.from_raw(raw, site_of, statistics, method="foxp2", model=model_fingerprint(target), info=info)


def _support(
    target: Steerable,
    location: Location,
    codes: tuple[torch.Tensor, torch.Tensor],
    basis: torch.Tensor,
    n_selective: int,
    neutrals: Sequence[capture.Batch],
    gap: Gap | None,
) -> tuple[int, ...]:
    """Stage I: the features that are selective and, where it is measured, lift."""
    sel = selectivity(*codes)
    top = [int(i) for i in sel.argsort(descending=True, stable=True)[:n_selective] if sel[i] > 0]
    if gap is None or not top:
        return tuple(top)
    lift = lifts(target, location, basis[top], neutrals, gap)
    return tuple(i for i, value in zip(top, lift.tolist(), strict=True) if value > 0)


def _at_layer(
    codes: tuple[torch.Tensor, torch.Tensor], resting: torch.Tensor, support: tuple[int, ...], seed: int
) -> _Layer:
    """Stages II and III on a support, the spectrum of the odd pairs; nothing where it is too small to have one."""
    differences = (codes[0] - codes[1])[:, list(support)].double()
    if len(support) < 2 or len(differences) < 8 or not bool(differences[1::2].any()):
        return _Layer(support, None, {})
    found = spectrum(differences[1::2], seed=seed)
    vectors = {}
    for side, mean in zip(SIDES, (differences.mean(0), resting[list(support)].double()), strict=True):
        inside = mean @ found.basis.T @ found.basis
        vectors[side] = torch.zeros(codes[0].shape[1], dtype=torch.float64)
        vectors[side][list(support)] = inside / inside.norm().clamp(min=1e-300)
    return _Layer(support, found, vectors)


def _told(location: Location, layer: _Layer) -> dict[str, Any]:
    """A layer's row in `info`."""
    s = layer.spectrum
    entry: dict[str, Any] = {
        "layer": location.layer,
        "support": list(layer.support),
        "score": layer.score,
        "gap": None,
        "null_gap": None,
    }
    if s is not None:
        entry |= {
            "rank": s.rank,
            "effective_rank": s.effective_rank,
            "gap_rank": s.gap_rank,
            "gap": s.gap,
            "null_gap": s.null_gap,
        }
        entry |= {"mass": s.mass, "stability": s.stability}
    return entry
