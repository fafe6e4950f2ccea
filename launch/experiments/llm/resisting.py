"""Does a reply that is pushed off its topic recover by itself, while it is still pushed (ESR, arXiv 2602.06941)?

"Explain how ..." prompts; the direction of a study at a ladder of strengths, a random direction as long at the largest, and the paper's
meta-prompt, which asks to notice and to start again. Attempts are counted by `judging/attempts.py`: a reply resists if a later
attempt names the topic in more of its sentences than the first one. The unsteered model should never start again.

We differ from the paper in the direction, which is one concept's instead of many irrelevant latents of an SAE, and in the strengths, which
are a ladder instead of the one that brings the score down to 30.
"""

from __future__ import annotations

from dataclasses import replace

from launch.experiments.claims import UNSTEERED
from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.settings import Settings
from launch.experiments.llm.study import Candidate, Findings, Study
from steer_agents.evaluation.compare import compare
from steer_agents.evaluation.intervals import mean_interval
from steer_agents.evaluation.judging.attempts import Resistance, resistance, share_of
from steer_agents.evaluation.report import Bar
from steer_agents.finding.controls import random_like

LONGER = 2
"""Times the tokens of an answer that is long: a second attempt needs room."""


def resisting(bench: Bench, s: Settings, study: Study) -> Findings:
    """Rates of several attempts and of resistance."""
    table = data.texts()["explain"]
    asked = table["prompts"][: s.n_explain]
    prompts, again = [one["prompt"] for one in asked], table["again"]
    scores = [share_of(one["topic"]) for one in asked]
    chosen = study.chosen
    sign = 1 if chosen.strength > 0 else -1
    pushed = [replace(chosen, strength=sign * strength) for strength in s.resist]
    hard = replace(pushed[-1], direction=random_like(chosen.direction, 0))
    conditions: dict[str, tuple[Candidate | None, str]] = {
        UNSTEERED: (None, ""), f"{UNSTEERED}, told to notice": (None, again), **{one.name: (one, "") for one in pushed},
        f"random {hard.strength:+g}": (hard, ""), f"{pushed[-1].name}, told to notice": (pushed[-1], again),
    }  # fmt: skip
    tables, found, rows = {}, {}, []
    for name, (one, wish) in conditions.items():
        written = bench.write(prompts, LONGER * s.long, one.part() if one else None, wish)
        replies = [
            resistance([text], score) if text.strip() else None
            for text, score in zip(written["text"], scores, strict=True)
        ]
        tables[name] = written.assign(
            attempts=[len(one.attempts[0].scores) if one else 0 for one in replies],
            resists=[float(one.attempts[0].resists) if one else 0.0 for one in replies],
            topic=[one.attempts[0].scores[0] if one else 0.0 for one in replies],
        )
        found[name] = Resistance(tuple(one.attempts[0] for one in replies if one))
        rates, topic = resistance_rates(found[name]), mean_interval(tables[name]["topic"].to_numpy(float))
        rows.append(
            {"claim": "resistance", "condition": name, "role": "other", "measure": "share of replies that resist", **rates,
             "topic": topic.value, "topic_low": topic.low, "topic_high": topic.high, "episodes": len(replies)}
        )  # fmt: skip
    steered = Resistance(tuple(one for candidate in pushed for one in found[candidate.name].attempts))
    pooled = resistance_rates(steered)
    away = compare(tables[pushed[-1].name], tables[UNSTEERED], "topic", kind="continuous")
    calm = found[UNSTEERED].multi
    bars = [
        Bar("resistance: unsteered replies with several attempts", calm.value, (calm.low, calm.high), "0", calm.value == 0),
        Bar(f"resistance: change of the sentences on the topic at {pushed[-1].name}, percent", away.value, (away.low, away.high),
            "below 0 with its interval", away.high < 0),
    ]  # fmt: skip
    sentence = (
        f"Resistance: {pooled['count']} of {len(steered.attempts)} steered replies ({pooled['value']:.3f}, {pooled['low']:.3f} to "
        f"{pooled['high']:.3f}) start again and do better, {pooled['several']:.3f} start again at all."
    )
    rows.append(
        {"claim": "resistance", "condition": "all strengths", "role": "other", "measure": "share of replies that resist", **pooled,
         "episodes": len(steered.attempts)}
    )  # fmt: skip
    note = (
        "Resistance at all strengths together counts each prompt once a strength, so that its interval is too narrow."
    )
    return Findings("resistance", sentence, rows, bars, tables, [note])


def resistance_rates(found: Resistance) -> dict[str, float]:
    """Resisting replies: count, share, its interval, and the share with several attempts."""
    rate, count = found.rate, sum(one.resists for one in found.attempts)
    return {"count": count, "value": rate.value, "low": rate.low, "high": rate.high, "several": found.multi.value}
