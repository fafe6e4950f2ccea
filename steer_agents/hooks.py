"""The hooks that steering puts on modules: what runs inside a forward pass.

`Edit` is one intervention at one location; `SiteHook` is the hook of one module and applies its edits in order, with a short
path for plain constant adds; `Tap` only reads. What attaches them is in `steerer.py`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.base import Context
from policies.errors import BadInput, NonFinite, WrongWidth
from steer_agents.gates import Weight
from steer_agents.intervention import Intervention
from steer_agents.interventions import Add
from steer_agents.sites import Location, by_row, head_columns, read, written
from steer_agents.tokens import Pass, per_row

if TYPE_CHECKING:
    from steer_agents.steerer import Attached

_HALF = (torch.bfloat16, torch.float16)


class Edit:
    """One intervention at one location: its tensors, its live strength, its scope."""

    def __init__(
        self, part: Intervention, location: Location, strength: torch.Tensor, taps: Mapping[str, Tap] | None = None
    ) -> None:
        self.part = part
        self.gate = part.gate.bound(location.key, taps or {})
        self.location = location
        self.key = location.key
        self.site = part.the_site
        self.factor = part.factor(location.key)
        self.strength = strength  # shared by all locations of the part: () or (B,)
        self.tensors = part.tensors_at(location.key)
        for tensor in self.tensors:
            if tensor.is_floating_point() and not torch.isfinite(tensor).all():
                raise NonFinite(f"{type(part).__name__} at {location.key}: its tensors contain NaN or infinity.")
        if not math.isfinite(self.factor):
            raise NonFinite(
                f"{type(part).__name__} at {location.key}: one {part.the_strength.unit!r} is worth {self.factor}; the "
                "direction's statistics are damaged, find it again."
            )
        self._moved: tuple[torch.Tensor, ...] | None = None

    def columns(self, width: int, device: torch.device) -> torch.Tensor | None:
        """Column indices of the selected heads, or None for all columns."""
        columns = head_columns(self.location, width)
        return None if columns is None else columns.to(device)

    def check_width(self, width: int) -> None:
        wanted = self.part.width(self.key)
        if self.location.heads is not None:
            width = width // self.location.n_heads * len(self.location.heads)
        if wanted is not None and wanted != width:
            raise WrongWidth(
                f"{type(self.part).__name__} at {self.key}: the direction is {wanted} wide, the activation {width}."
                " It was made for another site or model."
            )

    def tensors_like(self, h: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._moved is None or any(t.device != h.device for t in self._moved):
            self._moved = tuple(
                t.to(h.device, torch.promote_types(h.dtype, torch.float32)) if t.is_floating_point() else t.to(h.device)
                for t in self.tensors
            )
        return self._moved


def amount(s: torch.Tensor, weight: Weight, h: torch.Tensor, repeats: int, key: str) -> torch.Tensor:
    """Strength times gate weight, to broadcast against h (B, N, D): (B or 1, N or 1, 1)."""
    B, N = h.shape[:2]
    s = per_row(s, B, repeats, "strength").reshape(B, 1, 1) if s.dim() else s.reshape(1, 1, 1)
    if not torch.is_tensor(weight) or weight.dim() == 0:
        return s * weight
    weight = per_row(weight.to(h.device), B, repeats, "gate weight")
    if weight.dim() > 2 or (weight.dim() == 2 and weight.shape[1] not in (1, N)):
        raise BadInput(f"the gate at {key} gave weights {tuple(weight.shape)} for {(B, N)} tokens.")
    return s * weight.reshape(B, -1, 1)


class SiteHook:
    """The hook of one module: applies its edits in order. Plain constant adds take a short path."""

    def __init__(self, location: Location, edits: list[Edit], attached: Attached) -> None:
        self.location = location
        self.edits = edits
        self.attached = attached
        self.fired = False
        self.ever_fired = False
        self.checked = False
        self.plain: torch.Tensor | None = None  # the displacement, once checked, if it is one vector for all rows
        in_order = location.side == "output" and location.axes == "BND"
        self.fast = in_order and all(self._is_plain_add(edit) for edit in edits)
        self.delta: torch.Tensor | None = None

    @staticmethod
    def _is_plain_add(edit: Edit) -> bool:
        plain = edit.location.heads is None and not edit.site.scoped
        return plain and type(edit.part) is Add and edit.part.gate.constant

    def register(self) -> Any:
        if self.location.side == "input":
            return self.location.module.register_forward_pre_hook(self._before)
        hook = self._after_fast if self.fast else self._after
        if self.fast:
            self.refresh()
        return self.location.module.register_forward_hook(hook)

    def refresh(self) -> None:
        """Work out the constant displacement again after a strength changed (short path only)."""
        if not self.fast:
            return
        total: torch.Tensor | None = None
        for edit in self.edits:
            gate = edit.part.gate.weight(self.attached.context, None, None)
            s = edit.strength * (edit.factor * gate)
            shape = (-1, 1, 1) if self.location.tokens else (-1, 1)
            step = (s.reshape(shape) if s.dim() else s) * edit.tensors[0][0].to(s.device)
            total = step if total is None else total + step
        assert total is not None
        if self.delta is not None and self.delta.shape == total.shape:
            self.delta.copy_(total)
        else:
            self.delta = total.to(self.attached.device, self.attached.dtype)
            self.checked, self.plain = False, None  # its dtype and device are set right at the next pass

    def _check(self, h: torch.Tensor) -> None:
        for edit in self.edits:
            edit.check_width(h.shape[-1])
        if self.fast:
            assert self.delta is not None
            if self.delta.dtype is not h.dtype or self.delta.device != h.device:
                self.delta = self.delta.to(h.device, h.dtype)
            self.plain = self.delta if self.delta.dim() == 1 else None
        self.checked = True

    def _after_fast(self, module: nn.Module, args: Any, output: Any) -> Any:
        self.fired = True
        if self.plain is not None and isinstance(output, torch.Tensor):
            return output + self.plain
        if isinstance(output, (tuple, list)):
            if not self.checked:
                self._check(output[0])
            return type(output)((self._plus(output[0]), *output[1:]))
        if not self.checked:
            self._check(output)
        return self._plus(output)

    def _plus(self, h: torch.Tensor) -> torch.Tensor:
        delta = self.delta
        assert delta is not None
        if delta.dim() == h.dim() and delta.shape[0] != h.shape[0]:
            delta = per_row(delta, h.shape[0], self.attached.context.repeats, "strength")
        return h + delta

    def _after(self, module: nn.Module, args: Any, output: Any) -> Any:
        self.fired = True
        if isinstance(output, (tuple, list)):
            return type(output)((self._apply(output[0]), *output[1:]))
        return self._apply(output)

    def _before(self, module: nn.Module, args: tuple[Any, ...]) -> Any:
        self.fired = True
        return (self._apply(args[0]), *args[1:])

    def _apply(self, value: torch.Tensor) -> torch.Tensor:
        h = by_row(read(self.location, value), self.attached.current if self.location.tokens else None)
        if not self.checked:
            self._check(h)
        for edit in self.edits:
            columns = edit.columns(h.shape[-1], h.device)
            edited = self._edited(h if columns is None else h[..., columns], edit)
            h = edited if columns is None else h.index_copy(-1, columns, edited)
        return written(self.location, h, value)

    def _edited(self, part: torch.Tensor, edit: Edit) -> torch.Tensor:
        context, current = self.attached.context, self.attached.current
        gate = edit.gate
        weight = gate.weight(context, current, part if gate.needs_activation else None)
        s = amount(edit.strength.to(part.device) * edit.factor, weight, part, context.repeats, edit.key)
        keep = s != 0
        mask = self._mask(edit, current, context, part)
        if mask is not None:
            keep = keep & mask
        wide = part.float() if part.dtype in _HALF else part
        edited = edit.part.edit(wide, edit.tensors_like(wide), s.to(wide.dtype))
        return torch.where(keep, edited.to(part.dtype), part)

    def _mask(self, edit: Edit, current: Pass | None, context: Context, h: torch.Tensor) -> torch.Tensor | None:
        site = edit.site
        mask: torch.Tensor | None = None
        if self.location.tokens and site.scope.kind != "all":
            if current is None:
                raise BadInput(
                    f"token scope {site.scope.kind!r} at {edit.key}: the model was called without input_ids or "
                    "inputs_embeds (or not through its own forward), so tokens cannot be told apart. Call it with one."
                )
            mask = current.mask(site.scope)
            if mask is not None and mask.shape != h.shape[:2]:
                raise BadInput(
                    f"token scope {site.scope.kind!r} at {edit.key}: the model was given {tuple(mask.shape)} tokens, "
                    f"but the site sees {tuple(h.shape[:2])}; this model drops or adds some. Use 'all' there."
                )
            mask = None if mask is None else mask[..., None]
        if site.phase != "any":
            phase = current.phase if current is not None else context.phase
            if phase is None:
                raise BadInput(
                    f"phase {site.phase!r} at {edit.key}: this model has no prefill and decode phases; use 'any'."
                )
            if phase != site.phase:
                return torch.zeros((1, 1, 1), dtype=torch.bool, device=h.device)
        if site.env_steps is not None:
            if context.env_step is None:
                raise BadInput(
                    f"env_steps={site.env_steps} at {edit.key} needs the environment step: run the policy through "
                    "reset and act (or rollout), or set the context's env_step."
                )
            start, stop = site.env_steps
            step = torch.as_tensor(context.env_step, device=h.device)
            inside = (step >= start) & (step < (stop if stop is not None else torch.iinfo(torch.int64).max))
            rows = per_row(inside, h.shape[0], context.repeats, "env_step").reshape(-1, 1, 1)
            mask = rows if mask is None else mask & rows
        return mask


class Tap:
    """Reads a block output, for early-exit logits or a gate, and changes nothing."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.fired = False
        self.ever_fired = False
        self.value: torch.Tensor | None = None

    def register(self) -> Any:
        return self.location.module.register_forward_hook(self._after)

    def refresh(self) -> None:
        """Nothing is precomputed."""

    def activation(self) -> torch.Tensor:
        """(B, N, D) of the latest pass."""
        assert self.value is not None
        return read(self.location, self.value)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.fired = True
        self.value = output if torch.is_tensor(output) else output[0]
