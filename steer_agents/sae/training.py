"""Training small SAEs on captured activations.

    L = E||h - h~||^2 / E||h - mean||^2  +  l1 E||z||_1 / sqrt(D)  +  revive E||e - e~||^2 / E||e||^2

e = h - h~ (no gradient) and e~ its reconstruction by the 2k largest of the dead features: they are taught what the others miss. Dead
are those that fired on none of 4096 tokens at the last evaluation.

Sources: TopK and its auxiliary loss, Gao et al., arXiv 2406.04093, equations 2 to 4; ReLU with an L1 penalty, Bricken et al. 2023;
tied weights and inputs of norm 1, Neural FOXP2, arXiv 2602.00945. We differ in: "dead" is looked up at every evaluation, where Gao
et al. count ten million tokens; decoder rows have norm 1 by construction, not by projection after every step; b_dec starts at the
mean, not the geometric median; no JumpReLU is trained here (it is read and steered). On a planted dictionary with half of the
features dead from the start the auxiliary loss brought them to life at no better explained variance.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput, NonFinite
from steer_agents import capture
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.learning.trainer import Settings, train
from steer_agents.sae.model import Form, Sae, Weights, pre_activations, reconstruct, report, sparse
from steer_agents.sites import Site, resolve, steerable

_LOOKED_AT = 4096
"""Tokens on which a feature must fire not to count as dead."""


@dataclass(frozen=True)
class Plan:
    """What kind of SAE to train.

    Args:
        n_features: F.
        k: active features at a token (TopK); None is a ReLU with the L1 penalty.
        l1: weight of the penalty, from 0; only with k=None.
        tied: the encoder is the decoder transposed.
        norm: of the input, see `model.NORMS`.
        revive: weight of the auxiliary loss, from 0.
        held_out: share of the tokens that is not trained on, in (0, 1).
    """

    n_features: int
    k: int | None = 8
    l1: float = 0.0
    tied: bool = False
    norm: str = "none"
    revive: float = 1 / 32
    held_out: float = 0.1

    def __post_init__(self) -> None:
        Form(self.k, norm=self.norm)
        if self.n_features < 1 or (self.k is not None and self.k > self.n_features):
            raise BadInput(f"SAE: n_features must be at least 1 and k ({self.k}), got {self.n_features}.")
        if self.l1 < 0 or self.revive < 0 or not 0 < self.held_out < 1:
            raise BadInput(
                f"SAE: l1 and revive must be at least 0 and held_out in (0, 1), got {self.l1}, {self.revive} and {self.held_out}."
            )
        if self.k is not None and self.l1 > 0:
            raise BadInput("SAE: an L1 penalty shrinks what TopK already limits; give k=None, or l1=0.")


def train_sae(
    target: Any,
    *,
    inputs: Inputs,
    site: Site,
    plan: Plan,
    settings: Settings | None = None,
    folder: str | Path | None = None,
) -> Sae:
    """Train an SAE on a model's own activations.

    Args:
        target: a policy, torch module or `Steerable`.
        inputs: see `finding.contrast.Inputs`.
        site: one layer; its token scope says which tokens are trained on.
        folder: for checkpoints, see `learning.trainer.train`.
    Returns:
        an SAE whose `info["report"]` holds explained variance, L0 and dead share on held-out tokens.
    """
    place = steerable(target)
    if len(resolve(place, site)) != 1:
        raise BadInput(f"train_sae: an SAE belongs to one layer, got layer={site.layer!r}.")
    location = resolve(place, site)[0]
    rows = capture.rows(place, batches_of(place, inputs), site)[location.key]
    where = Site(site.kind, location.layer, site.stack, site.tokens, heads=site.heads)
    return train_on_rows(rows, where, plan, settings, folder, model=model_fingerprint(place))


def train_on_rows(
    rows: torch.Tensor,
    site: Site,
    plan: Plan,
    settings: Settings | None = None,
    folder: str | Path | None = None,
    model: dict[str, Any] | None = None,
) -> Sae:
    """Train an SAE on activations (n, D) float32, see `train_sae`.

    Raises:
        BadInput: fewer than 4 rows.
        NonFinite: rows hold NaN or infinity.
    """
    settings = settings or Settings(steps=500, learning_rate=3e-3, batch_size=256, evaluate_every=50)
    if rows.dim() != 2 or len(rows) < 4:
        raise BadInput(f"SAE training: expected at least 4 rows (n, D), got shape {tuple(rows.shape)}.")
    if not torch.isfinite(rows).all():
        raise NonFinite("SAE training: the activations hold NaN or infinity.")
    generator = torch.Generator().manual_seed(settings.seed)
    order = torch.randperm(len(rows), generator=generator)
    n_kept = max(2, round(plan.held_out * len(rows)))
    kept, seen = rows[order[:n_kept]].float(), rows[order[n_kept:]].float()
    form = Form(plan.k, norm=plan.norm)
    learned = _initial(seen, plan, generator)

    def weights() -> Weights:
        decoder = learned["W_dec"] / learned["W_dec"].norm(dim=1, keepdim=True)
        encoder = decoder.T if plan.tied else learned["W_enc"]
        return Weights(encoder, learned["b_enc"], decoder, learned["b_dec"], torch.zeros(plan.n_features))

    spread = _power(seen - seen.mean(0)).clamp(min=1e-12)

    silent = torch.zeros(plan.n_features, dtype=torch.bool)

    def loss(step: int) -> torch.Tensor:
        # Looked up where checkpoints are written, so that a resumed run sees the same features silent.
        if step % settings.evaluate_every == 0:
            silent.copy_(_silent(seen[:_LOOKED_AT], weights(), form))
        h = seen[torch.randint(len(seen), (settings.batch_size,))]
        w = weights()
        pre = pre_activations(h, w, form)
        z = sparse(pre, w.threshold, form.k)
        error = h - reconstruct(h, z, w, form)
        total = _power(error) / spread + plan.l1 * z.sum(-1).mean() / h.shape[-1] ** 0.5
        if plan.revive and bool(silent.any()):
            total = total + plan.revive * _revived(pre, silent, error.detach(), w, plan)
        return total

    def held_out() -> float:
        w = weights()
        z = sparse(pre_activations(kept, w, form), w.threshold, form.k)
        return float(
            _power(kept - reconstruct(kept, z, w, form)) / spread + plan.l1 * z.sum(-1).mean() / kept.shape[-1] ** 0.5
        )

    asked = {"plan": asdict(plan), "data": data_fingerprint(rows)}
    trained = train(learned, loss, held_out, settings, folder, asked=asked, title="SAE")
    made = Sae(Weights(*(tensor.detach().contiguous() for tensor in weights())), site, form, model or {})
    info = {
        "plan": asdict(plan),
        "seed": settings.seed,
        "training": trained.notes(),
        "report": asdict(report(made, kept)),
    }
    return Sae(made.weights, site, form, made.model, info)


def _silent(rows: torch.Tensor, w: Weights, form: Form) -> torch.Tensor:
    """(F,) bool of the features that fire on none of some rows."""
    with torch.no_grad():
        return (sparse(pre_activations(rows, w, form), w.threshold, form.k) <= 0).all(0)


def _power(x: torch.Tensor) -> torch.Tensor:
    return (x**2).sum(-1).mean()


def _initial(rows: torch.Tensor, plan: Plan, generator: torch.Generator) -> dict[str, torch.Tensor]:
    """Random unit decoder rows, the encoder their transpose, b_dec the mean of the inputs."""
    W = torch.randn(plan.n_features, rows.shape[1], generator=generator)
    W = W / W.norm(dim=1, keepdim=True)
    x = rows / rows.norm(dim=-1, keepdim=True).clamp(min=1e-12) if plan.norm == "unit" else rows
    start = {
        "W_dec": W,
        "b_enc": torch.zeros(plan.n_features),
        "b_dec": x.mean(0) if plan.norm in ("none", "unit") else x.mean(0) * 0,
    }
    if not plan.tied:
        start["W_enc"] = W.T.contiguous()
    return {name: tensor.clone().requires_grad_() for name, tensor in start.items()}


def _revived(pre: torch.Tensor, silent: torch.Tensor, error: torch.Tensor, w: Weights, plan: Plan) -> torch.Tensor:
    """How badly the best silent features reconstruct what the others left over, 1 for not at all."""
    rivals = pre[:, silent]
    k = min(2 * (plan.k or 8), rivals.shape[1])
    top = rivals.topk(k, dim=-1)
    code = torch.zeros_like(rivals).scatter(-1, top.indices, top.values)
    return _power(error - code @ w.W_dec[silent]) / _power(error).clamp(min=1e-12)
