"""The numbers that fix a language-model agent's behaviour."""

from __future__ import annotations

import re
from dataclasses import dataclass, fields
from typing import Any

from policies import temperature
from policies.errors import BadInput, nearest

READOUTS = ("forced_choice", "sampled")

ACTION_PATTERN = r"Action:[^\n]*?(?<!\w)({labels})(?!\w)"
"""The first label on the line that begins with "Action:", as in "Action: I choose Button 1."."""

STOP_PATTERN = r"Action:[^\n]*\n"
"""A completion is finished when its Action line ends."""


@dataclass(frozen=True)
class LLMAgentConfig:
    """How a language model's output becomes an action.

    Args:
        readout: "forced_choice" (exact softmax over single-token labels) or "sampled" (M completions, parsed).
        temperature: divides the label logits (forced choice) or all next-token logits (sampled). Greater than 0.
        answer_prefix: text put after the prompt before the answer is read, e.g. "I press the" for a chat prompt.
        keep_decision: keep the decision token's keys and values as they were computed, steered or not, when the next
            prompt is encoded. An ablation: the EAST paper encodes the history unsteered.
        reuse_prefix: encode only what is new in each prompt. False recomputes the whole prompt at every step: the same
            numbers, slower; for checking.
        n_completions: M, completions per prompt (sampled).
        max_new_tokens: longest completion [tokens] (sampled).
        action_pattern: regular expression, ignoring case, with one "{labels}" that stands for the alternatives
            (sampled).
        stop_pattern: regular expression that ends a completion where it first matches (sampled).
    """

    readout: str = "forced_choice"
    temperature: float = 1.0
    answer_prefix: str = ""
    keep_decision: bool = False
    reuse_prefix: bool = True
    n_completions: int = 25
    max_new_tokens: int = 64
    action_pattern: str = ACTION_PATTERN
    stop_pattern: str = STOP_PATTERN

    def __post_init__(self) -> None:
        if self.readout not in READOUTS:
            raise BadInput(f"LLMAgentConfig: readout {self.readout!r} is unknown{nearest(self.readout, READOUTS)}")
        temperature.checked(self.temperature, greedy=False)
        if self.keep_decision and not self.reuse_prefix:
            raise BadInput("LLMAgentConfig: keep_decision=True needs reuse_prefix=True; without reuse nothing is kept.")
        for name in ("n_completions", "max_new_tokens"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise BadInput(f"LLMAgentConfig: {name} must be a whole number of at least 1, got {value!r}.")
        if self.action_pattern.count("{labels}") != 1:
            raise BadInput(
                f"LLMAgentConfig: action_pattern must contain '{{labels}}' exactly once, got {self.action_pattern!r}; "
                f"the default is {ACTION_PATTERN!r}."
            )
        for name in ("action_pattern", "stop_pattern"):
            pattern = getattr(self, name).replace("{labels}", "label")
            try:
                compiled = re.compile(pattern)
            except re.error as error:
                raise BadInput(
                    f"LLMAgentConfig: {name}={getattr(self, name)!r} is no regular expression: {error}."
                ) from error
            if name == "action_pattern" and compiled.groups != 1:
                raise BadInput(
                    "LLMAgentConfig: action_pattern must have one group, the one around '{labels}', got "
                    f"{compiled.groups} in {self.action_pattern!r}; write other groups as (?:...)."
                )

    @classmethod
    def from_options(cls, options: dict[str, Any]) -> LLMAgentConfig:
        """Build a config from keyword options, answering unknown names with the nearest and the full list."""
        allowed = [field.name for field in fields(cls)]
        for name in options:
            if name not in allowed:
                extra = ["device", "dtype", "trust_remote_code"]
                raise BadInput(f"llm: option {name!r} is unknown{nearest(name, [*allowed, *extra])}")
        return cls(**options)
