"""Values for Cap and Clamp from data: percentiles, natural factors, probabilities, and the names that directions carry them by."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from steering_parts import direction_at
from tiny_models import inputs, outputs, tiny

import steer_agents as sa
from policies.errors import BadInput, NonFinite
from policies.mlp import MLP, MLPConfig
from steer_agents.calibrate.natural_factor import natural_factor
from steer_agents.calibrate.percentile import percentile, projections
from steer_agents.calibrate.probability import displacement, probability
from steer_agents.direction import Direction
from steer_agents.interchanging import interchange
from steer_agents.sites import Site, steerable

ALL = Site("block_output", layer=(0, 1))


def batches(n: int = 6) -> list[Any]:
    return [inputs("llama", 8, seed=seed) for seed in range(n)]


def test_a_floor_at_the_25th_percentile_edits_a_quarter_of_the_tokens_and_leaves_the_others_bit_for_bit() -> None:
    model = tiny("llama")
    found = percentile(model, direction_at(model, ALL), batches(), q=25)
    one = found.direction.at(0)  # at one layer: an edit below would move what is above
    cap = sa.Cap(one, bound="p25")
    before = sa.rows(steerable(model), batches(), one.site)
    with sa.steer(model, cap):
        after = sa.rows(steerable(model), batches(), one.site)
    for key, v in one.vectors.items():
        tau = found.values[key]
        edited = (before[key] != after[key]).any(-1)
        assert abs(float(edited.float().mean()) - 0.25) <= 0.02
        assert torch.equal(edited, before[key] @ v[0] < tau)
        along = after[key] @ v[0]
        assert float(along.min()) == pytest.approx(tau, abs=1e-5)
        rest = [h - (h @ v[0])[:, None] * v[0] for h in (before[key], after[key])]
        torch.testing.assert_close(*rest, atol=1e-5, rtol=0)


def test_capping_two_layers_is_bit_identical_where_every_projection_is_above() -> None:
    model = tiny("llama")
    direction, batch = direction_at(model, ALL), inputs("llama")
    lowest = {key: float(along.min()) for key, along in projections(steerable(model), direction, [batch], ALL).items()}
    bound = min(lowest.values()) - 1
    with sa.steer(model, sa.Cap(direction, bound=bound)):
        assert torch.equal(outputs(model, batch), outputs(tiny("llama"), batch))


def test_a_turned_direction_turns_its_values_round() -> None:
    model = tiny("llama")
    direction = direction_at(model, ALL)
    turned = -percentile(model, direction, batches(), q=25).direction
    again = percentile(model, -direction, batches(), q=75)
    for key, value in again.values.items():
        assert turned.statistics[key]["p75"] == pytest.approx(value, abs=1e-5)
        assert "p25" not in turned.statistics[key]
        assert (2 * turned).statistics[key]["p75"] == turned.statistics[key]["p75"]  # a value of h . v with unit v


def test_names_live_in_the_file_and_unknown_ones_are_refused(tmp_path: Path) -> None:
    model = tiny("llama")
    found = percentile(model, direction_at(model, ALL), batches(), q=12.5)
    found.direction.save(tmp_path / "axis.safetensors")
    loaded = Direction.load(tmp_path / "axis.safetensors")
    (key, value), *_ = found.values.items()
    assert float(sa.Cap(loaded, bound="p12.5").tensors_at(key)[1]) == pytest.approx(value, rel=1e-6)
    with pytest.raises(BadInput, match=r"no value of its projection named 'p25'; did you mean 'p12.5'\?.*percentile"):
        sa.Cap(loaded, bound="p25").tensors_at(key)
    with pytest.raises(BadInput, match="named 'sd'"):  # a statistic, but no value of h . v
        sa.Clamp(loaded, value="sd").tensors_at(key)


@pytest.mark.parametrize("q", [0.0, 100.0, math.nan])
def test_percentiles_outside_of_0_to_100_are_refused(q: float) -> None:
    model = tiny("llama")
    with pytest.raises(BadInput, match="between 0 and 100"):
        percentile(model, direction_at(model, ALL), batches(), q=q)
    with pytest.raises(BadInput, match="one row"):
        percentile(model, direction_at(model, ALL, rows=2), batches())


def test_the_natural_factor_is_the_mean_of_the_sources_and_clamping_to_it_sets_every_projection() -> None:
    model = tiny("llama")
    direction = direction_at(model, Site("block_output", layer=1))
    found = natural_factor(model, direction, batches())
    (key, value), *_ = found.values.items()
    last = sa.rows(steerable(model), batches(), Site("block_output", layer=1, tokens="last"))[key]
    assert value == pytest.approx(float((last @ direction.vector(key)).mean()), abs=1e-5)
    with sa.steer(model, sa.Clamp(found.direction, value="natural")):
        h = sa.rows(steerable(model), [inputs("llama", seed=99)], Site("block_output", layer=1))[key]
    assert float((h @ direction.vector(key) - value).abs().max()) <= 1e-5


def test_held_out_scores_choose_the_multiple_and_ties_take_the_smallest() -> None:
    model = tiny("llama")
    direction = direction_at(model, Site("block_output", layer=1))
    plain = natural_factor(model, direction, batches())
    (key, value), *_ = plain.values.items()
    seen = []

    def score(candidate: Direction) -> float:
        m = candidate.statistics[key]["natural"] / value
        seen.append(m)
        return -abs(min(m, 4.0) - 4.0)

    found = natural_factor(model, direction, batches(), multiples=(8, 1, 2, 4, 6), score=score)
    assert found.notes["multiple"] == 4
    assert found.values[key] == pytest.approx(4 * value)
    assert seen == pytest.approx([1, 2, 4, 6, 8])
    with pytest.raises(BadInput, match="no score"):
        natural_factor(model, direction, batches(), multiples=(1, 2))
    with pytest.raises(NonFinite, match="must be a finite number"):
        natural_factor(model, direction, batches(), multiples=(1,), score=lambda one: math.nan)


def test_interchange_gives_the_sources_projection_and_with_itself_changes_nothing() -> None:
    model = tiny("llama")
    site, batch = Site("block_output", layer=1), inputs("llama", 1)
    direction, source = direction_at(model, site), inputs("llama", 1, seed=7)
    (key,) = direction.vectors
    read = Site("block_output", layer=1, tokens="last")
    wanted = float(sa.rows(steerable(model), [source], read)[key][0] @ direction.vector(key))
    before = sa.rows(steerable(model), [batch], site)[key]
    with sa.steer(model, interchange(model, direction, source)):
        after = sa.rows(steerable(model), [batch], site)[key]
    v = direction.vector(key)
    assert float((after @ v - wanted).abs().max()) <= 1e-5  # all tokens of the base
    torch.testing.assert_close(after - (after @ v)[:, None] * v, before - (before @ v)[:, None] * v, atol=1e-5, rtol=0)
    plain = outputs(model, batch)
    with sa.steer(model, interchange(model, direction, batch, site=read, strength=1.0)) as steering:
        assert steering is not None
        itself = sa.rows(steerable(model), [batch], read)[key]
    assert float((itself - sa.rows(steerable(model), [batch], read)[key]).abs().max()) <= 1e-6
    assert torch.equal(outputs(model, batch), plain)
    forth, back = (
        interchange(model, direction, one).tensors_at(key)[1] - interchange(model, direction, other).tensors_at(key)[1]
        for one, other in ((source, batch), (batch, source))
    )
    assert float(forth) == -float(back) != 0  # swapped roles, the other sign
    with pytest.raises(BadInput, match=r"one token of one input.*: 2"):
        interchange(model, direction, inputs("llama", 2))


# ---- probability


def planted_probe() -> tuple[MLP, Direction, dict[str, Any]]:
    """A probe whose weight norm is far from 1, and the data it was found on."""
    torch.manual_seed(0)
    model = MLP(MLPConfig(8, 2, (16, 16)))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(300, 8, generator=generator)
    sets = {"positive": [x[:150] + torch.eye(8)[0] * 3], "negative": [x[150:] - torch.eye(8)[0] * 3]}
    return model, sa.find(model, "probe", **sets, site=Site("block_output", layer=1)), sets


def said(direction: Direction, key: str, h: torch.Tensor) -> torch.Tensor:
    """The probe's probability."""
    fit = direction.info["fit"][key]
    return torch.sigmoid(fit["weight_norm"] * (h.double() @ direction.vector(key).double()) + fit["bias"])


@pytest.mark.parametrize(("wanted", "side"), [(0.99, "floor"), (0.05, "ceiling")])
def test_the_probability_is_reached_where_it_was_not_and_others_are_untouched(wanted: float, side: str) -> None:
    model, direction, sets = planted_probe()
    found = probability(direction, wanted, min_accuracy=0.8)
    (key,) = direction.vectors
    rows = torch.cat([*sets["positive"], *sets["negative"]])
    cap = sa.Cap(found.direction, bound=found.name, side=side)
    h = sa.rows(steerable(model), [rows], direction.site)[key]
    v, tau = direction.vector(key).double(), found.values[key]
    exact = cap.edit(h[None].double(), (v[None], torch.tensor(tau, dtype=torch.float64)), torch.ones(1, 1, 1))[0]
    past = said(direction, key, h) >= wanted if side == "floor" else said(direction, key, h) <= wanted
    assert 0 < int(past.sum()) < len(past)
    assert torch.equal(exact[past], h.double()[past])
    torch.testing.assert_close(
        said(direction, key, exact[~past]), torch.full((int((~past).sum()),), wanted).double(), atol=1e-6, rtol=0
    )
    fit = direction.info["fit"][key]
    logit = fit["weight_norm"] * float(h[0].double() @ v) + fit["bias"]
    assert displacement(logit, wanted, fit["weight_norm"]) == pytest.approx(tau - float(h[0].double() @ v), abs=1e-9)
    # the released script's level set: w normalised, b as it was
    wrong = math.log(wanted / (1 - wanted)) - fit["bias"]
    assert abs(float(torch.sigmoid(torch.tensor(fit["weight_norm"] * wrong + fit["bias"]))) - wanted) > 1e-4
    with sa.steer(model, cap):
        steered = sa.rows(steerable(model), [rows], direction.site)[key]
    torch.testing.assert_close(
        said(direction, key, steered[~past]), torch.full((int((~past).sum()),), wanted).double(), atol=1e-4, rtol=0
    )


def test_only_accurate_probes_are_used_and_what_is_no_probe_is_refused() -> None:
    model, direction, sets = planted_probe()
    (key,) = direction.vectors
    accuracy = direction.info["fit"][key]["cv_accuracy"]
    with pytest.raises(BadInput, match="no probe has a cross-validated accuracy of"):
        probability(direction, 0.9, min_accuracy=accuracy + 0.001)
    with pytest.raises(BadInput, match="between 0 and 1"):
        probability(direction, 1.0)
    with pytest.raises(BadInput, match="turned or scaled"):
        probability(-direction, 0.9)
    with pytest.raises(BadInput, match="has no bias and weight_norm"):
        probability(sa.find(model, "mean-difference", **sets, site=direction.site), 0.9)
    noise = {name: [torch.randn(60, 8)] for name in ("positive", "negative")}
    both = sa.find(model, "probe", **noise, site=Site("block_output", layer=(0, 1)))
    fits = {
        name: {**both.info["fit"][name], "cv_accuracy": value}
        for name, value in zip(both.vectors, (0.95, 0.5), strict=True)
    }
    from dataclasses import replace

    kept = probability(replace(both, info={**both.info, "fit": fits}), 0.99)
    assert list(kept.values) == ["policy.0.block_output"]
    assert kept.direction.site.layer == (0,)


def test_a_recipe_names_the_value(tmp_path: Path) -> None:
    from steer_agents import recipe

    model = tiny("llama")
    percentile(model, direction_at(model, ALL), batches()).direction.save(tmp_path / "axis.safetensors")
    text = "recipe: 1\nparts:\n  - cap: axis.safetensors\n    strength: 1.0\n    side: floor\n    bound: {}\n"
    (tmp_path / "good.yaml").write_text(text.format("p25"))
    part = recipe.load(tmp_path / "good.yaml").parts[0].part
    assert part.bound == "p25"
    (tmp_path / "number.yaml").write_text(text.format("-0.5"))
    assert recipe.load(tmp_path / "number.yaml").parts[0].part.bound == -0.5
    (tmp_path / "nan.yaml").write_text(text.format("nan"))
    with pytest.raises(NonFinite):
        recipe.load(tmp_path / "nan.yaml")
    assert np.isfinite(float(part.tensors_at("language.0.block_output")[1]))
