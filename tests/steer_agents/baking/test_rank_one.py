"""Rank-1 baking: closed forms hold, baked equals hooked, gradient equals ridge, and unbaking is exact."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from steering_parts import direction_at
from tiny_models import inputs, outputs, tiny

import steer_agents as sa
from policies.errors import BadInput, RunMismatch, UnknownSite, WrongModel
from steer_agents.baking.casal import _Data, casal
from steer_agents.baking.rank_one import RankOneEdits
from steer_agents.baking.steer2edit import elastic_net, steer2edit
from steer_agents.direction import Direction
from steer_agents.learning.trainer import Settings
from steer_agents.sites import Site, steerable

BATCHES = [inputs("llama", 8, seed=seed) for seed in (1, 2)]


@functools.cache
def directions(name: str) -> dict[str, Direction]:
    model = tiny(name)
    kinds = {"attention": "attention_output", "mlp": "mlp_output"}
    return {word: direction_at(model, Site(kind, layer=(0, 2)), seed=3) for word, kind in kinds.items()}


def state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(model: torch.nn.Module, before: dict[str, torch.Tensor]) -> bool:
    after = model.state_dict()
    return after.keys() == before.keys() and all(torch.equal(after[key], value) for key, value in before.items())


def hooked(model: Any, edits: RankOneEdits, batch: Any) -> torch.Tensor:
    """What the edits do, as hooks on the unedited model: o += v (k . input)."""
    handles = []
    for change in edits.changes:
        v, k = change.output.float(), change.row.float()
        handles.append(
            change.location.module.register_forward_hook(lambda m, args, o, v=v, k=k: o + (args[0] @ k)[..., None] * v)
        )
    found = outputs(model, batch)
    for handle in handles:
        handle.remove()
    return found


# ---- Steer2Edit


def test_the_elastic_net_is_optimal_and_sparse() -> None:
    generator = torch.Generator().manual_seed(0)
    g = 2 * torch.rand(2000, generator=generator, dtype=torch.float64) - 1

    def gain(x: torch.Tensor, rho: float, alpha: float) -> torch.Tensor:
        return g * x - rho * (alpha * x.abs() + (1 - alpha) * x**2 / 2)

    for rho, alpha in ((0.2, 0.65), (0.5, 0.1), (0.9, 0.9)):
        best = elastic_net(g, rho, alpha)
        for scale in (1e-3, 0.1, 1.0):
            moved = best + scale * torch.randn(2000, generator=generator, dtype=torch.float64)
            assert (gain(moved, rho, alpha) <= gain(best, rho, alpha) + 1e-12).all()
    counts = [int((elastic_net(g, rho, 0.5) != 0).sum()) for rho in (0.1, 0.4, 0.8, 1.2, 1.6, 2.0, 3.0)]
    assert counts == sorted(counts, reverse=True)
    assert counts[-2:] == [0, 0]  # rho alpha >= 1


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_edits_write_along_v_only_equal_their_hooks_and_come_out_bit_for_bit(name: str) -> None:
    model, batch = tiny(name), inputs(name)
    weights, plain = state(model), outputs(model, batch)
    edits = steer2edit(model, BATCHES, **directions(name), rho_attention=0.2, rho_mlp=0.6, alpha=0.3)
    baked, edited = outputs(model, batch), state(model)
    assert edits.n_components > 10
    for change in edits.changes:
        path = f"{change.location.path}.weight"
        delta = (edited[path] - weights[path]).double()
        delta = delta.T if name == "gpt2" else delta
        h = torch.randn(len(change.row), 20, dtype=torch.float64)
        exact = torch.outer(change.output, change.row)
        written = exact @ h
        assert float((written - torch.outer(change.output, change.output @ written)).abs().max()) <= 1e-10
        torch.testing.assert_close(delta, exact, atol=1e-6, rtol=0)
        assert change.output.norm() == pytest.approx(1.0, abs=1e-6)
    edits.unbake()
    assert same(model, weights)
    assert torch.equal(outputs(model, batch), plain)
    found = hooked(model, edits, batch)
    assert float((found - baked).abs().max()) <= 1e-5 * float(baked.abs().max())
    assert float((baked - plain).abs().max()) > 1e-2


def test_importance_and_input_directions_are_those_of_the_formula() -> None:
    model = tiny("llama")
    mlp = directions("llama")["mlp"].at(0)
    (key,) = mlp.vectors
    v = mlp.vector(key).double()
    down, o_proj = (
        model.model.layers[0].mlp.down_proj.weight.double(),
        model.model.layers[0].self_attn.o_proj.weight.double(),
    )
    with torch.no_grad():
        mean = (
            sa.rows(steerable(model), BATCHES, Site("mlp_neurons", layer=0))["language.0.mlp_neurons"].double().mean(0)
        )
        heads = (
            sa.rows(steerable(model), BATCHES, Site("attention_heads", layer=0))["language.0.attention_heads"]
            .double()
            .mean(0)
        )
    with steer2edit(model, BATCHES, mlp=mlp, rho_mlp=0.4, alpha=0.2) as edits:
        (change,) = edits.changes
    for j in range(down.shape[1]):
        w = down[:, j].detach()
        g = float((w * mean[j]) @ v / (w * mean[j]).norm())
        expected = float(elastic_net(torch.tensor(g), 0.4, 0.2)) * float(torch.sign(w @ v))
        assert float(change.row[j]) == pytest.approx(expected, abs=1e-5)
    attention = Direction.from_raw({"language.0.attention_output": v}, Site("attention_output", layer=0))
    with steer2edit(model, BATCHES, attention=attention, rho_attention=0.3, alpha=0.2) as edits:
        (change,) = edits.changes
    for head in range(4):
        W, mu = o_proj[:, head * 8 : head * 8 + 8].detach(), heads[head * 8 : head * 8 + 8]
        k = W.T @ v / (W.T @ v).norm()
        amount = elastic_net(torch.nn.functional.cosine_similarity(v, W @ mu, dim=0), 0.3, 0.2)
        torch.testing.assert_close(change.row[head * 8 : head * 8 + 8], amount * k, atol=1e-5, rtol=0)


def test_budgets_bound_the_number_of_edits_and_rho_alpha_of_1_edits_nothing() -> None:
    model = tiny("llama")
    weights = state(model)
    with steer2edit(model, BATCHES, **directions("llama"), alpha=0.1, n_heads=3, n_neurons=5) as edits:
        assert edits.n_components == 8
    counts = []
    for rho in (0.2, 0.5, 0.9, 1.5, 2.0):
        with steer2edit(model, BATCHES, **directions("llama"), rho_attention=rho, rho_mlp=rho, alpha=0.5) as edits:
            counts.append(edits.n_components)
            assert same(model, weights) == (edits.n_components == 0)
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] == 0 < counts[0]


def test_what_makes_no_sense_is_refused_and_nothing_is_changed() -> None:
    model = tiny("llama")
    weights, mlp = state(model), directions("llama")["mlp"]
    for options, message in (
        ({}, "give attention"),
        ({"attention": mlp}, "expected a direction at 'attention_output'"),
        ({"mlp": mlp, "alpha": 1.0}, "alpha < 1"),
        ({"mlp": direction_at(model, Site("mlp_output", layer=0), rows=2)}, "one row"),
    ):
        with pytest.raises(BadInput, match=message):
            steer2edit(model, BATCHES, **options)
    with pytest.raises(WrongModel, match="another model"):
        steer2edit(model, BATCHES, mlp=direction_at(model, Site("mlp_output", layer=0), model={"weights": "other"}))
    moe = tiny("mixtral")  # experts in one tensor: no neurons
    with pytest.raises(UnknownSite, match="mlp_neurons"):
        steer2edit(moe, BATCHES, mlp=direction_at(moe, Site("mlp_output", layer=0)))
    assert same(model, weights)


# ---- CASAL


@functools.cache
def planted_order() -> tuple[torch.Tensor, torch.Tensor]:
    """(180, 5) token ids and their planted scores: 60 far below 0, 60 nearest to it, 60 far above."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, 59, (400, 5), generator=generator)
    site = Site("mlp_neurons", layer=1, tokens="last")
    neurons = sa.rows(steerable(tiny("llama")), [{"input_ids": ids}], site)["language.1.mlp_neurons"]
    scores = neurons @ torch.randn(neurons.shape[1], generator=generator)
    order = scores.abs().argsort(descending=True)  # by size: the ends of both signs are far from 0 ...
    far = order[scores[order] > 0][:60].tolist(), order[scores[order] < 0][:60].tolist()
    rest = [i for i in order.tolist() if i not in {*far[0], *far[1]}]
    middle = rest[-60:]  # ... and the last are nearest to it
    chosen = torch.tensor([*far[1], *middle, *far[0]])
    return ids[chosen], scores[chosen]


@functools.cache
def labelled() -> tuple[dict[str, list[Any]], Direction]:
    """Inputs whose neurons lie on one side or the other of a planted plane, with a margin."""
    ids, scores = planted_order()
    assert bool((scores[:60] < 0).all() and (scores[-60:] > 0).all())
    sides = {"positive": [{"input_ids": ids[-60:]}], "negative": [{"input_ids": ids[:60]}]}
    return sides, sa.find(tiny("llama"), "mean-difference", **sides, site=Site("block_output", layer=1, tokens="last"))


def fit(**options: Any) -> tuple[torch.nn.Module, RankOneEdits]:
    model = tiny("llama")
    sides, direction = labelled()
    return model, casal(model, direction, **sides, **{"held_out": 0.0, "ridge": 1e-2, **options})


def test_gradient_descent_reaches_the_closed_form() -> None:
    _, closed = fit()
    _, descended = fit(solver="gradient", settings=Settings(steps=500, patience=None))
    (a,), (b,) = closed.changes, descended.changes
    assert torch.nn.functional.cosine_similarity(a.output, b.output, dim=0).abs() >= 0.999
    assert descended.notes["second_singular_value"] <= 1e-3
    torch.testing.assert_close(
        torch.outer(b.output, b.row), torch.outer(a.output, a.row), atol=1e-3 * float(a.row.abs().max()), rtol=0
    )
    v = labelled()[1].vector("language.1.block_output").double()
    assert float(a.output @ v) >= 0.999


def test_the_change_pushes_each_side_its_own_way_and_touches_one_matrix() -> None:
    model, edits = fit(held_out=0.3)
    assert edits.notes["accuracy"] >= 0.9
    assert edits.notes["n_rows"] == 84
    weights = state(tiny("llama"))
    changed = [name for name, value in model.state_dict().items() if not torch.equal(value, weights[name])]
    assert changed == ["model.layers.1.mlp.down_proj.weight"]
    sides, direction = labelled()
    read = Site("block_output", layer=1, tokens="last")
    plain = tiny("llama")
    for word, sign in (("positive", 1), ("negative", -1)):
        shift = sa.rows(steerable(model), sides[word], read)["language.1.block_output"]
        shift = shift - sa.rows(steerable(plain), sides[word], read)["language.1.block_output"]
        along = shift @ direction.vector("language.1.block_output")
        assert float((along.sign() == sign).float().mean()) >= 0.9
        assert float((shift - along[:, None] * direction.vector("language.1.block_output")).abs().max()) <= 1e-4
    # the shift's sign is the ridge probe's: the same rows, the same number
    accuracy = {
        solver: fit(held_out=0.3, solver=solver, settings=Settings(steps=500, patience=None))[1].notes["accuracy"]
        for solver in ("ridge", "gradient")
    }
    assert abs(accuracy["ridge"] - accuracy["gradient"]) <= 0.01
    edits.unbake()
    assert same(model, weights)


def test_inputs_between_the_two_sides_are_hardly_moved_on_average() -> None:
    """Inputs that the fit never saw, from the middle of the planted order."""
    model, edits = fit()
    read = Site("block_output", layer=1, tokens="last")
    sides, direction = labelled()
    key = "language.1.block_output"

    def pushed(batches: list[Any]) -> float:
        moved, plain = (sa.rows(steerable(one), batches, read)[key] for one in (model, tiny("llama")))
        return float(((moved - plain) @ direction.vector(key)).mean()) / direction.statistics[key]["raw_norm"]

    assert edits.n_components == 1
    assert abs(pushed([{"input_ids": planted_order()[0][60:120]}])) <= 0.1
    assert pushed(sides["positive"]) > 0.5
    assert pushed(sides["negative"]) < -0.5


def test_an_interrupted_fit_goes_on_bit_for_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(Exception):
        pass

    settings = Settings(steps=150, patience=None, evaluate_every=25)
    whole = fit(solver="gradient", held_out=0.2, settings=settings)[1]
    losses: list[int] = []

    def counted(delta: torch.Tensor, push: torch.Tensor, rows: Any, loss: Any = _Data.loss) -> torch.Tensor:
        losses.append(1)
        if len(losses) == 60:
            raise Killed
        found: torch.Tensor = loss(delta, push, rows)
        return found

    with monkeypatch.context() as patched:
        patched.setattr(_Data, "loss", staticmethod(counted))
        with pytest.raises(Killed):
            fit(solver="gradient", held_out=0.2, settings=settings, folder=tmp_path)
    kept = json.loads((tmp_path / "training.json").read_text())
    assert kept["step"] == 50  # two evaluations of 25 steps; the sixtieth loss was within the third
    again = fit(solver="gradient", held_out=0.2, settings=settings, folder=tmp_path)[1]
    assert torch.equal(again.changes[0].row, whole.changes[0].row)
    with pytest.raises(RunMismatch, match="fit"):
        fit(solver="gradient", held_out=0.2, ridge=0.5, settings=settings, folder=tmp_path)


def test_descent_stops_early_when_held_out_rows_get_no_better() -> None:
    notes = fit(
        solver="gradient", held_out=0.3, ridge=1e-6, settings=Settings(steps=5000, evaluate_every=10, patience=2)
    )[1].notes
    assert notes["steps"] < 5000


def test_casal_refuses_what_it_cannot_train() -> None:
    sides, direction = labelled()
    model = tiny("llama")
    for options, message in (
        ({"solver": "adam"}, "solver 'adam' is unknown"),
        ({"ridge": 0.0}, "ridge > 0"),
        ({"held_out": 1.0}, "held_out < 1"),
    ):
        with pytest.raises(BadInput, match=message):
            casal(model, direction, **sides, **options)
    with pytest.raises(BadInput, match="trains one matrix"):
        casal(model, direction_at(model, Site("block_output", layer=(0, 1))), **sides)
