from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from policies.errors import BadInput, UnknownArchitecture
from policies.llm_agent import LLMAgent, LLMAgentConfig
from policies.llm_agent.prompts import label_token_ids

LABELS = ("blue", "green", "red")
INFO = {"action_labels": LABELS, "prompt_format": "text"}
HEAD = "There are 3 buttons: blue, green, red. Each press gives points.\n"


def play(agent: LLMAgent, seeds: list[int], n_steps: int = 6, wide: bool = False) -> tuple[np.ndarray, list[Any]]:
    """A closed loop in which the reward depends on the action; `wide` rewards have unequal lengths."""
    agent.reset(seeds, [INFO] * len(seeds))
    prompts = [HEAD + "Round 1: pressed" for _ in seeds]
    actions, decisions = [], []
    for t in range(n_steps):
        decision = agent.act({"prompt": tuple(prompts)})
        for b, action in enumerate(decision.action):
            points = 10 ** (action + 1) if wide else 40 + 7 * action + seeds[b] % 3
            prompts[b] += f" {LABELS[action]}, got {points} points\nRound {t + 2}: pressed"
        actions.append(decision.action)
        decisions.append(decision)
    return np.array(actions), decisions


@pytest.fixture
def agent(llama: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast) -> LLMAgent:
    return LLMAgent(llama, tokenizer, LLMAgentConfig(temperature=3.0))


@pytest.mark.parametrize("wide", [False, True], ids=["equal lengths", "ragged"])
def test_a_closed_loop_with_the_cache_equals_one_without(
    llama: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast, wide: bool
) -> None:
    runs = []
    for reuse in (True, False):
        agent = LLMAgent(llama, tokenizer, LLMAgentConfig(temperature=3.0, reuse_prefix=reuse))
        runs.append(play(agent, [0, 1, 2, 3], wide=wide))
    (actions, decisions), (other_actions, other_decisions) = runs
    assert (actions == other_actions).all()
    assert len({tuple(row) for row in actions.T}) > 1, "the rows should not all play the same game"
    for one, other in zip(decisions, other_decisions, strict=True):
        for name, values in one.measures.items():
            np.testing.assert_allclose(values, other.measures[name], atol=1e-4, err_msg=name)


def test_the_choice_is_what_the_model_says_about_the_labels(
    agent: LLMAgent, llama: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast
) -> None:
    prompt = HEAD + "Round 1: pressed"
    agent.reset([0], [INFO])
    measures = agent.act({"prompt": (prompt,)}).measures
    with torch.no_grad():
        logits = llama(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[0, -1].double()
    ids = label_token_ids(tokenizer, LABELS, prompt)
    np.testing.assert_allclose(measures["probabilities"][0], (logits[ids] / 3).softmax(0), atol=1e-5)
    np.testing.assert_allclose(measures["action_mass"][0], logits.softmax(0)[ids].sum(), atol=1e-5)


def test_equal_seeds_give_equal_actions_and_other_seeds_others(agent: LLMAgent) -> None:
    first, _ = play(agent, [0, 1, 2, 3], n_steps=8)
    again, _ = play(agent, [0, 1, 2, 3], n_steps=8)
    other, _ = play(agent, [10, 11, 12, 13], n_steps=8)
    assert (first == again).all()
    assert (first != other).any()


@pytest.mark.parametrize("wide", [False, True], ids=["equal lengths", "ragged"])
def test_a_row_alone_plays_as_it_does_in_a_batch(agent: LLMAgent, wide: bool) -> None:
    together, decisions = play(agent, [0, 1, 2], wide=wide)
    alone, lonely = play(agent, [2], wide=wide)
    assert (together[:, 2] == alone[:, 0]).all()
    for one, other in zip(decisions, lonely, strict=True):
        np.testing.assert_allclose(one.measures["logits"][2], other.measures["logits"][0], atol=1e-4)


def test_the_uniforms_stay_aligned_over_conditions_and_inactive_rows(agent: LLMAgent) -> None:
    """The draw of step t is the t-th number of the row's stream, active or not."""
    prompt = (HEAD + "Round 1: pressed",)
    agent.reset([5], [INFO])
    agent.act({"prompt": prompt}, np.array([False]))
    decision = agent.act({"prompt": prompt})
    u = np.random.default_rng([5, 1]).random(2)[1]
    assert decision.action[0] == (decision.measures["probabilities"][0].cumsum() <= u).sum()


def test_temperature_is_set_returned_and_described(agent: LLMAgent) -> None:
    prompt = {"prompt": (HEAD + "Round 1: pressed",)}
    agent.reset([0], [INFO])
    warm = agent.act(prompt).measures
    assert agent.set_decision(temperature=0.3) == {"temperature": 3.0}
    cold = agent.act(prompt).measures
    assert cold["entropy_bits"][0] < warm["entropy_bits"][0]
    np.testing.assert_allclose(cold["logits"], warm["logits"], atol=1e-5)
    assert agent.describe()["temperature"] == 0.3
    assert agent.set_decision(temperature=3.0) == {"temperature": 0.3}


def test_bad_decision_settings_are_refused(agent: LLMAgent) -> None:
    with pytest.raises(BadInput, match=r"no decision setting 'temp'; did you mean 'temperature'\?"):
        agent.set_decision(temp=1.0)
    with pytest.raises(BadInput, match="greater than 0, got 0"):
        agent.set_decision(temperature=0)
    assert agent.describe()["temperature"] == 3.0


def test_it_offers_modules_and_decision_and_knows_its_sites(agent: LLMAgent) -> None:
    assert agent.entrances == {"modules", "decision"}
    assert agent.site_map is not None
    assert agent.site_map.name == "llama"


def test_its_description_is_json_and_names_every_setting(agent: LLMAgent) -> None:
    description = json.loads(json.dumps(agent.describe()))
    assert {"name", "model", "dtype", "readout", "temperature", "keep_decision"} <= description.keys()
    assert description["dtype"] == "float32"


def test_a_model_without_a_site_map_is_refused(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    config = tf.GPTNeoXConfig(
        vocab_size=len(tokenizer), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2
    )
    with pytest.raises(UnknownArchitecture, match="gpt_neox"):
        LLMAgent(tf.GPTNeoXForCausalLM(config), tokenizer)


def test_the_prompt_is_encoded_in_phase_prefill_and_the_phase_is_taken_back(agent: LLMAgent) -> None:
    phases = []
    handle = agent.module.register_forward_pre_hook(lambda m, args: phases.append(agent.context.phase))
    play(agent, [0, 1], n_steps=3)
    handle.remove()
    assert phases == ["prefill"] * 3
    assert agent.context.phase is None


def test_steering_what_is_sampled_leaves_the_next_prompt_unsteered(
    llama: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast
) -> None:
    """Keys and values of generated tokens are thrown away after the choice."""
    agent = LLMAgent(llama, tokenizer, LLMAgentConfig(readout="sampled", n_completions=3, max_new_tokens=5))
    first = HEAD + "Round 1: pressed"
    second = first + " blue, got 47 points\nRound 2: pressed"
    pushes = []

    def push(module: Any, args: Any, output: Any) -> Any:
        if agent.context.phase != "decode":
            return None
        pushes.append(len(output))
        return output + 5.0

    agent.reset([0, 1], [INFO, INFO])
    handle = llama.model.layers[0].register_forward_hook(push)
    agent.act({"prompt": (first, first)})
    handle.remove()
    assert pushes == [6] * 4, "two rows times three completions, one pass after each of the first four tokens"
    kept: list[torch.Tensor] = []
    handle = llama.register_forward_hook(lambda module, args, output: kept.append(output.logits[:, -1]))
    agent.act({"prompt": (second, second)})
    handle.remove()
    with torch.no_grad():
        expected = llama(torch.tensor([tokenizer(second)["input_ids"]])).logits[:, -1]
    torch.testing.assert_close(kept[0], expected.expand(2, -1), atol=1e-4, rtol=0)


def test_encoded_prompts_end_in_their_last_token_and_give_the_same_logits_as_alone(
    family_model: tf.PreTrainedModel, make_byte_tokenizer: Callable[..., Any], make_model: Callable[..., Any]
) -> None:
    tokenizer = make_byte_tokenizer()
    model = make_model(family_model.config.model_type.removesuffix("_text"), len(tokenizer))
    agent = LLMAgent(model, tokenizer)
    prompts = [HEAD + "Round 1: pressed" + " blue, got 7 points" * (i % 4) for i in range(18)]
    batches = agent.encode(prompts)
    assert [len(batch["input_ids"]) for batch in batches] == [16, 2]
    with torch.no_grad():
        last = torch.cat([model(**batch).logits[:, -1] for batch in batches])
        alone = torch.cat([model(torch.tensor([tokenizer(prompt)["input_ids"]])).logits[:, -1] for prompt in prompts])
    torch.testing.assert_close(last, alone, atol=1e-4, rtol=0)
    assert batches[0]["attention_mask"][:, -1].all()


def test_messages_are_encoded_as_the_agent_reads_them(agent: LLMAgent) -> None:
    messages = [{"role": "user", "content": "Which button?"}]
    (batch,) = agent.encode([messages])
    assert agent.tokenizer.decode(batch["input_ids"][0]) == "<s>user\nWhich button?</s>\n<s>assistant\n"
    with pytest.raises(BadInput, match=r"got one string; write \[prompt\]"):
        agent.encode("Which button?")


def test_a_dialogue_with_an_answer_prefix_gives_a_forced_choice(
    llama: tf.PreTrainedModel, tokenizer: tf.PreTrainedTokenizerFast
) -> None:
    agent = LLMAgent(llama, tokenizer, LLMAgentConfig(answer_prefix="Action: I choose"))
    agent.reset([0], [{**INFO, "prompt_format": "messages"}])
    messages = [{"role": "user", "content": "Which button?"}]
    decision = agent.act({"prompt": (json.dumps(messages),)})
    text = "<s>user\nWhich button?</s>\n<s>assistant\nAction: I choose"
    with torch.no_grad():
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        logits = llama(torch.tensor([ids])).logits[0, -1]
    labels = label_token_ids(tokenizer, LABELS, text, rendered=True)
    np.testing.assert_allclose(decision.measures["probabilities"][0], logits[labels].softmax(0), atol=1e-5)


def test_inactive_rows_need_no_prompt_and_change_nobody(agent: LLMAgent) -> None:
    prompt = HEAD + "Round 1: pressed"
    agent.reset([0, 1], [INFO, INFO])
    both = agent.act({"prompt": (prompt, prompt)})
    agent.reset([0, 1], [INFO, INFO])
    one = agent.act({"prompt": (prompt, "")}, np.array([True, False]))
    np.testing.assert_allclose(one.measures["logits"][0], both.measures["logits"][0], atol=1e-5)
    assert np.isnan(one.measures["entropy_bits"][1])
    later = agent.act({"prompt": (prompt + " blue, got 47 points\nRound 2: pressed", "")}, np.array([True, False]))
    assert np.isfinite(later.measures["entropy_bits"][0])


@pytest.mark.parametrize(
    ("infos", "message"),
    [
        ([{}], r"batch row 0 has no 'action_labels', it has \[\]"),
        ([{"action_labels": ()}], "at least one name"),
        ([{"action_labels": ("blue", "Blue")}], r"all different, got \('blue', 'Blue'\)"),
        ([{**INFO, "prompt_format": "txt"}], r"prompt_format 'txt' of batch row 0 is unknown; did you mean 'text'\?"),
        ([INFO, {"action_labels": ("blue", "red")}], r"equally many actions, got \[2, 3\]"),
    ],
)
def test_bad_reset_infos_are_refused_by_row(agent: LLMAgent, infos: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        agent.reset(range(len(infos)), infos)


def test_a_new_episode_may_have_another_batch_size_and_starts_without_a_past(agent: LLMAgent) -> None:
    first, _ = play(agent, [0, 1, 2])
    play(agent, [4])
    again, _ = play(agent, [0, 1, 2])
    assert (first == again).all()
