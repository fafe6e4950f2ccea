"""The fragility battery on a policy, a direction and an environment: what `steer-agents stress` and the experiment `stress` run.

The checks are pure functions of `steer_agents.evaluation.stress`; here are the episodes, the scenes and the activations that they ask
for. Nothing is chosen here: strength and layer come as they are, all seeds are the test's own. Scenes are of seeds that are not in the
test either, so that the direction is found anew, and its neighbours are told apart, on contexts that were not seen before.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pandas as pd
import torch

from launch.stress_scenes import Evidence, gather, saying
from launch.trials import Trials
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.evaluation.judging.doses import STEERED, judged
from steer_agents.evaluation.measures import Measure
from steer_agents.evaluation.open_loop import open_loop
from steer_agents.evaluation.stress import (
    SHARES,
    Asked,
    Battery,
    Check,
    Runner,
    ask,
    effects,
    found_again,
    halves,
    not_measured,
    specificity,
    validity,
)
from steer_agents.evaluation.stress.battery import Tell, Unsteered
from steer_agents.finding.controls import permuted_like, random_like
from steer_agents.interventions import Add
from steer_agents.strength import Strength

TEST, SCENES, SIGN = 61_000, 71_000, 81_000
"""First seed of the test, of the scenes, and of the episodes that tell which way the direction steers where nobody said so."""


@dataclass(frozen=True, eq=False)
class Neighbour:
    """A concept that the direction should not be.

    Args:
        name: as shown.
        kind: "theme" or "form", see `steer_agents.evaluation.stress.neighbours`.
        words: that say it, appended to the instruction; "" where nothing can be said.
        measure: that it changes, and the direction should not; "" for none.
    """

    name: str
    kind: str
    words: str = ""
    measure: str = ""

    @classmethod
    def read(cls, text: str) -> Neighbour:
        """From "[theme=|form=]FILE[:MEASURE]", FILE being a direction that was found from words ("prompt-contrast").

        Raises:
            BadInput: another kind.
        """
        kind, equal, rest = text.partition("=")
        kind, rest = (kind, rest) if equal else ("theme", text)
        if kind not in ("theme", "form"):
            raise BadInput(f"neighbour {text!r}: write [theme=|form=]FILE[:MEASURE], got the kind {kind!r}.")
        path, _, measure = rest.partition(":")
        said = Direction.load(path).info.get("positive") or ("",)
        return cls(Path(path).stem, kind, str(said[0]), measure)


@dataclass(frozen=True)
class StressSettings:
    """What is asked.

    Args:
        measure: that the direction changes, see `steer_agents.evaluation.measures`.
        strength: the chosen one, above 0; unit: of it.
        layer: the chosen one; None takes the direction's only one.
        sign: the way asked for; 0 finds it on seeds of its own.
        relative: effects are shares of the unsteered mean; off for measures that may be 0 (entropy, success).
        episodes: of the test; part: of them for layers, controls and wordings. Seeds name tasks in turn.
        scene_episodes: of every task, as they are, and as many with the direction's own words.
        n_random: random directions.
        shares: of the strength, tried beside it.
        wordings: templates of the instruction, "please {}"; options of the environment, "wording=adverts".
        seed: added to every first seed.
    """

    measure: str = "speed"
    strength: float = 0.2
    unit: str = "alpha"
    layer: int | None = None
    sign: int = 0
    relative: bool = True
    episodes: int = 24
    part: int = 16
    scene_episodes: int = 2
    n_random: int = 3
    shares: tuple[float, ...] = SHARES
    wordings: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if self.sign not in (-1, 0, 1) or self.strength <= 0:
            raise BadInput(f"stress: got sign {self.sign}, strength {self.strength}; allowed are -1, 0, 1; above 0.")
        if not 1 <= self.part <= self.episodes or min(self.n_random, self.scene_episodes) < 1:
            raise BadInput(
                f"stress: got {self.part} of {self.episodes} episodes, {self.n_random} random directions, {self.scene_episodes} scene "
                "episodes; allowed are part <= episodes, all from 1."
            )
        for text in self.wordings:
            if "{}" not in text and "=" not in text:
                raise BadInput(f"stress: wording {text!r} is neither a template with {{}} nor an option NAME=VALUE.")


@dataclass(frozen=True, eq=False)
class Stressed:
    """What came out: the checks, the episodes behind them, and the direction's own layer."""

    battery: Battery
    episodes: pd.DataFrame
    layer: int
    extra: Mapping[str, Any] = field(default_factory=dict)


def stress(
    trials: Trials,
    direction: Direction,
    s: StressSettings,
    subject: str = "the direction",
    neighbours: Sequence[Neighbour] = (),
    tell: Tell = lambda name: None,
    contrast: tuple[Sequence[str], Sequence[str]] | None = None,
) -> Stressed:
    """Every check that can be done; the others say why not.

    Args:
        trials: of the policy on its tasks; its measures are replaced by those that are needed.
        direction: with several layers, for the check of its neighbours.
        subject: its name in the verdict.
        neighbours: concepts that it should not be.
        tell: called with what is run next.
        contrast: prompts for finding it anew, see `gather`.
    Raises:
        BadInput: several layers and none chosen, or a measure that the environment does not give.
    """
    layer = chosen_layer(direction, s.layer)
    here = direction.at(layer)
    (key,) = here.vectors
    column = Measure.of(s.measure).column
    thirds = (f"{column}.early", f"{column}.late") if column and "." not in s.measure else None
    beside = tuple(dict.fromkeys(one.measure for one in neighbours if one.measure))
    asking = replace(trials, measures=tuple(dict.fromkeys((s.measure, *(thirds or ()), *beside))))
    tell("scenes")
    evidence = gather(
        asking, here, column, s.scene_episodes, SCENES + s.seed, [one.words for one in neighbours], contrast
    )
    test = [TEST + s.seed + i for i in range(s.episodes)]
    sign = s.sign or _sign(asking, _along(asking, here, s.unit), s)
    opened, why = _opened(asking, evidence, here, s, column)
    asked = Asked(
        unsteered=_base(asking),
        own=_along(asking, here, s.unit),
        strength=s.strength,
        measure=s.measure,
        sign=sign,
        layer=layer,
        layers=_beside(asking, direction, layer, s.unit),
        controls={
            name: _along(asking, other, s.unit, name)
            for name, other in control_directions(here, evidence.differences, s.n_random).items()
        },
        wordings=_worded(asking, here, s),
        beside=beside,
        thirds=thirds,
        opened=opened,
        why=why,
        relative=s.relative,
        shares=s.shares,
    )
    answers = ask(asked, test, test[: s.part], tell)
    vector = here.vector(key).double().numpy()
    battery = Battery(subject, (*answers.checks, *_static(vector, evidence, neighbours, sign)))
    found = judged(_doses(answers.episodes, asked), s.measure, sign)
    return Stressed(battery, answers.episodes, layer, {"sign": sign, "scenes": len(evidence.tasks), "judged": found})


def _doses(episodes: pd.DataFrame, asked: Asked) -> pd.DataFrame:
    """The battery's episodes as a dose study has them: unsteered, at the chosen strength, turned round, and the controls."""
    at = {"base": 0.0, "steered": asked.strength, "turned round": -asked.strength}
    at |= dict.fromkeys(asked.controls, asked.strength)
    own = episodes[episodes["condition"].isin(list(at))]
    return own.assign(
        strength=own["condition"].map(at),
        condition=own["condition"].replace({"base": STEERED, "turned round": STEERED}),
    )


def how_many(direction: Direction, s: StressSettings, layer: int | None = None) -> int:
    """How often `tell` is called, about."""
    near = {int(key.split(".")[-2]) for key in direction.vectors}
    chosen = chosen_layer(direction, s.layer if layer is None else layer)
    beside = sum(0 < abs(one - chosen) <= 2 for one in near)
    return 5 + len(s.shares) + beside + s.n_random + 2 + 2 * len(s.wordings)


def chosen_layer(direction: Direction, layer: int | None) -> int:
    """The layer that was asked for, or the only one.

    Raises:
        BadInput: there are several and none was asked for, or the one asked for is not among them.
    """
    there = sorted({int(key.split(".")[-2]) for key in direction.vectors})
    if layer is None and len(there) == 1:
        return there[0]
    if layer not in there:
        raise BadInput(f"stress: choose one of the direction's layers {there}, got {layer} (--layer).")
    return layer


def control_directions(here: Direction, differences: np.ndarray | None, n_random: int) -> dict[str, Direction]:
    """Equally long directions at the same layer: random, permuted and, where the pairs are known, with shuffled labels."""
    made = {f"random {i}": random_like(here, 900 + i) for i in range(n_random)}
    made["permuted"] = permuted_like(here, 900)
    if differences is not None:
        made["shuffled labels"] = shuffled_like(here, differences, 900)
    return made


def shuffled_like(here: Direction, differences: np.ndarray, seed: int) -> Direction:
    """The mean of the pair differences (n, D), a drawn half of them turned round, as long as the direction at one layer.

    Exactly half (of an odd number one is left out): by a coin for each, what all pairs share would stay with a small random weight,
    and that is the direction itself, which is long again once its length is matched.
    """
    (key,) = here.vectors
    half = len(differences) // 2
    signs = np.random.default_rng(seed).permutation(np.repeat([-1.0, 0.0, 1.0], [half, len(differences) % 2, half]))
    mean = torch.from_numpy((signs[:, None] * differences).mean(0))
    made = random_like(here, seed)
    return replace(made, vectors={key: (mean / mean.norm()).float()[None]}, method=f"shuffled labels {seed}")


def _add(direction: Direction, strength: float, unit: str) -> Add:
    return Add(direction, strength=Strength(strength, unit))


def _base(trials: Trials, condition: str = "") -> Unsteered:
    return lambda seeds: trials.run((), seeds, condition or "base")


def _along(trials: Trials, direction: Direction, unit: str, condition: str = "along") -> Runner:
    return lambda strength, seeds: trials.run((_add(direction, strength, unit),), seeds, condition)


def _beside(trials: Trials, direction: Direction, layer: int, unit: str) -> dict[int, Runner]:
    there = sorted({int(key.split(".")[-2]) for key in direction.vectors})
    return {one: _along(trials, direction.at(one), unit) for one in there if 0 < abs(one - layer) <= 2}


def _worded(trials: Trials, here: Direction, s: StressSettings) -> dict[str, tuple[Unsteered, Runner]]:
    made: dict[str, tuple[Unsteered, Runner]] = {}
    for text in s.wordings:
        if "{}" in text:
            made[text] = (
                _said(trials, text, _base(trials, f"base {text}")),
                _said(trials, text, _along(trials, here, s.unit, f"along {text}")),
            )
            continue
        option, _, value = text.partition("=")
        other = trials.with_env(**{option: value})
        made[text] = (_base(other), _along(other, here, s.unit))
    return made


def _said(trials: Trials, template: str, runner: Callable[..., pd.DataFrame]) -> Callable[..., pd.DataFrame]:
    def run(*asked: Any) -> pd.DataFrame:
        with saying(trials.policy, template):
            return runner(*asked)

    return run


def _sign(trials: Trials, own: Runner, s: StressSettings) -> int:
    """Which way it steers, on seeds of its own."""
    seeds = [SIGN + s.seed + i for i in range(max(8, len(trials.tasks)))]
    found = effects(own(s.strength, seeds), trials.run((), seeds, "base"), s.measure, s.relative)
    return -1 if found.mean < 0 else 1


def _opened(
    trials: Trials, evidence: Evidence, here: Direction, s: StressSettings, column: str
) -> tuple[float | None, str]:
    """Effect on the actions planned on fixed scenes, where the measure can be read off an action: the speed of a hand."""
    space = gym.spec(trials.tasks[0])
    if column != "speed" or "tabletop" not in str(space.entry_point) or not s.relative:
        return None, f"no open loop: {s.measure!r} cannot be read off a planned action"
    if not evidence.scenes:
        return None, f"no open loop: {evidence.why}"
    planned = open_loop(trials.policy, evidence.scenes, _add(here, s.strength, s.unit))
    return planned.change().value, ""


def _static(vector: np.ndarray, evidence: Evidence, neighbours: Sequence[Neighbour], sign: int) -> list[Check]:
    """The checks that stand on activations."""
    tasks, why = evidence.tasks, evidence.why
    differences = evidence.differences
    if differences is None:
        checks = [
            not_measured("halves", 0.7, why),
            not_measured("found again", 0.7, why),
            not_measured("specificity", 0.6, why),
        ]
    else:
        groups = tasks if len(set(tasks)) > 1 else None
        others = {"without the concept": ("unrelated", evidence.bare @ vector)}
        others |= {
            one.name: (one.kind, evidence.worded[one.words] @ vector)
            for one in neighbours
            if one.words in evidence.worded
        }
        checks = [
            halves(lambda some: differences[some].mean(0), len(differences), groups),
            found_again(
                vector, differences.mean(0), f"on {len(differences)} new scenes of {', '.join(sorted(set(tasks)))}"
            ),
            specificity((evidence.bare + differences) @ vector, others),
        ]
    table = evidence.episodes
    if table.empty:
        return [*checks, not_measured("validity", 0.3, evidence.why_episodes)]
    told = np.stack(table["activation"].tolist()) @ vector
    return [*checks, validity(told, table["behaviour"].tolist(), sign, table["task"].tolist())]
