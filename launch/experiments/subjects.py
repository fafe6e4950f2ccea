"""Where the experiments steer each architecture, as data: one row per site map.

Flow policies decide in their expert; policies that say one action token after the other decide at the last token of each pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from policies.base import Policy
from policies.errors import BadInput
from steer_agents.tokens import TokenScope, token_class

ACTION = token_class("action")


@dataclass(frozen=True)
class Subject:
    """Where one architecture is steered.

    Args:
        stack: that directions live in; None is the policy's first.
        block: site kind of what one layer writes.
        tokens: at which directions are found and pushed.
        neuron_tokens: at which neurons are set; those of the stack that the vocabulary reads.
    """

    stack: str | None = None
    block: str = "block_output"
    tokens: TokenScope | str = ACTION
    neuron_tokens: TokenScope | str = ACTION


SUBJECTS: Mapping[str, Subject] = {
    "tiny-vla": Subject(),
    "smol-vla": Subject(),
    "openvla": Subject(tokens="last", neuron_tokens="all"),
    "lerobot-pi0-fast": Subject(tokens="last", neuron_tokens="all"),
    "lerobot-pi0": Subject("expert", neuron_tokens="all"),
    "lerobot-pi05": Subject("expert", neuron_tokens="all"),
    "lerobot-smolvla": Subject("expert", "mlp_output", neuron_tokens="all"),
}


def subject_of(policy: Policy) -> Subject:
    """The row of a policy.

    Raises:
        BadInput: it has no site map, or one without a row.
    """
    name = "without a site map" if policy.site_map is None else policy.site_map.name
    if name not in SUBJECTS:
        raise BadInput(
            f"the vla experiments steer policies that see pictures and hear words ({', '.join(SUBJECTS)}); {policy.name} is "
            f"{name}. Add a row to launch/experiments/subjects.py if it is one."
        )
    return SUBJECTS[name]
