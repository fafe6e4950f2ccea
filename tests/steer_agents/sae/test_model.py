from __future__ import annotations

import pytest
import torch
from sae_parts import exact_sae, random_sae

from policies.errors import BadInput, NonFinite, WrongModel, WrongWidth
from steer_agents.sae.model import NORMS, Form, Sae, Weights, encode, moved, report
from steer_agents.sites import Site, steerable


def test_codes_of_the_three_activations_equal_their_definition() -> None:
    sae = random_sae()
    w = sae.weights._replace(threshold=torch.full((12,), 0.3))
    h = torch.randn(7, 32)
    pre = (h - w.b_dec) @ w.W_enc + w.b_enc
    assert torch.equal(encode(h, w._replace(threshold=torch.zeros(12)), Form()), pre.relu())
    assert torch.equal(encode(h, w, Form()), pre * (pre > 0.3))
    top = encode(h, w._replace(threshold=torch.zeros(12)), Form(k=3))
    assert ((top > 0).sum(-1) <= 3).all()
    for row, values in zip(top, pre.relu(), strict=True):
        assert torch.equal(row.sort().values[-3:], values.sort().values[-3:])
    # A threshold below 0 would let negative codes through.
    assert (encode(h, w._replace(threshold=torch.full((12,), -5.0)), Form()) >= 0).all()


def test_the_decoders_bias_is_taken_off_the_input_only_where_the_file_says_so() -> None:
    sae = random_sae()
    h = torch.randn(5, 32)
    plain = encode(h, sae.weights, Form(centred=False))
    assert torch.allclose(plain, (h @ sae.weights.W_enc + sae.weights.b_enc).relu())
    assert not torch.allclose(plain, encode(h, sae.weights, Form()))


@pytest.mark.parametrize("norm", NORMS)
def test_a_changed_code_keeps_the_reconstruction_error_under_every_norm(norm: str) -> None:
    sae = random_sae(form=Form(norm=norm))
    h = torch.randn(5, 32)
    z = sae.encode(h)
    z2 = torch.rand_like(z)
    from steer_agents.sae.model import reconstruct

    by_definition = reconstruct(h, z2, sae.weights, sae.form) + (h - reconstruct(h, z, sae.weights, sae.form))
    assert torch.allclose(moved(h, z2 - z, sae.weights, sae.form), by_definition, atol=1e-5)
    assert torch.equal(moved(h, z - z, sae.weights, sae.form), h)


def test_reports_are_closed_forms() -> None:
    h = torch.rand(40, 32) + 0.1
    perfect = report(exact_sae(), h)
    assert perfect.explained_variance == pytest.approx(1.0)
    assert (perfect.l0, perfect.dead, perfect.n_tokens) == (32.0, 0.0, 40)
    nothing = Weights(torch.zeros(32, 4), -torch.ones(4), torch.ones(4, 32), h.mean(0), torch.zeros(4))
    found = report(Sae(nothing, Site(layer=0)), h)
    assert found.explained_variance == pytest.approx(0.0, abs=1e-6)
    assert (found.l0, found.dead) == (0.0, 1.0)


def test_bad_ones_are_refused() -> None:
    w = random_sae().weights
    with pytest.raises(WrongWidth, match=r"W_enc expected \(32, 12\), got \(12, 32\)"):
        Sae(w._replace(W_enc=w.W_enc.T), Site(layer=0))
    with pytest.raises(NonFinite, match="b_enc"):
        Sae(w._replace(b_enc=w.b_enc * float("nan")), Site(layer=0))
    with pytest.raises(BadInput, match="one layer"):
        Sae(w, Site(layer="all"))
    with pytest.raises(BadInput, match="'none'"):
        Form(norm="non")
    with pytest.raises(WrongWidth, match="it is 32 wide, the activation 16"):
        random_sae().encode(torch.zeros(3, 16))
    with pytest.raises(BadInput, match="0 to 11"):
        random_sae().one_hot([3, 12])


def test_an_sae_of_another_model_is_refused_by_its_fingerprint() -> None:
    import tiny_models

    model = steerable(tiny_models.tiny("llama"))
    with pytest.raises(WrongModel, match="another model"):
        random_sae(model={"class": "Other"}).key_on(model)
    assert random_sae().key_on(model) == "language.1.block_output"
