"""English questions answered in French, Spanish, German or Italian.

Direction: mean over the tokens of an answer in the language against the same answer in English, 16 parallel pairs. A language counts as one
that the model can write if, asked for it in words, at least 80 % of its answers to the choice prompts are in it by the detector of
`measures.py`; the others are not tested. That is settled before any steering.
"""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from launch.experiments.claims import Claim
from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.measures import language
from launch.experiments.llm.settings import Settings
from launch.experiments.llm.study import Candidate, Effect
from steer_agents.direction import Direction
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.report import Bar
from steer_agents.finding.contrast_sets import ContrastSet, contrast_difference
from steer_agents.sites import Site

LEAST = 0.8
"""Share of answers in the language that is asked for."""


def judge(name: str) -> Callable[[str, pd.DataFrame], pd.DataFrame]:
    """Adds whether each text is in a language."""
    lists = data.texts()["languages"]
    return lambda split, table: table.assign(
        in_language=[float(language(text, lists) == name) for text in table["text"]]
    )


def written(bench: Bench, name: str, s: Settings) -> float:
    """Share of the answers to the choice prompts that are in a language when it is asked for."""
    prompts = data.first(data.texts()["everyday"]["choice"], s.n_choice)
    table = bench.write(prompts, s.short, wish=data.texts()["asked"][name])
    return float(judge(name)("choice", table)["in_language"].mean())


def direction(bench: Bench, name: str, s: Settings) -> Direction:
    """From English to a language."""
    table = data.texts()["parallel"]
    sides = [
        [
            bench.answered(question, answer)
            for question, answer in zip(table["questions"], table["answers"][one], strict=True)
        ]
        for one in (name, "English")
    ]
    contrast = ContrastSet("mean-difference", sides[0], sides[1], paired=True)
    return contrast_difference(bench.target, contrast=contrast, site=Site(layer=s.layers))


def effect(bench: Bench, name: str, s: Settings) -> Effect:
    """Answers in a language."""
    found, prompts = direction(bench, name, s), data.texts()["everyday"]

    def wanted(claim: Claim) -> list[Bar]:
        hits = claim.tables[claim.steered]["in_language"]
        share = proportion_interval(int(hits.sum()), len(hits))
        told = f"{name}: share of answers in it"
        return [Bar(told, share.value, (share.low, share.high), f">= {LEAST:g}", share.value >= LEAST)]

    return Effect(
        short=name, name=f"Answers in {name}", measure="in_language", label=f"share of answers in {name}", sign=1, share=True,
        choice=data.first(prompts["choice"], s.n_choice), test=data.first(prompts["test"], s.n_test), wish=data.texts()["asked"][name],
        most=s.short, judged=judge(name), wanted=wanted,
        candidates=[Candidate("mean-difference", found.at(layer), alpha) for layer in s.layers for alpha in s.language],
    )  # fmt: skip
