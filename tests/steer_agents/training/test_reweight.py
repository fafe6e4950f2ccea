"""Adapters that learn from checkable rewards beside a frozen tiny language model; resumed runs, files, the control."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel

from policies.errors import BadArtifact, BadInput, MissingExtra
from steer_agents.capture import rows
from steer_agents.fingerprint import model_fingerprint
from steer_agents.learning.trainer import Settings
from steer_agents.sites import Site, Steerable
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
    folder = adapters.save(tmp_path / "adapters")
    again = Adapters.load(folder, model_fingerprint(llama))
    assert again.info == adapters.info
    with again.on(llama.module):
        assert torch.equal(logits(llama, some_prompts), steered)
    again.merge(llama.module)
    torch.testing.assert_close(logits(llama, some_prompts), steered, atol=1e-4, rtol=1e-4)
    with pytest.raises(BadArtifact, match="another model"):
        Adapters.load(folder, model_fingerprint(llama))


def grown(llama: Steerable, **options: object) -> Adapters:
    """Adapters that do something."""
    fresh = Adapters.beside(llama.module, **options)  # type: ignore[arg-type]
    return replace(fresh, tensors={name: value + 0.1 for name, value in fresh.tensors.items()})


def state(module: torch.nn.Module) -> list[object]:
    """Everything that attaching could leave behind: modules by identity, their mode, what is trained, their attributes."""
    return [
        [(name, id(one), one.training, sorted(vars(one))) for name, one in module.named_modules()],
        [(name, id(p), p.requires_grad, p._version) for name, p in module.named_parameters()],
    ]


def test_leaving_by_any_way_restores_the_model_module_by_module(
    llama: Steerable, some_prompts: list[torch.Tensor]
) -> None:
    adapters, before, plain = grown(llama), state(llama.module), logits(llama, some_prompts)
    drawn = torch.random.get_rng_state()
    with pytest.raises(RuntimeError, match="scalar types"), adapters.on(llama.module):
        llama.module(torch.zeros(1, 1, 1, 1, 1))
    assert state(llama.module) == before
    assert torch.equal(logits(llama, some_prompts), plain)
    assert torch.equal(torch.random.get_rng_state(), drawn)


def test_peft_itself_reads_the_folder(llama: Steerable, some_prompts: list[torch.Tensor], tmp_path: Path) -> None:
    adapters = grown(llama, rank=3)
    folder = adapters.save(tmp_path / "adapters")
    with adapters.on(llama.module):
        steered = logits(llama, some_prompts)
    wrapped = PeftModel.from_pretrained(llama.module, str(folder))
    assert torch.equal(logits(llama, some_prompts), steered)
    wrapped.unload()


def test_sites_resolve_and_fire_while_adapters_are_attached(llama: Steerable, some_prompts: list[torch.Tensor]) -> None:
    site = Site("attention_output", layer=1)
    before = rows(llama, some_prompts, site)
    with grown(llama).on(llama.module):
        during = rows(llama, some_prompts, site)
    assert list(before) == list(during)
    key = next(iter(before))
    assert not torch.equal(before[key], during[key])
    assert torch.equal(before[key], rows(llama, some_prompts, site)[key])


def test_the_seed_fixes_what_is_drawn(llama: Steerable) -> None:
    one, same, other = (Adapters.beside(llama.module, seed=seed).tensors for seed in (3, 3, 4))
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)


def test_what_is_no_folder_of_adapters_is_refused(llama: Steerable, tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="adapter_config"):
        Adapters.load(tmp_path)
    folder = grown(llama).save(tmp_path / "adapters")
    weights = folder / "adapter_model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    with pytest.raises(BadArtifact):
        Adapters.load(folder)
    (folder / "adapter_config.json").write_text("{")
    with pytest.raises(BadArtifact, match="damaged"):
        Adapters.load(folder)


def test_without_peft_the_extra_is_named(llama: Steerable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingExtra, match=r"pip install 'steer-agents\[adapters\]'"):
        Adapters.beside(llama.module)


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
    with pytest.raises(BadInput, match="from 1"):
        trained(llama, some_prompts, rank=0)
    adapters = Adapters.beside(llama.module)
    before = state(llama.module)
    with pytest.raises(BadInput, match="linear layers"):  # peft would leave q_proj wrapped
        Adapters.beside(llama.module, targets=("q_proj", "self_attn"))
    with pytest.raises(BadInput, match="attached to this model already"), adapters.on(llama.module):
        Adapters.beside(llama.module)
    other = replace(adapters, tensors={name: value[:, :1] for name, value in adapters.tensors.items()})
    with pytest.raises(BadInput, match="another model"), other.on(llama.module):
        pass
    assert state(llama.module) == before
