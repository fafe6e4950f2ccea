"""Subjects of language models that play a bandit told in words: the concept is exploring.

Every episode starts with five pulls of the worst arm, after which a small model tends to stay (`launch/experiments/east_lockin.py`). The
measure is how many of the arms it then tries. An episode is a success while the model still means an arm: at least half of its
probability mass, on average, is on the names of arms. It says nothing of reward: who explores need not exploit.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import pandas as pd

import envs
from envs.bandits import TEXT_IDS
from envs.bandits.metrics import episode_measures
from launch.experiments.east import Bench, EastSettings, prompts_of
from launch.experiments.llm.model import language_model
from launch.methods_bench import protocol
from launch.methods_bench.subject import Asked, Attach, Subject, Trial
from policies.errors import UnknownName, nearest
from policies.llm_agent.prompts import tokenize
from steer_agents.decisions import Temperature
from steer_agents.gates import ALWAYS
from steer_agents.learning.preference import triples_of
from steer_agents.loop import rollout
from steer_agents.runs import write_table
from steer_agents.sites import Site, layer_indices
from steer_agents.steerer import steer

EXPLORE, STAY = "Try every button before you settle on one.", "Stay with the button that you know."
OTHERS = ("The buttons are on a wall.", "It is early in the morning.")
ASKED_AT = (5, 6, 7)
"""Decisions of a history that directions are found on, counted from 0."""
CHOICE_SEED = 61_000
DEPTHS = (1 / 2, 2 / 3)
"""Layers that are tried: of those where EAST is."""
TEMPERATURES = (2.0, 4.0)
MASS = 0.5
assert envs.__name__  # importing it registers the environments


def subject(asked: Asked) -> Subject:
    """Streaky histories, with and without advice, and the episodes that start locked in."""
    (env,) = asked.tasks
    if env not in TEXT_IDS:
        raise UnknownName(f"methods compare: environment {env!r} is unknown{nearest(env, TEXT_IDS)}")
    n_arms = int(TEXT_IDS[env]["n_arms"])
    policy: Any = language_model(asked.policy, "the concept 'explore'", asked.load)
    settings = EastSettings(asked.policy, (n_arms,), train_runs=asked.finding, steps=max(ASKED_AT) + 1)
    bench = Bench(policy, n_arms, settings)
    histories = bench.spread("train", asked.finding)
    stages = {protocol.CHOICE: (CHOICE_SEED, asked.choice), protocol.TEST: (asked.first_test_seed, asked.test)}

    def prompts(hint: str = "") -> list[str]:
        told = [prompts_of(history, n_arms, settings.wording, hint) for history in histories]
        return [run[t] for run in told for t in ASKED_AT]

    def run(trial: Trial, stage: str) -> pd.DataFrame:
        seed, count = stages[stage]
        place = asked.folder / f"{trial.name.replace(' ', '-').replace('/', '-')}-{stage}.parquet"
        if not place.exists():
            asked.folder.mkdir(parents=True, exist_ok=True)
            write_table(place, _episodes(policy, env, trial, seed, count))
        return pd.read_parquet(place)

    plain, labels = prompts(), bench.info["action_labels"]
    last = [history[t - 1][0] for history in histories for t in ASKED_AT]
    stuck = [len({arm for arm, _ in history[t - 3 : t]}) == 1 for history in histories for t in ASKED_AT]
    words = [f" {labels[arm]}" for arm in last]
    other = [f" {labels[(arm + 1 + i % (n_arms - 1)) % n_arms]}" for i, arm in enumerate(last)]
    recording = bench.decide(histories)
    return Subject(
        name=asked.policy,
        concept=asked.concept,
        policy=policy,
        measure="coverage",
        label="share of the arms that were tried",
        sign=1,
        words=EXPLORE,
        positive=prompts(EXPLORE),
        negative=plain,
        opposite=prompts(STAY),
        groups=[t for _ in histories for t in ASKED_AT],
        site=lambda kind: Site(kind, "all", tokens="last"),
        layers=asked.layers or tuple(layer_indices(DEPTHS, bench.target.depth())),
        gates={"always": ALWAYS},
        run=run,
        instead={f"temperature {value:g}": _warmer(value) for value in TEMPERATURES},
        slow=True,
        offers={
            "entropy": {
                "prompts": [prompts_of(history, n_arms, settings.wording) for history in histories],
                "infos": [bench.info] * len(histories),
            },
            "behaviour": {
                "scenes": plain,
                "values": [float(recording.entropy[i, t]) for i in range(len(histories)) for t in ASKED_AT],
                "groups": [t for _ in histories for t in ASKED_AT],
                "episodes": [i for i in range(len(histories)) for _ in ASKED_AT],
            },
            "responses": (other, words),
            "preferences": triples_of(policy.tokenizer, list(zip(plain, other, words, strict=True))),
            "attribution": {
                "inputs": plain,
                "preferred": [tokenize(policy.tokenizer, word)[0] for word in other],
                "dispreferred": [tokenize(policy.tokenizer, word)[0] for word in words],
            },
            "nuisances": [prompts(hint) for hint in OTHERS],
            "when": stuck,
            "next token": plain,
            "word": "other",
        },
        quick=asked.quick,
    )


def _warmer(value: float) -> Attach:
    return lambda policy: steer(policy, Temperature(value))


def _advised(env: str, hint: str) -> Any:
    return gym.make(env, hint=hint)


def _episodes(policy: Any, env: str, trial: Trial, seed: int, count: int) -> pd.DataFrame:
    play = partial(
        rollout, partial(_advised, env, trial.words) if trial.words else env, policy, episodes=count, seed=seed,
        num_envs=min(count, 16), measures=episode_measures, progress=False, condition=trial.name,
    )  # fmt: skip
    if trial.attach is None:
        table = play().episodes
    else:
        with trial.attach(policy):
            table = play().episodes
    return table.assign(success=(table["action_mass"] >= MASS).astype(float))
