from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch

from policies.errors import BadInput, RunMismatch
from steer_agents.learning.trainer import Settings
from steer_agents.sae import training
from steer_agents.sae.model import report
from steer_agents.sae.training import Plan, train_on_rows, train_sae
from steer_agents.sites import Site, steerable

SITE = Site(layer=1)


def planted(n: int = 4000, n_atoms: int = 24, width: int = 24, active: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that are sums of a few of some known unit atoms, and the atoms."""
    generator = torch.Generator().manual_seed(5)
    atoms = torch.randn(n_atoms, width, generator=generator)
    atoms = atoms / atoms.norm(dim=1, keepdim=True)
    code = torch.zeros(n, n_atoms)
    picks = torch.rand(n, n_atoms, generator=generator).topk(active).indices
    code.scatter_(1, picks, 1 + torch.rand(n, active, generator=generator))
    return code @ atoms + 0.5, atoms


QUICK = Settings(steps=700, learning_rate=6e-3, batch_size=256, evaluate_every=100, patience=None)


@pytest.mark.parametrize("plan", [Plan(32, k=2), Plan(32, k=None, l1=0.3), Plan(32, k=None, l1=0.3, tied=True)])
def test_planted_atoms_are_recovered(plan: Plan) -> None:
    rows, atoms = planted()
    sae = train_on_rows(rows, SITE, plan, QUICK)
    best = (atoms @ sae.weights.W_dec.T).max(1).values
    assert best.mean() >= 0.95, best
    assert best.min() > 0.9, best
    told = sae.info["report"]
    assert told["explained_variance"] > 0.8
    assert told["n_tokens"] == 400
    assert torch.allclose(sae.weights.W_dec.norm(dim=1), torch.ones(32), atol=1e-5)


def test_features_that_are_dead_from_the_start_are_taught_what_the_others_miss(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = planted()
    real = training._initial

    def half_dead(*arguments: object) -> dict[str, torch.Tensor]:
        start = real(*arguments)  # type: ignore[arg-type]
        with torch.no_grad():
            start["b_enc"][:12] = -6.0
        return start

    monkeypatch.setattr(training, "_initial", half_dead)
    without, revived = (
        train_on_rows(
            rows,
            SITE,
            Plan(24, k=2, revive=weight),
            Settings(steps=600, learning_rate=1e-2, batch_size=128, patience=None, evaluate_every=20),
        )
        for weight in (0.0, 1 / 32)
    )
    assert report(without, rows).dead >= 0.5
    assert report(revived, rows).dead <= 0.25
    assert report(revived, rows).explained_variance > report(without, rows).explained_variance - 0.05


def test_a_killed_training_goes_on_and_ends_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, _ = planted(400)
    settings = Settings(steps=60, batch_size=32, evaluate_every=20, seed=3)
    whole = train_on_rows(rows, SITE, Plan(16, k=2), settings)
    count = 0
    real = training.sparse

    def dying(*arguments: object) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 47:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(training, "sparse", dying)
    with pytest.raises(KeyboardInterrupt):
        train_on_rows(rows, SITE, Plan(16, k=2), settings, tmp_path)
    monkeypatch.setattr(training, "sparse", real)
    resumed = train_on_rows(rows, SITE, Plan(16, k=2), settings, tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.weights, resumed.weights, strict=True))
    with pytest.raises(RunMismatch, match="data"):
        train_on_rows(rows + 1, SITE, Plan(16, k=2), settings, tmp_path)


def test_it_trains_on_a_models_own_tokens_and_carries_its_fingerprint() -> None:
    model = tiny_models.tiny("llama")
    inputs = [tiny_models.inputs("llama", batch=32, length=8)]
    sae = train_sae(
        model,
        inputs=inputs,
        site=SITE,
        plan=Plan(64, k=8),
        settings=Settings(steps=150, batch_size=64, learning_rate=1e-2),
    )
    assert sae.key_on(steerable(model)) == "language.1.block_output"
    assert sae.info["report"]["explained_variance"] > 0.5
    assert sae.info["report"]["l0"] == pytest.approx(8, abs=0.5)
    with pytest.raises(BadInput, match="one layer"):
        train_sae(model, inputs=inputs, site=Site(layer="all"), plan=Plan(8))


def test_senseless_plans_are_refused() -> None:
    for plan in ({"k": 9}, {"k": 2, "l1": 0.1}, {"held_out": 1.0}, {"k": None, "l1": -1.0}):
        with pytest.raises(BadInput, match="SAE"):
            Plan(8, **plan)  # type: ignore[arg-type]
