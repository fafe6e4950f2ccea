"""A language model that answers prompts, steered or not: texts by greedy decoding, kept on disk, and how the unsteered model reads them.

The three fluency measures of every text are those of the guard in `study.py`: words that repeat, log-probability, and nothing at all.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import pandas as pd
import torch

from launch.experiments.llm.measures import repeated_4grams
from policies.errors import BadInput
from policies.llm_agent.agent import ENCODE_BATCH_SIZE, LLMAgent, pad_token_id
from policies.llm_agent.batching import left_padded, with_positions
from policies.llm_agent.prompts import render, tokenize
from steer_agents.finding.excerpts import Excerpt, item_means, reply
from steer_agents.runs import write_json
from steer_agents.sites import Site, steerable
from steer_agents.steerer import Part, steer


class Bench:
    """One language model.

    Args:
        policy: that writes and reads.
        folder: where texts are kept; the same question under the same steering is never written twice.
    """

    def __init__(self, policy: LLMAgent, folder: Path) -> None:
        self.policy, self.target, self.folder = policy, steerable(policy), folder

    def chat(self, prompt: str) -> str:
        """The prompt as the model's chat, ending where it answers."""
        return render(self.policy.tokenizer, [{"role": "user", "content": prompt}])

    def answered(self, prompt: str, text: str) -> Excerpt:
        """The tokens of a text as the answer to a prompt."""
        return reply(self.chat(prompt), text)

    def write(self, prompts: Sequence[str], most: int, part: Part | None = None, wish: str = "") -> pd.DataFrame:
        """Answer prompts.

        Args:
            most: tokens of an answer.
            wish: put behind every prompt, e.g. "Answer briefly."; how likely a text is, is read without it.
        Returns:
            a row per prompt: seed (its number), prompt, text, n_tokens, finished, repeated (share of 4-grams), log_probability
            (mean over its tokens, by the unsteered model behind the prompt; missing for empty texts).
        """
        asked = json.dumps([self.policy.name, [*prompts], wish, most, part.describe() if part else None], default=str)
        place = self.folder / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.json"
        if not place.exists():
            with steer(self.policy, part) if part else nullcontext():
                rows = self.decoded([f"{prompt} {wish}".strip() for prompt in prompts], most)
            likely = self.log_probabilities(prompts, [str(row["text"]) for row in rows])
            for row, value in zip(rows, likely, strict=True):
                row |= {"repeated": repeated_4grams(str(row["text"])), "log_probability": value}
            write_json(place, rows)
        table = pd.DataFrame(json.loads(place.read_text()))
        return table.astype({"log_probability": float}).assign(
            seed=range(len(table)), prompt=list(prompts), errored=False
        )

    def decoded(self, prompts: Sequence[str], most: int) -> list[dict[str, object]]:
        """Answer prompts as the policy is now; a row per prompt: text, n_tokens, finished."""
        module, tokenizer = self.policy.module, self.policy.tokenizer
        pad, stop = pad_token_id(tokenizer), tokenizer.eos_token_id
        rows: list[dict[str, object]] = []
        for batch in self.policy.encode([[{"role": "user", "content": prompt}] for prompt in prompts]):
            with torch.no_grad():
                made = module.generate(  # type: ignore[operator]
                    input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], max_new_tokens=most, do_sample=False,
                    pad_token_id=pad, eos_token_id=stop,
                )[:, batch["input_ids"].shape[1] :]  # fmt: skip
            for ids in made.tolist():
                said = ids[: ids.index(stop)] if stop in ids else ids
                text = str(tokenizer.decode(said, skip_special_tokens=True)).strip()
                rows.append({"text": text, "n_tokens": len(said), "finished": stop in ids})
        return rows

    def log_probabilities(self, prompts: Sequence[str], texts: Sequence[str]) -> list[float | None]:
        """Mean log-probability [nats] of each text's tokens behind its prompt and a new line; None for an empty text."""
        tokenizer = self.policy.tokenizer
        pad = pad_token_id(tokenizer)
        sides = [
            (tokenize(tokenizer, f"{prompt}\n"), tokenize(tokenizer, text))
            for prompt, text in zip(prompts, texts, strict=True)
            if text
        ]
        found: list[float] = []
        for start in range(0, len(sides), ENCODE_BATCH_SIZE):
            part = sides[start : start + ENCODE_BATCH_SIZE]
            batch = with_positions(self.policy.module, *left_padded([before + own for before, own in part], pad))
            with torch.no_grad():
                logits = self.policy.module(**batch, use_cache=False).logits
            for row, (_, own) in enumerate(part):
                ids = torch.tensor(own)
                told = logits[row, -len(own) - 1 : -1].float().log_softmax(-1)
                found.append(float(told.gather(-1, ids[:, None]).mean()))
        values = iter(found)
        return [next(values) if text else None for text in texts]

    def read(self, texts: Sequence[str], layer: int) -> torch.Tensor:
        """(n, D) mean activation over each text's tokens, read without the prompt that it answers."""
        if not texts:
            raise BadInput("read: got no texts.")
        items = [reply("\n", text or ".") for text in texts]
        means, _ = item_means(self.target, items, Site(layer=layer))
        return next(iter(means.values()))
