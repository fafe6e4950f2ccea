"""Weights that were changed, with copies of what they were: undone bit for bit, latest first.

Copies and not subtraction: adding and then taking away a number returns only about two thirds of float32 weights exactly.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import nn

from policies.errors import BadInput, NotBakeable, WrongModel
from steer_agents.fingerprint import differences, model_fingerprint, pin_fingerprint
from steer_agents.sites import Steerable

_baked: weakref.WeakKeyDictionary[nn.Module, list[object]] = weakref.WeakKeyDictionary()
"""What is baked into each model now, latest last, as tokens of the handles."""


@dataclass
class _Saved:
    """One module's originals."""

    module: Any
    weight: torch.Tensor
    bias: torch.Tensor | None


class Handle:
    """A model with steering in its weights: `unbake()` restores it, and so does leaving the `with` block."""

    def __init__(self, target: Steerable) -> None:
        self.target = target
        self._saved: list[_Saved] = []
        self._wrapped: list[tuple[nn.Module, str, nn.Module]] = []
        self._fingerprint = model_fingerprint(target)
        self._token = object()

    def describe(self) -> list[dict[str, Any]]:
        """What is baked, JSON-able."""
        return []

    def gained_biases(self) -> list[str]:
        """Names of biases that the model has now and had not before."""
        gained = {id(saved.module) for saved in self._saved if saved.bias is None and saved.module.bias is not None}
        return [f"{name}.bias" for name, module in self.target.module.named_modules() if id(module) in gained]

    def _begin(self) -> None:
        _baked.setdefault(self.target.module, []).append(self._token)

    def _keep(self, module: Any) -> None:
        """Copy a module's weights before they are written."""
        if not any(saved.module is module for saved in self._saved):
            bias = None if module.bias is None else module.bias.detach().clone()
            self._saved.append(_Saved(module, module.weight.detach().clone(), bias))

    def _pin(self) -> None:
        """A baked model is still the same model."""
        pin_fingerprint(self.target, self._fingerprint)

    def unbake(self) -> None:
        """Restore the model bit for bit; harmless if done already.

        Raises:
            BadInput: something else was baked into the model since; unbake that first.
        """
        tokens = _baked[self.target.module]
        if self._token not in tokens:
            return
        if tokens[-1] is not self._token:
            raise BadInput("unbake: something else was baked into this model since; unbake the latest first.")
        tokens.pop()
        while self._wrapped:
            parent, attribute, module = self._wrapped.pop()
            setattr(parent, attribute, module)
        while self._saved:
            saved = self._saved.pop()
            with torch.no_grad():
                saved.module.weight.copy_(saved.weight)
                if saved.bias is None:
                    saved.module.bias = None
                else:
                    saved.module.bias.copy_(saved.bias)
        self._pin()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.unbake()


def check_model(target: Steerable, method: str, model: Mapping[str, Any], what: str, allow_other_model: bool) -> None:
    """Refuse a direction or map that `method` made for another model; an empty fingerprint fits every model."""
    lines = differences(model, model_fingerprint(target)) if model else []
    if lines and not allow_other_model:
        raise WrongModel(f"{what}: the direction or map ({method}) was made for another model: " + "; ".join(lines))


def is_conv1d(module: nn.Module) -> bool:
    """GPT-2's Conv1D: a linear layer with its weight transposed."""
    return type(module).__name__ == "Conv1D"


def is_linear(module: nn.Module) -> bool:
    """Whether a module has one (out, in) matrix."""
    return isinstance(module, nn.Linear) or is_conv1d(module)


def matrix(module: Any, key: str) -> torch.Tensor:
    """The (out, in) weight of a linear module, a view.

    Raises:
        NotBakeable: it is no linear module, or quantised.
    """
    if not is_linear(module):
        raise NotBakeable(f"{key} cannot be baked: {type(module).__name__} is no linear layer; use steer(...).")
    weight: torch.Tensor = module.weight.detach()
    if not weight.is_floating_point():
        raise NotBakeable(f"{key} cannot be baked: its weights are quantised ({weight.dtype}).")
    return weight.T if is_conv1d(module) else weight
