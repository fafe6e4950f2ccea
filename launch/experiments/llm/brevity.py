"""Shorter answers to questions whose answer is in the question, at the same score.

Directions, found on facts of the finding split (a teacher's text is the bare answer, the long one is the model's own):

    asc              end of the teacher's text against the end of the model's own
    efficiency       the model's shortest right answer against its longest, over three wordings, without a teacher
    mean-difference  mean over the tokens of the teacher's text against that of the model's own

SEAL is left out: these answers have no thoughts, so there are no delimiters to steer at.
"""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from launch.experiments.claims import UNSTEERED, Claim
from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.measures import holds_answer
from launch.experiments.llm.settings import Settings
from launch.experiments.llm.study import TASK_LOSS, Candidate, Effect
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.evaluation.compare import compare
from steer_agents.evaluation.intervals import mean_interval
from steer_agents.evaluation.report import Bar
from steer_agents.finding.contrast_sets import ContrastSet, contrast_difference
from steer_agents.finding.styles import Attempt, asc, efficiency
from steer_agents.sites import Site

BRIEFLY = "Answer briefly."
WISHES = ("", BRIEFLY, "Explain your answer in detail.")
CUT = 0.25
"""Share of the tokens that is to be saved."""


def directions(bench: Bench, s: Settings, notes: list[str]) -> Mapping[str, Direction]:
    """Method -> direction at the settings' layers; a method without data for it is left out and noted."""
    facts = data.facts("finding", s.n_finding, s.seed)
    written = [bench.write([fact.prompt for fact in facts], s.long, wish=wish) for wish in WISHES]
    own = list(written[0]["text"])
    site = Site(layer=s.layers, tokens="last")
    chats = [bench.chat(fact.prompt) for fact in facts]
    teacher = [f"{fact.answer}." for fact in facts]
    pairs = [(fact, text) for fact, text in zip(facts, own, strict=True) if text]
    found = {"asc": asc(bench.target, prompts=chats, concise=teacher, verbose=own, site=site)}
    attempts = [
        Attempt(fact.prompt, bench.answered(fact.prompt, text), holds_answer(text, fact.answer), float(n))
        for table in written
        for fact, text, n in zip(facts, table["text"], table["n_tokens"], strict=True)
        if text
    ]
    try:
        found["efficiency"] = efficiency(bench.target, attempts=attempts, site=site)
    except BadInput as error:
        notes.append(f"brevity without `efficiency`: {error}")
    if pairs:
        contrast = ContrastSet(
            "mean-difference",
            [bench.answered(fact.prompt, f"{fact.answer}.") for fact, _ in pairs],
            [bench.answered(fact.prompt, text) for fact, text in pairs],
            paired=True,
        )
        found["mean-difference"] = contrast_difference(bench.target, contrast=contrast, site=site)
    return found


def effect(bench: Bench, s: Settings, notes: list[str]) -> Effect:
    """Fewer tokens at an equal share of right answers."""
    facts = {split: data.facts(split, n, s.seed) for split, n in (("choice", s.n_choice), ("test", s.n_test))}

    def judged(split: str, table: pd.DataFrame) -> pd.DataFrame:
        right = [float(holds_answer(text, fact.answer)) for text, fact in zip(table["text"], facts[split], strict=True)]
        return table.assign(success=right, tokens=table["n_tokens"].astype(float))

    return Effect(
        short="brevity", name="Shorter answers", measure="tokens", label="tokens of an answer", sign=-1, share=False, task=True,
        choice=[fact.prompt for fact in facts["choice"]], test=[fact.prompt for fact in facts["test"]],
        wish=BRIEFLY, most=s.long, judged=judged, wanted=wanted,
        candidates=[
            Candidate(name, direction.at(layer), alpha)
            for name, direction in directions(bench, s, notes).items() for layer in s.layers for alpha in s.brevity
        ],
    )  # fmt: skip


def wanted(claim: Claim) -> list[Bar]:
    """A quarter of the tokens less, the score at most 5 points lower."""
    base, table = claim.tables[UNSTEERED], claim.tables[claim.steered]
    mean = float(base["tokens"].mean())
    change = mean_interval((table["tokens"] - base["tokens"]).to_numpy(float))
    share = [value / mean if mean else float("nan") for value in (change.value, change.low, change.high)]
    score = compare(table, base, "success", kind="binary")
    saved, lost = (
        "brevity: change of the tokens, share of the unsteered",
        "brevity: change of the share of right answers",
    )
    return [
        Bar(saved, share[0], (share[1], share[2]), f"<= -{CUT:g}", share[0] <= -CUT),
        Bar(lost, score.value, (score.low, score.high), f">= -{TASK_LOSS:g}", score.value >= -TASK_LOSS),
    ]
