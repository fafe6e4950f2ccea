"""Baking: folding steering into weights, so that it costs nothing at run time; unbaking restores them bit for bit.

Any affine edit f(h) = A h + b at a site that is a linear module's output or input can be folded exactly:

    output:  W x + c     ->  A W x + (A c + b)          (a constant becomes a bias, an ablation a rank-1 edit of W)
    input:   W x + c     ->  W A x + (W b + c)

At a residual stream (`block_output`) only constants can be folded, into the bias of the module that writes last. What
cannot be folded is refused with the reason: a gate or token scope (weights cannot know when), strengths per row, edits that are
not affine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from policies.base import Home, SiteMap
from policies.errors import BadInput, NotBakeable
from steer_agents.baking.handle import Handle, check_model, is_linear, matrix
from steer_agents.hooks import Edit
from steer_agents.intervention import Intervention
from steer_agents.interventions import Add, LogitMix
from steer_agents.sites import Location, Steerable, head_columns, resolve, steerable, submodule
from steer_agents.steerer import Steerer

_CHUNK = 256
Map = Callable[[torch.Tensor], torch.Tensor]


class PlusBias(nn.Module):
    """A module whose output gets a constant added: the home of a bias where the module itself has no place for one."""

    def __init__(self, inner: nn.Module, bias: torch.Tensor) -> None:
        super().__init__()
        self.inner = inner
        self.bias = nn.Parameter(bias, requires_grad=False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.inner(*args, **kwargs) + self.bias


def bake(target: Any, *parts: Intervention | Steerer, site_map: SiteMap | None = None) -> Baked:
    """Fold steering into the weights of a model, in the order given.

    Returns:
        a handle: `unbake()` restores the model; it is also a context manager that does so on leaving.
    Raises:
        NotBakeable: a part cannot be folded; nothing was changed.
        WrongModel: a direction was made for another model.
    """
    flat: list[Any] = [part for entry in parts for part in (entry.parts if isinstance(entry, Steerer) else (entry,))]
    allow = any(isinstance(entry, Steerer) and entry.allow_other_model for entry in parts)
    return Baked(steerable(target, site_map), flat, allow)


class Baked(Handle):
    """A model with affine edits in its weights."""

    def __init__(self, target: Steerable, parts: list[Any], allow_other_model: bool = False) -> None:
        super().__init__(target)
        self._parts = parts
        plan: list[tuple[Edit, Location, Home]] = []
        for part in parts:
            self._check(part)
            method, model = part.origin
            check_model(target, method, model, "bake", allow_other_model)
            strength = torch.as_tensor(part.the_strength.value, dtype=torch.float32)
            for location in resolve(target, part.the_site):
                known = part.keys()
                if known is not None and location.key not in known:
                    raise BadInput(f"bake: the direction has no vector at {location.key}; it covers {known}.")
                plan.append((Edit(part, location, strength), location, self._home(part, location)))
        self._begin()
        try:
            for edit, location, home in plan:
                self._fold(edit, location, home)
        except BaseException:
            self.unbake()
            raise
        self._pin()

    def describe(self) -> list[dict[str, Any]]:
        return [part.describe() for part in self._parts]

    # ---- what can be folded

    @staticmethod
    def _check(part: Any) -> None:
        def refuse(reason: str) -> None:
            raise NotBakeable(
                f"{type(part).__name__} cannot be baked: {reason} Use steer(...), which hooks it at run time."
            )

        if not isinstance(part, Intervention):
            refuse("it steers the decision, not the network.")
        if isinstance(part, LogitMix):
            refuse("it reads several layers at once.")
        if not part.is_affine:
            refuse("it is not an affine function of the activation.")
        if not part.gate.constant:
            refuse("its gate opens and closes, and weights cannot know when.")
        if part.the_site.scoped:
            refuse("its site is limited to some tokens, phases or steps, and weights cannot know which.")
        if torch.as_tensor(part.the_strength.value).dim():
            refuse("it has one strength per row, and weights are shared by all rows.")

    def _home(self, part: Intervention, location: Location) -> Home:
        _, stack = self.target.stack(location.stack)
        home = stack.places[location.kind].home
        if home is None:
            raise NotBakeable(f"{location.key} cannot be baked: its site map names no weight that writes there.")
        if not home.exact and not isinstance(part, Add):
            raise NotBakeable(
                f"{type(part).__name__} at {location.key} cannot be baked: no single weight writes the residual stream,"
                " so only constants (Add) can be folded there. Use 'mlp_output' and 'attention_output', or steer(...)."
            )
        return home

    def _home_module(self, location: Location, home: Home) -> tuple[nn.Module, str, Any]:
        """(parent, attribute, module) of the weight that absorbs an edit."""
        _, stack = self.target.stack(location.stack)
        container = submodule(self.target.module, stack.blocks)
        children = dict(container.named_children())
        names = list(children)
        first = (location.layer + home.block_offset) * stack.stride
        if stack.stride > 1:
            position = first + int(home.path)
            if position >= len(names):
                raise NotBakeable(
                    f"{location.key} cannot be baked: no linear layer of this network reads it; use steer(...)."
                )
            return container, names[position], children[names[position]]
        parent_path, _, attribute = home.path.rpartition(".")
        parent = submodule(children[names[first]], parent_path)
        return parent, attribute, submodule(parent, attribute)

    # ---- folding

    def _fold(self, edit: Edit, location: Location, home: Home) -> None:
        parent, attribute, module = self._home_module(location, home)
        gate = edit.part.gate.weight(None, None, None)  # type: ignore[arg-type]
        s = edit.strength * edit.factor * gate

        def f(h: torch.Tensor) -> torch.Tensor:
            """The edit on (n, D) rows in float64."""
            tensors = tuple(
                t.to(h.device, torch.float64) if t.is_floating_point() else t.to(h.device) for t in edit.tensors
            )
            amount = s.to(h.device, torch.float64)
            return _on_columns(location, h, lambda part: edit.part.edit(part[None], tensors, amount)[0])

        if not is_linear(module):
            zero = torch.zeros(1, _width(edit, location), dtype=torch.float64)
            self._wrap(parent, attribute, module, f(zero)[0])
            return
        weight = matrix(module, location.key)  # (out, in)
        self._keep(module)
        W = weight.double()
        c = W.new_zeros(W.shape[0]) if module.bias is None else module.bias.detach().double()
        if home.side == "output":
            edit.check_width(W.shape[0])
            b = f(W.new_zeros(1, W.shape[0]))[0]
            new_W = f(W.T)
            new_W = W if isinstance(edit.part, Add) else (new_W - b).T
            new_c = f(c[None])[0]
        else:
            edit.check_width(W.shape[1])
            b = f(W.new_zeros(1, W.shape[1]))[0]
            new_W = W if isinstance(edit.part, Add) else _times_map(W, f, b)
            new_c = W @ b + c
        with torch.no_grad():
            weight.copy_(new_W.to(weight.dtype))
            if module.bias is not None:
                module.bias.copy_(new_c.to(module.bias.dtype))
            elif bool((new_c != 0).any()):
                module.bias = nn.Parameter(new_c.to(weight.dtype), requires_grad=False)

    def _wrap(self, parent: nn.Module, attribute: str, module: nn.Module, bias: torch.Tensor) -> None:
        parameter = next(self.target.module.parameters())
        setattr(parent, attribute, PlusBias(module, bias.to(parameter.device, parameter.dtype)))
        self._wrapped.append((parent, attribute, module))


def _width(edit: Edit, location: Location) -> int:
    if edit.part.the_direction is None:
        raise NotBakeable(f"{type(edit.part).__name__} at {location.key} cannot be baked there; use steer(...).")
    return int(edit.tensors[0].shape[-1])


def _on_columns(location: Location, h: torch.Tensor, f: Map) -> torch.Tensor:
    columns = head_columns(location, h.shape[-1])
    if columns is None:
        return f(h)
    edited = h.clone()
    edited[:, columns.to(h.device)] = f(h[:, columns.to(h.device)])
    return edited


def _times_map(W: torch.Tensor, f: Map, b: torch.Tensor) -> torch.Tensor:
    """W A for the map f(h) = A h + b: column j of A is f(e_j) - b. In chunks, so that A is never whole in memory."""
    product = torch.empty_like(W)
    for start in range(0, W.shape[1], _CHUNK):
        stop = min(start + _CHUNK, W.shape[1])
        units = torch.zeros(stop - start, W.shape[1], dtype=W.dtype, device=W.device)
        units[torch.arange(stop - start), torch.arange(start, stop)] = 1
        product[:, start:stop] = W @ (f(units) - b).T
    return product
