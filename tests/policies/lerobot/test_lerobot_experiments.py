"""The experiments on VLAs run on LeRobot's as they run on ours."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from launch.experiments import vla, vla_sides, vla_speed
from launch.experiments.base import Say
from launch.rebuild import vla_evaluation
from policies.errors import BadInput

CAMERAS = {
    "observation.images.image": "observation.images.agentview",
    "observation.images.image2": "observation.images.wrist",
}
SETTINGS = vla_sides.Settings(
    tasks=("PressButton",), scene_episodes=1, choice_episodes=1, test_episodes=1, layers=(1,), strengths=(8.0,), gates=("always",),
    doses=(1.0,), n_random=1, n_permuted=1,
)  # fmt: skip


@pytest.mark.usefixtures("can_draw")
@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi05", "pi0_fast"])
def test_the_experiment_on_speed_runs_on_it(
    kind: str, load: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[tuple[str, dict[str, Any]]] = []
    policy = load(kind, rename=CAMERAS, clip_actions=(-1, 1))

    def loaded(name: str, **options: Any) -> Any:
        asked.append((name, options))
        return policy

    monkeypatch.setattr(vla.policies, "load", loaded)
    monkeypatch.setattr(vla, "evaluate", functools.partial(vla_evaluation.evaluate, max_steps=8))
    s = replace(SETTINGS, policy="a-checkpoint", load={"clip_actions": (-1, 1)})
    found = vla_sides.run(replace(vla_speed.SPEED, measure="speed"), "", "", s, tmp_path, Say())
    assert asked == [("a-checkpoint", {"clip_actions": (-1, 1)})]
    speed = found.conditions.set_index("condition")["speed"]
    assert speed["zero strength"] == speed["base"]
    assert len(speed) == 16
    if kind != "pi0_fast":  # tokens of a random one are no actions: it stands still
        assert speed["slowly x 8"] != speed["base"]
        assert speed["the words 'slowly'"] != speed["base"]
    bench = vla.Bench("a-checkpoint", s.tasks, tmp_path, s.load)
    assert bench.site().stack == (None if kind == "pi0_fast" else "expert")
    if kind != "pi0_fast":
        with pytest.raises(BadInput, match="temperature"):
            bench.episodes(vla.Condition("hot", "other", temperature=1.0), 5, 1)


def test_a_policy_that_hears_no_words_is_refused(
    shared: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = shared("act")
    monkeypatch.setattr(vla.policies, "load", lambda name: policy)
    with pytest.raises(BadInput, match=r"pictures and hear words .*lerobot-act.*subjects\.py"):
        vla.Bench("act", ("PressButton",), tmp_path)
