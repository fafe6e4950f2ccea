"""Reading activations: what is read, how it is summed up, and that no more is computed than needed."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steering_parts import absolute, batch_for, direction_at, n_hooks
from tiny_models import DEPTH, LANGUAGE, TINY, WIDTH, image_inputs, inputs, outputs, tiny
from torch import nn

import steer_agents as sa
from policies.base import SiteMap
from policies.errors import BadInput, NonFinite, SiteNeverFired
from steer_agents.capture import Moments, Reader, statistics_of, statistics_of_rows, stream
from steer_agents.sites import Site, resolve, steerable

model_of = functools.cache(tiny)


# ---- moments


@given(st.lists(st.integers(0, 6), min_size=1, max_size=6), st.booleans(), st.integers(0, 10**6))
def test_streamed_moments_equal_direct_computation(sizes: list[int], covariance: bool, seed: int) -> None:
    sizes = [*sizes, 2]
    x = torch.randn(sum(sizes), 4, generator=torch.Generator().manual_seed(seed)) * 3 + 10
    streamed = Moments(covariance)
    for part in x.split(sizes):
        streamed.update(part)  # empty parts too: a batch may hold no token of the scope
    x = x.double()
    assert streamed.n == len(x)
    assert streamed.mean_norm == pytest.approx(float(x.norm(dim=-1).mean()), rel=1e-12)
    torch.testing.assert_close(streamed.mean, x.mean(0), rtol=1e-12, atol=1e-12)
    if covariance:
        torch.testing.assert_close(streamed.cov(), torch.cov(x.T), rtol=1e-9, atol=1e-9)
        v = torch.tensor([0.5, 0.5, -0.5, 0.5])
        assert streamed.sd_along(v) == pytest.approx(float((x @ v.double()).std()), rel=1e-9)
    else:
        torch.testing.assert_close(streamed.scatter / (len(x) - 1), x.var(0), rtol=1e-9, atol=1e-9)
        with pytest.raises(BadInput, match="without covariance"):
            streamed.cov()


@given(st.integers(0, 8), st.integers(0, 8), st.booleans(), st.integers(0, 10**6))
def test_merged_moments_are_those_of_all_rows(n_first: int, n_second: int, covariance: bool, seed: int) -> None:
    x = torch.randn(n_first + n_second + 1, 3, generator=torch.Generator().manual_seed(seed)) - 5
    first, second, whole = Moments(covariance), Moments(covariance), Moments(covariance)
    first.update(x[:n_first])
    second.update(x[n_first:])
    whole.update(x)
    for merged in (first.merged(second), second.merged(first)):
        assert merged.n == whole.n
        assert merged.mean_norm == pytest.approx(whole.mean_norm, rel=1e-12)
        torch.testing.assert_close(merged.mean, whole.mean, rtol=1e-12, atol=1e-12)
        torch.testing.assert_close(merged.scatter, whole.scatter, rtol=1e-9, atol=1e-9)


def test_statistics_are_the_same_streamed_and_from_rows() -> None:
    x, v = torch.randn(50, 6) + 1, torch.eye(6)[2]
    summary = Moments()
    summary.update(x)
    streamed, direct = statistics_of(summary, v), statistics_of_rows(x, v)
    assert streamed == pytest.approx(direct, rel=1e-9)
    assert direct["sd"] == pytest.approx(float(x[:, 2].double().std()))
    assert statistics_of_rows(x[:1], v)["sd"] == 0.0


def test_wide_activations_keep_no_covariance_unless_asked() -> None:
    narrow, wide, asked = Moments(), Moments(), Moments(covariance=True)
    narrow.update(torch.randn(2, 1024))
    wide.update(torch.randn(2, 1025))
    asked.update(torch.randn(2, 1025))
    assert [summary.scatter.dim() for summary in (narrow, wide, asked)] == [2, 1, 2]
    assert "sd" not in statistics_of(wide, torch.ones(1025) / 1025**0.5)


# ---- what is read


@pytest.mark.parametrize("name", LANGUAGE)
def test_rows_are_the_selected_tokens_in_order(name: str) -> None:
    model, batch = model_of(name), inputs(name)
    target, site = steerable(model), Site(layer=(0, 2))
    with Reader(target, resolve(target, site)) as reader:
        whole = {key: h.clone() for key, h in reader.run(batch).items()}
    every, last = (sa.rows(target, [batch, batch], Site(layer=(0, 2), tokens=tokens)) for tokens in ("all", "last"))
    for key, h in whole.items():
        assert h.shape == (3, 6, WIDTH)
        assert torch.equal(every[key], h.reshape(-1, WIDTH).repeat(2, 1))
        assert torch.equal(last[key], h[:, -1].repeat(2, 1))


def test_padding_is_not_read() -> None:
    model = model_of("llama")
    ids = inputs("llama", batch=2)["input_ids"]
    mask = torch.ones_like(ids)
    mask[0, :4] = 0
    batch = {"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}
    alone = sa.rows(steerable(model), [{"input_ids": ids[:1, 4:]}, {"input_ids": ids[1:]}], Site(layer=1))
    together = sa.rows(steerable(model), [batch], Site(layer=1))
    key = "language.1.block_output"
    assert together[key].shape == (8, WIDTH)
    torch.testing.assert_close(together[key], alone[key], atol=1e-4, rtol=1e-4)
    ids[ids == 7] = 8
    ids[0, :4] = 7  # padding with the delimiter's id
    with pytest.raises(BadInput, match="'after' selected no token"):
        sa.rows(steerable(model), [batch], Site(layer=1, tokens=sa.after([7])))


def test_batches_without_a_selected_token_do_not_spoil_the_mean() -> None:
    model = model_of("llama")
    with_it, without = torch.tensor([[3, 7, 5]]), torch.tensor([[3, 4, 5]])
    site = Site(layer=1, tokens=sa.at([7]))
    batches = [{"input_ids": without}, {"input_ids": with_it}, {"input_ids": without}]
    (summary,) = sa.moments(steerable(model), batches, site).values()
    (row,) = sa.rows(steerable(model), [{"input_ids": with_it}], site).values()
    assert summary.n == 1
    torch.testing.assert_close(summary.mean, row[0].double())
    with pytest.raises(BadInput, match="'at' selected no token in the data"):
        sa.moments(steerable(model), [{"input_ids": without}], site)


def test_the_vision_tower_is_read_whole_whatever_the_padding_of_the_text() -> None:
    model, batch = model_of("smolvlm"), image_inputs(2)
    mask = torch.ones_like(batch["input_ids"])
    mask[0, -2:] = 0
    (h,) = sa.rows(steerable(model), [{**batch, "attention_mask": mask}], Site(stack="vision", layer=0)).values()
    assert h.shape == (2 * 16, 16)  # 16 patches of each image


def test_reading_inside_steering_sees_the_steered_activations() -> None:
    model, batch, site = model_of("llama"), inputs("llama"), Site(layer=1)
    add = sa.Add(direction_at(model, site), strength=absolute(2.0))
    (before,) = sa.rows(steerable(model), [batch], site).values()
    with sa.steer(model, add):
        (after,) = sa.rows(steerable(model), [batch], site).values()
    torch.testing.assert_close(after, before + 2 * add.direction.vector("language.1.block_output"), atol=1e-5, rtol=0)


# ---- no more than needed


@pytest.mark.parametrize("layer", range(DEPTH))
@pytest.mark.parametrize("name", TINY)
def test_a_pass_stops_at_the_deepest_layer(name: str, layer: int) -> None:
    model, batch = model_of(name), batch_for(model_of(name))
    target = steerable(model)
    calls: dict[str, int] = {}

    def count(path: str) -> Any:
        return lambda module, args: calls.__setitem__(path, calls.get(path, 0) + 1)

    watched = {f"block {i}": group[-1] for i, (_, group) in enumerate(target.blocks())}
    watched["head"] = {"mlp": lambda: model.net[-1], "chunk-denoiser": lambda: model.head}.get(
        name, lambda: model.lm_head
    )()
    handles = [module.register_forward_pre_hook(count(path)) for path, module in watched.items()]
    sa.moments(target, [batch, batch], Site(layer=tuple(range(layer + 1))))
    for handle in handles:
        handle.remove()
    assert calls == {f"block {i}": 2 for i in range(layer + 1)}
    assert n_hooks(model) == 0
    assert torch.equal(outputs(model, batch), outputs(model, batch))


def test_no_hook_and_no_gradient_is_left_behind_after_an_error() -> None:
    model = model_of("llama")

    def consume(key: str, h: torch.Tensor) -> None:
        assert not h.requires_grad
        raise RuntimeError("planted")

    with pytest.raises(RuntimeError, match="planted"):
        stream(steerable(model), [inputs("llama")], Site(layer=0), consume)
    assert n_hooks(model) == 0
    assert torch.is_grad_enabled()


# ---- clear errors


def test_activations_that_are_not_finite_raise() -> None:
    model = tiny("llama")
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = float("inf")
    with pytest.raises(NonFinite, match=r"capture at language\.1\.block_output: the model gave NaN or infinite"):
        sa.moments(steerable(model), [inputs("llama")], Site(layer=1))


def test_a_module_that_does_not_run_is_named() -> None:
    class Bypass(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.net[0].weight.T

    site_map: SiteMap = steerable(model_of("mlp")).site_map
    with pytest.raises(SiteNeverFired, match=r"policy\.0\.mlp_output \(module net\.0\) did not run"):
        sa.moments(steerable(Bypass(), site_map), [inputs("mlp")], Site("mlp_output"))


@pytest.mark.parametrize("site", [Site(phase="decode"), Site(env_steps=(0, 3))])
def test_sites_limited_to_steps_or_decoding_cannot_be_read_from_data(site: Site) -> None:
    with pytest.raises(BadInput, match="capture reads single prefill passes"):
        sa.rows(steerable(model_of("llama")), [inputs("llama")], site)


def test_a_batch_may_say_itself_what_capture_would_add() -> None:
    batch = {**inputs("llama"), "use_cache": True}
    assert sa.rows(steerable(model_of("llama")), [batch], Site(layer=0))["language.0.block_output"].shape == (18, WIDTH)
