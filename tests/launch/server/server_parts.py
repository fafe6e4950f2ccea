"""A policy that adds up what it sees, and a server around it."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from launch.robot.contract import Chunk
from launch.server.about import About, Feature, Limits
from policies.errors import BadInput

TOKEN = "a token of the tests, long enough to be one"
ABOUT = About(
    policy="adder", fingerprint="abc", recipe="r1", dt=0.05, action=("x", "y"),
    observation={"state": Feature("float32", (3,)), "pixels/front": Feature("uint8", (8, 8, 3))},
    strengths={"slow": Limits(0.2, -1.0, 1.0)},
)  # fmt: skip


def seen(value: float = 1.0) -> dict[str, Any]:
    return {"state": np.full(3, value, np.float32), "pixels": {"front": np.zeros((8, 8, 3), np.uint8)}}


class Adder:
    """Actions are (sum of the state, strength); waits on `gate` where it is closed."""

    def __init__(self) -> None:
        self.strength, self.resets, self.calls = 0.2, [], 0
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    resets: list[tuple[int, dict[str, Any]]]

    def reset(self, seed: int, info: Mapping[str, Any]) -> None:
        self.resets.append((seed, dict(info)))

    def infer(self, observation: Mapping[str, Any], observed_at: float, steered: bool = True) -> Chunk:
        self.gate.wait(10)
        self.calls += 1
        total = float(observation["state"].sum())
        if total == 13:
            raise BadInput("thirteen is refused")
        if total == 12:
            raise RuntimeError("a bug")
        row = [total, self.strength if steered else 0.0]
        return Chunk(np.array([row, row], np.float32), 0.05, observed_at, steered, {"entropy": 1.5}, self.calls)

    def set_strength(self, part: str, value: float) -> None:
        assert part == "slow"
        self.strength = value

    def close(self) -> None:
        self.closed = True
