"""What tokens say, for the kinds of tokenizers that policies have."""

from __future__ import annotations

from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from policies.token_texts import token_texts


def test_byte_level_tokens_keep_their_space_and_parts_of_characters_their_spelling() -> None:
    pieces = ["a", "\u0120", "\u0120a", "\u00c3", "slow", "\u0120slow"]
    tokenizer = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[("\u0120", "a")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    assert token_texts(tokenizer, 8) == ("a", " ", " a", "\u00c3", "slow", " slow", "", "")


def test_sentencepiece_tokens_keep_their_space() -> None:
    pieces = ["<unk>", "\u2581a", "\u2581slow", "slow", "a"]
    tokenizer = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(pieces)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    assert token_texts(tokenizer, 5) == ("<unk>", " a", " slow", "slow", "a")


def test_a_tokenizer_in_python_is_read_by_its_pieces() -> None:
    class Slow:
        def __len__(self) -> int:
            return 2

        def convert_ids_to_tokens(self, ids: list[int]) -> list[str]:
            return [["\u2581slow", "ly"][i] for i in ids]

    assert token_texts(Slow(), 3) == (" slow", "ly", "")
