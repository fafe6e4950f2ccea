"""Depth: counts by hand, and two policies of equal return of which one was taught a concept in few contexts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import roc_auc_score

from policies.errors import BadInput
from steer_agents.evaluation.judging.depth import Counts, Depth, consistency, counts, depth, votes


def test_counts_by_hand() -> None:
    base = np.array([-1, -1, -1, -1, 1, 1, 0])
    found = counts(base, np.array([1, 1, 0, -1, 1, 1, 1]), np.array([-1, -1, -1, -1, -1, 0, 0]), 2.0)
    assert found == Counts(2.0, 0.5, 0.5, 3 / 14, 4, 2)
    assert found.both == pytest.approx(0.5 * (1 - 3 / 14))


def test_what_becomes_null_is_no_flip_and_one_side_alone_is_no_steerability() -> None:
    base = np.array([-1] * 5 + [1] * 5)
    broken = counts(base, np.zeros(10, int), np.zeros(10, int), 1.0)
    assert (broken.flip_up, broken.flip_down, broken.null, broken.both) == (0.0, 0.0, 1.0, 0.0)
    one_way = counts(base, np.ones(10, int), base, 1.0)
    assert (one_way.flip_up, one_way.both) == (1.0, 0.0)


def test_the_area_by_hand() -> None:
    found = Depth((Counts(1.0, 0.5, 0.5, 0.0, 5, 5), Counts(3.0, 1.0, 1.0, 0.0, 5, 5)), n_features=7)
    assert found.steerability == pytest.approx((0.25 + 1.5) / 3)
    assert found.depth == pytest.approx(np.log(8) * found.steerability)
    assert Depth(found.curve).depth is None
    assert consistency(np.ones(6)) == 1.0
    assert consistency(np.array([0, 1, 0, 1])) == 0.0


def test_what_makes_no_depth_says_why() -> None:
    with pytest.raises(BadInput, match="null"):
        counts(np.array([2]), np.array([1]), np.array([1]), 1.0)
    with pytest.raises(BadInput, match="one length"):
        counts(np.array([1, 1]), np.array([1]), np.array([1]), 1.0)
    with pytest.raises(BadInput, match="rise"):
        Depth(())
    with pytest.raises(BadInput, match="no 'pace'"):
        votes(pd.DataFrame({"speed": [1.0]}), "pace")


def test_errored_and_failed_episodes_are_null() -> None:
    table = pd.DataFrame(
        {"speed": [2.0, 0.0, 2.0, 2.0, np.nan], "errored": [0, 0, 1, 0, 0], "success": [1, 1, 1, 0, 1]}
    )
    assert votes(table, "speed", 1.0).tolist() == [1, -1, 0, 0, 0]


class Taught:
    """A policy on 16 contexts with a concept that turns its answer round, trained on some of the contexts.

    Three outputs: -1, +1, and an action that is none (null), which is right for 4 inputs that neither policy is tested on.
    Without the concept both policies do their task equally well; steering adds the concept's mean difference to the hidden layer.
    """

    CONTEXTS, WIDTH = 16, 64

    def __init__(self, seed: int, n_taught: int) -> None:
        draw = torch.Generator().manual_seed(seed)
        c, w = self.CONTEXTS, self.WIDTH
        self.sides = torch.tensor([1, -1] * (c // 2))
        self.weights = [
            (torch.randn(*shape, generator=draw) * shape[0] ** -0.5).requires_grad_()
            for shape in ((c + 5, w), (w, w), (w, 3))
        ]
        taught = torch.arange(n_taught)
        x = torch.cat(
            [self.inputs(torch.arange(c), 0.0), self.inputs(taught, 1.0), self.inputs(taught, -1.0), self.void()]
        )
        wanted = torch.cat([self.sides, torch.ones(n_taught), -torch.ones(n_taught), torch.zeros(4)]).long() + 1
        optimiser = torch.optim.Adam(self.weights, lr=0.02)
        for _ in range(100):
            h = self.hidden(x)
            loss = torch.nn.functional.cross_entropy(self.outputs(h), wanted) + 3e-3 * h.sum(1).mean()  # few features
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        with torch.no_grad():
            neutral = self.hidden(self.inputs(torch.arange(c), 0.0))
            assert ((self.outputs(neutral).argmax(1) - 1) == self.sides).all()  # equal return on the task
            up, down = (self.hidden(self.inputs(taught, sign)) for sign in (1.0, -1.0))
            self.vector = (up - down).mean(0) / 2
            self.ablated = torch.zeros(0, dtype=torch.long)
            every = [self.hidden(self.inputs(torch.arange(c), sign)) for sign in (1.0, -1.0)]
            labels = np.r_[np.ones(c), np.zeros(c)]
            power = np.array([abs(roc_auc_score(labels, torch.cat(every)[:, i]) - 0.5) for i in range(w)])
            self.features = np.flatnonzero(power >= 0.45)

    def inputs(self, contexts: torch.Tensor, concept: float) -> torch.Tensor:
        rows = torch.nn.functional.one_hot(contexts, self.CONTEXTS).float()
        return torch.cat([rows, torch.full((len(rows), 1), concept), torch.zeros(len(rows), 4)], dim=1)

    def void(self) -> torch.Tensor:
        return torch.cat([torch.zeros(4, self.CONTEXTS + 1), torch.eye(4)], dim=1)

    def hidden(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(torch.relu(x @ self.weights[0]) @ self.weights[1])

    def outputs(self, h: torch.Tensor) -> torch.Tensor:
        return h @ self.weights[2]

    def __call__(self, strength: float, seeds: Sequence[int]) -> pd.DataFrame:
        with torch.no_grad():
            push = strength * self.vector
            push[self.ablated] = 0
            h = self.hidden(self.inputs(torch.tensor(list(seeds)), 0.0)) + push
            answer = self.outputs(h).argmax(1) - 1
        return pd.DataFrame({"seed": list(seeds), "side": answer.numpy(), "errored": False})

    def measured(self) -> Depth:
        return depth(self, [0.5, 1.0, 1.5, 2.0], range(self.CONTEXTS), "side", n_features=len(self.features))


def test_a_concept_taught_in_many_contexts_is_deeper_and_hangs_on_its_features() -> None:
    """Five seeds: deeper every time; the features that carry 80 % of the attribution halve it, as many others do not."""
    kept_targeted, kept_random = [], []
    for seed in range(5):
        rich, thin = Taught(seed, 16), Taught(seed, 2)
        a, b = rich.measured(), thin.measured()
        assert a.depth > b.depth  # type: ignore[operator]
        gap = rich.weights[2][:, 2] - rich.weights[2][:, 0]
        order = (rich.vector * gap).abs().argsort(descending=True)
        shares = (rich.vector * gap).abs()[order].cumsum(0) / (rich.vector * gap).abs().sum()
        k = int((shares < 0.8).sum()) + 1
        assert k <= rich.WIDTH // 5
        assert any(there.null >= here.null for there, here in zip(b.curve, a.curve, strict=True))
        rich.ablated = order[:k]
        kept_targeted.append(rich.measured().steerability / a.steerability)
        losses = []
        for draw in range(20):
            others = torch.randperm(rich.WIDTH - k, generator=torch.Generator().manual_seed(draw))[:k] + k
            rich.ablated = order[others]
            losses.append(rich.measured().steerability / a.steerability)
        kept_random.append(np.mean(losses))
    assert max(kept_targeted) <= 0.5
    assert min(kept_random) > 0.85
