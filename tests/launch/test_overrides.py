"""Settings of experiments changed from the command line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from launch.experiments.overrides import with_fields
from policies.errors import BadInput


@dataclass(frozen=True)
class Settings:
    policy: str = "tiny-vla"
    layers: tuple[int, ...] = (0, 1)
    concepts: tuple[tuple[str, int], ...] = (("slowly", -1),)
    margin: float = 0.05
    episodes: int = 3
    load: Mapping[str, Any] = field(default_factory=dict)
    inner: Any = None


def test_fields_take_values_in_yaml() -> None:
    found = with_fields(
        Settings(),
        [
            "policy=lerobot:user/name",
            "layers=[3, 6]",
            "concepts=[[up, 1]]",
            "margin=1",
            "load={preset: libero, clip_actions: [-1, 1]}",
        ],
    )
    assert found == Settings(
        "lerobot:user/name", (3, 6), (("up", 1),), 1.0, 3, {"preset": "libero", "clip_actions": (-1, 1)}
    )
    assert isinstance(found.margin, float)
    assert with_fields(Settings(), []) == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("policy", "expected name=value"),
        ("polcy=x", "no setting 'polcy'; did you mean 'policy'"),
        ("inner=3", "no setting 'inner'"),
        ("layers=[1", "not YAML"),
        ("layers=3", "got 3, a int; it stands at (0, 1), a tuple"),
        ("layers=[a]", "got 'a', a str"),
        ("episodes=true", "got True, a bool"),
        ("episodes=1.5", "got 1.5, a float"),
        ("concepts=[[up]]", "expected 2 entries as in ('slowly', -1)"),
        ("margin=yes", "got True, a bool"),
    ],
)
def test_what_does_not_fit_is_told(text: str, told: str) -> None:
    with pytest.raises(BadInput, match=re.escape(told)):
        with_fields(Settings(), [text])
