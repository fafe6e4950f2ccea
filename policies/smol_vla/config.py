"""Sizes of smol-vla-135m."""

from __future__ import annotations

from dataclasses import dataclass

from policies.errors import BadInput
from policies.tiny_vla.config import N_BINS, TinyVLAConfig


@dataclass(frozen=True)
class SmolVLAConfig:
    """Sizes of a policy on a language model's first blocks.

    The vocabulary is the language model's, then 256 action bins, then three placeholders (image, state, action).

    Args:
        words, adverbs: of the eyes (`policies.tiny_vla.vision`), which hear `words` without `adverbs`. The language model itself
            hears every word.
        n_words: vocabulary of the language model.
        num_hidden_layers: blocks of the language model that are kept, from the first.
        hidden_size, num_attention_heads: of the language model.
        rank: of the adapters of the attention's projections.
        max_text: longest instruction [tokens]; what follows the text keeps its position.
        camera_size, cameras, channels, n_keypoints: of the eyes.
        active: action dimensions that are predicted; the others are 0.
        action_dim: A; chunk_size: H, actions predicted at once; n_action_steps: executed before the next chunk.
    """

    words: tuple[str, ...]
    adverbs: tuple[str, ...] = ()
    n_words: int = 49152
    num_hidden_layers: int = 12
    hidden_size: int = 576
    num_attention_heads: int = 9
    rank: int = 16
    max_text: int = 24
    camera_size: int = 64
    cameras: tuple[str, ...] = ("image", "image2")
    channels: int = 24
    n_keypoints: int = 16
    active: tuple[int, ...] = (0, 1, 2, 5, 6)
    action_dim: int = 7
    chunk_size: int = 4
    n_action_steps: int = 4
    model_type: str = "smol-vla"

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        if small := {name: value for name, value in sizes.items() if value < 1}:
            raise BadInput(f"all sizes must be positive, got {small}.")
        if self.n_action_steps > self.chunk_size:
            raise BadInput(f"n_action_steps {self.n_action_steps} is more than chunk_size {self.chunk_size}.")
        self.eyes()

    def eyes(self) -> TinyVLAConfig:
        """Sizes of the vision towers, which are those of tiny-vla."""
        return TinyVLAConfig(
            words=self.words, adverbs=self.adverbs, camera_size=self.camera_size, cameras=self.cameras,
            channels=self.channels, n_keypoints=self.n_keypoints,
            active=self.active, action_dim=self.action_dim,
        )  # fmt: skip

    @property
    def vocab_size(self) -> int:
        """Words and action bins."""
        return self.n_words + N_BINS

    @property
    def image_token_id(self) -> int:
        return self.vocab_size

    @property
    def state_token_id(self) -> int:
        return self.vocab_size + 1

    @property
    def action_token_id(self) -> int:
        return self.vocab_size + 2

    @property
    def n_image_tokens(self) -> int:
        """One per camera, and one that says where the named things are."""
        return len(self.cameras) + 1

    @property
    def n_state_tokens(self) -> int:
        """What the robot feels, with what it did last."""
        return 1

    @property
    def n_action_tokens(self) -> int:
        return self.chunk_size * len(self.active)
