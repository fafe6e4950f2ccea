"""A language model acting in text environments.

Per environment step: render the prompt, encode what is new in it (`prefix_cache`), read the action out (`readouts`).
Two entrances are open: "modules" (hooks on the blocks of `module`) and "decision" (`set_decision(temperature=...)`).

What hooks see. The pass that encodes a prompt has `context.phase` "prefill" and ends exactly at the decision tokens, so
a site with tokens="last" touches those alone. While the sampled read-out generates, the phase is "decode" and the model
sees B * n_completions rows, those of one episode lying together; `context.repeats` says how many.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np

from policies import temperature
from policies.base import Decision, Observation, Policy, SiteMap, Vocabulary
from policies.errors import BadInput, nearest
from policies.llm_agent.batching import left_padded, with_positions
from policies.llm_agent.config import LLMAgentConfig
from policies.llm_agent.prefix_cache import PrefixCache
from policies.llm_agent.prompts import (
    PROMPT_FORMATS,
    Message,
    parse_messages,
    prompt_texts,
    render,
    tokenize,
    with_own_completions,
)
from policies.llm_agent.readouts import ForcedChoice, Question, Readout, Sampled
from policies.token_texts import token_texts

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

ENCODE_BATCH_SIZE = 16


class LLMAgent(Policy):
    """A causal language model and its tokenizer as a policy.

    Args:
        module: the model, in eval mode.
        tokenizer: the model's own.
        config: how its output becomes an action.
        name: as in the registry, e.g. "llm:smollm2-135m".
        site_map: where its sites are; None looks it up by `config.model_type`.
    """

    entrances = frozenset({"modules", "decision"})
    no_action_values = "its actions are words, which have no values."
    module: PreTrainedModel

    def __init__(
        self,
        module: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: LLMAgentConfig | None = None,
        name: str = "llm",
        site_map: SiteMap | None = None,
    ) -> None:
        super().__init__()
        from policies.site_maps import site_map_for

        self.module = module
        self.tokenizer = tokenizer
        self.config = config or LLMAgentConfig()
        self.name = name
        self.site_map = site_map or site_map_for(module)
        self._temperature: temperature.Temperature = self.config.temperature
        self._pad = pad_token_id(tokenizer)
        sampled = self.config.readout == "sampled"
        self._cache = PrefixCache(
            module,
            self._pad,
            keep_decision=self.config.keep_decision,
            reuse=self.config.reuse_prefix,
            reserve=self.config.max_new_tokens if sampled else 0,
        )
        self._readout = self._build_readout()

    def _build_readout(self) -> Readout:
        config = self.config
        if config.readout == "forced_choice":
            return ForcedChoice(self.tokenizer)
        return Sampled(
            self.module,
            self.tokenizer,
            self._cache,
            config.n_completions,
            config.max_new_tokens,
            config.action_pattern,
            config.stop_pattern,
            config.answer_prefix,
        )

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self._labels = [_action_labels(info, b) for b, info in enumerate(infos)]
        counts = sorted({len(labels) for labels in self._labels})
        if len(counts) > 1:
            raise BadInput(f"{self.name}: all rows of a batch need equally many actions, got {counts} action_labels.")
        self._formats = [_prompt_format(info, b) for b, info in enumerate(infos)]
        self._seeds = seeds
        self._rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
        self._own_completions: list[list[str]] = [[] for _ in seeds]
        self._act_index = 0
        self._cache.clear()

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        prompts = prompt_texts(observation, len(self._seeds))
        texts = [self.render_row(b, prompt) if active[b] else "" for b, prompt in enumerate(prompts)]
        rendered = [self._is_rendered(b) for b in range(len(texts))]
        ids = [
            tokenize(self.tokenizer, text, template) if on else []
            for text, template, on in zip(texts, rendered, active, strict=True)
        ]
        uniforms = np.array([rng.random() for rng in self._rngs])
        with self._phase("prefill", 1):
            logits = self._cache.encode(ids, active.tolist())
        question = Question(
            prompts=texts,
            rendered=rendered,
            labels=self._labels,
            logits=logits,
            active=active,
            temperature=self._temperature,
            uniforms=uniforms,
            seeds=self._seeds,
            act_index=self._act_index,
        )
        with self._phase("decode", self._readout.rows_per_prompt):
            answer = self._readout.choose(question)
        self._act_index += 1
        for own, completion in zip(self._own_completions, answer.completions, strict=True):
            if completion is not None:
                own.append(completion)
        return Decision(answer.action, answer.measures)

    def render_row(self, b: int, prompt: str) -> str:
        """The text that row b's model reads for this prompt: dialogue rendered, own words and answer prefix put in."""
        if self._formats[b] == "messages":
            messages = with_own_completions(parse_messages(prompt), self._own_completions[b])
            prompt = render(self.tokenizer, messages)
        return prompt + self.config.answer_prefix

    def _is_rendered(self, b: int) -> bool:
        return self._formats[b] == "messages" and self.tokenizer.chat_template is not None

    @contextmanager
    def _phase(self, phase: str, repeats: int) -> Iterator[None]:
        """Tell hooks what the coming passes are."""
        self.context.phase, self.context.repeats = phase, repeats
        try:
            yield
        finally:
            self.context.phase, self.context.repeats = None, 1

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        """Change the temperature.

        Args:
            settings: `temperature`, greater than 0; in the forced-choice read-out also one per row.
        Returns:
            the previous value, under the same name.
        """
        change = temperature.changed_by_row if self.config.readout == "forced_choice" else temperature.changed
        self._temperature, previous = change(self.name, self._temperature, settings, greedy=False)  # type: ignore[arg-type]
        return previous

    def vocabulary(self) -> Vocabulary:
        return Vocabulary(token_texts(self.tokenizer, self.module.get_output_embeddings().weight.shape[0]))

    def encode(self, inputs: Sequence[str | Sequence[Message]]) -> list[Mapping[str, Any]]:
        """Turn prompts into keyword batches for `module`, padded on the left: column -1 is every row's last token.

        Args:
            inputs: prompts as text, taken as they are, or as lists of {"role", "content"} messages, which are rendered.
        Returns:
            batches of up to 16 rows: `input_ids` and `attention_mask` (B, N) int64 on the model's device, and
            `position_ids` where the model takes them (GPT-2 would count padding as tokens).
        """
        if isinstance(inputs, str):
            raise BadInput("encode expects a list of prompts, got one string; write [prompt].")
        rows = []
        for entry in inputs:
            if isinstance(entry, str):
                rows.append(tokenize(self.tokenizer, entry))
            else:
                templated = self.tokenizer.chat_template is not None
                rows.append(tokenize(self.tokenizer, render(self.tokenizer, entry), templated))
        batches: list[Mapping[str, Any]] = []
        for start in range(0, len(rows), ENCODE_BATCH_SIZE):
            ids, mask = left_padded(rows[start : start + ENCODE_BATCH_SIZE], self._pad)
            device = self.module.device
            batches.append(with_positions(self.module, ids.to(device), mask.to(device)))
        return batches

    def describe(self) -> dict[str, Any]:
        """Name, model class and dtype, and every number of the config, with the temperature that holds now."""
        return {
            "name": self.name,
            "model": type(self.module).__name__,
            "dtype": str(self.module.dtype).removeprefix("torch."),
            **asdict(self.config),
            "temperature": np.asarray(self._temperature).tolist(),
        }


def pad_token_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """An id to fill padding with. It is always masked, so the end token or token 0 does as well."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _action_labels(info: Mapping[str, Any], b: int) -> tuple[str, ...]:
    if "action_labels" not in info:
        raise BadInput(
            f"reset: the info of batch row {b} has no 'action_labels', it has {sorted(info)}. A language agent needs "
            "the names of the actions; use a text environment such as SteerAgents/...Bandit, or pass infos to reset."
        )
    labels = tuple(str(label) for label in info["action_labels"])
    if not labels or len({label.lower() for label in labels}) < len(labels):
        raise BadInput(f"reset: action_labels of batch row {b} must be at least one name, all different, got {labels}.")
    return labels


def _prompt_format(info: Mapping[str, Any], b: int) -> str:
    name = str(info.get("prompt_format", "text"))
    if name not in PROMPT_FORMATS:
        raise BadInput(f"reset: prompt_format {name!r} of batch row {b} is unknown{nearest(name, PROMPT_FORMATS)}")
    return name
