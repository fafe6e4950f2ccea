"""Rules as directions that are looked up: a bank of rules, the ones that fit what the model is reading, and their vectors added.

Inspired by MENTOR (arXiv 2511.07107), of which only the abstract and digests were at hand: rules are distilled from a model's own
critique, the relevant ones are retrieved at run time, and act as activations ("rule vectors") instead of text. The following is
our reading and reproduces no number of the paper; how rules are made (self-critique, rule tree, evolution) is not here, they are given.

    r_k = mean over the situations x of rule k of  h(rule_k, x) - h(x)                     last token, at every location of the site
    key_k = mean_x h(x) - mean of all situations
    w_k = max(cos(h - mean, key_k) - threshold, 0) of the m largest, made to sum to 1; 0 for the others
    h <- h + s sum_k w_k r_k

A rule whose situations are unlike what is being read has weight 0, and where no rule fits h is left as it is, bit for bit. s = 1 is
the whole effect that the rule's text had at that layer. Rules are looked up anew at every token of the site's scope, so that the edit
is a function of the activation alone: what an earlier token looked up is not remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch.nn.functional import normalize

from policies.errors import BadInput
from steer_agents import capture, kept
from steer_agents.artifacts import site_from
from steer_agents.finding.contrast import batches_of
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.intervention import Intervention
from steer_agents.sites import Site, Steerable
from steer_agents.strength import Strength

KIND = "rule bank"


@dataclass(frozen=True, eq=False)
class RuleBank:
    """Rules with their keys and vectors.

    Args:
        rules: K texts.
        keys: location key -> (K, D) unit vectors that rules are looked up by.
        vectors: location key -> (K, D) raw rule vectors, in units of the activation.
        means: location key -> (D,) mean activation over all situations.
        site: where.
        model: fingerprint of the model.
        info: how it was made.
    """

    rules: tuple[str, ...]
    keys: Mapping[str, torch.Tensor]
    vectors: Mapping[str, torch.Tensor]
    means: Mapping[str, torch.Tensor]
    site: Site
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file."""
        parts = {"keys": self.keys, "vectors": self.vectors, "means": self.means}
        tensors = {f"{name}:{key}": one for name, table in parts.items() for key, one in table.items()}
        header = {"rules": self.rules, "site": self.site.describe(), "model": self.model, "info": self.info}
        return kept.save(path, KIND, header, tensors)

    @classmethod
    def load(cls, path: str | Path) -> RuleBank:
        """Read one.

        Raises:
            BadArtifact: it is none.
        """

        def made(header: dict[str, Any], tensors: kept.Tensors) -> RuleBank:
            parts: dict[str, dict[str, torch.Tensor]] = {"keys": {}, "vectors": {}, "means": {}}
            for name, one in tensors.items():
                part, _, key = name.partition(":")
                parts[part][key] = one
            return cls(
                tuple(header["rules"]),
                **parts,
                site=site_from(header["site"]),
                model=header["model"],
                info=header["info"],
            )

        return kept.load(path, KIND, made)


def rule_bank(
    target: Steerable,
    *,
    rules: Mapping[str, tuple[Sequence[Any], Sequence[Any]]],
    site: Site | None = None,
) -> RuleBank:
    """Read the rules' vectors and keys off a model: inspired by MENTOR (arXiv 2511.07107), see the module.

    Args:
        rules: text -> (the situations with the rule in front, the same situations without), inputs as for `find`; n may differ from rule
            to rule. `with_rule` writes the first for prompts.
        site: where; default: every layer's `block_output` at the last token.
    Raises:
        BadInput: no rules, situations that do not pair up, or two rules with the same situations, which no lookup can tell apart.
    """
    if not rules:
        raise BadInput("mentor: got no rules; pass at least one text with its situations.")
    site = site or Site(tokens="last")
    with_, without = [], []
    for text, (ruled, plain) in rules.items():
        if len(ruled) != len(plain) or not len(plain):
            raise BadInput(
                f"mentor: rule {text[:40]!r} has {len(ruled)} situations with it and {len(plain)} without; pass the same ones, in order."
            )
        a, b = (capture.rows(target, batches_of(target, inputs), site) for inputs in (ruled, plain))
        if any(len(a[key]) != len(b[key]) for key in a):
            raise BadInput(
                "mentor: a rule makes prompts longer; read one token a prompt (tokens='last') so that rows pair up."
            )
        with_.append(a)
        without.append(b)
    keys, vectors, means = {}, {}, {}
    for key in without[0]:
        means[key] = torch.cat([one[key] for one in without]).mean(0)
        centres = torch.stack([one[key].mean(0) for one in without]) - means[key]
        if len(rules) > 1 and float(centres.norm(dim=1).min()) <= 1e-6 * float(means[key].norm()):
            raise BadInput(f"mentor at {key}: a rule's situations are those of all rules together; give each its own.")
        # A single rule has no others to be told from: what it is compared with is the activation itself.
        keys[key] = normalize(centres if len(rules) > 1 else means[key][None], dim=1)
        means[key] = means[key] if len(rules) > 1 else torch.zeros_like(means[key])
        vectors[key] = torch.stack([(a[key] - b[key]).mean(0) for a, b in zip(with_, without, strict=True)])
    info = {
        "situations": [len(plain) for _, plain in rules.values()],
        "data": data_fingerprint(*[vectors[key] for key in sorted(vectors)]),
    }
    return RuleBank(tuple(rules), keys, vectors, means, site, model_fingerprint(target), info)


def with_rule(rule: str, prompts: Sequence[str]) -> list[str]:
    """The rule on a line of its own in front of every prompt."""
    return [f"{rule}\n{prompt}" for prompt in prompts]


def looked_up(h: torch.Tensor, keys: torch.Tensor, mean: torch.Tensor, m: int, threshold: float) -> torch.Tensor:
    """(..., K) weights of the rules at activations h (..., D): 0 below the threshold and outside of the m largest."""
    fit = (normalize(h - mean, dim=-1) @ keys.T - threshold).clamp(min=0)
    largest = fit.topk(min(m, fit.shape[-1]), dim=-1)
    kept = torch.zeros_like(fit).scatter(-1, largest.indices, largest.values)
    return kept / kept.sum(-1, keepdim=True).clamp(min=1e-30)


@dataclass(frozen=True, kw_only=True)
class RetrievedRules(Intervention):
    """Add the vectors of the rules that fit: h + s sum_k w_k r_k, see the module.

    Args:
        bank: the rules.
        strength: s; 1 is what the rule's text did.
        m: at most so many rules at once.
        threshold: cosine from which a rule fits, in [0, 1).
    """

    bank: RuleBank = field(kw_only=False)
    strength: float | torch.Tensor | Strength = 1.0
    m: int = 1
    threshold: float = 0.3

    invariants: ClassVar[tuple[str, ...]] = ("untouched where no rule fits", "moves within the rules' span")
    is_affine: ClassVar[bool] = False
    rows_needed: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        self._check_strength()
        if not 0 <= self.threshold < 1 or self.m < 1:
            raise BadInput(
                f"RetrievedRules: threshold must lie in [0, 1) and m be from 1, got {self.threshold} and {self.m}."
            )

    def edit(self, h: torch.Tensor, tensors: tuple[torch.Tensor, ...], s: torch.Tensor) -> torch.Tensor:
        keys, vectors, mean = tensors
        weight = looked_up(h, keys, mean, self.m, self.threshold)
        return torch.where(weight.sum(-1, keepdim=True) > 0, h + s * (weight @ vectors), h)

    def tensors_at(self, key: str) -> tuple[torch.Tensor, ...]:
        return self.bank.keys[key], self.bank.vectors[key], self.bank.means[key]

    def keys(self) -> list[str]:
        return list(self.bank.vectors)

    @property
    def the_site(self) -> Site:
        return self.site or self.bank.site

    @property
    def origin(self) -> tuple[str, Mapping[str, Any]]:
        return "mentor", self.bank.model

    def describe(self) -> dict[str, Any]:
        return super().describe() | {
            "rules": list(self.bank.rules), "bank": self.bank.info.get("data"), "m": self.m, "threshold": self.threshold
        }  # fmt: skip
