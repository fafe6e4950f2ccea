"""Image contrast: seeing minus blind, on policies whose answer is known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scene_parts import KEY, SITE, D, Seen, vla, vla_scenes

import steer_agents as sa
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents.finding.images import blanked


class Eyes(Seen):
    """Reads (mean red, green, blue of "left" and of "right", 1, x): blanking moves known coordinates only."""

    def encode(self, inputs: Sequence[Any]) -> list[Any]:
        rows = []
        for entry in inputs:
            seen = [float(v) for key in ("left", "right") for v in entry["pixels"][key].mean((0, 1))]
            rows.append(torch.tensor([*seen, 1.0, float(entry["x"])]))
        return [{"x": torch.stack(rows)}]


def scenes(n: int = 6) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    pictures = [{key: rng.integers(0, 200, (4, 4, 3), dtype=np.uint8) for key in ("left", "right")} for _ in range(n)]
    return [{"pixels": pair, "x": i} for i, pair in enumerate(pictures)]


def test_it_is_what_the_pictures_add_and_nothing_else() -> None:
    rows = scenes()
    found = sa.find(Eyes(), "image-contrast", scenes=rows, site=SITE, batch_size=4)
    colours = [np.concatenate([row["pixels"][key].mean((0, 1)) for key in ("left", "right")]) for row in rows]
    expected = torch.tensor([*np.mean(colours, axis=0), 0.0, 0.0], dtype=torch.float32)
    torch.testing.assert_close(found.vector(KEY) * found.statistic(KEY, "raw_norm"), expected)
    assert found.vector(KEY)[6:].tolist() == [0.0, 0.0]
    assert found.info["blank"] == "black"
    assert found.info["fit"][KEY]["half_cosine"] > 0.9
    one = sa.find(Eyes(), "image-contrast", scenes=rows, site=SITE, cameras=["right"])
    assert one.vector(KEY)[:3].tolist() == [0.0, 0.0, 0.0]
    assert float(one.vector(KEY)[3:6].min()) > 0


def test_pictures_of_their_mean_colour_say_nothing_but_their_colour() -> None:
    (row,) = scenes(1)
    mean = blanked(row, "mean")
    for key, picture in row["pixels"].items():
        blank = mean["pixels"][key]
        assert (blank.shape, blank.dtype) == (picture.shape, picture.dtype)
        assert (blank == blank[0, 0]).all()
        np.testing.assert_allclose(blank[0, 0], picture.mean((0, 1)), atol=0.5)
    black = blanked(row, "black", ["left"])
    assert not black["pixels"]["left"].any()
    assert black["pixels"]["right"] is row["pixels"]["right"]
    assert row["pixels"]["left"].any()  # the caller's is not touched


def test_a_policy_of_pictures_and_words_takes_it_and_can_be_steered_by_it() -> None:
    policy, rows = vla(), vla_scenes()
    found = sa.find(policy, "image-contrast", scenes=rows, blank="mean")
    key = "language.2.block_output"
    (seen,), (blind,) = policy.encode(rows), policy.encode([blanked(row, "mean") for row in rows])
    site = sa.Site(layer=2, tokens=sa.token_class("action"))
    policy.encode(rows)
    h = [sa.rows(sa.steerable(policy), [batch], site)[key].double().mean(0) for batch in (seen, blind)]
    torch.testing.assert_close(
        (found.vector(key) * found.statistic(key, "raw_norm")).double(), h[0] - h[1], atol=1e-5, rtol=1e-3
    )
    with torch.no_grad():
        policy.encode(rows)
        plain = policy.module(**seen).logits
        with sa.steer(policy, sa.Add(found, strength=0.5)):
            assert float((policy.module(**seen).logits - plain).abs().max()) > 1e-3


def test_what_has_no_pictures_is_refused() -> None:
    rows = scenes(2)
    for changed, options, message in (
        ([{"x": 1}], {}, r"a scene has no 'pixels', it has \['x'\]"),
        (rows, {"blank": "blak"}, "blank 'blak' is unknown; did you mean 'black'"),
        (rows, {"cameras": ["lift"]}, r"camera 'lift' is not in the scene; did you mean 'left'\? Allowed: left, right"),
        (rows, {"cameras": []}, "cameras is empty"),
        ([{"pixels": np.zeros((4, 4, 3), np.uint8), "x": 1}], {"cameras": ["left"]}, "one picture without a name"),
        ([{"pixels": {"left": np.zeros(3)}, "x": 1}], {}, r"expected pictures of shape \(H, W, 3\), got \(3,\)"),
        ([blanked(row, "black") for row in rows], {}, "the same without pictures; they are black already"),
        ([], {}, "got no scenes"),
    ):
        with pytest.raises(BadInput, match=message):
            sa.find(Eyes(), "image-contrast", scenes=changed, site=SITE, **options)
    with pytest.raises(BadInput, match="bare torch module"):
        sa.find(MLP(MLPConfig(D, 2, (4,))), "image-contrast", scenes=rows)
