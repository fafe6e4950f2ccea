"""EAST on action tokens: planted in what a policy reads, equal to the formula on prompts, and on the policies that say tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from scene_parts import KEY, SITE, D, Seen, scene, unit, vla, vla_scenes

import steer_agents as sa
from policies.errors import BadInput, NonFinite
from steer_agents.finding.action_entropy import entropy_weights
from steer_agents.finding.entropy import entropy_vector
from steer_agents.tokens import token_class

UNSURE = unit(1, -2, 0.5, 0, 1, 0, -1, 2)
RUN = torch.nn.functional.normalize(torch.eye(D)[3] - (torch.eye(D)[3] @ UNSURE) * UNSURE, dim=0)


class Unsure(Seen):
    """Two tokens, whose entropies are 3 bits and 3 bits + 2 x along UNSURE."""

    def token_entropy(self, batch: Mapping[str, Any]) -> torch.Tensor:
        along = batch["x"] @ UNSURE
        return torch.stack([3 + 0 * along, 3 + 2 * along], dim=1)


def rollouts(n_runs: int = 8, n: int = 20, seed: int = 0) -> dict[str, Any]:
    """x = e UNSURE + 5 r RUN + noise, and unsure runs have a high r: without centring per run that is what is found."""
    rng = np.random.default_rng(seed)
    runs = np.repeat(np.arange(n_runs), n)
    e = rng.normal(size=runs.size) * 0.3 + runs / n_runs - 0.5
    x = torch.from_numpy(e).float()[:, None] * UNSURE + 5 * torch.from_numpy(runs / n_runs).float()[:, None] * RUN
    x = x + torch.from_numpy(rng.normal(size=(runs.size, D)) * 0.1).float()
    return {"scenes": [scene(row) for row in x], "runs": runs}


def found(**options: Any) -> sa.Direction:
    return sa.find(Unsure(), "action-entropy", **{"site": SITE, **rollouts(), **options})


def test_within_runs_the_planted_direction_is_found_and_without_them_the_run() -> None:
    direction = found()
    assert float(direction.vector(KEY) @ UNSURE) > 0.95
    assert direction.info["fit"][KEY]["half_cosine"] > 0.9
    assert direction.info["n_runs"] == 8
    mixed = found(runs=np.zeros(160))
    assert float(mixed.vector(KEY) @ RUN) > 0.7


def test_it_is_the_papers_formula() -> None:
    data = rollouts()
    x = torch.stack([torch.from_numpy(one["x"]) for one in data["scenes"]])
    h = 3 + x @ UNSURE
    expected = entropy_vector(x.reshape(8, 20, D), h.reshape(8, 20))
    direction = found()
    actual = direction.vector(KEY).double() * direction.statistic(KEY, "raw_norm")
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-5)


def test_shuffled_entropies_lose_it() -> None:
    whole = found().statistic(KEY, "raw_norm")
    shuffled = [found(weights="shuffled", seed=seed) for seed in range(5)]
    assert max(one.statistic(KEY, "raw_norm") for one in shuffled) < whole / 2
    assert shuffled[0].method == "action-entropy (shuffled weights)"


def test_weights_sum_to_nothing_within_each_run() -> None:
    weights = entropy_weights(np.array([1.0, 3.0, 2.0, 5.0]), ["a", "a", "b", "c"])
    np.testing.assert_allclose(weights, [-1 / 11, 1 / 11, 0, 0])


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"runs": [0] * 3}, BadInput, "got 3 runs for 160 scenes"),
        ({"runs": list(range(160))}, BadInput, "do not vary within any of 160 run"),
        ({"weights": "uniform"}, BadInput, "weights 'uniform' is unknown"),
        ({"scenes": [scene(torch.full((D,), float("nan")))] * 160}, NonFinite, "the entropy of scene 0"),
    ],
)  # fmt: skip
def test_what_has_no_answer_is_refused(options: dict[str, Any], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        found(**options)


def test_a_policy_without_action_tokens_is_refused() -> None:
    with pytest.raises(BadInput, match="seen says no action tokens"):
        sa.find(Seen(), "action-entropy", site=SITE, **rollouts())


def test_on_a_vla_the_entropy_is_that_of_its_own_tokens_and_the_direction_moves_it() -> None:
    policy, scenes = vla(), vla_scenes(12)
    (batch,) = policy.encode(scenes)
    with torch.no_grad():
        p = policy.module.action_logits(policy.module(**batch).logits).double().softmax(-1)
    expected = -(p * p.log2()).sum(-1).flatten(1)
    torch.testing.assert_close(policy.token_entropy(batch).double(), expected, atol=1e-4, rtol=1e-4)
    site = sa.Site(layer=0, tokens=token_class("action"))
    direction = sa.find(policy, "action-entropy", scenes=scenes, runs=[i // 6 for i in range(12)], site=site)

    def mean(strength: float) -> float:
        with sa.steer(policy, sa.Add(direction, strength=strength)):
            return float(policy.token_entropy(policy.encode(scenes)[0]).mean())

    assert mean(0.0) == float(policy.token_entropy(policy.encode(scenes)[0]).mean())
    assert mean(1.0) != mean(0.0)
