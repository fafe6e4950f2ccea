"""Directions from own rollouts: planted in what a policy reads, so that the answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scene_parts import KEY, SITE, D, Seen, scene, unit, vla, vla_scenes

import steer_agents as sa
from policies.errors import BadInput, NonFinite
from policies.mlp import MLP, MLPConfig
from steer_agents.finding.behaviour import contrast_weights, extremes
from steer_agents.fingerprint import model_fingerprint
from steer_agents.sites import steerable

FAST = unit(1, -2, 0.5, 0, 1, 0, -1, 2)
TASK = torch.nn.functional.normalize(torch.eye(D)[3] - (torch.eye(D)[3] @ FAST) * FAST, dim=0)


def rollouts(n: int = 240, seed: int = 0) -> dict[str, Any]:
    """Scenes x = value * FAST + 5 task * TASK + noise; task 1 is the faster one, so that values alone find the task."""
    rng = np.random.default_rng(seed)
    task = rng.integers(0, 2, n)
    values = rng.normal(size=n) + 2 * task
    noise = torch.from_numpy(rng.normal(size=(n, D)) * 0.3).float()
    x = torch.from_numpy(values).float()[:, None] * FAST + 5 * torch.from_numpy(task)[:, None] * TASK + noise
    return {"scenes": [scene(row) for row in x], "values": values, "groups": task}


def behaviour(**options: Any) -> sa.Direction:
    return sa.find(Seen(), "behaviour-contrast", **{"site": SITE, **options})


def test_within_groups_the_quantity_is_found_and_without_them_the_task() -> None:
    data = rollouts()
    found = behaviour(**data)
    assert float(found.vector(KEY) @ FAST) > 0.99
    mixed = behaviour(**{**data, "groups": None})
    assert float(mixed.vector(KEY) @ TASK) > 0.7
    assert float(behaviour(**{**data, "values": -data["values"]}).vector(KEY) @ FAST) < -0.99


def test_it_is_the_difference_of_the_outer_shares_averaged_over_groups() -> None:
    data = rollouts(41)
    found, x = behaviour(**data), torch.stack([torch.from_numpy(one["x"]) for one in data["scenes"]])
    differences = []
    for task in (0, 1):
        own = data["groups"] == task
        low, high = np.quantile(data["values"][own], [0.25, 0.75])
        plus, minus = own & (data["values"] >= high), own & (data["values"] <= low)
        differences.append(x[torch.from_numpy(plus)].mean(0) - x[torch.from_numpy(minus)].mean(0))
    expected = torch.stack(differences).mean(0)
    torch.testing.assert_close(found.vector(KEY) * found.statistic(KEY, "raw_norm"), expected)
    assert found.info["n_groups"] == 2
    assert found.info["n_high"] + found.info["n_low"] < 41
    assert found.info["mean_high"] > found.info["mean_low"]


def test_the_artifact_knows_its_model_its_data_and_the_scale_of_activations() -> None:
    data = rollouts()
    found = behaviour(**data)
    assert found.model == model_fingerprint(steerable(Seen()))
    assert found.info["fit"][KEY]["half_cosine"] > 0.98
    used = torch.stack([torch.from_numpy(one["x"]) for one in data["scenes"]])
    labels = extremes(data["values"], list(data["groups"]), 0.25)
    used = used[torch.from_numpy(labels != 0)]
    assert found.statistic(KEY, "mean_norm") == pytest.approx(float(used.norm(dim=1).mean()), rel=1e-5)
    assert found.statistic(KEY, "sd") == pytest.approx(float((used @ found.vector(KEY)).std()), rel=1e-4)
    assert behaviour(**data).info["data"] == found.info["data"]
    assert behaviour(**rollouts(seed=1)).info["data"] != found.info["data"]
    noise = behaviour(**{**data, "values": np.random.default_rng(9).normal(size=240)})
    assert abs(noise.info["fit"][KEY]["half_cosine"]) < 0.9


def test_batches_do_not_matter_and_a_tokens_scope_is_a_mean_per_scene() -> None:
    policy, scenes, values = vla(), vla_scenes(8), [3, 1, 2, 9, 8, 7, 5, 4]
    one, two = (
        sa.find(policy, "behaviour-contrast", scenes=scenes, values=values, batch_size=size) for size in (3, 64)
    )
    assert one.site.tokens == sa.token_class("action")
    blocks: list[torch.Tensor] = []
    handle = policy.network.layers[1].register_forward_hook(lambda *call: blocks.append(call[2].detach()))
    for row in scenes:
        (batch,) = policy.encode([row])
        with torch.no_grad():
            policy.module(**batch)
    handle.remove()
    h = torch.stack([block[0, -4:].mean(0) for block in blocks])
    expected = h[[3, 4]].mean(0) - h[[1, 2]].mean(0)  # 9 and 8 against 1 and 2
    key = "language.1.block_output"
    torch.testing.assert_close(one.vector(key) * one.statistic(key, "raw_norm"), expected, atol=1e-5, rtol=1e-4)
    for name, vector in one.vectors.items():
        torch.testing.assert_close(vector, two.vectors[name], atol=1e-5, rtol=1e-4)


# ---- the weights, as formulas


@given(st.integers(2, 40), st.integers(0, 10**6))
def test_weights_sum_to_one_on_either_side_and_cancel_any_offset_of_a_group(n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels, groups, units = rng.integers(-1, 2, n), rng.integers(0, 3, n).tolist(), rng.integers(0, 5, n).tolist()
    weights = contrast_weights(labels, groups, units)
    if not weights.any():
        assert not any({1, -1} <= {labels[i] for i in range(n) if groups[i] == g} for g in groups)
        return
    assert weights[weights > 0].sum() == pytest.approx(1)
    assert weights[weights < 0].sum() == pytest.approx(-1)
    assert (np.sign(weights) * labels >= 0).all()
    offset = rng.normal(size=3)[groups]
    assert weights @ offset == pytest.approx(0, abs=1e-12)


def test_an_episode_with_more_scenes_does_not_count_more() -> None:
    labels, units = np.array([1, 1, 1, 1, -1]), ["long", "long", "long", "short", "failed"]
    np.testing.assert_allclose(contrast_weights(labels, [0] * 5, units), [1 / 6, 1 / 6, 1 / 6, 1 / 2, -1])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=30), st.floats(0.01, 0.49))
def test_every_top_value_is_above_every_bottom_value(values: list[float], quantile: float) -> None:
    labels = extremes(np.array(values), [0] * len(values), quantile)
    top, bottom = np.array(values)[labels > 0], np.array(values)[labels < 0]
    if len(top) or len(bottom):
        assert top.min() > bottom.max()
        assert len(top) < len(values)


def test_rare_events_make_a_contrast_and_constants_none() -> None:
    assert extremes(np.array([0, 0, 0, 0, 0, 1.0]), [0] * 6, 0.25).tolist() == [0] * 6  # too rare for a quarter
    assert extremes(np.array([0, 0, 0, 1.0]), [0] * 4, 0.25).tolist() == [-1, -1, -1, 1]
    assert extremes(np.array([1.0, 2.0, 5.0, 5.0]), ["a", "a", "b", "b"], 0.25).tolist() == [-1, 1, 0, 0]


# ---- success against failure


def outcomes(n: int = 40, seed: int = 0) -> dict[str, Any]:
    """Episodes of 1 to 9 scenes; those that succeed lie along FAST. Long ones have an offset of their own."""
    rng = np.random.default_rng(seed)
    rows: dict[str, list[Any]] = {"scenes": [], "success": [], "episodes": []}
    for episode in range(n):
        good = bool(rng.integers(2))
        for _ in range(rng.integers(1, 10)):
            noise = torch.from_numpy(rng.normal(size=D) * 0.2).float()
            rows["scenes"].append(scene((2.0 if good else 0.0) * FAST + noise))
            rows["success"].append(float(good))
            rows["episodes"].append(episode)
    return rows


def success(**options: Any) -> sa.Direction:
    return sa.find(Seen(), "success-contrast", **{"site": SITE, **options})


def test_success_points_from_failed_to_succeeded_episodes() -> None:
    data = outcomes()
    found = success(**data)
    assert float(found.vector(KEY) @ FAST) > 0.99
    assert found.method == "success-contrast"
    assert found.info["n_succeeded"] + found.info["n_failed"] == 40
    assert found.info["fit"][KEY]["half_cosine"] > 0.98
    assert found.statistic(KEY, "raw_norm") == pytest.approx(2.0, abs=0.1)


def test_one_very_long_episode_does_not_rule_the_direction() -> None:
    data = outcomes()
    long = [scene(50 * TASK + 2 * FAST)] * 300
    for name, entries in (("scenes", long), ("success", [1.0] * 300), ("episodes", [99] * 300)):
        data[name] = [*data[name], *entries]
    found = success(**data)
    n_good = found.info["n_succeeded"]
    assert float(found.vector(KEY) @ TASK) * found.statistic(KEY, "raw_norm") == pytest.approx(50 / n_good, abs=0.3)


def test_success_within_tasks_does_not_find_the_easier_task() -> None:
    data = outcomes()
    tasks = [
        int(flag) if episode % 4 else 1 - int(flag)
        for flag, episode in zip(data["success"], data["episodes"], strict=True)
    ]
    data["scenes"] = [
        scene(torch.from_numpy(one["x"]) + 9 * task * TASK) for one, task in zip(data["scenes"], tasks, strict=True)
    ]
    assert float(success(**data).vector(KEY) @ TASK) > 0.5
    found = success(**data, groups=tasks)
    assert float(found.vector(KEY) @ FAST) > 0.99
    assert found.info["n_groups"] == 2


# ---- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scenes": [], "values": []}, BadInput, "got no scenes; record some with"),
        ({"values": [1.0, 2.0]}, BadInput, r"values: expected 4 entries, one per scene, got shape \(2,\)"),
        ({"values": [1, 2, np.inf, 4]}, NonFinite, r"1 of 4 values are NaN or infinite, first at scene 2 \(inf\)"),
        ({"values": [1, 1, 1, 1]}, BadInput, r"no group has high and low values apart; 1 group\(s\) of 4 to 4"),
        ({"groups": [0, 1, 2, 3]}, BadInput, r"4 group\(s\) of 1 to 1 scenes"),
        ({"groups": [0]}, BadInput, "groups: expected 4 entries"),
        ({"episodes": [0]}, BadInput, "episodes: expected 4 entries"),
        ({"quantile": 0.5}, BadInput, r"quantile=0.5, allowed is the open interval \(0, 0.5\)"),
        ({"batch_size": 0}, BadInput, "batch_size=0"),
    ],
)
def test_values_without_an_answer_are_refused(options: dict[str, Any], error: type[Exception], message: str) -> None:
    good = {"scenes": [scene(torch.randn(D)) for _ in range(4)], "values": [1.0, 2.0, 3.0, 4.0]}
    with pytest.raises(error, match=message):
        behaviour(**{**good, **options})


def test_outcomes_without_an_answer_are_refused() -> None:
    scenes = [scene(torch.randn(D)) for _ in range(4)]
    for outcome, episodes, message in (
        (
            [1, 1, 1, 1],
            [0, 1, 2, 3],
            r"needs episodes of both outcomes in one group; got 4 succeeded and 0 failed in 1 group",
        ),
        ([1, 0, 1, 0], [0, 0, 1, 1], "scenes of episode 0 have different outcomes"),
        ([1, 0, None, 0], [0, 1, 2, 3], "the success of scene 2 is nan, allowed are 0 and 1"),
        ([1, 0], [0, 1, 2, 3], "success: expected 4 entries"),
        ([1, 0, 1, 0], [0, 1], "episodes: expected 4 entries"),
    ):
        with pytest.raises(BadInput, match=message):
            success(scenes=scenes, success=outcome, episodes=episodes)
    with pytest.raises(BadInput, match="both outcomes in one group"):
        success(scenes=scenes, success=[1, 1, 0, 0], episodes=[0, 1, 2, 3], groups=["easy", "easy", "hard", "hard"])
    with pytest.raises(BadInput, match="bare torch module"):
        sa.find(
            MLP(MLPConfig(D, 2, (4,))), "success-contrast", scenes=scenes, success=[1, 0, 1, 0], episodes=[0, 1, 2, 3]
        )
