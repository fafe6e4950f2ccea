"""Low-rank adapters beside frozen linear layers: y + (alpha / r) B A x, with A (r, n_in) random and B (n_out, r) zero at first.

Source: LoRA (Hu et al. 2021, arXiv 2106.09685), without dropout. Written here as peft is not among the locked packages. While it is not
attached the model is bit for bit what it was, and its own weights are never touched.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from policies.errors import BadArtifact, BadInput, nearest
from steer_agents import kept
from steer_agents.fingerprint import differences
from steer_agents.runs import jsonable

KIND = "low-rank adapters"
TARGETS = ("q_proj", "v_proj")
"""Last names of the layers that are adapted unless told otherwise, as in the paper."""


@dataclass(frozen=True, eq=False)
class Adapters:
    """The adapters of one model.

    Args:
        tensors: "PATH.A" and "PATH.B" of every adapted layer.
        scale: alpha / r.
        model: fingerprint of the model that they were trained beside, empty if unknown.
        info: how they were trained.
    """

    tensors: Mapping[str, torch.Tensor]
    scale: float = 2.0
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def beside(
        cls, module: nn.Module, rank: int = 4, alpha: float = 8.0, targets: tuple[str, ...] = TARGETS, seed: int = 0
    ) -> Adapters:
        """Fresh adapters, which change nothing yet.

        Args:
            targets: last names of linear layers, e.g. "q_proj".
        Raises:
            BadInput: no such layer, or a rank below 1.
        """
        found = {name: layer for name, layer in module.named_modules() if isinstance(layer, nn.Linear)}
        chosen = {name: layer for name, layer in found.items() if name.rpartition(".")[2] in targets}
        if not chosen or rank < 1:
            known = sorted({name.rpartition(".")[2] for name in found})
            raise BadInput(
                f"adapters: rank {rank} at {', '.join(targets)}; it must be from 1, at linear layers{nearest(targets[0], known)}"
            )
        draw = torch.Generator().manual_seed(seed)
        tensors: dict[str, torch.Tensor] = {}
        for name, layer in chosen.items():
            fresh = torch.randn(rank, layer.in_features, generator=draw) * layer.in_features**-0.5
            tensors[f"{name}.A"] = fresh.to(layer.weight.device).requires_grad_()
            tensors[f"{name}.B"] = torch.zeros(layer.out_features, rank, device=layer.weight.device).requires_grad_()
        return cls(tensors, alpha / rank)

    @contextmanager
    def on(self, module: nn.Module) -> Iterator[None]:
        """The model with its adapters, until the block is left by any way.

        Raises:
            BadInput: a layer that the adapters name is not there, or is of another size.
        """
        handles = []
        try:
            for path in self.paths:
                handles.append(self._layer(module, path).register_forward_hook(self._hook(path)))
            yield
        finally:
            for handle in handles:
                handle.remove()

    @property
    def paths(self) -> list[str]:
        """Adapted layers."""
        return [name.removesuffix(".A") for name in self.tensors if name.endswith(".A")]

    def _hook(self, path: str) -> Any:
        a, b = self.tensors[f"{path}.A"], self.tensors[f"{path}.B"]

        def hook(layer: nn.Module, args: tuple[Any, ...], output: torch.Tensor) -> torch.Tensor:
            return output + self.scale * (args[0].to(a.dtype) @ a.T @ b.T).to(output.dtype)

        return hook

    def _layer(self, module: nn.Module, path: str) -> nn.Linear:
        layer = dict(module.named_modules()).get(path)
        shape = (self.tensors[f"{path}.B"].shape[0], self.tensors[f"{path}.A"].shape[1])
        if not isinstance(layer, nn.Linear) or tuple(layer.weight.shape) != shape:
            got = tuple(layer.weight.shape) if isinstance(layer, nn.Linear) else type(layer).__name__
            raise BadInput(
                f"adapters: expected a linear layer {shape} at {path!r}, got {got}; they are of another model."
            )
        return layer

    @torch.no_grad()
    def merge(self, module: nn.Module) -> None:
        """Write W + scale B A into the model's own weights, for good."""
        for path in self.paths:
            weight = self._layer(module, path).weight
            weight += (self.scale * self.tensors[f"{path}.B"] @ self.tensors[f"{path}.A"]).to(weight)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file."""
        return kept.save(path, KIND, {"scale": self.scale, "model": self.model, "info": self.info}, self.tensors)

    @classmethod
    def load(cls, path: str | Path, expect_model: Mapping[str, Any] | None = None) -> Adapters:
        """Read them.

        Raises:
            BadArtifact: no such file, or of another model than `expect_model` (a fingerprint).
        """
        found = kept.load(
            path, KIND, lambda header, tensors: cls(tensors, float(header["scale"]), header["model"], header["info"])
        )
        if expect_model is not None and (lines := differences(found.model, jsonable(expect_model))):
            raise BadArtifact(f"{path} was trained beside another model: {'; '.join(lines)}.")
        return found
