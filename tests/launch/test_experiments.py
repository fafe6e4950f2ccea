"""Both experiments from end to end on a tiny random model: the files, the tables behind the bars, and that they can fail."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest

from launch.experiments import base, east_lockin, east_offline
from launch.experiments.east import Bench, prompts_of, rotated, streaky_histories
from policies.errors import UnknownName

COLUMNS = {"condition", "seed", "episode", "errored"}


def run(
    module: ModuleType, name: str, policy: str, runs: Path, monkeypatch: pytest.MonkeyPatch, **changes: object
) -> dict:
    small = {
        "policy": policy,
        "train_runs": 3,
        "validation_runs": 2,
        "steps": 5,
        "doses": (0.2, 0.4),
        "skip": 2,
        **changes,
    }
    settings = module.settings
    monkeypatch.setattr(module, "settings", lambda quick: replace(settings(quick), **small))
    return base.run_experiment(name, quick=True, runs=runs)


@pytest.fixture(scope="module")
def lockin(tiny_llm: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    runs = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as monkeypatch:
        results = run(east_lockin, "east-lockin", tiny_llm, runs, monkeypatch, episodes=6, num_envs=3)
    return results, runs / "east-lockin"


def test_lockin_writes_its_files_and_bars_that_follow_from_the_episode_table(lockin: tuple[dict, Path]) -> None:
    results, folder = lockin
    assert json.loads((folder / "results.json").read_text()) == results
    page = (folder / "report.html").read_text()
    assert results["verdict"][:40] in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert (folder / "sufffail-k5.png").read_bytes()[:4] == b"\x89PNG"
    episodes = pd.read_parquet(folder / "episodes.parquet")
    assert set(episodes) >= COLUMNS | {"suff_fail", "entropy_bits", "regret"}
    assert (episodes.groupby("condition").size() == 6).all()
    assert episodes.groupby("condition")["seed"].apply(tuple).nunique() == 1
    rates = episodes.groupby("condition")["suff_fail"].mean()
    bars = {bar["name"]: bar for bar in results["bars"]}
    assert bars["K=5: base SuffFail"]["value"] == pytest.approx(rates["K=5 base"])
    assert bars["K=5: base SuffFail"]["holds"] == (rates["K=5 base"] >= 0.55)
    east = next(name for name in rates.index if name.startswith("K=5 EAST +"))
    assert bars["K=5: SuffFail, random 1 minus EAST"]["value"] == pytest.approx(rates["K=5 random 1"] - rates[east])
    assert bars["K=5: share of zero-strength episodes equal to base in every action"]["value"] == 1.0


def test_a_random_model_does_not_pass_the_bars(lockin: tuple[dict, Path]) -> None:
    results, _ = lockin
    assert not all(bar["holds"] for bar in results["bars"])
    assert "is not shown to free" in results["verdict"]


def test_an_interrupted_experiment_takes_up_its_finished_conditions(
    tiny_llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(east_lockin, "east-lockin", tiny_llm, tmp_path / "whole", monkeypatch, episodes=4, num_envs=2)
    stop = east_lockin.rollout
    calls: list[str] = []

    def interrupted(*args: object, **kwargs: object) -> object:
        calls.append(str(kwargs["condition"]))
        if len(calls) == 4:
            raise KeyboardInterrupt
        return stop(*args, **kwargs)

    monkeypatch.setattr(east_lockin, "rollout", interrupted)
    with pytest.raises(KeyboardInterrupt):
        base.run_experiment("east-lockin", True, tmp_path / "parts")
    assert not (tmp_path / "parts" / "east-lockin" / "results.json").exists()
    resumed = base.run_experiment("east-lockin", True, tmp_path / "parts")
    tables = [pd.read_parquet(tmp_path / name / "east-lockin" / "episodes.parquet") for name in ("whole", "parts")]
    pd.testing.assert_frame_equal(*tables, check_exact=True)
    assert resumed["bars"] == whole["bars"]


def test_offline_measures_every_condition_on_the_same_histories(
    tiny_llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = run(east_offline, "east-offline", tiny_llm, tmp_path, monkeypatch, test_runs=4, wording="buttons")
    episodes = pd.read_parquet(tmp_path / "east-offline" / "episodes.parquet")
    assert set(episodes) >= COLUMNS | {"entropy_bits", "action_mass", "p_repeat"}
    assert (episodes.groupby("condition").size() == 4).all()
    means = episodes.groupby("condition")["entropy_bits"].mean()
    assert means["K=5 zero strength"] == means["K=5 base"]
    change = next(bar for bar in results["bars"] if bar["name"] == "K=5: entropy change at alpha +0.2 [bits]")
    layer = results["choices"]["K=5"]["layer"]
    assert change["value"] == pytest.approx(means[f"K=5 EAST layer {layer} +0.2"] - means["K=5 base"])
    table = {row["condition"]: row for row in results["conditions"]}
    assert table["temperature 2"]["slope"] == pytest.approx(0.5, abs=1e-6)
    assert table["temperature 2"]["top_kept"] == 1.0


def test_histories_are_streaky_and_splits_and_rotations_differ(tiny_llm: str) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    histories = streaky_histories(5, 200, 12, 0.8, rng)
    repeats = np.mean([a[0] == b[0] for history in histories for a, b in pairwise(history)])
    assert 0.77 < repeats < 0.83
    rewards = [reward for history in histories for _, reward in history]
    assert all(10 <= reward <= 99 and reward == int(reward) for reward in rewards)
    turned = rotated(histories[0], 2, 5)
    assert [(arm + 2) % 5 for arm, _ in histories[0]] == [arm for arm, _ in turned]
    assert [reward for _, reward in histories[0]] == [reward for _, reward in turned]
    import policies

    bench = Bench(policies.load(tiny_llm), 5, east_lockin.settings(True))
    streams = [str(bench.histories(split, 3)) for split in ("train", "validation", "test")]
    assert len(set(streams)) == 3


def test_each_prompt_of_a_history_extends_the_one_before() -> None:
    prompts = prompts_of([(0, 47.0), (1, 51.0), (1, 39.0)], 2, "buttons")
    assert prompts[0] == "There are 2 buttons: blue, green. Each press gives points.\nRound 1: pressed"
    assert prompts[2].endswith("Round 2: pressed green, got 51 points\nRound 3: pressed")
    assert all(later.startswith(earlier) for earlier, later in pairwise(prompts))


def test_an_unknown_experiment_is_answered_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match=r"did you mean 'east-lockin'.*east-offline"):
        base.module_of("east-lokin")


def test_the_verdict_on_the_policies_names_the_worst_and_the_best() -> None:
    from launch.experiments.suite_policies import _HOME, _extremes

    rows = [
        {"policy": "a", "condition": "in range", "success": 0.5},
        {"policy": "b", "condition": "as taught", "success": 0.9},
        {"policy": "b", "condition": "with the wall", "success": 0.1},
    ]
    assert _extremes(rows, _HOME, "Here") == "Here, success goes from 0.50 (a) to 0.90 (b)."
    assert _extremes(rows, None, "Elsewhere") == "Elsewhere, success goes from 0.10 (b) to 0.10 (b)."
