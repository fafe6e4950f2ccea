"""What is measured: five cases, each one interleaved run over all contestants. `bench/report.py` prints them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import LlamaForCausalLM

from bench import models, timing
from bench.contestants import (
    BAKED,
    BARE,
    BARE_PASS,
    FIND,
    HOOKED,
    SECOND_COPY,
    UNSTEERED,
    Attach,
    Contestant,
    Extractor,
    Steered,
    disagreement,
)

AGREE = 1e-5
"""Largest difference of logits from the bare hook's that counts as equal work."""


@dataclass
class Row:
    """One contestant in one case.

    Args:
        ratios: CPU time divided by the reference's, per round; empty where only microseconds make sense.
        microseconds: per round; of a hook call beyond the reference, or of attaching and detaching.
        note: what to know when reading it; the reason if it was not timed.
    """

    name: str
    ratios: list[float] = field(default_factory=list)
    microseconds: list[float] = field(default_factory=list)
    bound: timing.Bound | None = None
    note: str = ""


@dataclass
class Case:
    """One table.

    Args:
        what: one sentence that says what was timed.
        unit: what `Row.microseconds` counts.
        reference: contestant that ratios are taken to.
    """

    name: str
    what: str
    reference: str
    rows: list[Row]
    unit: str = ""

    def row(self, name: str) -> Row:
        return next(row for row in self.rows if row.name == name)

    def median(self, name: str) -> float:
        return timing.Spread.of(self.row(name).ratios).median


@dataclass
class Bench:
    """One model with all contestants, and what was found about them before timing.

    Args:
        contestants: all of them.
        attachments: contestant -> what attaches it, for those that are timed.
        agreement: contestant -> largest difference of logits from the bare hook's.
        reasons: contestant -> why it is not timed.
    """

    size: models.Size
    contestants: Sequence[Contestant]
    attachments: dict[str, Attach] = field(default_factory=dict)
    agreement: dict[str, float] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)

    def case(
        self,
        name: str,
        what: str,
        reference: str,
        seconds: timing.Seconds,
        microseconds: Mapping[str, list[float]] | None = None,
        unit: str = "",
    ) -> Case:
        """The table of what was timed, with a line for every contestant that was not."""
        ratios = timing.ratios(seconds, reference)
        rows = [
            Row(one.name, ratios[one.name], (microseconds or {}).get(one.name, []), note=one.notes.get(name, ""))
            for one in self.contestants
            if one.name in seconds
        ]
        rows += [Row(key, note=f"not timed: {reason}") for key, reason in self.reasons.items()]
        return Case(name, what, reference, rows, unit)


def prepare(model: LlamaForCausalLM, size: models.Size, contestants: Sequence[Contestant]) -> Bench:
    """Give every contestant its own module tree on the same weights, and check that all do equal work.

    A contestant that fails, or whose logits differ from the bare hook's by more than `AGREE`, is not timed.
    """
    vectors = models.vectors(size)
    ids = models.prompt(size.prompt)
    bench = Bench(size, contestants)
    bare = next(contestant for contestant in contestants if contestant.name == BARE)
    with bare.prepare(models.twin(model), vectors)() as reference:
        for contestant in contestants:
            name = contestant.name
            try:
                attach = contestant.prepare(models.twin(model, contestant.own_weights), vectors)
                with attach() as steered:
                    off = disagreement(steered, reference, ids, size.tokens)
            except Exception as error:  # another library's failure is a line in the table
                bench.reasons[name] = first_line(error)
                continue
            bench.agreement[name] = off
            if off <= AGREE or name in (UNSTEERED, SECOND_COPY):
                bench.attachments[name] = attach
            else:
                bench.reasons[name] = f"other work: logits differ from the bare hook's by {off:.1e}"
    return bench


def first_line(error: Exception) -> str:
    """An error in a line."""
    return f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0]}"


def _race(bench: Bench, rounds: int, work: Callable[[Steered], object], seed: int, turns: int = 1) -> timing.Seconds:
    """All contestants attached at once, each to its own tree."""
    with ExitStack() as stack:
        steered = {name: stack.enter_context(attach()) for name, attach in bench.attachments.items()}
        return timing.interleave({name: partial(work, one) for name, one in steered.items()}, rounds, seed, turns)


def decode(bench: Bench, rounds: int, seed: int = 0, turns: int = 2) -> Case:
    """Greedy decoding with a cache; the bounds are here."""
    size = bench.size
    ids = models.prompt(size.prompt)
    seconds = _race(bench, rounds, lambda one: one.generate(ids, size.tokens), seed, turns)
    blocks = f"{len(size.steered)} of {size.layers} blocks steered"
    what = f"{size.tokens} tokens after {size.prompt}, with a cache, batch 1, {blocks}"
    case = bench.case("decode", what, UNSTEERED, seconds)
    limit = case.median(BARE) + 0.02
    case.row(HOOKED).bound = timing.Bound("bare hook + 0.02", limit, case.median(HOOKED))
    limit = 1 + timing.noise(case.row(SECOND_COPY).ratios)
    case.row(BAKED).bound = timing.Bound("1 + noise", limit, case.median(BAKED))
    return case


def prefill(bench: Bench, rounds: int, seed: int = 0, turns: int = 3) -> Case:
    """One pass over a longer prompt."""
    size = bench.size
    ids = models.prompt(size.prefill)
    seconds = _race(bench, rounds, lambda one: one.prefill(ids), seed, turns)
    what = f"one pass over {size.prefill} tokens, batch 1, {len(size.steered)} of {size.layers} blocks steered"
    return bench.case("prefill", what, UNSTEERED, seconds)


def call(empty: Bench, rounds: int, seed: int = 0, turns: int = 40, passes: int = 2) -> Case:
    """Passes through blocks that do nothing, so that hooks stand out of the noise.

    Args:
        empty: of a model that was `models.emptied`.
        turns: turns of each contestant per round.
        passes: passes per turn, one right after the other as in decoding.
    """
    ids = models.prompt(1)

    def work(one: Steered) -> None:
        for _ in range(passes):
            one.prefill(ids)

    seconds = _race(empty, rounds, work, seed, turns)
    n_hooks = len(empty.size.steered)
    extra = timing.extra_microseconds(seconds, UNSTEERED, n_hooks * turns * passes)
    what = f"passes over 1 token through {n_hooks} steered blocks that give their input back"
    return empty.case("call", what, UNSTEERED, seconds, extra, "us per hook call, beyond unsteered")


def attach(model: LlamaForCausalLM, bench: Bench, rounds: int, seed: int = 0, turns: int = 10) -> Case:
    """Attaching and detaching, without any pass between.

    Args:
        turns: times that each contestant attaches per round.
    """

    def job(one: Attach) -> None:
        with one():
            pass

    vectors = models.vectors(bench.size)
    jobs: dict[str, timing.Job] = {}
    for one in bench.contestants:
        if one.name in bench.attachments and one.name not in (UNSTEERED, SECOND_COPY):
            prepare_one = one.prepare_idle or one.prepare
            jobs[one.name] = partial(job, prepare_one(models.twin(model, one.own_weights), vectors))
    seconds = timing.interleave(jobs, rounds, seed, turns)
    each = {name: [1e6 * value / turns for value in values] for name, values in seconds.items()}
    what = f"attach to {len(bench.size.steered)} blocks of an untouched model and detach again"
    return bench.case("attach", what, BARE, seconds, each, "us per attach and detach")


def extraction(
    model: LlamaForCausalLM, size: models.Size, extractors: Sequence[Extractor], rounds: int, seed: int = 0
) -> Case:
    """A difference of means at one layer, against a bare pass that stops there."""
    data = models.pairs(size)
    jobs: dict[str, timing.Job] = {}
    rows: dict[str, Row] = {}
    reference: Any = None
    for one in extractors:
        rows[one.name] = Row(one.name, note=one.note)
        job = partial(one.run, models.twin(model), data, size.middle)
        try:
            found = job()
            reference = found if one.name == BARE_PASS else reference
            off = float((found - reference).norm() / reference.norm())
        except Exception as error:  # another library's failure is a line in the table
            rows[one.name].note = f"not timed: {first_line(error)}"
            continue
        if one.exact and off > AGREE:
            rows[one.name].note = f"not timed: other work: its vector is off by {off:.1e}"
            continue
        cosine = float(torch.nn.functional.cosine_similarity(found, reference, dim=0))
        rows[one.name].note = "; ".join(part for part in (f"cosine {cosine:.3f}", one.note) if part)
        jobs[one.name] = job
    seconds = timing.interleave(jobs, rounds, seed)
    for name, ratios in timing.ratios(seconds, BARE_PASS).items():
        rows[name].ratios = ratios
    texts = f"{size.pairs} pairs of {size.pair_length} tokens"
    what = f"difference of means of {texts} at block {size.middle}, batch {size.batch}"
    case = Case("extraction", what, BARE_PASS, list(rows.values()))
    case.row(FIND).bound = timing.Bound("1.1 x bare pass", 1.1, case.median(FIND))
    return case
