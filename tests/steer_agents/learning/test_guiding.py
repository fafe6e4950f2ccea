"""The controller: it opens on one class and stays shut on the other, by layers that have been, within bounds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from sklearn.metrics import roc_auc_score

import steer_agents as sa
from policies.errors import BadArtifact, BadInput, RunMismatch
from policies.mlp import MLP, MLPConfig
from steer_agents import capture, recipe
from steer_agents.controller import SHAPES, Controller, control
from steer_agents.learning import guiding
from steer_agents.learning.trainer import Settings
from steer_agents.sites import Site, steerable

READ, QUICK = Site(layer=0), Settings(steps=60, learning_rate=3e-3, batch_size=16, evaluate_every=10)
KAPPA = sa.Strength(4.0, "absolute")


def rows(label: float, n: int = 120, seed: int = 0) -> torch.Tensor:
    """Two classes, 3 standard deviations apart along the first coordinate."""
    x = torch.randn(n, 8, generator=torch.Generator().manual_seed(seed))
    x[:, 0] += 3 * label
    return x


def network() -> MLP:
    net = MLP(MLPConfig(8, 4, (16, 16, 16))).eval()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(torch.randn(p.shape, generator=torch.Generator().manual_seed(i)) * 0.4)
    return net


def learned(net: Any, **changed: Any) -> Controller:
    data = {"positive": [rows(1)], "negative": [rows(-1, seed=1)]}
    found: Controller = sa.learn(
        net,
        "guiding-giants",
        **{**data, "site": READ, "steer_layers": (1, 2), "hidden": 32, "settings": QUICK, **changed},
    )
    return found


def part_of(found: Controller, width: int, strength: sa.Strength = KAPPA) -> sa.Add:
    raw = {key: torch.randn(width, generator=torch.Generator().manual_seed(9)) for key in found.steers}
    return sa.Add(sa.Direction.from_raw(raw, found.site), strength=strength, site=found.site, gate=found)


def patches(net: Any, found: Controller, x: torch.Tensor) -> torch.Tensor:
    """(n, D) what is added at the first steered layer."""
    place, read, key = steerable(net), Site(layer=(1, 2)), found.steers[0]
    before = capture.rows(place, [x], read)[key]
    with sa.steer(net, part_of(found, before.shape[-1])):
        return capture.rows(place, [x], read)[key] - before


def test_it_tells_unseen_inputs_apart_and_leaves_benign_ones_alone() -> None:
    net = network()
    found = learned(net)
    harmful, benign = rows(1, seed=5), rows(-1, seed=6)
    x = capture.rows(steerable(net), [torch.cat([harmful, benign])], Site(layer=0, tokens="last"))[found.reads_at[0]]
    s, _ = control(x, found.tensors)
    assert roc_auc_score([1] * 120 + [0] * 120, s.detach().numpy()) >= 0.95
    pushed, left = (patches(net, found, one).norm(dim=-1) for one in (harmful, benign))
    assert float(left.mean()) <= 0.05 * float(pushed.mean())
    assert float((left == 0).float().mean()) > 0.9  # the raw logit would push these the other way
    assert float(pushed.max()) <= 4.0  # and has no bound
    assert float(s.min()) < -1
    weights = found.weights(x)
    torch.testing.assert_close(pushed, 4 * weights[:120, 0], atol=1e-4, rtol=1e-4)


def test_layer_weights_stay_in_the_middle_since_nothing_teaches_them() -> None:
    found = learned(network())
    assert all(abs(weight - 0.5) < 0.1 for weight in found.info["layer_weights"])


def test_a_layer_is_steered_only_by_layers_before_it() -> None:
    net = network()
    for steered in (0, (0, 1), (1, 2)):
        with pytest.raises(BadInput, match=r"it reads up to layer 1 and would steer layer"):
            learned(net, site=Site(layer=(0, 1)), steer_layers=steered)
    tensors = learned(net).tensors
    keys = ("policy.2.block_output",), ("policy.1.block_output", "policy.2.block_output")
    with pytest.raises(BadInput, match="Steer layers from 3 on, or read before layer 1"):
        Controller(*keys, tensors, READ, {}, {})


def test_strength_0_and_a_shut_gate_are_bit_identical() -> None:
    net, x = network(), torch.cat([rows(1), rows(-1)])
    found = learned(net)
    with torch.no_grad():
        before = net(x)
        with sa.steer(net, part_of(found, 16, sa.Strength(0.0, "absolute"))) as steering:
            assert torch.equal(net(x), before)
            steering.set_strength(4.0)
            assert not torch.equal(net(x), before)
            steering.set_strength(0.0)
            assert torch.equal(net(x), before)
        shut = {**found.tensors, "head.bias": found.tensors["head.bias"] - 1e3}
        closed = Controller(found.reads_at, found.steers, shut, found.site, {}, {})
        with sa.steer(net, part_of(closed, 16)):
            assert torch.equal(net(x), before)
        assert torch.equal(net(x), before)


@pytest.mark.parametrize("padded", [False, True])
def test_of_tokens_it_reads_the_last_real_one_and_steers_there(padded: bool) -> None:
    model = tiny_models.tiny("llama")
    batches = [tiny_models.inputs("llama", seed=s) for s in (1, 2)]
    found = learned(
        model,
        positive=batches,
        negative=batches[::-1],
        site=Site(layer=(0, 1)),
        steer_layers=2,
        settings=Settings(steps=2),
    )
    tensors = {**found.tensors, "head.bias": found.tensors["head.bias"] + 3}
    opened = Controller(found.reads_at, found.steers, tensors, found.site, found.model, {})
    ids = tiny_models.inputs("llama", seed=3)["input_ids"]
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 4:] = 0  # on the right
    batch = {"input_ids": ids, "attention_mask": mask}
    place, key = steerable(model), "language.2.block_output"
    read = capture.rows(place, [batch], Site(layer=(0, 1), tokens="last"))
    weights = opened.weights(torch.cat([read[name] for name in opened.reads_at], dim=-1))[:, 0]
    before = capture.rows(place, [batch], Site(layer=2, tokens="last"))[key]
    part = part_of(opened, tiny_models.WIDTH)
    with sa.steer(model, part):
        after = capture.rows(place, [batch], Site(layer=2, tokens="last"))[key]
    torch.testing.assert_close(after - before, 4 * weights[:, None] * part.direction.vector(key), atol=1e-4, rtol=1e-4)
    assert float(weights.min()) > 0.1
    model.generate(ids, max_new_tokens=3, do_sample=False)
    with sa.steer(model, part, sa.Add(part.direction, strength=KAPPA, gate=opened * sa.Always(0.5))):
        model.generate(ids, max_new_tokens=3, do_sample=False)


def test_a_killed_run_goes_on_to_the_same_controller(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = network()
    whole, calls = learned(net), 0

    def killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 30:
            raise KeyboardInterrupt
        return control(*args)

    monkeypatch.setattr(guiding, "control", killed)
    with pytest.raises(KeyboardInterrupt):
        learned(net, folder=tmp_path)
    monkeypatch.undo()
    again = learned(net, folder=tmp_path)
    assert all(torch.equal(again.tensors[name], whole.tensors[name]) for name in SHAPES)
    with pytest.raises(RunMismatch, match="other data;"):
        learned(net, positive=[rows(1, seed=7)], folder=tmp_path)


def test_it_is_a_file_that_recipes_can_name(tmp_path: Path) -> None:
    net = network()
    found = learned(net)
    again = Controller.load(found.save(tmp_path / "when.safetensors"))
    assert again.describe() == found.describe()
    assert (again.site, again.model) == (found.site, found.model)
    part_of(found, 16).direction.save(tmp_path / "what.safetensors")
    (tmp_path / "recipe.yaml").write_text(
        "recipe: 1\nparts:\n  - add: what.safetensors\n    strength: 4\n    unit: absolute\n    gate: {controller: when.safetensors}\n"
    )
    part: Any = recipe.load(tmp_path / "recipe.yaml").parts[0].part
    x = rows(1)
    with torch.no_grad(), sa.steer(net, part):
        steered = net(x)
    with torch.no_grad(), sa.steer(net, part_of(found, 16)):
        assert torch.equal(net(x), steered)
    with pytest.raises(BadArtifact, match="holds 'a direction', expected 'controller'"):
        Controller.load(tmp_path / "what.safetensors")


def test_what_makes_no_sense_is_refused() -> None:
    net = network()
    found = learned(net)
    with pytest.raises(BadInput, match="it reads 'block_output', got 'mlp_neurons'"):
        learned(net, site=Site("mlp_neurons", layer=0))
    elsewhere = sa.Direction({"policy.0.block_output": torch.eye(1, 16)}, Site(layer=0))
    with pytest.raises(BadInput, match=r"not policy.0.block_output; steer at site=controller.site"):
        sa.steer(net, sa.Add(elsewhere, strength=1.0, gate=found))
    with pytest.raises(BadInput, match=r"head\.weight has shape"):
        Controller(found.reads_at, found.steers[:1], found.tensors, found.site, {}, {})
    with pytest.raises(BadInput, match="expected tensors"):
        Controller(found.reads_at, found.steers, {}, found.site, {}, {})
    with pytest.raises(BadInput, match="hidden must be at least 1"):
        learned(net, hidden=0)
