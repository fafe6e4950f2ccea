"""Triggers with hysteresis, and stages that go on and back."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from toys import infos

from policies.errors import BadInput
from steer_agents.guidance import Scene, Stage, Stages, Trigger, from_infos


def scene(*values: float) -> Scene:
    return from_infos()({}, [info | {"x": value} for info, value in zip(infos(len(values)), values, strict=True)])


def x(scene: Scene) -> torch.Tensor:
    return scene.quantity("x")


def walk(trigger: Trigger, values: list[float]) -> str:
    opened, shown = torch.tensor([False]), ""
    for value in values:
        opened = trigger.step(opened, torch.tensor([value]))
        shown += "1" if opened else "0"
    return shown


def test_a_trigger_keeps_its_state_between_its_thresholds() -> None:
    assert walk(Trigger(x, above=0.8, release=0.6), [0.7, 0.9, 0.7, 0.61, 0.6, 0.7, 0.81]) == "0111001"
    assert walk(Trigger(x, below=0.2, release=0.4), [0.3, 0.1, 0.3, 0.4, 0.3]) == "01100"
    assert walk(Trigger(x, above=0.8), [0.9, 0.8, 0.9]) == "101"


def test_trembling_about_one_threshold_does_not_switch_to_and_fro() -> None:
    values = [0.8 + 0.05 * math.sin(3 * t) for t in range(40)]
    shown = [walk(trigger, values) for trigger in (Trigger(x, above=0.8), Trigger(x, above=0.8, release=0.6))]
    switches = [sum(a != b for a, b in pairwise(states)) for states in shown]
    assert switches[0] > 10
    assert switches[1] == 1


def test_stages_go_on_one_at_a_time_and_back_when_undone() -> None:
    stages = Stages(
        (
            Stage("a", None, Trigger(x, above=1.0, release=0.5)),
            Stage("b", None, Trigger(x, above=2.0)),
            Stage("c", None),
        )
    )
    now, seen = stages.first(2), []
    for values in [(0, 0), (1.1, 3), (0.7, 3), (0.4, 1.5), (3, 0.4), (3, 0), (3, 0)]:
        now = stages.step(now, scene(*values))
        seen.append(now.tolist())
    assert seen == [[0, 0], [1, 1], [1, 2], [0, 1], [1, 0], [2, 0], [2, 0]]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({}, "give above or below"),
        ({"above": 1.0, "below": 0.0}, "give above or below"),
        ({"above": 1.0, "release": 1.1}, "other side"),
        ({"below": 1.0, "release": 0.9}, "other side"),
        ({"above": float("nan")}, "must be numbers"),
    ],
)
def test_triggers_without_sense_are_refused(arguments: dict[str, float], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        Trigger(x, **arguments)


def test_stages_without_sense_are_refused() -> None:
    trigger = Trigger(x, above=1.0)
    for stages in (
        (),
        (Stage("a", None, trigger), Stage("a", None)),
        (Stage("a", None),) * 2,
        (Stage("a", None, trigger),),
    ):
        with pytest.raises(BadInput, match="stage"):
            Stages(stages)
