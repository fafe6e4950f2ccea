"""Control and competence of answers in a language, in one number: the harmonic score of CLaS-Bench (arXiv 2601.08331).

    S = 2 c q / (c + q)       c: share of answers in the language, q: share that tell which prompt they answer

Control is the detector of `measures.py` (the paper's is FastText). For competence the paper has a language model rate
relevance from 0 to 2; a judge of that kind is not at hand, so that ours is the writing model itself, unsteered, and a retrieval: with

    L_ij = log p(text i behind prompt j) - its mean over the prompts j        [nats per token]

an answer is *on the topic* if L_ii is the largest of its row (it fits no other prompt better) and of its column (no other answer fits this
prompt better) among `BLOCK` prompts, by more than `LEAD`. Texts that are all the same tie, and are on no topic. It says nothing of truth
or quality, and words copied from the prompt count. What chance gives is measured with the same texts: each held against the next
prompt ("misplaced").

Aggregated (the means first, as in the paper's code) and per item (an answer that is both), which is the stricter one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from launch.experiments.claims import UNSTEERED
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.study import Findings, Study
from policies.errors import BadInput
from steer_agents.evaluation.compare import compare
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.evaluation.report import Bar
from steer_agents.evaluation.scores import Score, harmonic

BLOCK, LEAD = 6, 1e-3
UNTOUCHED, DEGENERATE, BEHIND = 0.30, 0.05, 0.05
"""Bounds of S: of the unsteered model, of one sentence for all prompts, and of the loss to the best other vector."""


def on_topic(fits: np.ndarray) -> np.ndarray:
    """(n, n) whether text i is on the topic of prompt j, of log-probabilities (n, n) of text i behind prompt j; see the module.

    Raises:
        BadInput: no square of at least two.
    """
    if fits.ndim != 2 or fits.shape[0] != fits.shape[1] or len(fits) < 2:
        raise BadInput(f"on_topic: expected as many texts as prompts, at least two; got shape {fits.shape}.")
    own = fits - fits.mean(1, keepdims=True)
    return np.asarray((own - _others(own) > LEAD) & (own - _others(own.T).T > LEAD))


def _others(values: np.ndarray) -> np.ndarray:
    """(n, n) at i, j: the largest of row i without column j."""
    n = len(values)
    hidden = np.where(np.eye(n, dtype=bool)[None], -np.inf, values[:, None, :])  # (row, left out, column)
    return np.asarray(hidden.max(2))


def topics(bench: Bench, prompts: Sequence[str], texts: Sequence[str]) -> tuple[list[float], list[float]]:
    """Of every text: 1 where it is on its prompt's topic, and 1 where it is on the next prompt's; empty ones are on none."""
    own, misplaced = [], []
    for block in np.array_split(np.arange(len(prompts)), max(len(prompts) // BLOCK, 1)):
        asked, told = [prompts[i] for i in block], [texts[i] for i in block]
        read = bench.log_probabilities(asked * len(block), [text for text in told for _ in block])
        fits = np.array([np.nan if value is None else value for value in read]).reshape(len(block), len(block))
        empty = np.isnan(fits).any(1)
        found = on_topic(np.where(empty[:, None], 0.0, fits)) & ~empty[:, None]
        own += [float(found[i, i]) for i in range(len(block))]
        misplaced += [float(found[i, (i + 1) % len(block)]) for i in range(len(block))]
    return own, misplaced


def scored(bench: Bench, constant: str, wishes: Sequence[str], study: Study) -> Findings:
    """S of what a study of a language tested.

    Args:
        constant: a sentence of the language, told in answer to every prompt: the degenerate method.
        wishes: ways to ask for the language in words, each a method of its own.
    """
    effect, claim = study.effect, study.claim
    vectors = [one.name for one in study.tested]
    judged = {name: claim.tables[name] for name in (UNSTEERED, *vectors, claim.loudest)}
    for wish in wishes:
        judged[f"asked: {wish}"] = effect.judged("test", bench.write(effect.test, effect.most, wish=wish))
    base = claim.tables[UNSTEERED]
    judged["one sentence for all"] = effect.judged("test", base.assign(text=constant))
    scores: dict[str, Score] = {}
    for name, table in list(judged.items()):
        own, misplaced = topics(bench, effect.test, list(table["text"]))
        judged[name] = table.assign(on_topic=own, both=table[effect.measure] * np.array(own), misplaced=misplaced)
        scores[name] = harmonic(table[effect.measure].to_numpy(float), own)
    rows = [_row(effect.short, effect.measure, name, judged[name], scores[name]) for name in judged]
    at = {row["condition"]: row for row in rows}
    best = max(vectors[1:], key=lambda name: scores[name].aggregated, default=None)
    beyond = compare(judged[claim.steered], judged[claim.loudest], "both", kind="binary")

    def bar(what: str, name: str, bound: float) -> Bar:
        row = at[name]
        value = row["value"]
        return Bar(
            f"{effect.short}: harmonic score, {what}", value, (row["low"], row["high"]), f"<= {bound:g}", value <= bound
        )

    bars = [
        bar("unsteered", UNSTEERED, UNTOUCHED),
        bar("one sentence for all prompts", "one sentence for all", DEGENERATE),
        Bar(f"{effect.short}: answers in it and on the topic, beyond {claim.loudest}", beyond.value, (beyond.low, beyond.high),
            "above 0 with its interval", beyond.low > 0),
    ]  # fmt: skip
    if best:
        gap = scores[claim.steered].aggregated - scores[best].aggregated
        told = f"{effect.short}: harmonic score, {claim.steered} minus {best}, the best other vector"
        bars.append(Bar(told, gap, None, f">= -{BEHIND:g}", gap >= -BEHIND))
    steered, asked = scores[claim.steered], scores[f"asked: {wishes[0]}"]
    sentence = (
        f"Harmonic score in {effect.short}: {steered.aggregated:.2f} steered ({steered.control:.2f} in it, {steered.competence:.2f} on the "
        f"topic), {asked.aggregated:.2f} asked for in words."
    )
    return Findings(f"{effect.short} score", sentence, rows, bars, judged)


def _row(short: str, measure: str, name: str, table: pd.DataFrame, score: Score) -> dict[str, Any]:
    both = proportion_interval(int(table["both"].sum()), len(table))
    columns = tuple(table[column].to_numpy(float) for column in (measure, "on_topic"))
    drawn = bootstrap(
        columns, lambda c, q: harmonic(c, q).aggregated, paired=True, vectorized=False, method="percentile",
        n_resamples=2000, rng=np.random.default_rng(0),
    ).confidence_interval  # fmt: skip
    return {
        "claim": f"{short} score", "condition": name, "role": "other", "measure": "harmonic score", "value": score.aggregated,
        "low": float(drawn.low), "high": float(drawn.high), "control": score.control, "on_topic": score.competence,
        "per_item": both.value, "per_item_low": both.low, "per_item_high": both.high,
        "misplaced": float(table["misplaced"].mean()), "episodes": len(table),
    }  # fmt: skip
