"""The settings of `llm-effects`."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: any language model with a chat, e.g. "llm:smollm2-135m".
        n_finding, n_choice, n_test: prompts of each split, at most what `texts.json` has.
        long, short: tokens of an answer where its length matters, and where it does not.
        layers: that directions are found at and tried on.
        brevity, language, style, sentiment: strengths (alpha) that are tried.
        languages: that are tried; the model must be able to write them.
        n_random: random directions, each run with both signs.
        sae_layer, sae_features, sae_sentences: of the small SAE, and of how many sentences.
        seed: of everything.
    """

    policy: str = "llm:smollm2-135m"
    n_finding: int = 15
    n_choice: int = 12
    n_test: int = 24
    long: int = 40
    short: int = 24
    layers: tuple[int, ...] = (6, 10)
    brevity: tuple[float, ...] = (0.1, 0.2)
    language: tuple[float, ...] = (0.35, 0.5)
    style: tuple[float, ...] = (0.2, 0.3)
    sentiment: tuple[float, ...] = (0.15, 0.3)
    languages: tuple[str, ...] = ("French", "Spanish", "German")
    n_random: int = 2
    sae_layer: int = 10
    sae_features: int = 512
    sae_sentences: int = 600
    seed: int = 0


def settings(quick: bool) -> Settings:
    """About 15 minutes on a core of its own, or about 3."""
    full = Settings()
    if not quick:
        return full
    return replace(
        full, n_finding=6, n_choice=3, n_test=4, short=16, long=24, n_random=1, layers=(12,), sae_sentences=80
    )
