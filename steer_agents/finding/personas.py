"""The axis from role-playing to the default persona.

    axis = mean(replies as oneself) - mean over roles of mean(replies in that role)

Source: Assistant Axis, arXiv 2601.10387: h is the mean over the tokens of a reply; replies count in a role if a judge gave them the
full score; every role counts once. As a check the paper takes the first principal component of the role vectors, which is
close to the axis where roles vary mostly in how far they are from the default: `info["fit"]` holds |cos| and its share.

The axis points to the default, so that a floor on the projection (`Cap(axis, side="floor")`) keeps a persona from drifting away; the
released code caps from above along the stored, negated vector. We differ in: any policy and any kind of item, no fixed
lists of roles and questions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.finding.contrast_sets import ContrastSet, difference, equal_by
from steer_agents.sites import Site, Steerable

IN_ROLE = 3.0
"""The judge's score of a reply that is fully in its role."""


@dataclass(frozen=True)
class InRole:
    """A reply in a role.

    Args:
        role: its name; None is the default persona.
        item: `reply(prompt, text)`, or an input of the policy.
        score: of a judge, how much it is in the role; replies of the default persona need none.
    """

    role: str | None
    item: Any
    score: float = IN_ROLE


def persona_contrast(replies: Sequence[InRole], least_score: float = IN_ROLE) -> ContrastSet:
    """The default persona against all roles, each of them once.

    Args:
        least_score: replies in a role with less are left out.
    Raises:
        BadInput: no reply as oneself, or none that is in its role.
    """
    default = [one for one in replies if one.role is None]
    played = [one for one in replies if one.role is not None and one.score >= least_score]
    roles = list(dict.fromkeys(one.role for one in played))
    if not default or not roles:
        raise BadInput(
            f"assistant-axis: got {len(default)} replies of the default persona (role=None) and {len(played)} of {len(replies)} that "
            f"reach the score {least_score:g} in a role; both sides need some."
        )
    return ContrastSet(
        "assistant-axis", [one.item for one in default], [one.item for one in played],
        weights=([1.0] * len(default), equal_by([one.role for one in played])),
        info={"roles": roles, "n_left_out": len(replies) - len(default) - len(played)},
    )  # fmt: skip


def assistant_axis(
    target: Steerable, *, replies: Sequence[InRole], least_score: float = IN_ROLE, site: Site | None = None
) -> Direction:
    """From the roles towards the default persona.

    Args:
        replies, least_score: see `persona_contrast`.
        site: where to read what is no excerpt; default: every layer's `block_output` at the last token.
    Returns:
        a direction; `info["fit"]` also holds `pc1_cosine` (|cos| of axis and first principal component of the role vectors) and
        `pc1_share` (of their variance), None with fewer than 3 roles.
    """
    contrast = persona_contrast(replies, least_score)
    owners = [one.role for one in replies if one.role is not None and one.score >= least_score]

    def notes(plus: torch.Tensor, minus: torch.Tensor, u: torch.Tensor) -> dict[str, float | None]:
        members = [[i for i, owner in enumerate(owners) if owner == role] for role in dict.fromkeys(owners)]
        roles = torch.stack([minus[own].mean(0) for own in members])
        if len(roles) < 3:
            return {"pc1_cosine": None, "pc1_share": None}
        _, values, rows = torch.linalg.svd(roles - roles.mean(0), full_matrices=False)
        return {
            "pc1_cosine": abs(float(rows[0] @ u) / float(u.norm())),
            "pc1_share": float(values[0] ** 2 / (values**2).sum()),
        }

    return difference(target, contrast, site, notes)
