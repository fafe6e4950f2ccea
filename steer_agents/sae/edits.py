"""Edits in an SAE's code, with its reconstruction error kept: h' = dec(z') + (h - dec(z)) = h + (z' - z) W_dec.

| class | z' | invariant at every s | source |
| --- | --- | --- | --- |
| `SaeClamp` | z_i + s (value - z_i) at chosen i | h' - h in the span of those rows of W_dec | Breaking Bad Tokens, arXiv 2505.14536 |
| `SaeShift` | relu(z + s c), c (F,) | h' - h in the span of the rows whose code changed | YaPO, arXiv 2601.08441 |

To add decoder rows as they are, h + s sum_i W_dec[i], is an ordinary `Add` of `Sae.direction`.

`SaeShift` is *not* odd: a feature that is off cannot be pushed below 0, so that s and -s are no opposites; what it does at either must be
measured. `SaeClamp` is inspired by its source, which subtracts decoder rows (only its abstract and tiers were known); the clamp
and the kept error are common practice. It acts on the code that the SAE reads from h, so a second clamp finds a code that the
SAE reads anew: not idempotent unless encoder and decoder agree.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput, NonFinite
from steer_agents import kept
from steer_agents.direction import Direction
from steer_agents.intervention import Intervention
from steer_agents.sae import files
from steer_agents.sae.model import NORMS, Form, Sae, Weights, encode, moved
from steer_agents.sites import Site
from steer_agents.strength import Strength


def clamp_features(
    h: torch.Tensor, w: Weights, form: Form, features: torch.Tensor, values: torch.Tensor, s: torch.Tensor
) -> torch.Tensor:
    """H + s sum_i (value_i - z_i) W_dec[i], reconstruction error kept; s broadcasts against (..., 1)."""
    gap = values - encode(h, w, form)[..., features]
    return h + ((s * gap) @ w.W_dec[features]) * NORMS[form.norm](h)[0]


def shift_code(h: torch.Tensor, w: Weights, form: Form, code: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
    """H + (relu(z + s c) - z) W_dec, reconstruction error kept; s broadcasts against (..., 1)."""
    z = encode(h, w, form)
    return moved(h, torch.relu(z + s * code) - z, w, form)


@dataclass(frozen=True, kw_only=True)
class _InCode(Intervention):
    """An edit of an SAE's code. The site is the SAE's unless another is given."""

    sae: Sae = field(kw_only=False)
    strength: float | torch.Tensor | Strength = 1.0
    is_affine = False

    def __post_init__(self) -> None:
        if not isinstance(self.sae, Sae):
            raise BadInput(
                f"{type(self).__name__} edits an SAE's code, got {type(self.sae).__name__}; see steer_agents.sae.files.load."
            )
        self._check_strength()
        key = f"{self.sae.site.stack or 'default'}.{self.sae.site.layer}.{self.sae.site.kind}"
        written = self.sae.direction(self._code(), key, method=type(self).__name__)
        object.__setattr__(self, "_written", written)

    @abstractmethod
    def _code(self) -> torch.Tensor:
        """(F,): what the edit pushes along, for its direction."""

    @property
    def the_direction(self) -> Direction:
        """What it writes where all of the code moves; it carries the model's fingerprint."""
        written: Direction = self._written  # type: ignore[attr-defined]
        return written

    @property
    def the_site(self) -> Site:
        return self.site or self.the_direction.site

    def keys(self) -> list[str] | None:
        """Any location of the right width: to use an SAE at a neighbouring layer is the caller's choice."""
        return None

    def width(self, key: str) -> int | None:
        return self.sae.width

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), "sae": self.sae.fingerprint}


@dataclass(frozen=True, kw_only=True)
class SaeClamp(_InCode):
    """Set features of an SAE to values; strength 1 sets them fully, 0 of a value turns them off.

    Args:
        sae: the SAE.
        features: their numbers, all different.
        values: one for all, or one each, from 0 (codes are never negative).
    """

    features: Sequence[int]
    values: float | Sequence[float] = 0.0
    invariants = ("change in the span of the decoder rows",)

    def __post_init__(self) -> None:
        given = [self.values] * len(self.features) if isinstance(self.values, int | float) else list(self.values)
        if len(given) != len(self.features) or not all(0 <= value < float("inf") for value in given):
            raise BadInput(
                f"SaeClamp: expected one value from 0, or one for each of {len(self.features)} features, got {self.values}; codes are "
                "never negative."
            )
        object.__setattr__(self, "values", tuple(float(value) for value in given))
        super().__post_init__()
        object.__setattr__(self, "features", self.sae.checked(self.features))

    def _code(self) -> torch.Tensor:
        return self.sae.one_hot(self.features)

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return (*self.sae.weights, torch.tensor(self.features), torch.tensor(self.values))

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        features, values = tensors[5:]
        return clamp_features(h, Weights(*tensors[:5]), self.sae.form, features, values, s)

    def describe(self) -> dict[str, Any]:
        assert isinstance(self.values, tuple)
        return {**super().describe(), "features": list(self.features), "values": list(self.values)}


@dataclass(frozen=True, kw_only=True)
class SaeShift(_InCode):
    """Shift an SAE's code; strength 1 shifts by the whole code, -1 by its negative, which is no opposite.

    Args:
        sae: the SAE.
        code: (F,) shift, not zero.
        info: what is worth keeping about it, JSON values.
    """

    code: torch.Tensor
    info: dict[str, Any] = field(default_factory=dict)
    invariants = ("change in the span of the decoder rows",)

    def __post_init__(self) -> None:
        if isinstance(self.sae, Sae) and self.code.shape != (self.sae.n_features,):
            raise BadInput(
                f"SaeShift: expected a code of shape ({self.sae.n_features},), got {tuple(self.code.shape)}."
            )
        if not torch.isfinite(self.code).all():
            raise NonFinite("SaeShift: the code holds NaN or infinity.")
        super().__post_init__()

    def _code(self) -> torch.Tensor:
        return self.code

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return (*self.sae.weights, self.code)

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        return shift_code(h, Weights(*tensors[:5]), self.sae.form, tensors[5], s)

    def save(self, path: str | Path) -> Path:
        """Write SAE and code to one `.safetensors` file; the strength, site and gate are not part of it."""
        header = {**files.header_of(self.sae), "shift_info": self.info}
        return kept.save(path, "sae shift", header, {**files.tensors_of(self.sae), "code": self.code.float()})

    @classmethod
    def load(cls, path: str | Path, **settings: Any) -> SaeShift:
        """Read what `save` wrote; settings as of the class (strength, site, gate, name).

        Raises:
            BadArtifact: missing, damaged, or another thing.
        """

        def made(header: dict[str, Any], tensors: kept.Tensors) -> SaeShift:
            sae = files.sae_of(header, tensors)
            return cls(sae, code=tensors["code"], info=dict(header["shift_info"]), **settings)

        return kept.load(path, "sae shift", made)

    def describe(self) -> dict[str, Any]:
        from steer_agents.fingerprint import data_fingerprint

        return {**super().describe(), "code": data_fingerprint(self.code)}
