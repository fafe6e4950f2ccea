"""English questions answered in another language, by several methods.

    mean-difference   mean over the tokens of an answer in the language against the same answer in English, 16 parallel pairs
    foxp2             few neurons, few directions of them, few layers (Neural FOXP2), on the same pairs read at three places
    probe, lda, pca   in the languages that are compared (CLaS-Bench): of all tokens of the answers, and of the pairs of foxp2

A language counts as one that the model can write if, asked for it in words, at least 80 % of its answers to the choice prompts are in it by
the detector of `measures.py`; the others are not tested. That is settled before any steering. Choice prompts are those of the other
effects, also their test prompts; the test prompts are the languages' own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd

from launch.experiments.claims import Claim
from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.measures import language
from launch.experiments.llm.relevance import scored
from launch.experiments.llm.settings import Settings
from launch.experiments.llm.study import Candidate, Effect
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.report import Bar
from steer_agents.finding.contrast import lda, pca, probe
from steer_agents.finding.contrast_sets import ContrastSet, contrast_difference
from steer_agents.finding.foxp2 import foxp2
from steer_agents.sites import Site
from steer_agents.tokens import span

LEAST = 0.8
"""Share of answers in the language that is asked for."""
SHARES = (0.4, 0.7, 1.0)
"""Of an answer's words, behind which pairs are read at the last token: the end of a sentence alone says little but that it ends."""
FROM_SECOND = span(1, 1 << 12)
"""All but the first token, which says nothing of the text."""


def choice_prompts(s: Settings) -> list[str]:
    """The prompts on which languages are chosen."""
    prompts = data.texts()["everyday"]
    return data.first([*prompts["choice"], *prompts["test"]], s.n_spoken)


def judge(name: str) -> Callable[[str, pd.DataFrame], pd.DataFrame]:
    """Adds whether each text is in a language."""
    lists = data.texts()["languages"]
    return lambda split, table: table.assign(
        in_language=[float(language(text, lists) == name) for text in table["text"]]
    )


def written(bench: Bench, name: str, s: Settings) -> float:
    """Share of the answers to the choice prompts that are in a language when it is asked for."""
    table = bench.write(choice_prompts(s), s.short, wish=data.texts()["asked"][name])
    return float(judge(name)("choice", table)["in_language"].mean())


def direction(bench: Bench, name: str, s: Settings) -> Direction:
    """From English to a language: the difference of means."""
    table = data.texts()["parallel"]
    sides = [
        [
            bench.answered(question, answer)
            for question, answer in zip(table["questions"], table["answers"][one], strict=True)
        ]
        for one in (name, "English")
    ]
    contrast = ContrastSet("mean-difference", sides[0], sides[1], paired=True)
    return contrast_difference(bench.target, contrast=contrast, site=Site(layer=s.spoken_layers))


def begun(answers: list[str]) -> list[str]:
    """The beginnings of answers, up to each of `SHARES` of the words."""
    return [" ".join(text.split()[: max(2, int(share * len(text.split())))]) for share in SHARES for text in answers]


def candidates(bench: Bench, name: str, s: Settings, notes: list[str], told: dict[str, Any]) -> list[Candidate]:
    """Of all methods; `told` takes the null test of foxp2."""
    texts = [data.texts()["parallel"]["answers"][one] for one in (name, "English")]
    beginnings = [begun(one) for one in texts]
    ladders = {"mean-difference": (direction(bench, name, s), s.language)}
    if name in s.compared:
        everywhere, last = (Site(layer=s.spoken_layers, tokens=tokens) for tokens in (FROM_SECOND, "last"))
        for method, find, (positive, negative), site in (
            ("probe", probe, texts, everywhere), ("lda", lda, texts, everywhere), ("pca", pca, beginnings, last),
        ):  # fmt: skip
            found = find(bench.target, positive=positive, negative=negative, site=site)
            ladders[method] = (found, (s.language[0], s.language[-1]))
    made = [
        Candidate(method, found.at(layer), alpha)
        for method, (found, alphas) in ladders.items() for layer in s.spoken_layers for alpha in dict.fromkeys(alphas)
    ]  # fmt: skip
    try:
        site = Site("mlp_neurons", s.fox_layers, tokens="last")
        neurons = foxp2(bench.target, positive=beginnings[0], negative=beginnings[1], site=site, seed=s.seed)
    except BadInput as error:
        notes.append(f"{name} without `foxp2`: {error}")
        return made
    told.setdefault("foxp2", {})[name] = {key: neurons.info[key] for key in ("window", "layers")}
    return [*made, *(Candidate("foxp2", neurons, alpha) for alpha in s.foxp2)]


def effect(bench: Bench, name: str, s: Settings, notes: list[str], told: dict[str, Any]) -> Effect:
    """Answers in a language."""
    table = data.texts()
    wish = table["asked"][name]
    english, own = wish.split(". ", 1)

    def wanted(claim: Claim) -> list[Bar]:
        hits = claim.tables[claim.steered]["in_language"]
        share = proportion_interval(int(hits.sum()), len(hits))
        label = f"{name}: share of answers in it"
        return [Bar(label, share.value, (share.low, share.high), f">= {LEAST:g}", share.value >= LEAST)]

    return Effect(
        short=name, name=f"Answers in {name}", measure="in_language", label=f"share of answers in {name}", sign=1, share=True,
        choice=choice_prompts(s), test=data.first(table["spoken"]["test"], s.n_test), wish=wish,
        most=s.short, judged=judge(name), wanted=wanted, candidates=candidates(bench, name, s, notes, told),
        more=(partial(scored, bench, table["known"][name][0], (f"{english}.", own)),),
    )  # fmt: skip
