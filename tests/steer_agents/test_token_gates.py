"""Three tiers of gates: each edits a subset of what the one before edits, and a row stays open while its cache lives."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from steering_parts import absolute, direction_at
from tiny_models import inputs, outputs, tiny

import steer_agents as sa
from policies.base import Context
from policies.errors import BadInput
from steer_agents.gates import ALWAYS, Gate
from steer_agents.sites import Site, steerable

SITE = Site("block_output", layer=1)
KEY = "language.1.block_output"


def edited(model: Any, gate: Gate, batch: Any) -> tuple[torch.Tensor, float]:
    """(B N,) which tokens were edited, and the energy of the edit."""
    before = sa.rows(steerable(model), [batch], SITE)[KEY]
    with sa.steer(model, sa.Add(direction_at(model, SITE), strength=absolute(1.0), gate=gate)):
        after = sa.rows(steerable(model), [batch], SITE)[KEY]
        outputs(model, batch)
    return (before != after).any(-1), float((after - before).square().sum())


def probe(model: Any, share: float) -> sa.Probe:
    """Fires at this share of the tokens."""
    w = direction_at(model, SITE, seed=9).vector(KEY)
    along = sa.rows(steerable(model), [inputs("llama", 8)], SITE)[KEY] @ w
    return sa.Probe(w, -float(along.quantile(1 - share)))


def test_token_is_within_input_is_within_always() -> None:
    model, batch = tiny("llama"), inputs("llama", 8)
    token = probe(model, 0.06)
    found = [edited(model, gate, batch) for gate in (ALWAYS, sa.AnyToken(token), token)]
    (always, all_energy), (whole, input_energy), (single, token_energy) = found
    assert always.all()
    assert 0 < int(single.sum()) < int(whole.sum()) < len(always)
    assert (whole | ~single).all()
    rows = whole.reshape(8, -1)
    assert torch.equal(rows.any(1), rows.all(1))  # whole inputs
    assert torch.equal(rows.any(1), single.reshape(8, -1).any(1))
    assert token_energy <= input_energy <= all_energy


def test_nothing_over_the_threshold_is_the_identity_bit_for_bit() -> None:
    model, batch = tiny("llama"), inputs("llama", 8)
    never = sa.Probe(direction_at(model, SITE).vector(KEY), -1e6)
    plain = outputs(model, batch)
    for gate in (never, sa.AnyToken(never)):
        with sa.steer(model, sa.Add(direction_at(model, SITE), strength=absolute(3.0), gate=gate)):
            assert torch.equal(outputs(model, batch), plain)


def test_padding_does_not_open_an_input() -> None:
    model = tiny("llama")
    ids = inputs("llama", 2)["input_ids"]
    mask = torch.ones_like(ids)
    mask[:, -2:] = 0
    w = direction_at(model, SITE).vector(KEY)
    batch = {"input_ids": ids, "attention_mask": mask}
    along = torch.stack(list(sa.rows(steerable(model), [{"input_ids": ids}], SITE)[KEY] @ w)).reshape(2, -1)
    bound = float(along[:, :-2].max())
    if float(along[:, -2:].max()) <= bound:
        w, bound = -w, float((-along)[:, :-2].max())
    gate = sa.AnyToken(sa.Probe(w, -bound - 1e-4))
    with sa.steer(model, sa.Add(direction_at(model, SITE), strength=absolute(3.0), gate=gate)):
        steered = outputs(model, batch)
    assert torch.equal(steered[:, :-2], outputs(model, batch)[:, :-2])


def test_a_row_stays_open_while_it_is_decoded_and_a_new_prompt_starts_closed() -> None:
    model = tiny("llama")
    gate = sa.AnyToken(sa.Tokens(sa.at((5,))))
    seen: list[list[float]] = []
    first = torch.tensor([[3, 5, 7], [3, 4, 7]])
    with sa.steer(model, sa.Add(direction_at(model, SITE), strength=absolute(1.0), gate=gate)), torch.no_grad():
        out = model(input_ids=first, use_cache=True)
        seen.append(gate._memory[1].tolist())  # type: ignore[attr-defined]
        out = model(input_ids=torch.tensor([[8], [5]]), past_key_values=out.past_key_values, use_cache=True)
        seen.append(gate._memory[1].tolist())  # type: ignore[attr-defined]
        model(input_ids=torch.tensor([[8], [8]]), past_key_values=out.past_key_values, use_cache=True)
        seen.append(gate._memory[1].tolist())  # type: ignore[attr-defined]
        model(input_ids=torch.tensor([[3, 4, 7]]), use_cache=False)
        seen.append(gate._memory[1].tolist())  # type: ignore[attr-defined]
    assert seen == [[1, 0], [1, 1], [1, 1], [0]]


def test_what_a_gate_remembers_does_not_change_what_it_is() -> None:
    model = tiny("llama")
    gate = sa.AnyToken(sa.Tokens(sa.at((5,))))
    told = gate.describe()
    with sa.steer(model, sa.Add(direction_at(model, SITE), strength=absolute(1.0), gate=gate)), torch.no_grad():
        model(input_ids=torch.tensor([[3, 5, 7]]))
    assert gate.describe() == told == {"gate": "AnyToken", "of": gate.gate.describe()}


def test_a_gate_without_tokens_is_refused() -> None:
    with pytest.raises(BadInput, match=r"AnyToken\(Always\): expected a gate with one weight per token"):
        sa.AnyToken(ALWAYS).weight(Context(), None, None)
