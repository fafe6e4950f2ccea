"""What the tokens of a tokenizer say, as text that a reader understands."""

from __future__ import annotations

from typing import Any


def token_texts(tokenizer: Any, n_rows: int) -> tuple[str, ...]:
    """One text per row of an embedding: what the token adds behind other text, its leading space kept.

    A token that is only part of a character keeps the tokenizer's own spelling; a row without a token is "".

    Args:
        tokenizer: of `tokenizers` or transformers.
        n_rows: rows of the embedding; often more than there are tokens (padding).
    """
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if not hasattr(backend, "decode_batch"):  # a tokenizer in Python; its pieces mark a leading space
        pieces = tokenizer.convert_ids_to_tokens(list(range(min(n_rows, len(tokenizer)))))
        return (*(piece.replace("\u2581", " ") for piece in pieces), *[""] * (n_rows - len(pieces)))
    pieces = [backend.id_to_token(i) for i in range(n_rows)]
    known = [i for i, piece in enumerate(pieces) if piece]
    # Decoders take the space off the first token: each is read behind another one, whose text is then taken off.
    anchor = backend.encode("a", add_special_tokens=False).ids
    stem = backend.decode(anchor, skip_special_tokens=False)
    texts = [""] * n_rows
    joined = backend.decode_batch([[*anchor, i] for i in known], skip_special_tokens=False)
    for i, text in zip(known, joined, strict=True):
        said = text.removeprefix(stem) if text.startswith(stem) else ""
        texts[i] = pieces[i] if not said or "\ufffd" in said else said
    return tuple(texts)
