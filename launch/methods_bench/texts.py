"""Subjects of language models that answer questions: the concept is brevity, success that the answer holds what was asked for."""

from __future__ import annotations

from typing import Any

import pandas as pd
from torch import nn

from launch.experiments.llm import data
from launch.experiments.llm.bench import Bench
from launch.experiments.llm.measures import holds_answer
from launch.experiments.llm.model import language_model
from launch.methods_bench import protocol
from launch.methods_bench.subject import Asked, Subject, Trial
from policies.llm_agent.prompts import tokenize
from steer_agents.finding.excerpts import reply
from steer_agents.finding.styles import Attempt
from steer_agents.gates import ALWAYS
from steer_agents.learning.preference import triples_of
from steer_agents.runs import write_table
from steer_agents.sites import Site, layer_indices

BRIEFLY, AT_LENGTH = "Answer briefly.", "Explain your answer in detail."
OTHERS = ("Answer politely.", "Answer in French.")
MOST = 40
"""Tokens of an answer."""
DEPTHS = (1 / 3, 1 / 2)
"""Layers that are tried."""


def subject(asked: Asked) -> Subject:
    """Let the model answer in three wordings, and offer what can be made of that."""
    policy: Any = language_model(asked.policy, "the concept 'brief'", asked.load)
    bench = Bench(policy, asked.folder)
    facts = data.facts("finding", asked.finding)
    written = {wish: bench.write([fact.prompt for fact in facts], MOST, wish=wish) for wish in ("", BRIEFLY, AT_LENGTH)}
    tests = {
        protocol.CHOICE: data.facts("choice", asked.choice),
        protocol.TEST: data.facts("test", asked.test, asked.first_test_seed),
    }

    def chats(wish: str = "") -> list[str]:
        return [bench.chat(f"{fact.prompt} {wish}".strip()) for fact in facts]

    def run(trial: Trial, stage: str) -> pd.DataFrame:
        place = asked.folder / f"{trial.name.replace(' ', '-').replace('/', '-')}-{stage}.parquet"
        if not place.exists():
            asked.folder.mkdir(parents=True, exist_ok=True)
            write_table(place, _answers(bench, tests[stage], trial))
        return pd.read_parquet(place)

    own = [str(text) for text in written[""]["text"]]
    plain, teacher = chats(), [f"{fact.answer}." for fact in facts]
    told = [i for i, text in enumerate(own) if text]
    ends = [_first_ids(policy, plain[i], teacher[i], own[i]) for i in told]
    split = [i for i, (yes, no) in enumerate(ends) if yes != no]
    return Subject(
        name=asked.policy,
        concept=asked.concept,
        policy=policy,
        measure="tokens",
        label="tokens of an answer",
        sign=-1,
        words=BRIEFLY,
        positive=chats(BRIEFLY),
        negative=plain,
        opposite=chats(AT_LENGTH),
        groups=[fact.prompt.split("?")[-2].split(".")[-1] for fact in facts],
        site=lambda kind: Site(kind, "all", tokens="last"),
        layers=asked.layers or tuple(layer_indices(DEPTHS, bench.target.depth())),
        gates={"always": ALWAYS},
        run=run,
        slow=True,
        offers={
            "teacher": {"prompts": plain, "concise": teacher, "verbose": own},
            "attempts": [
                Attempt(fact.prompt, reply(bench.chat(fact.prompt), text), holds_answer(text, fact.answer), float(n))
                for table in written.values()
                for fact, text, n in zip(facts, table["text"], table["n_tokens"], strict=True)
                if text
            ],
            "behaviour": {"scenes": plain, "values": [float(n) for n in written[""]["n_tokens"]]},
            "responses": (teacher, [text or "." for text in own]),
            "preferences": triples_of(policy.tokenizer, preferred(policy, plain, written[BRIEFLY], written[AT_LENGTH])),
            "attribution": {
                "inputs": [plain[told[i]] for i in split],
                "preferred": [ends[i][0] for i in split],
                "dispreferred": [ends[i][1] for i in split],
            },
            "nuisances": [chats(wish) for wish in OTHERS],
            "next token": plain,
            "word": "short",
        },
        quick=asked.quick,
    )


def _answers(bench: Bench, facts: list[data.Fact], trial: Trial) -> pd.DataFrame:
    prompts = [f"{fact.prompt} {trial.words}".strip() for fact in facts]
    if trial.attach is None:
        rows = bench.decoded(prompts, MOST)
    else:
        with trial.attach(bench.policy):
            rows = bench.decoded(prompts, MOST)
    table = pd.DataFrame(rows)
    right = [float(holds_answer(text, fact.answer)) for text, fact in zip(table["text"], facts, strict=True)]
    return table.assign(seed=range(len(table)), tokens=table["n_tokens"].astype(float), success=right, errored=False)


def preferred(policy: Any, prompts: list[str], brief: pd.DataFrame, long: pd.DataFrame) -> list[tuple[str, str, str]]:
    """Own answers for both sides, with their ends: what is preferred is then how long they are, not what they say."""
    whole = [one["text"] + one["finished"].map({True: policy.tokenizer.eos_token, False: ""}) for one in (brief, long)]
    answers = zip(prompts, *whole, brief["text"], long["text"], strict=True)
    return [(prompt, short, wordy) for prompt, short, wordy, *texts in answers if all(texts) and short != wordy]


def _first_ids(policy: Any, prompt: str, *texts: str) -> list[int]:
    """The token that each text begins with behind the prompt."""
    assert isinstance(policy.module, nn.Module)
    before = len(tokenize(policy.tokenizer, prompt))
    return [tokenize(policy.tokenizer, prompt + text)[before] for text in texts]
