"""OpenVLA checkpoints by name, for the registry: "openvla:<folder>", "openvla:openvla/openvla-7b", "openvla/openvla-7b"."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import BadArtifact, BadInput, HubError, UnknownName, nearest
from policies.openvla.actions import action_norm
from policies.openvla.config import read_config, read_json
from policies.openvla.options import OpenVLAOptions

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer

    from policies.openvla.adapter import OpenVLAPolicy

DTYPES = ("auto", "float32", "bfloat16", "float16")
SMALL_FILES = ("config.json", "dataset_statistics.json", "tokenizer.json", "model.safetensors.index.json")
"""What is fetched first, so that mistakes cost no download of 15 GB."""

log = logging.getLogger("policies.openvla")


def load(
    argument: str,
    *,
    preset: str = "plain",
    device: str = "auto",
    dtype: str = "auto",
    quantize: str | None = None,
    check_image: bool = True,
    allow_too_large: bool = False,
    **options: Any,
) -> OpenVLAPolicy:
    """Load a checkpoint as a policy. Everything that can be checked is checked before weights are read.

    Args:
        argument: a folder in the published layout, or a name on the hub such as "openvla/openvla-7b".
        preset: "plain", or "libero" for the transforms of the published LIBERO evaluation.
        device: "auto" is CUDA if there is one, else the CPU; or a name that torch knows.
        dtype: of the weights; "auto" is float32 on the CPU and bfloat16 elsewhere.
        quantize: "4bit" keeps the language model in four bits (needs bitsandbytes; slow on a CPU).
        check_image: run one prompt with a black and a white picture and refuse a model that does not notice.
        allow_too_large: go on where the memory estimate says that the model cannot fit.
        options: fields of `OpenVLAOptions`, e.g. unnorm_key="bridge_orig", camera="image".
    Raises:
        UnknownName, HubError: no such folder, or the hub does not give the checkpoint.
        BadArtifact: a key is missing or too many, a size differs, a file is damaged.
        BadInput: an option that does not exist, or an unknown `unnorm_key`; the message lists what does.
        TooLarge: it cannot fit, with numbers.
        EngineMismatch: the picture does not reach the action.
    """
    from policies.openvla.adapter import OpenVLAPolicy
    from policies.openvla.checkpoint import empty_model, fill, stored_tensors
    from policies.openvla.guard import check_image_matters
    from policies.openvla.memory import check_fits, free_bytes, measured_rates, needs
    from policies.openvla.quantize import check_quantize, packed, use_4bit_layers

    chosen = OpenVLAOptions.from_preset(preset, options)
    device, torch_dtype = _placement(device, dtype)
    check_quantize(quantize)
    folder = _folder(argument, SMALL_FILES)
    config = read_config(folder)
    norm = action_norm(config.norm_stats, chosen.unnorm_key)
    tokenizer = read_tokenizer(folder)
    folder = _folder(argument, ("*.safetensors",))
    table = stored_tensors(folder)
    model = empty_model(config, table)
    quantised = use_4bit_layers(model, torch_dtype) if quantize else set()

    estimate, free = needs(model, table, torch_dtype, quantised, len(norm.q01)), free_bytes(device)
    kind = "4 bit" if quantize else str(torch_dtype).removeprefix("torch.")
    if not allow_too_large:
        check_fits(estimate, free, device, kind)
    seconds = estimate.seconds(*measured_rates(device, torch_dtype))
    log.info("%s %s", argument, estimate.render(device, kind, free, seconds))

    def place(name: str, tensor: torch.Tensor) -> Any:
        from torch import nn

        cast = tensor.to(torch_dtype)
        return packed(cast, device) if name in quantised else nn.Parameter(cast.to(device), requires_grad=False)

    fill(model, table, place)
    model.to(device)  # what no file holds: rotary frequencies
    policy = OpenVLAPolicy(model, tokenizer, norm, chosen, name=f"openvla:{argument}", quantize=quantize)
    if check_image:
        check_image_matters(model, policy.reader)
    return policy


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer as its file has it, not rebuilt: transformers 5 makes a Llama tokenizer that cuts differently.

    Raises:
        BadArtifact: no tokenizer.json, or a damaged one.
    """
    from tokenizers import Tokenizer

    path = folder / "tokenizer.json"
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises bare Exception
        raise BadArtifact(f"{path} cannot be read as a tokenizer ({error}); fetch the checkpoint again.") from error


def _placement(device: str, dtype: str) -> tuple[str, torch.dtype]:
    """Device and dtype that "auto" stands for; the CPU has bfloat16, but most processors are slow at it."""
    import torch

    if dtype not in DTYPES:
        raise BadInput(f"openvla: dtype {dtype!r} is unknown{nearest(dtype, DTYPES)}")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise BadInput(f"openvla: device {device!r} is unknown to torch; use 'auto', 'cpu' or 'cuda'.") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInput(f"openvla: device {device!r} was asked for, but torch sees no CUDA device; use device='cpu'.")
    chosen: torch.dtype = getattr(torch, ("float32" if kind == "cpu" else "bfloat16") if dtype == "auto" else dtype)
    return device, chosen


def _folder(argument: str, files: Sequence[str]) -> Path:
    """The folder of a checkpoint, on this machine or fetched from the hub."""
    source = os.path.expanduser(argument)
    if Path(source).is_dir():
        return Path(source)
    if not argument or source.startswith((".", "/")) or source.count("/") != 1 or "\\" in source:
        raise UnknownName(
            f"openvla: there is no folder {argument!r} (looked at {Path(source).absolute()}). Give a folder in the published "
            "layout, or a name on the hub such as 'openvla/openvla-7b'."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import (
        HfHubHTTPError,
        HFValidationError,
        LocalEntryNotFoundError,
        RepositoryNotFoundError,
    )

    advice = (
        f"If this machine is offline, fetch it elsewhere with `hf download {argument} --local-dir FOLDER`, copy the folder and use "
        "'openvla:FOLDER'; for a gated checkpoint run `hf auth login` first."
    )
    try:
        folder = Path(snapshot_download(argument, allow_patterns=list(files)))
    except (HFValidationError, RepositoryNotFoundError) as error:
        raise UnknownName(
            f"openvla: {argument!r} is no folder here and no model on the hub that you may see. {advice}"
        ) from error
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError) as error:
        raise HubError(
            f"openvla: {argument!r} is no folder here, and the hub did not give it. {advice} Cause: {error}"
        ) from error
    index = folder / "model.safetensors.index.json"
    if "config.json" in files and index.is_file():
        size = read_json(index).get("metadata", {}).get("total_size", 0)
        log.info("%s: %.1f GB of weights to fetch, unless they are here already", argument, size / 1e9)
    return folder
