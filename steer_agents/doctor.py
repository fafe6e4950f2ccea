"""The doctor: does steering do on *your* model what the tests hold on tiny ones?

    for check in examine(policies.load("llm:my-folder")):
        print(check.name, check.passed, check.value)

| check | what has to hold |
| --- | --- |
| same input, same output | two plain passes agree bit for bit; nothing below can hold otherwise |
| sites fire (each stack) | every site of the map runs in a forward pass, exactly once unless the map says otherwise |
| steering acts | a push at any one layer changes the output |
| zero strength | parts of strength 0 at every site leave the output bit-identical |
| batch mates | steering row 1 of 3 leaves rows 0 and 2 bit-identical |
| rows one by one | a batch with one strength per row equals its rows one by one |
| hooked equals baked | folding into weights gives the hooked output |
| prefill and decode | token by token on a key-value cache equals one full pass |
| restored | afterwards, and after an exception, outputs, parameters and hooks are as at the start |
| memory | many steered calls leave nothing behind |

Bit-identity is exact equality of the outputs at real tokens (padding means nothing). Where rounding enters (another
batch size, folded weights, a cache), outputs may differ by a share of the largest one, see `TOLERANCE`.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from policies.base import SiteMap
from policies.errors import BadInput, NotBakeable, SteerError, UnknownSite
from steer_agents.baking import bake
from steer_agents.capture import Batch
from steer_agents.direction import Direction
from steer_agents.finding.contrast import batches_of
from steer_agents.intervention import Intervention
from steer_agents.interventions import Ablate, Add
from steer_agents.sites import Location, Site, Steerable, read, resolve, steerable
from steer_agents.steerer import steer
from steer_agents.strength import Strength

if TYPE_CHECKING:
    from rich.table import Table

TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}
"""Largest difference where rounding enters, as a share of the largest output, by the dtype of the weights (directions are float32)."""
PROMPTS = ("The red light is on.", "Pull the left lever, then wait until something happens.", "Which one?")
_DOSE = 0.5  # of the mean activation norm: far above rounding
_MIB = 2**20
_RSS_SLACK = 32 * _MIB  # allocators keep pages; what is left behind by every one of many calls is more
_WARM_UP = 20
_CALLS_PER_BLOCK = 10


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was checked.
        passed: None if the check does not apply to this model.
        value: what was measured.
        expected: what it should have been.
        advice: what to do about it, or why it does not apply; "" if all is well.
    """

    name: str
    passed: bool | None
    value: str
    expected: str
    advice: str = ""


Finding = tuple[bool, str, str]
"""(passed, value, advice if it did not pass)."""


class _NotApplicable(Exception):
    """The check means nothing on this model; the message says why."""


def examine(
    target: Any,
    inputs: Any = None,
    site_map: SiteMap | None = None,
    n_calls: int = 1000,
    progress: Callable[[str], None] | None = None,
) -> list[Check]:
    """Check that steering does what it says on a model: some dozens of forward passes, and `n_calls` short ones.

    The model is left as it was. Checks do not depend on one another: one that raises has failed, with the error as its
    value.

    Args:
        target: a policy with a network, a torch module, or a `Steerable`.
        inputs: what to run it on: a batch (mapping of the module's arguments, or a tensor), a list whose first batch is
            taken, or raw inputs that `policy.encode` understands. None makes some up: the module's own `example_inputs` if
            it has them, else prompts through the policy's `encode`, random tokens for a bare language model, random
            numbers for anything else. Side stacks (vision) are only examined if the inputs make them run.
        site_map: as for `steer`.
        n_calls: calls of the memory check; 0 leaves it out.
        progress: called with the name of each check before it starts.
    Raises:
        BadInput, UnknownArchitecture: no network, no site map, or no inputs could be made up.
    """
    place = steerable(target, site_map)
    patient = _Patient(Steerable(place.module, place.site_map), _batch(place, inputs), inputs is not None, n_calls)
    checks = []
    for name, (expected, run) in _examinations(patient).items():
        if progress is not None:
            progress(name)
        checks.append(_isolated(name, expected, run))
    return checks


def render(checks: Sequence[Check]) -> Table:
    """The checks as a table for `rich.print`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="steer-agents doctor")
    for column in ("check", "result", "value", "expected", "advice"):
        table.add_column(column, overflow="fold")
    results = {True: Text("ok", "green"), False: Text("FAILED", "bold red"), None: Text("n/a", "dim")}
    for check in checks:
        name, *rest = (Text(text) for text in (check.name, check.value, check.expected, check.advice))
        table.add_row(name, results[check.passed], *rest)
    return table


def _isolated(name: str, expected: str, run: Callable[[], Finding]) -> Check:
    try:
        passed, value, advice = run()
    except _NotApplicable as reason:
        return Check(name, None, "", expected, str(reason))
    except Exception as error:  # whatever a user's model raises is a finding
        advice = "See the message." if isinstance(error, SteerError) else "Run the model once without steering."
        return Check(name, False, f"{type(error).__name__}: {error}", expected, advice)
    return Check(name, passed, value, expected, "" if passed else advice)


# ---- the model on the table


@dataclass(frozen=True)
class _Seen:
    """What one plain pass showed at a site."""

    location: Location
    calls: int
    width: int
    mean_norm: float

    @property
    def site(self) -> Site:
        return Site(self.location.kind, self.location.layer, self.location.stack)

    def direction(self) -> Direction:
        raw = torch.randn(self.width, generator=torch.Generator().manual_seed(self.location.layer))
        return Direction.from_raw({self.location.key: raw}, self.site)

    def add(self, dose: float | torch.Tensor = _DOSE) -> Add:
        return Add(self.direction(), strength=Strength(dose * self.mean_norm))

    def ablate(self, strength: float | torch.Tensor = 1.0) -> Ablate:
        return Ablate(self.direction(), strength=strength)


@dataclass
class _Patient:
    """A model, three rows of input for it, and what was seen so far."""

    place: Steerable
    batch: Batch
    given: bool
    n_calls: int

    def __post_init__(self) -> None:
        self.n_hooks = self.count_hooks()
        self.parameters = list(self.place.module.parameters())
        dtypes = {parameter.dtype for parameter in self.place.module.parameters()}
        self.tolerance = max([TOLERANCE[dtype] for dtype in dtypes if dtype in TOLERANCE], default=1e-4)
        self._seen: dict[str, list[_Seen]] = {}
        self.arguments = inspect.signature(self.place.module.forward).parameters

    def count_hooks(self) -> int:
        """Forward hooks and pre-hooks on all modules."""
        modules = self.place.module.modules()
        return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules)

    @torch.no_grad()
    def call(self, batch: Batch, **extra: Any) -> Any:
        """The module's own output."""
        if not isinstance(batch, Mapping):
            return self.place.module(batch)
        if "use_cache" in self.arguments:
            extra = {"use_cache": False, **extra}
        return self.place.module(**{**batch, **extra})

    def rows(self, *parts: Intervention, batch: Batch | None = None) -> list[torch.Tensor]:
        """Each row's output at its real tokens, under steering with `parts`."""
        batch = self.batch if batch is None else batch
        with steer(self.place, *parts):
            output = _tensor_of(self.call(batch))
        return _split(output, batch)

    @cached_property
    def plain(self) -> list[torch.Tensor]:
        """The first unsteered pass."""
        return [row.clone() for row in self.rows()]

    def seen(self, stack: str) -> list[_Seen]:
        """What a plain pass showed at each site of a stack."""
        if stack not in self._seen:
            places = self.place.site_map.stacks[stack].places
            self._seen[stack] = self._watch(
                [at for kind in places for at in resolve(self.place, Site(kind, stack=stack))]
            )
        return self._seen[stack]

    def _watch(self, locations: list[Location]) -> list[_Seen]:
        calls = {location.key: 0 for location in locations}
        shapes: dict[str, tuple[int, float]] = {}

        def keep(location: Location, value: Any) -> None:
            h = read(location, value)
            calls[location.key] += 1
            shapes[location.key] = (h.shape[-1], float(h.float().norm(dim=-1).mean()))

        handles = []
        try:
            for location in locations:
                if location.side == "input":
                    hook = lambda module, args, location=location: keep(location, args[0])  # noqa: E731
                    handles.append(location.module.register_forward_pre_hook(hook))
                else:
                    after = lambda module, args, output, location=location: keep(location, output)  # noqa: E731
                    handles.append(location.module.register_forward_hook(after))
            self.call(self.batch)
        finally:
            for handle in handles:
                handle.remove()
        return [_Seen(loc, calls[loc.key], *shapes.get(loc.key, (0, 0.0))) for loc in locations]

    @property
    def fired(self) -> list[_Seen]:
        """The sites that ran, of the stacks that fit the model."""
        found = []
        for stack in self.place.site_map.stacks:
            with suppress(UnknownSite):  # a finding of "sites fire"
                found += [seen for seen in self.seen(stack) if seen.calls]
        if not found:
            raise _NotApplicable("No site fires, so there is nothing to steer.")
        return found

    @property
    def layers(self) -> list[_Seen]:
        """The first kind of site of the first stack, layer by layer."""
        first = self.fired[0].location
        return [seen for seen in self.fired if (seen.location.stack, seen.location.kind) == (first.stack, first.kind)]

    @property
    def middle(self) -> _Seen:
        return self.layers[len(self.layers) // 2]

    def compare(self, pairs: Sequence[tuple[list[torch.Tensor], list[torch.Tensor]]], advice: str) -> Finding:
        """Whether all pairs of outputs agree within the tolerance."""
        worst = max(difference(a, b) for a, b in pairs)
        return worst <= self.tolerance, f"largest difference {worst:.1e}", advice


def difference(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> float:
    """Largest difference of two lists of tensors as a share of the largest value of the second; inf if not finite."""
    x, y = (torch.cat([entry.double().reshape(-1) for entry in entries]) for entries in (a, b))
    if x.shape != y.shape or not (torch.isfinite(x).all() and torch.isfinite(y).all()):
        return float("inf")
    return float((x - y).abs().max() / y.abs().max().clamp(min=1e-30))


def _same(a: Sequence[torch.Tensor], b: Sequence[torch.Tensor]) -> bool:
    return len(a) == len(b) and all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _tensor_of(output: Any) -> torch.Tensor:
    """Logits, or else the first tensor of what a module gave."""
    if torch.is_tensor(output):
        return output
    if torch.is_tensor(getattr(output, "logits", None)):
        return output.logits
    entries = output.values() if isinstance(output, Mapping) else output if isinstance(output, (tuple, list)) else ()
    for entry in entries:
        if torch.is_tensor(entry):
            return entry
    raise BadInput(f"doctor: no tensor in the model's output, a {type(output).__name__}; wrap the model to return one.")


def _split(output: torch.Tensor, batch: Batch) -> list[torch.Tensor]:
    """The rows of an output, each at its real tokens."""
    n_rows = _n_rows(batch)
    if output.dim() == 0 or len(output) != n_rows:
        raise BadInput(
            f"doctor: the model's output has shape {tuple(output.shape)} for {n_rows} rows of input; it must have one entry "
            "per row. Pass other inputs, or wrap the model."
        )
    mask = batch.get("attention_mask") if isinstance(batch, Mapping) else None
    if mask is None or mask.shape != output.shape[:2]:
        return list(output)
    return [row[real] for row, real in zip(output, mask.bool(), strict=True)]


# ---- inputs


def _batch(place: Steerable, inputs: Any) -> Batch:
    """Three rows of module inputs, on the module's device."""
    if inputs is None:
        batch = _made_up(place)
    elif isinstance(inputs, Mapping) or torch.is_tensor(inputs):
        batch = inputs
    else:
        batch = batches_of(place, inputs)[0]
    n_rows = _n_rows(batch)
    device = next((parameter.device for parameter in place.module.parameters()), torch.device("cpu"))
    batch = _pick(batch, [i % n_rows for i in range(3)])
    if isinstance(batch, Mapping):
        return {key: value.to(device) if torch.is_tensor(value) else value for key, value in batch.items()}
    return batch.to(device)


def _made_up(place: Steerable) -> Batch:
    generator = torch.Generator().manual_seed(0)
    example: Callable[..., Batch] | None = getattr(place.module, "example_inputs", None)
    if example is not None:
        return example(3, generator)
    config = getattr(place.module, "config", None)
    sizes = [getattr(part, "vocab_size", None) for part in (config, getattr(config, "text_config", None))]
    vocabulary = next((size for size in sizes if isinstance(size, int)), None)
    if vocabulary is not None:
        if place.policy is not None:
            return next(iter(place.policy.encode(PROMPTS)))
        ids = torch.randint(0, vocabulary, (3, 12), generator=generator)
        image = getattr(config, "image_token_id", None)
        return {"input_ids": torch.where(ids == image, 0 if image != 0 else 1, ids) if image is not None else ids}
    for module in place.module.modules():
        if isinstance(module, nn.Linear):
            return torch.randn(3, module.in_features, generator=generator).to(module.weight.dtype)
    raise BadInput(
        "doctor: cannot make up inputs for this model; pass inputs=[...] (batches of the module's arguments), or "
        "give it a method example_inputs(n_rows, generator)."
    )


def _n_rows(batch: Batch) -> int:
    tensors = (
        [batch] if not isinstance(batch, Mapping) else [v for v in batch.values() if torch.is_tensor(v) and v.dim()]
    )
    if not tensors or not len(tensors[0]):
        raise BadInput(
            "doctor: the inputs hold no tensor with rows; pass a mapping of the module's arguments or a tensor."
        )
    return len(tensors[0])


def _pick(batch: Batch, rows: list[int]) -> Batch:
    """Some rows of a batch."""
    if not isinstance(batch, Mapping):
        return batch[rows]
    n_rows = _n_rows(batch)
    return {
        key: value[rows] if torch.is_tensor(value) and value.dim() and len(value) == n_rows else value
        for key, value in batch.items()
    }


# ---- the checks


def _examinations(patient: _Patient) -> dict[str, tuple[str, Callable[[], Finding]]]:
    """Name -> what is expected, and how to find out."""
    share = f"within {patient.tolerance:g} of the largest output"
    stacks = {
        f"sites fire ({stack})": (
            "each in a pass" if described.repeated else "each once per pass",
            lambda stack=stack: _sites_fire(patient, stack),
        )
        for stack, described in patient.place.site_map.stacks.items()
    }
    return {
        "same input, same output": ("bit-identical", lambda: _same_output(patient)),
        **stacks,
        "steering acts": ("a change from every layer", lambda: _acts(patient)),
        "zero strength": ("bit-identical", lambda: _zero_strength(patient)),
        "batch mates": ("rows 0 and 2 bit-identical, row 1 changed", lambda: _batch_mates(patient)),
        "rows one by one": (share, lambda: _one_by_one(patient)),
        "hooked equals baked": (share, lambda: _baked(patient)),
        "prefill and decode": (share, lambda: _cache(patient)),
        "restored": ("outputs, parameters and hooks as at the start", lambda: _restored(patient)),
        "memory": (f"no new tensors, below {_RSS_SLACK // _MIB} MiB more", lambda: _memory(patient)),
    }


def _same_output(patient: _Patient) -> Finding:
    same = _same(patient.plain, patient.rows())
    value = "bit-identical" if same else f"largest difference {difference(patient.plain, patient.rows()):.1e}"
    return same, value, "The model draws random numbers. Call model.eval(), or fix its seed inside forward."


def _sites_fire(patient: _Patient, stack: str) -> Finding:
    seen = patient.seen(stack)
    silent = [entry.location for entry in seen if entry.calls == 0]
    once = not patient.place.site_map.stacks[stack].repeated
    often = [entry.location for entry in seen if entry.calls > 1 and once]
    if len(silent) == len(seen) and stack != patient.place.site_map.default_stack and not patient.given:
        raise _NotApplicable("The made-up inputs do not reach this stack; pass inputs with an image to examine it.")
    if silent:
        named = ", ".join(f"{location.key} ({location.path})" for location in silent[:3])
        advice = f"Not called: {named}{' ...' if len(silent) > 3 else ''}. Correct the site map (policies/site_maps)."
    else:
        named = ", ".join(location.path for location in often[:3])
        advice = f"Called several times per pass, so that edits would add up: {named}."
    right = len(seen) - len(silent) - len(often)
    return not silent and not often, f"{right} of {len(seen)} sites", advice


def _acts(patient: _Patient) -> Finding:
    dead = [seen.location.path for seen in patient.layers if _same(patient.rows(seen.add()), patient.plain)]
    n = len(patient.layers)
    return not dead, f"{n - len(dead)} of {n} layers", f"What these give is not used: {', '.join(dead[:5])}."


def _zero_strength(patient: _Patient) -> Finding:
    worst = 0.0
    for parts in ([seen.add(0.0) for seen in patient.fired], [seen.ablate(0.0) for seen in patient.fired]):
        rows = patient.rows(*parts)
        worst = max(worst, 0.0 if _same(rows, patient.plain) else difference(rows, patient.plain))
        if not _same(rows, patient.plain):
            return False, f"largest difference {worst:.1e}", "Rule out 'same input, same output' first; else report it."
    return True, f"bit-identical at {len(patient.fired)} sites", ""


def _batch_mates(patient: _Patient) -> Finding:
    only = torch.tensor([0.0, 1.0, 0.0])
    seen = patient.middle
    for part in (seen.add(only * _DOSE), seen.ablate(only)):
        rows = patient.rows(part)
        touched = [i for i in (0, 2) if not torch.equal(rows[i], patient.plain[i])]
        if touched:
            worst = max(difference(rows[i : i + 1], patient.plain[i : i + 1]) for i in touched)
            advice = "The model mixes rows (batch statistics, in-place writes): steer one row per batch."
            return False, f"rows {touched} changed by {worst:.1e}", advice
        if torch.equal(rows[1], patient.plain[1]):
            return False, "row 1 did not change", "See 'steering acts'."
    return True, "rows 0 and 2 bit-identical", ""


def _one_by_one(patient: _Patient) -> Finding:
    doses, seen, pairs = (0.0, _DOSE, 2 * _DOSE), patient.middle, []
    for make in (seen.add, seen.ablate):
        together = patient.rows(make(torch.tensor(doses)))
        alone = [patient.rows(make(dose), batch=_pick(patient.batch, [i]))[0] for i, dose in enumerate(doses)]
        pairs.append((together, alone))
    plain = [patient.rows(batch=_pick(patient.batch, [i]))[0] for i in range(3)]
    if difference(plain, patient.plain) > patient.tolerance:
        return *patient.compare(pairs, "")[:2], "Rows differ alone and in a batch without steering too: see the model."
    return patient.compare(pairs, "Rows are steered differently alone and in a batch: report it.")


def _baked(patient: _Patient) -> Finding:
    pairs, reasons = [], []
    for stack, described in patient.place.site_map.stacks.items():
        for kind, place in described.places.items():
            there = [s for s in patient.fired if (s.location.stack, s.location.kind) == (stack, kind)]
            if place.home is None or not there:
                continue
            seen = there[(len(there) - 1) // 2]
            for part in (seen.add(), seen.ablate()) if place.home.exact else (seen.add(),):
                hooked = patient.rows(part)
                try:
                    with bake(patient.place, part):
                        pairs.append((patient.rows(), hooked))
                except NotBakeable as error:
                    reasons.append(str(error))
    if not pairs:
        raise _NotApplicable(reasons[0] if reasons else "The site map names no weights to fold into.")
    passed, value, advice = patient.compare(
        pairs, "The map's `home` is not what writes that site (policies/site_maps). Do not bake this model."
    )
    effect = min(difference(hooked, patient.plain) for _, hooked in pairs)
    return passed, f"{value} in {len(pairs)} foldings, each a change of at least {effect:.1e}", advice


def _cache(patient: _Patient) -> Finding:
    batch, n_new = patient.batch, 2
    if not isinstance(batch, Mapping) or "input_ids" not in batch or "past_key_values" not in patient.arguments:
        raise _NotApplicable("The model has no key-value cache, or was not given input_ids.")
    if batch["input_ids"].shape[1] <= n_new + 1:
        raise _NotApplicable(f"The inputs have {batch['input_ids'].shape[1]} tokens; pass longer ones.")
    early = patient.layers[len(patient.layers) // 3]
    parts = (early.ablate(), patient.middle.add())
    plain = _token_by_token(patient, n_new)
    if difference(plain, patient.plain) > patient.tolerance:
        advice = "The model's cache gives other outputs than a full pass without steering too: see the model."
        return False, f"largest difference {difference(plain, patient.plain):.1e} unsteered", advice
    pairs = [(_token_by_token(patient, n_new, *parts), patient.rows(*parts))]
    return patient.compare(pairs, "Steered keys and values do not stay in the cache: do not steer while generating.")


def _token_by_token(patient: _Patient, n_new: int, *parts: Intervention) -> list[torch.Tensor]:
    """Outputs of a prefill of all but the last tokens, which then follow one at a time."""
    batch = patient.batch
    assert isinstance(batch, Mapping)
    B, N = batch["input_ids"].shape
    along = {key for key, value in batch.items() if torch.is_tensor(value) and value.shape == (B, N)}
    once = {key for key in batch if key not in along}  # images are part of the prompt
    outputs = []
    with steer(patient.place, *parts):
        prompt = {key: batch[key][:, : N - n_new] if key in along else batch[key] for key in batch}
        out = patient.call(prompt, use_cache=True)
        outputs.append(_tensor_of(out))
        for t in range(N - n_new, N):
            if getattr(out, "past_key_values", None) is None:
                raise _NotApplicable("The model returns no key-value cache.")
            now = {key: batch[key][:, t : t + 1] for key in along - {"attention_mask"}}
            now |= {"attention_mask": batch["attention_mask"][:, : t + 1]} if "attention_mask" in along else {}
            now |= {key: batch[key] for key in once if not torch.is_tensor(batch[key])}
            out = patient.call(now, use_cache=True, past_key_values=out.past_key_values)
            outputs.append(_tensor_of(out))
    return _split(torch.cat(outputs, dim=1), batch)


class _Planted(Exception):
    """Raised on purpose inside a steered block."""


def _restored(patient: _Patient) -> Finding:
    try:
        with steer(patient.place, *(seen.ablate() for seen in patient.fired)):
            patient.call(patient.batch)
            raise _Planted
    except _Planted:
        pass
    wrong = [] if _same(patient.rows(), patient.plain) else ["outputs"]
    if list(map(id, patient.place.module.parameters())) != list(map(id, patient.parameters)):
        wrong.append("parameters")
    if patient.count_hooks() != patient.n_hooks:
        wrong.append(f"hooks ({patient.n_hooks} before, {patient.count_hooks()} now)")
    return not wrong, "as at the start" if not wrong else f"changed: {', '.join(wrong)}", "Reload the model; report it."


def _memory(patient: _Patient) -> Finding:
    if patient.n_calls == 0:
        raise _NotApplicable("Left out: n_calls is 0.")
    batch: Batch = _pick(patient.batch, [0])
    if isinstance(batch, Mapping) and set(batch) <= {"input_ids", "attention_mask", "position_ids"}:
        batch = {"input_ids": batch["input_ids"][:, -1:]}
    parts = (patient.middle.add(), patient.layers[-1].ablate())

    def run(n_calls: int) -> None:
        for start in range(0, n_calls, _CALLS_PER_BLOCK):
            with steer(patient.place, *parts) as steering:
                for i in range(start, min(start + _CALLS_PER_BLOCK, n_calls)):
                    steering.set_strength(_DOSE * (1 + i % 3))
                    patient.call(batch)

    run(_WARM_UP)
    tensors, cuda, rss = _in_use()
    run(patient.n_calls)
    tensors_after, cuda_after, rss_after = _in_use()
    value = f"{tensors_after - tensors:+d} tensors"
    if cuda_after or cuda:
        value += f", {(cuda_after - cuda) / _MIB:+.1f} MiB on the GPU"
    grown = 0 if rss is None or rss_after is None else rss_after - rss
    value += f", {grown / _MIB:+.1f} MiB resident" if rss is not None else ", resident memory unknown (no psutil)"
    passed = tensors_after <= tensors and cuda_after <= cuda and grown < _RSS_SLACK
    advice = "Something keeps tensors of every call. Look first for lists that the model itself appends to."
    return passed, f"{value} after {patient.n_calls} calls", advice


def _in_use() -> tuple[int, int, int | None]:
    """Live tensors, bytes allocated on the GPU, resident bytes of the process."""
    gc.collect()
    tensors = sum(issubclass(type(entry), torch.Tensor) for entry in gc.get_objects())
    cuda = torch.cuda.memory_allocated() if torch.cuda.is_available() else 0
    try:
        import psutil
    except ImportError:
        return tensors, cuda, None
    return tensors, cuda, psutil.Process().memory_info().rss
