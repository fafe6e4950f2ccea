"""A synthetic checkpoint in the published layout: key for key, sharded, and what is refused."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import numpy as np
import pytest
import torch
from openvla_parts import BINS, CONFIG, DINO, N_TEXT, SIGLIP, STATISTICS, Checkpoint, make_policy

import policies
from policies.errors import BadArtifact, BadInput, EngineMismatch, HubError, MissingExtra, TooLarge, UnknownName
from policies.openvla import OpenVLAModel, OpenVLAPolicy, memory
from policies.openvla.checkpoint import empty_model, stored_tensors
from policies.openvla.config import parse, read_config
from policies.openvla.memory import BYTES_4BIT, needs


def load(checkpoint: Checkpoint, **options: Any) -> OpenVLAPolicy:
    options = {"unnorm_key": "bridge_orig", "device": "cpu", **options}
    loaded = policies.load(f"openvla:{checkpoint.folder}", **options)
    assert isinstance(loaded, OpenVLAPolicy)
    return loaded


def test_a_sharded_checkpoint_loads_key_for_key(checkpoint: Checkpoint, model: OpenVLAModel) -> None:
    loaded = load(checkpoint)
    state = loaded.module.state_dict()
    assert state.keys() == model.state_dict().keys()
    for name, value in state.items():
        key = name.replace(".gamma", ".scale_factor")
        assert torch.equal(value, checkpoint.tensors[key].float()), key
    left = checkpoint.tensors.keys() - {name.replace(".gamma", ".scale_factor") for name in state}
    used = "|".join(sorted({key.split("featurizer.")[1].split(".")[0] for key in left}))
    assert used == "attn_pool|blocks|norm"  # what no feature passes through, and nothing else
    assert {key.split("blocks.")[1][0] for key in left if "blocks." in key} == {"3", "2"}
    assert not loaded.module.training
    assert not any(parameter.requires_grad or parameter.is_meta for parameter in loaded.module.parameters())
    rows = [
        {"pixels": {"image": np.full((30, 40, 3), 90 * i, np.uint8)}, "instruction": "pick up the bowl"}
        for i in range(2)
    ]
    (batch,) = loaded.encode(rows)
    torch.testing.assert_close(loaded.module(**batch).logits, model(**batch).logits)


def test_the_features_are_those_of_timms_second_to_last_block(
    model: OpenVLAModel, tensors: dict[str, torch.Tensor]
) -> None:
    pixels = torch.randn(2, 6, 28, 28)
    features = model.vision_backbone(pixels)
    for prefix, config, part, columns in (
        ("vision_backbone.featurizer.", DINO, pixels[:, :3], slice(0, 32)),
        ("vision_backbone.fused_featurizer.", SIGLIP, pixels[:, 3:], slice(32, 80)),
    ):
        tower = config.build().eval()
        own = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
        tower.load_state_dict({k.replace("scale_factor", "gamma"): v for k, v in own.items()})
        expected = tower.get_intermediate_layers(part, n=[config.depth - 2])[0]
        torch.testing.assert_close(features[..., columns], expected)


@pytest.mark.parametrize(
    ("name", "n_tensors", "n_parameters"),
    [
        ("vit_large_patch14_reg4_dinov2", 343, 303_230_976),
        ("vit_so400m_patch14_siglip_224", 342, 427_680_704),
    ],
)
def test_the_full_size_towers_are_timms_own(name: str, n_tensors: int, n_parameters: int) -> None:
    import timm

    from policies.openvla.towers import TowerConfig

    with torch.device("meta"):
        theirs = timm.create_model(name, num_classes=0, img_size=224)
        shapes = {key: tuple(value.shape) for key, value in theirs.state_dict().items()}
        ours = TowerConfig.from_shapes(shapes, num_heads=16, image_size=224).build()
    assert {key: tuple(value.shape) for key, value in ours.state_dict().items()} == shapes
    assert len(shapes) == n_tensors
    assert sum(value.numel() for value in theirs.parameters()) == n_parameters
    options = ("num_prefix_tokens", "no_embed_class", "has_class_token")
    assert [getattr(ours, option) for option in options[:1]] == [getattr(theirs, option) for option in options[:1]]
    for block, other in zip(ours.blocks, theirs.blocks, strict=True):
        assert repr(block) == repr(other)  # widths, epsilons, activations
        assert (block.attn.num_heads, block.attn.scale) == (other.attn.num_heads, other.attn.scale)


@pytest.mark.parametrize(
    "key",
    [
        "projector.fc2.bias",
        "language_model.lm_head.weight",
        "vision_backbone.featurizer.blocks.1.ls2.scale_factor",
        "vision_backbone.featurizer.blocks.3.mlp.fc1.weight",  # of a block that is not used
        "vision_backbone.fused_featurizer.attn_pool.latent",
    ],
)
def test_a_missing_key_is_an_error_with_its_name(checkpoint: Checkpoint, key: str) -> None:
    del checkpoint.tensors[key]
    checkpoint.write()
    with pytest.raises(BadArtifact, match=f"missing {key.replace('scale_factor', 'gamma')}"):
        load(checkpoint)


def test_an_extra_key_is_an_error_with_its_name(checkpoint: Checkpoint) -> None:
    checkpoint.tensors["projector.fc4.weight"] = torch.zeros(2)
    checkpoint.write()
    with pytest.raises(BadArtifact, match=r"not expected projector.fc4.weight"):
        load(checkpoint)


def test_a_wrong_shape_is_an_error_with_both(checkpoint: Checkpoint) -> None:
    checkpoint.tensors["projector.fc3.bias"] = torch.zeros(31)
    checkpoint.write()
    with pytest.raises(BadArtifact, match=r"projector.fc3.bias: expected \(32,\), got \(31,\)"):
        load(checkpoint)


def test_shards_and_index_must_fit(checkpoint: Checkpoint) -> None:
    index = checkpoint.folder / "model.safetensors.index.json"
    raw = json.loads(index.read_text())
    removed = raw["weight_map"].pop("projector.fc1.bias")
    index.write_text(json.dumps(raw))
    with pytest.raises(BadArtifact, match=r"not expected projector.fc1.bias"):
        load(checkpoint)
    index.write_text(json.dumps({"weight_map": {"a": "../outside.safetensors"}}))
    with pytest.raises(BadArtifact, match="name of a shard beside it"):
        load(checkpoint)
    checkpoint.write()
    (checkpoint.folder / removed).write_bytes(b"short")
    with pytest.raises(BadArtifact, match=r"cannot be read as .safetensors"):
        load(checkpoint)
    (checkpoint.folder / removed).unlink()
    with pytest.raises(BadArtifact, match=f"{removed} is missing"):
        load(checkpoint)


def test_weights_that_are_quantised_already_are_refused(checkpoint: Checkpoint) -> None:
    checkpoint.tensors["projector.fc3.bias"] = torch.zeros(32, dtype=torch.uint8)
    checkpoint.write()
    with pytest.raises(BadArtifact, match="weights of dtype U8; expected one of F64"):
        load(checkpoint)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "llava"}, "model_type is 'llava', expected 'openvla'"),
        ({"use_fused_vision_backbone": False}, "use_fused_vision_backbone is False"),
        ({"arch_specifier": "no-align+gelu-mlp"}, "arch_specifier"),
        ({"image_sizes": [224, 384]}, r"one size for both towers"),
        ({"text_config": {"model_type": "phi"}}, "text_config.model_type is 'phi'"),
    ],
)
def test_another_kind_of_model_is_refused_by_field(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(BadArtifact, match=message):
        parse({**CONFIG, **changes})


def test_the_config_is_read_from_the_published_fields() -> None:
    config = parse(CONFIG)
    assert (config.n_text_tokens, config.n_action_bins, config.image_token_id) == (N_TEXT, BINS, N_TEXT + 64)
    llama2 = parse({**CONFIG, "text_config": {"model_type": "llama", "vocab_size": 32064, "pad_token_id": 32000}})
    text = llama2.text_config
    sizes = (text.hidden_size, text.num_hidden_layers, text.intermediate_size, text.num_attention_heads)
    assert sizes == (4096, 32, 11008, 32)
    assert (llama2.n_text_tokens, text.tie_word_embeddings) == (32000, False)


def test_statistics_beside_the_config_win(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / "dataset_statistics.json").write_text(json.dumps({"my_robot": STATISTICS}))
    assert list(read_config(checkpoint.folder).norm_stats) == ["my_robot"]
    assert load(checkpoint, unnorm_key=None).norm.key == "my_robot"
    with pytest.raises(BadInput, match=r"'bridge_orig' is unknown. Allowed: my_robot"):
        load(checkpoint)


def test_an_unknown_option_key_or_name_is_answered_with_what_exists(checkpoint: Checkpoint) -> None:
    with pytest.raises(BadInput, match="did you mean 'bridge_orig'"):
        load(checkpoint, unnorm_key="bridge_org")
    with pytest.raises(BadInput, match="option 'unnormkey' is unknown; did you mean 'unnorm_key'"):
        load(checkpoint, unnormkey="x")
    with pytest.raises(BadInput, match="did you mean 'bfloat16'"):
        load(checkpoint, dtype="bfloat61")
    with pytest.raises(BadInput, match="'8bit' is unknown"):
        load(checkpoint, quantize="8bit")
    with pytest.raises(UnknownName, match=r"there is no folder './nowhere'"):
        policies.load("openvla:./nowhere")
    with pytest.raises(HubError, match="hf download openvla/openvla-7b"):  # tests run without the hub
        policies.load("openvla/openvla-7b")


def test_a_damaged_tokenizer_or_config_is_refused(checkpoint: Checkpoint) -> None:
    (checkpoint.folder / "tokenizer.json").write_text("{}")
    with pytest.raises(BadArtifact, match=r"tokenizer.json cannot be read"):
        load(checkpoint)
    (checkpoint.folder / "config.json").write_text("{")
    with pytest.raises(BadArtifact, match=r"config.json cannot be read as JSON"):
        load(checkpoint)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_loads_and_acts(checkpoint: Checkpoint, dtype: str) -> None:
    loaded = load(checkpoint, dtype=dtype)
    assert loaded.describe()["dtype"] == dtype
    loaded.reset([0], [{"task_description": "open the drawer"}])
    action = loaded.act({"pixels": {"image": np.zeros((1, 28, 28, 3), np.uint8)}}).action
    assert action.shape == (1, 7)
    assert np.isfinite(action).all()


# ---- before loading


def test_memory_and_time_are_said_before_loading(checkpoint: Checkpoint, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="policies.openvla"):
        load(checkpoint)
    assert "GiB on cpu in float32 (weights 0.0" in caplog.text
    assert "s per action" in caplog.text


def test_what_cannot_fit_is_refused_unless_asked_for(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    with pytest.raises(
        TooLarge, match=r"needs 0.0 GiB on cpu in float32.*dtype='bfloat16'.*quantize='4bit'.*allow_too_large"
    ):
        load(checkpoint)
    assert load(checkpoint, allow_too_large=True).module.n_patches == 4


def test_the_estimate_counts_what_is_kept(checkpoint: Checkpoint) -> None:
    table = stored_tensors(checkpoint.folder)
    model = empty_model(read_config(checkpoint.folder), table)
    n = sum(parameter.numel() for parameter in model.parameters())
    half = needs(model, table, torch.bfloat16, (), 7)
    assert half.weights == 2 * n
    assert needs(model, table, torch.float32, (), 7).weights == 4 * n
    length = 4 + memory.N_TEXT_TOKENS
    assert half.cache == 2 * 3 * 32 * length * 2  # keys and values, layers, width, tokens, bytes
    down = "language_model.model.layers.0.mlp.down_proj.weight"
    quantised = needs(model, table, torch.bfloat16, {down}, 7)
    assert half.weights - quantised.weights == pytest.approx(32 * 48 * (2 - BYTES_4BIT), abs=1)
    assert half.seconds(1e30, 1.0) == pytest.approx(6 * 2 * n)


# ---- four bits


def test_four_bits_need_bitsandbytes(checkpoint: Checkpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"pip install 'steer-agents\[openvla-4bit\]'"):
        load(checkpoint, quantize="4bit")


def test_four_bits_keep_the_blocks_small_and_the_rest_as_it_is(checkpoint: Checkpoint, model: OpenVLAModel) -> None:
    bnb = pytest.importorskip("bitsandbytes")
    loaded = load(checkpoint, quantize="4bit", dtype="bfloat16")
    layers = loaded.module.language_model.model.layers
    assert sum(isinstance(module, bnb.nn.Linear4bit) for module in layers.modules()) == 3 * 7
    assert layers[0].mlp.down_proj.weight.dtype == torch.uint8
    assert loaded.module.projector.fc1.weight.dtype == torch.bfloat16
    loaded.reset([0], [{"task_description": "open the drawer"}])
    assert np.isfinite(loaded.act({"pixels": {"image": np.zeros((1, 28, 28, 3), np.uint8)}}).action).all()
    weight = bnb.functional.dequantize_4bit(
        layers[0].mlp.down_proj.weight.data, layers[0].mlp.down_proj.weight.quant_state
    )
    original = model.language_model.model.layers[0].mlp.down_proj.weight
    assert (weight.float() - original).norm() < 0.15 * original.norm()


# ---- the guard


def test_a_model_that_ignores_the_picture_is_refused_at_loading(checkpoint: Checkpoint) -> None:
    checkpoint.tensors["projector.fc3.weight"].zero_()  # every patch now looks alike
    checkpoint.write()
    try:
        with pytest.raises(EngineMismatch, match=r"the picture does not reach the action.* by 0 after the first block"):
            load(checkpoint)
        assert load(checkpoint, check_image=False).name.startswith("openvla:")
    finally:
        checkpoint.tensors["projector.fc3.weight"].normal_(0, 0.25)


def test_the_name_and_the_settings_are_described(checkpoint: Checkpoint, model: OpenVLAModel) -> None:
    described = load(checkpoint, preset="libero", camera="image2").describe()
    assert json.loads(json.dumps(described)) == described
    assert (described["crop_area"], described["gripper"], described["camera"]) == (0.9, "libero", "image2")
    assert described["q99"] == make_policy(model).describe()["q99"]
