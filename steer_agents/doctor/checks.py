"""The checks of the doctor, one function each."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping

import torch

from policies.errors import NotBakeable
from steer_agents.baking import bake
from steer_agents.capture import Batch
from steer_agents.doctor.inputs import pick, rows_of, tensor_of
from steer_agents.doctor.patient import DOSE, Finding, NotApplicable, Patient, difference, identical
from steer_agents.intervention import Intervention
from steer_agents.steerer import steer

_MIB = 2**20
_RSS_SLACK = 32 * _MIB  # allocators keep pages; what is left behind by every one of many calls is more
_WARM_UP = 20
_CALLS_PER_BLOCK = 10


def examinations(patient: Patient) -> dict[str, tuple[str, Callable[[], Finding]]]:
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


def _same_output(patient: Patient) -> Finding:
    same = identical(patient.plain, patient.rows())
    value = "bit-identical" if same else f"largest difference {difference(patient.plain, patient.rows()):.1e}"
    return same, value, "The model draws random numbers. Call model.eval(), or fix its seed inside forward."


def _sites_fire(patient: Patient, stack: str) -> Finding:
    seen = patient.seen(stack)
    silent = [entry.location for entry in seen if entry.calls == 0]
    once = not patient.place.site_map.stacks[stack].repeated
    often = [entry.location for entry in seen if entry.calls > 1 and once]
    if len(silent) == len(seen) and stack != patient.place.site_map.default_stack and not patient.given:
        raise NotApplicable("The made-up inputs do not reach this stack; pass inputs with an image to examine it.")
    if silent:
        named = ", ".join(f"{location.key} ({location.path})" for location in silent[:3])
        advice = f"Not called: {named}{' ...' if len(silent) > 3 else ''}. Correct the site map (policies/site_maps)."
    else:
        named = ", ".join(location.path for location in often[:3])
        advice = f"Called several times per pass, so that edits would add up: {named}."
    right = len(seen) - len(silent) - len(often)
    return not silent and not often, f"{right} of {len(seen)} sites", advice


def _acts(patient: Patient) -> Finding:
    dead = [seen.location.path for seen in patient.layers if identical(patient.rows(seen.add()), patient.plain)]
    n = len(patient.layers)
    return not dead, f"{n - len(dead)} of {n} layers", f"What these give is not used: {', '.join(dead[:5])}."


def _zero_strength(patient: Patient) -> Finding:
    worst = 0.0
    for parts in ([seen.add(0.0) for seen in patient.fired], [seen.ablate(0.0) for seen in patient.fired]):
        rows = patient.rows(*parts)
        worst = max(worst, 0.0 if identical(rows, patient.plain) else difference(rows, patient.plain))
        if not identical(rows, patient.plain):
            return False, f"largest difference {worst:.1e}", "Rule out 'same input, same output' first; else report it."
    return True, f"bit-identical at {len(patient.fired)} sites", ""


def _batch_mates(patient: Patient) -> Finding:
    only = torch.tensor([0.0, 1.0, 0.0])
    seen = patient.middle
    for part in (seen.add(only * DOSE), seen.ablate(only)):
        rows = patient.rows(part)
        touched = [i for i in (0, 2) if not torch.equal(rows[i], patient.plain[i])]
        if touched:
            worst = max(difference(rows[i : i + 1], patient.plain[i : i + 1]) for i in touched)
            advice = "The model mixes rows (batch statistics, in-place writes): steer one row per batch."
            return False, f"rows {touched} changed by {worst:.1e}", advice
        if torch.equal(rows[1], patient.plain[1]):
            return False, "row 1 did not change", "See 'steering acts'."
    return True, "rows 0 and 2 bit-identical", ""


def _one_by_one(patient: Patient) -> Finding:
    doses, seen, pairs = (0.0, DOSE, 2 * DOSE), patient.middle, []
    for make in (seen.add, seen.ablate):
        together = patient.rows(make(torch.tensor(doses)))
        alone = [patient.rows(make(dose), batch=pick(patient.batch, [i]))[0] for i, dose in enumerate(doses)]
        pairs.append((together, alone))
    plain = [patient.rows(batch=pick(patient.batch, [i]))[0] for i in range(3)]
    if difference(plain, patient.plain) > patient.tolerance:
        return *patient.compare(pairs, "")[:2], "Rows differ alone and in a batch without steering too: see the model."
    return patient.compare(pairs, "Rows are steered differently alone and in a batch: report it.")


def _baked(patient: Patient) -> Finding:
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
        raise NotApplicable(reasons[0] if reasons else "The site map names no weights to fold into.")
    passed, value, advice = patient.compare(
        pairs, "The map's `home` is not what writes that site (policies/site_maps). Do not bake this model."
    )
    effect = min(difference(hooked, patient.plain) for _, hooked in pairs)
    return passed, f"{value} in {len(pairs)} foldings, each a change of at least {effect:.1e}", advice


def _cache(patient: Patient) -> Finding:
    batch, n_new = patient.batch, 2
    if not isinstance(batch, Mapping) or "input_ids" not in batch or "past_key_values" not in patient.arguments:
        raise NotApplicable("The model has no key-value cache, or was not given input_ids.")
    if batch["input_ids"].shape[1] <= n_new + 1:
        raise NotApplicable(f"The inputs have {batch['input_ids'].shape[1]} tokens; pass longer ones.")
    early = patient.layers[len(patient.layers) // 3]
    parts = (early.ablate(), patient.middle.add())
    plain = _token_by_token(patient, n_new)
    if difference(plain, patient.plain) > patient.tolerance:
        advice = "The model's cache gives other outputs than a full pass without steering too: see the model."
        return False, f"largest difference {difference(plain, patient.plain):.1e} unsteered", advice
    pairs = [(_token_by_token(patient, n_new, *parts), patient.rows(*parts))]
    return patient.compare(pairs, "Steered keys and values do not stay in the cache: do not steer while generating.")


def _token_by_token(patient: Patient, n_new: int, *parts: Intervention) -> list[torch.Tensor]:
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
        outputs.append(tensor_of(out))
        for t in range(N - n_new, N):
            if getattr(out, "past_key_values", None) is None:
                raise NotApplicable("The model returns no key-value cache.")
            now = {key: batch[key][:, t : t + 1] for key in along - {"attention_mask"}}
            now |= {"attention_mask": batch["attention_mask"][:, : t + 1]} if "attention_mask" in along else {}
            now |= {key: batch[key] for key in once if not torch.is_tensor(batch[key])}
            out = patient.call(now, use_cache=True, past_key_values=out.past_key_values)
            outputs.append(tensor_of(out))
    return rows_of(torch.cat(outputs, dim=1), batch)


class _Planted(Exception):
    """Raised on purpose inside a steered block."""


def _restored(patient: Patient) -> Finding:
    try:
        with steer(patient.place, *(seen.ablate() for seen in patient.fired)):
            patient.call(patient.batch)
            raise _Planted
    except _Planted:
        pass
    wrong = [] if identical(patient.rows(), patient.plain) else ["outputs"]
    if list(map(id, patient.place.module.parameters())) != list(map(id, patient.parameters)):
        wrong.append("parameters")
    if patient.count_hooks() != patient.n_hooks:
        wrong.append(f"hooks ({patient.n_hooks} before, {patient.count_hooks()} now)")
    return not wrong, "as at the start" if not wrong else f"changed: {', '.join(wrong)}", "Reload the model; report it."


def _memory(patient: Patient) -> Finding:
    if patient.n_calls == 0:
        raise NotApplicable("Left out: n_calls is 0.")
    batch: Batch = pick(patient.batch, [0])
    if isinstance(batch, Mapping) and set(batch) <= {"input_ids", "attention_mask", "position_ids"}:
        batch = {"input_ids": batch["input_ids"][:, -1:]}
    parts = (patient.middle.add(), patient.layers[-1].ablate())

    def run(n_calls: int) -> None:
        for start in range(0, n_calls, _CALLS_PER_BLOCK):
            with steer(patient.place, *parts) as steering:
                for i in range(start, min(start + _CALLS_PER_BLOCK, n_calls)):
                    steering.set_strength(DOSE * (1 + i % 3))
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
