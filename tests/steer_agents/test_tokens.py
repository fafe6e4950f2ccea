"""Token scopes: which tokens are touched, in one pass and over a filled cache."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from steering_parts import absolute, direction_at
from tiny_models import IMAGE_TOKEN, LANGUAGE, image_inputs, outputs, tiny

import steer_agents as sa
from policies.base import Context
from policies.errors import BadInput
from steer_agents.sites import Site, steerable
from steer_agents.tokens import KINDS, PassTracker, TokenScope

model_of = functools.cache(tiny)
DELIMITER = 7
PROMPT = torch.tensor([[11, 12, DELIMITER, 13, 14], [21, 22, 23, 24, DELIMITER], [31, 32, 33, 34, 35]])
NEXT = torch.tensor([[15, DELIMITER, 16], [25, 26, 27], [36, 37, DELIMITER]])
CLASSES = {"state": torch.tensor([[1, 0, 0, 1, 0], [0, 0, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()}


def touched(scope: Any, batch: dict[str, Any], name: str = "llama", context: Context | None = None) -> list[list[int]]:
    """1 where the block output of layer 0 differs under a push with this scope, after one pass."""
    model, site = model_of(name), Site(layer=0)
    target = steerable(model)

    def read() -> torch.Tensor:
        seen: list[torch.Tensor] = []
        block = target.blocks()[0][1][0]
        handle = block.register_forward_hook(lambda m, args, out: seen.append(out.clone()))
        outputs(model, batch)
        handle.remove()
        return seen[0]

    before = read()
    part = sa.Add(direction_at(model, site), strength=absolute(1.0), site=Site(layer=0, tokens=scope))
    with sa.steer(model, part) as steering:
        if context is not None:
            steering.context.token_classes = context.token_classes
            steering.context.repeats = context.repeats
        after = read()
    moved = (after - before).abs().amax(-1) > 1e-3
    assert torch.equal(after[~moved], before[~moved])  # bit for bit
    return moved.int().tolist()


ROWS: list[tuple[Any, list[list[int]]]] = [
    ("all", [[1, 1, 1, 1, 1]] * 3),
    ("prompt", [[1, 1, 1, 1, 1]] * 3),
    ("generated", [[0, 0, 0, 0, 0]] * 3),
    ("last", [[0, 0, 0, 0, 1]] * 3),
    (sa.index(0), [[1, 0, 0, 0, 0]] * 3),
    (sa.index(-2), [[0, 0, 0, 1, 0]] * 3),
    (sa.index(9), [[0, 0, 0, 0, 0]] * 3),
    (sa.span(1, 3), [[0, 1, 1, 0, 0]] * 3),
    (sa.span(-2, 99), [[0, 0, 0, 1, 1]] * 3),
    (sa.span(1, -1), [[0, 1, 1, 1, 0]] * 3),
    (sa.span(-3, -1), [[0, 0, 1, 1, 0]] * 3),
    (sa.at([DELIMITER]), [[0, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]),
    (sa.at([DELIMITER, 11]), [[1, 0, 1, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]]),
    (sa.after([DELIMITER]), [[0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 0, 0, 0, 0]]),
    (sa.token_class("state"), CLASSES["state"].int().tolist()),
]


@pytest.mark.parametrize(("scope", "expected"), ROWS)
def test_a_scope_touches_exactly_its_tokens(scope: Any, expected: list[list[int]]) -> None:
    context = Context(token_classes=dict(CLASSES))
    assert touched(scope, {"input_ids": PROMPT}, context=context) == expected


def test_every_kind_of_scope_is_covered_here() -> None:
    kinds = {scope if isinstance(scope, str) else scope.kind for scope, _ in ROWS}
    assert kinds | {"image"} == set(KINDS)


def test_image_tokens_are_found_by_the_models_own_id_or_by_the_policys_word() -> None:
    batch = image_inputs(2)
    expected = (batch["input_ids"] == IMAGE_TOKEN).int().tolist()
    assert expected[0] == [0, 0, 1, 1, 1, 1, 0, 0, 0, 0]
    assert touched("image", batch, "smolvlm") == expected
    mask = torch.zeros(2, 10, dtype=torch.bool)
    mask[1, 3] = True
    assert touched("image", batch, "smolvlm", Context(token_classes={"image": mask})) == mask.int().tolist()
    with pytest.raises(BadInput, match="this model's config names no image token"):
        touched("image", {"input_ids": PROMPT})


def padded(left: bool) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
    """Row 0 has 3 tokens and 2 of padding whose id is the delimiter's; rows 1 and 2 are full."""
    ids, mask = PROMPT.clone(), torch.ones_like(PROMPT)
    keep = torch.tensor([11, DELIMITER, 13])
    ids[0] = DELIMITER
    ids[0, 2:] = keep if left else ids[0, 2:]
    ids[0, :3] = ids[0, :3] if left else keep
    mask[0, :2] = 0 if left else 1
    mask[0, 3:] = 1 if left else 0
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    own = [2, 3, 4] if left else [0, 1, 2]
    return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, [own]


@pytest.mark.parametrize("left", [True, False])
@pytest.mark.parametrize(
    ("scope", "own"),
    [
        ("last", [0, 0, 1]), (sa.index(0), [1, 0, 0]), (sa.index(-1), [0, 0, 1]), (sa.span(0, 2), [1, 1, 0]),
        (sa.span(-2, 99), [0, 1, 1]), (sa.after([DELIMITER]), [0, 0, 1]), (sa.at([DELIMITER]), [0, 1, 0]),
        ("prompt", [1, 1, 1]),
    ],
)  # fmt: skip
def test_padding_is_not_counted_and_not_mistaken_for_a_delimiter(scope: Any, own: list[int], left: bool) -> None:
    batch, (columns,) = padded(left)
    row = touched(scope, batch)[0]
    assert [row[i] for i in columns] == own
    assert sum(row) == sum(own)  # padding itself is left alone


def test_arguments_are_understood_by_position_too() -> None:
    model = model_of("llama")
    batch, _ = padded(left=True)
    part = sa.Add(direction_at(model, Site(layer=0)), strength=absolute(1.0), site=Site(layer=0, tokens=sa.index(0)))
    with sa.steer(model, part), torch.no_grad():
        by_name = model(**batch, use_cache=False).logits
        by_place = model(batch["input_ids"], batch["attention_mask"], batch["position_ids"], use_cache=False).logits
    assert torch.equal(by_place, by_name)


def test_embeddings_have_positions_but_no_delimiters() -> None:
    model = model_of("llama")
    with torch.no_grad():
        embeddings = model.get_input_embeddings()(PROMPT)
    assert touched("last", {"inputs_embeds": embeddings}) == [[0, 0, 0, 0, 1]] * 3
    with pytest.raises(BadInput, match="'at' needs input_ids, but the model was called with embeddings"):
        touched(sa.at([DELIMITER]), {"inputs_embeds": embeddings})


# ---- prefill and decode against one full pass


def decode(model: Any, prompt: dict[str, torch.Tensor], ids: torch.Tensor, chunks: list[int]) -> torch.Tensor:
    """Logits at every token of prompt and continuation, the continuation fed in chunks onto the cache."""
    mask, done, parts = prompt["attention_mask"], 0, []
    with torch.no_grad():
        out = model(**prompt, use_cache=True)
        parts.append(out.logits)
        for n in chunks:
            mask = torch.cat([mask, torch.ones(len(ids), n, dtype=mask.dtype)], 1)
            positions = (mask.cumsum(1) - 1)[:, -n:]
            out = model(
                input_ids=ids[:, done : done + n], attention_mask=mask, position_ids=positions,
                past_key_values=out.past_key_values, use_cache=True,
            )  # fmt: skip
            parts.append(out.logits)
            done += n
    return torch.cat(parts, 1)


@pytest.mark.parametrize("left_padded", [False, True])
@pytest.mark.parametrize(
    "scope",
    ["all", sa.index(0), sa.index(6), sa.span(1, 7), sa.at([DELIMITER]), sa.after([DELIMITER])],
    ids=lambda scope: scope if isinstance(scope, str) else f"{scope.kind}{scope.start}",
)
@pytest.mark.parametrize("name", LANGUAGE)
def test_prefill_and_decode_equal_one_full_pass(name: str, scope: Any, left_padded: bool) -> None:
    # for scopes that do not depend on the phase; those that do are tested below
    model = model_of(name)
    mask = torch.ones_like(PROMPT)
    mask[1:, 0] = 0 if left_padded else 1
    prompt = {"input_ids": PROMPT, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    whole_mask = torch.cat([mask, torch.ones_like(NEXT)], 1)
    whole = {
        "input_ids": torch.cat([PROMPT, NEXT], 1),
        "attention_mask": whole_mask,
        "position_ids": (whole_mask.cumsum(1) - 1).clamp(min=0),
    }
    real = whole_mask.bool()
    before = outputs(model, whole)[real]
    part = sa.Ablate(direction_at(model, Site(layer=(0, 1))), site=Site(layer=(0, 1), tokens=scope))
    with sa.steer(model, part):
        full = outputs(model, whole)[real]
        one_by_one = decode(model, prompt, NEXT, [1, 1, 1])[real]
        in_chunks = decode(model, prompt, NEXT, [2, 1])[real]
    scale = float(full.abs().max())
    torch.testing.assert_close(one_by_one, full, atol=1e-5 * scale, rtol=0)
    torch.testing.assert_close(in_chunks, full, atol=1e-5 * scale, rtol=0)
    assert (full - before).abs().max() > 1e-3


@pytest.mark.parametrize("name", LANGUAGE)
def test_prompt_and_generated_tokens_are_those_of_prefill_and_decode_passes(name: str) -> None:
    model = model_of(name)
    prompt = {"input_ids": PROMPT, "attention_mask": torch.ones_like(PROMPT)}
    direction = direction_at(model, Site(layer=0))

    def run(**site: Any) -> torch.Tensor:
        with sa.steer(model, sa.Add(direction, strength=absolute(2.0), site=Site(layer=0, **site))):
            return decode(model, prompt, NEXT, [1, 1, 1])

    # equal to the same push by position, which the test above holds against full passes
    first, rest = run(tokens=sa.span(0, 5)), run(tokens=sa.span(5, 99))
    assert torch.equal(run(tokens="prompt"), first)
    assert torch.equal(run(phase="prefill"), first)
    assert torch.equal(run(tokens="generated"), rest)
    assert torch.equal(run(phase="decode"), rest)
    assert torch.equal(run(tokens="last"), run(tokens=sa.span(4, 99)))  # the prompt's last and each new one
    assert torch.equal(run(tokens="last", phase="prefill"), run(tokens=sa.index(4)))
    assert torch.equal(run(tokens=sa.index(-1)), run(tokens=sa.index(4)))  # from the end of the prompt
    assert torch.equal(run(tokens=sa.span(-2, -1)), run(tokens=sa.index(3)))
    assert not torch.equal(first, rest)


def test_the_policys_word_on_the_phase_counts() -> None:
    model = model_of("llama")
    part = sa.Add(direction_at(model, Site(layer=0)), strength=absolute(1.0), site=Site(layer=0, tokens="generated"))
    plain = outputs(model, {"input_ids": PROMPT})
    with sa.steer(model, part) as steering:
        assert torch.equal(outputs(model, {"input_ids": PROMPT}), plain)
        steering.context.phase = "decode"
        assert not torch.equal(outputs(model, {"input_ids": PROMPT}), plain)


# ---- delimiters behind the cache


class Cache:
    """All that the tracker asks of a cache."""

    def __init__(self, length: int) -> None:
        self.length = length

    def get_seq_length(self) -> int:
        return self.length


def after(tracker: PassTracker, ids: list[list[int]], n_past: int, context: Context | None = None) -> list[list[int]]:
    call = {"input_ids": torch.tensor(ids), "past_key_values": Cache(n_past)}
    current = tracker.observe((), call, context or Context())
    assert current is not None
    mask = current.mask(sa.after([DELIMITER]))
    assert mask is not None
    return mask.int().tolist()


def test_a_delimiter_is_remembered_as_long_as_it_is_in_the_cache() -> None:
    tracker = PassTracker(None, [sa.after([DELIMITER])])
    assert after(tracker, [[1, 2], [DELIMITER, 4]], 0) == [[0, 0], [0, 1]]
    assert after(tracker, [[DELIMITER], [5]], 2) == [[0], [1]]
    assert after(tracker, [[6], [6]], 3) == [[1], [1]]
    assert after(tracker, [[8], [8]], 2) == [[0], [1]]  # the cache was cut back to before row 0's delimiter
    assert after(tracker, [[8], [8]], 3) == [[0], [1]]
    assert after(tracker, [[8, 9], [8, 9]], 0) == [[0, 0], [0, 0]]  # a new prompt
    assert after(tracker, [[8], [DELIMITER]], 2) == [[0], [0]]


def test_delimiters_follow_rows_that_are_copied_for_sampling() -> None:
    tracker = PassTracker(None, [sa.after([DELIMITER])])
    after(tracker, [[1, 2], [DELIMITER, 4]], 0)
    assert after(tracker, [[5], [5], [5], [5]], 2, Context(repeats=2)) == [[0], [0], [1], [1]]
    assert after(tracker, [[5], [5]], 2) == [[0], [1]]


def test_a_cache_that_was_filled_before_steering_began_is_refused_for_delimiters() -> None:
    tracker = PassTracker(None, [sa.after([DELIMITER])])
    with pytest.raises(BadInput, match="encoded before steering was attached"):
        after(tracker, [[5], [5]], 2)
    after(tracker, [[5], [5]], 0)
    with pytest.raises(BadInput, match="or for other rows"):
        after(tracker, [[5], [5], [5]], 1)


# ---- clear errors


def test_scopes_that_make_no_sense_are_refused_when_made() -> None:
    with pytest.raises(BadInput, match="did you mean 'generated'"):
        TokenScope("generate")
    for make in (
        lambda: sa.span(3, 3),
        lambda: sa.span(-1, -2),
        lambda: TokenScope("span"),
        lambda: TokenScope("after"),
    ):
        with pytest.raises(BadInput):
            make()
    with pytest.raises(BadInput, match="needs the name of a token class"):
        TokenScope("class")


def test_a_token_class_that_is_missing_or_of_another_shape_is_refused() -> None:
    context = Context(token_classes={"state": torch.ones(3, 4, dtype=torch.bool)})
    with pytest.raises(BadInput, match=r"'action' is not provided by this policy.*Allowed: state"):
        touched(sa.token_class("action"), {"input_ids": PROMPT}, context=context)
    with pytest.raises(BadInput, match=r"expected a mask of shape \(3, 5\), one per token of this pass, got \(3, 4\)"):
        touched(sa.token_class("state"), {"input_ids": PROMPT}, context=context)


def test_token_classes_are_repeated_with_their_rows() -> None:
    ids = PROMPT[:2].repeat_interleave(2, 0)
    context = Context(token_classes={"state": CLASSES["state"][:2]}, repeats=2)
    expected = CLASSES["state"][:2].repeat_interleave(2, 0).int().tolist()
    assert touched(sa.token_class("state"), {"input_ids": ids}, context=context) == expected
