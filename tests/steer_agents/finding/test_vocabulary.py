"""Neurons found by words, on models whose value vectors were planted."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import tiny_models
import torch
from hypothesis import given
from hypothesis import strategies as st

import steer_agents as sa
from policies.base import Policy, Vocabulary
from policies.errors import BadInput, DeadSite, NonFinite, UnknownSite, WrongModel
from policies.tiny_vla import TinyVLAPolicy
from steer_agents.finding import neuron_page
from steer_agents.finding.concepts import WORDS, Concept, concept_of, concept_scores
from steer_agents.finding.neuron_clusters import clusters
from steer_agents.finding.value_vectors import (
    best_tokens,
    final_norm_gain,
    measured_rate,
    neuron_table,
    projected_seconds,
    value_vectors,
    vocabulary_of,
)
from steer_agents.sites import resolve, steerable

V = tiny_models.VOCAB
SLOW, SLOWLY, FAST, QUICK, ODD, FILL = 5, 6, 7, 8, 9, 40
WORD_OF = {SLOW: " slow", SLOWLY: "Slowly", FAST: " fast", QUICK: "quickly", ODD: "</script><b>\n", 10: ""}
NAMES = Vocabulary(
    tuple(WORD_OF.get(i, f"w{i}") for i in range(V - 8)) + tuple(f"{i:+d}" for i in range(8)), range(V - 8, V)
)
PLANTED = {
    (1, 7): [(SLOW, 5.0)],
    (2, 3): [(SLOWLY, 3.0), (SLOW, 3.0)],
    (2, 30): [(SLOW, 3.0), (FAST, 3.0)],
    (0, 11): [(FAST, 5.0), (QUICK, 4.0)],
    (0, 20): [(V - 1, 4.0), (V - 2, 4.0), (V - 3, 4.0)],
}
"""(layer, neuron) -> [(token, how much)]."""


def planted(name: str = "llama") -> torch.nn.Module:
    """A tiny model whose neurons all say "w40", but for the planted ones; the words that are said are orthonormal."""
    model = tiny_models.tiny(name)
    stack = steerable(model).stack(None)[1]
    head = model.get_submodule(stack.head).weight
    with torch.no_grad():
        basis = torch.linalg.qr(torch.randn(head.shape[1], head.shape[1]))[0]
        head.copy_(0.05 * torch.randn(head.shape))
        chosen = sorted({FILL} | {token for tokens in PLANTED.values() for token, _ in tokens})
        head[chosen] = basis[: len(chosen)]
        for location in resolve(steerable(model), sa.Site("mlp_neurons")):
            values = value_vectors(location)
            values.mul_(0.01).add_(2 * head[FILL])
            for (layer, neuron), tokens in PLANTED.items():
                if layer == location.layer:
                    values[neuron] = sum(amount * head[token] for token, amount in tokens)
    return model


def find(model: Any, **options: Any) -> sa.Direction:
    return sa.find(model, "vocabulary", **{"concept": "slow", "words": NAMES, "top_k": 3, "min_score": 0.5, **options})


def found(direction: sa.Direction) -> list[tuple[int, int]]:
    return [(entry["layer"], entry["index"]) for entry in direction.info["neurons"]]


# ---- tokens of value vectors


@given(st.integers(1, 9), st.integers(12, 700), st.integers(1, 10), st.integers(1, 3000), st.integers(0, 99))
def test_the_best_tokens_are_those_of_the_whole_matrix(m: int, v: int, k: int, entries: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    values, head = torch.randn(m, 6, generator=generator), torch.randn(v, 6, generator=generator)
    scores, ids = best_tokens(values, head, k, blank=[1, 4], entries=entries)
    whole = values @ head.T
    whole[:, [1, 4]] = -torch.inf
    torch.testing.assert_close(scores, whole.topk(k).values)
    torch.testing.assert_close(whole.gather(1, ids), scores)
    assert not torch.isin(ids, torch.tensor([1, 4])).any()


def test_weights_stored_in_bfloat16_are_multiplied_in_float32() -> None:
    values, head = torch.randn(4, 16).bfloat16(), torch.randn(300, 16).bfloat16()
    scores, _ = best_tokens(values, head, 5)
    torch.testing.assert_close(scores, (values.float() @ head.float().T).topk(5).values)
    assert scores.dtype == torch.float32


def test_no_more_products_are_held_than_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    full = torch.full

    def counted(shape: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        made.append(shape[0] * shape[1])
        return full(shape, *args, **kwargs)

    monkeypatch.setattr(torch, "full", counted)
    best_tokens(torch.randn(100, 4), torch.randn(640, 4), 10, entries=5000)
    assert made == [7 * 640]


@pytest.mark.parametrize("name", ["llama", "gpt2", "smolvlm", "openvla", "tiny-vla", "smol-vla"])
def test_a_value_vector_is_what_its_neuron_writes(name: str) -> None:
    target = steerable(tiny_models.tiny(name))
    for location in resolve(target, sa.Site("mlp_neurons")):
        values = value_vectors(location)
        one = torch.zeros(1, 1, len(values))
        one[..., 5] = 1.0
        with torch.no_grad():
            written = location.module(one) - location.module(torch.zeros_like(one))
        torch.testing.assert_close(values[5], written[0, 0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", ["llama", "gemma2", "gpt2", "tiny-vla"])
def test_the_gain_of_any_final_norm_is_found(name: str) -> None:
    model = tiny_models.tiny(name)
    norm = model.get_submodule(steerable(model).stack(None)[1].final_norm)
    gain = torch.rand(tiny_models.WIDTH) + 0.5
    with torch.no_grad():
        norm.weight.copy_(gain - 1 if name == "gemma2" else gain)
    torch.testing.assert_close(final_norm_gain(steerable(model)), gain, atol=1e-4, rtol=1e-4)


def test_the_final_norm_weighs_what_is_read() -> None:
    model = planted()
    with torch.no_grad():
        model.model.norm.weight.copy_(torch.rand(tiny_models.WIDTH) + 0.5)
    table = neuron_table(steerable(model), vocabulary=NAMES, top_k=4, final_norm=True)
    values = model.model.layers[1].mlp.down_proj.weight.T * model.model.norm.weight
    products = values @ model.lm_head.weight.T
    products[:, 10] = -torch.inf
    torch.testing.assert_close(table.scores[1], products.topk(4).values.detach(), atol=1e-5, rtol=1e-4)


def test_the_share_of_action_tokens_is_counted() -> None:
    table = neuron_table(steerable(planted()), vocabulary=NAMES, top_k=3)
    assert set(table.tokens(0, 20)) == {"+7", "+6", "+5"}
    assert table.action_share(0)[20] == 1.0
    assert table.action_share(1)[7] < 1.0
    assert table.tokens(1, 7)[0] == " slow"
    assert table.n_neurons == 3 * 48


# ---- finding


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_planted_neuron_is_found_first(name: str) -> None:
    direction = find(planted(name), min_score=0.3)
    assert found(direction)[:2] in ([(1, 7), (2, 3)], [(2, 3), (1, 7)])
    assert direction.site.kind == "mlp_neurons"
    assert sa.neurons_of(direction)["language.1.mlp_neurons"] == (7,)
    assert direction.info["neurons"][0]["score"] > 0.8
    only = find(planted(name), synonyms=[], min_score=0.8)
    assert found(only) == [(1, 7)]
    assert list(only.vectors) == ["language.1.mlp_neurons"]


def test_opposites_count_against() -> None:
    model = planted()
    assert (2, 30) not in found(find(model, min_score=0.3))
    assert (2, 30) in found(find(model, min_score=0.3, antonyms=()))
    assert (2, 30) in found(find(model, min_score=0.3, antonym_penalty=0.0))
    assert found(find(model, concept="fast", min_score=0.5)) == [(0, 11)]


def test_limits_hold() -> None:
    model = planted()
    assert len(found(find(model, min_score=0.3, max_neurons=1))) == 1
    assert found(find(model, min_score=0.3, layers=(2, 3))) == [(2, 3)]
    with torch.no_grad():
        down = model.model.layers[0].mlp.down_proj.weight
        down[:, 40] = 3 * model.lm_head.weight[SLOW] + model.lm_head.weight[V - 1] + model.lm_head.weight[V - 2]
    assert (0, 40) in found(find(model))
    assert (0, 40) not in found(find(model, max_action_share=0.5))


def test_clusters_that_were_planted_are_pure() -> None:
    model = planted()
    down = model.model.layers[0].mlp.down_proj.weight
    with torch.no_grad():
        for n in range(4):
            down[:, n] = (4 + n) * model.lm_head.weight[SLOW]
            down[:, 4 + n] = (4 + n) * model.lm_head.weight[FAST]
    target = steerable(model)
    table = neuron_table(target, vocabulary=NAMES, top_k=3)
    _, head = vocabulary_of(target, None, NAMES)
    members = [(0, n) for n in range(8)]
    slow, fast = sorted(clusters(table, members, head, 2, concept_of("slow")), key=lambda c: c.neurons)
    assert (slow.label, fast.label) == ("slow", "not slow")
    assert slow.neurons == tuple(members[:4])
    assert slow.purity == fast.purity == 1.0
    (mixed,) = clusters(table, members[:5], head, 1, concept_of("slow"))
    assert (mixed.label, mixed.purity) == ("slow", 0.8)
    assert clusters(table, members[:5], head, 1)[0].label == "slow"
    direction = find(model, min_score=0.3, n_clusters=2, min_purity=1.0)
    assert {entry["label"] for entry in direction.info["clusters"]} == {"slow"}
    assert set(members[:4]) <= set(found(direction))
    with pytest.raises(BadInput, match=r"n_clusters must be in 1\.\.5"):
        clusters(table, members[:5], head, 6)


@given(st.lists(st.floats(-2, 5), min_size=6, max_size=6), st.floats(0, 3))
def test_scores_stay_in_their_range(products: list[float], penalty: float) -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 1]])
    made = concept_scores(ids, torch.tensor(products).reshape(2, 3), [1, 2], [4], penalty)
    assert (made <= 1 + 1e-6).all()
    assert (made >= -penalty - 1e-5).all()


def test_all_that_is_written_being_the_concept_scores_one() -> None:
    ids, scores = torch.tensor([[1, 2], [1, 3], [3, 1]]), torch.tensor([[2.0, 1.0], [1.0, 1.0], [3.0, 1.0]])
    torch.testing.assert_close(concept_scores(ids, scores, [1, 2], [3]), torch.tensor([1.0, 0.0, -0.5]))


def test_concepts_are_looked_up_by_any_of_their_words() -> None:
    assert concept_of("slowly").words[0] == "slowly"
    assert "slow" in concept_of("Slowly").words
    assert "fast" in concept_of("slow").opposites
    assert concept_of("wobble") == Concept("wobble", ("wobble",), ())
    assert concept_of("slow", synonyms=["calm"], antonyms=[]).words == ("slow", "calm")
    assert not set(concept_of("low").words) & set(concept_of("low").opposites)
    for name in WORDS:
        concept_of(name)
    with pytest.raises(BadInput, match="cannot be both"):
        concept_of("slow", antonyms=["slow"])
    with pytest.raises(BadInput, match=r"write \['calm'\]"):
        concept_of("slow", synonyms="calm")
    with pytest.raises(BadInput, match="expected a word"):
        concept_of(" ")


# ---- using what was found


def test_setting_the_neurons_adds_their_value_vectors() -> None:
    model, batch = planted(), tiny_models.inputs("llama")
    slow = find(model, min_score=0.3)
    for handle in model.model.layers:  # without activations of their own the two ways agree
        torch.nn.init.zeros_(handle.mlp.up_proj.weight)
    slow = sa.Direction(slow.vectors, slow.site, slow.method, info=slow.info)
    with sa.steer(model, sa.SetNeurons(slow, values=4.0)):
        neurons = tiny_models.outputs(model, batch)
    written = sa.value_direction(model, slow, "block_output")
    with sa.steer(model, sa.Add(written, strength=sa.Strength(4.0, "beta"))):
        added = tiny_models.outputs(model, batch)
    torch.testing.assert_close(neurons, added, atol=1e-4, rtol=1e-4)
    assert (neurons - tiny_models.outputs(model, batch)).abs().max() > 0.1


def test_a_saved_set_is_the_same_set(tmp_path: Path) -> None:
    model = planted()
    slow = find(model, min_score=0.3)
    slow.save(tmp_path / "slow.safetensors")
    again = sa.Direction.load(tmp_path / "slow.safetensors")
    assert sa.neurons_of(again) == sa.neurons_of(slow)
    assert again.info == slow.info
    assert sa.SetNeurons(again, values=4.0).describe() == sa.SetNeurons(slow, values=4.0).describe()
    with pytest.raises(WrongModel):
        sa.steer(tiny_models.tiny("llama"), sa.SetNeurons(again, values=4.0))


def test_the_permuted_control_sets_as_many_other_neurons() -> None:
    model = planted()
    slow = find(model, min_score=0.3)
    control = sa.find(model, "permuted", like=slow, seed=0)
    chosen, others = sa.neurons_of(slow), sa.neurons_of(control)
    assert {key: len(n) for key, n in chosen.items()} == {key: len(n) for key, n in others.items()}
    assert chosen != others


def test_quantiles_are_those_of_the_captured_activations() -> None:
    model, batch = planted(), tiny_models.inputs("llama")
    slow = find(model, min_score=0.3)
    values = sa.activation_quantile(model, slow, [batch], 0.75)
    rows = sa.rows(steerable(model), [batch], slow.site)["language.1.mlp_neurons"][:, 7]
    assert values["language.1.mlp_neurons"] == pytest.approx((float(rows.quantile(0.75)),))
    with sa.steer(model, sa.SetNeurons(slow, values=values)):
        seen = sa.rows(steerable(model), [batch], slow.site)["language.1.mlp_neurons"][:, 7]
    torch.testing.assert_close(seen, torch.full_like(seen, values["language.1.mlp_neurons"][0]))
    with pytest.raises(BadInput, match=r"q must be in \[0, 1\]"):
        sa.activation_quantile(model, slow, [batch], 75)
    with pytest.raises(BadInput, match="got no scenes"):
        sa.activation_quantile(model, slow, [], 0.5)


def test_values_that_do_not_fit_the_set_are_refused() -> None:
    model = planted()
    slow = find(model, min_score=0.3)
    with pytest.raises(BadInput, match="expected values for"):
        sa.SetNeurons(slow, values={"language.1.mlp_neurons": (1.0, 2.0)})
    with pytest.raises(BadInput, match="one number, or a mapping"):
        sa.SetNeurons(slow, values=(1.0, 2.0))
    with pytest.raises(BadInput, match="not both"):
        sa.SetNeurons(slow, indices=(1,), values=1.0)
    with pytest.raises(BadInput, match="belong to a direction"):
        sa.SetNeurons(indices=(1,), values={"a": (1.0,)})
    with pytest.raises(NonFinite):
        sa.SetNeurons(slow, values=float("nan"))
    with pytest.raises(BadInput, match="no set of neurons"):
        sa.SetNeurons(-slow, values=1.0)
    with pytest.raises(BadInput, match="no set of neurons"):
        sa.SetNeurons(sa.find(model, "random", like=slow, seed=0), values=1.0)
    with pytest.raises(BadInput, match="kind must be"):
        sa.value_direction(model, slow, "mlp_neurons")


# ---- refusals


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"concept": "slov", "synonyms": ()}, BadInput, "'slov'.*Nearest words that are: slow"),
        ({"concept": "gently"}, BadInput, "none of gently, gentle"),
        ({"layers": (2, 4)}, BadInput, r"\[2, 4\) does not exist.*has 3 layers"),
        ({"layers": (1, 1)}, BadInput, "0 <= start < stop <= 3"),
        ({"stack": "langage"}, UnknownSite, "did you mean 'language'"),
        ({"top_k": 61}, BadInput, r"top_k must be in 1\.\.60"),
        ({"words": Vocabulary(("a", "b"))}, BadInput, "expected 61 tokens"),
        ({"words": None}, BadInput, "a bare torch module does not say"),
        ({"min_score": 0.0}, BadInput, "min_score"),
        ({"antonym_penalty": -1.0}, BadInput, "antonym_penalty"),
        ({"max_action_share": 2.0}, BadInput, "max_action_share"),
        ({"max_neurons": 0}, BadInput, "max_neurons"),
        ({"concept": "w41"}, BadInput, "none of 144 neurons says 'w41'.*the best has"),
        ({"n_clusters": 99}, BadInput, "n_clusters"),
    ],
)
def test_bad_input_is_refused_with_what_to_do(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        find(planted(), **options)


@pytest.mark.parametrize(
    ("name", "stack", "error", "message"),
    [
        ("mlp", None, BadInput, "stack 'policy' of mlp has no vocabulary.*prompt-contrast"),
        ("chunk-denoiser", None, BadInput, "has no vocabulary.*never becomes words"),
        ("smolvlm", "vision", BadInput, r"stack 'vision' of smolvlm has no vocabulary.*Stacks that have one: language"),
        ("openvla", "projector", BadInput, "stack 'projector' of openvla has no vocabulary"),
    ],
)
def test_stacks_that_write_no_words_are_refused(
    name: str, stack: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        sa.find(tiny_models.tiny(name), "vocabulary", concept="slow", stack=stack)


def test_stacks_without_feed_forward_neurons_and_dead_layers_are_refused() -> None:
    from dataclasses import replace

    target = steerable(planted())
    name, stack = target.stack(None)

    def with_stack(**changes: Any) -> Any:
        return replace(target, site_map=replace(target.site_map, stacks={name: replace(stack, **changes)}))

    blind = with_stack(places={"block_output": stack.places["block_output"]})
    with pytest.raises(UnknownSite, match="'mlp_neurons' is not in stack 'language'"):
        find(blind)
    dying = with_stack(dead={-1: "nobody reads it."})
    assert 2 not in neuron_table(dying, vocabulary=NAMES).ids
    with pytest.raises(DeadSite, match="nobody reads it"):
        find(dying, layers=(1, 3))
    with pytest.raises(BadInput, match="no final norm"):
        find(with_stack(final_norm=None), final_norm=True)


def test_a_policy_without_words_is_refused_by_name() -> None:
    class Mute(TinyVLAPolicy):
        def vocabulary(self) -> None:  # type: ignore[override]
            return Policy.vocabulary(self)

    with pytest.raises(BadInput, match="policy 'tiny-vla' does not say what the rows of 'lm_head' mean"):
        sa.find(Mute(tiny_models.tiny("tiny-vla")), "vocabulary", concept="slowly")


def test_weights_that_are_not_finite_are_refused() -> None:
    model = planted()
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight[0, 0] = torch.nan
    with pytest.raises(NonFinite, match="layer 1"):
        find(model)


def test_packed_weights_are_refused() -> None:
    model = planted()
    down = model.model.layers[0].mlp.down_proj
    down.weight = torch.nn.Parameter(torch.zeros(100, dtype=torch.uint8), requires_grad=False)
    with pytest.raises(BadInput, match=r"torch.uint8.*without quantisation"):
        find(model)


# ---- the policy's own words


def test_a_policy_names_its_tokens_itself() -> None:
    policy = TinyVLAPolicy(tiny_models.tiny("tiny-vla"))
    words = policy.vocabulary()
    slowly = words.tokens.index("slowly")
    with torch.no_grad():
        head = policy.network.lm_head.weight
        policy.network.layers[2].mlp.down_proj.weight[:, 9] = 50 * head[slowly] / head[slowly].norm()
    direction = sa.find(policy, "vocabulary", concept="slow", min_score=0.1, max_neurons=1)
    assert found(direction) == [(2, 9)]
    assert direction.info["neurons"][0]["tokens"][0] == "slowly"


# ---- the table to browse


def test_the_page_is_one_file_and_tokens_cannot_act(tmp_path: Path) -> None:
    model = planted()
    with torch.no_grad():
        model.model.layers[0].mlp.down_proj.weight[:, 0] = 9 * model.lm_head.weight[ODD]
    table = neuron_table(steerable(model), vocabulary=NAMES, top_k=3)
    path = neuron_page.write_page(tmp_path / "neurons.html", table, "neurons of <tiny>", concept_of("slow"))
    text = path.read_text()
    assert "neurons of &lt;tiny&gt;" in text
    assert "<b>" not in text
    assert text.count("</script>") == 2
    assert not re.findall(r"(?:src|href)=\"(?!data:)", text)
    assert "prefers-color-scheme: dark" in text
    data = json.loads(re.search(r'type="application/json">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]
    assert len(data["rows"]) == 144
    first = data["rows"][0]
    assert first[:2] in ([1, 7], [2, 3])
    assert "</script><b>\\n" in data["tokens"]
    assert {data["tokens"][i] for i in data["actions"]} <= set(NAMES.tokens[V - 8 :])
    few = neuron_page.write_page(tmp_path / "few.html", table, "few", max_rows=10).read_text()
    assert "134 are left out" in few
    with pytest.raises(BadInput, match="max_rows"):
        neuron_page.write_page(tmp_path / "none.html", table, "none", max_rows=0)


# ---- time


def test_time_is_projected_from_the_rate() -> None:
    assert projected_seconds(32 * 11008, 32064, 4096, 1e11) == pytest.approx(925.3, rel=1e-3)
    assert measured_rate(n_tokens=200, hidden_size=8, n_neurons=32) > 0
