"""Rules as directions: identity where none fits, the closed form, and what a rule's text does against what its vector does."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_models
import torch

from policies.errors import BadInput, WrongModel
from steer_agents import capture, recipe
from steer_agents.methods import METHODS
from steer_agents.sites import Site, Steerable
from steer_agents.steerer import steer
from steer_agents.training.mentor import RetrievedRules, RuleBank, looked_up, rule_bank, with_rule

SITE = Site(layer=2, tokens="last")
KEY = "language.2.block_output"


def rows(first: int, n: int, seed: int) -> list[torch.Tensor]:
    """Situations (1, 5) of one kind: they share all tokens but the first, which is what makes them alike to a random model."""
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(3, 55, (n, 5), generator=draw)
    ids[:, 1:] = torch.arange(first, first + 4)
    return list(ids[:, None])


def ruled(rule: list[int], prompts: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torch.cat([torch.tensor([rule]), one], dim=1) for one in prompts]


RULE, OTHER = [7, 11, 7, 11], [40, 41, 42]


def bank_at(llama: Steerable, layer: int) -> RuleBank:
    rules = {}
    for text, rule, first in (("be careful", RULE, 20), ("be quick", OTHER, 50)):
        known = rows(first, 24, seed=first)
        rules[text] = (ruled(rule, known), known)
    return rule_bank(llama, rules=rules, site=Site(layer=layer, tokens="last"))


@pytest.fixture
def bank(llama: Steerable) -> RuleBank:
    return bank_at(llama, 2)


def logits(llama: Steerable, prompts: list[torch.Tensor]) -> torch.Tensor:
    with torch.no_grad():
        return torch.cat([llama.module(one).logits[:, -1] for one in prompts])


def kl(a: torch.Tensor, b: torch.Tensor) -> float:
    p, q = a.log_softmax(-1), b.log_softmax(-1)
    return float((p.exp() * (p - q)).sum(-1).mean())


def test_the_vector_does_what_the_text_does_on_situations_that_it_has_not_seen(
    llama: Steerable, bank: RuleBank
) -> None:
    """Pearson correlation of the changes of logits at least .8, at the last layer, where the rule was looked up."""
    fresh = rows(20, 24, seed=900)
    before, wanted = logits(llama, fresh), logits(llama, ruled(RULE, fresh))
    with steer(llama.module, RetrievedRules(bank, strength=1.0, threshold=0.0)):
        after = logits(llama, fresh)
    h = capture.rows(llama, fresh, bank.site)[KEY]
    found = looked_up(h, bank.keys[KEY], bank.means[KEY], 1, 0.0)[:, 0] > 0  # the others got the other rule
    assert found.float().mean() > 0.7
    pairs = torch.stack([(after - before)[found].flatten(), (wanted - before)[found].flatten()])
    assert float(torch.corrcoef(pairs)[0, 1]) >= 0.8


def test_situations_of_no_rule_are_left_alone(llama: Steerable) -> None:
    """At most a fifth of the related situations' KL; at the first layer, as a random model mixes all situations deeper in."""
    related, strange = rows(20, 24, seed=900), rows(33, 24, seed=901)
    with steer(llama.module, RetrievedRules(bank_at(llama, 0), strength=1.0, threshold=0.3)):
        pushed, left = logits(llama, related), logits(llama, strange)
    assert kl(logits(llama, strange), left) <= 0.2 * kl(logits(llama, related), pushed)


def test_where_no_rule_fits_nothing_changes(llama: Steerable, bank: RuleBank) -> None:
    away = RuleBank(bank.rules, bank.keys, bank.vectors, {key: one + 1e4 for key, one in bank.means.items()}, SITE)
    fresh = rows(20, 6, seed=902)
    before = logits(llama, fresh)
    with steer(llama.module, RetrievedRules(away, threshold=0.9)):
        assert torch.equal(logits(llama, fresh), before)


def test_the_lookup_by_hand() -> None:
    keys, mean = torch.eye(3), torch.zeros(3)
    h = torch.tensor([[0.8, 0.6, 0.0], [0.0, 0.0, -1.0]])
    torch.testing.assert_close(looked_up(h, keys, mean, 1, 0.5), torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    torch.testing.assert_close(looked_up(h, keys, mean, 3, 0.5), torch.tensor([[0.75, 0.25, 0], [0, 0, 0]]))
    part = RetrievedRules(RuleBank(("a", "b", "c"), {"k": keys}, {"k": 2 * keys}, {"k": mean}, SITE), threshold=0.5)
    edited = part.edit(h, part.tensors_at("k"), torch.tensor(0.5))
    torch.testing.assert_close(edited, h + torch.tensor([[1.0, 0, 0], [0, 0, 0]]))
    assert torch.equal(edited[1], h[1])


def test_a_bank_is_a_file_that_a_recipe_attaches_to_its_own_model_only(
    llama: Steerable, bank: RuleBank, tmp_path: Path
) -> None:
    again = RuleBank.load(bank.save(tmp_path / "rules.safetensors"))
    assert again.rules == bank.rules
    assert torch.equal(again.vectors[KEY], bank.vectors[KEY])
    (tmp_path / "careful.yaml").write_text(
        "recipe: 1\npolicy: tiny\nparts:\n  - rules: rules.safetensors\n    strength: 1.0\n    threshold: 0.1\n    m: 2\n"
    )
    found = recipe.load(tmp_path / "careful.yaml").parts[0].part
    assert isinstance(found, RetrievedRules)
    assert (found.m, found.threshold, found.bank.rules) == (2, 0.1, bank.rules)
    fresh = rows(20, 4, seed=903)
    with steer(llama.module, found):
        steered = logits(llama, fresh)
    assert not torch.equal(steered, logits(llama, fresh))
    with pytest.raises(WrongModel, match=r"map \(mentor\) was made for another model"):
        steer(tiny_models.tiny("qwen2"), found)


def test_what_makes_no_bank_says_why(llama: Steerable, bank: RuleBank) -> None:
    some = rows(20, 4, seed=1)
    with pytest.raises(BadInput, match="no rules"):
        rule_bank(llama, rules={})
    with pytest.raises(BadInput, match="4 situations with it and 3"):
        rule_bank(llama, rules={"a": (ruled(RULE, some), some[:3])}, site=SITE)
    with pytest.raises(BadInput, match="pair up"):
        rule_bank(llama, rules={"a": (ruled(RULE, some), some)}, site=Site(layer=2))
    with pytest.raises(BadInput, match="its own"):
        rule_bank(llama, rules={"a": (ruled(RULE, some), some), "b": (ruled(OTHER, some), some)}, site=SITE)
    with pytest.raises(BadInput, match="threshold"):
        RetrievedRules(bank, threshold=1.0)
    assert with_rule("be careful", ["go"]) == ["be careful\ngo"]
    assert METHODS["mentor"].inspired
