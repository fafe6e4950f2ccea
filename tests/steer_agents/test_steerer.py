"""The engine's contract: every intervention on every architecture."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np
import pytest
import torch
from steering_parts import BLOCKS, PARTS, absolute, banked, direction_at, n_hooks, pairs, part, sae_of, softened
from tiny_models import GENERATING, LANGUAGE, TINY, WIDTH, image_inputs, inputs, outputs, tiny
from torch import nn
from torch._dynamo.testing import CompileCounter

import steer_agents as sa
from policies.base import SiteMap
from policies.errors import (
    BadInput,
    MissingEntrance,
    NonFinite,
    SiteNeverFired,
    UnknownArchitecture,
    UnknownSite,
    WrongModel,
    WrongWidth,
)
from policies.mlp import MLP, MLPConfig, MLPPolicy
from policies.site_maps import site_map_for
from steer_agents.direction import Direction
from steer_agents.fingerprint import model_fingerprint
from steer_agents.intervention import Intervention
from steer_agents.sites import Site, steerable
from steer_agents.strength import Strength
from steer_agents.training.mentor import RuleBank

ALL = pairs()
model_of = functools.cache(tiny)  # every test leaves the model as it found it, which some of them check


def close(a: torch.Tensor, b: torch.Tensor, tolerance: float = 1e-5) -> bool:
    """Equal to a share of the largest value."""
    return bool((a - b).abs().max() <= tolerance * b.abs().max())


def concrete(cls: type) -> set[type]:
    """All subclasses that can be built."""
    found = set() if cls.__abstractmethods__ else {cls}
    return found.union(*(concrete(sub) for sub in cls.__subclasses__()))


def test_the_contract_covers_every_intervention() -> None:
    model = model_of("llama")
    assert {type(part(name, model)) for name in PARTS} == {c for c in concrete(Intervention) if c.__name__[0] != "_"}


# ---- the identity setting, and leaving


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_zero_strength_is_bit_identical(name: str, kind: str) -> None:
    model, batch = model_of(name), inputs(name)
    before = outputs(model, batch)
    with sa.steer(model, part(kind, model, 0.0)) as steering:
        assert torch.equal(outputs(model, batch), before)
        steering.set_strength([0.0, 0.0, 0.0])
        assert torch.equal(outputs(model, batch), before)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_steering_acts_inside_the_block_and_is_gone_after_it(name: str, kind: str) -> None:
    model, batch = model_of(name), inputs(name)
    before, hooks = outputs(model, batch), n_hooks(model)
    with sa.steer(model, part(kind, model)):
        assert (outputs(model, batch) - before).abs().max() > 1e-3
        assert n_hooks(model) > hooks
    assert n_hooks(model) == hooks
    assert torch.equal(outputs(model, batch), before)


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_an_exception_in_the_block_removes_all_hooks(name: str, kind: str) -> None:
    model, batch = model_of(name), inputs(name)
    before, hooks = outputs(model, batch), n_hooks(model)
    with pytest.raises(KeyError, match="planted"), sa.steer(model, part(kind, model)):
        raise KeyError("planted")
    assert n_hooks(model) == hooks
    assert torch.equal(outputs(model, batch), before)


def test_a_generator_that_is_closed_early_lets_go_of_the_model() -> None:
    model, batch = model_of("llama"), inputs("llama")
    hooks = n_hooks(model)

    def steered() -> Any:
        with sa.steer(model, part("add", model)):
            while True:
                yield outputs(model, batch)

    run = steered()
    first = next(run)
    assert n_hooks(model) > hooks
    run.close()
    assert n_hooks(model) == hooks
    assert not torch.equal(outputs(model, batch), first)


def test_an_exception_inside_the_forward_pass_removes_all_hooks() -> None:
    model, batch = model_of("llama"), inputs("llama")
    before, hooks = outputs(model, batch), n_hooks(model)

    def fail(_: Any) -> Any:
        raise OSError("the camera is gone")

    gate = sa.Observed(fail)
    steering = sa.steer(model, part("ablate", model, gate=gate))
    steering.context.observation = {}
    with pytest.raises(OSError, match="camera"), steering:
        outputs(model, batch)
    assert n_hooks(model) == hooks
    assert torch.equal(outputs(model, batch), before)


def test_a_decision_part_that_is_refused_leaves_no_hook_behind() -> None:
    policy = mlp_policy(head="deterministic")  # it has no temperature
    with (
        pytest.raises(BadInput, match="temperature"),
        sa.steer(policy, part("add", policy, site=Site("block_output", layer=0)), sa.Temperature(2.0)),
    ):
        pass
    assert n_hooks(policy.module) == 0


def test_steering_cannot_be_attached_twice() -> None:
    model = model_of("mlp")
    steering = sa.steer(model, part("add", model))
    with steering:
        outputs(model, inputs("mlp"))
        with pytest.raises(BadInput, match="already attached"):
            steering.__enter__()
    with pytest.raises(BadInput, match="already attached"):
        steering.__enter__()


@pytest.mark.parametrize("kind", [kind for model, kind in ALL if model == "mlp"])
def test_an_overflow_in_a_row_that_is_not_steered_is_passed_on_as_it_is(kind: str) -> None:
    # 0 * inf is not a number: a strength of 0 must leave the row out, not add nothing to it
    site = Site("mlp_neurons", layer=0)
    model = MLP(MLPConfig(WIDTH, WIDTH, (4,)))
    planes = ("rotate", "rotate-to", "soft-project", "routed")
    direction = direction_at_input(model, site, rows=2 if kind in planes else 1)
    steering = {
        "add": lambda: sa.Add(direction, strength=absolute(rows)),
        "norm-kept-add": lambda: sa.NormKeptAdd(direction, strength=absolute(rows)),
        "ablate": lambda: sa.Ablate(direction, strength=rows),
        "visual-add": lambda: sa.VisualAdd(direction, strength=rows),
        "rotate": lambda: sa.Rotate(direction, strength=rows),
        "rotate-to": lambda: sa.RotateTo(direction, angle=1.0, strength=rows),
        "clamp": lambda: sa.Clamp(direction, value=1.0, strength=rows),
        "cap": lambda: sa.Cap(direction, bound=1.0, strength=rows),
        "set-neurons": lambda: sa.SetNeurons(indices=(0,), values=1.0, site=site, strength=rows),
        "affine": lambda: sa.Affine(scale=torch.ones(WIDTH), offset=torch.ones(WIDTH), site=site, strength=rows),
        "soft-project": lambda: sa.SoftProject(softened(direction), strength=rows),
        "routed": lambda: sa.Routed(banked(direction), strength=rows),
        "transport": lambda: sa.Transport(
            sa.AffineMap({key: torch.ones(WIDTH)}, {key: torch.ones(WIDTH)}, site), strength=rows
        ),
        "sae-clamp": lambda: sa.SaeClamp(sae_of(WIDTH, site), features=(0,), values=2.0, site=site, strength=rows),
        "sae-shift": lambda: sa.SaeShift(sae_of(WIDTH, site), code=torch.ones(12), site=site, strength=rows),
        "retrieved-rules": lambda: sa.RetrievedRules(bank_at_input(direction), threshold=0.0, strength=rows),
    }
    rows, key = torch.tensor([0.0, 0.5]), "policy.0.mlp_neurons"
    x = torch.randn(2, WIDTH)
    x[0, 0] = float("inf")
    seen: list[torch.Tensor] = []
    with sa.steer(model, steering[kind]()):
        handle = model.net[0].register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        model(x)
        handle.remove()
    assert torch.equal(seen[0][0], x[0])
    assert not torch.equal(seen[0][1], x[1])


def direction_at_input(model: MLP, site: Site, rows: int) -> Direction:
    raw = torch.randn(rows, WIDTH, generator=torch.Generator().manual_seed(0))
    return Direction.from_raw({"policy.0.mlp_neurons": raw}, site)


def bank_at_input(direction: Direction) -> RuleBank:
    """Two rules of opposite keys: one always fits."""
    keys = {key: torch.cat([one, -one]) for key, one in direction.vectors.items()}
    return RuleBank(("this", "that"), keys, keys, {key: 0 * one[0] for key, one in keys.items()}, direction.site)


# ---- strength per row, live


@pytest.mark.parametrize(("name", "kind"), ALL)
def test_a_batch_with_one_strength_per_row_equals_its_rows_one_by_one(name: str, kind: str) -> None:
    model, batch, strengths = model_of(name), inputs(name), [0.0, 0.4, 0.9]
    before = outputs(model, batch)
    with sa.steer(model, part(kind, model, torch.tensor(strengths))):
        together = outputs(model, batch)
    # The row with strength 0 does not notice its mates. A mixture groups its rows by expert, and so rounds by who comes along.
    assert torch.equal(together[0], before[0]) or (name == "mixtral" and close(together[0], before[0]))
    for i, strength in enumerate(strengths):
        row = batch[i : i + 1] if torch.is_tensor(batch) else {key: value[i : i + 1] for key, value in batch.items()}
        with sa.steer(model, part(kind, model, strength)):
            assert close(outputs(model, row)[0], together[i])


@pytest.mark.parametrize(("name", "kind"), pairs(["llama", "mlp"]))
def test_a_live_strength_equals_attaching_with_it(name: str, kind: str) -> None:
    model, batch = model_of(name), inputs(name)
    expected = {}
    for strength in (0.3, 0.8):
        with sa.steer(model, part(kind, model, strength)):
            expected[strength] = outputs(model, batch)
    with sa.steer(model, part(kind, model, 0.1)) as steering:
        for strength, value in expected.items():
            steering.set_strength(strength)
            assert torch.equal(outputs(model, batch), value)
            assert float(steering.strength()) == pytest.approx(strength)
        steering.set_strength([0.3, 0.8, 0.3])  # from one number to one per row, and back
        rows = outputs(model, batch)
        assert close(rows[0], expected[0.3][0])
        assert close(rows[1], expected[0.8][1])
        steering.set_strength(0.3)
        assert torch.equal(outputs(model, batch), expected[0.3])


@pytest.mark.parametrize("kind", ["add", "ablate", "logit-mix"])
def test_strengths_per_row_are_repeated_for_several_completions_of_each_row(kind: str) -> None:
    model, batch = model_of("llama"), inputs("llama", batch=2)
    six = {"input_ids": batch["input_ids"].repeat_interleave(3, 0)}
    with sa.steer(model, part(kind, model, torch.tensor([0.2, 0.9]))) as steering:
        two = outputs(model, batch)
        steering.context.repeats = 3
        assert close(outputs(model, six), two.repeat_interleave(3, 0))
        steering.context.repeats = 1
        with pytest.raises(BadInput, match="strength has 2 rows, the batch has 6"):
            outputs(model, six)


def test_parts_are_addressed_by_number_and_by_name() -> None:
    model, batch = model_of("llama"), inputs("llama")
    first, second = (direction_at(model, BLOCKS, seed=i) for i in (1, 2))
    with sa.steer(model, sa.Add(first, strength=0.2, name="calm"), sa.Add(second, strength=0.3)) as steering:
        steering.set_strength(0.5, part="calm")
        steering.set_strength(0.6, part=1)
        assert [float(steering.strength(i)) for i in (0, 1)] == pytest.approx([0.5, 0.6])
        moved = outputs(model, batch)
        with pytest.raises(BadInput, match="did you mean 'calm'"):
            steering.set_strength(0.1, part="clam")
        with pytest.raises(BadInput, match="part 2 does not exist; this steering has 2"):
            steering.set_strength(0.1, part=2)
        with pytest.raises(BadInput, match="unit is 'alpha', got 'sd'"):
            steering.set_strength(Strength(0.1, "sd"))
        with pytest.raises(NonFinite, match="strength must be finite"):
            steering.set_strength(float("nan"))
    with sa.steer(model, sa.Add(first, strength=0.5), sa.Add(second, strength=0.6)):
        assert close(outputs(model, batch), moved)


def test_the_batch_size_must_fit_strengths_per_row() -> None:
    model = model_of("llama")
    for kind in ("add", "clamp", "logit-mix"):
        with (
            pytest.raises(BadInput, match="strength has 2 rows, the batch has 3"),
            sa.steer(model, part(kind, model, torch.tensor([0.1, 0.2]))),
        ):
            outputs(model, inputs("llama", batch=3))


def test_units_are_worth_what_the_directions_statistics_say() -> None:
    model, batch, site = model_of("llama"), inputs("llama"), Site("block_output", layer=1)
    direction = direction_at(model, site)
    key = next(iter(direction.vectors))
    statistics = {"mean_norm": 2.0, "sd": 0.25, "raw_norm": 4.0}
    direction = Direction(direction.vectors, site, statistics={key: statistics})
    with sa.steer(model, sa.Add(direction, strength=absolute(0.5))):
        expected = outputs(model, batch)
    for value, unit in ((0.25, "alpha"), (2.0, "sd"), (0.125, "beta")):
        with sa.steer(model, sa.Add(direction, strength=Strength(value, unit))):
            assert torch.equal(outputs(model, batch), expected)
    with sa.steer(model, sa.Add(-2 * direction, strength=absolute(-0.25))):
        assert close(outputs(model, batch), expected)


def test_the_scale_of_a_direction_changes_a_push_but_not_a_full_ablation() -> None:
    model, batch, site = model_of("llama"), inputs("llama"), Site("mlp_output", layer=1)
    direction = direction_at(model, site)
    for make in (sa.Ablate, lambda d: sa.Clamp(d, value=1.0), lambda d: sa.Cap(d, bound=1.0)):
        with sa.steer(model, make(direction)):
            once = outputs(model, batch)
        with sa.steer(model, make(3 * direction)):
            assert close(outputs(model, batch), once)


# ---- composition


def test_nested_steering_acts_in_order_and_ends_in_order() -> None:
    model, batch, site = model_of("qwen2"), inputs("qwen2"), Site("block_output", layer=1)
    direction = direction_at(model, site)
    push, clamp = sa.Add(direction, strength=absolute(1.0)), sa.Clamp(direction, value=0.5)

    def projection(*outer: Intervention, inner: Intervention) -> torch.Tensor:
        with sa.steer(model, *outer), sa.steer(model, inner):
            return sa.rows(steerable(model), [batch], site)[next(iter(direction.vectors))] @ direction.vector(
                next(iter(direction.vectors))
            )

    half = torch.full((18,), 0.5)
    torch.testing.assert_close(projection(push, inner=clamp), half, atol=1e-4, rtol=0)
    torch.testing.assert_close(projection(clamp, inner=push), half + 1, atol=1e-4, rtol=0)
    before = outputs(model, batch)
    with sa.steer(model, push):
        outer_only = outputs(model, batch)
        with sa.steer(model, clamp):
            assert not close(outputs(model, batch), outer_only)
        assert torch.equal(outputs(model, batch), outer_only)
    assert torch.equal(outputs(model, batch), before)


@pytest.mark.parametrize("heads", [None, (0, 2)])
def test_parts_at_one_site_act_in_the_order_given(heads: tuple[int, ...] | None) -> None:
    # The middle part covers all heads: order must hold between parts that touch different columns of one activation.
    model, batch = model_of("llama"), inputs("llama")
    some, every = (Site("attention_heads", layer=1, heads=h) for h in (heads, None))
    columns = WIDTH if heads is None else 16
    scale, zero = torch.full((columns,), 2.0), torch.zeros(columns)
    parts = [
        sa.Affine(scale=scale, offset=zero, site=some),
        sa.Add(direction_at(model, every), strength=absolute(3.0)),
        sa.Affine(scale=scale, offset=zero, site=some),
    ]

    def read(*now: Intervention) -> torch.Tensor:
        with sa.steer(model, *now):
            return next(iter(sa.rows(steerable(model), [batch], every).values()))

    v = 3 * next(iter(direction_at(model, every).vectors.values()))[0]
    h = read()
    chosen = torch.arange(WIDTH) < 0
    for head in heads or range(4):
        chosen[8 * head : 8 * head + 8] = True
    torch.testing.assert_close(read(*parts), torch.where(chosen, (2 * h + v) * 2, h + v), atol=1e-4, rtol=1e-4)


def test_two_adds_at_one_site_equal_their_sum() -> None:
    model, batch = model_of("gpt2"), inputs("gpt2")
    a, b = (direction_at(model, BLOCKS, seed=i) for i in (1, 2))
    with sa.steer(model, sa.Add(a, strength=0.4), sa.Add(b, strength=0.2)):
        both = outputs(model, batch)
    with sa.steer(model, sa.Add(a + 0.5 * b, strength=0.4)):
        assert close(outputs(model, batch), both)


def test_logit_mix_reads_what_the_edits_at_its_layers_made() -> None:
    model, batch, last = model_of("llama"), inputs("llama"), Site("block_output", layer=-1)
    add = sa.Add(direction_at(model, last), strength=absolute(2.0))
    mix = sa.LogitMix(site=last, strength=0.7)  # the early exit at the last layer is the output itself
    with sa.steer(model, add):
        added = outputs(model, batch)
    for parts in ((add, mix), (mix, add)):
        with sa.steer(model, *parts):
            assert close(outputs(model, batch), added)


@pytest.mark.parametrize("name", LANGUAGE)
def test_logit_mix_is_the_mean_of_early_exits(name: str) -> None:
    model, batch = model_of(name), inputs(name)
    target, site = steerable(model), Site("block_output", layer=(0, 1))
    _, stack = target.stack(None)
    rows = sa.rows(target, [batch], site)
    norm, unembed = model.get_submodule(stack.final_norm), model.get_submodule(stack.unembedding)
    with torch.no_grad():
        early = torch.stack([unembed(norm(h)).reshape(3, 6, -1) for h in rows.values()])
    cap = getattr(model.config, "final_logit_softcapping", None)
    early = (torch.tanh(early / cap) * cap if cap else early).mean(0)
    with sa.steer(model, sa.LogitMix(site=site, strength=0.3)):
        mixed = outputs(model, batch)
        last = outputs(model, batch, logits_to_keep=1)
    assert close(mixed, 0.7 * outputs(model, batch) + 0.3 * early)
    assert close(last, mixed[:, -1:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("name", "kind"), pairs(["llama", "gemma2", "gpt2", "mlp"]))
def test_half_precision_is_kept(name: str, kind: str, dtype: torch.dtype) -> None:
    model = tiny(name).to(dtype)
    batch = inputs(name)
    batch = batch.to(dtype) if torch.is_tensor(batch) else batch
    before = outputs(model, batch)
    seen = []
    with sa.steer(model, part(kind, model)) as steering:
        handle = (
            steerable(model)
            .blocks()[-1][1][0]
            .register_forward_hook(lambda module, args, out: seen.append((args[0].dtype, out.dtype)))
        )
        steered = outputs(model, batch)
        steering.set_strength([0.1, 0.2, 0.0])
        rows = outputs(model, batch)
        handle.remove()
    assert set(seen) == {(dtype, dtype)}
    assert steered.dtype == rows.dtype == before.dtype
    assert torch.isfinite(steered).all()
    assert not torch.equal(steered, before)
    assert torch.equal(rows[2], before[2])


# ---- torch.compile, generate


@pytest.mark.parametrize(
    ("name", "kind", "site", "per_row"),
    [
        ("mlp", "add", BLOCKS, False),
        ("mlp", "add", BLOCKS, True),
        ("mlp", "rotate", BLOCKS, False),
        ("mlp", "cap", BLOCKS, True),
        ("llama", "add", Site("block_output", layer=0), False),
        ("llama", "ablate", Site("mlp_neurons", layer=0, tokens="last"), True),
    ],
)
def test_torch_compile_honours_live_strengths_without_recompiling(
    name: str, kind: str, site: Site, per_row: bool
) -> None:
    torch._dynamo.reset()
    model, batch, counter = tiny(name), inputs(name), CompileCounter()
    if name == "llama":
        model.model.layers = model.model.layers[:1]  # compiling takes seconds per layer
    strengths = [[0.3 * i, 0.0, 0.1] if per_row else 0.3 * i for i in range(1, 6)]
    before, expected = outputs(model, batch), []
    with sa.steer(model, part(kind, model, torch.tensor(strengths[0]), site=site)) as steering:
        for strength in strengths:
            steering.set_strength(strength)
            expected.append(outputs(model, batch))
    with sa.steer(model, part(kind, model, torch.tensor(strengths[0]), site=site)) as steering:
        compiled, frames = torch.compile(model, backend=counter), []
        for strength, value in zip(strengths, expected, strict=True):
            steering.set_strength(strength)
            assert close(outputs(compiled, batch), value)
            frames.append(counter.frame_count)
        steering.set_strength([0.0] * 3 if per_row else 0.0)
        assert torch.equal(outputs(compiled, batch), before)
        assert frames[1] >= 1
        assert frames[1:] == [counter.frame_count] * 4  # the second pass may compile once more, later ones do not
    assert torch.equal(outputs(compiled, batch), before)
    torch._dynamo.reset()


def test_steering_a_model_that_was_compiled_and_run_before_raises_instead_of_doing_nothing() -> None:
    torch._dynamo.reset()
    model, batch = tiny("mlp"), inputs("mlp")
    compiled, add = torch.compile(model, backend="eager"), part("add", model)
    outputs(compiled, batch)
    with pytest.raises(SiteNeverFired, match="compiled before"), sa.steer(compiled, add):
        outputs(compiled, batch)
    torch._dynamo.reset()


@pytest.mark.parametrize("name", GENERATING)
def test_generate_works_steered_and_leaves_batch_mates_alone(name: str) -> None:
    model, batch = model_of(name), inputs(name, batch=2)
    settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0, "output_logits": True}
    settings |= {"return_dict_in_generate": True, "attention_mask": torch.ones_like(batch["input_ids"])}
    plain = model.generate(**batch, **settings)
    with sa.steer(model, part("add", model, torch.tensor([0.0, 3.0]), site=Site("block_output", layer=1))):
        steered = model.generate(**batch, **settings)
    n = min(len(plain.logits), len(steered.logits))
    for a, b in zip(plain.logits[:n], steered.logits[:n], strict=True):
        if name == "mixtral":  # its experts multiply the tokens of all rows together, which rounds by who else is there
            torch.testing.assert_close(a[0], b[0], atol=1e-4, rtol=0)
        else:
            assert torch.equal(a[0], b[0])
    assert (plain.logits[0][1] - steered.logits[0][1]).abs().max() > 0.1
    with sa.steer(model, part("add", model, torch.tensor([0.0, 3.0]), site=Site("block_output", layer=1))):
        ids = steered.sequences[:, :-1]
        again = outputs(model, {"input_ids": ids})[:, batch["input_ids"].shape[1] - 1 :]
    assert close(torch.stack(steered.logits, 1), again, 1e-4)  # steered keys and values stay steered


def test_generate_with_images_does_not_ask_the_vision_tower_to_run_at_every_token() -> None:
    model, batch = model_of("smolvlm"), image_inputs()
    settings = {"max_new_tokens": 3, "do_sample": False, "attention_mask": torch.ones_like(batch["input_ids"])}
    settings |= {"output_logits": True, "return_dict_in_generate": True}
    plain = model.generate(**batch, **settings).logits[0]
    with sa.steer(model, part("add", model, 2.0, site=Site("block_output", layer=0, stack="vision"))):
        steered = model.generate(**batch, **settings).logits[0]
    assert (plain - steered).abs().max() > 1e-3
    with (
        pytest.raises(SiteNeverFired, match=r"in this forward pass: vision\.0\.block_output"),
        sa.steer(model, part("add", model, 2.0, site=Site("block_output", layer=0, stack="vision"))),
    ):
        outputs(model, inputs("smolvlm"))  # the first pass has no image at all


# ---- clear errors


def test_a_mistyped_site_is_answered_with_the_nearest_and_the_full_list() -> None:
    with pytest.raises(UnknownSite, match=r"did you mean 'mlp_output'\? Allowed: block_output, mlp_output"):
        Site("mlp_out")
    model = model_of("mlp")
    with pytest.raises(UnknownSite, match=r"'attention_output' is not in stack 'policy' of mlp.*Allowed: block_output"):
        sa.steer(model, sa.SetNeurons(indices=(0,), values=0.0, site=Site("attention_output")))
    with pytest.raises(UnknownSite, match="did you mean 'vision'"):
        sa.steer(model_of("smolvlm"), sa.SetNeurons(indices=(0,), values=0.0, site=Site(stack="vison")))


@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("kind", ["add", "norm-kept-add", "ablate", "rotate", "clamp", "cap", "affine"])
def test_a_wrong_width_is_refused_by_name_and_numbers(name: str, kind: str) -> None:
    model = model_of(name)
    site = Site("block_output", layer=1)
    raw = {f"{steerable(model).site_map.default_stack}.1.block_output": torch.randn(2 if kind == "rotate" else 1, 24)}
    wrong = Direction.from_raw(raw, site, {key: {"mean_norm": 1.0} for key in raw})
    parts = {
        "add": sa.Add, "norm-kept-add": sa.NormKeptAdd, "ablate": sa.Ablate, "rotate": sa.Rotate,
        "clamp": lambda d: sa.Clamp(d, value=1.0), "cap": lambda d: sa.Cap(d, bound=1.0),
        "affine": lambda d: sa.Affine(scale=torch.ones(24), offset=torch.ones(24), site=site),
    }  # fmt: skip
    with pytest.raises(WrongWidth, match=f"24 wide, the activation {WIDTH}"), sa.steer(model, parts[kind](wrong)):
        outputs(model, inputs(name))


def test_a_neuron_that_does_not_exist_is_refused() -> None:
    model = model_of("llama")
    with (
        pytest.raises(BadInput, match=f"index {WIDTH} does not exist; the site is {WIDTH} wide"),
        sa.steer(model, sa.SetNeurons(indices=(0, WIDTH), values=1.0, site=BLOCKS)),
    ):
        outputs(model, inputs("llama"))


def test_a_direction_of_another_model_is_refused_with_the_difference() -> None:
    llama, mistral = model_of("llama"), model_of("mistral")
    direction = direction_at(llama, BLOCKS, model=model_fingerprint(steerable(llama)))
    with pytest.raises(WrongModel, match=r"architecture|class: made for 'LlamaForCausalLM', got 'MistralForCausalLM'"):
        sa.steer(mistral, sa.Add(direction, strength=0.1))
    changed = tiny("llama")
    with torch.no_grad():
        changed.model.layers[0].mlp.up_proj.weight.mul_(1.5)
    with pytest.raises(WrongModel, match=r"weights: made for"):
        sa.steer(changed, sa.Add(direction, strength=0.1))
    with sa.steer(changed, sa.Add(direction, strength=0.1), allow_other_model=True):
        outputs(changed, inputs("llama"))
    with sa.steer(tiny("llama"), sa.Add(direction, strength=0.1)) as steering:  # the same weights elsewhere in memory
        outputs(steering._target.module, inputs("llama"))
    with sa.steer(tiny("llama").to(torch.bfloat16), sa.Add(direction, strength=0.1)) as steering:
        outputs(steering._target.module, inputs("llama"))


def test_not_a_number_is_refused_wherever_it_could_come_in() -> None:
    model, site = model_of("llama"), Site("block_output", layer=1)
    key, nan = "language.1.block_output", float("nan")
    vector = torch.randn(WIDTH)
    vector[3] = nan
    with pytest.raises(NonFinite, match=r"language\.1\.block_output: 1 of 32 entries are NaN"):
        Direction.from_raw({key: vector}, site)
    with pytest.raises(NonFinite, match="1 of 32 entries are NaN"):
        Direction({key: vector[None]}, site)
    with pytest.raises(NonFinite, match="strength must be finite"):
        sa.Add(direction_at(model, site), strength=torch.tensor([0.0, nan]))
    with pytest.raises(NonFinite, match="tensors contain NaN"):
        sa.steer(model, sa.Clamp(direction_at(model, site), value=nan))
    with pytest.raises(NonFinite, match="Affine"):
        sa.Affine(scale=vector, offset=torch.zeros(WIDTH), site=site)
    with pytest.raises(NonFinite, match="SetNeurons"):
        sa.SetNeurons(indices=(0,), values=nan, site=site)
    good = direction_at(model, site)
    damaged = Direction(good.vectors, site, statistics={key: {"mean_norm": nan}})
    with pytest.raises(NonFinite, match="'alpha' is worth nan"):
        sa.steer(model, sa.Add(damaged, strength=0.0))


def test_a_strength_needs_a_statistic_that_the_direction_carries() -> None:
    model, site = model_of("llama"), Site("block_output", layer=1)
    bare = Direction(direction_at(model, site).vectors, site)
    for unit in ("alpha", "sd", "beta"):
        with pytest.raises(BadInput, match=f"unit '{unit}' at language.1.block_output needs the statistic"):
            sa.steer(model, sa.Add(bare, strength=Strength(0.1, unit)))
    with pytest.raises(BadInput, match="did you mean 'alpha'"):
        Strength(1.0, "alfa")
    with pytest.raises(BadInput, match="Ablate is no displacement"):
        sa.Ablate(bare, strength=Strength(1.0, "alpha"))
    with pytest.raises(BadInput, match=r"one number or one per row, shape \(B,\), got shape \(2, 2\)"):
        sa.Add(bare, strength=torch.zeros(2, 2))


def test_a_direction_without_a_vector_at_the_site_is_refused() -> None:
    model = model_of("llama")
    direction = direction_at(model, Site("block_output", layer=1))
    with pytest.raises(
        BadInput, match=r"no vector at \['language.2.block_output'\]; it covers \['language.1.block_out"
    ):
        sa.steer(model, sa.Add(direction, site=Site("block_output", layer=2), strength=0.1))


def test_only_parts_can_be_attached_and_only_where_the_policy_has_the_entrance() -> None:
    model = model_of("mlp")
    with pytest.raises(BadInput, match=r"got Direction. Wrap a Direction: Add"):
        sa.steer(model, direction_at(model, BLOCKS))  # type: ignore[arg-type]
    with pytest.raises(MissingEntrance, match=r"'decision'.*it has \['modules'\]"):
        sa.steer(model, part("add", model), sa.Temperature(2.0))
    with pytest.raises(UnknownArchitecture, match=r"no site map describes Linear.*site_map=SiteMap"):
        sa.steer(nn.Linear(2, 2), part("add", model))


class Bypass(MLP):
    """Calls the weights of its middle layer, not the module."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for i, layer in enumerate(self.net):
            x = nn.functional.tanh(x) if i == 3 else layer(x)
        return x


def bypass() -> tuple[Bypass, SiteMap]:
    return Bypass(MLPConfig(6, 4, (WIDTH,) * 3)), site_map_for(model_of("mlp"))


def test_a_site_that_does_not_fire_raises_at_the_end_of_the_pass() -> None:
    model, site_map = bypass()
    whole = sa.SetNeurons(indices=(0,), values=1.0, site=Site("block_output"))
    with (
        pytest.raises(SiteNeverFired, match=r"1 steered site.*in this forward pass: policy.1.block_output.*net.3"),
        sa.steer(model, whole, site_map=site_map),
    ):
        model(inputs("mlp"))
    with sa.steer(model, whole, site_map=site_map, require_fired=False):
        model(inputs("mlp"))


def test_a_site_that_never_fired_raises_on_leaving() -> None:
    model = model_of("llama")
    with pytest.raises(SiteNeverFired, match="while steering was attached"), sa.steer(model, part("add", model)):
        pass  # nothing was run
    with sa.steer(model, part("add", model)):
        model.model(**inputs("llama"))  # a pass that does not go through the root module, but fires
    with sa.steer(model, part("add", model), require_fired=False) as attached:
        with pytest.raises(SiteNeverFired, match="while steering was attached"):
            attached.check_fired()  # what hosts ask that never leave
        model.model(**inputs("llama"))
        assert attached.check_fired() > 0
    with sa.steer(model, part("ablate", model, site=Site("block_output", layer=0, tokens="last"))):
        outputs(model, inputs("llama"))
        with pytest.raises(BadInput, match=r"token scope 'last'.*not through its own forward"):
            model.model(**inputs("llama"))  # must not use the tokens of the pass before
    assert n_hooks(model) == 0


# ---- policies


def mlp_policy(**options: Any) -> MLPPolicy:
    config = MLPConfig(n_inputs=6, n_outputs=4, hidden=(WIDTH,) * 3, **options)
    network = MLP(config)
    network.load_state_dict(model_of("mlp").state_dict())
    return MLPPolicy(network, config)


def test_a_policy_is_steered_through_its_module_and_its_decision_and_both_are_restored() -> None:
    policy, observation = mlp_policy(), inputs("mlp").numpy()
    policy.reset([0, 1, 2])
    before = policy.act(observation).measures["probabilities"]
    for how in (contextlib.nullcontext(), pytest.raises(KeyError)):
        with how, sa.steer(policy, part("add", policy), sa.Temperature(3.0)):
            assert policy.describe()["temperature"] == 3.0
            inside = policy.act(observation).measures["probabilities"]
            if not isinstance(how, contextlib.nullcontext):
                raise KeyError
        assert policy.describe()["temperature"] == 1.0
        assert np.abs(inside - before).max() > 1e-3
    np.testing.assert_array_equal(policy.act(observation).measures["probabilities"], before)


def test_zero_strength_does_not_change_the_actions_of_a_policy() -> None:
    observation = inputs("mlp").numpy()
    taken = []
    for parts in ((), (part("add", mlp_policy(), 0.0), sa.Temperature(1.0))):
        policy = mlp_policy()
        policy.reset([3, 4, 5])
        with sa.steer(policy, *parts):
            taken.append([policy.act(observation).action.tolist() for _ in range(20)])
    assert taken[0] == taken[1]
    assert len({tuple(action) for action in taken[0]}) > 1


def test_descriptions_tell_apart_what_steers_differently() -> None:
    model, site = model_of("llama"), Site("block_output", layer=1)
    direction = direction_at(model, site)
    key = next(iter(direction.vectors))
    louder = Direction(direction.vectors, site, statistics={key: {**direction.statistics[key], "mean_norm": 9.0}})
    parts = [
        sa.Add(direction, strength=0.1), sa.Add(direction, strength=0.2), sa.Add(louder, strength=0.1),
        sa.Add(direction, strength=absolute(0.1)), sa.Add(direction, strength=torch.tensor([0.1, 0.2])),
        sa.Add(-direction, strength=0.1), sa.Add(direction, strength=0.1, gate=sa.Window(0, 5)),
        sa.Add(direction, strength=0.1, gate=sa.Window(0, 6)),
        sa.Add(direction, strength=0.1, gate=sa.Probe(torch.ones(WIDTH))),
        sa.Add(direction, strength=0.1, gate=sa.Probe(-torch.ones(WIDTH))),
        sa.Add(direction, strength=0.1, gate=sa.Tokens(sa.span(0, 2))),
        sa.Add(direction, strength=0.1, gate=sa.Tokens(sa.span(0, 3))),
        sa.Add(direction, strength=0.1, site=Site("block_output", layer=1, tokens="last")),
        sa.Clamp(direction, value=1.0), sa.Clamp(direction, value=2.0), sa.Clamp(direction),
        sa.Cap(direction, bound=1.0), sa.Cap(direction, bound=1.0, side="ceiling"),
        sa.SetNeurons(indices=(0,), values=1.0, site=site), sa.SetNeurons(indices=(0,), values=2.0, site=site),
        sa.LogitMix(site=site), sa.LogitMix(site=site, final_norm=False),
    ]  # fmt: skip
    texts = [repr(sa.Steerer(entry).describe()) for entry in parts]
    assert len(set(texts)) == len(texts)
    assert repr(sa.Steerer(sa.Add(direction_at(model, site), strength=0.1)).describe()) == texts[0]
