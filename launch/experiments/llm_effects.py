"""What directions do to the texts of a language model: length, language, refusing, playing a role, sentiment.

For every effect the same study (`llm/study.py`): directions from finding prompts, layer and strength on choice prompts, then test prompts
never seen before, greedy decoding, paired by prompt: unsteered, zero strength, the best candidate of every method, random directions
as long with both signs, and the effect asked for in the prompt. All with a guard on fluency.

Beside that, asked of what was found: control and competence in a language (`llm/relevance.py`), whether refusing replies recover
(`llm/resisting.py`), whether a persona changes what is preferred and lasts (`llm/character.py`).

Texts are kept in `texts/` of the run's folder, so that an interrupted run goes on where it stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from launch.experiments.base import Outcome, Say
from launch.experiments.llm import brevity, language, sentiment, styles
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.model import language_model
from launch.experiments.llm.settings import Settings, settings
from launch.experiments.llm.study import Effect, Findings, Study, study
from policies.errors import BadInput

__all__ = ["Settings", "run", "settings"]


def effects(bench: Bench, s: Settings, folder: Path, notes: list[str], told: dict[str, Any], say: Say) -> Iterator[Effect]:  # fmt: skip
    """One effect after the other, made when its turn comes; those for which the model gives no data are noted and left out."""
    say.note("which languages can be written, asked for in words (from .80 on they are tested)")
    writes = {name: language.written(bench, name, s) for name in s.languages}
    told["written when asked"] = writes
    for name, share in writes.items():
        say.note(f"{name}: {share:.2f}")
        if share < language.LEAST:
            notes.append(
                f"{name} is not tested: asked for in words, {share:.0%} of the answers to choice prompts are in it."
            )
    made: list[tuple[str, Callable[[], Effect]]] = [
        ("brevity", lambda: brevity.effect(bench, s, notes)),
        *((name, lambda name=name: language.effect(bench, name, s, notes, told)) for name in writes if writes[name] >= language.LEAST),
        ("refusal", lambda: styles.refusal(bench, s)),
        ("persona", lambda: styles.persona(bench, s)),
        ("sentiment", lambda: sentiment.effect(bench, s, folder, told)),
    ]  # fmt: skip
    for name, make in made:
        try:
            yield make()
        except BadInput as error:
            notes.append(f"{name} is left out: {error}")


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Every effect's study, in one outcome."""
    policy = language_model(s.policy, "llm-effects")
    bench = Bench(policy, folder / "texts")
    notes: list[str] = []
    told: dict[str, Any] = {}
    say.plan([1, 5] * (4 + len(s.languages)))
    studies, found = [], []
    for one in effects(bench, s, folder, notes, told, say):
        studies.append(study(bench, one, s.n_random, say))
        for ask in one.more:
            try:
                found.append(ask(studies[-1]))
                say.note(found[-1].sentence)
            except BadInput as error:
                notes.append(f"{one.short}: one more question is left out: {error}")
    return _outcome(studies, found, notes, told)


def _outcome(studies: list[Study], found: list[Findings], notes: list[str], told: dict[str, Any]) -> Outcome:
    sources = {one.claim.short: one.claim.tables for one in studies} | {one.short: one.tables for one in found}
    tables = [
        table.assign(condition=f"{short}: {name}", episode=range(len(table)))
        for short, own in sources.items()
        for name, table in own.items()
    ]
    judged = {one.claim.short: one.bars for one in studies} | {one.short: one.bars for one in found}
    shown = [short for short, bars in judged.items() if all(bar.holds for bar in bars)]
    missed = [short for short in judged if short not in shown]
    verdict = (
        f"All bars hold for {', '.join(shown) or 'no effect'}; not for {', '.join(missed) or 'none'}. "
        f"{' '.join([*(one.claim.sentence() for one in studies), *(one.sentence for one in found)])}"
    )
    return Outcome(
        title="Effects of directions on the texts of a language model",
        question="Which effects do directions have on what a small language model writes, beyond chance, and do its texts stay texts?",
        verdict=verdict,
        bars=[bar for bars in judged.values() for bar in bars],
        episodes=pd.concat(tables, ignore_index=True),
        conditions=pd.DataFrame(
            [row for one in studies for row in one.rows()] + [row for one in found for row in one.rows]
        ),
        figures=[one.claim.figure() for one in studies],
        notes=[
            *notes,
            *(note for one in studies for note in one.notes),
            *(note for one in found for note in one.notes),
            "Greedy decoding: one text a prompt; intervals are over prompts.",
            "The guard on fluency counts repetition and perplexity; whether a text makes sense or is true it does not know.",
        ],
        extra={
            **told,
            "tried": {one.claim.short: one.tried.to_dict("records") for one in studies},
            "examples": [example for one in studies for example in one.examples()],
        },
    )
