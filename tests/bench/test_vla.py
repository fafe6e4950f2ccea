"""The rows on steered policies: equal work, bounds, what is told. Nothing here looks at how long anything takes."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from bench import vla
from bench.contestants import BAKED, BARE, HOOKED, SECOND_COPY, UNSTEERED


@pytest.mark.parametrize("name", ["smolvla", "pi0"])
def test_all_contestants_act_and_do_equal_work(name: str) -> None:
    case = vla.chunks(name, rounds=3, turns=1)
    assert {row.name for row in case.rows} == {UNSTEERED, SECOND_COPY, BARE, HOOKED, vla.SCOPED, BAKED}
    assert all(len(row.ratios) == 3 for row in case.rows)
    assert [row.name for row in case.rows if row.bound is not None] == [HOOKED, BAKED]
    assert all("NOT equal" not in row.note for row in case.rows)
    assert all(row.note for row in case.rows if row.name in (HOOKED, BAKED))


def test_a_push_that_moves_nothing_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vla, "AGREE", float("inf"))
    with pytest.raises(RuntimeError, match="no push changes the actions"):
        vla.chunks("smolvla", rounds=3, turns=1)


@pytest.mark.parametrize(("seconds", "text"), [(12.0, "bound 20 s holds"), (39.0, "bound 20 s does NOT hold")])
def test_costs_are_told(seconds: float, text: str) -> None:
    small = {"neurons": 46080, "seconds": seconds, "cpu_seconds": 24.0, "threads": 2}
    bound = {"limit": vla.SECONDS_WANTED, "holds": seconds < vla.SECONDS_WANTED}
    costs = vla.Costs(
        [], {"smollm2-135m": small | {"bound": bound}, "openvla-7b": {"projected_seconds": 1800.0, "gflops": 50.0}}
    )
    console = Console(width=300, record=True, file=io.StringIO())
    vla.show(console, costs, 3)
    told = console.export_text()
    assert text in told
    assert "30 minutes" in told
    assert json.loads(json.dumps(costs.as_json()))["value_vectors"]["smollm2-135m"]["seconds"] == seconds
