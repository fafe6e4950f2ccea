"""Banks: planted clusters are found, inputs are sent to their own, and a router that learns on never forgets what it knew."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

import steer_agents as sa
from policies.errors import BadArtifact, BadInput, NonFinite, WrongModel, WrongWidth
from policies.mlp import MLP, MLPConfig
from steer_agents import artifacts
from steer_agents.finding.clusters import Refinement, learn_bank, refine
from steer_agents.methods import method
from steer_agents.recipe import parse
from steer_agents.routed import Bank, Routed, Stage
from steer_agents.sites import Site

D, K, KEY, SITE = 64, 3, "policy.0.mlp_neurons", Site("mlp_neurons", layer=0)
PLANTED = torch.linalg.qr(torch.randn(D, K, generator=torch.Generator().manual_seed(11)))[0].T * 4
TOPIC = torch.randn(K, D, generator=torch.Generator().manual_seed(12)) * 0.5
"""What an input without the target shows of its cluster."""


def network() -> MLP:
    torch.manual_seed(0)
    model = MLP(MLPConfig(D, K, (K,)))
    with torch.no_grad():
        next(m for m in model.modules() if isinstance(m, torch.nn.Linear)).weight.copy_(PLANTED / 4)
    return model


MODEL = network()


def pairs(n: int = 300, seed: int = 0) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """n pairs in three clusters: three directions of norm 4, noise 0.5, D = 64, the sheet's numbers."""
    g = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (n,), generator=g)
    h = torch.randn(n, D, generator=g) + TOPIC[labels] + 3
    plus = h + PLANTED[labels] + 0.5 * torch.randn(n, D, generator=g)
    return list(plus.split(50)), list(h.split(50)), labels


@pytest.fixture(scope="module")
def bank() -> Bank:
    plus, minus, _ = pairs()
    return learn_bank(MODEL, positive=plus, negative=minus, n_directions=K, site=SITE)  # type: ignore[arg-type]


def order(bank: Bank) -> list[int]:
    """Number of the planted direction of each of the bank's."""
    found = torch.stack([bank.direction(k).vector(KEY) for k in range(len(bank))])
    assert (found @ (PLANTED / 4).T).max(1).values.min() > 0.95
    return (found @ PLANTED.T).argmax(1).tolist()


def test_planted_clusters_are_found_and_the_router_knows_them(bank: Bank) -> None:
    assert method("g-act", "learn").load() is learn_bank
    assert sorted(order(bank)) == [0, 1, 2]
    fit = bank.info["fit"][KEY]
    between, within = 16 * 2 / 3, 64 * 0.5**2
    assert fit["share"] == pytest.approx(between / (between + within), abs=0.05)
    assert fit["accuracy"] >= 0.9
    assert fit["chance"] < 0.5
    _, fresh, labels = pairs(seed=1)
    stage = bank.stages[KEY]
    chosen = torch.tensor(order(bank))[stage.choose(torch.cat(fresh))]
    assert float((chosen == labels).float().mean()) >= 0.9
    unfolded = Stage(stage.centres, stage.weights, torch.zeros(K))  # the trap: the bias of standardised activations
    wrong = torch.tensor(order(bank))[unfolded.choose(torch.cat(fresh))]
    assert float((wrong == labels).float().mean()) < 0.9


def test_routed_steering_beats_the_mean_vector_in_every_cluster(bank: Bank) -> None:
    plus, minus, _ = pairs()
    mean = sa.find(MODEL, "mean-difference", positive=plus, negative=minus, site=SITE)
    from steering_parts import absolute

    length = float(bank.stages[KEY].centres.norm(dim=1).mean())
    _, fresh, labels = pairs(seed=1)
    x = torch.cat(fresh)

    def gain(part: object) -> torch.Tensor:
        """Per cluster the change of its own readout before the activation function, at equal push."""
        with sa.steer(MODEL, part), torch.no_grad():  # type: ignore[arg-type]
            steered = sa.rows(sa.steerable(MODEL), [x], SITE)[KEY]
        own = ((steered - x) @ (PLANTED / 4).T)[torch.arange(len(x)), labels]
        return torch.stack([own[labels == k].mean() for k in range(K)])

    routed, plain = gain(Routed(bank)), gain(sa.Add(mean, strength=absolute(length)))
    assert (routed > plain + 0.5).all()
    assert routed.min() > 3
    soft = gain(Routed(bank, soft=True))
    assert (soft > plain).all()


def test_the_router_sees_what_came_in_and_not_what_was_added() -> None:
    # two directions; adding the first carries the activation into the region of the second
    stage = Stage(torch.tensor([[4.0, 0.0], [0.0, 4.0]]), torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), torch.zeros(2))
    part = Routed(Bank({"s.0.block_output": stage}, Site(layer=0)))
    h = torch.tensor([[[-1.0, 0.0]]])
    edited = part.edit(h, part.tensors_at("s.0.block_output"), torch.ones(1, 1, 1))
    assert edited.tolist() == [[[3.0, 0.0]]]


def test_refinement_learns_from_new_inputs_and_never_gets_worse(bank: Bank, tmp_path: Path) -> None:
    poor = Bank(
        {KEY: Stage(bank.stages[KEY].centres, torch.zeros(K, D), torch.zeros(K))}, bank.site, bank.model, bank.info
    )
    first, second = pairs(seed=2), pairs(seed=3)
    better = refine(MODEL, poor, positive=first[0], negative=first[1])  # type: ignore[arg-type]
    told = better.info["refined"][KEY]
    assert told["accuracy_after"] > told["accuracy_before"] + 0.3
    _, fresh, labels = pairs(seed=4)

    def accuracy(one: Bank) -> float:
        chosen = torch.tensor(order(one))[one.stages[KEY].choose(torch.cat(fresh))]
        return float((chosen == labels).float().mean())

    assert accuracy(better) >= 0.9
    assert accuracy(refine(MODEL, bank, positive=first[0], negative=first[1])) >= accuracy(bank) - 0.01  # type: ignore[arg-type]
    # killed between two rounds and loaded again: the same bank, bit for bit
    again = Bank.load(better.save(tmp_path / "bank.safetensors"))
    ends = [refine(MODEL, one, positive=second[0], negative=second[1]).stages[KEY] for one in (better, again)]  # type: ignore[arg-type]
    assert torch.equal(ends[0].weights, ends[1].weights)
    assert torch.equal(ends[0].bias, ends[1].bias)


def test_a_bank_is_a_file_and_a_word_of_recipes(bank: Bank, tmp_path: Path) -> None:
    bank.save(tmp_path / "bank.safetensors")
    text = "recipe: 1\npolicy: flow-medium\nparts:\n  - {routed: bank.safetensors, strength: 0.5, soft: true}\n"
    part = parse(text, tmp_path).parts[0].part
    assert isinstance(part, Routed)
    assert part.soft
    with sa.steer(MODEL, part), torch.no_grad():
        MODEL(torch.zeros(2, D))
        assert part.describe()["bank"] == Routed(bank).describe()["bank"]
    with pytest.raises(WrongModel):
        sa.steer(MLP(MLPConfig(D, K, (K + 1,))), part)
    artifacts.save(bank.direction(1), tmp_path / "one.safetensors")
    with pytest.raises(BadArtifact, match="expected 'bank'"):
        Bank.load(tmp_path / "one.safetensors")
    with pytest.raises(BadInput, match=r"written to a \.safetensors file"):
        bank.save(tmp_path / "bank.pt")


def test_what_is_no_bank_is_refused(bank: Bank) -> None:
    plus, minus, _ = pairs(20)
    with pytest.raises(BadInput, match="n_directions=21, allowed are 1 to 20"):
        learn_bank(MODEL, positive=plus, negative=minus, n_directions=21, site=SITE)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="needs pairs, got 20 positive and 300"):
        learn_bank(MODEL, positive=plus, negative=pairs()[1], site=SITE)  # type: ignore[arg-type]
    with pytest.raises(BadInput, match="direction 3 does not exist"):
        bank.direction(3)
    with pytest.raises(BadInput, match="needs a Bank"):
        Routed(bank.direction(0))  # type: ignore[arg-type]
    with pytest.raises(WrongWidth, match="weights \\(K, D\\)"):
        Stage(torch.zeros(2, 3), torch.zeros(2, 4), torch.zeros(2))
    with pytest.raises(NonFinite):
        Stage(torch.zeros(2, 3), torch.zeros(2, 3), torch.full((2,), float("nan")))
    with pytest.raises(BadInput, match="refinement"):
        Refinement(held_out=1)
    with pytest.raises(BadInput, match="needs at least 8"):
        refine(MODEL, bank, positive=plus[0][:4].split(1), negative=minus[0][:4].split(1))  # type: ignore[arg-type]
