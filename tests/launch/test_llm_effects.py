"""The effects on texts: detectors and fluency measures on constructed texts, the choice, and the experiment on a tiny random model."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from rich.console import Console

import policies
from launch.experiments import base, llm_effects
from launch.experiments.claims import UNSTEERED, ZERO
from launch.experiments.llm import data
from launch.experiments.llm import language as spoken
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.character import VoiceJudge, dropped, preferred
from launch.experiments.llm.measures import holds_answer, language, repeated_4grams, word_rate, words
from launch.experiments.llm.relevance import on_topic, scored, topics
from launch.experiments.llm.resisting import resisting
from launch.experiments.llm.settings import Settings
from launch.experiments.llm.study import Candidate, Effect, Study, choose, fluency_limits, passes, plateau, study
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
    assert not seen & set(table["spoken"]["test"])
    assert not set(spoken.choice_prompts(Settings())) & set(table["spoken"]["test"])
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


def test_of_equal_candidates_the_middle_of_a_plateau_is_taken() -> None:
    one = [Candidate("given", unit(layer, 0), alpha) for layer in (1, 2) for alpha in (0.1, 0.2, 0.3)]
    gains = [0.0, 1.0, 0.2, 0.8, 1.0, 0.9]
    assert max(range(6), key=lambda i: (gains[i], plateau(one, gains, i))) == 4
    assert plateau(one, gains, 2) == pytest.approx(0.4)  # two of its own layer, none of the next, and an end counts 0


def test_a_text_is_on_the_topic_of_the_prompt_that_alone_fits_it_best_both_ways() -> None:
    fits = np.array([[-1.0, -3.0, -3.0], [-4.0, -2.0, -4.0], [-2.0, -2.9, -3.0]])
    assert on_topic(fits).tolist() == [[True, False, False], [False, True, False], [False, False, False]]
    assert on_topic(fits[[1, 0, 2]])[:2, :2].tolist() == [[False, True], [True, False]]
    assert (
        on_topic(fits + np.array([[5.0], [0.0], [-9.0]])).tolist() == on_topic(fits).tolist()
    )  # likely texts gain nothing
    same = np.tile([-1.0, -3.0, -3.0], (3, 1))
    assert not on_topic(same + 1e-6 * np.eye(3)).any()
    with pytest.raises(BadInput, match="shape"):
        on_topic(fits[:2])


def test_topics_read_each_text_behind_each_prompt_of_its_block(bench: Bench) -> None:
    prompts = ["round 1", "pressed blue", "got 47 points", "pressed green , got 2"]
    texts = ["pressed green", "", "got 9 points", "red"]
    fits = np.array([bench.log_probabilities(prompts, [text or "red"] * 4) for text in texts], dtype=float)
    fits[1] = 0.0
    expected = on_topic(fits)
    own, misplaced = topics(bench, prompts, texts)
    assert own == [float(expected[i, i]) if texts[i] else 0.0 for i in range(4)]
    assert misplaced == [float(expected[i, (i + 1) % 4]) if texts[i] else 0.0 for i in range(4)]
    assert topics(bench, prompts, ["pressed green"] * 4) == ([0.0] * 4, [0.0] * 4)


def shares(wanted: str) -> Effect:
    """Whether a text has a word."""
    effect = colours(wanted)
    return replace(
        effect, measure="has", share=True, most=6, test=[*effect.test, "pressed 7"],
        judged=lambda split, table: table.assign(has=[float(holds_answer(text, wanted)) for text in table["text"]]),
    )  # fmt: skip


@pytest.fixture(scope="module")
def studied(bench: Bench) -> Study:
    return study(bench, shares("points"), 1, SILENT)


def test_the_harmonic_score_of_a_study_has_all_conditions_and_no_credit_for_one_sentence(
    bench: Bench, studied: Study
) -> None:
    found = scored(bench, "got points", ("points", "points red"), studied)
    rows = {row["condition"]: row for row in found.rows}
    assert {
        UNSTEERED,
        studied.claim.steered,
        studied.claim.loudest,
        "asked: points",
        "asked: points red",
        "one sentence for all",
    } == set(rows)
    constant = rows["one sentence for all"]
    assert (constant["control"], constant["on_topic"], constant["value"], constant["per_item"]) == (1.0, 0.0, 0.0, 0.0)
    for row in rows.values():
        c, q = row["control"], row["on_topic"]
        assert row["value"] == pytest.approx(2 * c * q / (c + q) if c + q else 0.0)
        assert row["low"] - 1e-9 <= row["value"] <= row["high"] + 1e-9
    again = scored(bench, "got points", ("points", "points red"), studied)
    assert [row["value"] for row in again.rows] == pytest.approx([row["value"] for row in found.rows], abs=1e-6)
    assert {bar.name: bar.holds for bar in found.bars}["colour: harmonic score, one sentence for all prompts"]


def test_resistance_is_counted_at_every_strength_and_in_replies_that_do_resist(
    bench: Bench, studied: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    s = replace(Settings(), resist=(0.1, 0.3), n_explain=3, long=3)
    write = Bench.write

    def planted(self: Bench, prompts: list[str], most: int, part: Any = None, wish: str = "") -> pd.DataFrame:
        table = write(self, prompts, most, part, wish)
        said = ["Nothing at all.", "Wait, that's wrong. Let me start over: bread is flour and dough.", ""]
        return (
            table
            if part is None
            else table.assign(text=["Stars are far. Wait. That was wrong. Bread is dough.", "", said[0]])
        )

    monkeypatch.setattr(Bench, "write", planted)
    found = resisting(bench, s, studied)
    rows = {row["condition"]: row for row in found.rows}
    assert (rows["all strengths"]["count"], rows["all strengths"]["value"]) == (
        2,
        pytest.approx(0.5),
    )  # 1 of 2 with words, twice
    assert rows[UNSTEERED]["count"] == 0
    assert len(rows) == 2 + 2 + 1 + 1 + 1
    assert found.tables[studied.claim.steered.split("+")[0] + "+0.3"]["attempts"].tolist() == [2, 0, 1]


def test_a_judge_of_voices_names_the_voice_of_texts_it_has_not_seen(bench: Bench) -> None:
    shown = {colour: [f"pressed {colour} , got {i} points" for i in range(8)] for colour in ("blue", "green", "red")}
    judge = VoiceJudge.trained(bench, 3, {colour: texts[:5] for colour, texts in shown.items()})
    right, of = judge.accuracy(bench, {colour: texts[5:] for colour, texts in shown.items()})
    assert of == 3 * 3 * 2
    assert right / of >= 0.8
    assert judge.verdict(np.array([0.0, 1.0, 1.0]), "blue", "green") == 0.0
    assert judge.verdict(np.array([0.0, 1.0, 1.0]), "red", "green") == 0.5


def test_games_of_voices_offer_the_same_pairs_to_all_in_both_orders(bench: Bench, studied: Study) -> None:
    s = replace(Settings(), layers=(2,), short=4, n_games=5, n_voice=2, n_test=2)
    found = preferred(bench, s, studied)
    tables = list(found.tables.values())
    assert len(tables) == 3
    for table in tables:
        assert len(table) == 10
        assert list(table["prompt"]) == list(tables[0]["prompt"])
        assert list(table["first"][::2]) == list(table["second"][1::2])
    assert {row["condition"] for row in found.rows} >= {UNSTEERED, studied.claim.steered}
    assert sum(row["value"] for row in found.rows if row["condition"] == UNSTEERED) == pytest.approx(6000)
    assert not any(table["names"].any() for table in tables)  # the tiny model has no such words


def test_answers_that_name_a_voice_are_counted(bench: Bench, studied: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    s = replace(Settings(), layers=(2,), short=4, n_games=2, n_voice=2, n_test=2)
    write = Bench.write

    def named(self: Bench, prompts: list[str], *rest: Any, **more: Any) -> pd.DataFrame:
        table = write(self, prompts, *rest, **more)
        return table.assign(text=["The Queen.", "queenly", "points", "red"]) if len(table) == 4 else table

    monkeypatch.setattr(Bench, "write", named)
    found = preferred(bench, s, studied)
    assert [table["names"].tolist() for table in found.tables.values()] == [[1.0, 0.0, 0.0, 0.0]] * 3
    assert not {bar.name: bar.holds for bar in found.bars}["voices: steered answers that name one, though told not to"]


def test_dropping_the_act_compares_each_condition_with_itself(bench: Bench, studied: Study) -> None:
    found = dropped(bench, studied)
    at = {row["condition"]: row["value"] for row in found.rows}
    for name in (UNSTEERED, studied.claim.steered, "asked: points"):
        assert at[f"{name}: change"] == pytest.approx(at[f"{name}, told to drop it"] - at[name])
    prompts = found.tables[f"{UNSTEERED}, told to drop it"]["prompt"]
    ways = data.texts()["character"]["drop"]
    assert list(prompts) == [f"{prompt} {ways[i]}" for i, prompt in enumerate(studied.effect.test)]


def test_candidates_of_a_language_come_from_all_methods_and_tell_the_null_test(bench: Bench) -> None:
    s = replace(Settings(), spoken_layers=(1, 2), fox_layers=(1, 2, 3), language=(0.3, 0.4), foxp2=(1.0,))
    notes: list[str] = []
    told: dict[str, Any] = {}
    made = spoken.candidates(bench, "French", s, notes, told)
    methods = [one.method for one in made]
    assert {name: methods.count(name) for name in ("mean-difference", "probe", "lda", "pca")} == dict.fromkeys(
        ("mean-difference", "probe", "lda", "pca"), 4
    )
    assert ("foxp2" in methods) != any("foxp2" in note for note in notes)
    assert {one.method for one in spoken.candidates(bench, "Spanish", s, notes, told)} <= {"mean-difference", "foxp2"}
    assert spoken.begun(["one two three four five"]) == ["one two", "one two three", "one two three four five"]


def test_texts_are_kept_and_not_written_twice(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    prompts = ["pressed blue", "pressed green , got 12 points"]
    first = bench.write(prompts, 6)
    monkeypatch.setattr(bench, "decoded", lambda *rest: pytest.fail("written again"))
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
    assert results["written when asked"] == {"French": 0.0}
    assert any("French is not tested" in note for note in results["page"]["notes"])
    episodes = pd.read_parquet(folder / "episodes.parquet")
    sizes = episodes.groupby("condition").size()
    assert {name.split(":")[0] for name in sizes.index} >= {"refusal", "persona", "drop the act", "voices"}
    assert (sizes[[name.split(":")[0] in ("refusal", "persona", "sentiment") for name in sizes.index]] == 3).all()
    shares = {bar["name"]: bar for bar in results["bars"] if "zero strength" in bar["name"]}
    assert shares
    assert all(bar["holds"] for bar in shares.values())
    again = base.run_experiment("llm-effects", quick=True, runs=tmp_path, say=SILENT)
    assert again["bars"] == results["bars"]
