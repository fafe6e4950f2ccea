"""The settings of `llm-effects`."""

from __future__ import annotations

from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        policy: any language model with a chat, e.g. "llm:smollm2-135m".
        n_finding, n_choice, n_test: prompts of each split, at most what `texts.json` has; n_spoken: choice prompts of the languages.
        long, short: tokens of an answer where its length matters, and where it does not.
        layers: that directions are found at and tried on; spoken_layers: those of the languages.
        brevity, language, style, sentiment: strengths (alpha) that are tried; foxp2: the same of its neurons.
        languages: that are tried; the model must be able to write them; compared: those in which other methods are tried as well.
        fox_layers: whose neurons `foxp2` looks at, every second one, since neighbours hold much the same.
        resist: strengths at which resistance to steering is counted; n_explain: prompts of each.
        n_games: pairs of voices that are offered; n_voice: prompts that the judge of voices learns from.
        n_random: random directions, each run with both signs.
        sae_layer, sae_features, sae_sentences: of the small SAE, and of how many sentences.
        seed: of everything.
    """

    policy: str = "llm:smollm2-135m"
    n_finding: int = 15
    n_choice: int = 12
    n_spoken: int = 16
    n_test: int = 24
    long: int = 40
    short: int = 24
    layers: tuple[int, ...] = (6, 10)
    spoken_layers: tuple[int, ...] = (4, 6)
    brevity: tuple[float, ...] = (0.1, 0.2)
    language: tuple[float, ...] = (0.35, 0.4, 0.45, 0.5)
    foxp2: tuple[float, ...] = (0.75, 1.0, 1.25)
    style: tuple[float, ...] = (0.2, 0.3)
    sentiment: tuple[float, ...] = (0.15, 0.3)
    languages: tuple[str, ...] = ("French", "Spanish", "German")
    compared: tuple[str, ...] = ("French",)
    fox_layers: tuple[int, ...] = tuple(range(2, 30, 2))
    resist: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4)
    n_explain: int = 16
    n_games: int = 40
    n_voice: int = 12
    n_random: int = 2
    sae_layer: int = 10
    sae_features: int = 512
    sae_sentences: int = 600
    seed: int = 0


def settings(quick: bool) -> Settings:
    """About 30 minutes on a core of its own, or about 3."""
    full = Settings()
    if not quick:
        return full
    return replace(
        full, n_finding=5, n_choice=3, n_spoken=3, n_test=3, short=12, long=14, n_random=1, layers=(12,), spoken_layers=(8,),
        brevity=(0.2,), language=(0.45,), foxp2=(1.0,), style=(0.2,), sentiment=(0.3,), languages=("French",), compared=(),
        resist=(0.3,), n_explain=2, n_games=2, n_voice=2, sae_sentences=80,
    )  # fmt: skip
