"""Sizes and vocabulary of tiny-vla."""

from __future__ import annotations

from dataclasses import dataclass

from policies.errors import BadInput, nearest

N_BINS = 256
SPECIAL = ("<pad>", "<image>", "<state>", "<action>")
PAD, IMAGE, STATE, ACTION = range(4)


@dataclass(frozen=True)
class TinyVLAConfig:
    """Sizes and words of a policy.

    The vocabulary is `SPECIAL`, then `words`, then 256 action bins (its tail, as in OpenVLA).

    Args:
        words: that an instruction may hold.
        adverbs: those of `words` that say how and not what: the vision tower does not hear them.
        camera_size: height and width of a picture [pixels]; cameras: their keys under "pixels".
        channels: of the first convolution of a tower; twice as many after it.
        n_keypoints: per camera; keypoint_tokens: tokens per camera that they become.
        max_words: longest instruction.
        active: action dimensions that are predicted; the others are 0.
        action_dim: A; chunk_size: H, actions predicted at once; n_action_steps: executed before the next chunk.
        hidden_size, intermediate_size, num_hidden_layers, num_attention_heads: of the decoder.
    """

    words: tuple[str, ...]
    adverbs: tuple[str, ...] = ()
    camera_size: int = 64
    cameras: tuple[str, ...] = ("image", "image2")
    channels: int = 24
    n_keypoints: int = 16
    keypoint_tokens: int = 2
    max_words: int = 16
    active: tuple[int, ...] = (0, 1, 2, 5, 6)
    action_dim: int = 7
    chunk_size: int = 4
    n_action_steps: int = 4
    hidden_size: int = 96
    intermediate_size: int = 384
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    model_type: str = "tiny-vla"

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if isinstance(value, int)}
        if small := {name: value for name, value in sizes.items() if value < 1}:
            raise BadInput(f"all sizes must be positive, got {small}.")
        if self.camera_size % 4:
            raise BadInput(f"camera_size must be a multiple of 4, got {self.camera_size}.")
        if len(set(self.words)) < len(self.words) or not set(self.adverbs) <= set(self.words):
            raise BadInput("words must all be different, and adverbs must be among them.")
        if self.n_action_steps > self.chunk_size:
            raise BadInput(f"n_action_steps {self.n_action_steps} is more than chunk_size {self.chunk_size}.")
        if self.hidden_size % self.num_attention_heads or self.n_keypoints % self.keypoint_tokens:
            raise BadInput("hidden_size must be a multiple of num_attention_heads, n_keypoints of keypoint_tokens.")
        if not all(0 <= dim < self.action_dim for dim in self.active):
            raise BadInput(f"active {self.active} must lie in 0..{self.action_dim - 1}.")

    @property
    def vocab_size(self) -> int:
        return len(SPECIAL) + len(self.words) + N_BINS

    @property
    def image_token_id(self) -> int:
        return IMAGE

    @property
    def n_image_tokens(self) -> int:
        """Keypoint tokens of every camera, and one that says where the named things are."""
        return len(self.cameras) * self.keypoint_tokens + 1

    @property
    def n_state_tokens(self) -> int:
        """What the robot feels, and what it did last."""
        return 2

    @property
    def n_action_tokens(self) -> int:
        return self.chunk_size * len(self.active)

    def token(self, index: int) -> str:
        """What an entry of the vocabulary says: a word, or an action value such as "+0.50"."""
        names = (*SPECIAL, *self.words)
        if index < len(names):
            return names[index]
        return f"{2 * (index - len(names)) / (N_BINS - 1) - 1:+.2f}"

    def word_ids(self, instruction: str) -> list[int]:
        """Tokens of an instruction; case and full stops do not matter.

        Raises:
            BadInput: empty, too long, or with a word that is not in the vocabulary.
        """
        spoken = instruction.lower().replace(".", " ").replace(",", " ").split()
        for word in spoken:
            if word not in self.words:
                raise BadInput(f"instruction {instruction!r}: the word {word!r} is unknown{nearest(word, self.words)}")
        if not 1 <= len(spoken) <= self.max_words:
            raise BadInput(f"instruction {instruction!r} has {len(spoken)} words; allowed are 1 to {self.max_words}.")
        return [len(SPECIAL) + self.words.index(word) for word in spoken]
