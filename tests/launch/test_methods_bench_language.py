"""Language models as subjects of the comparison: what is offered is what it says, and methods run on it from end to end."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from launch.experiments import methods_bench
from launch.experiments.base import Say
from launch.methods_bench import protocol, subjects, texts
from launch.methods_bench.run import UNSTEERED, ZERO, compare_all
from launch.methods_bench.subject import Asked, Subject, Trial
from launch.methods_bench.table import REFERENCE, entry_of
from policies.errors import BadInput, UnknownName


def made(concept: str, policy: str, folder: Path, **changed: Any) -> Subject:
    row = subjects.concept(concept)
    sizes = {**vars(row.quick), "finding": 4, "choice": 2, "test": 2, **changed}
    asked = Asked(policy, concept, **sizes, first_test_seed=75_000, layers=(2, 3), folder=folder, quick=True)
    return row.make(asked)


@pytest.mark.parametrize(
    ("concept", "methods"),
    [
        ("brief", ("asc", "kl-budget", "bipo")),
        ("explore", ("entropy", "behaviour-contrast", "grains", "guiding-giants", "casal", "cdas", "yapo")),
    ],
)
def test_methods_run_on_a_language_model(concept: str, methods: tuple[str, ...], tiny_llm: str, tmp_path: Path) -> None:
    subject = made(concept, tiny_llm, tmp_path)
    found = compare_all(subject, methods, 0.1, 1, 1, tmp_path, Say())
    assert set(found.built) == {REFERENCE, *methods}, found.left_out
    columns = ["seed", "success", subject.measure]
    assert found.tables[ZERO][columns].equals(found.tables[UNSTEERED][columns])
    assert set(subject.instead) < set(found.tables)
    shown = methods_bench.outcome(subject, found, 0.1)
    assert {"random 1+", "permuted 1", f"the words '{subject.words}'"} <= set(shown.conditions["name"])


def test_a_brevity_subject_offers_its_own_texts(tiny_llm: str, tmp_path: Path) -> None:
    subject = made("brief", tiny_llm, tmp_path)
    assert [after.replace(" Answer briefly.", "") for after in subject.positive] == subject.negative
    teacher = subject.offers["teacher"]
    assert teacher["prompts"] == subject.negative
    own = subject.run(Trial("again"), protocol.CHOICE)
    assert (own["tokens"] == own["n_tokens"]).all()
    assert set(own["success"]) <= {0.0, 1.0}
    wordy = subject.run(Trial("words", words=subject.words), protocol.CHOICE)
    assert list(wordy["seed"]) == list(own["seed"])
    for yes, no in zip(
        subject.offers["attribution"]["preferred"], subject.offers["attribution"]["dispreferred"], strict=True
    ):
        assert yes != no


def test_preferred_answers_are_own_ones_with_their_ends() -> None:
    agent = SimpleNamespace(tokenizer=SimpleNamespace(eos_token="<end>"))
    brief = pd.DataFrame({"text": ["Yes.", "", "Same", "No."], "finished": [True, True, False, True]})
    wordy = pd.DataFrame({"text": ["Yes, as", "A", "Same", "No, not."], "finished": [False, True, False, True]})
    pairs = texts.preferred(agent, ["a", "b", "c", "d"], brief, wordy)
    assert pairs == [("a", "Yes.<end>", "Yes, as"), ("d", "No.<end>", "No, not.<end>")], (
        "none is empty, none its own rival"
    )


def test_an_exploring_subject_starts_locked_in_and_its_offers_fit(tiny_llm: str, tmp_path: Path) -> None:
    subject = made("explore", tiny_llm, tmp_path)
    plain = subject.negative
    assert [text.replace(f" {subject.words}", "") for text in subject.positive] == plain
    for prompt, stuck, triple in zip(plain, subject.offers["when"], subject.offers["preferences"], strict=True):
        pulled = [line.split("pressed ")[1].split(",")[0] for line in prompt.splitlines()[1:-1]]
        assert stuck == (len(set(pulled[-3:])) == 1)
        labels = [subject.policy.tokenizer.decode(ids).strip() for ids in (triple.chosen, triple.rejected)]
        assert labels[1] == pulled[-1] != labels[0], "what is preferred is another button than the last"
    table = subject.run(Trial("base"), protocol.TEST)
    assert table["coverage"].between(0.2, 1.0).all()
    assert np.isin(table["success"], (0.0, 1.0)).all()
    assert (table["success"] == (table["action_mass"] >= 0.5)).all()


def test_sizes_are_those_of_the_concept_unless_asked_for() -> None:
    full = methods_bench.complete(methods_bench.settings(False))
    assert (full.policy, full.test, len(full.tasks)) == ("tiny-vla", 5, 8)
    brief = methods_bench.complete(replace(methods_bench.settings(True), concept="brief", test=7))
    assert (brief.policy, brief.test, brief.tasks) == ("llm:smollm2-135m", 7, ())
    with pytest.raises(UnknownName, match="explore"):
        methods_bench.complete(replace(full, concept="explor"))


@pytest.mark.parametrize("name", ["brief", "explore"])
def test_a_policy_that_is_no_language_model_is_refused_by_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=f"'{name}' needs a language model, got 'tiny-vla'"):
        made(name, "tiny-vla", tmp_path)


def test_methods_for_other_concepts_say_so(tiny_llm: str, tmp_path: Path) -> None:
    subject = made("brief", tiny_llm, tmp_path)
    assert "sure" in str(entry_of("entropy").reason(subject))
    assert "sure" in str(entry_of("action-entropy").reason(subject))
    exploring = made("explore", tiny_llm, tmp_path / "other")
    assert entry_of("entropy").reason(exploring) is None
    assert "`entropy`" in str(entry_of("action-entropy").reason(exploring))
