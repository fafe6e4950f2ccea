"""Neurons that say a word, against random ones: the value-vector method of arXiv 2509.00328 in closed loop, whatever comes out.

The paper compares neurons chosen by their words with an unsteered policy. Here they stand beside `n_random` sets of as many random
neurons of the same layers, set to the same values, since setting neurons at random slows an arm as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import CARRYING, TEST, Bench, Change, Condition, change
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.report import Bar
from steer_agents.finding import find
from steer_agents.finding.controls import neurons_like
from steer_agents.interventions import SetNeurons


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: a name that `policies.load` takes; load: its options.
        tasks: that are run.
        concepts: asked of the vocabulary -> sign of the change of speed that they should make.
        values: constants that the neurons are set to; 4 and 10 are the paper's (OpenVLA, pi0-FAST).
        max_neurons: per concept.
        n_random: sets of random neurons.
        test_episodes: of every task.
    """

    policy: str = "tiny-vla"
    load: Mapping[str, Any] = field(default_factory=dict)
    tasks: tuple[str, ...] = CARRYING
    concepts: tuple[tuple[str, int], ...] = (("slowly", -1), ("quickly", 1))
    values: tuple[float, ...] = (4.0, 10.0)
    max_neurons: int = 10
    n_random: int = 10
    test_episodes: int = 5


def settings(quick: bool) -> Settings:
    """40 paired episodes a condition, 10 random sets (about 20 minutes), or 8 and two (about 2 minutes)."""
    return replace(Settings(), values=(4.0,), n_random=2, test_episodes=1) if quick else Settings()


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Find neurons by their words, set them and random ones, compare."""
    bench = Bench(s.policy, s.tasks, folder / f"rollouts-{settings_key(s)}", s.load)
    sets: dict[str, Direction] = {}
    missing = []
    for concept, _ in s.concepts:
        try:
            sets[concept] = find(bench.policy, "vocabulary", concept=concept, max_neurons=s.max_neurons)
        except BadInput as error:  # a finding too: no neuron of this policy says the word
            missing.append(f"'{concept}': {error}")
            continue
        sets[concept].save(folder / f"{s.policy}-neurons-{concept}.safetensors")
    conditions = [Condition("base", "base")]
    for concept, found in sets.items():
        for value in s.values:
            conditions.append(Condition(f"'{concept}' = {value:g}", "steered", _set(bench, found, value)))
            for i in range(s.n_random):
                name = f"random {i + 1} for '{concept}' = {value:g}"
                conditions.append(Condition(name, "control", _set(bench, neurons_like(found, seed=i), value)))
    say.plan([1.0] * len(conditions))
    tables = {}
    for condition in conditions:
        say.stage(f"{s.test_episodes} episodes of {len(s.tasks)} tasks: {condition.name}")
        tables[condition.name] = bench.episodes(condition, TEST, s.test_episodes)
    changes = {name: change(table, tables["base"], "transit_speed") for name, table in tables.items()}
    return _outcome(s, sets, missing, conditions, tables, changes)


def _set(bench: Bench, neurons: Direction, value: float) -> SetNeurons:
    return SetNeurons(neurons, values=value, site=replace(neurons.site, tokens=bench.subject.neuron_tokens))


def _told(value: float, between: tuple[float, float] | None = None) -> str:
    if np.isnan(value):
        return "nothing was carried"
    return f"{100 * value:+.0f} %" + (f" ({100 * between[0]:+.0f} to {100 * between[1]:+.0f})" if between else "")


def _outcome(
    s: Settings, sets: dict[str, Direction], missing: list[str], conditions: list[Condition], tables: dict[str, pd.DataFrame],
    changes: dict[str, Change],
) -> Outcome:  # fmt: skip
    bars, words = [], []
    signs = dict(s.concepts)
    for concept, found in sets.items():
        says = "; ".join(", ".join(neuron["tokens"][:3]) for neuron in found.info["neurons"][:3])
        for value in s.values:
            own = changes[f"'{concept}' = {value:g}"]
            random = [changes[f"random {i + 1} for '{concept}' = {value:g}"].value for i in range(s.n_random)]
            told = [one for one in random if not np.isnan(one)] or [np.nan]  # NaN where nothing was carried
            beaten = int(np.sum(signs[concept] * own.value > signs[concept] * np.array(random)))
            holds = beaten == len(random) and signs[concept] * own.value > 0
            bars.append(
                Bar(f"'{concept}' neurons at {value:g}: change of transit speed", own.value, (own.low, own.high),
                    f"beyond all {len(random)} random sets ({min(told):+.2f} to {max(told):+.2f})", holds)
            )  # fmt: skip
            words.append(
                f"{len(found.info['neurons'])} neurons that say '{concept}' ({says}) at {value:g}: "
                f"{_told(own.value, (own.low, own.high))}, success {own.success:+.2f}; {len(random)} random sets: "
                f"{_told(min(told))} to {_told(max(told))}, of which it is beyond {beaten}."
            )
    words += [f"No neuron says {text}" for text in missing]
    rows = [
        {"condition": one.name, "role": one.role, "success": float(tables[one.name]["success"].mean()),
         "transit_speed": float(tables[one.name]["transit_speed"].mean()), "change": moved.value, "low": moved.low, "high": moved.high,
         "pairs": moved.pairs}
        for one in conditions for moved in [changes[one.name]]
    ]  # fmt: skip
    table = pd.DataFrame(rows)
    shown = table.rename(columns={"condition": "name", "change": "value"}).dropna(subset="value")
    title = f"{s.policy}: neurons that say a word, and random ones"
    return Outcome(
        title=title,
        question=f"Does setting the neurons of {s.policy} whose value vectors say 'slowly' or 'quickly' change its speed more than setting "
        "as many random neurons of the same layers to the same value?",
        verdict=" ".join(words),
        bars=bars,
        episodes=pd.concat(tables.values(), ignore_index=True),
        conditions=table,
        figures=[
            Figure("conditions", plots.bars(shown, label="relative change of transit speed", title=title, reference=0.0),
                   "Paired with the base; BCa 95 % intervals.",
                   "; ".join(f"{r['condition']} {r['change']:+.3f}" for r in rows)),
        ] if len(shown) else [],
        notes=["Nothing was chosen here: the neurons come from the weights, the values from the paper."],
        extra={"neurons": {concept: found.info["neurons"] for concept, found in sets.items()}, "missing": missing},
    )  # fmt: skip
