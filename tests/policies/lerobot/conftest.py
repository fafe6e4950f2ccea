"""Tiny checkpoints of every LeRobot policy type, written once, and the policies loaded from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny_lerobot

import policies


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lerobot")
    tiny_lerobot.helpers(folder)
    return folder


@pytest.fixture(scope="session")
def load(root: Path) -> Callable[..., Any]:
    """Load a tiny policy, writing its checkpoint when it is first asked for."""

    def loaded(kind: str, **options: Any) -> Any:
        folder = root / kind
        if not folder.exists():
            tiny_lerobot.write(kind, root)
        with tiny_lerobot.tiny_sizes():
            return policies.load(f"lerobot:{folder}", **{"tokenizer": str(root / "tokenizer"), **options})

    return loaded


@pytest.fixture(scope="session")
def shared(load: Callable[..., Any]) -> Iterator[Callable[[str], Any]]:
    """One policy of each type for all tests that leave it as it was."""
    made: dict[str, Any] = {}

    def of(kind: str) -> Any:
        if kind not in made:
            made[kind] = load(kind)
        made[kind].reset([1, 2, 3], tiny_lerobot.INFOS)
        return made[kind]

    yield of
    made.clear()
