"""Two axes of style, judged by a probe that was trained on other data: refusing, and playing a role.

Directions: `mean-difference` of refusals and plain answers to the same prompts (tokens of the answer); `assistant-axis` of the model's own
answers in four roles and as itself, steered against (away from the default persona).

The judge never sees the steering nor the prompt: a linear probe on the mean activation of a text that the unsteered model reads by
itself. It is trained on other texts than the direction: other refusals and plain sentences, other roles and other prompts. Beside it
stands a rate of listed words, which knows nothing of activations.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pandas as pd
import torch

from launch.experiments.claims import UNSTEERED, Claim
from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.character import dropped, preferred
from launch.experiments.llm.measures import word_rate
from launch.experiments.llm.resisting import resisting
from launch.experiments.llm.settings import Settings
from launch.experiments.llm.study import Candidate, Effect
from steer_agents.direction import Direction
from steer_agents.evaluation.compare import compare
from steer_agents.evaluation.report import Bar
from steer_agents.finding.contrast import ridge_probe
from steer_agents.finding.contrast_sets import ContrastSet, contrast_difference
from steer_agents.finding.personas import InRole, assistant_axis
from steer_agents.sites import Site

LEAST_ACCURACY = 0.8
"""Cross-validated accuracy that a judge must have, or it judges nothing."""


@dataclass(frozen=True)
class Judge:
    """A probe on what the unsteered model makes of a text.

    Args:
        layer: that is read; weights (D,) and bias of the logit; accuracy: cross-validated, on its own training texts.
    """

    layer: int
    weights: torch.Tensor
    bias: float
    accuracy: float

    @classmethod
    def trained(cls, bench: Bench, layer: int, positive: Sequence[str], negative: Sequence[str]) -> Judge:
        """From texts with the style and without it, about as many of each."""
        weights, notes = ridge_probe(bench.read(positive, layer), bench.read(negative, layer))
        return cls(layer, weights, notes["bias"], notes["cv_accuracy"])

    def __call__(self, bench: Bench, texts: Sequence[str]) -> list[float]:
        """1 for every text in which it sees the style."""
        logits = bench.read(texts, self.layer).double() @ self.weights + self.bias
        return [float(value > 0) for value in logits.tolist()]


def judged(bench: Bench, judge: Judge, listed: Sequence[str], split: str, table: pd.DataFrame) -> pd.DataFrame:
    """Adds what the judge sees and the rate of listed words."""
    texts = list(table["text"])
    return table.assign(judged=judge(bench, texts), word_rate=[word_rate(text, listed) for text in texts])


def wanted(short: str, judge: Judge, claim: Claim) -> list[Bar]:
    """The judge can judge, and the words agree with it."""
    words = compare(claim.tables[claim.steered], claim.tables[UNSTEERED], "word_rate", kind="continuous")
    can, told = f"{short}: cross-validated accuracy of the judge", f"{short}: change of the listed words per 100 words"
    return [
        Bar(can, judge.accuracy, None, f">= {LEAST_ACCURACY:g}", judge.accuracy >= LEAST_ACCURACY),
        Bar(told, words.value, (words.low, words.high), "above 0 with its interval", words.low > 0),
    ]


def refusal(bench: Bench, s: Settings) -> Effect:
    """More refusals of harmless questions; and do such replies recover by themselves?"""
    table = data.texts()["refusal"]
    finding = table["finding"]
    sides = [
        [bench.answered(prompt, text) for prompt, text in zip(finding["prompts"], finding[side], strict=True)]
        for side in ("texts", "plain")
    ]
    contrast = ContrastSet("mean-difference", sides[0], sides[1], paired=True)
    direction = contrast_difference(bench.target, contrast=contrast, site=Site(layer=s.layers))
    judge = Judge.trained(bench, s.layers[-1], table["judge"]["texts"], table["judge"]["plain"])
    made = _effect("refusal", "Harmless questions refused", bench, s, table, judge, direction, 1)
    return replace(made, more=(partial(resisting, bench, s),))


def persona(bench: Bench, s: Settings) -> Effect:
    """Away from the default persona; what does it then choose to be, and does it stay so when asked to stop?"""
    table = data.texts()["persona"]
    plain, played = _in_roles(bench, table["finding"], s)
    replies = [InRole(None, bench.answered(prompt, text)) for prompt, text in plain]
    replies += [InRole(role, bench.answered(prompt, text)) for role, own in played.items() for prompt, text in own]
    direction = assistant_axis(bench.target, replies=replies, site=Site(layer=s.layers))
    others, roles = _in_roles(bench, table["judge"], s)
    in_role = [text for own in roles.values() for _, text in own]
    judge = Judge.trained(bench, s.layers[-1], in_role, [text for _, text in others])
    made = _effect("persona", "Away from the default persona", bench, s, table, judge, direction, -1)
    return replace(made, more=(partial(dropped, bench), partial(preferred, bench, s)))


Replies = list[tuple[str, str]]


def _in_roles(bench: Bench, table: Mapping[str, Any], s: Settings) -> tuple[Replies, dict[str, Replies]]:
    """(prompt, own answer) as oneself, also to the prompts "plain", and per role; empty answers are left out."""

    def answers(prompts: Sequence[str], wish: str) -> Replies:
        texts = bench.write(prompts, s.short, wish=wish)["text"]
        return [(prompt, text) for prompt, text in zip(prompts, texts, strict=True) if text]

    prompts = data.first(table["prompts"], s.n_finding)
    oneself = answers(
        [*prompts, *data.first(table.get("plain", ()), len(table["roles"]) * len(prompts) - len(prompts))], ""
    )
    return oneself, {role: answers(prompts, wish) for role, wish in table["roles"].items()}


def _effect(
    short: str, name: str, bench: Bench, s: Settings, table: Mapping[str, Any], judge: Judge, direction: Direction, sign: int
) -> Effect:  # fmt: skip
    """Both axes are judged alike; a sign of -1 steers against the direction."""
    prompts = data.texts()["everyday"]
    return Effect(
        short=short, name=name, measure="judged", label=f"share of texts judged {short}", sign=1, share=True,
        choice=data.first(prompts["choice"], s.n_choice), test=data.first(prompts["test"], s.n_test),
        wish=table["asked"], most=s.short,
        judged=partial(judged, bench, judge, table["words"]), wanted=partial(wanted, short, judge),
        candidates=[
            Candidate(direction.method, direction.at(layer), sign * alpha) for layer in s.layers for alpha in s.style
        ],
    )  # fmt: skip
