"""Low-rank adapters beside frozen linear layers, y + (alpha / r) B A x, as peft makes, merges and stores them.

Source: LoRA (Hu et al. 2021, arXiv 2106.09685), without dropout, through the peft library (`pip install 'steer-agents[adapters]'`).
While they are not attached the model is bit for bit what it was, module by module, and its own weights are never touched.

A folder of adapters is peft's own (`adapter_config.json`, `adapter_model.safetensors`), so that `PeftModel.from_pretrained(model,
folder)` reads it as well. What we add stands in the metadata of the second file: the model's fingerprint and a check sum.

While adapters are attached, an adapted layer is peft's layer with the model's own inside of it: every path and site still resolves. A
hook that was put on the layer itself before that (none of our sites is such a layer unless "o_proj" or "down_proj" are among the
targets) sees the part of the model's own weights alone; so attach the adapters first, and steer inside the block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.errors import BadArtifact, BadInput, MissingExtra, nearest
from steer_agents import kept
from steer_agents.fingerprint import differences
from steer_agents.runs import jsonable

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel

KIND = "low-rank adapters"
TARGETS = ("q_proj", "v_proj")
"""Last names of the layers that are adapted unless told otherwise, as in the paper."""


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters of one model.

    Args:
        config: peft's: rank, alpha, which layers.
        tensors: A (r, n_in) and B (n_out, r) of every adapted layer, under peft's names.
        model: fingerprint of the model that they were trained beside, empty if unknown.
        info: how they were trained.
    """

    config: LoraConfig
    tensors: Mapping[str, torch.Tensor]
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def beside(
        cls, module: nn.Module, rank: int = 4, alpha: float = 8.0, targets: tuple[str, ...] = TARGETS, seed: int = 0
    ) -> Adapters:
        """Fresh adapters, which change nothing yet: A is drawn from `seed`, B is zero.

        Args:
            targets: last names of linear layers, e.g. "q_proj".
        Raises:
            BadInput: no such layer, or a rank below 1. MissingExtra: peft is not installed.
        """
        if rank < 1:
            raise BadInput(f"adapters: rank {rank}; it must be from 1.")
        config = _peft().LoraConfig(r=rank, lora_alpha=alpha, target_modules=list(targets))
        with _attached(module, config, seed) as model:
            return cls(config, {name: p.detach().clone() for name, p in _trained(model).items()})

    @contextmanager
    def on(self, module: nn.Module) -> Iterator[Mapping[str, torch.Tensor]]:
        """The model with its adapters, until the block is left by any way; gives the attached tensors, which a trainer may change.

        Raises:
            BadInput: they do not fit this model, or others are attached to it already.
        """
        with self._loaded(module) as model:
            yield _trained(model)

    @contextmanager
    def _loaded(self, module: nn.Module) -> Iterator[PeftModel]:
        with _attached(module, self.config) as model:
            own = _trained(model)
            if lines := differences(_shapes(self.tensors), _shapes(own)):
                raise BadInput(f"adapters: they are of another model: {'; '.join(lines[:3])}.")
            with torch.no_grad():
                for name, p in own.items():
                    p.copy_(self.tensors[name])
            yield model

    def merge(self, module: nn.Module) -> None:
        """Write W + (alpha / r) B A into the model's own weights, for good."""
        with self._loaded(module) as model:
            model.merge_adapter()
        # peft writes past the counters by which fingerprints know that a weight has changed
        torch.autograd.graph.increment_version(list(module.parameters()))

    def save(self, folder: str | Path) -> Path:
        """Write peft's two files into a folder, which is made if need be."""
        folder = Path(folder).expanduser()
        header = {"model": self.model, "info": self.info}
        kept.save(folder / _peft().utils.SAFETENSORS_WEIGHTS_NAME, KIND, header, self.tensors)
        self.config.save_pretrained(str(folder))
        return folder

    @classmethod
    def load(cls, folder: str | Path, expect_model: Mapping[str, Any] | None = None) -> Adapters:
        """Read them.

        Raises:
            BadArtifact: no such folder, damaged, or of another model than `expect_model` (a fingerprint).
        """
        peft, folder = _peft(), Path(folder).expanduser()
        if not (folder / peft.utils.CONFIG_NAME).is_file():  # else peft would look for it on the Hub
            raise BadArtifact(f"{folder} has no {peft.utils.CONFIG_NAME}; give the folder that Adapters.save wrote.")
        try:
            config = peft.LoraConfig.from_pretrained(str(folder))
        except (TypeError, ValueError) as error:
            raise BadArtifact(
                f"{folder / peft.utils.CONFIG_NAME} is damaged ({error}); save the adapters again."
            ) from error
        found = kept.load(
            folder / peft.utils.SAFETENSORS_WEIGHTS_NAME,
            KIND,
            lambda header, tensors: cls(config, tensors, header["model"], header["info"]),
        )
        if expect_model is not None and (lines := differences(found.model, jsonable(expect_model))):
            raise BadArtifact(f"{folder} was trained beside another model: {'; '.join(lines)}.")
        return found


@contextmanager
def _attached(module: nn.Module, config: LoraConfig, seed: int = 0) -> Iterator[PeftModel]:
    """The model with fresh adapters inside; afterwards modules and `requires_grad` are as they were."""
    peft = _peft()
    named_targets = config.target_modules or ()
    targets = sorted([named_targets] if isinstance(named_targets, str) else named_targets)
    named = dict(module.named_modules())
    if any(isinstance(one, peft.tuners.tuners_utils.BaseTunerLayer) for one in named.values()):
        raise BadInput("adapters: others are attached to this model already; leave their block, or merge them, first.")
    chosen = [one for name, one in named.items() if name.rpartition(".")[2] in targets]
    if not chosen or not all(isinstance(one, nn.Linear) for one in chosen):  # peft would stop half-way
        known = sorted({name.rpartition(".")[2] for name, one in named.items() if isinstance(one, nn.Linear)})
        raise BadInput(
            f"adapters: {', '.join(targets) or 'nothing'} must name linear layers of this model{nearest(''.join(targets[:1]), known)}"
        )
    wanted = [(p, p.requires_grad) for p in module.parameters()]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = peft.get_peft_model(module, deepcopy(config))  # it writes the model's name into what it is given
    try:
        yield model
    finally:
        model.unload()
        for p, own in wanted:
            p.requires_grad_(own)


def _trained(model: PeftModel) -> dict[str, torch.Tensor]:
    """A and B of every layer as they are attached, under the names that peft's files have."""
    found: dict[str, torch.Tensor] = _peft().get_peft_model_state_dict(
        model, state_dict=dict(model.named_parameters()), save_embedding_layers=False
    )
    return found


def _shapes(tensors: Mapping[str, torch.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in tensors.items()}


def _peft() -> ModuleType:
    try:
        import peft
    except ImportError as error:
        raise MissingExtra(
            f"low-rank adapters need peft ({error}); run `make setup`, or pip install 'steer-agents[adapters]'."
        ) from error
    return peft
