"""Export: the folder loads in stock transformers with equal outputs, and what has no stock place is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers as tf
from steering_parts import absolute, direction_at
from tiny_models import inputs, outputs, tiny

import steer_agents as sa
from policies.errors import BadInput, NotBakeable
from steer_agents.baking.export import export
from steer_agents.baking.steer2edit import steer2edit
from steer_agents.intervention import Intervention
from steer_agents.sites import Site


def reloaded(folder: Path, name: str) -> torch.Tensor:
    model = tf.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    return outputs(model.eval(), inputs(name))


@pytest.mark.parametrize(
    ("name", "kind", "switches"),
    [
        ("llama", "mlp_output", ("mlp_bias",)),
        ("llama", "attention_output", ("attention_bias",)),
        ("gpt2", "mlp_output", ()),
        ("qwen2", "attention_heads", ()),
    ],
)
def test_a_baked_model_loads_in_stock_transformers(
    name: str, kind: str, switches: tuple[str, ...], tmp_path: Path
) -> None:
    model = tiny(name)
    site = Site(kind, layer=1)
    part: Intervention = sa.Add(direction_at(model, site), strength=absolute(1.5))
    if kind == "attention_heads":  # an ablation changes the weight only
        part = sa.Ablate(direction_at(model, site))
    plain = outputs(model, inputs(name))
    with sa.bake(model, part) as baked:
        told = export(baked, tmp_path / "out")
        expected = outputs(model, inputs(name))
    assert told.switches == switches
    found = reloaded(tmp_path / "out", name)
    assert float((found - expected).abs().max()) <= 1e-5 * float(expected.abs().max())
    assert float((found - plain).abs().max()) > 1e-3
    assert json.loads((tmp_path / "out/steering.json").read_text())[0]["intervention"] == type(part).__name__
    assert torch.equal(outputs(model, inputs(name)), plain)


def test_rank_one_edits_export_without_any_switch(tmp_path: Path) -> None:
    model = tiny("qwen3")
    direction = direction_at(model, Site("mlp_output", layer=(0, 1)))
    with steer2edit(model, [inputs("qwen3")], mlp=direction, alpha=0.2) as edits:
        assert export(edits, tmp_path / "out").switches == ()
        assert torch.equal(reloaded(tmp_path / "out", "qwen3"), outputs(model, inputs("qwen3")))


def test_what_has_no_stock_place_is_refused_and_folders_are_not_overwritten(tmp_path: Path) -> None:
    model = tiny("qwen2")
    with (
        sa.bake(model, sa.Add(direction_at(model, Site("mlp_output", layer=1)), strength=absolute(1.0))) as baked,
        pytest.raises(NotBakeable, match=r"no place for \['model.layers.1.mlp.down_proj.bias'\]"),
    ):
        export(baked, tmp_path / "none")
    assert not (tmp_path / "none").exists()
    mlp = tiny("mlp")
    with (
        sa.bake(mlp, sa.Add(direction_at(mlp, Site("block_output", layer=1)), strength=absolute(1.0))) as baked,
        pytest.raises(NotBakeable, match="no save_pretrained"),
    ):
        export(baked, tmp_path / "mlp")
    (tmp_path / "full").mkdir()
    (tmp_path / "full/file").write_text("x")
    llama = tiny("llama")
    with (
        sa.bake(llama, sa.Ablate(direction_at(llama, Site("mlp_output", layer=1)))) as baked,
        pytest.raises(BadInput, match="is not empty"),
    ):
        export(baked, tmp_path / "full")
