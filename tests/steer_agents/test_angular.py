"""Rotation in a plane, absolute and relative: closed forms over all angles, norms kept, and where the two differ."""

from __future__ import annotations

import math

import pytest
import torch

import steer_agents as sa
from policies.errors import BadInput, NonFinite
from steer_agents.angular import rotate_to
from steer_agents.direction import Direction
from steer_agents.interventions import norm_kept_add, rotate
from steer_agents.sites import Site

KEY, SITE = "s.0.block_output", Site("block_output", layer=0)
ANGLES = [math.radians(10 * i) for i in range(37)]
PLANE = Direction.from_raw({KEY: torch.randn(2, 32, generator=torch.Generator().manual_seed(0))}, SITE)
ROWS = PLANE.vectors[KEY]
H = torch.randn(2, 50, 32, generator=torch.Generator().manual_seed(1)) * 7
ONE = torch.tensor(1.0)


def in_plane(h: torch.Tensor) -> torch.Tensor:
    return (h @ ROWS.T) @ ROWS


@pytest.mark.parametrize("angle", ANGLES)
def test_both_keep_norms_and_what_is_outside_of_the_plane(angle: float) -> None:
    for turned in (
        rotate(H, ROWS, torch.tensor(angle)),
        rotate_to(H, ROWS, ONE, angle),
        rotate_to(H, ROWS, 0.4 * ONE, angle),
    ):
        assert float((turned.norm(dim=-1) / H.norm(dim=-1) - 1).abs().max()) <= 1e-5
        torch.testing.assert_close(turned - in_plane(turned), H - in_plane(H), atol=1e-5, rtol=0)


@pytest.mark.parametrize("angle", ANGLES)
def test_strength_1_is_the_papers_absolute_edit_and_idempotent(angle: float) -> None:
    target = math.cos(angle) * ROWS[0] + math.sin(angle) * ROWS[1]
    expected = H - in_plane(H) + in_plane(H).norm(dim=-1, keepdim=True) * target
    turned = rotate_to(H, ROWS, ONE, angle)
    torch.testing.assert_close(turned, expected, atol=2e-5, rtol=0)
    torch.testing.assert_close(rotate_to(turned, ROWS, ONE, angle), turned, atol=2e-5, rtol=0)
    ours, theirs = (one.double() for one in (turned, H))
    gram = [h[0] @ h[0].T for h in (ours, theirs)]
    assert float((gram[0] - gram[1]).abs().max()) > 1.0  # all tokens at one angle: no isometry


def test_relative_turns_compose_and_are_isometries() -> None:
    for a, b in ((0.3, 1.9), (-2.0, 0.7), (3.0, 3.0)):
        both = rotate(rotate(H, ROWS, torch.tensor(a)), ROWS, torch.tensor(b))
        torch.testing.assert_close(both, rotate(H, ROWS, torch.tensor(a + b)), atol=2e-5, rtol=0)
    assert torch.equal(rotate(H, ROWS, torch.tensor(0.0)), H)
    turned = rotate(H, ROWS, torch.tensor(1.1))[0].double()
    torch.testing.assert_close(turned @ turned.T, H[0].double() @ H[0].double().T, atol=1e-2, rtol=1e-5)


def test_a_share_of_the_way_is_the_share_of_the_shortest_arc() -> None:
    for phi, theta, expected in (
        (0.5, 1.5, 1.0),
        (3.0, -3.0, 2 * math.pi - 3 - 0.141592653589793 + 0.0),
        (-0.5, 0.5, 0.0),
    ):
        h = (math.cos(phi) * ROWS[0] + math.sin(phi) * ROWS[1])[None, None] * 2
        x, y = (rotate_to(h, ROWS, 0.5 * ONE, theta) @ ROWS.T)[0, 0].tolist()
        if phi == 3.0:
            expected = math.pi  # over pi, not through 0
        assert abs(math.remainder(math.atan2(y, x) - expected, 2 * math.pi)) <= 1e-5


def test_the_adaptive_form_leaves_what_points_away_bit_for_bit() -> None:
    turned = rotate_to(H, ROWS, ONE, 2.0, adaptive=True)
    away = H @ ROWS[0] <= 0
    assert 0 < int(away.sum()) < away.numel()
    assert torch.equal(turned[away], H[away])
    torch.testing.assert_close(turned[~away], rotate_to(H, ROWS, ONE, 2.0)[~away])


def test_a_plane_that_is_not_orthonormal_cannot_be_given() -> None:
    tilted = torch.eye(2, 8)
    tilted[1, 0] = 0.3
    with pytest.raises(BadInput, match="orthonormal"):
        Direction({KEY: tilted}, SITE)
    gram = ROWS.double() @ ROWS.double().T
    assert abs(float(gram[0, 1])) <= 1e-6
    with pytest.raises(NonFinite, match="angle"):
        sa.RotateTo(PLANE, angle=math.nan)
    assert sa.RotateTo(PLANE, angle=1.0).describe()["angle"] == 1.0


def test_the_norm_is_restored_per_token_and_not_over_the_sequence() -> None:
    """The released code of one paper rescales along the token axis, which is another operator."""
    v = ROWS[0]
    moved = norm_kept_add(H, v, 10 * ONE)
    assert float((moved.norm(dim=-1) / H.norm(dim=-1) - 1).abs().max()) <= 1e-5
    pushed = H + 10 * v
    trap = pushed * (H.norm(dim=1, keepdim=True) / pushed.norm(dim=1, keepdim=True))
    assert float((trap.norm(dim=-1) / H.norm(dim=-1) - 1).abs().max()) > 0.1
    unit = H / H.norm(dim=-1, keepdim=True)  # the relative form: norm(h / ||h|| + l v) ||h||, here with l = 10 / ||h||
    lam = 10 / H.norm(dim=-1, keepdim=True)
    relative = torch.nn.functional.normalize(unit + lam * v, dim=-1) * H.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(moved, relative, atol=1e-4, rtol=0)
    assert ((moved @ v) / moved.norm(dim=-1) >= (H @ v) / H.norm(dim=-1) - 1e-6).all()
