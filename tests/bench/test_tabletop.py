"""The tabletop's rates: what is timed and what is not, whom they are compared with. Nothing here looks at how long anything takes."""

from __future__ import annotations

import io
import json
import sys

import pytest
from rich.console import Console

import policies.registry
from bench import tabletop
from bench.libero import Libero
from envs.tabletop import TASKS


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
    rates = tabletop.Rates(steps, {name: [value] * 3 for name, value in tabletop.LIBERO_SECONDS.items()}, "constants")
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


@pytest.mark.usefixtures("can_draw")
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


_FAKE_LIBERO = """
from bench import libero

class Env:
    def __init__(self, cameras):
        print("chatter, which is no answer")
        self.cameras, self.steps = cameras, None
    def reset(self): self.steps = 0
    def step(self, action):
        assert action.shape == (7,)
        self.steps += 1
        assert self.steps <= (8 if self.cameras else 300)
        sum(range(200_000))
def broken(cameras): raise FileNotFoundError("no assets")
libero.make = {make}
libero.serve()
"""


@pytest.mark.usefixtures("can_draw")
@pytest.mark.parametrize("works", [True, False])
def test_libero_is_measured_beside_ours_where_it_runs(monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    code = _FAKE_LIBERO.format(make="Env" if works else "broken")
    monkeypatch.setattr(tabletop.importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(tabletop, "Libero", lambda: Libero([sys.executable, "-c", code]))
    rates = tabletop.steps(2)
    assert all(len(values) == 2 and min(values) > 0 for values in rates.libero.values())
    if works:
        assert rates.libero_source == "measured in the same rounds"
        assert rates.libero[tabletop.CAMERAS] != [tabletop.LIBERO_SECONDS[tabletop.CAMERAS]] * 2
        pairs = zip(rates.libero[tabletop.STATE], rates.steps[tabletop.STATE], strict=True)
        assert rates.times_faster(tabletop.STATE) == pytest.approx(sum(a / b for a, b in pairs) / 2)
    else:
        assert "does not run: FileNotFoundError: no assets" in rates.libero_source
        assert rates.libero == {name: [value] * 2 for name, value in tabletop.LIBERO_SECONDS.items()}


def test_a_libero_whose_process_dies_is_told() -> None:
    with pytest.raises(RuntimeError, match="ended with 3"):
        Libero([sys.executable, "-c", "raise SystemExit(3)"])
