"""EAST in a bandit: what `east-lockin` and `east-offline` share.

Histories are *streaky* (each pull repeats the one before with probability 0.8, all arms have the same mean), the regime in which a small
model commits to an arm. Each history is recorded under every rotation of its labels, with the same slots and rewards, which
cancels label preferences to first order. Layer and strength are chosen on validation histories, never on test seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from envs.bandits import HISTORIES, WORDINGS
from envs.bandits.prompts import Story
from policies.base import Policy
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.evaluation.decisions import DecisionShift, decision_shift
from steer_agents.finding.controls import permuted_like, random_like
from steer_agents.finding.entropy import Recording, from_recording, record
from steer_agents.fingerprint import model_fingerprint
from steer_agents.interventions import Add
from steer_agents.sites import Site, layer_indices, steerable
from steer_agents.steerer import Steerer

History = list[tuple[int, float]]
REWARD_MEAN, REWARD_SD = 50.0, 10.0
DEPTHS = (1 / 2, 2 / 3, 5 / 6)
MASS_LOSS = 0.05


@dataclass(frozen=True)
class EastSettings:
    """Settings of both experiments.

    Args:
        policy: any language model, e.g. "llm:smollm2-135m".
        arms: numbers of arms to run, each with its own vector and layer.
        train_runs, validation_runs: histories before label rotation.
        steps: decisions per history.
        streak: probability of repeating the last arm in a history.
        doses: strengths alpha that are tried on validation.
        probe_dose: alpha at which layers are compared.
        skip: decisions at the start of each validation and test history that are left out: there is little to be certain
            about yet, and the lock-in itself asks from the sixth pull on.
        seed: of everything; train, validation and test streams are drawn from it apart.
        wording: scenario of the prompts.
    """

    policy: str = "llm:smollm2-135m"
    arms: tuple[int, ...] = (5, 2)
    train_runs: int = 16
    validation_runs: int = 10
    steps: int = 12
    streak: float = 0.8
    doses: tuple[float, ...] = (0.1, 0.2, 0.4)
    probe_dose: float = 0.2
    skip: int = 5
    seed: int = 0
    wording: str = "buttons"

    def __post_init__(self) -> None:
        if not set(self.arms) <= {2, 3, 4, 5}:
            raise BadInput(f"arms must be among 2 to 5 (the wording's single-token labels), got {self.arms}.")
        if self.probe_dose not in self.doses:
            raise BadInput(f"probe_dose {self.probe_dose} must be one of doses {self.doses}.")
        if not 1 <= self.skip < self.steps:
            raise BadInput(f"skip must leave some of the {self.steps} decisions of a history, got {self.skip}.")


def streaky_histories(n_arms: int, runs: int, steps: int, streak: float, rng: np.random.Generator) -> list[History]:
    """Histories with two-digit rewards N(50, 10) on every arm."""
    histories = []
    for _ in range(runs):
        arm, history = int(rng.integers(n_arms)), []
        for t in range(steps):
            if t and rng.random() > streak:
                arm = (arm + int(rng.integers(1, n_arms))) % n_arms
            history.append((arm, float(np.clip(round(rng.normal(REWARD_MEAN, REWARD_SD)), 10, 99))))
        histories.append(history)
    return histories


def rotated(history: History, by: int, n_arms: int) -> History:
    """The same history with every label moved on by `by`."""
    return [((arm + by) % n_arms, reward) for arm, reward in history]


def prompts_of(history: History, n_arms: int, wording: str, hint: str = "") -> list[str]:
    """The prompts before each pull of a history; each extends the one before."""
    scenario = WORDINGS[wording]
    labels = scenario.labels[:n_arms]
    render = HISTORIES["log"].render
    return [render(Story(scenario, labels, len(history), history[:t], hint=hint)) for t in range(len(history))]


class Bench:
    """One policy with K arms: records histories, learns vectors, and looks at their effect on fixed prompts."""

    def __init__(self, policy: Policy, n_arms: int, settings: EastSettings) -> None:
        self.policy, self.n_arms, self.settings = policy, n_arms, settings
        self.target = steerable(policy)
        self.model = model_fingerprint(self.target)
        self.info = {"action_labels": WORDINGS[settings.wording].labels[:n_arms], "prompt_format": "text"}
        self.layers = layer_indices(DEPTHS, self.target.depth())

    def histories(self, split: str, runs: int) -> list[History]:
        """Histories of a split ("train", "validation", "test"); splits never share one."""
        stream = {"train": 1, "validation": 2, "test": 3}[split]
        rng = np.random.default_rng([self.settings.seed, stream, self.n_arms])
        return streaky_histories(self.n_arms, runs, self.settings.steps, self.settings.streak, rng)

    def train(self, on_step: Callable[[], None] | None = None) -> Recording:
        """Record the training histories under all label rotations, at every candidate layer."""
        return self.decide(self.balanced("train", self.settings.train_runs), Site(layer=tuple(self.layers)), on_step)

    def balanced(self, split: str, runs: int) -> list[History]:
        """Histories of a split, each under all label rotations in turn: runs x K of them."""
        return [rotated(history, k, self.n_arms) for history in self.histories(split, runs) for k in range(self.n_arms)]

    def spread(self, split: str, runs: int) -> list[History]:
        """Histories of a split, the i-th under the i-th label rotation: balanced, without repeating one."""
        return [rotated(history, i % self.n_arms, self.n_arms) for i, history in enumerate(self.histories(split, runs))]

    def decide(
        self, histories: Sequence[History], site: Site | None = None, on_step: Callable[[], None] | None = None
    ) -> Recording:
        """What the policy (steered or not) would do at every step of fixed histories."""
        prompts = [prompts_of(history, self.n_arms, self.settings.wording) for history in histories]
        return record(self.policy, prompts, [self.info] * len(prompts), site, self.settings.seed, on_step)

    def direction(
        self, recording: Recording, center: str = "run", weights: str = "entropy", seed: int = 0
    ) -> Direction:
        """The vector at every recorded layer."""
        return from_recording(
            recording, Site(layer=tuple(self.layers)), center=center, weights=weights, seed=seed, model=self.model
        )

    def steered(self, direction: Direction, layer: int, alpha: float) -> Steerer:
        """Add alpha mean norms of the direction at one layer, at the decision token."""
        return Steerer(Add(direction.at(layer), strength=alpha))

    def under(self, steerer: Steerer | None, histories: Sequence[History]) -> Recording:
        """`decide`, steered, without the first `skip` decisions of each history."""
        if steerer is None:
            return late(self.decide(histories), self.settings.skip)
        with steerer.attach(self.policy):
            return late(self.decide(histories), self.settings.skip)


def late(recording: Recording, skip: int) -> Recording:
    """The recording without the first decisions of each history."""
    measures = {name: values[:, skip:] for name, values in recording.measures.items()}
    activations = {key: z[:, skip:] for key, z in recording.activations.items()}
    return Recording(activations, recording.entropy[:, skip:], measures)


@dataclass(frozen=True)
class Choice:
    """The layer and strength that validation chose.

    Args:
        layer, alpha: the choice.
        genuine: whether its effect passed the checks (two-sided, slope in (0, 1), little action mass lost).
        table: everything that was tried: layer, alpha, entropy_bits, action_mass, slope, offset, top_kept.
    """

    layer: int
    alpha: float
    genuine: bool
    table: pd.DataFrame


def shift_of(base: Recording, steered: Recording) -> DecisionShift:
    """How steered decisions differ from base decisions on the same prompts, from the probabilities they are drawn with."""
    logs = [np.log(np.clip(recording.measures["probabilities"], 1e-300, None)) for recording in (base, steered)]
    return decision_shift(*logs)


def choose(bench: Bench, direction: Direction) -> Choice:
    """Choose layer and strength on validation histories, by their effect on fixed prompts.

    Layer: the largest two-sided effect min(H(+a) - H(0), H(0) - H(-a)) at the probing dose, among layers whose effect is genuine
    (slope of steered on base logits in (0, 1), action mass loss under 5 points). Strength: the largest dose whose effect is
    still genuine.
    """
    settings = bench.settings
    histories = bench.spread("validation", settings.validation_runs)
    base = bench.under(None, histories)
    rows: list[dict[str, Any]] = []

    def look(layer: int, alpha: float) -> dict[str, Any]:
        known = [row for row in rows if (row["layer"], row["alpha"]) == (layer, alpha)]
        if known:
            return known[0]
        steered = bench.under(bench.steered(direction, layer, alpha), histories)
        shift = shift_of(base, steered)
        loss = float(base.measures["action_mass"].mean() - steered.measures["action_mass"].mean())
        rows.append({"layer": layer, "alpha": alpha, **vars(shift), "action_mass_loss": loss})
        rows[-1]["genuine"] = bool(alpha < 0 or (0 < shift.slope < 1 and loss < MASS_LOSS))
        return rows[-1]

    def two_sided(layer: int) -> tuple[bool, float]:
        up, down = (look(layer, sign * settings.probe_dose) for sign in (1, -1))
        return up["genuine"], min(up["entropy_bits"], -down["entropy_bits"])

    layer = max(bench.layers, key=two_sided)
    tried = [look(layer, alpha) for alpha in settings.doses]
    good = [row for row in tried if row["genuine"]]
    chosen = max(good, key=lambda row: row["alpha"]) if good else min(tried, key=lambda row: row["alpha"])
    genuine = chosen["genuine"] and two_sided(layer)[1] > 0
    return Choice(layer, chosen["alpha"], genuine, pd.DataFrame(rows))


def controls_of(direction: Direction, n_random: int, n_permuted: int) -> dict[str, Direction]:
    """Norm-matched control directions by name."""
    random = {f"random {i + 1}": random_like(direction, 100 + i) for i in range(n_random)}
    return random | {f"permuted {i + 1}": permuted_like(direction, 200 + i) for i in range(n_permuted)}
