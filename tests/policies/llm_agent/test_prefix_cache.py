"""The cache must be invisible: the logits are those of a model that reads every prompt from its beginning."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
import transformers as tf

from policies.errors import BadInput
from policies.llm_agent.prefix_cache import PrefixCache

TOLERANCE = 1e-4


def grown(rows: list[list[int]], sizes: list[int], rng: torch.Generator) -> list[list[int]]:
    return [row + torch.randint(3, 60, (n,), generator=rng).tolist() for row, n in zip(rows, sizes, strict=True)]


def histories(ragged: bool, n_steps: int = 5) -> list[list[list[int]]]:
    """Prompts of 3 rows over several steps."""
    rng = torch.Generator().manual_seed(3)
    first, later = ([4, 9, 2], [[5, 3, 3], [2, 7, 4], [6, 6, 1], [1, 1, 9]]) if ragged else ([6] * 3, [[5] * 3] * 4)
    steps = [grown([[], [], []], first, rng)]
    for sizes in later[: n_steps - 1]:
        steps.append(grown(steps[-1], sizes, rng))
    return steps


@torch.no_grad()
def recomputed(model: tf.PreTrainedModel, rows: list[list[int]]) -> torch.Tensor:
    return torch.cat([model(torch.tensor([row]), use_cache=False).logits[:, -1] for row in rows])


@contextmanager
def steered_last(model: tf.PreTrainedModel, strength: float = 3.0, position: int = -1) -> Iterator[None]:
    """Add a constant to the second block's output at one position of each pass."""
    blocks = model.transformer.h if hasattr(model, "transformer") else model.model.layers

    def hook(module: torch.nn.Module, args: Any, output: Any) -> Any:
        h = (output[0] if isinstance(output, tuple) else output).clone()
        h[:, position] += strength * torch.linspace(-1, 1, h.shape[-1])
        return (h, *output[1:]) if isinstance(output, tuple) else h

    handle = blocks[1].register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def recorded_calls(model: tf.PreTrainedModel) -> Iterator[list[dict[str, Any]]]:
    """Keyword arguments of the passes on a cache."""
    calls: list[dict[str, Any]] = []

    def record(module: torch.nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        if "past_key_values" in kwargs:
            calls.append(dict(kwargs))

    handle = model.register_forward_pre_hook(record, with_kwargs=True)
    try:
        yield calls
    finally:
        handle.remove()


@pytest.mark.parametrize("ragged", [False, True], ids=["equal lengths", "ragged"])
@pytest.mark.parametrize("reuse", [True, False])
def test_a_closed_loop_with_the_cache_equals_full_recomputation(
    family_model: tf.PreTrainedModel, ragged: bool, reuse: bool
) -> None:
    cache = PrefixCache(family_model, pad_token_id=0, reuse=reuse)
    for rows in histories(ragged):
        torch.testing.assert_close(cache.encode(rows), recomputed(family_model, rows), atol=TOLERANCE, rtol=0)


def test_the_comparison_would_notice_one_lost_token(family_model: tf.PreTrainedModel) -> None:
    rows = histories(ragged=True)[-1]
    without = [row[:3] + row[4:] for row in rows]
    assert (recomputed(family_model, rows) - recomputed(family_model, without)).abs().max() > 100 * TOLERANCE


def test_rows_that_grow_alike_are_encoded_once_without_padding(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    cache = PrefixCache(model, pad_token_id=0)
    steps = histories(ragged=False)
    with recorded_calls(model) as calls:
        for rows in steps:
            cache.encode(rows)
    # the first prompt whole, then 5 new tokens and the decision token of the step before
    assert [call["input_ids"].shape[1] for call in calls] == [6, 6, 6, 6, 6]
    assert [call["attention_mask"].shape[1] for call in calls] == [6, 11, 16, 21, 26]
    assert all(bool(call["attention_mask"].all()) for call in calls)
    for call, rows in zip(calls, steps, strict=True):
        assert call["input_ids"][:, -1].tolist() == [row[-1] for row in rows]


def test_every_pass_ends_at_the_decision_tokens_also_when_ragged(family_model: tf.PreTrainedModel) -> None:
    cache = PrefixCache(family_model, pad_token_id=0)
    with recorded_calls(family_model) as calls:
        steps = histories(ragged=True)
        for rows in steps:
            cache.encode(rows)
    for call, rows in zip(calls, steps, strict=True):
        assert call["input_ids"][:, -1].tolist() == [row[-1] for row in rows]
        assert call["attention_mask"].sum(1).tolist() == [len(row) for row in rows]
        assert call["attention_mask"][:, -1].all()
        assert (call["attention_mask"].diff(dim=1) >= 0).all(), "padding only on the left"


def test_only_the_last_position_gets_logits(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    seen = []
    handle = model.lm_head.register_forward_hook(lambda m, args, output: seen.append(output.shape[1]))
    try:
        PrefixCache(model, pad_token_id=0).encode(histories(ragged=True)[0])
    finally:
        handle.remove()
    assert seen == [1]


@pytest.mark.parametrize("ragged", [False, True], ids=["equal lengths", "ragged"])
def test_a_steered_decision_changes_its_own_logits_and_nothing_after(
    family_model: tf.PreTrainedModel, ragged: bool
) -> None:
    cache = PrefixCache(family_model, pad_token_id=0)
    first, second, third = histories(ragged)[:3]
    with steered_last(family_model):
        steered = cache.encode(first)
    assert (steered - recomputed(family_model, first)).abs().max() > 100 * TOLERANCE
    for rows in (second, third):
        torch.testing.assert_close(cache.encode(rows), recomputed(family_model, rows), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("ragged", [False, True], ids=["equal lengths", "ragged"])
@pytest.mark.parametrize("family", ["llama", "gpt2", "qwen2"])
def test_keep_decision_leaves_the_steered_decision_in_the_history(
    make_model: Callable[..., Any], family: str, ragged: bool
) -> None:
    model = make_model(family)
    cache = PrefixCache(model, pad_token_id=0, keep_decision=True)
    first, second = histories(ragged)[:2]
    with steered_last(model):
        cache.encode(first)
    got = cache.encode(second)
    for b, row in enumerate(second):
        with steered_last(model, position=len(first[b]) - 1):
            expected = recomputed(model, [row])[0]
        torch.testing.assert_close(got[b], expected, atol=TOLERANCE, rtol=0)
    assert (got - recomputed(model, second)).abs().max() > 100 * TOLERANCE


@pytest.mark.parametrize("keep_decision", [False, True])
def test_unsteered_it_makes_no_difference_whether_the_decision_is_kept(
    make_model: Callable[..., Any], keep_decision: bool
) -> None:
    model = make_model("gpt2")
    cache = PrefixCache(model, pad_token_id=0, keep_decision=keep_decision)
    for rows in histories(ragged=True):
        torch.testing.assert_close(cache.encode(rows), recomputed(model, rows), atol=TOLERANCE, rtol=0)


def test_the_same_prompt_twice_and_a_rewritten_history_are_handled(family_model: tf.PreTrainedModel) -> None:
    cache = PrefixCache(family_model, pad_token_id=0)
    rows = histories(ragged=True)[2]
    cache.encode(rows)
    torch.testing.assert_close(cache.encode(rows), recomputed(family_model, rows), atol=TOLERANCE, rtol=0)
    rewritten = [[*row[:2], 7, 8, *row[5:]] for row in rows]
    shorter = [row[:3] for row in rows]
    for other in (rewritten, shorter, rows):
        torch.testing.assert_close(cache.encode(other), recomputed(family_model, other), atol=TOLERANCE, rtol=0)


def test_inactive_rows_keep_their_place_cheaply_and_touch_nobody(family_model: tf.PreTrainedModel) -> None:
    cache = PrefixCache(family_model, pad_token_id=0)
    steps = histories(ragged=False)
    cache.encode(steps[0])
    with recorded_calls(family_model) as calls:
        for rows in steps[1:]:
            with_long_inactive = [rows[0], rows[1] * 5, rows[2]]
            got = cache.encode(with_long_inactive, active=[True, False, True])
            expected = recomputed(family_model, rows)
            torch.testing.assert_close(got[[0, 2]], expected[[0, 2]], atol=TOLERANCE, rtol=0)
    assert [call["input_ids"].shape[1] for call in calls] == [6] * 4


def test_a_row_may_be_inactive_from_the_start(family_model: tf.PreTrainedModel) -> None:
    cache = PrefixCache(family_model, pad_token_id=0)
    for rows in histories(ragged=True):
        got = cache.encode([rows[0], [], rows[2]], active=[True, False, True])
        torch.testing.assert_close(got[[0, 2]], recomputed(family_model, rows)[[0, 2]], atol=TOLERANCE, rtol=0)
        assert got.isfinite().all()


def test_a_row_alone_equals_the_row_in_a_batch(family_model: tf.PreTrainedModel) -> None:
    together = PrefixCache(family_model, pad_token_id=0)
    alone = [PrefixCache(family_model, pad_token_id=0) for _ in range(3)]
    for rows in histories(ragged=True):
        expected = torch.cat([cache.encode([row]) for cache, row in zip(alone, rows, strict=True)])
        torch.testing.assert_close(together.encode(rows), expected, atol=TOLERANCE, rtol=0)


def test_a_pass_that_was_broken_off_does_not_spoil_the_next(make_model: Callable[..., Any]) -> None:
    model = make_model("llama")
    cache = PrefixCache(model, pad_token_id=0)
    first, second = histories(ragged=False)[:2]
    cache.encode(first)

    def broken(module: torch.nn.Module, args: Any, output: Any) -> None:
        raise RuntimeError("a hook failed")

    handle = model.model.layers[1].register_forward_hook(broken)
    with pytest.raises(RuntimeError, match="a hook failed"):
        cache.encode(second)
    handle.remove()
    torch.testing.assert_close(cache.encode(second), recomputed(model, second), atol=TOLERANCE, rtol=0)


def test_branches_continue_each_prompt_and_leave_the_cache_alone(family_model: tf.PreTrainedModel) -> None:
    cache = PrefixCache(family_model, pad_token_id=0)
    first, second = histories(ragged=True)[:2]
    cache.encode(first)
    branch, mask, position = cache.branch(2)
    tokens = torch.tensor([11, 12, 13, 14, 15, 16])
    logits = cache.forward(tokens[:, None], torch.cat([mask, mask.new_ones(6, 1)], 1), position[:, None], branch)
    continued = [[*first[r // 2], int(tokens[r])] for r in range(6)]
    torch.testing.assert_close(logits, recomputed(family_model, continued), atol=TOLERANCE, rtol=0)
    torch.testing.assert_close(cache.encode(second), recomputed(family_model, second), atol=TOLERANCE, rtol=0)


def test_bad_prompts_are_refused_by_row(make_model: Callable[..., Any]) -> None:
    cache = PrefixCache(make_model("llama"), pad_token_id=0, reserve=10)
    cache.encode([[5, 6], [7, 8]])
    with pytest.raises(BadInput, match=r"expected 2 prompts, as before, got 3"):
        cache.encode([[5, 6], [7, 8], [9, 9]])
    with pytest.raises(BadInput, match=r"batch rows \[1\] have no tokens"):
        cache.encode([[5, 6], []])
    with pytest.raises(BadInput, match=r"rows \[1\] have \[391\] tokens; the model's context of 400 has room for 390"):
        cache.encode([[5, 6], [7] * 391])


def test_models_without_a_plain_cache_are_refused() -> None:
    mamba = tf.MambaForCausalLM(tf.MambaConfig(vocab_size=61, hidden_size=16, num_hidden_layers=1, state_size=4))
    with pytest.raises(
        BadInput, match=r"MambaForCausalLM cannot be used as an agent: its forward has no past_key_values"
    ):
        PrefixCache(mamba, pad_token_id=0)
