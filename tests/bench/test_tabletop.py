"""The tabletop's rates: what is timed and what is not, whom they are compared with. Nothing here looks at how long anything takes."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from rich.console import Console

import policies.registry
from bench import tabletop
from envs.errors import NoRenderer
from envs.tabletop import TASKS
from envs.tabletop.env import TabletopEnv


@pytest.fixture
def _can_draw() -> None:
    env = TabletopEnv("PressButton")
    env.reset(seed=0)
    try:
        env.picture("agentview", 16, 16)
    except NoRenderer as error:
        pytest.skip(str(error))
    finally:
        env.close()


def test_the_stopwatch_stands_still_for_untimed_work() -> None:
    clock = tabletop.Stopwatch()
    began = clock()
    clock.untimed(lambda: sum(range(2_000_000)))
    counted = clock() - began
    clock = tabletop.Stopwatch()
    began = clock()
    sum(range(2_000_000))
    assert counted < (clock() - began) / 4


def test_a_bound_is_a_ratio_to_libero_of_the_median_round() -> None:
    steps = {tabletop.STATE: [0.001, 0.0013, 0.1], tabletop.CAMERAS: [0.0055, 0.0056, 0.0054]}
    rates = tabletop.Rates(steps, dict(tabletop.LIBERO_SECONDS), "constants")
    assert rates.times_faster(tabletop.STATE) == pytest.approx(10)
    shown = json.loads(json.dumps(rates.as_json()))["steps"]
    assert shown[tabletop.STATE]["bound"] == {"limit": 12.0, "holds": False}
    assert shown[tabletop.CAMERAS]["bound"] == {"limit": 40.0, "holds": True}
    console = Console(width=200, record=True, file=io.StringIO())
    tabletop.show(console, rates, 3)
    assert "NO" in console.export_text()


def test_every_embedded_policy_has_a_task_and_an_observation() -> None:
    for name in policies.registry.EMBEDDED:
        assert tabletop.task_of(name) in TASKS
        assert tabletop.settings_of(name)["obs_type"] in ("state", "pixels_agent_pos")
    assert tabletop.task_of("rl-ppo-close") == "CloseDrawer"
    assert tabletop.settings_of("flow-weak") == {"obs_type": "state"}


def test_a_policy_that_is_embedded_later_appears_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(policies.registry.EMBEDDED, "sees", "other:sees")
    assert tabletop.task_of("sees") == tabletop.TASK
    assert tabletop.settings_of("sees") == {"obs_type": "pixels_agent_pos", "camera_size": 64}


@pytest.mark.usefixtures("_can_draw")
def test_a_run_measures_steps_policies_and_memory_and_tells_what_does_not_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(policies.registry.EMBEDDED, "lost", "flow:no-such-file")
    rates = tabletop.measure(1, ["rl-ppo-close", "lost"], episodes=1, further=1)
    assert set(rates.steps) == set(rates.memory) == {tabletop.STATE, tabletop.CAMERAS}
    assert all(len(values) == 1 and values[0] > 0 for values in rates.steps.values())
    (entry,) = rates.policies["rl-ppo-close"]
    assert (entry.task, entry.episodes, entry.successes) == ("CloseDrawer", 1, 1)
    assert entry.per_minute > 0
    assert "UnknownName" in rates.not_run["lost"]
    console = Console(width=200, record=True, file=io.StringIO())
    tabletop.show(console, rates, 1)
    text = console.export_text()
    assert "rl-ppo-close" in text
    assert "lost was not measured" in text
    assert rates.libero_source.startswith("constants")


@pytest.mark.usefixtures("_can_draw")
@pytest.mark.parametrize("works", [True, False])
def test_libero_is_measured_beside_ours_where_it_runs(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    class Libero:
        resets = steps = 0

        def reset(self) -> None:
            type(self).resets += 1

        def step(self, action: Any) -> None:
            assert action.shape == (7,)
            type(self).steps += 1

        def close(self) -> None: ...

    def make(setting: str) -> Any:
        if not works:
            raise FileNotFoundError("no assets")
        return Libero()

    monkeypatch.setattr(tabletop.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tabletop, "_libero", make)
    rates = tabletop.steps(1)
    if works:
        assert rates.libero_source == "measured in the same rounds"
        assert (Libero.resets, Libero.steps) == (4, 32)  # two settings, a warm-up and a round
        assert rates.libero != tabletop.LIBERO_SECONDS
    else:
        assert "does not run: FileNotFoundError: no assets" in rates.libero_source
        assert rates.libero == tabletop.LIBERO_SECONDS
