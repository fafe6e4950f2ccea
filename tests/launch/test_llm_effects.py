"""The effects on texts: detectors and fluency measures on constructed texts, the choice, and the experiment on a tiny random model."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from rich.console import Console

import policies
from launch.experiments import base, llm_effects
from launch.experiments.claims import UNSTEERED, ZERO
from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.measures import holds_answer, language, repeated_4grams, word_rate, words
from launch.experiments.llm.study import Candidate, Effect, choose, fluency_limits, passes, study
from launch.experiments.llm.styles import Judge
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.sites import Site

LISTS = data.texts()["languages"]
SILENT = base.Say(Console(file=StringIO()))


@pytest.mark.parametrize("name", LISTS)
def test_sentences_of_a_known_language_are_detected(name: str) -> None:
    known = [*data.texts()["known"][name], *data.texts()["parallel"]["answers"].get(name, [])]
    assert [language(text, LISTS) for text in known] == [name] * len(known)


@pytest.mark.parametrize(
    "text", ["", "12 + 4", "la la la la", "Bonjour Berlin", "Oslo Graz Lund Porto", "le el der il"]
)
def test_too_little_or_mixed_evidence_is_no_language(text: str) -> None:
    assert language(text, {name: one for name, one in LISTS.items() if name != "Italian"}) in ("", "French")
    assert language("Bonjour Berlin", LISTS) == ""


def test_a_loan_word_in_english_stays_english() -> None:
    assert language("The café is on the left of the street, and it has a new déjà-vu menu.", LISTS) == "English"


def test_rates_count_whole_words_and_beginnings() -> None:
    assert words("I don't KNOW, 3 cats’ paws") == ["i", "don't", "know", "cats", "paws"]
    assert word_rate("Bad weather, badly hated days", ["bad", "hate*"]) == pytest.approx(40.0)
    assert word_rate("", ["bad"]) == 0.0
    assert word_rate("the notable note", ["not"]) == 0.0


def test_an_answer_counts_as_whole_words_in_any_case() -> None:
    assert holds_answer("It was ANNA BERG.", "Anna Berg")
    assert not holds_answer("In 1924 and 3 months", "192")
    assert not holds_answer("The redder one", "red")


def test_repetition_is_the_share_of_4grams_seen_before() -> None:
    assert repeated_4grams("one two three four five six") == 0.0
    assert repeated_4grams("la " * 13) == pytest.approx(0.9)
    assert repeated_4grams("a b c d a b c d") == pytest.approx(0.2)
    assert repeated_4grams("a b c") == 0.0


def test_splits_of_facts_share_no_name_and_every_answer_stands_in_its_prompt() -> None:
    made = {split: data.facts(split, 60) for split in data.SPLITS}
    for facts in made.values():
        assert all(holds_answer(fact.prompt, fact.answer) for fact in facts)
    names = [{fact.answer for fact in facts} for facts in made.values()]
    assert not (names[0] & names[1])
    assert not (names[0] & names[2])
    assert not (names[1] & names[2])
    assert data.facts("test", 5) == data.facts("test", 5)
    with pytest.raises(BadInput, match=r"finding"):
        data.facts("train", 2)


def test_choice_and_test_prompts_are_disjoint_and_the_judges_texts_are_not_the_directions() -> None:
    table = data.texts()
    for kind in ("everyday", "sentiment"):
        assert not set(table[kind]["choice"]) & set(table[kind]["test"])
    seen = set(table["everyday"]["choice"]) | set(table["everyday"]["test"])
    for kind in ("refusal", "persona"):
        assert not seen & set(table[kind]["finding"]["prompts"])
    assert not set(table["persona"]["finding"]["roles"]) & set(table["persona"]["judge"]["roles"])
    assert not set(table["persona"]["finding"]["prompts"]) & set(table["persona"]["judge"]["prompts"])
    for side in ("texts", "plain"):
        assert not set(table["refusal"]["finding"][side]) & set(table["refusal"]["judge"][side])
    sentences = data.opinions("negative", 40)
    assert len(set(sentences)) == 40
    with pytest.raises(BadInput, match="there are"):
        data.opinions("neutral", 10**6)


def test_the_guard_refuses_repetition_salad_and_silence() -> None:
    def texts(repeated: float, likely: float, n: int = 9) -> pd.DataFrame:
        return pd.DataFrame({"repeated": [repeated] * 4, "log_probability": [likely] * 4, "n_tokens": [n] * 4})

    limits = fluency_limits(texts(0.05, -2.5), texts(0.0, -3.0))
    assert limits == pytest.approx((0.15, -3.693), abs=1e-3)
    assert passes(texts(0.1, -3.5), limits)
    assert not passes(texts(0.5, -0.5), limits)  # likely, since it repeats itself
    assert not passes(texts(0.0, -6.0), limits)
    assert not passes(texts(0.0, -2.0, n=0), limits)


@pytest.fixture(scope="module")
def bench(tiny_llm: str, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(policies.load(tiny_llm), tmp_path_factory.mktemp("texts"))  # type: ignore[arg-type]


def test_log_probability_is_that_of_the_text_behind_its_prompt_whatever_it_is_padded_with(bench: Bench) -> None:
    prompt, text = "round 1", "pressed green"
    (alone,) = bench.log_probabilities([prompt], [text])
    long = "pressed blue , got 47 points"
    assert bench.log_probabilities([prompt] * 3, [long, text, ""])[1:] == [pytest.approx(alone, abs=1e-4), None]
    before, own = (bench.policy.tokenizer(one)["input_ids"] for one in (f"{prompt}\n", text))
    with torch.no_grad():
        logits = bench.policy.module(torch.tensor([before + own])).logits[0].log_softmax(-1)
    said = [float(logits[len(before) + i - 1, token]) for i, token in enumerate(own)]
    assert alone == pytest.approx(sum(said) / len(said), abs=1e-5)


def test_a_wish_is_heard_but_not_read_with_the_text(bench: Bench) -> None:
    plain, wished = bench.write(["pressed blue"], 6), bench.write(["pressed blue"], 6, wish="got 9 9 9 points red")
    assert list(plain["prompt"]) == list(wished["prompt"])
    assert list(wished["text"]) == list(bench.write(["pressed blue got 9 9 9 points red"], 6)["text"])
    assert wished["log_probability"].tolist() == pytest.approx(
        bench.log_probabilities(["pressed blue"], list(wished["text"]))
    )


def unit(layer: int, seed: int) -> Direction:
    made = torch.randn(32, generator=torch.Generator().manual_seed(seed))
    key = f"language.{layer}.block_output"
    return Direction.from_raw({key: made}, Site(layer=layer), {key: {"mean_norm": 8.0}})


def colours(wanted: str) -> Effect:
    prompts = [f"pressed {colour} , got 4" for colour in ("blue", "green", "red")]
    return Effect(
        short="colour", name="Colour words", measure="rate", label="rate", sign=1, share=False, choice=prompts, most=8,
        test=[f"{prompt} 7" for prompt in prompts], wish=wanted,
        judged=lambda split, table: table.assign(rate=[word_rate(text, [wanted]) for text in table["text"]]),
        candidates=[Candidate("given", unit(2, seed), alpha) for seed in (0, 1) for alpha in (0.3, 4.0)],
    )  # fmt: skip


def test_a_study_has_all_controls_and_zero_strength_writes_the_same_texts(bench: Bench) -> None:
    found = study(bench, colours("points"), 2, SILENT)
    tables = found.claim.tables
    assert {"random 1 +", "random 1 -", "random 2 +", "random 2 -", "asked: points"} < set(tables)
    assert list(tables[ZERO]["text"]) == list(tables[UNSTEERED]["text"])
    assert any(list(one["text"]) != list(tables[UNSTEERED]["text"]) for one in tables.values())
    assert len(found.tried) == 4
    assert {bar.name.split(":")[0] for bar in found.bars} == {"colour"}


def test_the_choice_looks_at_choice_prompts_only_and_takes_the_best_that_passes_the_guard(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    effect, seen = colours("points"), []
    write = Bench.write

    def watched(self: Bench, prompts: list[str], *rest: Any, **more: Any) -> pd.DataFrame:
        seen.extend(prompts)
        return write(self, prompts, *rest, **more)

    monkeypatch.setattr(Bench, "write", watched)
    best, tried = choose(bench, effect, SILENT)
    allowed = tried[tried["fluent"]]
    assert not set(seen) & set(effect.test)
    assert [one.name for one in best.values()] == list(allowed.nlargest(1, "gain")["candidate"])

    plain = list(bench.write(effect.choice, effect.most)["text"])

    def salad(split: str, table: pd.DataFrame) -> pd.DataFrame:
        judged = effect.judged(split, table)
        return judged if list(table["text"]) == plain else judged.assign(log_probability=-50.0)

    strong = replace(effect, candidates=effect.candidates[1::2], judged=salad)
    nothing, told = choose(bench, strong, SILENT)
    assert not nothing
    assert not told["fluent"].any()
    assert "no candidate passed" in study(bench, strong, 1, SILENT).notes[0]


def test_texts_are_kept_and_not_written_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["pressed blue", "pressed green , got 12 points"]
    first = bench.write(prompts, 6)
    monkeypatch.setattr(bench, "_decoded", lambda *rest: pytest.fail("written again"))
    pd.testing.assert_frame_equal(first, bench.write(prompts, 6))
    assert list(first["n_tokens"] <= 6) == [True, True]


def test_a_judge_tells_texts_apart_that_it_has_not_seen(bench: Bench) -> None:
    blue, green = ([f"pressed {colour} , got {i} points" for i in range(8)] for colour in ("blue", "green"))
    judge = Judge.trained(bench, 3, blue[:5], green[:5])
    assert judge.accuracy >= 0.8
    assert judge(bench, [*blue[5:], *green[5:]]) == [1.0] * 3 + [0.0] * 3


def test_the_experiment_runs_on_a_random_model_and_does_not_pass_there(
    tiny_llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = llm_effects.settings
    small = {
        "policy": tiny_llm,
        "layers": (2,),
        "sae_layer": 2,
        "sae_features": 64,
        "n_choice": 2,
        "n_test": 3,
        "long": 6,
        "short": 6,
    }
    monkeypatch.setattr(llm_effects, "settings", lambda quick: replace(settings(quick), **small))
    results = base.run_experiment("llm-effects", quick=True, runs=tmp_path, say=SILENT)
    folder = tmp_path / "llm-effects"
    assert json.loads((folder / "results.json").read_text()) == results
    assert not all(bar["holds"] for bar in results["bars"])
    assert results["written when asked"] == {"French": 0.0, "Spanish": 0.0, "German": 0.0}
    assert any("French is not tested" in note for note in results["page"]["notes"])
    episodes = pd.read_parquet(folder / "episodes.parquet")
    assert (episodes.groupby("condition").size() == 3).all()
    shares = {bar["name"]: bar for bar in results["bars"] if "zero strength" in bar["name"]}
    assert shares
    assert all(bar["holds"] for bar in shares.values())
    again = base.run_experiment("llm-effects", quick=True, runs=tmp_path, say=SILENT)
    assert again["bars"] == results["bars"]
