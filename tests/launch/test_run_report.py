"""Reports and exports of finished folders: what they say is what the folders hold, and films are the record."""

from __future__ import annotations

import json
import re
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import policies
from launch import cli, played_again
from launch.exports import export, spread
from launch.run_report import report_runs
from launch.study_report import kind_of, report_study
from policies.errors import BadArtifact, BadInput, MissingExtra
from steer_agents.evaluation.compare import compare
from steer_agents.loop import Rollout, rollout
from steer_agents.noise.parts import ConstantNoise
from steer_agents.runs import write_json, write_table
from steer_agents.steerer import Steerer


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same four seeds, as the policy is and from the same noise always; twelve steps each."""
    folder, policy = tmp_path_factory.mktemp("runs"), policies.load("flow-medium")
    for name, steerer in (("unsteered", None), ("still", Steerer(ConstantNoise()))):
        rollout(
            "SteerAgents/PressButton-v0", policy, steerer, episodes=4, seed=5, num_envs=4, max_steps=12, run=folder / name,
            condition=name, progress=False,
        )  # fmt: skip
    return folder


def test_two_runs_are_compared_and_the_page_says_what_compare_says(runs: Path, tmp_path: Path) -> None:
    verdict = report_runs([runs / "unsteered", runs / "still"], tmp_path / "r.html", measures=["speed", "success"])
    text = (tmp_path / "r.html").read_text()
    tables = []
    for name in ("still", "unsteered"):
        run = Rollout.load(runs / name)
        speeds = run.steps.groupby("episode")["speed"].mean()
        tables.append(run.episodes.assign(speed=run.episodes["episode"].map(speeds)))
    found = compare(*tables, "speed")
    assert f"{found.value:+.3g}" in verdict
    assert f"{found.side_a.value:.3g} against {found.side_b.value:.3g}" in verdict
    assert "4 pairs" in verdict
    for words in (
        "still against unsteered",
        "not steered",
        "noise: constant",
        "# unsteered: made by rollout(...)",
        "not corrected",
    ):
        assert words in text


def test_one_run_tells_its_spread_and_that_it_tells_no_effect(runs: Path, tmp_path: Path) -> None:
    report_runs([runs / "still"], tmp_path / "r.html", measures=["speed"])
    text = (tmp_path / "r.html").read_text()
    assert "Distribution over seeds" in text
    assert "not what steering does" in text


def test_runs_that_do_not_pair_and_measures_that_are_none_are_refused(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="twice"):
        report_runs([runs / "still", runs / "still"], tmp_path / "r.html")
    with pytest.raises(BadInput, match="did you mean 'speed'"):
        report_runs([runs / "still"], tmp_path / "r.html", measures=["sped"])
    with pytest.raises(BadArtifact, match="nothing to report"):
        kind_of(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("can_draw")
def test_an_episode_played_again_is_the_record_and_a_changed_record_is_found_out(runs: Path) -> None:
    run = Rollout.load(runs / "still")
    seed = int(run.episodes["seed"].iloc[2])
    env = played_again.environment_of(run.config)
    played = played_again.play_again(run, seed, env)
    assert played.differs == ""
    assert played.frames.shape == (13, 256, 256, 3)
    assert played.pixels is not None
    assert ((played.pixels > 0) & (played.pixels < 256)).all()
    other = run.steps.copy()
    at = other.index[(other["episode"] == 2) & (other["env_step"] == 7)]
    other.loc[at, "tcp_x"] += 1e-12
    changed = played_again.play_again(Rollout(run.episodes, other, run.config), seed, env)
    assert changed.differs.startswith("tcp_x at step 7")
    env.close()


def test_an_environment_that_the_record_does_not_hold_is_refused() -> None:
    with pytest.raises(BadInput, match="cannot be made again"):
        played_again.environment_of({"env": {"factory": "module.make_mine"}, "options": None})
    with pytest.raises(BadInput, match="reset options"):
        played_again.environment_of(
            {"env": {"id": "SteerAgents/PressButton-v0", "kwargs": {}}, "options": "module.rows"}
        )


@pytest.mark.usefixtures("can_draw")
def test_films_and_ways_are_in_the_page(runs: Path, tmp_path: Path) -> None:
    report_runs([runs / "unsteered", runs / "still"], tmp_path / "r.html", measures=["speed"], videos=2)
    text = (tmp_path / "r.html").read_text()
    assert text.count("<video ") == 4
    assert "every recorded number came out the same" in text
    assert text.count("<image ") == 4, "two seeds, and two conditions with all episodes"
    assert len(text) < 3_000_000


def test_the_command_line_reports_and_says_where(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["steer-agents", *words])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    page = tmp_path / "page.html"
    code, out, _ = told(
        "report", str(runs / "unsteered"), str(runs / "still"), "--measure", "speed", "--out", str(page), "--json"
    )
    found = json.loads(out)
    assert (code, found["report"], found["bytes"]) == (0, str(page), page.stat().st_size)
    assert told("export", str(runs / "still"), str(tmp_path / "csv"), "--to", "csv")[0] == 0
    code, _, error = told("export", str(runs / "still"), str(tmp_path / "x"), "--to", "cvs")
    assert code == 2
    assert "did you mean 'csv'" in error


def test_an_experiment_a_dose_study_and_a_sweep_have_pages(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    episodes = pd.DataFrame({"condition": ["base"] * 9 + ["steered"] * 9, "seed": [*range(9)] * 2, "errored": False,
                             "success": rng.integers(0, 2, 18).astype(float)})  # fmt: skip
    one = tmp_path / "experiment"
    write_table(one / "episodes.parquet", episodes)
    write_json(one / "results.json", {"experiment": "mine", "verdict": "It does.", "bars": [], "conditions": [], "settings": {},
                                      "command": "steer-agents experiment run mine", "seconds": 60})  # fmt: skip
    assert report_study(one, one / "r.html") == "It does."
    assert "9 pairs" in (one / "r.html").read_text()
    line = {"strengths": [-1, 0, 1], "values": [1, 2, 3], "low": [0, 1, 2], "high": [2, 3, 4]}
    dose = {"target": "speed", "verdict": "steerable", "reasons": ["it moves"], "usable": [-1, 0.5], "knee": {"-1": -0.7, "1": 0.5},
            "curves": {"speed": line, "success": line}}  # fmt: skip
    two = tmp_path / "dose"
    write_json(two / "dose.json", dose)
    assert report_study(two, two / "r.html") == "steerable. it moves"
    assert "usable from -1 to 0.5; knee at -0.7; knee at 0.5" in (two / "r.html").read_text()
    write_json(two / "dose.json", {"target": "speed"})
    with pytest.raises(BadArtifact, match="not a dose study"):
        report_study(two, two / "r.html")
    three = tmp_path / "sweep"
    table = pd.DataFrame([{"role": "search", "layer": layer, "strength": s, "measure": "speed", "mean": layer + s} for layer in (1, 2)
                          for s in (0.0, 0.5)])  # fmt: skip
    write_table(three / "table.parquet", table.assign(low=table["mean"] - 0.1, high=table["mean"] + 0.1))
    assert "at layer 2, strength 0.5" in report_study(three, three / "r.html")
    assert "Layer by strength" in (three / "r.html").read_text()


def rated(page: Path) -> pd.DataFrame:
    """The table of ratings as the page shows it."""
    (table,) = re.findall(r"<h2[^>]*>[^<]*rated by.*?(<table>.*?</table>)", page.read_text(), re.DOTALL)
    head, *rows = re.findall(r"<tr>(.*?)</tr>", table, re.DOTALL)
    names = re.findall(r"<th[^>]*>(.*?)</th>", head)
    cells = pd.DataFrame([re.findall(r"<td[^>]*>(.*?)</td>", row) for row in rows], columns=names)
    return cells.assign(rating=cells["rating"].astype(float), games=cells["games"].astype(int))


def test_three_conditions_are_rated_by_seed(runs: Path, tmp_path: Path) -> None:
    """A copy of the unsteered run ties with it on every seed; of two runs there is no table."""
    shutil.copytree(runs / "unsteered", tmp_path / "again")
    three = [runs / "unsteered", runs / "still", tmp_path / "again"]
    report_runs(three, tmp_path / "r.html", measures=["speed"])
    rows = rated(tmp_path / "r.html")
    rating = dict(zip(rows["condition"], rows["rating"], strict=True))
    assert rating[str(three[0])] == rating[str(three[2])] != rating[str(three[1])]
    speeds = [Rollout.load(folder).steps.groupby("episode")["speed"].mean() for folder in three[:2]]
    more = int((speeds[1] > speeds[0]).sum())
    assert (rating[str(three[1])] > 1000) == (more > 2)
    assert set(rows["games"]) == {8}  # four seeds, two others
    assert "bootstrap over 4 seeds" in (tmp_path / "r.html").read_text()
    report_runs(three[:2], tmp_path / "two.html", measures=["speed"])
    assert "rated by" not in (tmp_path / "two.html").read_text()


def test_an_experiments_conditions_are_rated_and_what_does_not_pair_is_said(tmp_path: Path) -> None:
    won = {"base": [0, 0, 1, 1], "steered": [1, 1, 1, 1], "random": [0, 1, 0, 1]}
    episodes = pd.concat(
        pd.DataFrame({"condition": name, "seed": range(4), "errored": False, "success": map(float, values)})
        for name, values in won.items()
    )
    told = {"experiment": "mine", "verdict": "It does.", "bars": [], "conditions": [], "settings": {}, "seconds": 60}
    write_json(tmp_path / "results.json", told)
    write_table(tmp_path / "episodes.parquet", episodes)
    report_study(tmp_path, tmp_path / "r.html")
    rows = rated(tmp_path / "r.html")
    assert rows["condition"].tolist()[0] == "steered"
    assert rows["rating"][1] == rows["rating"][2]  # two each over the other, two lost to the steered one
    write_table(tmp_path / "episodes.parquet", episodes.assign(seed=range(12)))
    report_study(tmp_path, tmp_path / "r.html")
    assert "No Elo table of the conditions" in (tmp_path / "r.html").read_text()


def test_tables_are_exported_whole_with_lists_as_columns(runs: Path, tmp_path: Path) -> None:
    run = Rollout.load(runs / "still")
    for form, read in (("csv", pd.read_csv), ("parquet", pd.read_parquet)):
        made = export(runs / "still", form, tmp_path / form)
        steps = read(made / f"steps.{form}")
        assert len(steps) == len(run.steps)
        actions = steps[[f"action_{place}" for place in range(7)]].to_numpy()
        assert actions == pytest.approx(np.stack(list(run.steps["action"])), abs=1e-12)
        assert json.loads((made / "config.json").read_text())["seed"] == 5
    with pytest.raises(BadInput, match="not empty"):
        export(runs / "still", "csv", tmp_path / "csv")
    assert {path.name for path in tmp_path.iterdir()} == {"csv", "parquet"}
    uneven = spread(pd.DataFrame({"x": [[1.0], [2.0, 3.0], None]}))
    assert uneven["x_1"].isna().tolist() == [True, False, True]


def test_tensorboard_reads_what_was_exported(runs: Path, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    made = export(runs / "still", "tensorboard", tmp_path / "tb")
    found = accumulator.EventAccumulator(str(made)).Reload()
    run = Rollout.load(runs / "still")
    lengths = [event.value for event in found.Scalars("episode/length")]
    assert lengths == run.episodes["length"].tolist()
    assert len(found.Scalars("step/speed")) == run.steps["env_step"].nunique()


def test_wandb_gets_points_tables_and_summary_offline(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, Any]] = []

    class Run:
        summary: dict[str, float] = {}  # noqa: RUF012

        def log(self, values: dict[str, Any]) -> None:
            calls.append(("log", values))

        def finish(self) -> None:
            calls.append(("finish", None))

    def init(*, project: str, name: str, config: dict[str, Any], dir: str, mode: str) -> Run:
        calls.append(("init", (project, name, config["seed"], mode)))
        return Run()

    stub = types.SimpleNamespace(init=init, Table=lambda dataframe: ("table", len(dataframe)))
    monkeypatch.setitem(sys.modules, "wandb", stub)  # type: ignore[arg-type]
    monkeypatch.delenv("WANDB_MODE", raising=False)
    export(runs / "still", "wandb", tmp_path / "wandb", project="mine")
    assert calls[0] == ("init", ("mine", "still", 5, "offline"))
    assert [values["episode"] for kind, values in calls if kind == "log" and "episode" in values] == [0, 1, 2, 3]
    assert calls[-2][1]["episodes"] == ("table", 4)
    assert calls[-1][0] == "finish"
    monkeypatch.setitem(sys.modules, "wandb", None)  # type: ignore[arg-type]
    with pytest.raises(MissingExtra, match=r"steer-agents\[wandb\]"):
        export(runs / "still", "wandb", tmp_path / "none")
    assert not (tmp_path / "none").exists()
