"""A sparse autoencoder of one site, as pure functions of tensors.

    x  = (h - shift) / scale                           input norm, see `NORMS`
    z  = act((x - b_dec) W_enc + b_enc)                codes, (..., F), z >= 0
    h~ = scale (z W_dec + b_dec) + shift               reconstruction

act keeps what lies above a threshold theta >= 0 (ReLU: 0; JumpReLU: one per feature, arXiv 2407.14435) and, with k, of that the k
largest (TopK, arXiv 2406.04093). Everything that steers goes through `moved`: h + scale (z' - z) W_dec. That is dec(z') + (h - dec(z)),
the reconstruction error kept, and h itself where the code does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from policies.errors import BadInput, NonFinite, WrongModel, WrongWidth, nearest
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint, differences, model_fingerprint
from steer_agents.sites import Site, Steerable, resolve

Scaling = tuple[torch.Tensor | float, torch.Tensor | float]
NORMS: Mapping[str, Callable[[torch.Tensor], Scaling]] = {
    "none": lambda h: (1.0, 0.0),
    "unit": lambda h: (h.norm(dim=-1, keepdim=True).clamp(min=1e-12), 0.0),
    "constant_norm_rescale": lambda h: (h.norm(dim=-1, keepdim=True).clamp(min=1e-12) / h.shape[-1] ** 0.5, 0.0),
    "layer_norm": lambda h: (h.std(dim=-1, keepdim=True) + 1e-5, h.mean(dim=-1, keepdim=True)),
}
"""Name -> (scale, shift) of an activation (..., D); the names are SAELens's, and "unit" for norm 1."""


class Weights(NamedTuple):
    """W_enc (D, F), b_enc (F,), W_dec (F, D), b_dec (D,), threshold (F,), all float32."""

    W_enc: torch.Tensor
    b_enc: torch.Tensor
    W_dec: torch.Tensor
    b_dec: torch.Tensor
    threshold: torch.Tensor


@dataclass(frozen=True)
class Form:
    """What of an autoencoder is no tensor.

    Args:
        k: at most so many features at a token; None sets no limit.
        centred: subtract b_dec from the input (`apply_b_dec_to_input` in SAELens).
        norm: one of `NORMS`.
    """

    k: int | None = None
    centred: bool = True
    norm: str = "none"

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise BadInput(f"SAE: input norm {self.norm!r} is unknown{nearest(self.norm, NORMS)}")
        if self.k is not None and self.k < 1:
            raise BadInput(f"SAE: k must be at least 1, or None for no limit, got {self.k}.")


def pre_activations(h: torch.Tensor, w: Weights, form: Form) -> torch.Tensor:
    """(..., F), before the threshold."""
    scale, shift = NORMS[form.norm](h)
    x = (h - shift) / scale
    return (x - w.b_dec if form.centred else x) @ w.W_enc + w.b_enc


def sparse(pre: torch.Tensor, threshold: torch.Tensor, k: int | None) -> torch.Tensor:
    """Codes of pre-activations: above a threshold, which is never below 0, and among the k largest."""
    z = torch.where(pre > threshold.clamp(min=0), pre, 0)
    if k is None or k >= z.shape[-1]:
        return z
    top = z.topk(k, dim=-1)
    return torch.zeros_like(z).scatter(-1, top.indices, top.values)


def encode(h: torch.Tensor, w: Weights, form: Form) -> torch.Tensor:
    """(..., F) codes."""
    return sparse(pre_activations(h, w, form), w.threshold, form.k)


def reconstruct(h: torch.Tensor, z: torch.Tensor, w: Weights, form: Form) -> torch.Tensor:
    """(..., D), what the codes say h is; h is needed for its norm."""
    scale, shift = NORMS[form.norm](h)
    return (z @ w.W_dec + w.b_dec) * scale + shift


def moved(h: torch.Tensor, change: torch.Tensor, w: Weights, form: Form) -> torch.Tensor:
    """H with its code changed by (..., F) and its reconstruction error kept."""
    return h + (change @ w.W_dec) * NORMS[form.norm](h)[0]


@dataclass(frozen=True)
class Sae:
    """A sparse autoencoder of one site.

    Args:
        weights: see `Weights`.
        form: see `Form`.
        site: where it reads and writes: one layer.
        model: fingerprint of the model it was trained on; empty where a file does not say.
        info: everything else worth keeping: report of the training, source.
    Raises:
        WrongWidth: the shapes do not fit each other.
        NonFinite: NaN or infinity.
    """

    weights: Weights
    site: Site
    form: Form = Form()
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        w = self.weights
        if w.W_dec.dim() != 2:
            raise WrongWidth(f"SAE: W_dec must be (F, D), got shape {tuple(w.W_dec.shape)}.")
        F, D = w.W_dec.shape
        expected = {"W_enc": (D, F), "b_enc": (F,), "W_dec": (F, D), "b_dec": (D,), "threshold": (F,)}
        got = {name: tuple(tensor.shape) for name, tensor in w._asdict().items()}
        if got != expected:
            wrong = [name for name in expected if got[name] != expected[name]]
            raise WrongWidth(
                f"SAE with W_dec of {F} features and width {D}: "
                + "; ".join(f"{name} expected {expected[name]}, got {got[name]}" for name in wrong)
                + ". W_enc is (D, F), W_dec (F, D)."
            )
        for name, tensor in w._asdict().items():
            if not torch.isfinite(tensor).all():
                raise NonFinite(f"SAE: {name} holds NaN or infinity; load or train it again.")
        if isinstance(self.site.layer, str | tuple):
            raise BadInput(f"an SAE belongs to one layer, got layer={self.site.layer!r}.")

    @property
    def n_features(self) -> int:
        return self.weights.W_dec.shape[0]

    @property
    def width(self) -> int:
        return self.weights.W_dec.shape[1]

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of its weights and form."""
        return data_fingerprint(*self.weights, asdict(self.form))

    @property
    def kind(self) -> str:
        """The activation: "topk", "jumprelu" or "relu"."""
        if self.form.k is not None:
            return "topk"
        return "jumprelu" if bool((self.weights.threshold > 0).any()) else "relu"

    def key_on(self, target: Steerable) -> str:
        """Key of its location on a model.

        Raises:
            WrongModel: it was trained on another one.
            UnknownSite: the model has no such site.
        """
        if self.model and (lines := differences(self.model, model_fingerprint(target))):
            raise WrongModel(
                f"this SAE was trained on another model: {'; '.join(lines)}. Train or load one of this model."
            )
        return resolve(target, self.site)[0].key

    def check_width(self, h: torch.Tensor) -> None:
        """Raise WrongWidth if activations (..., D) are not as wide as the SAE."""
        if h.shape[-1] != self.width:
            raise WrongWidth(
                f"SAE of {self.site.kind!r} at layer {self.site.layer}: it is {self.width} wide, the activation {h.shape[-1]}; "
                "it belongs to another site or model."
            )

    def encode(self, h: torch.Tensor) -> torch.Tensor:
        """Codes (..., F) of activations (..., D)."""
        self.check_width(h)
        return encode(h, self.weights, self.form)

    def reconstruct(self, h: torch.Tensor) -> torch.Tensor:
        """What the SAE says activations (..., D) are."""
        return reconstruct(h, self.encode(h), self.weights, self.form)

    def checked(self, features: Sequence[int]) -> tuple[int, ...]:
        """Distinct feature numbers that exist.

        Raises:
            BadInput: none, one twice, or one that does not exist.
        """
        chosen = tuple(int(i) for i in features)
        if not chosen or len(set(chosen)) != len(chosen) or not all(0 <= i < self.n_features for i in chosen):
            raise BadInput(
                f"SAE: features must be at least one, all different, of 0 to {self.n_features - 1}; got {list(chosen)[:8]}."
            )
        return chosen

    def direction(
        self, code: torch.Tensor, key: str, statistics: Mapping[str, float] | None = None, **fields: Any
    ) -> Direction:
        """What a change of the code (F,) writes: code W_dec, as a direction at the location `key` (see `key_on`).

        To add it keeps the reconstruction error of itself. With an input norm it is the change for a token of scale 1.
        """
        raw = {key: code.to(self.weights.W_dec) @ self.weights.W_dec}
        site = replace(self.site, tokens="all")
        return Direction.from_raw(raw, site, {key: statistics or {}}, model=self.model, **fields)

    def one_hot(self, features: Sequence[int]) -> torch.Tensor:
        """(F,) float32: 1 at these features."""
        code = torch.zeros(self.n_features)
        code[list(self.checked(features))] = 1.0
        return code


@dataclass(frozen=True)
class Report:
    """How well an SAE describes activations.

    Args:
        explained_variance: 1 - sum ||h - h~||^2 / sum ||h - mean h||^2; 1 is perfect, 0 what the mean explains.
        l0: mean number of active features at a token.
        dead: share of features that are active at no token.
        n_tokens: how many tokens were looked at.
    """

    explained_variance: float
    l0: float
    dead: float
    n_tokens: int


def report(sae: Sae, rows: torch.Tensor) -> Report:
    """Measure an SAE on activations (n, D): also the check that a downloaded one fits the model in hand.

    Raises:
        WrongWidth, BadInput: rows of another width, or fewer than 2.
    """
    if rows.dim() != 2 or len(rows) < 2:
        raise BadInput(f"SAE report: expected at least 2 rows (n, D), got shape {tuple(rows.shape)}.")
    errors, l0, seen = 0.0, 0.0, torch.zeros(sae.n_features, dtype=torch.bool)
    for part in rows.split(2048):
        z = sae.encode(part)
        errors += float(((part - reconstruct(part, z, sae.weights, sae.form)).double() ** 2).sum())
        l0 += float((z > 0).sum())
        seen |= (z > 0).any(0)
    total = float(((rows - rows.mean(0)).double() ** 2).sum())
    share = 1 - errors / total if total > 0 else float("nan")
    return Report(share, l0 / len(rows), float((~seen).float().mean()), len(rows))
