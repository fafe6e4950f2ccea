"""Texts about unpleasant things in brighter words, along features of a small SAE, by tiers.

The SAE is trained here, on the activations at one layer of templated sentences (positive, negative, neutral), scaled to norm 1. It is
small: its report (explained variance, L0, dead share) stands in the results. `sae-features` ranks its features by how much more they fire
in negative sentences, among those that fire in at least 30 % of these and at most 50 % of positive ones; their decoder rows are subtracted:

    always   at every token
    input    at every token of an input from the first token on at which one of them fires
    token    only where one of them fires

`mean-difference` of the same sentences at the same layer stands beside them, without a gate.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.claims import UNSTEERED, Claim
from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.measures import word_rate
from launch.experiments.llm.settings import Settings
from launch.experiments.llm.study import Candidate, Effect
from steer_agents.evaluation.compare import compare
from steer_agents.evaluation.report import Bar
from steer_agents.finding.contrast import mean_difference
from steer_agents.gates import ALWAYS, Gate
from steer_agents.learning.trainer import Settings as Training
from steer_agents.sae.features import sae_features
from steer_agents.sae.gates import Feature
from steer_agents.sae.model import Sae
from steer_agents.sae.training import Plan, train_sae
from steer_agents.sites import Site
from steer_agents.token_gates import AnyToken
from steer_agents.tokens import span

N_FEATURES = 3
N_CONTRAST = 48
WORDS = span(1, 1 << 12)
"""All but the first token, whose activation is a hundred times as long as any other and says nothing of the text."""


def trained(bench: Bench, s: Settings, folder: Path) -> Sae:
    """The small SAE; a checkpoint in the folder is taken up again."""
    third = s.sae_sentences // 3
    sentences = [text for kind in ("positive", "negative", "neutral") for text in data.opinions(kind, third, s.seed)]
    return train_sae(
        bench.target, inputs=sentences, site=Site(layer=s.sae_layer), plan=Plan(s.sae_features, k=8, norm="unit"),
        settings=Training(steps=600, learning_rate=3e-3, batch_size=256, evaluate_every=50, seed=s.seed), folder=folder / "sae",
    )  # fmt: skip


def effect(bench: Bench, s: Settings, folder: Path, told: dict[str, Any]) -> Effect:
    """Positive minus negative words; `told` takes the SAE's report and its features."""
    sae = trained(bench, s, folder)
    where = Site(layer=s.sae_layer, tokens=WORDS)
    n = min(N_CONTRAST, s.sae_sentences // 3)
    negative, positive = (data.opinions(kind, n, s.seed + 1) for kind in ("negative", "positive"))
    rows = sae_features(
        bench.target,
        positive=negative,
        negative=positive,
        sae=sae,
        site=where,
        n_features=N_FEATURES,
        min_rate=0.3,
        max_other_rate=0.5,
    )
    told |= {"sae": sae.info["report"], "features": rows.info["features"]}
    numbers = [one["feature"] for one in rows.info["features"]]
    mean = mean_difference(bench.target, positive=negative, negative=positive, site=where)
    tiers: dict[str, Gate] = {
        "sae always": ALWAYS,
        "sae per input": AnyToken(Feature(sae, numbers)),
        "sae per token": Feature(sae, numbers),
    }
    prompts, listed = data.texts()["sentiment"], data.texts()["sentiment"]["lexicon"]

    def judged(split: str, table: pd.DataFrame) -> pd.DataFrame:
        rates = {kind: [word_rate(text, listed[kind]) for text in table["text"]] for kind in ("negative", "positive")}
        balance = [p - n for p, n in zip(rates["positive"], rates["negative"], strict=True)]
        return table.assign(**rates, balance=balance)

    return Effect(
        short="sentiment", name="Brighter words", measure="balance", label="positive minus negative words per 100", sign=1, share=False,
        choice=data.first(prompts["choice"], s.n_choice), test=data.first(prompts["test"], s.n_test),
        wish=prompts["asked"], most=s.short, judged=judged, wanted=wanted,
        candidates=[
            *(Candidate(tier, rows, -alpha, gate) for tier, gate in tiers.items() for alpha in s.sentiment),
            *(Candidate("mean-difference", mean.at(s.sae_layer), -alpha) for alpha in s.sentiment),
        ],
    )  # fmt: skip


def wanted(claim: Claim) -> list[Bar]:
    """Positive words become more beyond chance, negative ones not more."""
    changes = {
        kind: compare(claim.tables[claim.steered], claim.tables[UNSTEERED], kind, kind="continuous")
        for kind in ("positive", "negative")
    }
    told = {kind: f"sentiment: change of the {kind} words per 100" for kind in changes}
    more, less = changes["positive"], changes["negative"]
    return [
        Bar(told["positive"], more.value, (more.low, more.high), "above 0 with its interval", more.low > 0),
        Bar(told["negative"], less.value, (less.low, less.high), "<= 0", less.value <= 0),
    ]
