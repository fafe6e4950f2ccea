"""smol-vla-135m as a file: only what was trained; the language model comes from its own package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policies import weights
from policies.errors import BadArtifact
from policies.smol_vla.adapter import SmolVLAPolicy
from policies.smol_vla.config import SmolVLAConfig
from policies.smol_vla.model import SmolVLA
from policies.token_texts import token_texts

KIND = "smol-vla-135m"


def save(network: SmolVLA, path: str | Path) -> None:
    """Write what was trained (half precision) and the sizes."""
    tensors = {name: value.half() for name, value in network.trained().items()}
    weights.write(path, KIND, vars(network.config), tensors)


def fill(network: SmolVLA, tensors: dict[str, Any], path: str | Path) -> None:
    """Load trained tensors into a network.

    Raises:
        BadArtifact: names or shapes do not fit the network.
    """
    wanted = {name: tuple(value.shape) for name, value in network.trained().items()}
    got = {name: tuple(value.shape) for name, value in tensors.items()}
    if wanted != got:
        wrong = sorted(name for name in {*wanted, *got} if wanted.get(name) != got.get(name))
        raise BadArtifact(f"{path}: tensors {wrong[:5]} do not fit the sizes in its header.")
    network.load_state_dict({name: value.float() for name, value in tensors.items()}, strict=False)
    network.settle()


def load(argument: str = KIND, **options: Any) -> SmolVLAPolicy:
    """Load an embedded policy by name, or a file written by `save`; options of `SmolVLAPolicy`: adverb, instruction.

    Raises:
        MissingExtra: the package with the language model is not installed.
    """
    path = weights.located("policies.smol_vla", argument or KIND)
    config, tensors = weights.read(path, KIND)
    network, tokenize = fresh(SmolVLAConfig(**config))
    fill(network, tensors, path)
    return SmolVLAPolicy(network, tokenize, name=path.stem, texts=tokenize.texts, **options)


class Tokenize:
    """The language model's tokenizer as a function of an instruction; it also says what each token stands for."""

    def __init__(self, tokenizer: Any, n_words: int) -> None:
        self._tokenizer, self._n_words = tokenizer, n_words

    def __call__(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text.lower().replace(",", "").rstrip(". "))["input_ids"]
        return ids

    def texts(self) -> Sequence[str]:
        """One text per token of the language model."""
        return token_texts(self._tokenizer, self._n_words)


def fresh(config: SmolVLAConfig, seed: int = 0) -> tuple[SmolVLA, Tokenize]:
    """An untrained network on SmolLM2-135M-Instruct, and its tokenizer."""
    import torch

    from policies.llm_agent.smollm2 import load_smollm2

    language, tokenizer = load_smollm2(torch.float32, "cpu")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = SmolVLA(config, language)
    return network, Tokenize(tokenizer, config.n_words)
