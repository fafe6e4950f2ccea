from __future__ import annotations

import pytest

from policies.errors import BadInput
from policies.llm_agent import LLMAgentConfig


def test_the_defaults_are_the_forced_choice_at_temperature_one() -> None:
    config = LLMAgentConfig()
    assert (config.readout, config.temperature, config.n_completions) == ("forced_choice", 1.0, 25)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("readout", "force_choice"),
        ("temperature", 0),
        ("temperature", -1.5),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", "hot"),
        ("n_completions", 0),
        ("n_completions", 2.5),
        ("max_new_tokens", -3),
        ("action_pattern", "Action: blue"),
        ("action_pattern", "Action: ({labels}"),
        ("action_pattern", "(Action|Act): ({labels})"),
        ("stop_pattern", "[a"),
    ],
)
def test_bad_values_are_refused_and_shown(field: str, value: object) -> None:
    with pytest.raises(BadInput) as caught:
        LLMAgentConfig(**{field: value})  # type: ignore[arg-type]
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)


def test_an_unknown_readout_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"did you mean 'forced_choice'\? Allowed: forced_choice, sampled"):
        LLMAgentConfig(readout="force_choice")


def test_keeping_decisions_without_a_cache_is_refused() -> None:
    with pytest.raises(BadInput, match="keep_decision=True needs reuse_prefix=True"):
        LLMAgentConfig(keep_decision=True, reuse_prefix=False)


def test_unknown_options_are_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"option 'temprature' is unknown; did you mean 'temperature'\?"):
        LLMAgentConfig.from_options({"temprature": 2.0})
    assert LLMAgentConfig.from_options({"temperature": 2.0}).temperature == 2.0
