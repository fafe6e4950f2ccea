"""Adapters that learn from checkable rewards beside a frozen tiny language model; resumed runs, files, the control."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from policies.errors import BadArtifact, BadInput
from steer_agents.fingerprint import model_fingerprint
from steer_agents.learning.trainer import Settings
from steer_agents.sites import Steerable
from steer_agents.training.lora import Adapters
from steer_agents.training.reweight import norm_matched, steer_reweight

ARMS = (5, 9, 17)
SETTINGS = Settings(steps=40, learning_rate=0.02, batch_size=8, evaluate_every=10, patience=None)


def pays(prompt: torch.Tensor, action: int) -> float:
    """The arm that the prompt's last token names, modulo 3: something that only a policy that reads can earn."""
    return float(int(prompt[0, -1]) % 3 == action)


def logits(llama: Steerable, prompts: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([llama.module(one).logits[:, -1] for one in prompts])


def trained(llama: Steerable, prompts: list[torch.Tensor], **options: object) -> Adapters:
    options = {"settings": SETTINGS, "reward": pays, **options}
    return steer_reweight(llama, inputs=prompts, actions=ARMS, **options)  # type: ignore[arg-type]


def test_it_earns_more_on_held_out_prompts_and_the_model_stays_as_it_was(
    llama: Steerable, some_prompts: list[torch.Tensor], tmp_path: Path
) -> None:
    before, own = logits(llama, some_prompts), [p.clone() for p in llama.module.parameters()]
    adapters = trained(llama, some_prompts, reward=lambda prompt, action: float(action == 1))
    assert adapters.info["held_out"] < adapters.info["start"] - 0.2  # minus the expected reward
    assert all(torch.equal(a, b) for a, b in zip(own, llama.module.parameters(), strict=True))
    assert torch.equal(logits(llama, some_prompts), before)
    with adapters.on(llama.module):
        steered = logits(llama, some_prompts)
    assert not torch.equal(steered, before)
    path = adapters.save(tmp_path / "adapters.safetensors")
    again = Adapters.load(path, model_fingerprint(llama))
    with again.on(llama.module):
        assert torch.equal(logits(llama, some_prompts), steered)
    with pytest.raises(RuntimeError, match="scalar types"), again.on(llama.module):
        llama.module(torch.zeros(1, 1, 1, 1, 1))
    assert torch.equal(logits(llama, some_prompts), before)
    again.merge(llama.module)
    torch.testing.assert_close(logits(llama, some_prompts), steered, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadArtifact, match="another model"):
        Adapters.load(path, model_fingerprint(llama))


@pytest.mark.parametrize("weights", ["exact", "norm-matched"])
def test_an_interrupted_run_ends_where_the_whole_one_does(
    llama: Steerable, some_prompts: list[torch.Tensor], tmp_path: Path, weights: str
) -> None:
    short = Settings(steps=6, learning_rate=0.02, batch_size=4, evaluate_every=2, patience=None)
    whole = trained(llama, some_prompts, weights=weights, settings=short)
    calls = 0

    def killed(prompt: torch.Tensor, action: int) -> float:
        nonlocal calls
        calls += 1
        if calls > 24 + 3 * 4 * 8 + 5:  # the held-out table, three steps, and into the fourth
            raise KeyboardInterrupt
        return pays(prompt, action)

    with pytest.raises(KeyboardInterrupt):
        trained(llama, some_prompts, weights=weights, settings=short, reward=killed, folder=tmp_path)
    resumed = trained(llama, some_prompts, weights=weights, settings=short, folder=tmp_path)
    assert all(torch.equal(whole.tensors[name], resumed.tensors[name]) for name in whole.tensors)


def test_the_control_has_the_norm_of_the_weighed_gradient_and_its_own_direction() -> None:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    plain, weighed = (w * torch.tensor([3.0, 4.0])).sum(), (w * torch.tensor([1.0, 0.0])).sum()
    matched = torch.autograd.grad(norm_matched(plain, weighed, [w]), w)[0]
    torch.testing.assert_close(matched, torch.tensor([0.6, 0.8]))


def test_fresh_adapters_change_nothing(llama: Steerable, some_prompts: list[torch.Tensor]) -> None:
    before = logits(llama, some_prompts)
    with Adapters.beside(llama.module).on(llama.module):
        assert torch.equal(logits(llama, some_prompts), before)


def test_what_cannot_be_trained_says_why(llama: Steerable, some_prompts: list[torch.Tensor]) -> None:
    with pytest.raises(BadInput, match="norm-matched"):
        trained(llama, some_prompts, weights="exakt")
    with pytest.raises(BadInput, match="two different actions"):
        steer_reweight(llama, inputs=some_prompts, actions=[5], reward=pays)
    with pytest.raises(BadInput, match="q_proj"):
        trained(llama, some_prompts, targets=("q_prj",))
    other = Adapters({"lm_head.A": torch.zeros(2, 3), "lm_head.B": torch.zeros(4, 2)})
    with pytest.raises(BadInput, match="another model"), other.on(llama.module):
        pass
