"""smol-vla: the language model stays what it was, text can be read once, the contract, training, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
import transformers as tf

import steer_agents as sa
from policies import weights
from policies.errors import BadArtifact, BadInput, UnknownName
from policies.smol_vla import SmolVLA, SmolVLAConfig, SmolVLAPolicy, load, save
from policies.smol_vla.files import KIND, fill
from policies.smol_vla.training import cloning_loss
from policies.tiny_vla.training import Stage, optimise

WORDS = {"put": 5, "the": 6, "red": 7, "block": 8, "down": 9, "slowly": 10, "kindly": 11}


def tokenize(text: str) -> list[int]:
    return [WORDS[word] for word in text.split()]


def policy(**options: Any) -> SmolVLAPolicy:
    return SmolVLAPolicy(tiny_models.tiny("smol-vla"), tokenize, **options)


def observation(rows: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pixels = {key: rng.integers(0, 256, (rows, 16, 16, 3), dtype=np.uint8) for key in ("image", "image2")}
    return {"pixels": pixels, "agent_pos": rng.normal(size=(rows, 8)).astype(np.float32)}


def acted(one: SmolVLAPolicy, *said: str, steps: int = 3) -> np.ndarray:
    one.reset(list(range(len(said))), [{"task_description": text} for text in said])
    return np.stack([one.act(observation(len(said), seed=step)).action for step in range(steps)])


def language() -> Any:
    torch.manual_seed(3)
    config = tf.LlamaConfig(**{**tiny_models._SMALL, "num_hidden_layers": 4}, head_dim=8)
    return tf.LlamaForCausalLM._from_config(config, attn_implementation="eager").eval()


# ---- the language model


def test_text_alone_is_processed_bit_by_bit_as_by_the_language_models_first_blocks() -> None:
    ids = torch.randint(1, tiny_models.VOCAB, (2, 9))
    plain = language()
    plain.model.layers = plain.model.layers[:3]
    network = SmolVLA(tiny_models.tiny("smol-vla").config, language()).eval()
    with torch.no_grad():
        for name, value in network.named_parameters():
            if name.endswith(".up"):
                value.normal_()
        hidden = plain.model(input_ids=ids, use_cache=False).last_hidden_state
        logits = network.text_logits(ids)
    assert torch.equal(logits[..., : tiny_models.VOCAB], hidden @ network.lm_head.weight[: tiny_models.VOCAB].T)
    assert torch.equal(network.lm_head.weight[: tiny_models.VOCAB], plain.model.embed_tokens.weight)


def test_adapters_act_on_everything_that_is_not_text() -> None:
    network, batch = tiny_models.tiny("smol-vla"), tiny_models.inputs("smol-vla")
    blocks: list[torch.Tensor] = []
    handle = network.language.layers[1].register_forward_hook(lambda *call: blocks.append(call[2].detach().clone()))
    with torch.no_grad():
        network(**batch)
        for name, value in network.named_parameters():
            if name.endswith(".up"):
                value.zero_()
        network(**batch)
    handle.remove()
    n_text = batch["input_ids"].shape[1] - 4 - network.config.n_action_tokens
    away = (blocks[0] - blocks[1]).abs().amax((0, 2))
    assert (away[:n_text] == 0).all()
    assert (away[n_text:] > 1e-4).all()


def test_going_on_from_text_that_was_read_before_gives_the_same_logits() -> None:
    network = tiny_models.tiny("smol-vla")
    texts = [[5, 6, 7], [5, 8, 9, 10, 11], [6]]
    ids, mask = network.tokens(texts)
    features, state = torch.randn(3, network.vision.n_features + 8), torch.randn(3, 15)
    with torch.no_grad():
        whole = network(ids, state=state, attention_mask=mask, features=features).logits
        later = network.continued(network.read_text(texts), torch.arange(3), features, state)
        alone_ids, alone_mask = network.tokens(texts[:1])
        alone = network(alone_ids, state=state[:1], attention_mask=alone_mask, features=features[:1]).logits
    assert whole.shape == (3, 4, 256)
    torch.testing.assert_close(later, whole, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(alone, whole[:1], atol=1e-4, rtol=1e-4)


# ---- the policy


def test_pictures_words_and_adverbs_reach_the_action() -> None:
    one = policy()
    base = acted(one, "put red block")
    assert base.shape == (3, 1, 7)
    assert np.array_equal(base, acted(one, "put red block"))
    assert not np.array_equal(base, acted(one, "put block"))
    assert not np.array_equal(base, acted(policy(adverb="slowly"), "put red block"))
    assert (base[..., [1, 2, 3, 4, 5]] == 0).all()


def test_the_eyes_skip_words_they_do_not_know_and_the_language_model_does_not() -> None:
    one = policy()
    text, seen = one.heard("put the block kindly")
    assert text == [5, 6, 8, 11]
    assert [one.network.config.eyes().token(i) for i in seen] == ["put", "the", "block"]
    with pytest.raises(BadInput, match="the eyes know none of its words"):
        one.heard("kindly slowly")
    with pytest.raises(BadInput, match="has 7 tokens; allowed are 1 to 6"):
        one.heard("put the red block down slowly kindly")


def test_token_classes_cover_every_real_token_once() -> None:
    one = policy()
    acted(one, "put block", "put the red block down", steps=1)
    classes = one.context.token_classes
    _, mask = one.network.tokens([text for text, _ in one._heard])
    assert torch.equal(sum(value.long() for value in classes.values()), mask)
    assert [int(classes[key][0].sum()) for key in ("image", "language", "state", "action")] == [3, 2, 1, 4]


def test_steering_changes_the_action_and_is_undone() -> None:
    one = policy()
    before = acted(one, "put block", "put red block")
    site = sa.Site("block_output", layer=0, tokens=sa.token_class("action"))
    push = sa.Direction.from_raw({"language.0.block_output": torch.randn(1, tiny_models.WIDTH)}, site)
    with sa.steer(one, sa.Add(push, strength=sa.Strength(200.0, "absolute"))):
        assert not np.array_equal(acted(one, "put block", "put red block"), before)
    assert np.array_equal(acted(one, "put block", "put red block"), before)


# ---- training and files


def test_training_learns_a_toy_and_leaves_the_language_model_alone(tmp_path: Path) -> None:
    network = tiny_models.tiny("smol-vla").train()
    frozen = {name: value.clone() for name, value in network.named_parameters() if not value.requires_grad}
    text = network.read_text([[5, 8], [5, 8, 10]])
    g = torch.Generator().manual_seed(0)
    features = torch.randn(32, network.vision.n_features + 8, generator=g)
    state, which = torch.randn(32, 15, generator=g), torch.arange(32) % 2
    chunk = torch.zeros(32, 2, 7)
    chunk[:, :, 0] = torch.where(which == 1, 0.2, 0.8)[:, None]
    chunk[:, :, 6] = 1.0

    def losses() -> Any:
        while True:
            loss = cloning_loss(network, text, which, features, state, chunk)
            yield loss, loss.item()

    mine = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith("vision.")]
    optimise(mine, Stage(steps=80, learning_rate=5e-3, warm_up=5), losses(), lambda *_: None)
    with torch.no_grad():
        bins = network.continued(text, which, features, state).argmax(-1)
    torch.testing.assert_close(network.actions(bins), chunk, atol=0.05, rtol=0)
    assert all(torch.equal(value, frozen[name]) for name, value in network.named_parameters() if name in frozen)
    # what was trained, and nothing of the language model, is in the file; it gives the same bins back
    save(network, tmp_path / "x.safetensors")
    config, tensors = weights.read(tmp_path / "x.safetensors", KIND)
    assert not any(name in frozen for name in tensors)
    again = tiny_models.tiny("smol-vla")
    assert SmolVLAConfig(**config) == again.config
    fill(again, tensors, "x")
    with torch.no_grad():
        logits = again.continued(text, which, features, state)
    assert (logits.argmax(-1) == bins).float().mean() > 0.95  # half precision on disk
    assert torch.equal(again.lm_head.weight[-256:], again.action_head.weight)
    tensors.pop("queries")
    with pytest.raises(BadArtifact, match="queries"):
        fill(again, tensors, "x")


def test_unknown_names_are_refused() -> None:
    with pytest.raises(UnknownName, match="neither embedded nor a file"):
        load("smol-vla-1b")
    for wrong in ({"n_action_steps": 9}, {"rank": 0}, {"active": (7,)}):
        with pytest.raises(BadInput):
            SmolVLAConfig(**{"words": ("put",), **wrong})


def test_words_are_read_through_the_tail_of_the_word_head_not_the_action_head() -> None:
    assert policy().vocabulary() is None
    names = [f"w{i}" for i in range(tiny_models.VOCAB)]
    words = policy(texts=lambda: names).vocabulary()
    assert words is not None
    assert len(words.tokens) == tiny_models.VOCAB + 256 == len(policy().network.lm_head.weight)
    assert list(words.tokens[: tiny_models.VOCAB]) == names
    assert [words.tokens[i] for i in (words.actions[0], words.actions[-1])] == ["-1.00", "+1.00"]
    found = sa.find(policy(texts=lambda: names), "vocabulary", concept="w7", min_score=0.01)
    assert found.info["neurons"]
