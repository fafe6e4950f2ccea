"""Maps of activations: planted ones are recovered, the joint ones are at least as good as greedy ones, and they are ordinary parts."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from scene_parts import KEY, SITE, D, Seen

import steer_agents as sa
from policies.errors import BadArtifact, BadInput, NonFinite, NotBakeable, RunMismatch, WrongModel
from policies.mlp import MLP, MLPConfig
from steer_agents import capture, recipe
from steer_agents.affine_maps import AffineMap, Transport
from steer_agents.fingerprint import model_fingerprint
from steer_agents.learning import lineas
from steer_agents.learning.trainer import Settings
from steer_agents.learning.transport import quantiles, wasserstein2
from steer_agents.sites import Site, resolve, steerable

ALL = Site()


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def planted(n: int = 512) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Unpaired rows x and y ~ a x + b, with a and b."""
    a, b = torch.linspace(0.5, 2.0, D), torch.linspace(-2, 2, D)
    return normal(n, D), normal(n, D, seed=1) * a + b, a, b


def tanh_net(seed: int) -> MLP:
    net = MLP(MLPConfig(6, 4, (16, 16))).eval()
    with torch.no_grad():
        for i, p in enumerate(net.parameters()):
            p.copy_(normal(*p.shape, seed=100 * seed + i) * (0.6 if p.dim() > 1 else 0.3))
    return net


def sides(seed: int, n: int = 96) -> dict[str, Any]:
    shifted = normal(n, 6, seed=seed + 50) * 1.5 + torch.linspace(-1, 1, 6)
    return {"negative": list(normal(n, 6, seed=seed).split(8)), "positive": list(shifted.split(8))}


def distance(net: MLP, data: dict[str, Any], made: AffineMap | None) -> float:
    """sum_l sum_j W2^2 in units of the unedited network's variance, as LinEAS's loss here."""
    place = steerable(net)
    before = capture.scene_means(place, data["negative"], ALL)[0]
    wanted = capture.scene_means(place, data["positive"], ALL)[0]
    with sa.steer(net, *([] if made is None else [Transport(made)])):
        got = capture.scene_means(place, data["negative"], ALL)[0]
    return sum(float((wasserstein2(got[k], wanted[k]) / before[k].var(0)).sum()) for k in got)


# ---- the pieces


def test_the_distance_of_two_samples_is_that_of_their_sorted_values_and_order_does_not_matter() -> None:
    x, y = torch.tensor([[3.0], [1.0], [2.0]]), torch.tensor([[5.0], [4.0], [3.0]])
    assert float(wasserstein2(x, y)) == pytest.approx(4.0)
    x, y = normal(40, 3), normal(40, 3, seed=1)
    assert torch.equal(wasserstein2(x, y), wasserstein2(x[torch.randperm(40)], y.flip(0)))
    assert torch.equal(wasserstein2(x, x.flip(0)), torch.zeros(3))
    torch.testing.assert_close(wasserstein2(x.repeat(3, 1), x), torch.zeros(3), atol=0.05, rtol=0)


def test_quantiles_are_sorted_values_or_lie_between_them() -> None:
    x = torch.tensor([[4.0], [0.0], [2.0]])
    assert quantiles(x, 3)[:, 0].tolist() == [0.0, 2.0, 4.0]
    assert quantiles(x, 6)[:, 0].tolist() == [0.0, 0.5, 1.5, 2.5, 3.5, 4.0]


# ---- AcT


@pytest.mark.parametrize("fit", ["linear", "gaussian"])
def test_a_planted_map_is_recovered_from_unpaired_rows(fit: str) -> None:
    x, y, a, b = planted()
    found = sa.learn(
        Seen(), "linear-transport", positive=[{"x": y[:300]}, {"x": y[300:]}], negative=[{"x": x}], site=SITE, fit=fit
    )
    assert float((found.scale[KEY] / a - 1).abs().max()) < 0.1
    assert float((found.offset[KEY] - b).abs().max()) < 0.15
    assert torch.equal(found.low[KEY], x.amin(0))
    assert torch.equal(found.high[KEY], x.amax(0))
    fewer = sa.learn(Seen(), "linear-transport", positive=[{"x": y[:400]}], negative=[{"x": x}], site=SITE, fit=fit)
    assert float((fewer.scale[KEY] / a - 1).abs().max()) < 0.15


def test_shifts_only_and_units_that_do_not_vary() -> None:
    x, y, _, _ = planted()
    x[:, 2] = 7.0
    for fit in ("linear", "gaussian", "mean"):
        found = sa.learn(Seen(), "linear-transport", positive=[{"x": y}], negative=[{"x": x}], site=SITE, fit=fit)
        assert found.scale[KEY][2] == 1.0
        torch.testing.assert_close(found.offset[KEY][2], y[:, 2].mean() - 7.0)
    assert torch.equal(found.scale[KEY], torch.ones(D))
    torch.testing.assert_close(found.offset[KEY], y.mean(0) - x.mean(0), atol=1e-5, rtol=1e-5)


def test_later_layers_are_fitted_with_the_earlier_maps_active() -> None:
    net, data = tanh_net(0), sides(0)
    greedy = sa.learn(net, "linear-transport", **data, support=None)
    alone = sa.learn(net, "linear-transport", **data, support=None, sequential=False)
    first, second = greedy.scale
    assert torch.equal(greedy.scale[first], alone.scale[first])
    assert not torch.allclose(greedy.scale[second], alone.scale[second], atol=0.05)
    # each map is right for what reaches it: means agree at every layer under the greedy maps
    place = steerable(net)
    wanted = capture.scene_means(place, data["positive"], ALL)[0]
    with sa.steer(net, Transport(greedy)):
        got = capture.scene_means(place, data["negative"], ALL)[0]
    for key in got:
        torch.testing.assert_close(got[key].mean(0), wanted[key].mean(0), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["llama", "tiny-vla"])
def test_token_networks_are_mapped_as_well(name: str) -> None:
    model = tiny_models.tiny(name)
    plus, minus = ([tiny_models.inputs(name, batch=4, seed=s) for s in (i, i + 1)] for i in (1, 7))
    found = sa.learn(model, "linear-transport", positive=plus, negative=minus, site=Site(layer=(0, 1)), support=None)
    place = steerable(model)
    wanted = capture.scene_means(place, plus, found.site)[0]
    with sa.steer(model, Transport(found)):
        got = capture.scene_means(place, minus, found.site)[0]
    assert got.keys() == found.scale.keys()
    for key in got:
        torch.testing.assert_close(got[key].mean(0), wanted[key].mean(0), atol=1e-4, rtol=1e-4)


# ---- LinEAS


@pytest.mark.parametrize("seed", range(3))
def test_joint_maps_are_at_least_as_good_as_greedy_ones_and_far_better_than_each_alone(seed: int) -> None:
    net, data = tanh_net(seed), sides(seed)
    greedy = sa.learn(net, "linear-transport", **data, support=None)
    alone = sa.learn(net, "linear-transport", **data, support=None, sequential=False)
    settings = Settings(steps=60, learning_rate=0.1, batch_size=99, patience=None)
    joint = sa.learn(net, "lineas", **data, held_out=0.0, settings=settings)
    assert distance(net, data, joint) < distance(net, data, greedy)
    assert distance(net, data, joint) < 0.7 * distance(net, data, alone) < 0.7 * distance(net, data, None)
    assert joint.info["trained"]["held_out"] == pytest.approx(distance(net, data, joint), rel=1e-3)


def test_inputs_held_out_decide_when_to_stop() -> None:
    net, data = tanh_net(0), sides(0)
    settings = Settings(steps=40, learning_rate=0.1, evaluate_every=5)
    found = sa.learn(net, "lineas", **data, start="identity", settings=settings)
    assert distance(net, data, found) < 0.7 * distance(net, data, None)


def test_penalties_leave_units_and_layers_alone_to_the_bit() -> None:
    net, data = tanh_net(0), sides(0)
    settings = Settings(steps=40, learning_rate=0.1, batch_size=99, evaluate_every=40, patience=None)
    options = {**data, "start": "identity", "held_out": 0.0, "settings": settings}
    dense = sa.learn(net, "lineas", **options)
    sparse = sa.learn(net, "lineas", **options, l1=0.5)
    assert dense.active() == 1.0
    assert 0 < sparse.active() < 0.7
    assert sparse.info["active"] == sparse.active()
    key = next(iter(sparse.scale))
    idle = (sparse.scale[key] == 1) & (sparse.offset[key] == 0)
    place = steerable(net)
    before = capture.rows(place, data["negative"], ALL)[key]
    with sa.steer(net, Transport(sparse)):
        after = capture.rows(place, data["negative"], ALL)[key]
    assert torch.equal(after[:, idle], before[:, idle])
    assert not torch.equal(after[:, ~idle], before[:, ~idle])
    none = sa.learn(net, "lineas", **options, group=100.0)
    assert none.active() == 0.0


def test_a_killed_run_goes_on_to_the_same_maps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net, data = tanh_net(1), sides(1)
    settings = Settings(steps=20, learning_rate=0.1, batch_size=4, evaluate_every=4, patience=None)
    options: dict[str, Any] = {**data, "settings": settings, "l1": 0.01}
    whole = sa.learn(net, "lineas", **options)
    calls = 0

    def killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 11:
            raise KeyboardInterrupt
        return draw(*args)

    draw = lineas.draw
    monkeypatch.setattr(lineas, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        sa.learn(net, "lineas", **options, folder=tmp_path)
    monkeypatch.undo()
    again = sa.learn(net, "lineas", **options, folder=tmp_path)
    for key in whole.scale:
        assert torch.equal(again.scale[key], whole.scale[key])
        assert torch.equal(again.offset[key], whole.offset[key])
    with pytest.raises(RunMismatch, match="other l1;"):
        sa.learn(net, "lineas", **{**options, "l1": 0.02}, folder=tmp_path)


def test_gradients_leave_the_model_alone() -> None:
    net, data = tanh_net(2), sides(2)
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    sa.learn(net, "lineas", **data, settings=Settings(steps=2))
    assert all(torch.equal(before[name], p) and p.grad is None for name, p in net.named_parameters())


# ---- ordinary parts


def a_map(net: Any, site: Site, support: bool = False) -> AffineMap:
    keys = [location.key for location in resolve(steerable(net), site)]
    width = 48 if site.kind == "mlp_neurons" else tiny_models.WIDTH
    scale = {key: 1 + 0.2 * normal(width, seed=i) for i, key in enumerate(keys)}
    offset = {key: normal(width, seed=i + 9) for i, key in enumerate(keys)}
    bounds = [{key: torch.full((width,), end) for key in keys} for end in (-0.1, 0.1)] if support else [{}, {}]
    return AffineMap(
        scale, offset, site, *bounds, method="planted", model=model_fingerprint(steerable(net)), info={"n": 3}
    )


@pytest.mark.parametrize(
    ("name", "kind"), [("llama", "mlp_neurons"), ("gpt2", "mlp_output"), ("tiny-vla", "mlp_output")]
)
def test_folded_into_weights_it_gives_the_same_outputs(name: str, kind: str) -> None:
    model, batch = tiny_models.tiny(name), tiny_models.inputs(name)
    part = Transport(a_map(model, Site(kind, layer=(0, 2))), strength=0.8)

    def run() -> torch.Tensor:
        found = tiny_models.outputs(model, batch)
        return getattr(found, "logits", found)  # a VLA gives more than its logits

    plain = run()
    with sa.steer(model, part):
        hooked = run()
    with sa.bake(model, part):
        torch.testing.assert_close(run(), hooked, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(plain, hooked, atol=1e-2)
    bounded = Transport(a_map(model, Site(kind, layer=(0, 2)), support=True))
    with pytest.raises(NotBakeable, match="not an affine function"):
        sa.bake(model, bounded)


def test_values_outside_of_the_support_stay_as_they_are() -> None:
    part = Transport(
        AffineMap(
            {KEY: torch.tensor([2.0, 2.0])}, {KEY: torch.ones(2)}, SITE, {KEY: torch.zeros(2)}, {KEY: torch.ones(2)}
        )
    )
    h = torch.tensor([[[0.5, -0.5], [1.0, 1.5]]])
    assert part.edit(h, part.tensors_at(KEY), torch.ones(1)).tolist() == [[[2.0, -0.5], [3.0, 1.5]]]
    assert not part.is_affine


def test_a_map_is_a_file_that_recipes_can_name(tmp_path: Path) -> None:
    model = tiny_models.tiny("llama")
    for support in (False, True):
        made = a_map(model, Site(layer=(0, 2), tokens="last"), support)
        found = AffineMap.load(made.save(tmp_path / "map.safetensors"))
        assert (found.site, found.method, found.model, found.info) == (made.site, "planted", made.model, {"n": 3})
        for key in made.scale:
            assert all(torch.equal(a, b) for a, b in zip(found.tensors_at(key), made.tensors_at(key), strict=True))
        assert Transport(found).describe() == Transport(made).describe()
    text = "recipe: 1\nparts:\n  - transport: map.safetensors\n    strength: 0.5\n    gate: {window: [0, 9]}\n"
    (tmp_path / "recipe.yaml").write_text(text)
    part = recipe.load(tmp_path / "recipe.yaml").parts[0].part
    assert isinstance(part, Transport)
    assert part.the_site == made.site
    with (
        pytest.raises(WrongModel, match=r"map \(planted\) was made for another model"),
        sa.steer(tiny_models.tiny("gpt2"), part),
    ):
        pass
    sa.Direction({"language.0.block_output": torch.eye(1, 4)}, Site()).save(tmp_path / "direction.safetensors")
    with pytest.raises(BadArtifact, match="holds 'a direction', expected 'affine-map'"):
        AffineMap.load(tmp_path / "direction.safetensors")
    with pytest.raises(BadArtifact, match="does not describe a direction"):
        sa.Direction.load(tmp_path / "map.safetensors")


def test_what_makes_no_sense_is_refused() -> None:
    net, one = tanh_net(0), torch.ones(3)
    data = {"positive": [torch.randn(4, 6)], "negative": [torch.randn(4, 6)]}
    with pytest.raises(BadInput, match="fit 'linaer' is unknown; did you mean 'linear'"):
        sa.learn(net, "linear-transport", **data, fit="linaer")
    with pytest.raises(BadInput, match="support must be two quantiles"):
        sa.learn(net, "linear-transport", **data, support=(0.5, 0.1))
    with pytest.raises(BadInput, match="two inputs or more"):
        sa.learn(net, "linear-transport", positive=[torch.randn(1, 6)], negative=data["negative"])
    with pytest.raises(BadInput, match="start 'zero' is unknown"):
        sa.learn(net, "lineas", **data, start="zero")
    with pytest.raises(BadInput, match="penalties are numbers from 0"):
        sa.learn(net, "lineas", **data, l1=-1.0)
    with pytest.raises(BadInput, match="holding out"):
        sa.learn(net, "lineas", **data)
    with pytest.raises(BadInput, match=r"learn\(..., 'lineas'\).*its options are positive"):
        sa.learn(net, "lineas", **data, strength=1)
    with pytest.raises(BadInput, match="offset covers"):
        AffineMap({"a": one}, {}, SITE)
    with pytest.raises(BadInput, match="give low and high"):
        AffineMap({"a": one}, {"a": one}, SITE, {"a": one})
    with pytest.raises(BadInput, match=r"expected \(D,\) tensors"):
        AffineMap({"a": one}, {"a": torch.ones(4)}, SITE)
    with pytest.raises(NonFinite, match="at a: entries"):
        AffineMap({"a": one * float("nan")}, {"a": one}, SITE)
    with pytest.raises(BadInput, match="Transport takes an AffineMap, got Tensor"):
        Transport(one)  # type: ignore[arg-type]
