"""The language model that an experiment steers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import policies
from policies.errors import BadInput
from policies.llm_agent.agent import LLMAgent


def language_model(name: str, experiment: str, load: Mapping[str, Any] | None = None) -> LLMAgent:
    """Load a policy by its name.

    Args:
        name: that `policies.load` takes; load: its options.
        experiment: that asks, for the message.
    Raises:
        BadInput: it is no language model.
    """
    policy = policies.load(name, **(load or {}))
    if not isinstance(policy, LLMAgent):
        raise BadInput(
            f"{experiment} needs a language model, got {name!r}, which is none. Name one such as llm:smollm2-135m, any causal language "
            "model of Hugging Face (llm:Qwen/Qwen2.5-1.5B-Instruct), or llm:<folder>."
        )
    return policy
