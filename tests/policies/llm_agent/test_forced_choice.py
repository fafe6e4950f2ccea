from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf
from hypothesis import given
from hypothesis import strategies as st

from policies.errors import BadInput
from policies.llm_agent.batching import left_padded
from policies.llm_agent.readouts import (
    ForcedChoice,
    Question,
    action_logits,
    draw_index,
    entropy_bits,
    label_log_probabilities,
)

LABELS = ("blue", "green", "red")


def question(tokenizer: Any, probabilities: list[float], mass: float, B: int = 1, **changes: Any) -> Question:
    """A question whose full softmax puts `mass` on the labels, shared out as `probabilities`."""
    readout = ForcedChoice(tokenizer)
    ids = readout.label_ids("Round 1: pressed", False, LABELS)
    full = torch.full((len(tokenizer),), (1 - mass) / (len(tokenizer) - 3))
    full[ids] = mass * torch.tensor(probabilities)
    fields: dict[str, Any] = {
        "prompts": ["Round 1: pressed"] * B,
        "rendered": [False] * B,
        "labels": [LABELS] * B,
        "logits": (full.log() + 3.7).expand(B, -1),
        "active": np.ones(B, dtype=bool),
        "temperature": 1.0,
        "uniforms": np.linspace(0, 1, B, endpoint=False),
        "seeds": [0] * B,
        "act_index": 0,
    }
    return Question(**{**fields, **changes})


def test_probabilities_mass_and_entropy_are_those_of_the_softmax(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    answer = ForcedChoice(tokenizer).choose(question(tokenizer, [0.5, 0.25, 0.25], mass=0.8))
    measures = answer.measures
    np.testing.assert_allclose(measures["probabilities"], [[0.5, 0.25, 0.25]], atol=1e-6)
    np.testing.assert_allclose(measures["logits"], np.log([[0.5, 0.25, 0.25]]), atol=1e-5)
    np.testing.assert_allclose(measures["action_mass"], [0.8], atol=1e-6)
    np.testing.assert_allclose(measures["entropy_bits"], [1.5], atol=1e-5)
    assert measures["top_action"].tolist() == [0]


def test_every_row_may_have_its_own_temperature(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    asked = question(tokenizer, [0.6, 0.3, 0.1], 0.5, B=2, temperature=np.array([0.5, 1.0]))
    both = ForcedChoice(tokenizer).choose(asked).measures["probabilities"]
    for row, one in enumerate((0.5, 1.0)):
        alone = (
            ForcedChoice(tokenizer)
            .choose(question(tokenizer, [0.6, 0.3, 0.1], 0.5, temperature=one))
            .measures["probabilities"]
        )
        np.testing.assert_array_equal(both[row], alone[0])


def test_temperature_sharpens_the_choice_but_not_mass_or_logits(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    cold = ForcedChoice(tokenizer).choose(question(tokenizer, [0.6, 0.3, 0.1], mass=0.5, temperature=0.5)).measures
    squared = np.array([0.36, 0.09, 0.01])
    np.testing.assert_allclose(cold["probabilities"], [squared / squared.sum()], atol=1e-6)
    np.testing.assert_allclose(cold["logits"], np.log([[0.6, 0.3, 0.1]]), atol=1e-5)
    np.testing.assert_allclose(cold["action_mass"], [0.5], atol=1e-6)


def test_actions_follow_the_probabilities(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    answer = ForcedChoice(tokenizer).choose(question(tokenizer, [0.5, 0.2, 0.3], mass=0.9, B=1000))
    assert (np.bincount(answer.action) / 1000).tolist() == pytest.approx([0.5, 0.2, 0.3], abs=2e-3)


def test_inactive_rows_are_nan_and_not_looked_at(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    q = question(
        tokenizer,
        [0.5, 0.25, 0.25],
        mass=0.8,
        B=3,
        active=np.array([True, False, True]),
        prompts=["Round 1: pressed", "", "Round 1: pressed"],
    )
    answer = ForcedChoice(tokenizer).choose(q)
    assert np.isnan(answer.measures["entropy_bits"]).tolist() == [False, True, False]
    assert np.isnan(answer.measures["probabilities"]).all(1).tolist() == [False, True, False]
    assert answer.measures["top_action"].tolist() == [0, -1, 0]
    assert answer.action[1] == 0


def test_each_row_may_have_its_labels_in_its_own_order(tokenizer: tf.PreTrainedTokenizerFast) -> None:
    q = question(tokenizer, [0.7, 0.2, 0.1], mass=0.9, B=2, labels=[LABELS, LABELS[::-1]])
    np.testing.assert_allclose(
        ForcedChoice(tokenizer).choose(q).measures["probabilities"], [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], atol=1e-6
    )


@given(
    st.lists(st.floats(0, 1), min_size=1, max_size=6).filter(lambda p: sum(p) > 0.01),
    st.floats(0, 1, exclude_max=True),
)
def test_a_draw_is_the_inverse_of_the_cumulative_distribution(weights: list[float], uniform: float) -> None:
    p = np.array([weights]) / sum(weights)
    index = int(draw_index(p, np.array([uniform]))[0])
    below, above = p[0, :index].sum(), p[0, : index + 1].sum()
    assert p[0, index] > 0
    assert below - 1e-9 <= uniform <= above + 1e-9


def test_equal_uniforms_give_equal_actions_for_equal_distributions_and_move_little_otherwise() -> None:
    u = np.random.default_rng(0).random(5000)
    a = draw_index(np.tile([0.5, 0.5], (5000, 1)), u)
    b = draw_index(np.tile([0.52, 0.48], (5000, 1)), u)
    assert (a != b).mean() == pytest.approx(0.02, abs=0.01)


def test_entropy_is_log2_k_when_uniform_and_zero_when_certain() -> None:
    np.testing.assert_allclose(entropy_bits(np.array([[0.25] * 4, [1.0, 0, 0, 0]])), [2.0, 0.0], atol=1e-12)


def test_label_log_probabilities_agree_with_the_definition() -> None:
    logits = torch.randn(2, 3, 11, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([4, 0, 7])
    log_p, mass = label_log_probabilities(logits, ids)
    full = logits.softmax(-1)[..., ids]
    torch.testing.assert_close(mass, full.sum(-1))
    torch.testing.assert_close(log_p, (full / full.sum(-1, keepdim=True)).log())


def histories(
    vocabulary: int = 61,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, list[list[int]], list[list[int]]]:
    rng = torch.Generator().manual_seed(5)
    rows = [torch.randint(3, vocabulary, (n,), generator=rng).tolist() for n in (12, 9, 15)]
    decisions = [[3, 7, 11], [2, 5, 8], [0, 6, 14]]
    ids, mask = left_padded(rows, 0)
    positions = torch.tensor([[15 - len(row) + t for t in steps] for row, steps in zip(rows, decisions, strict=True)])
    return ids, mask, positions, rows, decisions


def test_one_pass_over_a_history_scores_every_decision_as_its_own_prompt_would(
    family_model: tf.PreTrainedModel,
) -> None:
    ids, mask, positions, rows, decisions = histories()
    labels = torch.tensor([10, 20, 30])
    log_p, mass = action_logits(family_model, ids, mask, positions, labels)
    assert log_p.shape == (3, 3, 3)
    assert mass.shape == (3, 3)
    for b, row in enumerate(rows):
        for p, t in enumerate(decisions[b]):
            with torch.no_grad():
                alone = family_model(torch.tensor([row[: t + 1]])).logits[:, -1]
            expected, expected_mass = label_log_probabilities(alone, labels)
            torch.testing.assert_close(log_p[b, p], expected[0], atol=1e-4, rtol=0)
            torch.testing.assert_close(mass[b, p], expected_mass[0], atol=1e-4, rtol=0)


def test_rows_may_have_their_own_labels(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    ids, mask, positions, _, _ = histories()
    log_p, _ = action_logits(model, ids, mask, positions, torch.tensor([[10, 20], [20, 10], [10, 20]]))
    same, _ = action_logits(model, ids, mask, positions, torch.tensor([10, 20]))
    torch.testing.assert_close(log_p[1], same[1].flip(-1))
    torch.testing.assert_close(log_p[[0, 2]], same[[0, 2]])


def test_the_unembedding_sees_only_the_requested_positions_and_no_hook_stays(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    ids, mask, positions, _, _ = histories()
    widths = []
    handle = model.lm_head.register_forward_hook(lambda m, args, output: widths.append(output.shape[1]))
    action_logits(model, ids, mask, positions, torch.tensor([10, 20]))
    handle.remove()
    assert widths == [3]
    assert not model.lm_head._forward_pre_hooks


def test_positions_at_padding_are_refused(make_model: Callable[..., Any]) -> None:
    ids, mask, positions, _, _ = histories()
    positions[1, 0] = 0
    with pytest.raises(BadInput, match="not padding"):
        action_logits(make_model("llama"), ids, mask, positions, torch.tensor([10, 20]))
    with pytest.raises(BadInput, match=r"expected attention_mask \(3, 15\) and positions \(3, P\)"):
        action_logits(make_model("llama"), ids, mask, positions[0], torch.tensor([10, 20]))
