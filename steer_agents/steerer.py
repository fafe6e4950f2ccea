"""A steerer: an ordered list of parts, attached to a policy for the length of a `with` block.

    with steer(policy, Add(direction, strength=0.2), Temperature(1.5)) as steering:
        ...
        steering.set_strength(0.4)           # live, also per row: torch.tensor([0.0, 0.2, 0.4])

Rules:
* Everything is undone on leaving, by any way out. Blocks nest; the inner one acts after the outer one at the same site.
* Strength 0 gives bit-identical outputs.
* A site whose module does not run in a forward pass raises `SiteNeverFired`, at the end of that pass and, for passes
  that bypass the root module, on leaving the block. A side stack (vision) must run in the first pass only: later ones
  may have no new image.
* A direction made for another model is refused with the difference, unless `allow_other_model=True`.
* Under torch.compile attach first, compile second; later strengths are honoured without recompiling, as long as their
  shape (one number, or one per row) stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import nn

from policies.base import Context, SiteMap
from policies.errors import BadInput, MissingEntrance, NonFinite, SiteNeverFired, WrongModel, WrongWidth, nearest
from steer_agents.fingerprint import differences, model_fingerprint
from steer_agents.gates import Weight
from steer_agents.interventions import Add, Intervention, LogitMix
from steer_agents.sites import Location, Steerable, head_columns, resolve, steerable, submodule
from steer_agents.strength import Strength, check_value
from steer_agents.tokens import Pass, PassTracker, per_row

_HALF = (torch.bfloat16, torch.float16)


@runtime_checkable
class DecisionPart(Protocol):
    """A part that enters a policy at its decision, e.g. `Temperature`."""

    entrance: ClassVar[str]

    def settings(self) -> dict[str, Any]: ...

    def describe(self) -> dict[str, Any]: ...


Part = Intervention | DecisionPart


class Edit:
    """One intervention at one location: its tensors, its live strength, its scope."""

    def __init__(self, part: Intervention, location: Location, strength: torch.Tensor) -> None:
        self.part = part
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


def _amount(s: torch.Tensor, weight: Weight, h: torch.Tensor, repeats: int, key: str) -> torch.Tensor:
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
        self.fast = location.side == "output" and all(self._is_plain_add(edit) for edit in edits)
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
        h = value[:, None] if value.dim() == 2 else value
        if not self.checked:
            self._check(h)
        for edit in self.edits:
            columns = edit.columns(h.shape[-1], h.device)
            edited = self._edited(h if columns is None else h[..., columns], edit)
            h = edited if columns is None else h.index_copy(-1, columns, edited)
        return h.reshape(value.shape)

    def _edited(self, part: torch.Tensor, edit: Edit) -> torch.Tensor:
        context, current = self.attached.context, self.attached.current
        gate = edit.part.gate
        weight = gate.weight(context, current, part if gate.needs_activation else None)
        s = _amount(edit.strength.to(part.device) * edit.factor, weight, part, context.repeats, edit.key)
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
    """Reads a block output for early-exit logits and changes nothing."""

    def __init__(self, location: Location) -> None:
        self.location = location
        self.fired = False
        self.ever_fired = False
        self.value: torch.Tensor | None = None

    def register(self) -> Any:
        return self.location.module.register_forward_hook(self._after)

    def refresh(self) -> None:
        """Nothing is precomputed."""

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self.fired = True
        self.value = output if torch.is_tensor(output) else output[0]


class Steerer:
    """An ordered list of parts, independent of any model until it is attached.

    Args:
        parts: interventions (activation parts) and decision parts, applied in this order.
        allow_other_model: accept directions that were found on another model.
        require_fired: raise if a site never fires; only turn this off to look into a model.
    """

    def __init__(self, *parts: Part, allow_other_model: bool = False, require_fired: bool = True) -> None:
        for part in parts:
            if not isinstance(part, (Intervention, DecisionPart)):
                raise BadInput(
                    f"a steerer takes interventions (Add, Ablate, ...) and decision parts (Temperature), got "
                    f"{type(part).__name__}. Wrap a Direction: Add(direction, strength=0.2)."
                )
        self.parts = parts
        self.allow_other_model = allow_other_model
        self.require_fired = require_fired

    def attach(self, target: Any, site_map: SiteMap | None = None) -> Attached:
        """A context manager that holds the steering on a policy or torch module."""
        return Attached(self, target, site_map)

    def describe(self) -> dict[str, Any]:
        """JSON-able form; equal descriptions steer equally."""
        return {"parts": [part.describe() for part in self.parts]}


def steer(
    target: Any,
    *parts: Part,
    site_map: SiteMap | None = None,
    allow_other_model: bool = False,
    require_fired: bool = True,
) -> Attached:
    """Steer a policy or torch module inside a `with` block, see the module's docstring."""
    return Steerer(*parts, allow_other_model=allow_other_model, require_fired=require_fired).attach(target, site_map)


class Attached:
    """Steering that holds on one model while its `with` block runs."""

    def __init__(self, steerer: Steerer, target: Any, site_map: SiteMap | None = None) -> None:
        self.steerer = steerer
        self._interventions = [part for part in steerer.parts if isinstance(part, Intervention)]
        self._target: Steerable | None = steerable(target, site_map) if self._interventions else None
        self._policy: Any = self._target.policy if self._target else target
        self._check_entrances()
        self.context: Context = getattr(self._policy, "context", None) or Context()
        self.current: Pass | None = None
        self.device, self.dtype = (
            _placement(self._target.module) if self._target else (torch.device("cpu"), torch.float32)
        )
        self._hooks: list[SiteHook | Tap] = []
        self._handles: list[Any] = []
        self._mixes: list[tuple[LogitMix, list[Tap], torch.Tensor]] = []
        self._strengths: dict[int, torch.Tensor] = {}
        self._edits: dict[int, list[Edit]] = {}
        self._restore: list[dict[str, Any]] = []
        self._entered = False
        self._build()

    # ---- construction

    def _check_entrances(self) -> None:
        if isinstance(self._policy, nn.Module) or self._policy is None:
            entrances: frozenset[str] = frozenset({"modules"})
        else:
            entrances = getattr(self._policy, "entrances", frozenset())
        for part in self.steerer.parts:
            if part.entrance not in entrances:
                raise MissingEntrance(
                    f"{type(part).__name__} enters a policy at its {part.entrance!r}, which "
                    f"{getattr(self._policy, 'name', type(self._policy).__name__)!r} does not have; it has "
                    f"{sorted(entrances)}."
                )

    def _build(self) -> None:
        edits: dict[tuple[int, str], list[Edit]] = {}
        taps: list[SiteHook | Tap] = []
        fingerprint: Mapping[str, Any] | None = None
        for number, part in enumerate(self._interventions):
            assert self._target is not None
            direction = part.the_direction
            if direction is not None and direction.model and not self.steerer.allow_other_model:
                fingerprint = fingerprint or model_fingerprint(self._target)
                lines = differences(direction.model, fingerprint)
                if lines:
                    raise WrongModel(
                        f"the direction ({direction.method}) was made for another model: "
                        f"{'; '.join(lines)}. Find it on this model, or pass allow_other_model=True."
                    )
            value = torch.as_tensor(part.the_strength.value, dtype=torch.float32).to(self.device).clone()
            self._strengths[number] = value
            self._edits[number] = []
            locations = resolve(self._target, part.the_site)
            for scope in part.gate.scopes():
                resolve(self._target, replace(part.the_site, tokens=scope))  # refuses scopes that mean nothing there
            known = part.keys()
            missing = [loc.key for loc in locations if known is not None and loc.key not in known]
            if missing:
                raise BadInput(
                    f"{type(part).__name__}: the direction has no vector at {missing}; it covers {known}. "
                    "Choose the site's layer and kind among those, or find the direction there."
                )
            if isinstance(part, LogitMix):
                read = [Tap(location) for location in locations]
                taps += read
                self._mixes.append((part, read, value))
                continue
            for location in locations:
                edit = Edit(part, location, value)
                self._edits[number].append(edit)
                edits.setdefault((id(location.module), location.side), []).append(edit)
        # Taps come last, so that they read what the edits at the same site made.
        self._hooks = [*(SiteHook(group[0].location, group, self) for group in edits.values()), *taps]
        scopes = [scope for part in self._interventions for scope in (part.the_site.scope, *part.gate.scopes())]
        module = self._target.module if self._target else None
        self._needs_pass = any(isinstance(hook, SiteHook) and not hook.fast for hook in self._hooks)
        self._tracker = PassTracker(module, scopes)

    # ---- the with block

    def __enter__(self) -> Attached:
        if self._entered:
            raise BadInput("this steering is already attached; make a new one with steer(...) or Steerer.attach.")
        self._entered = True
        try:
            if self._hooks:
                assert self._target is not None
                root = self._target.module
                self._handles.append(root.register_forward_pre_hook(self._before_pass, with_kwargs=True))
                self._handles += [hook.register() for hook in self._hooks]
                self._handles.append(root.register_forward_hook(self._after_pass, with_kwargs=True))
            for part in self.steerer.parts:
                if not isinstance(part, Intervention):
                    self._restore.append(self._policy.set_decision(**part.settings()))
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()
        if kind is None and self.steerer.require_fired:
            silent = [hook for hook in self._hooks if not (hook.ever_fired or hook.fired)]
            if silent:
                raise SiteNeverFired(self._never_fired(silent, "while steering was attached"))

    def _remove(self) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []
        while self._restore:
            self._policy.set_decision(**self._restore.pop())
        for hook in self._hooks:
            if isinstance(hook, Tap):
                hook.value = None
        self.current = None

    # ---- one forward pass

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for hook in self._hooks:
            hook.fired = False
        if self._needs_pass:
            self.current = self._tracker.observe(args, kwargs, self.context)

    def _after_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        silent = []
        for hook in self._hooks:
            if hook.fired:
                hook.ever_fired = True
            elif not self._may_rest(hook):
                silent.append(hook)
        if silent and self.steerer.require_fired:
            raise SiteNeverFired(self._never_fired(silent, "in this forward pass"))
        for part, taps, strength in self._mixes:
            output = self._mix(output, kwargs, part, taps, strength)
        self.current = None  # a pass that bypasses the root module must not see this one's tokens
        return output if self._mixes else None

    def _may_rest(self, hook: SiteHook | Tap) -> bool:
        """A side stack (the vision tower) runs when there is something new to see, not while text is generated."""
        assert self._target is not None
        return hook.ever_fired and hook.location.stack != self._target.site_map.default_stack

    @staticmethod
    def _never_fired(silent: Sequence[SiteHook | Tap], when: str) -> str:
        shown = ", ".join(f"{hook.location.key} (module {hook.location.path})" for hook in silent[:5])
        more = f" and {len(silent) - 5} more" if len(silent) > 5 else ""
        return (
            f"{len(silent)} steered site(s) never fired {when}: {shown}{more}. The model does not call these modules "
            "on this path (or was compiled before steering was attached, or nothing was run). `steer-agents doctor` "
            "shows which sites fire."
        )

    def _mix(self, output: Any, kwargs: dict[str, Any], part: LogitMix, taps: list[Tap], strength: torch.Tensor) -> Any:
        assert self._target is not None
        logits = getattr(output, "logits", None)
        _, stack = self._target.stack(part.the_site.stack)
        if logits is None or stack.final_norm is None or stack.unembedding is None:
            raise BadInput(
                "LogitMix needs a model that returns logits, and a stack with a final norm and an unembedding."
            )
        norm = submodule(self._target.module, stack.final_norm)
        unembed = submodule(self._target.module, stack.unembedding)
        keep = kwargs.get("logits_to_keep", 0)
        cap = getattr(getattr(self._target.module, "config", None), "final_logit_softcapping", None)
        early = []
        for tap in taps:
            assert tap.value is not None
            h = tap.value[:, keep] if torch.is_tensor(keep) else tap.value[:, -logits.shape[1] :]
            z = unembed(norm(h) if part.final_norm else h)
            early.append(torch.tanh(z / cap) * cap if cap else z)
        weight = part.gate.weight(self.context, self.current, None)
        s = _amount(strength.to(logits.device), weight, logits, self.context.repeats, "the logits").to(logits.dtype)
        mixed = part.edit(logits, (torch.stack(early).mean(0),), s)
        output.logits = torch.where(s != 0, mixed, logits)
        return output

    # ---- live strengths

    def set_strength(self, value: float | Sequence[float] | torch.Tensor | Strength, part: int | str = 0) -> None:
        """Change a part's strength now, in that part's unit, without re-attaching.

        Args:
            value: one number, or one per row of the batch.
            part: number of the activation part in the order given, or its name.
        """
        number = self._number(part)
        if isinstance(value, Strength):
            unit = self._interventions[number].the_strength.unit
            if value.unit != unit:
                raise BadInput(
                    f"set_strength: this part's unit is {unit!r}, got {value.unit!r}; units are fixed when attaching."
                )
            value = value.value
        check_value(value)
        new = torch.as_tensor(value, dtype=torch.float32)
        old = self._strengths[number]
        if new.shape == old.shape:
            old.copy_(new)
        else:
            moved = new.to(old.device).clone()
            self._strengths[number] = moved
            for edit in self._edits[number]:
                edit.strength = moved
            self._mixes = [
                (mix, taps, moved if mix is self._interventions[number] else s) for mix, taps, s in self._mixes
            ]
        for hook in self._hooks:
            hook.refresh()

    def strength(self, part: int | str = 0) -> torch.Tensor:
        """The current strength of a part, () or (B,)."""
        return self._strengths[self._number(part)].clone()

    def _number(self, part: int | str) -> int:
        if isinstance(part, int):
            if not 0 <= part < len(self._interventions):
                raise BadInput(
                    f"part {part} does not exist; this steering has {len(self._interventions)} activation part(s)."
                )
            return part
        names = [entry.name for entry in self._interventions]
        if part not in names:
            raise BadInput(f"part {part!r} does not exist{nearest(part, [name for name in names if name])}")
        return names.index(part)


def _placement(module: nn.Module) -> tuple[torch.device, torch.dtype]:
    """Device and floating dtype of a model's first floating parameter."""
    for parameter in module.parameters():
        if parameter.is_floating_point():
            return parameter.device, parameter.dtype
    return torch.device("cpu"), torch.float32
