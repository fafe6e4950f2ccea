"""Conceptors: soft projections onto the subspace that activations fill, their boolean algebra, and the edit that applies them.

    C = R (R + a^-2 I)^-1,  R = E[h h^T]      gains l / (l + a^-2) in [0, 1) along the eigenvectors of R with eigenvalues l
    NOT C  = I - C
    C AND B = Q (Q^T (C+ + B+ - I) Q)^-1 Q^T      + the pseudo-inverse, Q a basis of the intersection of both ranges
    C OR B = NOT (NOT C AND NOT B)                where no gain is 1, the conceptor of the sum of both R

Source: Jaeger, "Controlling recurrent neural networks by conceptors", arXiv 1403.3369 (definition 4 for AND, which holds for
matrices without an inverse too; the shorter (C^-1 + B^-1 - I)^-1 does not).

A conceptor is a `Direction` whose orthonormal rows V are eigenvectors and whose `info["conceptor"]` holds, per location, their
`gains` g and the gain `rest` r of everything orthogonal to them: C h = r h + (h V^T (g - r)) V. So it is one safetensors file, as wide
as it has rows, and its sign means nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.intervention import Directed

INFO = "conceptor"
_EDGE = 1e-9
"""Gains closer than this to 0 or 1 are 0 or 1, and directions that nearly lie in a range do."""


# ---- the algebra, on dense symmetric (D, D) float64 matrices with eigenvalues in [0, 1]


def negated(c: torch.Tensor) -> torch.Tensor:
    """NOT C."""
    return torch.eye(len(c), dtype=c.dtype) - c


def conjunction(c: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """C AND B: what both let through."""
    (inverse_c, null_c), (inverse_b, null_b) = _pseudo_inverse(c), _pseudo_inverse(b)
    # both null spaces together are what the intersection of the ranges is orthogonal to
    values, vectors = torch.linalg.eigh(null_c + null_b)
    q = vectors[:, values < 1e-6]
    core = q.T @ (inverse_c + inverse_b - torch.eye(len(c), dtype=c.dtype)) @ q
    return _symmetric(q @ torch.linalg.inv(core) @ q.T)


def disjunction(c: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """C OR B: what either lets through."""
    return negated(conjunction(negated(c), negated(b)))


def _pseudo_inverse(c: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The pseudo-inverse, and the projection on the null space."""
    values, vectors = torch.linalg.eigh(_symmetric(c))
    null = values <= _EDGE
    inverse = torch.where(null, torch.zeros_like(values), 1 / values.clamp(min=_EDGE))
    return (vectors * inverse) @ vectors.T, vectors[:, null] @ vectors[:, null].T


def _symmetric(c: torch.Tensor) -> torch.Tensor:
    return (c + c.T) / 2


# ---- as directions


def dense(conceptor: Direction, key: str) -> torch.Tensor:
    """The (D, D) float64 matrix at a location."""
    rows, gains, rest = _parts(conceptor, key)
    rows = rows.double()
    return rest * torch.eye(rows.shape[1], dtype=torch.float64) + rows.T @ ((gains.double() - rest)[:, None] * rows)


def spectrum(c: torch.Tensor) -> tuple[torch.Tensor, dict[str, Any]]:
    """Rows (k, D) and the entry of `info` for a dense conceptor; gains that many directions share become the rest."""
    values, vectors = torch.linalg.eigh(_symmetric(c))
    values = values.clamp(0, 1)
    values = torch.where(values < _EDGE, 0.0, torch.where(values > 1 - _EDGE, 1.0, values))
    rest = 1.0 if int((values == 1).sum()) > int((values == 0).sum()) else 0.0
    own = values != rest
    own[-1] |= not own.any()  # a direction has a row
    return vectors[:, own].T.flip(0).float(), {"gains": values[own].flip(0).tolist(), "rest": rest}


def logic(operation: Callable[..., torch.Tensor], *conceptors: Direction) -> Direction:
    """A conceptor made of others at every location: `logic(conjunction, success, logic(negated, failure))`.

    Args:
        operation: `negated`, `conjunction` or `disjunction`.
        conceptors: at the same sites, of the same model.
    """
    first = conceptors[0]
    vectors, entries = {}, {}
    for key in first.vectors:
        for other in conceptors[1:]:
            if other.vectors.keys() != first.vectors.keys():
                raise BadInput(
                    f"conceptors: they cover different sites; only one has {sorted(other.vectors.keys() ^ first.vectors.keys())}."
                )
            first.check_alike(other, key, operation.__name__)
        vectors[key], entries[key] = spectrum(operation(*(dense(one, key) for one in conceptors)))
    method = f"{operation.__name__}({', '.join(one.method for one in conceptors)})"
    kept = {key: {"mean_norm": entry["mean_norm"]} for key, entry in first.statistics.items() if "mean_norm" in entry}
    return replace(first, vectors=vectors, statistics=kept, method=method, info={**first.info, INFO: entries}, doses={})


def _parts(conceptor: Direction, key: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    entry = conceptor.info.get(INFO, {}).get(key)
    rows = conceptor.vectors[key]
    if entry is None or len(entry["gains"]) != len(rows):
        raise BadInput(
            f"the direction ({conceptor.method}) at {key} is no conceptor: it has {len(rows)} row(s) and "
            f"{'no gains' if entry is None else len(entry['gains'])}. Find one with find(policy, 'conceptor', ...)."
        )
    return rows, torch.tensor(entry["gains"], dtype=torch.float32), torch.tensor(float(entry["rest"]))


# ---- the edit


def soft_project(
    h: torch.Tensor, rows: torch.Tensor, gains: torch.Tensor, rest: torch.Tensor, s: torch.Tensor
) -> torch.Tensor:
    """H + s (C h - h), with C of rows (k, D), gains (k,) and the gain of the rest."""
    return h + s * ((rest - 1) * h + ((h @ rows.T) * (gains - rest)) @ rows)


@dataclass(frozen=True, kw_only=True)
class SoftProject(Directed):
    """Pass the activation through a conceptor; strength 1 passes all of it, h -> C h.

    Source: soft projections of activations, inspired by COAST, arXiv 2605.17144 (abstract only); the matrices are those of
    Jaeger, arXiv 1403.3369.
    """

    invariants = ("norm not grown at 1",)
    rows_needed = None

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return _parts(self.direction, key)

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        rows, gains, rest = tensors
        return soft_project(h, rows, gains, rest, s)

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), INFO: self.direction.info.get(INFO)}
