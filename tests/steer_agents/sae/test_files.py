from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from sae_parts import random_sae
from safetensors.torch import save_file

from policies.errors import BadArtifact, BadInput
from steer_agents import artifacts
from steer_agents.sae.files import load, save, site_of_hook
from steer_agents.sae.model import Form
from steer_agents.sites import Site


def sae_lens(folder: Path, **config: Any) -> Path:
    """A folder as SAELens 6 writes it, of 5 features at width 8."""
    folder.mkdir()
    torch.manual_seed(3)
    tensors = {
        "W_enc": torch.randn(8, 5),
        "b_enc": torch.randn(5),
        "W_dec": 3 * torch.randn(5, 8),
        "b_dec": torch.randn(8),
    }
    if config.get("architecture") == "jumprelu":
        tensors["threshold"] = torch.rand(5)
    save_file(tensors, folder / "sae_weights.safetensors")
    whole = {
        "d_in": 8,
        "d_sae": 5,
        "apply_b_dec_to_input": False,
        "metadata": {"hook_name": "blocks.7.hook_resid_post"},
        **config,
    }
    (folder / "cfg.json").write_text(json.dumps(whole))
    return folder


def test_ours_come_back_to_the_bit(tmp_path: Path) -> None:
    sae = random_sae(form=Form(k=3, norm="unit"), model={"class": "Model"}, info={"report": {"l0": 3.0}})
    back = load(save(sae, tmp_path / "a.safetensors"))
    assert all(torch.equal(a, b) for a, b in zip(back.weights, sae.weights, strict=True))
    assert (back.form, back.site, dict(back.model), back.info) == (sae.form, sae.site, {"class": "Model"}, sae.info)
    assert back.fingerprint == sae.fingerprint
    with pytest.raises(BadArtifact, match="not describe a direction"):
        artifacts.load(tmp_path / "a.safetensors")
    data = bytearray((tmp_path / "a.safetensors").read_bytes())
    data[-1] ^= 1
    (tmp_path / "a.safetensors").write_bytes(bytes(data))
    with pytest.raises(BadArtifact, match="checksum"):
        load(tmp_path / "a.safetensors")


def test_the_three_architectures_of_sae_lens_give_its_codes(tmp_path: Path) -> None:
    h = torch.randn(20, 8)
    for name, more in {"standard": {}, "jumprelu": {}, "topk": {"k": 2}}.items():
        sae = load(sae_lens(tmp_path / name, architecture=name, **more))
        assert sae.site == Site("block_output", 7)
        assert sae.kind == {"standard": "relu"}.get(name, name)
        w = sae.weights
        pre = h @ w.W_enc + w.b_enc
        expected = {"standard": pre.relu(), "jumprelu": pre.relu() * (pre > w.threshold)}.get(name)
        if expected is None:
            top = pre.topk(2, dim=-1)
            expected = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
        assert torch.allclose(sae.encode(h), expected)


def test_decoder_norms_that_topk_weighs_with_are_folded_and_not_forgotten(tmp_path: Path) -> None:
    """Trap: without the fold the k largest are other features."""
    raw = load(sae_lens(tmp_path / "raw", architecture="topk", k=2))
    sae = load(sae_lens(tmp_path / "scaled", architecture="topk", k=2, rescale_acts_by_decoder_norm=True))
    h = torch.randn(50, 8)
    norms = raw.weights.W_dec.norm(dim=1)
    pre = (h @ raw.weights.W_enc + raw.weights.b_enc) * norms
    top = pre.topk(2, dim=-1)
    z = torch.zeros_like(pre).scatter(-1, top.indices, top.values.relu())
    assert torch.allclose(sae.reconstruct(h), (z / norms) @ raw.weights.W_dec + raw.weights.b_dec, atol=1e-4)
    assert not torch.allclose(sae.reconstruct(h), raw.reconstruct(h), atol=1e-1)


def test_the_older_configuration_and_plain_files_are_read(tmp_path: Path) -> None:
    folder = sae_lens(
        tmp_path / "old",
        activation_fn_str="topk",
        activation_fn_kwargs={"k": 2},
        hook_name="blocks.3.hook_mlp_out",
        metadata={},
    )
    assert load(folder).form.k == 2
    assert load(folder).site == Site("mlp_output", 3)
    plain = tmp_path / "plain.safetensors"
    save_file(
        {"encoder.weight": torch.randn(5, 8), "encoder.bias": torch.zeros(5), "decoder.weight": torch.randn(8, 5)},
        plain,
    )
    with pytest.raises(BadInput, match="pass site="):
        load(plain)
    assert load(plain, site=Site(layer=2)).width == 8


def test_the_input_of_a_block_is_the_output_of_the_one_before() -> None:
    """Trap: hook_resid_pre of block 7 read at block 7's output is one layer off."""
    assert site_of_hook("blocks.7.hook_resid_pre") == Site("block_output", 6)
    assert site_of_hook("blocks.0.hook_resid_post") == Site("block_output", 0)
    assert site_of_hook("model.layers.4") == Site("block_output", 4)
    assert site_of_hook("blocks.2.attn.hook_z") == Site("attention_heads", 2)
    for bad in ("blocks.0.hook_resid_pre", "blocks.3.hook_resid_mid", "ln_final"):
        with pytest.raises(BadInput, match="no site here"):
            site_of_hook(bad)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"architecture": "gated"}, "'gated' is not read"),
        ({"architecture": "topk"}, "has no k"),
        ({"finetuning_scaling_factor": True}, "scaling factor"),
        ({"normalize_activations": "expected_average_only_in"}, "input norm"),
        ({"metadata": {}}, "does not say at which hook"),
    ],
)
def test_what_a_file_asks_for_and_is_not_done_here_is_refused(
    tmp_path: Path, config: dict[str, Any], message: str
) -> None:
    with pytest.raises((BadArtifact, BadInput), match=message):
        load(sae_lens(tmp_path / "x", **config))


def test_damage_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="does not exist"):
        load(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"123456789")
    with pytest.raises(BadArtifact, match="damaged"):
        load(tmp_path / "bad.safetensors")
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(BadArtifact, match="no W_enc and W_dec"):
        load(tmp_path / "other.safetensors")
    with pytest.raises(BadArtifact, match="pass the one that is the SAE"):
        load(tmp_path)
