"""Prompt contrasts on a policy whose answer is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_models
import torch

import steer_agents as sa
from policies.errors import BadInput
from policies.tiny_vla import TinyVLAPolicy


def scenes(n: int = 5) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    return [
        {
            "pixels": {key: rng.integers(0, 256, (16, 16, 3), dtype=np.uint8) for key in ("image", "image2")},
            "agent_pos": rng.normal(size=8).astype(np.float32),
            "instruction": ("put block", "put red block", "put the block")[i % 3],
        }
        for i in range(n)
    ]


def policy() -> TinyVLAPolicy:
    return TinyVLAPolicy(tiny_models.tiny("tiny-vla"))


def test_it_is_the_mean_paired_difference_at_the_tokens_named() -> None:
    one, rows = policy(), scenes()
    found = sa.find(one, "prompt-contrast", scenes=rows, positive="slowly", batch_size=2)
    assert found.site.tokens == sa.token_class("action")
    assert found.info["n_scenes"] == 5
    blocks: list[torch.Tensor] = []
    handle = one.network.layers[1].register_forward_hook(lambda *call: blocks.append(call[2].detach()))
    for text in ("slowly", ""):
        for row in rows:
            (batch,) = one.encode([{**row, "instruction": f"{row['instruction']} {text}".strip()}])
            with torch.no_grad():
                one.module(**batch)
    handle.remove()
    actions = torch.stack([block[0, -4:].mean(0) for block in blocks])
    expected = (actions[:5] - actions[5:]).mean(0)
    key = "language.1.block_output"
    torch.testing.assert_close(found.vectors[key][0] * found.statistic(key, "raw_norm"), expected, atol=1e-4, rtol=1e-3)


def test_synonyms_are_averaged_and_swapping_sides_turns_it_around() -> None:
    one, rows = policy(), scenes()
    there = sa.find(one, "prompt-contrast", scenes=rows, positive=["slowly", "down"], negative="the")
    back = sa.find(one, "prompt-contrast", scenes=rows, positive="the", negative=["slowly", "down"])
    for key, vector in there.vectors.items():
        torch.testing.assert_close(vector, -back.vectors[key], atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scenes": []}, "expected scenes with an entry 'instruction', got 0"),
        ({"scenes": [{"agent_pos": np.zeros(8)}]}, "'instruction'"),
        ({"positive": ""}, "must differ"),
        ({"positive": []}, "must differ and not be empty"),
        ({"positive": "loudly"}, "'loudly' is unknown"),
    ],
)
def test_bad_input_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        sa.find(policy(), "prompt-contrast", **{"scenes": scenes(2), "positive": "slowly", **options})
    with pytest.raises(BadInput, match="bare torch module"):
        sa.find(tiny_models.tiny("tiny-vla"), "prompt-contrast", scenes=scenes(1), positive="slowly")
