"""tiny-vla: vocabulary and action bins, causality, the contract, errors, training on a toy with a known answer, files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

import policies
import steer_agents as sa
from policies.errors import BadArtifact, BadInput, UnknownName
from policies.tiny_vla import TinyVLA, TinyVLAConfig, TinyVLAPolicy, load, save
from policies.tiny_vla.config import N_BINS, SPECIAL
from policies.tiny_vla.files import read
from policies.tiny_vla.training import (
    Stage,
    blurred,
    cloning_loss,
    grounding_loss,
    new,
    optimise,
    relative,
    spot_targets,
)

PIXELS = 16


def policy(**options: Any) -> TinyVLAPolicy:
    return TinyVLAPolicy(tiny_models.tiny("tiny-vla"), **options)


def observation(rows: int = 3, seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    pixels = {key: rng.integers(0, 256, (rows, PIXELS, PIXELS, 3), dtype=np.uint8) for key in ("image", "image2")}
    return {"pixels": pixels, "agent_pos": rng.normal(size=(rows, 8)).astype(np.float32)}


def infos(*instructions: str) -> list[dict[str, str]]:
    return [{"task_description": text} for text in instructions]


def acted(one: TinyVLAPolicy, said: list[dict[str, str]], steps: int = 4, seeds: list[int] | None = None) -> np.ndarray:
    one.reset(seeds or list(range(len(said))), said)
    return np.stack([one.act(observation(len(said), seed=step)).action for step in range(steps)])


# ---- vocabulary and bins


def test_action_bins_are_the_tail_of_the_vocabulary_and_span_the_action_range() -> None:
    network = tiny_models.tiny("tiny-vla")
    c = network.config
    assert c.vocab_size == len(SPECIAL) + len(c.words) + N_BINS
    assert [c.token(i) for i in (1, 4, c.vocab_size - N_BINS, c.vocab_size - 1)] == ["<image>", "put", "-1.00", "+1.00"]
    logits = torch.zeros(1, 30, c.vocab_size)
    picked = torch.tensor([0, 255, 51, 204])  # H x active, in this order
    logits[0, torch.arange(-4, 0), len(SPECIAL) + len(c.words) + picked] = 1
    chunk = network.actions(network.action_logits(logits).argmax(-1))
    assert chunk.shape == (1, 2, 7)
    torch.testing.assert_close(chunk[0, :, 0], torch.tensor([-1.0, -0.6]))
    torch.testing.assert_close(chunk[0, :, 6], torch.tensor([1.0, 0.6]))
    assert (chunk[0, :, 1:6] == 0).all()


def test_a_blurred_target_has_its_mean_at_the_action() -> None:
    actions = torch.linspace(-0.9, 0.9, 37)
    weights = blurred(actions, 2.0)
    torch.testing.assert_close(weights.sum(-1), torch.ones(37))
    torch.testing.assert_close(weights @ torch.linspace(-1, 1, N_BINS), actions, atol=1e-4, rtol=0)


def test_points_are_relative_to_the_tcp_in_units_of_ten_centimetres() -> None:
    points = torch.tensor([[0.5, 0.1, 0.02, 0.4, 0.0, 0.1, 0.3, 0.9]])
    got = relative(points, torch.tensor([[0.4, 0.1, 0.12, 0, 0, 0, 0, 0]]))
    torch.testing.assert_close(got, torch.tensor([[1.0, 0.0, -1.0, 0.0, -1.0, -0.2, 0.3, 0.9]]))


def test_a_place_in_a_picture_becomes_a_heat_map_around_it() -> None:
    spots = torch.tensor([[0.5, -0.25], [1.2, 0.0]])
    heat, inside = spot_targets(spots, torch.linspace(-1, 1, 33))
    assert inside.tolist() == [1, 0]
    grid = heat[0].unflatten(0, (33, 33))
    torch.testing.assert_close(grid.sum(), torch.tensor(1.0))
    row, column = divmod(int(heat[0].argmax()), 33)
    assert (column, row) == (24, 12)  # x to the right, y down


# ---- the network


def test_a_token_sees_only_what_comes_before_it() -> None:
    network = tiny_models.tiny("tiny-vla")
    batch = tiny_models.inputs("tiny-vla")
    layer = network.layers[0]
    x = torch.randn(1, 9, tiny_models.WIDTH)
    mask = torch.ones(9, 9, dtype=torch.bool).tril()[None, None]
    changed = x.clone()
    changed[:, 5] = torch.randn(tiny_models.WIDTH)
    a, b = layer(x, mask), layer(changed, mask)
    torch.testing.assert_close(a[:, :5], b[:, :5])
    assert (a[:, 5:] - b[:, 5:]).abs().amax(-1).min() > 1e-4
    first = network.config.n_image_tokens
    other = {**batch, "input_ids": batch["input_ids"].clone()}
    other["input_ids"][:, first] = 9  # a word that only the decoder hears
    assert network.config.token(9) == "slowly"
    features = network.look(batch["pixel_values"], batch["input_ids"], batch["state"])
    with torch.no_grad():
        a, b = (network(**rows, features=features).logits for rows in (batch, other))
    torch.testing.assert_close(a[:, :first], b[:, :first])
    assert (a[:, -1] - b[:, -1]).abs().max() > 1e-4


def test_adverbs_do_not_reach_the_vision_tower_and_other_words_do() -> None:
    network = tiny_models.tiny("tiny-vla")
    c, batch = network.config, tiny_models.inputs("tiny-vla", batch=1)

    def look(text: str) -> torch.Tensor:
        ids, _ = network.tokens([c.word_ids(text)])
        return network.look(batch["pixel_values"], ids, batch["state"])

    torch.testing.assert_close(look("put block slowly"), look("put block"))
    assert (look("put red") - look("put block")).abs().max() > 1e-4


def test_shorter_instructions_are_padded_without_effect() -> None:
    network = tiny_models.tiny("tiny-vla")
    c, batch = network.config, tiny_models.inputs("tiny-vla", batch=2)
    said = [c.word_ids("put block"), c.word_ids("put the red block down")]
    ids, mask = network.tokens(said)
    given = {"pixel_values": batch["pixel_values"], "state": batch["state"]}
    alone_ids, alone_mask = network.tokens(said[:1])
    with torch.no_grad():
        together = network(input_ids=ids, attention_mask=mask, **given).logits
        alone = network(
            input_ids=alone_ids, attention_mask=alone_mask, **{key: value[:1] for key, value in given.items()}
        ).logits
    torch.testing.assert_close(together[:1, -4:], alone[:, -4:], atol=1e-4, rtol=1e-4)


# ---- the policy


def test_a_chunk_is_executed_before_the_next_is_decided() -> None:
    one = policy()
    calls: list[int] = []
    handle = one.network.register_forward_hook(lambda *_: calls.append(1))
    actions = acted(one, infos("put block", "put red block"), steps=5)
    handle.remove()
    assert len(calls) == 3  # chunks of two
    assert actions.shape == (5, 2, 7)
    assert np.abs(actions).max() <= 1


def test_equal_seeds_give_equal_actions_and_temperature_draws_per_row() -> None:
    said = infos("put block", "put block", "put red block")
    one = policy()
    greedy = acted(one, said)
    assert np.array_equal(greedy, acted(one, said, seeds=[7, 8, 9]))  # nothing is drawn
    assert one.set_decision(temperature=5.0) == {"temperature": 0.0}
    drawn = acted(one, said)
    assert np.array_equal(drawn, acted(one, said))
    assert not np.array_equal(drawn, acted(one, said, seeds=[7, 8, 9]))
    for wrong in ({"temperature": -1}, {"temperature": "hot"}, {"temp": 1}):
        with pytest.raises(BadInput, match="temperature"):
            one.set_decision(**wrong)
    assert one.set_decision(temperature=0) == {"temperature": 5.0}


def test_token_classes_cover_every_real_token_once() -> None:
    one = policy()
    acted(one, infos("put block", "put the red block down"), steps=1)
    classes = one.context.token_classes
    _, mask = one.network.tokens(one._heard)
    assert set(classes) == {"image", "language", "state", "action"}
    assert torch.equal(sum(value.long() for value in classes.values()), mask)
    assert [int(classes[key][0].sum()) for key in ("image", "language", "state", "action")] == [5, 2, 2, 4]


def test_steering_one_token_class_changes_the_action_and_is_undone() -> None:
    one, said = policy(), infos("put block", "put red block")
    before = acted(one, said)
    site = sa.Site("block_output", layer=1, tokens=sa.token_class("action"))
    width = tiny_models.WIDTH
    push = sa.Direction.from_raw({"language.1.block_output": torch.randn(1, width)}, site)
    with sa.steer(one, sa.Add(push, strength=sa.Strength(200.0, "absolute"))):
        assert not np.array_equal(acted(one, said), before)
    assert np.array_equal(acted(one, said), before)


def test_an_adverb_is_appended_and_described() -> None:
    one = policy(adverb="slowly")
    assert one.spoken("put block") == one.config.word_ids("put block slowly")
    assert one.describe()["adverb"] == "slowly"
    assert policy(instruction="put red block").spoken(None) == one.config.word_ids("Put red block.")


def test_raw_observations_are_encoded_with_their_instruction() -> None:
    one = policy()
    whole = observation(2)
    rows = [
        {"pixels": {key: value[i] for key, value in whole["pixels"].items()}, "agent_pos": whole["agent_pos"][i]}
        for i in range(2)
    ]
    (batch,) = one.encode([{**rows[0], "instruction": "put block"}, {**rows[1], "instruction": "put red block"}])
    with torch.no_grad():
        logits = one.module(**batch).logits
    assert logits.shape == (2, 5 + 3 + 2 + 4, one.config.vocab_size)
    with pytest.raises(BadInput, match="instruction"):
        one.encode(rows)


# ---- errors


def test_unknown_words_are_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"'blok' is unknown; did you mean 'block'\? Allowed: put, the, red, block"):
        policy().reset([0], infos("put the blok"))
    with pytest.raises(BadInput, match="allowed are 1 to 5"):
        policy().reset([0], infos("put the red block down slowly"))
    with pytest.raises(BadInput, match="'fast' is unknown"):
        policy(adverb="fast")
    with pytest.raises(BadInput, match="task_description"):
        policy().reset([0])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda o: o.pop("agent_pos"), "obs_type='pixels_agent_pos', camera_size=16"),
        (lambda o: o["pixels"].pop("image2"), "image2"),
        (lambda o: o["pixels"].update(image=np.zeros((1, 24, 24, 3), np.uint8)), r"expected \(B, 16, 16, 3\) uint8"),
        (lambda o: o["pixels"].update(image=np.zeros((1, 16, 16, 3), np.float32)), "float32"),
        (lambda o: o.update(agent_pos=np.zeros((1, 6))), r"expected \(B, 8\)"),
    ],
)
def test_wrong_observations_are_refused(change: Any, message: str) -> None:
    one, seen = policy(), observation(1)
    one.reset([0], infos("put block"))
    change(seen)
    with pytest.raises(BadInput, match=message):
        one.act(seen)


@pytest.mark.parametrize(
    "wrong",
    [
        {"hidden_size": 30}, {"n_action_steps": 9}, {"active": (7,)}, {"words": ("a", "a")}, {"adverbs": ("loudly",)},
        {"camera_size": 30}, {"chunk_size": 0},
    ],
)  # fmt: skip
def test_bad_sizes_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        TinyVLAConfig(**{"words": ("put",), **wrong})


# ---- training


def test_both_stages_learn_a_toy_with_a_known_answer() -> None:
    config = tiny_models.tiny("tiny-vla").config
    network = new(config, 0)
    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), new(config, 0).parameters(), strict=True))
    g = torch.Generator().manual_seed(0)
    pixels = torch.full((64, 2, PIXELS, PIXELS, 3), 90, dtype=torch.uint8)
    spots = torch.randint(2, PIXELS - 2, (64, 2), generator=g)
    for row, (x, y) in enumerate(spots.tolist()):
        pixels[row, :, y - 1 : y + 2, x - 1 : x + 2] = 250
    points = torch.zeros(64, 8)
    points[:, :2] = spots / PIXELS * 0.2
    places = (2 * (spots.float() + 0.5) / PIXELS - 1)[:, None, None].expand(-1, 2, 2, -1)
    state = torch.zeros(64, 15)
    slowly = torch.arange(64) % 2
    ids, mask = network.tokens([config.word_ids("put slowly" if s else "put block") for s in slowly])
    losses: list[float] = []
    errors: list[float] = []

    def grounding() -> Any:
        while True:
            loss, away = grounding_loss(network, pixels, ids, state, points, places)
            errors.append(away.median().item())
            yield loss, loss.item()

    stage = Stage(steps=60, batch_size=64, learning_rate=5e-3, warm_up=5)
    optimise(list(network.vision.parameters()), stage, grounding(), lambda _, loss: losses.append(loss))
    assert losses[-1] < 0.4 * losses[0]
    assert errors[-1] < 0.4 * errors[0]
    chunk = torch.zeros(64, 2, 7)
    chunk[:, :, 0] = torch.where(slowly.bool(), 0.2, 0.8)[:, None]
    chunk[:, :, 6] = 1.0
    features = network.look(pixels, ids, state).detach()

    def cloning() -> Any:
        while True:
            loss, shown = cloning_loss(network, features, ids, mask, state, chunk, points)
            yield loss, shown.item()

    before = [parameter.clone() for parameter in network.vision.parameters()]
    own = [parameter for name, parameter in network.named_parameters() if not name.startswith("vision.")]
    optimise(own, stage, cloning(), lambda *_: None)
    assert all(torch.equal(a, b) for a, b in zip(before, network.vision.parameters(), strict=True))
    with torch.no_grad():
        logits = network(ids, pixels, state, mask).logits
    got = network.actions(network.action_logits(logits).argmax(-1))
    torch.testing.assert_close(got, chunk, atol=0.05, rtol=0)


# ---- files


def test_a_file_gives_the_same_policy_back(tmp_path: Path) -> None:
    network = tiny_models.tiny("tiny-vla")
    save(network, tmp_path / "small.safetensors")
    again = read(tmp_path / "small.safetensors")
    assert isinstance(again, TinyVLA)
    assert again.config == network.config
    batch = tiny_models.inputs("tiny-vla")
    assert torch.equal(tiny_models.outputs(again.eval(), batch), tiny_models.outputs(network, batch))
    one = policies.load(f"tiny-vla:{tmp_path / 'small.safetensors'}", adverb="slowly")
    assert one.name == "small"
    with pytest.raises(UnknownName, match="neither embedded nor a file"):
        load("huge-vla")
    (tmp_path / "small.safetensors").write_bytes(b"no weights")
    with pytest.raises(BadArtifact):
        load(str(tmp_path / "small.safetensors"))
