"""VISTA: the push keeps norms and always turns towards the picture; early logits go through the final norm."""

from __future__ import annotations

import pytest
import tiny_models
import torch
from steering_parts import direction_at

import steer_agents as sa
from policies.errors import BadInput
from steer_agents.sites import Site, steerable
from steer_agents.vista import VisualAdd, departure, vista, visual_add

MLPS = Site("mlp_output", layer=(0, 1))


def cosine(h: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(h, v.expand_as(h), dim=-1)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("strength", [0.01, 0.17, 3.0])
def test_norms_are_kept_and_every_token_turns_towards_the_direction(strength: float) -> None:
    h, v = normal(50, 7, 16) * 5, torch.nn.functional.normalize(normal(16, seed=1), dim=0)
    s = torch.tensor(strength, dtype=torch.float64)
    moved = visual_add(h, v, s)
    torch.testing.assert_close(moved.norm(dim=-1), h.norm(dim=-1), atol=1e-12, rtol=1e-12)
    assert bool((cosine(moved, v) >= cosine(h, v)).all())
    unit = h / h.norm(dim=-1, keepdim=True)
    # s(h), worked out backwards from the part that v does not touch: rest scales by 1 / ||u||, along v it is (cos + s lambda) / ||u||
    rest = lambda x: (x - (x @ v)[..., None] * v).norm(dim=-1)  # noqa: E731
    length = rest(unit) / rest(moved / h.norm(dim=-1, keepdim=True))
    urgency = ((moved @ v) / h.norm(dim=-1) * length - unit @ v) / strength
    torch.testing.assert_close(urgency, 1 + (-(unit @ v)).clamp(min=0), atol=1e-8, rtol=1e-8)
    assert bool(((urgency > 1 - 1e-8) & (urgency < 2 + 1e-8)).all())


def test_nothing_seen_is_nothing_done() -> None:
    h, s = normal(3, 4, 8), torch.tensor(0.5, dtype=torch.float64)
    assert torch.equal(visual_add(h, torch.zeros(8, dtype=torch.float64), s), h)
    v = torch.eye(8, dtype=torch.float64)[0]
    assert torch.equal(visual_add(torch.zeros_like(h), v, s), torch.zeros_like(h))
    assert torch.equal(visual_add(-h.norm() * v, v, s * 1.0), -h.norm() * v)  # u = 0: there is no way to turn


def test_in_a_linear_network_the_plain_push_is_guidance_of_the_output_and_restoring_norms_departs_from_it() -> None:
    W, seen, blind = normal(5, 16, seed=2), normal(40, 16) + 2 * normal(16, seed=3), normal(40, 16, seed=4)
    difference = (seen - blind).mean(0)
    v, s = difference / difference.norm(), torch.tensor(0.2, dtype=torch.float64)
    guidance = (seen @ W.T - blind @ W.T).mean(0)
    plain = (seen + s * v) @ W.T - seen @ W.T
    assert float(cosine(plain, guidance).min()) > 0.999
    kept = visual_add(seen, v, s) @ W.T - seen @ W.T
    assert float(cosine(kept, guidance).min()) < 0.999
    apart = departure(seen, v, s)
    torch.testing.assert_close(
        apart, (visual_add(seen, v, s) - seen) @ v / (visual_add(seen, v, s) - seen).norm(dim=-1)
    )
    assert 0 < float(apart.min()) <= float(apart.max()) < 1


def test_the_early_logits_go_through_the_final_norm() -> None:
    model, batch = tiny_models.tiny("llama"), tiny_models.inputs("llama")
    direction = direction_at(model, MLPS)
    push, mix = vista(direction, push=0.17, mix=0.3, layers=(1, 2))
    place = steerable(model)
    with sa.steer(model, push):
        final = tiny_models.outputs(model, batch)
        hidden = sa.rows(place, [batch], Site(layer=(1, 2)))
    with torch.no_grad():
        early = torch.stack([model.lm_head(model.model.norm(h)).reshape(3, 6, -1) for h in hidden.values()]).mean(0)
        released = torch.stack([model.lm_head(h).reshape(3, 6, -1) for h in hidden.values()]).mean(0)
    with sa.steer(model, push, mix):
        got = tiny_models.outputs(model, batch)
    torch.testing.assert_close(got, 0.7 * final + 0.3 * early, atol=1e-4, rtol=1e-4)
    assert float((got - 0.7 * final - 0.3 * released).abs().max()) > 0.05
    assert vista(direction) == (VisualAdd(direction, strength=0.1, name="vista-push"),)


def test_what_makes_no_sense_is_refused() -> None:
    model = tiny_models.tiny("llama")
    with pytest.raises(BadInput, match="vista pushes at 'mlp_output', got 'block_output'"):
        vista(direction_at(model, Site(layer=0)))
    with pytest.raises(BadInput, match=r"got -1 and 0\.3"):
        vista(direction_at(model, MLPS), push=-1)
    with pytest.raises(BadInput, match=r"got 0\.1 and 2"):
        vista(direction_at(model, MLPS), mix=2)
