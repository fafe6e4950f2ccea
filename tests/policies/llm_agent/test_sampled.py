"""The sampled read-out on a language that is known exactly: a Markov chain written into a transformer's weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from policies.errors import BadInput
from policies.llm_agent import LLMAgent, LLMAgentConfig
from policies.llm_agent.config import ACTION_PATTERN
from policies.llm_agent.readouts import parse_action, sample_tokens

WORDS = [
    "Which?",
    "assistant:",
    "Thought:",
    " hm.",
    " well.",
    "\n",
    "Action:",
    " blue",
    " green",
    " fish",
    " extra",
    "\nuser:",
]
LABELS = ("blue", "green")
INFO = {"action_labels": LABELS, "prompt_format": "text"}
CHAIN: dict[str, dict[str, float]] = {
    "assistant:": {"Thought:": 1.0},
    "Thought:": {" hm.": 0.5, " well.": 0.5},
    " hm.": {"Action:": 1.0},
    " well.": {"Action:": 1.0},
    "Action:": {" blue": 0.6, " green": 0.2, " fish": 0.2},
    " blue": {"\n": 1.0},
    " green": {"\nuser:": 1.0},
    " fish": {"</s>": 1.0},
    "\n": {" extra": 1.0},
}


def markov_model(tokenizer: Any, chain: Mapping[str, Mapping[str, float]]) -> tf.PreTrainedModel:
    """A one-layer Llama whose blocks add nothing: one-hot embeddings, and log-probabilities as unembedding."""
    V, D = len(tokenizer), 16
    config = tf.LlamaConfig(
        vocab_size=V,
        hidden_size=D,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=200,
        tie_word_embeddings=False,
    )
    model = tf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            parameter.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(V, D))
        log_p = torch.full((V, D), -30.0)
        for word, following in chain.items():
            for other, p in following.items():
                log_p[tokenizer.convert_tokens_to_ids(other), tokenizer.convert_tokens_to_ids(word)] = float(np.log(p))
        model.lm_head.weight.copy_(log_p / D**0.5)  # the final norm makes the one-hot vector sqrt(D) long
    return model


@pytest.fixture
def make_agent(make_word_tokenizer: Callable[..., Any]) -> Callable[..., LLMAgent]:
    def make(chain: Mapping[str, Mapping[str, float]] = CHAIN, **options: Any) -> LLMAgent:
        tokenizer = make_word_tokenizer(WORDS)
        config = LLMAgentConfig(readout="sampled", **{"n_completions": 25, "max_new_tokens": 12, **options})
        return LLMAgent(markov_model(tokenizer, chain), tokenizer, config)

    return make


def test_validity_and_entropy_are_those_of_the_language(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(n_completions=400)
    agent.reset([0, 1], [INFO, INFO])
    measures = agent.act({"prompt": ("assistant:",) * 2}).measures
    np.testing.assert_allclose(measures["validity"], 0.8, atol=0.06)
    np.testing.assert_allclose(measures["probabilities"], [[0.75, 0.25]] * 2, atol=0.07)
    np.testing.assert_allclose(measures["entropy_bits"], 0.811, atol=0.09)
    assert measures["top_action"].tolist() == [0, 0]


def test_the_executed_action_follows_the_valid_completions(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(n_completions=5)
    agent.reset(range(300), [INFO] * 300)
    decision = agent.act({"prompt": ("assistant:",) * 300})
    counts = decision.measures["probabilities"]
    assert decision.action.min() >= 0
    assert (counts[np.arange(300), decision.action] > 0).all(), "only completions that were sampled are executed"
    assert (decision.action == 0).mean() == pytest.approx(np.nanmean(counts[:, 0]), abs=0.06)


def test_when_no_completion_is_valid_the_action_is_minus_one(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent({**CHAIN, "Action:": {" fish": 1.0}})
    agent.reset([0], [INFO])
    decision = agent.act({"prompt": ("assistant:",)})
    assert decision.action.tolist() == [-1]
    assert decision.measures["validity"].tolist() == [0.0]
    assert np.isnan(decision.measures["entropy_bits"]).all()


def test_temperature_flattens_the_language_and_costs_validity(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(n_completions=200)
    agent.reset([0], [INFO])
    assert agent.set_decision(temperature=20.0) == {"temperature": 1.0}
    hot = agent.act({"prompt": ("assistant:",)}).measures["validity"][0]
    assert agent.set_decision(temperature=1.0) == {"temperature": 20.0}
    cold = agent.act({"prompt": ("assistant:",)}).measures["validity"][0]
    assert hot < 0.5 < cold


def test_a_completion_is_cut_at_the_end_of_its_action_line(make_agent: Callable[..., LLMAgent]) -> None:
    """Also where the token that holds the line break goes on after it, as the one after " green" does."""
    agent = make_agent(n_completions=1)
    agent.reset(range(60), [INFO] * 60)
    agent.act({"prompt": ("assistant:",) * 60})
    said = {completion for own in agent._own_completions for completion in own}
    assert said == {f"Thought: {thought}.Action: {arm}" for thought in ("hm", "well") for arm in ("blue", "green")}


def test_generation_stops_as_soon_as_all_completions_have_ended(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(max_new_tokens=100)
    calls: list[int] = []
    agent.module.register_forward_pre_hook(lambda m, args, kwargs: calls.append(1), with_kwargs=True)
    agent.reset([3], [INFO])
    agent.act({"prompt": ("assistant:",)})
    assert len(calls) == 5, "one pass for the prompt, four for Thought, hm, Action, blue"


def test_a_completion_that_never_ends_is_cut_at_max_new_tokens(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent({"assistant:": {" hm.": 1.0}, " hm.": {" hm.": 1.0}}, max_new_tokens=7)
    calls: list[int] = []
    agent.module.register_forward_pre_hook(lambda m, args, kwargs: calls.append(1), with_kwargs=True)
    agent.reset([3], [INFO])
    assert agent.act({"prompt": ("assistant:",)}).action.tolist() == [-1]
    assert len(calls) == 7


def test_own_thoughts_become_part_of_the_dialogue(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent()
    agent.reset([0], [{**INFO, "prompt_format": "messages"}])
    first = [{"role": "user", "content": "Which?"}]
    action = int(agent.act({"prompt": (json.dumps(first),)}).action[0])
    env_turn = {"role": "assistant", "content": f"Action: I choose {LABELS[action]}."}
    text = agent.render_row(0, json.dumps([*first, env_turn, {"role": "user", "content": "Which?"}]))
    assert "Thought:" in text
    assert "I choose" not in text
    assert f"Action: {LABELS[action]}" in text
    agent.reset([0], [{**INFO, "prompt_format": "messages"}])
    assert "Thought:" not in agent.render_row(0, json.dumps([*first, env_turn])), "a new episode starts without a past"


def test_the_answer_prefix_counts_as_the_beginning_of_the_completion(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(answer_prefix="\nAction:")
    agent.reset([0], [INFO])
    decision = agent.act({"prompt": ("assistant:",)})
    assert decision.measures["validity"][0] > 0.5
    assert agent._own_completions[0][0] in ("Action: blue", "Action: green")


def test_hooks_are_told_prefill_then_decode_and_how_many_rows_each_episode_has(
    make_agent: Callable[..., LLMAgent],
) -> None:
    agent = make_agent(n_completions=4)
    seen: list[tuple[str | None, int, int]] = []

    def look(module: Any, args: Any, kwargs: dict[str, Any]) -> None:
        seen.append((agent.context.phase, len(kwargs["input_ids"]), agent.context.repeats))

    agent.module.register_forward_pre_hook(look, with_kwargs=True)
    agent.reset([0, 1], [INFO, INFO])
    agent.act({"prompt": ("assistant:",) * 2})
    assert seen[0] == ("prefill", 2, 1)
    assert set(seen[1:]) == {("decode", 8, 4)}
    assert (agent.context.phase, agent.context.repeats) == (None, 1)


def test_the_taken_back_phase_survives_a_failing_hook(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(n_completions=4)

    def fail_in_decode(module: Any, args: Any) -> None:
        if agent.context.phase == "decode":
            raise RuntimeError("a hook failed")

    agent.module.register_forward_pre_hook(fail_in_decode)
    agent.reset([0], [INFO])
    with pytest.raises(RuntimeError, match="a hook failed"):
        agent.act({"prompt": ("assistant:",)})
    assert (agent.context.phase, agent.context.repeats) == (None, 1)


def test_equal_seeds_give_equal_completions_whatever_the_batch(make_agent: Callable[..., LLMAgent]) -> None:
    def run(seeds: list[int], row: int) -> list[str]:
        agent = make_agent(n_completions=3)
        agent.reset(seeds, [INFO] * len(seeds))
        for _ in range(6):
            agent.act({"prompt": ("assistant:",) * len(seeds)})
        return agent._own_completions[row]

    assert run([7], 0) == run([1, 7, 3], 1) == run([7], 0)
    assert run([7], 0) != run([8], 0)


def test_every_step_draws_anew(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(n_completions=1)
    agent.reset([7], [INFO])
    for _ in range(12):
        agent.act({"prompt": ("assistant:",)})
    assert len(set(agent._own_completions[0])) > 1


def test_inactive_rows_say_nothing(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent()
    agent.reset([0, 1], [INFO, INFO])
    decision = agent.act({"prompt": ("assistant:", "assistant:")}, np.array([True, False]))
    assert np.isnan(decision.measures["validity"]).tolist() == [False, True]
    assert agent._own_completions[1] == []


@pytest.mark.parametrize(
    ("text", "arm"),
    [
        ("Thought: blue is good.\nAction: I choose Button 2.", 1),
        ("Action: button 10", 2),
        ("action: I CHOOSE BUTTON 1!", 0),
        ("Thought: I will take Button 1.", -1),
        ("Action: I choose Button 3.", -1),
        ("Action: I choose Button 12.", -1),
        ("Action:\nButton 1", -1),
        ("Action: Button 2 rather than Button 1", 1),
        ("", -1),
    ],
)
def test_the_parser_reads_the_first_label_of_the_action_line(text: str, arm: int) -> None:
    assert parse_action(text, ("Button 1", "Button 2", "Button 10"), ACTION_PATTERN) == arm


def test_labels_are_no_regular_expressions() -> None:
    assert parse_action("Action: a+b", ("a.b", "a+b"), ACTION_PATTERN) == 1
    assert parse_action("Action: axb", ("a.b", "a+b"), ACTION_PATTERN) == -1


def test_tokens_are_drawn_from_the_softmax() -> None:
    logits = torch.tensor([0.5, 0.3, 0.0, 0.2]).log().expand(4000, -1)
    tokens = sample_tokens(logits, torch.linspace(0, 1, 4001, dtype=torch.float64)[:-1])
    assert (tokens.bincount(minlength=4) / 4000).tolist() == pytest.approx([0.5, 0.3, 0.0, 0.2], abs=1e-3)


def test_a_context_without_room_for_the_completion_is_refused(make_agent: Callable[..., LLMAgent]) -> None:
    agent = make_agent(max_new_tokens=196)
    agent.reset([0], [INFO])
    with pytest.raises(BadInput, match=r"has room for 4 \(and 196 new ones\)"):
        agent.act({"prompt": ("assistant:" + " hm." * 5,)})


def test_a_model_without_an_end_token_is_refused(make_word_tokenizer: Callable[..., Any]) -> None:
    tokenizer = make_word_tokenizer(WORDS)
    model = markov_model(tokenizer, CHAIN)
    tokenizer.eos_token = None
    model.generation_config.eos_token_id = None
    with pytest.raises(BadInput, match="end token"):
        LLMAgent(model, tokenizer, LLMAgentConfig(readout="sampled"))
