"""The policy: its loop, its batches, what hooks see, and steering through the loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from openvla_parts import PATCHES, STATISTICS, make_policy

import steer_agents as sa
from policies.base import Observation
from policies.errors import BadInput, EngineMismatch, SiteNeverFired, UnknownSite
from policies.openvla import OpenVLAModel, OpenVLAPolicy
from policies.openvla.decoding import drawn
from policies.openvla.guard import check_image_matters
from steer_agents.direction import Direction
from steer_agents.sites import Site, iter_kinds, resolve, steerable
from steer_agents.strength import Strength

TASKS = ["pick up the bowl", "open the drawer and put the bowl on the plate", "put the bowl on the plate slowly"]


def observation(rows: list[int] | None = None) -> Observation:
    """One picture per row; row i is the same whatever batch it is in."""
    pictures = [np.random.default_rng(i).integers(0, 256, (32, 40, 3), dtype=np.uint8) for i in rows or range(3)]
    return {"pixels": {"image": np.stack(pictures), "image2": np.zeros((len(pictures), 8, 8, 3), np.uint8)}}


def infos(rows: list[int] | None = None) -> list[dict[str, Any]]:
    return [{"task_description": TASKS[i]} for i in rows or range(3)]


def act(policy: OpenVLAPolicy, rows: list[int] | None = None) -> dict[str, np.ndarray]:
    rows = [0, 1, 2] if rows is None else rows
    policy.reset([10 + i for i in rows], infos(rows))
    decision = policy.act(observation(rows))
    return {"action": decision.action, **decision.measures}


# ---- the loop


def test_the_loop_on_a_cache_gives_the_argmax_of_full_passes(policy: OpenVLAPolicy) -> None:
    answer = act(policy)
    pictures = observation()["pixels"]["image"]
    rows = [{"instruction": TASKS[i], "pixels": {"image": picture}} for i, picture in enumerate(pictures)]
    (batch,) = policy.encode(rows)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    masses = []
    for k in range(7):
        logits = policy.module(ids, mask, batch["pixel_values"]).logits[:, -1].double()
        token = logits.argmax(-1)
        np.testing.assert_array_equal(token.numpy(), answer["token_ids"][:, k])
        p = logits[:, 64:320].softmax(-1)
        np.testing.assert_allclose(answer["token_entropy_bits"][:, k], -(p * p.log2()).sum(-1), atol=1e-4)
        masses.append(logits.softmax(-1)[:, 64:320].sum(-1).numpy())
        ids, mask = torch.cat([ids, token[:, None]], 1), torch.cat([mask, mask.new_ones(3, 1)], 1)
    np.testing.assert_allclose(answer["action_mass"], np.mean(masses, axis=0), atol=1e-5)
    np.testing.assert_allclose(answer["entropy_bits"], answer["token_entropy_bits"].mean(1), atol=1e-6)
    assert answer["action"].shape == (3, 7)
    assert answer["action"].dtype == np.float32
    values = policy.norm.unnormalise(policy.bins.values(answer["token_ids"].astype(int)))
    np.testing.assert_allclose(answer["action"], values, atol=1e-6)


def test_token_entropy_is_that_of_the_first_token(policy: OpenVLAPolicy) -> None:
    pictures = observation()["pixels"]["image"]
    scenes = [{"pixels": {"image": picture}, "instruction": TASKS[i]} for i, picture in enumerate(pictures)]
    found = policy.token_entropy(policy.encode(scenes)[0])
    assert found.shape == (len(pictures), 1)
    np.testing.assert_allclose(found[:, 0], act(policy)["token_entropy_bits"][:, 0], atol=1e-4)


def test_rows_of_a_batch_equal_the_rows_alone(policy: OpenVLAPolicy) -> None:
    together = act(policy)
    for i in range(3):
        alone = act(policy, [i])
        np.testing.assert_array_equal(alone["token_ids"][0], together["token_ids"][i])
        for name in ("action", "entropy_bits", "action_mass"):
            np.testing.assert_allclose(alone[name][0], together[name][i], atol=1e-5)


def test_drawn_tokens_depend_on_the_rows_own_seed_and_are_actions(policy: OpenVLAPolicy) -> None:
    policy.set_decision(temperature=3.0)
    together = act(policy)
    assert policy.bins.is_action(together["token_ids"]).all()
    for i in range(3):
        np.testing.assert_array_equal(act(policy, [i])["token_ids"][0], together["token_ids"][i])
    policy.reset([0, 1, 2], infos([0, 0, 0]))
    first, second = (policy.act(observation([0, 0, 0])).measures["token_ids"] for _ in range(2))
    assert len({tuple(row) for row in [*first, *second]}) == 6  # other seeds and other steps draw otherwise
    assert policy.set_decision(temperature=0.0) == {"temperature": 3.0}


def test_draws_follow_the_distribution_in_the_order_of_the_ids() -> None:
    logits = torch.tensor([[0.2, 0.0, 0.5, 0.3]]).log().expand(5, -1)
    assert drawn(logits, torch.tensor([0.0, 0.19, 0.21, 0.69, 0.9999])).tolist() == [0, 0, 2, 2, 3]


def test_the_temperature_is_a_decision_part(policy: OpenVLAPolicy) -> None:
    greedy = act(policy)["token_ids"]
    with sa.steer(policy, sa.Temperature(50.0)):
        assert (act(policy)["token_ids"] != greedy).any()
    np.testing.assert_array_equal(act(policy)["token_ids"], greedy)
    with pytest.raises(BadInput, match="no decision setting 'temprature'; did you mean 'temperature'"):
        policy.set_decision(temprature=1.0)


def test_inactive_rows_keep_their_place(policy: OpenVLAPolicy) -> None:
    whole = act(policy)
    policy.reset([10, 11, 12], infos())
    decision = policy.act(observation(), np.array([True, False, True]))
    assert np.isnan(decision.measures["entropy_bits"]).tolist() == [False, True, False]
    np.testing.assert_allclose(decision.action[[0, 2]], whole["action"][[0, 2]], atol=1e-6)


def test_the_libero_preset_binarises_the_gripper(model: OpenVLAModel) -> None:
    policy = make_policy(model, gripper="libero")
    ids = policy.bins.ids(np.array([[0, 0, 0, 0, 0, 0, 0.9], [0, 0, 0, 0, 0, 0, 0.1]]))
    np.testing.assert_allclose(policy.actions(ids), [[0, 1, 0.25, 0, 0, 0, -1], [0, 1, 0.25, 0, 0, 0, 1]], atol=1e-6)
    assert STATISTICS["action"]["q99"][1] == 4.0  # hence 1 in the middle of [-2, 4]


# ---- the picture


def test_a_black_and_a_white_picture_give_other_activations_and_logits(policy: OpenVLAPolicy) -> None:
    effect = check_image_matters(policy.module, policy.reader)
    assert effect.activation > 1e-3
    assert effect.logits > 1e-3
    assert effect.n_tokens == PATCHES + len(policy.reader.read("pick up the object").ids) - PATCHES


def test_a_blind_model_fails_the_guard(policy: OpenVLAPolicy) -> None:
    bias = policy.module.projector.fc3.register_forward_hook(lambda module, args, output: torch.zeros_like(output))
    try:
        with pytest.raises(EngineMismatch, match="check_image=False"):
            check_image_matters(policy.module, policy.reader)
    finally:
        bias.remove()


def test_image_tokens_and_pictures_must_come_together(policy: OpenVLAPolicy) -> None:
    (batch,) = policy.encode([{"instruction": TASKS[0], "pixels": {"image": observation([0])["pixels"]["image"][0]}}])
    with pytest.raises(BadInput, match=r"expected 0 image tokens in each row without a picture, got \[4\]"):
        policy.module(batch["input_ids"])
    words = batch["input_ids"][batch["input_ids"] < 100][None]
    with pytest.raises(BadInput, match=r"expected 4 image tokens in each row with a picture, got \[0\]"):
        policy.module(words, pixel_values=batch["pixel_values"])
    with pytest.raises(BadInput, match=r"expected pixel_values of shape \(1, 6, 28, 28\), got \(1, 3, 28, 28\)"):
        policy.module(batch["input_ids"], pixel_values=batch["pixel_values"][:, :3])


# ---- what hooks see


@contextmanager
def counted(policy: OpenVLAPolicy) -> Iterator[Counter[str]]:
    """Calls of every module, by path."""
    calls: Counter[str] = Counter()
    handles = [
        module.register_forward_hook(lambda module, args, output, path=path: calls.update([path]))
        for path, module in policy.module.named_modules()
    ]
    try:
        yield calls
    finally:
        for handle in handles:
            handle.remove()


GOLDEN = {
    "": 7,
    "language_model": 7,
    "language_model.model": 7,
    "language_model.model.embed_tokens": 7,
    "language_model.model.norm": 7,
    "language_model.lm_head": 7,
    "language_model.model.layers.0": 7,
    "language_model.model.layers.2.self_attn.o_proj": 7,
    "language_model.model.layers.2.mlp.down_proj": 7,
    "vision_backbone": 1,
    "vision_backbone.featurizer": 1,
    "vision_backbone.featurizer.blocks.2.attn.proj": 1,
    "vision_backbone.fused_featurizer": 1,
    "vision_backbone.fused_featurizer.blocks.1.mlp.fc2": 1,
    "projector": 1,
    "projector.fc1": 1,
    "projector.fc3": 1,
}
"""Calls per action of seven numbers. `self_attn`, `mlp` and towers are walked below, site by site."""


def test_the_golden_table_of_hooks(policy: OpenVLAPolicy) -> None:
    with counted(policy) as calls:
        act(policy)
    assert {path: calls[path] for path in GOLDEN} == GOLDEN
    target = steerable(policy)
    per_stack = {"language": 7, "vision": 1, "vision_fused": 1, "projector": 1}
    assert list(target.site_map.stacks) == list(per_stack)
    assert {stack: target.depth(stack) for stack in per_stack} == {
        "language": 3,
        "vision": 3,
        "vision_fused": 2,
        "projector": 3,
    }
    for stack, kind in iter_kinds(target):
        for location in resolve(target, Site(kind, stack=stack)):
            assert calls[location.path] == per_stack[stack], location.key
    silent = {path for path, _ in policy.module.named_modules() if not calls[path]}
    # a container, and dropout that timm passes to the attention function as a number
    assert {path.split(".")[-1] for path in silent} == {"layers", "attn_drop"}


def recorded(policy: OpenVLAPolicy, *parts: Any) -> list[tuple[str, torch.Tensor]]:
    """For each language pass of one `act`: its phase, and which tokens layer 0's MLP output was changed at."""
    found = []
    mlp = policy.module.language_model.model.layers[0].mlp

    def keep(module: torch.nn.Module, args: Any, output: torch.Tensor) -> None:
        found.append((policy.context.phase, (output != module.forward(*args)).any(-1)))

    with sa.steer(policy, *parts):
        handle = mlp.register_forward_hook(keep)
        try:
            act(policy)
        finally:
            handle.remove()
    return found


def push(
    policy: OpenVLAPolicy, kind: str = "mlp_output", strength: Any = 0.5, stack: str = "language", **site: Any
) -> Any:
    """An Add at layer 0."""
    (location,) = resolve(steerable(policy), Site(kind, 0, stack))
    widths = {"mlp_output": 32, "block_output": 32, "mlp_neurons": 48, "attention_output": 32}
    width = {"language": widths[kind], "vision": 32, "vision_fused": 48, "projector": 320}[stack]
    raw = torch.randn(width, generator=torch.Generator().manual_seed(4))
    found = Direction.from_raw({location.key: raw}, Site(kind, 0, stack))
    return sa.Add(found, strength=Strength(strength, "absolute"), site=Site(kind, 0, stack, **site))


SCOPES: list[tuple[dict[str, Any], str]] = [
    ({"tokens": "image"}, "image"),
    ({"tokens": sa.token_class("instruction")}, "instruction"),
    ({"tokens": sa.token_class("action")}, "decode"),
    ({"tokens": "generated"}, "decode"),
    ({"tokens": "prompt"}, "prompt"),
    ({"phase": "prefill"}, "prompt"),
    ({"tokens": "last", "phase": "prefill"}, "last"),
    ({"tokens": sa.index(0)}, "first"),
]


@pytest.mark.parametrize(("site", "what"), SCOPES, ids=lambda value: value if isinstance(value, str) else "")
def test_a_scope_hits_exactly_the_tokens_it_names(policy: OpenVLAPolicy, site: dict[str, Any], what: str) -> None:
    passes = recorded(policy, push(policy, **site))
    prompts = policy.reader.batch(TASKS)
    real = prompts.attention_mask.bool()
    first = real & (prompts.attention_mask.cumsum(1) == 1)
    last = torch.zeros_like(real)
    last[:, -1] = True
    expected = {**prompts.classes, "decode": ~real & False, "prompt": real, "last": last, "first": first}[what]
    assert [phase for phase, _ in passes] == ["prefill"] + ["decode"] * 6
    touched = passes[0][1]
    if site == {"phase": "prefill"}:  # no token scope: padding, which nobody attends to, may be touched
        touched = touched & real
    assert torch.equal(touched, expected)
    for _, changed in passes[1:]:
        assert changed.all() if what == "decode" else not changed.any()


def test_mixed_scopes_hit_the_union(policy: OpenVLAPolicy) -> None:
    parts = (
        push(policy, tokens="image"),
        push(policy, tokens=sa.token_class("instruction")),
        push(policy, tokens="generated"),
    )
    passes = recorded(policy, *parts)
    classes = policy.reader.batch(TASKS).classes
    assert torch.equal(passes[0][1], classes["image"] | classes["instruction"])
    assert all(changed.all() for _, changed in passes[1:])
    assert policy.context.token_classes == {}
    assert policy.context.phase is None


# ---- steering through the loop

STEERED = [
    ("language", "mlp_output"),
    ("language", "block_output"),
    ("vision", "mlp_output"),
    ("vision_fused", "mlp_output"),
    ("projector", "mlp_output"),
]


@pytest.mark.parametrize(("stack", "kind"), STEERED)
def test_zero_strength_is_bit_identical_and_steering_is_undone(policy: OpenVLAPolicy, stack: str, kind: str) -> None:
    before = act(policy)
    with sa.steer(policy, push(policy, kind, 0.0, stack)):
        zero = act(policy)
    with sa.steer(policy, push(policy, kind, 3.0, stack)):
        steered = act(policy)
    after = act(policy)
    for name, values in before.items():
        np.testing.assert_array_equal(zero[name], values)
        np.testing.assert_array_equal(after[name], values)
    assert np.abs(steered["token_entropy_bits"] - before["token_entropy_bits"]).max() > 1e-3


@pytest.mark.parametrize(("stack", "kind"), STEERED)
def test_hooked_equals_baked_through_prefill_and_decode(policy: OpenVLAPolicy, stack: str, kind: str) -> None:
    part = push(policy, kind, 2.0, stack)
    with sa.steer(policy, part):
        hooked = act(policy)
    with sa.bake(policy, part):
        baked = act(policy)
    np.testing.assert_array_equal(hooked["token_ids"], baked["token_ids"])
    np.testing.assert_allclose(hooked["token_entropy_bits"], baked["token_entropy_bits"], atol=1e-4)


def test_neurons_set_by_hook_equal_neurons_baked(policy: OpenVLAPolicy) -> None:
    # the paper's intervention (arXiv 2509.00328): FFN neurons overridden at every token of every pass
    part = sa.SetNeurons(indices=(1, 5, 9), values=4.0, site=Site("mlp_neurons", layer=(1, 2)))
    before = act(policy)
    with sa.steer(policy, part):
        hooked = act(policy)
    with sa.bake(policy, part):
        baked = act(policy)
    assert np.abs(hooked["token_entropy_bits"] - before["token_entropy_bits"]).max() > 1e-3
    np.testing.assert_array_equal(hooked["token_ids"], baked["token_ids"])
    np.testing.assert_allclose(hooked["token_entropy_bits"], baked["token_entropy_bits"], atol=1e-4)


def test_strengths_per_row_equal_the_rows_one_by_one(policy: OpenVLAPolicy) -> None:
    strengths = [0.0, 2.0, -2.0]
    site = {"tokens": sa.token_class("instruction")}
    with sa.steer(policy, push(policy, strength=torch.tensor(strengths), **site)):
        together = act(policy)
    for i, strength in enumerate(strengths):
        with sa.steer(policy, push(policy, strength=strength, **site)):
            alone = act(policy, [i])
        np.testing.assert_array_equal(alone["token_ids"][0], together["token_ids"][i])
        np.testing.assert_allclose(alone["token_entropy_bits"][0], together["token_entropy_bits"][i], atol=1e-4)


def test_the_doctor_passes_the_policy(policy: OpenVLAPolicy) -> None:
    checks = sa.examine(policy, n_calls=0)
    assert {check.name: check.value for check in checks if check.passed is False} == {}
    assert {check.name for check in checks if check.passed is None} == {"memory"}


# ---- bad input


def test_unknown_stacks_and_layers_are_answered_with_what_exists(policy: OpenVLAPolicy) -> None:
    target = steerable(policy)
    with pytest.raises(
        UnknownSite, match=r"did you mean 'vision'\? Allowed: language, vision, vision_fused, projector"
    ):
        resolve(target, Site(stack="vison"))
    with pytest.raises(UnknownSite, match="layer 3 does not exist; this stack has 3 layers"):
        resolve(target, Site(layer=3))
    with pytest.raises(UnknownSite, match="'mlp_neurons' is not in stack 'projector'"):
        resolve(target, Site("mlp_neurons", stack="projector"))
    with pytest.raises(SiteNeverFired), sa.steer(policy, push(policy, stack="vision")):
        policy.module(torch.tensor([[1, 5, 6]]))


def test_a_missing_camera_is_answered_with_those_that_exist(model: OpenVLAModel) -> None:
    policy = make_policy(model, camera="imge")
    policy.reset([0, 1, 2], infos())
    with pytest.raises(
        BadInput, match=r"camera 'imge' is not in the observation; did you mean 'image'\? Allowed: image, image2"
    ):
        policy.act(observation())
    with pytest.raises(BadInput, match=r"expected an observation with 'pixels', got \['agent_pos'\]"):
        policy.act({"agent_pos": np.zeros((3, 8))})


def test_pictures_of_a_wrong_shape_or_number_are_refused(policy: OpenVLAPolicy) -> None:
    policy.reset([0, 1, 2], infos())
    with pytest.raises(
        BadInput, match=r"expected pictures of shape \(B, H, W, 3\) and dtype uint8, got \(3, 3, 8, 8\)"
    ):
        policy.act({"pixels": {"image": np.zeros((3, 3, 8, 8), np.uint8)}})
    with pytest.raises(BadInput, match="expected pictures of 3 rows, as in reset, got 2"):
        policy.act(observation([0, 1]))


def test_a_reset_without_an_instruction_is_refused(policy: OpenVLAPolicy) -> None:
    with pytest.raises(
        BadInput, match=r"the info of batch row 1 has no 'task_description' \(a string\), it has \['task'\]"
    ):
        policy.reset([0, 1], [{"task_description": "open"}, {"task": "OpenDrawer"}])
    with pytest.raises(BadInput, match="act was called before reset"):
        make_policy(policy.module).act(observation())


def test_encode_takes_pictures_with_instructions(policy: OpenVLAPolicy) -> None:
    picture = observation([0])["pixels"]["image"][0]
    rows = [{"pixels": {"image": picture}, "instruction": task} for task in TASKS] * 3
    batches = policy.encode(rows)
    assert [len(batch["input_ids"]) for batch in batches] == [8, 1]
    h = sa.rows(steerable(policy), batches, Site(layer=1, tokens="last"))["language.1.block_output"]
    assert h.shape == (9, 32)
    torch.testing.assert_close(h[0], h[3], atol=1e-4, rtol=1e-4)
    image = sa.rows(steerable(policy), batches, Site(layer=1, tokens="image"))["language.1.block_output"]
    assert image.shape == (9 * PATCHES, 32)
    with pytest.raises(BadInput, match="encode takes a list of mappings with 'pixels' and 'instruction', got str"):
        policy.encode(["pick up the bowl"])


def test_the_vocabulary_says_words_and_values(policy: OpenVLAPolicy) -> None:
    words = policy.vocabulary()
    bins = policy.bins
    assert len(words.tokens) == len(policy.module.language_model.lm_head.weight)
    assert words.actions == range(bins.first_id, bins.n_text_tokens)
    assert words.tokens[words.actions[-1]] == f"{bins.centres[0]:+.2f}"
    assert words.tokens[words.actions[0]] == f"{bins.centres[-1]:+.2f}"
    token = policy.reader.tokenizer.encode("robot", add_special_tokens=False).ids[-1]
    assert words.tokens[token].strip()
