"""Entropic activation steering: the formula, its identities, and a policy whose confidence direction is known."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from steering_parts import n_hooks
from tiny_models import tiny

import steer_agents as sa
from policies.base import Decision, Policy
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents.finding.controls import permuted_like
from steer_agents.finding.entropy import LN2, Recording, entropy_vector, from_recording, record
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import Site, steerable

model_of = functools.cache(tiny)


def data(R: int, T: int, D: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(R, T, D, generator=generator, dtype=torch.float64) * 3 + 7
    return z, torch.rand(R, T, generator=generator, dtype=torch.float64) + 0.01


SHAPES = (st.integers(1, 5), st.integers(1, 6), st.integers(1, 4), st.integers(0, 10**6))

# ---- the formula


@given(*SHAPES)
def test_the_vector_equals_the_papers_sum_written_as_loops(R: int, T: int, D: int, seed: int) -> None:
    z, h = data(R, T, D, seed)
    u, Z = [0.0] * D, 0.0
    for k in range(R):
        for d in range(D):
            mean = sum(float(z[k, t, d]) for t in range(T)) / T
            for t in range(T):
                u[d] += float(h[k, t]) * (float(z[k, t, d]) - mean)
        Z += sum(float(h[k, t]) for t in range(T))
    expected = torch.tensor(u, dtype=torch.float64) / Z
    torch.testing.assert_close(entropy_vector(z, h), expected, atol=1e-12, rtol=1e-9)


@given(*SHAPES)
def test_uniform_weights_and_constant_entropies_give_exactly_zero(R: int, T: int, D: int, seed: int) -> None:
    z, h = data(R, T, D, seed)
    zero = torch.zeros(D, dtype=torch.float64)
    assert torch.equal(entropy_vector(z, h, weights="uniform"), zero)
    constant = h[:, :1].expand(R, T)  # 0.1 + 0.1 + 0.1 is not 0.3: the mean of equal numbers need not be that number
    assert torch.equal(entropy_vector(z, constant), zero)
    assert torch.equal(entropy_vector(z, h[:1, :1].expand(R, T), center="global"), zero)


@given(*SHAPES, st.floats(0.0, 50.0))
def test_adding_a_constant_to_every_entropy_changes_the_length_only(
    R: int, T: int, D: int, seed: int, constant: float
) -> None:
    z, h = data(R, T, D, seed)
    u, moved = entropy_vector(z, h) * h.sum(), entropy_vector(z, h + constant) * (h + constant).sum()
    torch.testing.assert_close(moved, u, atol=1e-10, rtol=1e-8)


@given(*SHAPES)
def test_offsets_of_whole_runs_do_not_matter(R: int, T: int, D: int, seed: int) -> None:
    z, h = data(R, T, D, seed)
    offsets = torch.randn(R, 1, D, dtype=torch.float64) * 100
    torch.testing.assert_close(entropy_vector(z + offsets, h), entropy_vector(z, h), atol=1e-9, rtol=1e-8)


@given(*SHAPES)
def test_the_other_centres_and_weights_are_what_they_say(R: int, T: int, D: int, seed: int) -> None:
    z, h = data(R, T, D, seed)

    def close(a: torch.Tensor, b: torch.Tensor) -> None:
        torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-8)

    w = h[..., None]
    close(entropy_vector(z, h, center="none"), (w * z).sum((0, 1)) / h.sum())
    close(entropy_vector(z, h, center="global"), (w * (z - z.mean((0, 1)))).sum((0, 1)) / h.sum())
    close(entropy_vector(z, h, center="none", weights="uniform"), z.mean((0, 1)))
    shuffled = entropy_vector(z, h, center="none", weights="shuffled", seed=3)
    close(shuffled, entropy_vector(z, h, center="none", weights="shuffled", seed=3))
    order = torch.randperm(R * T, generator=torch.Generator().manual_seed(3))
    close(shuffled, entropy_vector(z, h.reshape(-1)[order].reshape(R, T), center="none"))


def test_bad_arguments_of_the_formula_are_named() -> None:
    z, h = data(2, 3, 4, 0)
    with pytest.raises(BadInput, match="did you mean 'run'"):
        entropy_vector(z, h, center="runs")
    with pytest.raises(BadInput, match="did you mean 'uniform'"):
        entropy_vector(z, h, weights="unifrom")
    with pytest.raises(BadInput, match=r"expected z \(R, T, D\) and h \(R, T\), got \(2, 3, 4\) and \(3, 2\)"):
        entropy_vector(z, h.T)
    with pytest.raises(BadInput, match="all entropies are zero"):
        entropy_vector(z, 0 * h)


# ---- from a recording

SITE = Site(layer=0)
KEY = "policy.0.block_output"


def test_a_recording_becomes_a_direction_with_its_statistics() -> None:
    z, h = data(4, 5, 6, 1)
    found = from_recording(Recording({KEY: z.float()}, h.numpy(), {}), SITE, info={"licence": "CC0"})
    u = entropy_vector(z.float(), h)
    torch.testing.assert_close(found.vector(KEY), (u / u.norm()).float())
    rows = z.reshape(-1, 6)
    along = rows @ (u / u.norm())
    expected = {
        "raw_norm": float(u.norm()), "mean_norm": float(rows.norm(dim=-1).mean()),
        "mean_projection": float(along.mean()), "sd": float(along.std()),
    }  # fmt: skip
    assert dict(found.statistics[KEY]) == pytest.approx(expected, rel=1e-5)
    assert found.site == Site(layer=0, tokens="last")
    assert found.method == "entropy"
    assert found.info["options"] == {"center": "run", "weights": "entropy", "seed": 0, "runs": 4, "steps": 5}
    assert found.info["licence"] == "CC0"
    assert "shuffled" in from_recording(Recording({KEY: z}, h.numpy(), {}), SITE, weights="shuffled").method


def test_entropies_that_do_not_vary_are_refused_also_when_rounding_makes_them_vary() -> None:
    z, _ = data(3, 4, 5, 2)
    flat = np.full((3, 4), 0.1)
    with pytest.raises(BadInput, match="zero up to rounding"):
        from_recording(Recording({KEY: z}, flat, {}), SITE)
    with pytest.raises(BadInput, match="zero up to rounding"):
        from_recording(Recording({KEY: z}, flat + 1e-14 * np.random.default_rng(0).random((3, 4)), {}), SITE)


# ---- a policy whose confidence direction is known

WIDTH = 24


class LinearAgent(Policy):
    """Two actions with logits (a . z, 0), where z is read from the prompt ("0.3 -1.2 ..."): the smaller a . z > 0, the
    less certain. Its network is relu(z + 50) (so exactly linear here) followed by a, hence the entropic direction is -a.
    """

    def __init__(self, a: torch.Tensor) -> None:
        super().__init__()
        self.name, self.entrances = "linear", frozenset({"modules"})
        network = MLP(MLPConfig(WIDTH, 2, (WIDTH,), activation="relu"))
        with torch.no_grad():
            network.net[0].weight.copy_(torch.eye(WIDTH))
            network.net[0].bias.fill_(50.0)
            network.net[2].weight.copy_(torch.stack([a, torch.zeros(WIDTH)]))
            network.net[2].bias.copy_(torch.tensor([float(-50.0 * a.sum()), 0.0]))
        self.module = network

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None: ...

    @torch.no_grad()
    def _act(self, observation: Any, active: np.ndarray) -> Decision:
        z = torch.tensor([[float(word) for word in prompt.split()] for prompt in observation["prompt"]])
        p = torch.softmax(self.module(z).double(), -1).numpy()
        entropy = -(p * np.log2(np.clip(p, 1e-300, None))).sum(1)
        return Decision(p.argmax(1), {"entropy_bits": entropy, "probabilities": p})


def histories(a: torch.Tensor, R: int, T: int, seed: int = 0) -> list[list[str]]:
    """Runs whose z varies freely around a state of fair confidence; every run has an offset of its own orthogonal to a."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(R, T, WIDTH, generator=generator) * 0.5
    offset = torch.randn(R, 1, WIDTH, generator=generator) * 5
    offset = offset - (offset @ a)[..., None] * a
    z = z + offset + 2.0 * a
    return [[" ".join(f"{x:.6f}" for x in z[k, t].tolist()) for t in range(T)] for k in range(R)]


def confidence() -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(WIDTH, generator=torch.Generator().manual_seed(5)), dim=0)


def test_the_known_direction_of_a_linear_policy_is_recovered_and_controls_are_not() -> None:
    a = confidence()
    policy, prompts = LinearAgent(a), histories(a, R=30, T=25)
    infos = [{}] * 30
    options = {"prompts": prompts, "infos": infos, "site": SITE}
    found = sa.find(policy, "entropy", **options)
    assert float(found.vector(KEY) @ -a) > 0.9
    assert abs(float(permuted_like(found, seed=0).vector(KEY) @ -a)) < 0.5
    assert abs(float(sa.find(policy, "random", like=found, seed=0).vector(KEY) @ -a)) < 0.5
    assert abs(float(sa.find(policy, "entropy", weights="shuffled", **options).vector(KEY) @ -a)) < 0.5
    # without centring by run the offsets of the runs drown it
    assert abs(float(sa.find(policy, "entropy", center="none", **options).vector(KEY) @ -a)) < 0.5
    assert found.model == model_fingerprint(steerable(policy))

    # and it does what it is for: steering along it raises the entropy, more so than the permuted control
    fresh = histories(a, R=20, T=2, seed=1)

    def mean_entropy(*parts: Any) -> float:
        with sa.steer(policy, *parts):
            return float(record(policy, fresh, infos[:20]).entropy.mean())

    one = sa.Strength(2.0, "absolute")
    plain, steered = mean_entropy(), mean_entropy(sa.Add(found, strength=one))
    assert steered > plain + 0.1
    assert mean_entropy(sa.Add(-found, strength=one)) < plain - 0.1
    assert abs(mean_entropy(sa.Add(permuted_like(found, seed=0), strength=one)) - plain) < (steered - plain) / 2


# ---- recording a language policy


class TinyAgent(Policy):
    """A tiny language model choosing between the tokens 3 and 4; a prompt's characters are its tokens, padded left."""

    def __init__(self, decode_too: bool = False) -> None:
        super().__init__()
        self.name, self.entrances = "tiny", frozenset({"modules"})
        self.module = model_of("llama")
        self.decode_too = decode_too

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None: ...

    def encode(self, inputs: Sequence[str]) -> list[Mapping[str, Any]]:
        length = max(map(len, inputs))
        ids = torch.tensor([[0] * (length - len(text)) + [ord(c) % 50 + 5 for c in text] for text in inputs])
        mask = (ids != 0).long()
        return [{"input_ids": ids, "attention_mask": mask, "position_ids": (mask.cumsum(1) - 1).clamp(min=0)}]

    @torch.no_grad()
    def _act(self, observation: Any, active: np.ndarray) -> Decision:
        (batch,) = self.encode(observation["prompt"])
        self.context.phase = "prefill"
        out = self.module(**batch, use_cache=True)
        if self.decode_too:  # what a sampling read-out does afterwards must not be recorded
            self.context.phase = "decode"
            mask = torch.cat([batch["attention_mask"], torch.ones(len(active), 1, dtype=torch.int64)], 1)
            ids = out.logits[:, -1:].argmax(-1)
            self.module(input_ids=ids, attention_mask=mask, past_key_values=out.past_key_values, use_cache=True)
        self.context.phase = None
        p = torch.softmax(out.logits[:, -1, 3:5].double(), -1).numpy()
        entropy = -(p * np.log2(p)).sum(1)
        return Decision(p.argmax(1), {"entropy_bits": entropy, "probabilities": p})


PROMPTS = [["ab", "abcd", "abcdef"], ["x", "xyzz", "xyzzuvw"]]


@pytest.mark.parametrize("decode_too", [False, True])
def test_record_keeps_the_last_prompt_token_of_every_decision(decode_too: bool) -> None:
    policy, ticks = TinyAgent(decode_too), []
    site = Site(layer=(0, 2))
    recording = record(policy, PROMPTS, [{}, {}], site, on_step=lambda: ticks.append(1))
    assert len(ticks) == 3
    assert n_hooks(policy.module) == 0
    assert recording.entropy.shape == (2, 3)
    assert recording.measures["probabilities"].shape == (2, 3, 2)
    p = recording.measures["probabilities"]
    np.testing.assert_allclose(recording.entropy, -(p * np.log(p)).sum(-1), rtol=1e-12)  # nats
    np.testing.assert_allclose(recording.measures["entropy_bits"] * LN2, recording.entropy)
    for t in range(3):
        batch = policy.encode([run[t] for run in PROMPTS])
        direct = sa.rows(steerable(policy.module), batch, Site(layer=(0, 2), tokens="last"))
        for key, h in direct.items():
            assert recording.activations[key].shape == (2, 3, 32)
            torch.testing.assert_close(recording.activations[key][:, t], h, atol=1e-5, rtol=1e-5)


def test_record_reads_a_subset_of_heads_as_wide_as_the_direction_that_is_made_of_it() -> None:
    policy, site = TinyAgent(), Site("attention_heads", layer=1, heads=(3, 1))
    (h,) = record(policy, PROMPTS, [{}, {}], site).activations.values()
    (every,) = record(policy, PROMPTS, [{}, {}], Site("attention_heads", layer=1)).activations.values()
    assert torch.equal(h, torch.cat([every[..., 24:32], every[..., 8:16]], -1))
    found = sa.find(policy, "entropy", prompts=PROMPTS, infos=[{}, {}], site=site)
    policy.reset([0, 1])
    with sa.steer(policy, sa.Add(found, strength=0.5)):
        policy.act({"prompt": ("abc", "xyz")})


def test_record_without_a_site_sees_steered_decisions() -> None:
    policy = TinyAgent()
    plain = record(policy, PROMPTS, [{}, {}])
    assert plain.activations == {}
    found = sa.find(policy, "entropy", prompts=PROMPTS, infos=[{}, {}], site=Site(layer=1))
    assert found.site.scope.kind == "last"
    with sa.steer(policy, sa.Add(found, strength=1.0)):
        steered = record(policy, PROMPTS, [{}, {}])
    assert np.abs(steered.entropy - plain.entropy).max() > 1e-3
    np.testing.assert_array_equal(record(policy, PROMPTS, [{}, {}]).entropy, plain.entropy)


def test_what_cannot_be_recorded_is_refused() -> None:
    policy = TinyAgent()
    with pytest.raises(BadInput, match=r"runs must have equal length.*got lengths \[1, 3\]"):
        record(policy, [PROMPTS[0], ["x"]], [{}, {}])
    with pytest.raises(BadInput, match=r"one info each; got lengths \[3\], 1 infos"):
        record(policy, PROMPTS, [{}])
    with pytest.raises(BadInput, match="record needs a policy"):
        record(model_of("llama"), PROMPTS, [{}, {}])

    class Silent(TinyAgent):
        def _act(self, observation: Any, active: np.ndarray) -> Decision:
            decision = super()._act(observation, active)
            return Decision(decision.action, {"probabilities": decision.measures["probabilities"]})

    with pytest.raises(BadInput, match=r"reports no 'entropy_bits'.*Allowed: probabilities"):
        record(Silent(), PROMPTS, [{}, {}])

    class Idle(TinyAgent):
        def _act(self, observation: Any, active: np.ndarray) -> Decision:
            return Decision(np.zeros(2, dtype=int), {"entropy_bits": np.ones(2)})

    with pytest.raises(BadInput, match=r"language\.1\.block_output did not run while the policy decided"):
        record(Idle(), PROMPTS, [{}, {}], Site(layer=1))
    assert n_hooks(policy.module) == 0
