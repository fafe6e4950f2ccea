"""Contrast sets: what is known of pairs, what is left out, what of a text is read, and each planted direction found again."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from steering_parts import absolute
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

import steer_agents as sa
from policies.errors import BadInput, NonFinite
from policies.llm_agent import LLMAgent
from policies.mlp import MLP, MLPConfig
from steer_agents.finding.contrast_sets import ContrastSet, equal_by
from steer_agents.finding.excerpts import Excerpt, item_means, reply, token_span
from steer_agents.finding.personas import InRole
from steer_agents.finding.styles import Attempt, shortest_longest
from steer_agents.finding.thoughts import Boundary, boundaries, category_of, delimiter_tokens, stable, thought_contrast
from steer_agents.sites import Site, steerable

D, KEY, SITE = 64, "policy.0.mlp_neurons", Site("mlp_neurons", layer=0)
U = torch.nn.functional.normalize(torch.randn(D, generator=torch.Generator().manual_seed(42)), dim=0)


def network() -> MLP:
    torch.manual_seed(0)
    return MLP(MLPConfig(D, 2, (4,)))


def rows(x: torch.Tensor) -> list[torch.Tensor]:
    return list(x.split(1))


def cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(torch.nn.functional.cosine_similarity(a.double(), b.double(), dim=0))


def paired_rows(n: int = 50, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Planted +-2u, a nuisance of sd 3 that both of a pair share, noise of sd 1: the sheet's numbers."""
    g = torch.Generator().manual_seed(seed)
    shared = 3 * torch.randn(n, D, generator=g)
    plus, minus = (shared + side * 2 * U + torch.randn(n, D, generator=g) for side in (1, -1))
    return plus, minus


# ---- pairs, weights


def test_pairing_changes_what_is_known_and_not_the_direction() -> None:
    plus, minus = paired_rows()
    paired = sa.find(network(), "paired-difference", positive=rows(plus), negative=rows(minus), site=SITE)
    loose = sa.find(network(), "contrast-set", contrast=ContrastSet("loose", rows(plus), rows(minus)), site=SITE)
    plain = sa.find(network(), "mean-difference", positive=rows(plus), negative=rows(minus), site=SITE)
    for other in (loose, plain):
        torch.testing.assert_close(paired.vector(KEY), other.vector(KEY), atol=1e-5, rtol=0)
    a, b = (one.info["fit"][KEY] for one in (paired, loose))
    assert a["half_cosine"] > 0.8
    assert a["half_cosine"] > b["half_cosine"] + 0.2  # unpaired halves are apart by the shared nuisance
    d = ((plus - minus).double() @ paired.vector(KEY).double()).numpy()
    assert a["standard_error"] == pytest.approx(d.std(ddof=1) / math.sqrt(50), rel=1e-5)
    sides = [(x.double() @ paired.vector(KEY).double()).numpy().std(ddof=1) ** 2 / 50 for x in (plus, minus)]
    assert b["standard_error"] == pytest.approx(math.sqrt(sum(sides)), rel=1e-5)
    assert a["standard_error"] < 0.6 * b["standard_error"]


def test_efficiency_finds_the_planted_direction_and_beats_unpaired_halves_on_every_seed() -> None:
    cosines = []
    for seed in range(5):
        plus, minus = paired_rows(seed=seed)
        attempts = [Attempt(i, x, True, 10) for i, x in enumerate(rows(plus))]
        attempts += [Attempt(i, x, True, 40) for i, x in enumerate(rows(minus))]
        found = sa.find(network(), "efficiency", attempts=attempts, site=SITE)
        apart = sa.find(
            network(), "contrast-set", contrast=ContrastSet("halves", rows(plus[::2]), rows(minus[1::2])), site=SITE
        )
        cosines.append(cosine(found.vector(KEY), U))
        assert cosine(found.vector(KEY), U) > cosine(apart.vector(KEY), U) + 0.05
        assert found.info["mean_lengths"] == [10, 40]
    assert sum(cosines) / 5 >= 0.9  # 4 / sqrt(16 + 2 * 64 / 50) = 0.93 is to be expected


def test_failures_never_enter_the_efficiency_contrast() -> None:
    short, long, wrong = (torch.full((1, D), value) for value in (1.0, 2.0, 99.0))
    attempts = [
        Attempt("a", short, True, 5),
        Attempt("a", long, True, 50),
        Attempt("a", wrong, False, 1),  # shorter than every success
        Attempt("a", wrong, False, 500),
        Attempt("b", wrong, False, 1),
        Attempt("b", wrong, False, 9),  # a pair, but of failures
        Attempt("c", wrong, True, 8),
        Attempt("c", wrong, True, 10),  # solved twice, about equally long
    ]
    contrast = shortest_longest(attempts)
    assert torch.equal(torch.cat(list(contrast.positive)), short)
    assert torch.equal(torch.cat(list(contrast.negative)), long)
    assert contrast.info["n_tasks_left_out"] == 2
    with pytest.raises(BadInput, match=r"of 2 tasks 1 were solved, 1 of them twice, and none with lengths"):
        shortest_longest(attempts[4:])
    with pytest.raises(BadInput, match="max_ratio=1"):
        shortest_longest(attempts, max_ratio=1)
    with pytest.raises(NonFinite, match="length must be finite"):
        Attempt("a", short, True, 0)


def test_weights_count_a_group_once() -> None:
    x = torch.randn(6, D)
    groups = ["a", "a", "a", "a", "b", "c"]
    contrast = ContrastSet("grouped", rows(torch.zeros(1, D)), rows(x), weights=([1.0], equal_by(groups)))
    found = sa.find(network(), "contrast-set", contrast=contrast, site=SITE)
    mean = (x[:4].mean(0) + x[4] + x[5]) / 3
    torch.testing.assert_close(found.vector(KEY), -mean / mean.norm(), atol=1e-5, rtol=0)


def test_what_makes_no_contrast_is_refused() -> None:
    x = rows(torch.randn(3, D))
    with pytest.raises(BadInput, match="got 3 positive and 0 negative"):
        ContrastSet("empty", x, [])
    with pytest.raises(BadInput, match="the same weights on both sides"):
        ContrastSet("uneven", x, x, paired=True, weights=([1, 1, 1], [1, 2, 1]))
    for contrast, message in (
        (ContrastSet("pairs", x, x[:2], paired=True), "3 positive and 2 negative"),
        (ContrastSet("few", x, x, weights=([1, 1], [1, 1])), "expected 3 finite weights of positive"),
        (ContrastSet("below", x, x, weights=([1, 1, 1], [1, -1, 1])), "weights of negative"),
        (ContrastSet("mixed", [Excerpt("ab", ((0, 1),)), "b"], x), "1 excerpts among 2 items of a bare torch"),
    ):
        with pytest.raises(BadInput, match=message):
            sa.find(network(), "contrast-set", contrast=contrast, site=SITE)
    for spans in ((), ((0, 3),), ((1, 1),), ((1, 2), (0, 1))):
        with pytest.raises(BadInput, match="spans must be"):
            Excerpt("ab", spans)


# ---- personas


def test_every_role_counts_once_and_the_axis_points_to_the_default() -> None:
    g = torch.Generator().manual_seed(1)
    aside = torch.nn.functional.normalize(torch.randn(D, generator=g), dim=0)
    aside = torch.nn.functional.normalize(aside - (aside @ U) * U, dim=0)
    replies = [InRole(None, x) for x in rows(4 * U + 0.3 * torch.randn(20, D, generator=g))]
    for i in range(12):  # roles lie at other distances from the default; one talks most, and of something else
        far = -4 * U * (0.2 + i / 6) + (6 * aside if i == 6 else 0)
        replies += [
            InRole(f"role {i}", x) for x in rows(far + 0.3 * torch.randn(200 if i == 6 else 10, D, generator=g))
        ]
    stepped_out = [InRole("role 3", torch.full((1, D), 50.0), score=2)] * 30
    axis = sa.find(network(), "assistant-axis", replies=[*replies, *stepped_out], site=SITE)
    assert cosine(axis.vector(KEY), U) > 0.95
    assert axis.info["n_left_out"] == 30
    pooled = torch.cat([one.item for one in replies if one.role is None]).mean(0) - torch.cat(
        [one.item for one in replies if one.role]
    ).mean(0)
    assert cosine(pooled, U) < 0.95 < cosine(axis.vector(KEY), U)  # what counting replies instead of roles would give
    fit = axis.info["fit"][KEY]
    assert fit["pc1_cosine"] > 0.9
    assert fit["pc1_share"] == pytest.approx(16 * 0.331 / (16 * 0.331 + 36 * 11 / 144), abs=0.08)  # as planted
    # a floor on it lifts a role and leaves the default alone, bit by bit
    h = torch.cat([5 * U[None], -4 * U[None]])[None]
    capped = sa.Cap(axis, bound=0.0).edit(h, (axis.vectors[KEY], torch.tensor(0.0)), torch.ones(1, 1, 1))
    assert torch.equal(capped[0, 0], h[0, 0])
    assert float(capped[0, 1] @ axis.vector(KEY)) == pytest.approx(0, abs=1e-5)
    with pytest.raises(BadInput, match=r"got 20 replies of the default persona .* and 0 of 50"):
        sa.find(network(), "assistant-axis", replies=[*replies[:20], *stepped_out], site=SITE)


# ---- texts

WORDS = [
    *(f"w{i}" for i in range(40)),
    *(f" w{i}" for i in range(40)),
    " Wait",
    " Alternatively",
    "Wait",
    "Alternatively",
]
MARKS = [f"{mark}\n\n" for mark in [".", *(f"{kind}{i}" for kind in "ert" for i in range(8))]]


@pytest.fixture(scope="module")
def agent() -> LLMAgent:
    """A random model whose block 0 passes embeddings on, and whose delimiters come in many spellings."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "</s>", *WORDS, *MARKS, " ", "."])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[.ert][0-9]?\n\n| ?[A-Za-z]+[0-9]*|\.| "), "isolated")
    tokenizer.decoder = decoders.Fuse()
    fast = tf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>", pad_token="</s>")
    torch.manual_seed(0)
    config = tf.LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=400, head_dim=8,
    )  # fmt: skip
    model = tf.LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.3)
        first = model.model.layers[0]
        first.self_attn.o_proj.weight.zero_()
        first.mlp.down_proj.weight.zero_()
    return LLMAgent(model, fast)


BLOCK, WIDE = "language.0.block_output", Site(layer=0)


def embedding(agent: LLMAgent, token: str) -> torch.Tensor:
    table: torch.Tensor = agent.module.get_input_embeddings().weight.detach()
    return table[agent.tokenizer.convert_tokens_to_ids(token)]


def test_an_excerpt_is_read_at_its_own_tokens_in_batches_of_uneven_length(agent: LLMAgent) -> None:
    target = steerable(agent)
    items = [reply("w1 w2 w3", " w4 w5"), reply("w6", " w7"), Excerpt("w1 w2 w3.", ((2, 5), (8, 9)))] * 7
    means, seen = item_means(target, items, WIDE)
    expected = [[" w4", " w5"], [" w7"], [" w2", "."]] * 7
    for row, tokens in zip(means[BLOCK], expected, strict=True):
        torch.testing.assert_close(row, torch.stack([embedding(agent, one) for one in tokens]).mean(0))
    assert seen[BLOCK].n == 7 * 5
    assert not agent.context.token_classes  # given back
    text = "w1 w2 w3"
    ids = agent.encode([text])[0]["input_ids"][0].tolist()
    assert token_span(target, text, ids, (0, 8)) == (0, 3)
    assert token_span(target, text, ids, (3, 5)) == (1, 2)
    assert token_span(target, text, ids, (4, 7)) == (1, 3)  # a token that lies across a bound belongs to it


def test_asc_shortens_with_positive_strength_at_the_place_where_it_was_read(agent: LLMAgent) -> None:
    prompts = ["w1 w2", "w3"]
    found = sa.find(
        agent, "asc", prompts=prompts, concise=[" w4"] * 2, verbose=[" w5 w6 w7"] * 2, site=Site(layer=0, tokens="last")
    )
    u = embedding(agent, " w4") - embedding(agent, " w7")
    torch.testing.assert_close(found.vector(BLOCK), u / u.norm(), atol=1e-5, rtol=0)  # concise minus verbose
    # steering moves exactly what was captured, not the block behind it
    batch = agent.encode(["w1 w2 w7"])
    before = sa.rows(steerable(agent), batch, Site(layer=0, tokens="last"))[BLOCK]
    with sa.steer(agent, sa.Add(found, strength=absolute(2.0))):
        after = sa.rows(steerable(agent), batch, Site(layer=0, tokens="last"))[BLOCK]
    torch.testing.assert_close(after - before, 2 * found.vector(BLOCK)[None], atol=1e-5, rtol=0)
    with pytest.raises(BadInput, match=r"got \[2, 1\] for 2"):
        sa.find(agent, "asc", prompts=prompts, concise=["a", "b"], verbose=["c"])


# ---- thoughts


def text_of(kinds: str, seed: int = 0) -> str:
    """A reply whose delimiters are spelled after what follows them: e goes on, r looks back, t changes course."""
    begins = {"e": "w1", "r": "Wait", "t": "Alternatively"}
    parts = [f"w{seed % 40}"]
    for i, kind in enumerate(kinds):
        parts.append(f"{kind}{(i + seed) % 8}\n\n{begins[kind]} w{(3 * i + seed) % 40}")
    return "".join(parts)


KINDS = ["eerte", "ertee", "teree", "eeeer", "reteet"]
REPLIES = [("w9.\n\n", text_of(kinds, seed)) for seed in range(8) for kinds in KINDS]


@pytest.fixture
def spelled(agent: LLMAgent) -> dict[str, torch.Tensor]:
    """Three orthogonal category directions, planted in noise into the embeddings of the delimiters."""
    g = torch.Generator().manual_seed(5)
    basis = torch.linalg.qr(torch.randn(32, 4, generator=g))[0].T
    planted = dict(zip("ert", basis, strict=False))
    table = agent.module.get_input_embeddings().weight
    with torch.no_grad():
        for mark in MARKS[1:]:
            row = 3 * basis[3] + 4 * planted[mark[0]] + 0.15 * torch.randn(32, generator=g)
            table[agent.tokenizer.convert_tokens_to_ids(mark)] = row
    return planted


def test_seal_finds_the_planted_categories_and_weighs_by_delimiters(
    agent: LLMAgent, spelled: dict[str, torch.Tensor]
) -> None:
    found = sa.find(agent, "seal", replies=REPLIES, site=WIDE)
    count = found.info["thoughts"]
    n_r, n_t = count["reflection"], count["transition"]
    assert count["execution"] == sum(kinds.count("e") for kinds in KINDS) * 8
    planted = spelled["e"] - (n_r * spelled["r"] + n_t * spelled["t"]) / (n_r + n_t)
    assert cosine(found.vector(BLOCK), planted) > 0.95
    # the form with three means: S = E - (n_R R + n_T T) / (n_R + n_T), the prompt's delimiter left out
    means = {
        kind: torch.stack(
            [
                embedding(agent, f"{kind}{(i + seed) % 8}\n\n")
                for seed in range(8) for kinds in KINDS for i, one in enumerate(kinds) if one == kind
            ]
        ).mean(0)
        for kind in "ert"
    }  # fmt: skip
    s = means["e"] - (n_r * means["r"] + n_t * means["t"]) / (n_r + n_t)
    torch.testing.assert_close(found.vector(BLOCK) * found.statistic(BLOCK, "raw_norm"), s, atol=1e-5, rtol=0)
    halves = sa.find(agent, "seal", replies=REPLIES, shares={"reflection": 0.5, "transition": 0.5}, site=WIDE)
    s = means["e"] - means["r"] / 2 - means["t"] / 2
    torch.testing.assert_close(halves.vector(BLOCK) * halves.statistic(BLOCK, "raw_norm"), s, atol=1e-5, rtol=0)
    # adding the three means one by one is adding their combination
    batch = agent.encode([REPLIES[0][1]])
    one = [sa.Direction.from_raw({BLOCK: m}, found.site) for m in (means["e"], -means["r"] / 2, -means["t"] / 2)]
    total = sa.Direction.from_raw({BLOCK: s}, found.site)
    moved = []
    for parts in (
        [sa.Add(d, strength=absolute(d.statistic(BLOCK, "raw_norm"))) for d in one],
        [sa.Add(total, strength=absolute(float(s.norm())))],
    ):
        with sa.steer(agent, *parts):
            moved.append(sa.rows(steerable(agent), batch, WIDE)[BLOCK])
    torch.testing.assert_close(moved[0], moved[1], atol=1e-5, rtol=0)


def test_seal_edits_delimiters_only_and_without_one_nothing(agent: LLMAgent, tmp_path: Path) -> None:
    found = sa.find(agent, "seal", replies=REPLIES, site=WIDE)
    found.save(tmp_path / "seal.safetensors")
    assert sa.Direction.load(tmp_path / "seal.safetensors").site == found.site  # the delimiters are in the file
    for text, n in ((REPLIES[0][1], len(KINDS[0])), ("w1 w2. w3", 0)):
        batch = agent.encode([text])
        before = sa.rows(steerable(agent), batch, WIDE)[BLOCK]
        with torch.no_grad():
            logits = agent.module(**batch[0]).logits
        with sa.steer(agent, sa.Add(found, strength=absolute(3.0))), torch.no_grad():
            after = sa.rows(steerable(agent), batch, WIDE)[BLOCK]
            steered = agent.module(**batch[0]).logits
        assert int((after != before).any(-1).sum()) == n
        assert torch.equal(steered, logits) == (n == 0)


def test_boundaries_are_cut_and_named_by_what_follows() -> None:
    found = boundaries([("p.\n\n", "w1.\n\n\n\nWait, no.\n\nAnother way: x.\n\n \n\nSo 5.")])
    assert [(one.category, one.thought) for one in found] == [
        ("reflection", "Wait, no."), ("transition", "Another way: x."), ("execution", "So 5."),
    ]  # fmt: skip
    assert found[0].text[: found[0].end] == "w1.\n\n\n\n"
    assert category_of("We should await it") == "execution"  # a word, not letters within one
    assert category_of("Alternatively, wait") == "transition"


def test_the_stability_filter_drops_mislabelled_boundaries() -> None:
    rng = torch.Generator().manual_seed(0)
    true = [Boundary("", f"{i}.\n\n", len(f"{i}.\n\n"), "Wait", "reflection") for i in range(100)]
    wrong = [Boundary("", f"x{i}.\n\n", len(f"x{i}.\n\n"), "Wait", "reflection") for i in range(100)]

    def write_on(prefix: str, n: int) -> list[str]:
        chance = 0.1 if prefix.startswith("x") else 0.9  # by chance a keyword follows anywhere
        return ["Wait no\n\nso" if float(torch.rand(1, generator=rng)) < chance else "So\n\nWait" for _ in range(n)]

    kept = stable([*true, *wrong], write_on)
    assert sum(one in kept for one in wrong) <= 20
    assert sum(one in kept for one in true) >= 90
    with pytest.raises(BadInput, match="8 were asked for"):
        stable(true, lambda prefix, n: [])


def test_what_seal_cannot_do_is_told(agent: LLMAgent) -> None:
    with pytest.raises(BadInput, match="no token of this policy holds the delimiter"):
        delimiter_tokens(steerable(agent), "\n\n\n")
    with pytest.raises(BadInput, match=r"needs execution and other thoughts, got \{'execution': 1\}"):
        sa.find(agent, "seal", replies=[("", "a.\n\nb")])
    with pytest.raises(BadInput, match="did you mean 'reflection'"):
        thought_contrast(boundaries(REPLIES), shares={"reflexion": 1.0})
    options: dict[str, Any] = {"replies": REPLIES}
    with pytest.raises(BadInput, match="needs a policy with a vocabulary"):
        sa.find(network(), "seal", **options)
