"""The experiments on VLAs run on OpenVLA as they run on ours."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.experiments import vla, vla_neurons, vla_sides, vla_speed
from launch.experiments.base import Say
from launch.rebuild import vla_evaluation
from policies.openvla import OpenVLAPolicy

SETTINGS = vla_sides.Settings(
    policy="openvla:here", tasks=("PressButton",), scene_episodes=1, choice_episodes=1, test_episodes=1, layers=(0,), strengths=(8.0,),
    gates=("always",), doses=(1.0,), n_random=1, n_permuted=1,
)  # fmt: skip


@pytest.mark.usefixtures("can_draw")
def test_speed_and_neurons_run_on_it(policy: OpenVLAPolicy, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def loaded(name: str, **options: Any) -> OpenVLAPolicy:
        assert (name, options) == ("openvla:here", {})
        return policy

    monkeypatch.setattr(vla.policies, "load", loaded)
    monkeypatch.setattr(vla, "evaluate", functools.partial(vla_evaluation.evaluate, max_steps=2))
    found = vla_sides.run(replace(vla_speed.SPEED, measure="speed"), "", "", SETTINGS, tmp_path, Say())
    speed = found.conditions.set_index("condition")["speed"]
    assert speed["zero strength"] == speed["base"]
    assert speed["slowly x 8"] != speed["base"]
    neurons = replace(
        vla_neurons.settings(True),
        policy="openvla:here",
        tasks=("PressButton",),
        concepts=(("bowl", 1),),
        values=(10.0,),
    )
    text = vla_neurons.run(neurons, tmp_path, Say()).verdict
    assert "'bowl'" in text
