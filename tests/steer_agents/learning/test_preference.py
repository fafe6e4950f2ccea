from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch

import steer_agents as sa
from policies.errors import BadInput, WrongModel
from steer_agents.direction import Direction
from steer_agents.learning import preference
from steer_agents.learning.preference import Triple, log_probabilities, preference_loss, triples_of
from steer_agents.learning.trainer import Settings
from steer_agents.sae.edits import SaeShift
from steer_agents.sae.model import Sae
from steer_agents.sae.training import Plan, train_sae
from steer_agents.sites import Site

SITE = Site(layer=1)
WANTED, UNWANTED = (10, 11, 12, 13), (20, 21, 22, 23)
QUICK = Settings(steps=200, learning_rate=0.03, batch_size=4, evaluate_every=40, patience=None)


def triples(n: int = 40, seed: int = 0) -> list[Triple]:
    """Random prompts; the chosen answer is of some words, the rejected one of others."""
    generator = torch.Generator().manual_seed(seed)

    def some(words: tuple[int, ...], k: int) -> tuple[int, ...]:
        return tuple(words[i] for i in torch.randint(len(words), (k,), generator=generator).tolist())

    prompts = [tuple(torch.randint(3, 59, (4 + i % 3,), generator=generator).tolist()) for i in range(n)]
    return [Triple(prompt, some(WANTED, 1 + i % 2), some(UNWANTED, 2)) for i, prompt in enumerate(prompts)]


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return tiny_models.tiny("llama")


@pytest.fixture(scope="module")
def sae(model: torch.nn.Module) -> Sae:
    inputs = [tiny_models.inputs("llama", batch=40, length=8)]
    few = Settings(steps=200, batch_size=64, learning_rate=1e-2)
    return train_sae(model, inputs=inputs, site=SITE, plan=Plan(128, k=None, l1=0.05), settings=few)


@pytest.fixture(scope="module")
def dense(model: torch.nn.Module) -> Direction:
    found: Direction = sa.learn(model, "bipo", triples=triples(), site=SITE, settings=QUICK)
    return found


@pytest.fixture(scope="module")
def shift(model: torch.nn.Module, sae: Sae) -> SaeShift:
    found: SaeShift = sa.learn(model, "yapo", triples=triples(), sae=sae, settings=QUICK)
    return found


def held_out_margins(model: torch.nn.Module, part: object) -> torch.Tensor:
    """(B,) on new triples, through ordinary steering."""
    new = triples(40, seed=9)

    def ratio() -> torch.Tensor:
        with torch.no_grad():
            return log_probabilities(model, [(t.prompt, t.chosen) for t in new]) - log_probabilities(
                model, [(t.prompt, t.rejected) for t in new]
            )

    before = ratio()
    with sa.steer(model, part):  # type: ignore[arg-type]
        return ratio() - before


def test_log_probabilities_are_those_of_one_answer_at_a_time(model: torch.nn.Module) -> None:
    rows = [((5, 6, 7), (10,)), ((8,), (11, 12, 13))]
    both = log_probabilities(model, rows)
    for i, (prompt, answer) in enumerate(rows):
        logits = tiny_models.outputs(model, {"input_ids": torch.tensor([[*prompt, *answer]])})[0].log_softmax(-1)
        alone = sum(float(logits[len(prompt) - 1 + j, token]) for j, token in enumerate(answer))
        assert float(both[i].detach()) == pytest.approx(alone, abs=1e-4)


def test_the_loss_wants_the_margins_sign_to_be_kappas() -> None:
    """Trap: kappa only inside the model (or only outside) teaches one sign to undo the other."""
    margin = torch.tensor([2.0, -2.0])
    right, wrong = torch.tensor([1.0, -1.0]), torch.tensor([-1.0, 1.0])
    assert float(preference_loss(margin, right, 1.0)) == pytest.approx(
        float(torch.log1p(torch.exp(torch.tensor(-2.0))))
    )
    assert float(preference_loss(margin, wrong, 1.0)) == pytest.approx(float(torch.log1p(torch.exp(torch.tensor(2.0)))))


def test_bipo_turns_the_preference_either_way_and_more_at_twice_the_strength(
    model: torch.nn.Module, dense: Direction
) -> None:
    margins = {
        m: held_out_margins(model, sa.Add(dense, strength=sa.Strength(m, "beta"))) for m in (-2.0, -1.0, 1.0, 2.0)
    }
    for m in (-1.0, 1.0):
        assert (margins[m] * m > 0).float().mean() >= 0.95
        assert margins[2 * m].abs().mean() > margins[m].abs().mean()
    assert dense.info["oddness"] < 1e-5
    assert dense.info["signs"]["1"] >= 0.95
    assert dense.info["signs"]["-1"] >= 0.95
    told = dense.info["training"]
    assert told["held_out"] < told["start"] == pytest.approx(0.6931, abs=1e-3)


def test_yapo_turns_the_preference_either_way_though_it_is_not_odd(model: torch.nn.Module, shift: SaeShift) -> None:
    margins = {
        m: held_out_margins(model, SaeShift(shift.sae, code=shift.code, strength=m)) for m in (-2.0, -1.0, 1.0, 2.0)
    }
    for m in (-1.0, 1.0):
        assert (margins[m] * m > 0).float().mean() >= 0.95
        assert margins[2 * m].abs().mean() > margins[m].abs().mean()
    assert shift.info["oddness"] > 0.1, "a symmetry that was assumed, not measured, would say 0"


def test_only_what_is_learned_gets_gradients(model: torch.nn.Module, dense: Direction, shift: SaeShift) -> None:
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(tensor.requires_grad for tensor in shift.sae.weights)
    assert not shift.code.requires_grad
    assert not model.model.layers[1]._forward_hooks  # type: ignore[union-attr, operator]


def test_a_zero_code_is_the_identity_and_a_shift_stays_in_its_span(
    model: torch.nn.Module, sae: Sae, shift: SaeShift
) -> None:
    from steer_agents.sae.edits import shift_code

    h = torch.randn(9, 32)
    one = torch.ones(1, 1)
    assert torch.equal(shift_code(h, sae.weights, sae.form, torch.zeros(128), one), h)
    z = sae.encode(h)
    change = shift_code(h, sae.weights, sae.form, shift.code, one) - h
    for i in range(9):
        moved = (torch.relu(z[i] + shift.code) != z[i]).nonzero()[:, 0]
        if len(moved) < 32:
            rows = sae.weights.W_dec[moved]
            fitted = torch.linalg.lstsq(rows.T.double(), change[i].double()[:, None]).solution
            assert (rows.T.double() @ fitted - change[i].double()[:, None]).norm() < 1e-6 * max(
                1.0, float(change[i].norm())
            )


def test_a_sparse_penalty_moves_fewer_features(model: torch.nn.Module, sae: Sae, shift: SaeShift) -> None:
    few = sa.learn(model, "yapo", triples=triples(), sae=sae, l1=0.5, settings=QUICK)
    assert float(few.code.abs().sum()) < 0.7 * float(shift.code.abs().sum())


def test_a_killed_run_goes_on_and_ends_to_the_bit(
    model: torch.nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Settings(steps=16, learning_rate=0.03, batch_size=4, evaluate_every=4)
    options = {"triples": triples(20), "site": SITE, "settings": few}
    whole = sa.learn(model, "bipo", **options)
    count = 0
    real = preference.preference_loss

    def dying(*arguments: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == 15:
            raise KeyboardInterrupt
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(preference, "preference_loss", dying)
    with pytest.raises(KeyboardInterrupt):
        sa.learn(model, "bipo", **options, folder=tmp_path)
    assert (tmp_path / "checkpoint.safetensors").exists()
    monkeypatch.setattr(preference, "preference_loss", real)
    resumed = sa.learn(model, "bipo", **options, folder=tmp_path)
    assert torch.equal(whole.vector("language.1.block_output"), resumed.vector("language.1.block_output"))
    assert whole.statistics == resumed.statistics


def test_what_is_learned_refuses_another_model(dense: Direction, shift: SaeShift) -> None:
    other = tiny_models.tiny("qwen3")
    for part in (sa.Add(dense, strength=sa.Strength(1.0, "beta")), shift):
        with pytest.raises(WrongModel):
            sa.steer(other, part).__enter__()


def test_texts_become_triples_with_special_tokens_once() -> None:
    def tokenizer(text: str, add_special_tokens: bool) -> dict[str, list[int]]:
        return {"input_ids": ([1] if add_special_tokens else []) + [ord(c) for c in text]}

    [one] = triples_of(tokenizer, [("ab", "c", "d")])
    assert (one.prompt, one.chosen, one.rejected) == ((1, 97, 98), (99,), (100,))


def test_bad_ones_are_refused(model: torch.nn.Module, sae: Sae) -> None:
    with pytest.raises(BadInput, match="at least one token"):
        Triple((1,), (), (2,))
    with pytest.raises(BadInput, match="says nothing"):
        Triple((1,), (2,), (2,))
    with pytest.raises(BadInput, match="one layer"):
        sa.learn(model, "bipo", triples=triples(8), site=Site(layer="all"))
    with pytest.raises(BadInput, match="beta"):
        sa.learn(model, "bipo", triples=triples(8), site=SITE, beta=0.0)
    with pytest.raises(BadInput, match="l1"):
        sa.learn(model, "yapo", triples=triples(8), sae=sae, l1=-1.0)
