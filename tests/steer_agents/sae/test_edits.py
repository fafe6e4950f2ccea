from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch
from sae_parts import exact_sae, random_sae

import steer_agents as sa
from policies.errors import BadArtifact, BadInput, WrongModel, WrongWidth
from steer_agents.capture import Reader
from steer_agents.gates import ALWAYS, Gate
from steer_agents.sae.edits import SaeClamp, SaeShift, clamp_features, shift_code
from steer_agents.sae.files import save
from steer_agents.sae.gates import Feature
from steer_agents.sae.model import Form
from steer_agents.sites import Site, resolve, steerable

ONE = torch.ones(1, 1)


def test_a_clamp_to_what_is_there_changes_nothing_however_bad_the_sae() -> None:
    """Trap: dec(z') without the error would replace h by a reconstruction that explains nothing of it."""
    sae = random_sae()
    h = torch.randn(6, 32)
    i = torch.tensor([2, 5])
    same = clamp_features(h, sae.weights, sae.form, i, sae.encode(h)[:, i], ONE)
    assert torch.allclose(same, h, atol=1e-6)
    assert (sae.reconstruct(h) - h).norm() > 1


def test_a_clamp_is_the_definition_and_stays_in_the_span_of_its_rows() -> None:
    sae = random_sae(form=Form(norm="layer_norm"))
    h = torch.randn(6, 32)
    z = sae.encode(h)
    z2 = z.clone()
    z2[:, 4] = 3.0
    from steer_agents.sae.model import reconstruct

    wanted = reconstruct(h, z2, sae.weights, sae.form) + h - reconstruct(h, z, sae.weights, sae.form)
    got = clamp_features(h, sae.weights, sae.form, torch.tensor([4]), torch.tensor([3.0]), ONE)
    assert torch.allclose(got, wanted, atol=1e-5)
    row = sae.weights.W_dec[4]
    change = got - h
    assert (change - (change @ row)[:, None] * row).norm() < 1e-5 * change.norm()


def test_a_shift_is_the_identity_at_0_not_odd_and_in_the_span_of_what_changed() -> None:
    sae = random_sae()
    h = torch.randn(6, 32, dtype=torch.float64)
    w = type(sae.weights)(*(t.double() for t in sae.weights))
    code = torch.zeros(12, dtype=torch.float64)
    code[[1, 7]] = torch.tensor([0.8, -0.5], dtype=torch.float64)
    assert torch.equal(shift_code(h, w, sae.form, code, 0 * ONE.double()), h)
    assert torch.equal(shift_code(h, w, sae.form, 0 * code, ONE.double()), h)
    plus = shift_code(h, w, sae.form, code, ONE.double()) - h
    minus = shift_code(h, w, sae.form, code, -ONE.double()) - h
    assert (plus + minus).norm() / plus.norm() > 0.1, "relu makes it no odd function of s"
    rows = w.W_dec[[1, 7]]
    q, _ = torch.linalg.qr(rows.T)
    assert (plus - plus @ q @ q.T).norm() < 1e-6 * plus.norm()


def test_a_shift_comes_back_from_its_file_and_other_files_are_refused(tmp_path: Path) -> None:
    part = SaeShift(random_sae(), code=torch.randn(12), info={"beta": 0.1})
    part.save(tmp_path / "shift.safetensors")
    back = SaeShift.load(tmp_path / "shift.safetensors", strength=0.5)
    assert torch.equal(back.code, part.code)
    assert back.sae.fingerprint == part.sae.fingerprint
    assert back.info == {"beta": 0.1}
    assert {**back.describe(), "strength": 0} == {**part.describe(), "strength": 0}
    save(random_sae(), tmp_path / "sae.safetensors")
    with pytest.raises(BadArtifact, match="'sae'"):
        SaeShift.load(tmp_path / "sae.safetensors")


def test_bad_ones_are_refused() -> None:
    with pytest.raises(BadInput, match="never negative"):
        SaeClamp(random_sae(), features=(1,), values=-1.0)
    with pytest.raises(BadInput, match="for each of 2 features"):
        SaeClamp(random_sae(), features=(1, 2), values=(1.0,))
    with pytest.raises(BadInput, match=r"shape \(12,\)"):
        SaeShift(random_sae(), code=torch.ones(3))
    model = tiny_models.tiny("llama")
    with pytest.raises(WrongModel), sa.steer(model, SaeClamp(random_sae(model={"class": "X"}), features=(0,))):
        pass
    with pytest.raises(WrongWidth), sa.steer(model, SaeClamp(random_sae(width=16), features=(0,), values=2.0)):
        tiny_models.outputs(model, tiny_models.inputs("llama"))


# ------------------------------------------------------------------------------------------------------------ the tiers


def block_output(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """What block 1 gives, steering at it included (a reader that hooks later reads what was written)."""
    place = steerable(model)
    with Reader(place, resolve(place, Site(layer=1)), stop_early=False) as reader:
        model(**batch, use_cache=False)
    return reader.values["language.1.block_output"]


def tiers(threshold: float) -> dict[str, Gate]:
    sae = exact_sae()
    return {
        "token": Feature(sae, (3,), threshold),
        "input": sa.AnyToken(Feature(sae, (3,), threshold)),
        "always": ALWAYS,
    }


def steered(gate: Gate, batch: dict[str, torch.Tensor], model: torch.nn.Module) -> torch.Tensor:
    part = sa.Add(
        exact_sae().direction(torch.eye(32)[9], "language.1.block_output"), strength=sa.Strength(2.0), gate=gate
    )
    with torch.no_grad(), sa.steer(model, part):
        return block_output(model, batch)


def test_tiers_are_nested_and_their_energy_grows() -> None:
    model = tiny_models.tiny("llama")
    batch = tiny_models.inputs("llama", batch=6)
    with torch.no_grad():
        plain = block_output(model, batch)
    column = plain[..., 3]
    threshold = float(column.amax(1).sort().values[2])  # three of six rows have a token above it
    edited = {name: (steered(gate, batch, model) - plain).norm(dim=-1) > 0 for name, gate in tiers(threshold).items()}
    energy = {
        name: float(((steered(gate, batch, model) - plain) ** 2).sum()) for name, gate in tiers(threshold).items()
    }
    assert torch.equal(edited["token"], column > threshold)
    assert torch.equal(edited["input"], (column > threshold).any(1, keepdim=True).expand(6, 6))
    assert edited["always"].all()
    assert 0 < energy["token"] < energy["input"] < energy["always"]
    for name in ("token", "input"):
        assert torch.equal(steered(tiers(1e6)[name], batch, model), plain)


def test_padding_opens_no_input() -> None:
    model = tiny_models.tiny("llama")
    ids = tiny_models.inputs("llama", batch=2)["input_ids"]
    padded = torch.cat([torch.zeros(2, 4, dtype=torch.long), ids], 1)
    mask = (torch.arange(10) >= 4).long().expand(2, 10)
    batch = {"input_ids": padded, "attention_mask": mask}
    with torch.no_grad():
        plain = block_output(model, batch)
    i = int((plain[:, :4].amax((0, 1)) - plain[:, 4:].amax((0, 1))).argmax())  # a feature that fires more on padding
    threshold = float(plain[:, 4:, i].max().clamp(min=0))
    assert plain[:, :4, i].max() > threshold
    gate = sa.AnyToken(Feature(exact_sae(), (i,), threshold))
    assert torch.equal(steered(gate, batch, model)[:, 4:], plain[:, 4:])


def test_an_input_that_its_prompt_opened_stays_open_while_it_is_generated() -> None:
    model = tiny_models.tiny("llama")
    ids = tiny_models.inputs("llama", batch=4)["input_ids"]
    with torch.no_grad():
        plain = block_output(model, {"input_ids": ids})
    fires = plain[..., 3].amax(1)
    threshold = float(fires.sort().values[1])
    opened = fires > threshold
    gate = sa.AnyToken(Feature(exact_sae(), (3,), threshold))
    part = sa.Add(
        exact_sae().direction(torch.eye(32)[9], "language.1.block_output"), strength=sa.Strength(2.0), gate=gate
    )
    place = steerable(model)
    with torch.no_grad(), sa.steer(model, part):
        out = model(input_ids=ids, use_cache=True)
        for token in (5, 6):
            with Reader(place, resolve(place, Site(layer=1)), stop_early=False) as reader:
                out = model(input_ids=torch.full((4, 1), token), past_key_values=out.past_key_values, use_cache=True)
            now = gate._memory[1] > 0  # type: ignore[attr-defined]
            assert (now | ~opened).all(), "what the prompt opened is open"
            fired = reader.values["language.1.block_output"][..., 3].amax(1) > threshold
            assert torch.equal(now, opened | fired)
            opened = now
        model(input_ids=ids[:, :1], use_cache=False)  # a new input begins closed
        assert not torch.equal(gate._memory[1] > 0, opened)  # type: ignore[attr-defined]
    fresh = sa.AnyToken(Feature(exact_sae(), (3,), threshold))
    late = sa.Add(part.direction, strength=sa.Strength(2.0), gate=fresh)
    with torch.no_grad(), sa.steer(model, late), pytest.raises(BadInput, match="before steering was attached"):
        model(input_ids=torch.full((4, 1), 5), past_key_values=out.past_key_values, use_cache=True)


def test_senseless_gates_are_refused() -> None:
    with pytest.raises(BadInput, match="from 0"):
        Feature(exact_sae(), (1,), threshold=-1.0)
