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
* A strength outside of the usable range that its direction's file has for it warns (`steer_agents.dosed.OutsideRange`).
* A direction made for another model is refused with the difference, unless `allow_other_model=True`.
* Under torch.compile attach first, compile second; later strengths are honoured without recompiling, as long as their
  shape (one number, or one per row) stays the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
import torch
from torch import nn

from policies.base import Attendant, Context, Policy, SiteMap
from policies.errors import BadInput, MissingEntrance, SiteNeverFired, WrongModel, nearest
from policies.generative import SamplingPart
from steer_agents.dosed import warn_outside
from steer_agents.fingerprint import differences, model_fingerprint
from steer_agents.hooks import Edit, SiteHook, Tap, amount
from steer_agents.intervention import Intervention
from steer_agents.interventions import LogitMix
from steer_agents.sites import Site, Steerable, resolve, steerable, submodule
from steer_agents.strength import Strength, check_value
from steer_agents.tokens import Pass, PassTracker, declared_pass


@runtime_checkable
class DecisionPart(Protocol):
    """A part that enters a policy at its decision, e.g. `Temperature`."""

    entrance: ClassVar[str]

    def settings(self) -> dict[str, Any]: ...

    def describe(self) -> dict[str, Any]: ...


@runtime_checkable
class HeldPart(Protocol):
    """Parts whose strength somebody moves during the episode, e.g. `Hold`."""

    @property
    def parts(self) -> tuple[Intervention | DecisionPart | SamplingPart, ...]: ...

    def attendant(self, turns: Sequence[Callable[[np.ndarray], None]]) -> Attendant:
        """Who moves them; `turns` sets the strengths (B,) of each."""
        ...

    def describe(self) -> dict[str, Any]: ...


Part = Intervention | DecisionPart | SamplingPart | HeldPart


class Steerer:
    """An ordered list of parts, independent of any model until it is attached.

    Args:
        parts: interventions (activation parts), decision parts, sampling parts (noise and path) and held ones, applied in this order.
        allow_other_model: accept directions that were found on another model.
        require_fired: raise if a site never fires; only turn this off to look into a model.
    """

    def __init__(self, *parts: Part, allow_other_model: bool = False, require_fired: bool = True) -> None:
        for part in parts:
            if not isinstance(part, (Intervention, DecisionPart, SamplingPart, HeldPart)):
                raise BadInput(
                    f"a steerer takes interventions (Add, Ablate, ...), decision parts (Temperature), sampling parts (at "
                    f"the noise or along the path) and held ones (Hold), got {type(part).__name__}. "
                    "Wrap a Direction: Add(direction, strength=0.2)."
                )
        self.parts = parts
        self.allow_other_model = allow_other_model
        self.require_fired = require_fired

    def moved(self) -> tuple[Intervention | DecisionPart | SamplingPart, ...]:
        """What enters the policy, in order: the parts, and in place of a held one what it moves."""
        found: list[Any] = []
        for part in self.parts:
            found += part.parts if isinstance(part, HeldPart) else (part,)
        return tuple(found)

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
        self._parts = steerer.moved()
        self._interventions = [part for part in self._parts if isinstance(part, Intervention)]
        self._target: Steerable | None = steerable(target, site_map) if self._interventions else None
        self._policy: Any = self._target.policy if self._target else target
        self._check_entrances()
        self.context: Context = getattr(self._policy, "context", None) or Context()
        self._pass: Pass | None = None  # of the call of the root module
        self.device, self.dtype = (
            _placement(self._target.module) if self._target else (torch.device("cpu"), torch.float32)
        )
        self._hooks: list[SiteHook | Tap] = []
        self._handles: list[Any] = []
        self._mixes: list[tuple[LogitMix, list[Tap], torch.Tensor]] = []
        self._strengths: dict[int, torch.Tensor] = {}
        self._edits: dict[int, list[Edit]] = {}
        self._restore: list[dict[str, Any]] = []
        self._sampling: tuple[SamplingPart, ...] | None = None  # the policy's own, put back on leaving
        self._attendants: tuple[Attendant, ...] | None = None  # likewise
        self._entered = False
        self._build()

    # ---- construction

    def _check_entrances(self) -> None:
        if isinstance(self._policy, nn.Module) or self._policy is None:
            entrances: frozenset[str] = frozenset({"modules"})
        else:
            entrances = getattr(self._policy, "entrances", frozenset())
        for part in self._parts:
            if part.entrance not in entrances:
                raise MissingEntrance(
                    f"{type(part).__name__} enters a policy at its {part.entrance!r}, which "
                    f"{getattr(self._policy, 'name', type(self._policy).__name__)!r} does not have; it has "
                    f"{sorted(entrances)}."
                )
        held = [part for part in self.steerer.parts if isinstance(part, HeldPart)]
        if held and not isinstance(self._policy, Policy):
            raise BadInput(
                f"{type(held[0]).__name__} looks at what happens from step to step; attach it to a policy that acts, not to a module."
            )

    def _build(self) -> None:
        edits: dict[tuple[int, str], list[Edit]] = {}
        taps: list[SiteHook | Tap] = []
        fingerprint: Mapping[str, Any] | None = None
        for number, part in enumerate(self._interventions):
            assert self._target is not None
            method, model = part.origin
            if model and not self.steerer.allow_other_model:
                fingerprint = fingerprint or model_fingerprint(self._target)
                lines = differences(model, fingerprint)
                if lines:
                    raise WrongModel(
                        f"the direction or map ({method}) was made for another model: "
                        f"{'; '.join(lines)}. Find it on this model, or pass allow_other_model=True."
                    )
            warn_outside(part)
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
            tapped = self._tapped(part)
            taps += tapped.values()
            for location in locations:
                edit = Edit(part, location, value, tapped)
                self._edits[number].append(edit)
                edits.setdefault((id(location.module), location.side), []).append(edit)
        # Taps come last, so that they read what the edits at the same site made.
        self._hooks = [*(SiteHook(group[0].location, group, self) for group in edits.values()), *taps]
        scopes = [scope for part in self._interventions for scope in (part.the_site.scope, *part.gate.scopes())]
        module = self._target.module if self._target else None
        self._needs_pass = any(isinstance(hook, SiteHook) and not hook.fast for hook in self._hooks)
        self._tracker = PassTracker(module, scopes)

    def _tapped(self, part: Intervention) -> dict[str, Tap]:
        """Location key -> tap, of what the part's gate reads."""
        assert self._target is not None
        found = {}
        for key in part.gate.reads():
            stack, layer, kind = key.rsplit(".", 2)
            (location,) = resolve(self._target, Site(kind, int(layer), stack))
            found[key] = Tap(location)
        return found

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
            for part in self._parts:
                if isinstance(part, DecisionPart):
                    self._restore.append(self._policy.set_decision(**part.settings()))
            sampling = [part for part in self._parts if isinstance(part, SamplingPart)]
            if sampling:
                self._sampling = self._policy.set_sampling((*self._policy.sampling_parts, *sampling))
            held = [part for part in self.steerer.parts if isinstance(part, HeldPart)]
            if held:
                attendants = [part.attendant([self._turner(one) for one in part.parts]) for part in held]
                self._attendants = self._policy.attendants
                self._policy.attend(*self._attendants, *attendants)
        except BaseException:
            self._remove()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()
        if kind is None and self.steerer.require_fired:
            self.check_fired()

    def check_fired(self) -> int:
        """How many sites have fired since this was attached; for hosts that never leave the with block, after their first chunk.

        Raises:
            SiteNeverFired: one has not.
        """
        silent = [hook for hook in self._hooks if not (hook.ever_fired or hook.fired)]
        if silent:
            raise SiteNeverFired(self._never_fired(silent, "while steering was attached"))
        return len(self._hooks)

    def _turner(self, part: Intervention | DecisionPart | SamplingPart) -> Callable[[np.ndarray], None]:
        """What sets the strengths (B,) of a part: of an intervention here, of all others by the part itself."""
        if isinstance(part, Intervention):
            number = next(i for i, one in enumerate(self._interventions) if one is part)
            return lambda values: self.set_strength(torch.from_numpy(values), number)
        policy, turned = self._policy, part.turned  # type: ignore[union-attr]
        return lambda values: turned(policy, values)

    def _remove(self) -> None:
        if self._attendants is not None:
            self._policy.attend(*self._attendants)
            self._attendants = None
            for held in (part for part in self.steerer.parts if isinstance(part, HeldPart)):
                for part in held.parts:
                    if isinstance(part, SamplingPart):
                        part.turned(self._policy, None)  # type: ignore[attr-defined]
        for handle in self._handles:
            handle.remove()
        self._handles = []
        while self._restore:
            self._policy.set_decision(**self._restore.pop())
        if self._sampling is not None:
            self._policy.set_sampling(self._sampling)
            self._sampling = None
        for hook in self._hooks:
            if isinstance(hook, Tap):
                hook.value = None
        self._pass = None

    # ---- one forward pass

    @property
    def current(self) -> Pass | None:
        """The tokens of this pass: read off the root module's arguments, or else as the policy declares them."""
        return self._pass or declared_pass(self.context)

    def _before_pass(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        for hook in self._hooks:
            hook.fired = False
        if self._needs_pass:
            self._pass = self._tracker.observe(args, kwargs, self.context)

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
        self._pass = None  # a pass that bypasses the root module must not see this one's tokens
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
        s = amount(strength.to(logits.device), weight, logits, self.context.repeats, "the logits").to(logits.dtype)
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
