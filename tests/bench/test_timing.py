"""The bench's maths, and that its contestants do equal work. Nothing here looks at how long anything takes."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from rich.console import Console

from bench import cases, contestants, models, peers, report, run, timing

SIZE = models.Size(layers=3, width=32, prompt=4, tokens=3, prefill=6, pairs=6, pair_length=5, batch=4)


class Clock:
    """Stands still unless a job spends time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.order: list[str] = []

    def __call__(self) -> float:
        return self.now

    def job(self, name: str, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.order.append(name)
            self.now += seconds

        return run


@pytest.fixture(scope="module")
def bench() -> cases.Bench:
    return cases.prepare(models.decoder(SIZE), SIZE, contestants.OURS)


# ---- maths


def test_every_contestant_runs_once_per_turn_in_changing_order_after_a_warm_up() -> None:
    clock = Clock()
    jobs = {name: clock.job(name, 1.0) for name in "abcde"}
    seconds = timing.interleave(jobs, rounds=3, turns=2, clock=clock)
    turns = [clock.order[i : i + 5] for i in range(0, len(clock.order), 5)]
    assert len(turns) == 1 + 3 * 2
    assert all(sorted(turn) == list("abcde") for turn in turns)
    assert len({tuple(turn) for turn in turns}) > 3
    assert seconds == {name: [2.0, 2.0, 2.0] for name in "abcde"}


def test_the_warm_up_is_not_timed() -> None:
    clock = Clock()
    spent = iter([100.0, 1.0, 2.0])

    def job() -> None:
        clock.now += next(spent)

    assert timing.interleave({"a": job}, rounds=2, clock=clock) == {"a": [1.0, 2.0]}


def test_a_ratio_compares_within_a_round_so_a_slow_round_cancels() -> None:
    seconds = {"reference": [1.0, 10.0, 2.0], "other": [1.5, 15.0, 3.0]}
    assert timing.ratios(seconds, "reference")["other"] == pytest.approx([1.5, 1.5, 1.5])


def test_extra_microseconds_are_per_call_and_beyond_the_reference() -> None:
    seconds = {"reference": [1.0, 2.0], "other": [1.001, 2.003]}
    assert timing.extra_microseconds(seconds, "reference", calls=100)["other"] == pytest.approx([10.0, 30.0])


def test_the_spread_is_median_and_quartiles() -> None:
    assert timing.Spread.of([5.0, 1.0, 3.0, 2.0, 4.0]) == timing.Spread(median=3.0, low=2.0, high=4.0)
    assert timing.Spread.of([7.0]) == timing.Spread(7.0, 7.0, 7.0)


@pytest.mark.parametrize(("value", "holds"), [(1.02, True), (1.0199, True), (1.0201, False)])
def test_a_bound_holds_up_to_its_limit(value: float, holds: bool) -> None:
    assert timing.Bound("", limit=1.02, value=value).holds is holds


def test_noise_is_how_far_the_second_copy_strays_and_never_nothing() -> None:
    assert timing.noise([0.90, 0.95, 1.0, 1.01, 1.02]) == pytest.approx(0.05)
    assert timing.noise([1.0, 1.0, 1.0]) == pytest.approx(0.02)


# ---- equal work


def test_our_contestants_steer_exactly_as_the_bare_hook_does(bench: cases.Bench) -> None:
    assert bench.reasons == {}
    for name in (contestants.BARE, contestants.HOOKED, contestants.BAKED):
        assert bench.agreement[name] <= cases.AGREE


def test_the_check_would_notice_a_contestant_that_does_not_steer(bench: cases.Bench) -> None:
    assert bench.agreement[contestants.UNSTEERED] > 1000 * cases.AGREE


def test_a_contestant_that_does_other_work_is_listed_and_not_timed() -> None:
    def half(model: torch.nn.Module, vectors: contestants.Vectors) -> contestants.Attach:
        return contestants.bare_hook(model, {layer: 0.5 * v for layer, v in vectors.items()})

    def broken(model: torch.nn.Module, vectors: contestants.Vectors) -> contestants.Attach:
        @contextmanager
        def attach() -> Iterator[contestants.Steered]:
            raise RuntimeError("no such layer\nand more")
            yield

        return attach

    crowd = [*contestants.OURS, contestants.Contestant("half", half), contestants.Contestant("broken", broken)]
    bench = cases.prepare(models.decoder(SIZE), SIZE, crowd)
    assert "other work" in bench.reasons["half"]
    assert bench.reasons["broken"] == "RuntimeError: no such layer"
    case = cases.prefill(bench, rounds=1, turns=1)
    assert case.row("half").ratios == []
    assert case.row("half").note.startswith("not timed")
    assert case.row(contestants.HOOKED).ratios != []


def test_contestants_leave_their_model_as_they_found_it() -> None:
    model = models.decoder(SIZE)
    ids = models.prompt(SIZE.prompt)
    before = contestants.plain(model).prefill(ids)
    for contestant in contestants.OURS:
        with (contestant.prepare_idle or contestant.prepare)(model, models.vectors(SIZE))():
            pass
        assert torch.equal(contestants.plain(model).prefill(ids), before), contestant.name


def test_a_twin_shares_weights_unless_told_otherwise() -> None:
    model = models.decoder(SIZE)
    name, weight = next(iter(model.named_parameters()))
    assert models.twin(model).get_parameter(name) is weight
    copied = models.twin(model, own_weights=True).get_parameter(name)
    assert copied is not weight
    assert torch.equal(copied, weight)


def test_find_gives_the_bare_difference_of_means() -> None:
    model, data = models.decoder(SIZE), models.pairs(SIZE)
    bare = contestants.bare_difference(model, data, SIZE.middle)
    assert torch.allclose(contestants.our_difference(model, data, SIZE.middle), bare, atol=1e-5)
    states = []
    for batches in (data.positive, data.negative):
        with torch.no_grad():
            outputs = [model(**batch, output_hidden_states=True).hidden_states[SIZE.middle + 1] for batch in batches]
        states.append(torch.cat(outputs)[:, -1].mean(0))
    assert torch.allclose(bare, states[0] - states[1], atol=1e-5)


def test_texts_and_batches_of_the_pairs_are_the_same_tokens() -> None:
    data = models.pairs(SIZE)
    for side, batches in enumerate((data.positive, data.negative)):
        ids = data.tokenizer([pair[side] for pair in data.texts], return_tensors="pt")["input_ids"]
        assert torch.equal(ids, torch.cat([batch["input_ids"] for batch in batches]))


# ---- the whole run


def test_a_run_prints_every_bound_and_writes_every_ratio(bench: cases.Bench) -> None:
    model = models.decoder(SIZE)
    empty = cases.prepare(models.emptied(models.decoder(SIZE)), SIZE, [one for one in contestants.OURS if one.hooks])
    done = [
        cases.decode(bench, rounds=2, turns=1),
        cases.prefill(bench, rounds=2, turns=1),
        cases.call(empty, rounds=2, turns=1),
        cases.attach(model, bench, rounds=2, turns=1),
        cases.extraction(model, SIZE, contestants.OUR_EXTRACTORS, rounds=2),
    ]
    results = report.as_json(done, bench, {case.name: 2 for case in done}, [], {"other libraries": "offline"})
    results = json.loads(json.dumps(results))
    assert list(results["cases"]) == list(run.MODEL_CASES)
    for case in results["cases"].values():
        for entry in case["contestants"].values():
            assert len(entry["ratio"]["rounds"]) == 2
    bounds = {
        (name, who)
        for name, case in results["cases"].items()
        for who, entry in case["contestants"].items()
        if entry["bound"]
    }
    assert bounds == {
        ("decode", contestants.HOOKED),
        ("decode", contestants.BAKED),
        ("extraction", contestants.FIND),
    }
    console = Console(width=200, record=True, file=io.StringIO())
    for case in done:
        report.print_case(console, case, 2)
    report.print_equal_work(console, bench)
    report.print_summary(console, done, {"other libraries": "offline"}, {})
    text = console.export_text()
    assert text.count(" = ") >= 3
    assert "bare hook + 0.02" in text
    assert "1.1 x bare pass" in text
    assert "did not take part: offline" in text


def test_where_no_environment_can_be_made_ours_is_measured_alone_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    false = shutil.which("false")
    assert false is not None
    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path / ".venv-peers")
    monkeypatch.setattr(peers, "_STAMP", tmp_path / ".venv-peers" / ".installed")
    monkeypatch.setattr(peers, "_uv", lambda: false)
    told: list[dict[str, str]] = []
    monkeypatch.setattr(run, "measure", lambda options, missing: told.append(missing) or 0)
    assert run.main(["--quick"]) == 0
    assert "failed: no message" in told[0]["other libraries"]
    assert not (tmp_path / ".venv-peers").exists()


def test_quick_and_rounds_are_understood(tmp_path: Path) -> None:
    assert run.arguments(["--quick"]).rounds == 3
    assert run.arguments(["--rounds", "7", "--out", str(tmp_path / "r.json")]).rounds == 7
    with pytest.raises(SystemExit):
        run.arguments(["--rounds", "0"])
