"""A baked model as a folder that stock software loads: transformers' `from_pretrained`, or that of LeRobot's policies.

The folder holds what the model's own `save_pretrained` writes, and `steering.json` with what was baked. Constants become biases, and a
stock class may have no place for one: where its config has a switch for biases (`attention_bias`, `mlp_bias` of Llama) the switch is
turned on and all other biases are zero; else the export is refused. Rank-1 changes need no bias and always fit.

Source: ours. The files are read back and every tensor compared bit by bit before this returns.
"""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from policies.errors import BadInput, NotBakeable
from steer_agents.baking.fold import PlusBias
from steer_agents.baking.handle import Handle

_SWITCHES = ("attention_bias", "mlp_bias", "qkv_bias")
"""Config entries that give linear layers biases."""
_WEIGHTS = ("model", "pytorch_model", "tf_model", "flax_model")


@dataclass(frozen=True)
class Exported:
    """What was written.

    Args:
        folder: where.
        n_tensors: compared, all equal.
        switches: config entries that were turned on to make room for biases.
    """

    folder: Path
    n_tensors: int
    switches: tuple[str, ...]


def export(baked: Handle, folder: str | Path, stock: Any = None, beside: str | Path | None = None) -> Exported:
    """Write the model that a baking changed, with its tokenizer if its policy has one.

    Args:
        baked: what `bake`, `steer2edit` or `casal` gave, not unbaked yet.
        folder: new or empty.
        stock: what saves the steered module's weights, where that is not the module itself: of a LeRobot policy
            `policy.stock.policy`.
        beside: the folder that the model was loaded from, whose other files (tokenizer, LeRobot's processors) are copied.
    Raises:
        NotBakeable: the stock class has no place for a constant, or cannot be saved.
        BadInput: the folder is not empty, or what was written differs.
    """
    folder = Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise BadInput(f"export: {folder} is not empty; give a new folder.")
    module, biases = _saves(baked, stock)
    if wrapped := [name for name, one in module.named_modules() if isinstance(one, PlusBias)]:
        raise NotBakeable(
            f"export: the stock {type(module).__name__} has no place for the constants baked at {wrapped}."
        )
    roomy, switches = _with_room(module, biases)
    roomy.save_pretrained(folder)
    tokenizer: Any = getattr(baked.target.policy, "tokenizer", None)
    if callable(getattr(tokenizer, "save_pretrained", None)):
        tokenizer.save_pretrained(folder)
    for file in [] if beside is None else sorted(Path(beside).iterdir()):
        if file.is_file() and not (folder / file.name).exists() and not file.name.startswith(_WEIGHTS):
            shutil.copyfile(file, folder / file.name)
    (folder / "steering.json").write_text(json.dumps(baked.describe(), indent=1, default=str) + "\n", encoding="utf-8")
    return Exported(folder, _compared(roomy, folder), switches)


def _saves(baked: Handle, stock: Any) -> tuple[Any, list[str]]:
    """What saves the model, and the names there of biases that baking added."""
    module = baked.target.module if stock is None else stock
    if not callable(getattr(module, "save_pretrained", None)):
        raise NotBakeable(
            f"export: {type(module).__name__} has no save_pretrained, so there is no stock loader for a folder of it. Give stock=..., the "
            "object that saves it (of a LeRobot policy: policy.stock.policy), or save a recipe with the direction instead."
        )
    held = {id(parameter): name for name, parameter in module.named_parameters()}
    parameters = dict(baked.target.module.named_parameters())
    if strange := [name for name, parameter in parameters.items() if id(parameter) not in held]:
        raise BadInput(f"export: {type(module).__name__} does not hold the steered {strange[0]}; it is another model.")
    return module, [held[id(parameters[name])] for name in baked.gained_biases()]


def _with_room(module: Any, biases: list[str]) -> tuple[Any, tuple[str, ...]]:
    """A model of the stock class whose state is that of the baked one: itself, or one with switches for biases turned on."""
    if not biases:
        return module, ()
    config, turned = copy.deepcopy(module.config), []
    left = set(biases)
    for switch in _SWITCHES:
        if left and getattr(config, switch, None) is False:
            setattr(config, switch, True)
            with torch.device("meta"):
                fewer = left - type(module)(config).state_dict().keys()
            setattr(config, switch, fewer != left)
            turned += [switch] if fewer != left else []
            left = fewer
    if left:
        raise NotBakeable(
            f"export: the stock {type(module).__name__} has no place for {sorted(left)[:3]}{'...' if len(left) > 3 else ''}: constants "
            "(Add, Clamp) become biases there. Rank-1 edits (Ablate, steer2edit, casal) need none."
        )
    state = module.state_dict()
    roomy = type(module)(config).to(next(module.parameters()).dtype)
    zeros = {name: torch.zeros_like(value) for name, value in roomy.state_dict().items() if name not in state}
    if strange := [name for name in zeros if not name.endswith(".bias")]:
        raise NotBakeable(f"export: turning on {turned} adds {strange}, which are no biases.")
    roomy.load_state_dict({**state, **zeros})
    if hasattr(module, "generation_config"):
        roomy.generation_config = module.generation_config
    return roomy.eval(), tuple(turned)


def _compared(module: Any, folder: Path) -> int:
    """How many tensors were written; every one is compared, and only what shares memory with one of them may be left out."""
    state = module.state_dict()
    written: set[str] = set()
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, "pt") as saved:
            for name in saved.keys():  # noqa: SIM118 (no mapping)
                if name not in state or not torch.equal(saved.get_tensor(name), state[name].cpu()):
                    raise BadInput(
                        f"export: {name} in {file} is not what the model holds; the folder cannot be trusted."
                    )
                written.add(name)
    kept = {state[name].data_ptr() for name in written}
    if missing := [name for name, value in state.items() if name not in written and value.data_ptr() not in kept]:
        raise BadInput(f"export: {missing} were not written to {folder}; the folder cannot be trusted.")
    return len(written)
