"""Steer2Edit: a direction as sparse rank-1 changes of the heads and neurons that write along it.

For every component W_i (a head's slice of the attention's output projection, or one column of the MLP's down-projection), with the
unit direction v of its layer and kind and the mean input mu_i:

    g_i = cos(v, W_i mu_i)                                             importance
    k_i = W_i^T v / ||W_i^T v||                                        input direction
    l_i = sign(g_i) max(|g_i| - rho a, 0) / (rho (1 - a))              elastic net, argmax g l - rho (a |l| + (1 - a) l^2 / 2)
    W_i <- W_i + l_i v k_i^T

All components of one layer and kind share v, so that a layer's change is v k^T with k = the l_i k_i side by side.

Source: Steer2Edit, arXiv 2602.09870 (separate rho for heads and neurons, chosen on held-out data: rho .16 to .9, a .05 to .95). We
differ in: `n_heads` and `n_neurons` can bound the number of changes as well, largest |l| first; components that write nothing on
average (g undefined) are left alone; and originals are kept as copies, so that taking the edit out is exact. As there, for a neuron
W_i mu_i is a scaled column, so that g keeps only the sign of its mean activation: rare and strong neurons weigh as much as others.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from policies.errors import BadInput, WrongWidth
from steer_agents import capture
from steer_agents.baking.handle import check_model, matrix
from steer_agents.baking.rank_one import RankOne, RankOneEdits
from steer_agents.calibrate.reports import layer_of, one_row
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.sites import Location, Site, Steerable, resolve, steerable


def elastic_net(importance: torch.Tensor, rho: float, alpha: float) -> torch.Tensor:
    """The magnitudes that maximise sum g l - rho (alpha |l| + (1 - alpha) l^2 / 2)."""
    return importance.sign() * (importance.abs() - rho * alpha).clamp(min=0) / (rho * (1 - alpha))


def steer2edit(
    target: Steerable,
    inputs: Inputs,
    *,
    attention: Direction | None = None,
    mlp: Direction | None = None,
    rho_attention: float = 0.3,
    rho_mlp: float = 0.5,
    alpha: float = 0.5,
    n_heads: int | None = None,
    n_neurons: int | None = None,
    tokens: str = "all",
    allow_other_model: bool = False,
) -> RankOneEdits:
    """Edit the components that write along the directions.

    Args:
        target: a policy, torch module or `Steerable`.
        inputs: positive and negative examples together, for the mean inputs.
        attention, mlp: directions at "attention_output" and "mlp_output"; a minus sign steers the other way.
        rho_attention, rho_mlp, alpha: of the elastic net, rho > 0 and alpha in [0, 1); rho alpha >= 1 edits nothing.
        n_heads, n_neurons: at most so many changes; None is no bound.
        tokens: whose inputs are averaged.
        allow_other_model: accept directions that were found on another model.
    Raises:
        BadInput: no direction, one of another site kind, or numbers out of range.
        NotBakeable: this model has no linear layer there; nothing was changed.
    """
    target = steerable(target)
    if attention is None and mlp is None:
        raise BadInput(
            "steer2edit: give attention=..., mlp=..., or both: directions at 'attention_output' and 'mlp_output'."
        )
    if not (rho_attention > 0 and rho_mlp > 0 and 0 <= alpha < 1):
        raise BadInput(f"steer2edit: need rho > 0 and 0 <= alpha < 1; got {rho_attention}, {rho_mlp} and {alpha}.")
    batches = batches_of(target, inputs)
    changes: list[RankOne] = []
    asked = (
        (attention, "attention_output", "attention_heads", rho_attention, n_heads),
        (mlp, "mlp_output", "mlp_neurons", rho_mlp, n_neurons),
    )
    for direction, kind, reads, rho, bound in asked:
        if direction is not None:
            check_model(target, direction.method, direction.model, "steer2edit", allow_other_model)
            parts = _components(target, direction, kind, reads, batches, tokens)
            amounts = _bounded([elastic_net(part.importance, rho, alpha) for part in parts], bound)
            changes += [part.change(amount) for part, amount in zip(parts, amounts, strict=True) if amount.any()]
    notes = {"rho_attention": rho_attention, "rho_mlp": rho_mlp, "alpha": alpha}
    return RankOneEdits(target, changes, "steer2edit", notes)


@dataclass(frozen=True)
class _Layer:
    """The components of one layer and kind: heads, or neurons, each a slice of `size` columns of one matrix."""

    location: Location
    v: torch.Tensor
    inputs: torch.Tensor  # (n, size) unit input directions k_i
    importance: torch.Tensor  # (n,) g_i

    def change(self, amounts: torch.Tensor) -> RankOne:
        row = (amounts[:, None] * self.inputs).reshape(-1)
        return RankOne(self.location, self.v, row, int((amounts != 0).sum()))


def _components(
    target: Steerable, direction: Direction, kind: str, reads: str, batches: list[capture.Batch], tokens: str
) -> list[_Layer]:
    one_row(direction, "steer2edit")
    if wrong := [key for key in direction.vectors if not key.endswith(f".{kind}")]:
        raise BadInput(
            f"steer2edit: expected a direction at {kind!r}, got {wrong}. Find it with site=Site({kind!r}, ...)."
        )
    site = Site(reads, tuple(sorted({layer_of(key) for key in direction.vectors})), direction.site.stack, tokens=tokens)
    means = capture.moments(target, batches, site, covariance=False)
    found = []
    for location in resolve(target, site):
        W = matrix(location.module, location.key).double().cpu()
        v = direction.vector(f"{location.stack}.{location.layer}.{kind}").double()
        v = v / v.norm()  # the file has it in float32
        if len(v) != len(W):
            raise WrongWidth(
                f"steer2edit at {location.key}: the direction is {len(v)} wide, the layer writes {len(W)}."
            )
        n = location.n_heads if kind == "attention_output" else W.shape[1]
        slices = W.reshape(len(W), n, -1)  # (D, n, size)
        along = torch.einsum("d,dns->ns", v, slices)
        written = torch.einsum("dns,ns->nd", slices, means[location.key].mean.reshape(n, -1))
        norms = written.norm(dim=-1)
        importance = torch.where(norms > 0, (written @ v) / norms.clamp(min=1e-300), 0.0)
        length = along.norm(dim=-1, keepdim=True)
        # a component orthogonal to v has no input direction, nor any importance
        found.append(_Layer(location, v, along / length.clamp(min=1e-300), importance * (length[:, 0] > 0)))
    return found


def _bounded(amounts: list[torch.Tensor], bound: int | None) -> list[torch.Tensor]:
    """Only the `bound` largest of all layers together."""
    if bound is None:
        return amounts
    flat = torch.cat(amounts)
    kept = torch.zeros_like(flat)
    best = flat.abs().argsort(descending=True, stable=True)[:bound]
    kept[best] = flat[best]
    return list(kept.split([len(one) for one in amounts]))
