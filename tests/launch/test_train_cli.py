"""`steer-agents train steer-reweight | contrastive-value | mentor`: files that Python reads, going on after a kill, what does not fit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file

import policies
from launch import cli
from launch.recorded_features import outcomes
from policies.errors import BadInput
from steer_agents.learning import trainer
from steer_agents.loop import Rollout, rollout
from steer_agents.runs import write_table
from steer_agents.sites import Site, steerable
from steer_agents.training.contrastive_value import ContrastiveValue
from steer_agents.training.lora import Adapters
from steer_agents.training.mentor import RuleBank, rule_bank, with_rule

Run = Callable[..., str]
SETTINGS = 'settings={"steps": 12, "learning_rate": 0.02, "evaluate_every": 3, "patience": null}'


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Run:
    """What a command prints; the message where it refuses or is interrupted."""
    monkeypatch.chdir(tmp_path)

    def call(*args: str) -> str:
        monkeypatch.setattr("sys.argv", ["steer-agents", "train", *args])
        try:
            cli.main()
        except SystemExit:
            return " ".join(capsys.readouterr().err.split())
        return capsys.readouterr().out

    return call


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Interrupts the next training after its fifth step."""

    def arm() -> None:
        whole = trainer._Run.descend

        def descend(self: trainer._Run, *args: Any) -> None:
            if self.step == 5:
                monkeypatch.setattr(trainer._Run, "descend", whole)
                raise KeyboardInterrupt
            whole(self, *args)

        monkeypatch.setattr(trainer._Run, "descend", descend)

    return arm


def walks(path: Path, n: int = 10) -> None:
    """Episodes of 8 steps: successes walk along the first axis, failures stay."""
    episode = torch.arange(2 * n).repeat_interleave(8)
    success = (episode < n).float()
    t = torch.arange(8).repeat(2 * n).float()
    x = torch.randn(len(t), 3, generator=torch.Generator().manual_seed(0)) * 0.1
    x[:, 0] += t * success
    save_file({"features": x, "episode": episode, "success": success}, path)


def test_a_value_is_fitted_from_a_file_and_goes_on_after_a_kill(
    run: Run, killed: Callable[[], None], tmp_path: Path
) -> None:
    walks(tmp_path / "walks.safetensors")
    walks(tmp_path / "more.safetensors", n=6)
    asked = (
        "contrastive-value",
        "walks.safetensors",
        "--set",
        SETTINGS,
        "width=8",
        "--calibration",
        "more.safetensors",
    )
    (told,) = json.loads(run(*asked, "--out", "whole.safetensors", "--json"))
    assert (told["successes"], told["failures"], told["features"]) == (10, 10, 3)
    assert told["after"] < told["held-out loss before"]
    killed()
    stopped = (*asked, "--out", "value.safetensors", "--folder", "run", "--json")
    assert "the same command goes on" in run(*stopped)
    assert not (tmp_path / "value.safetensors").exists()
    assert (tmp_path / "run" / "checkpoint.safetensors").exists()
    assert json.loads(run(*stopped))[0]["steps"] == 12
    value, whole = (ContrastiveValue.load(tmp_path / name) for name in ("value.safetensors", "whole.safetensors"))
    assert all(torch.equal(value.tensors[name], tensor) for name, tensor in whole.tensors.items())
    assert value.threshold == pytest.approx(told["threshold"])
    won, lost = outcomes([tmp_path / "walks.safetensors"], ())
    assert torch.stack([value.q(one)[-1] for one in won]).min() > torch.stack([value.q(one)[-1] for one in lost]).mean()


def test_a_value_is_fitted_on_columns_of_runs(run: Run, tmp_path: Path) -> None:
    """A bandit says no success: outcomes are written into its table, errored and untold episodes among them."""
    rollout(
        "SteerAgents/BanditLockIn5-v0", policies.load("bandit:ucb1"), episodes=12, seed=0, run=tmp_path / "played", progress=False
    )  # fmt: skip
    columns = ("--columns", "reward", "action", "--out", "v.safetensors")
    told = pd.read_parquet(tmp_path / "played" / "episodes.parquet")
    write_table(tmp_path / "played" / "episodes.parquet", told.assign(success=np.nan))
    assert "says whether it succeeded" in run("contrastive-value", "played", *columns)
    success = np.array([1.0, 0.0] * 5 + [np.nan, 1.0])
    write_table(tmp_path / "played" / "episodes.parquet", told.assign(success=success, errored=[False] * 11 + [True]))
    (row,) = json.loads(run("contrastive-value", "played", *columns, "--set", SETTINGS, "--json"))
    assert (row["successes"], row["failures"], row["features"]) == (5, 5, 2)
    steps = Rollout.load(tmp_path / "played").steps
    won, lost = outcomes([tmp_path / "played"], ("reward", "action"))
    own = steps[steps["episode"] == 3].sort_values("env_step")[["reward", "action"]]
    np.testing.assert_array_equal(lost[1].numpy(), own.to_numpy(np.float32))
    assert len(won) == 5
    message = run("contrastive-value", "played", "--columns", "rewards", "--out", "v.safetensors")
    assert "no number 'rewards' a step; did you mean 'reward'" in message
    assert "say with --columns" in run("contrastive-value", "played", "--out", "v.safetensors")


def test_adapters_are_trained_and_go_on_after_a_kill(
    run: Run, killed: Callable[[], None], tiny_llm: str, tmp_path: Path
) -> None:
    asked = ("steer-reweight", tiny_llm, "BanditGaussian2Gap10Text", "--episodes", "12", "--env-set", "horizon=6", "--set", SETTINGS,
             "weights=uniform")  # fmt: skip
    (told,) = json.loads(run(*asked, "--out", "whole", "--json"))
    assert told["weights"] == "uniform"
    assert told["after"] > told["held-out reward before"]
    killed()
    stopped = (*asked, "--out", "adapters", "--json")
    assert "the same command goes on" in run(*stopped)
    assert (tmp_path / ".adapters.training" / "checkpoint.safetensors").exists()
    assert json.loads(run(*stopped))[0] == {**told, "folder": "adapters"}
    assert not (tmp_path / ".adapters.training").exists()
    whole, again = (Adapters.load(tmp_path / name) for name in ("whole", "adapters"))
    assert all(torch.equal(again.tensors[name], tensor) for name, tensor in whole.tensors.items())


def test_rules_become_a_bank(run: Run, tiny_llm: str, tmp_path: Path) -> None:
    rules = {
        "pressed blue": ["Round 1: pressed", "Round 2: pressed"],
        "pressed red": [" got 3 points", " got 4 points"],
    }
    (tmp_path / "rules.json").write_text(json.dumps(rules))
    rows = json.loads(run("mentor", tiny_llm, "rules.json", "--layer", "1", "--out", "bank.safetensors", "--json"))
    assert [(row["rule"], row["situations"]) for row in rows] == [(rule, 2) for rule in rules]
    bank = RuleBank.load(tmp_path / "bank.safetensors")
    same = rule_bank(
        steerable(policies.load(tiny_llm)),
        rules={rule: (with_rule(rule, some), some) for rule, some in rules.items()},
        site=Site(layer=1, tokens="last"),
    )
    assert bank.rules == same.rules
    assert all(torch.equal(bank.vectors[key], same.vectors[key]) for key in same.vectors)
    (tmp_path / "flat.json").write_text(json.dumps({"pressed blue": "Round 1"}))
    assert "a list of texts for every rule" in run("mentor", tiny_llm, "flat.json", "--out", "b.safetensors")
    assert "no JSON file" in run("mentor", tiny_llm, "none.json", "--out", "b.safetensors")


def test_what_does_not_fit_is_said(run: Run, tmp_path: Path) -> None:
    out = ("--out", "v.safetensors")
    walks(tmp_path / "walks.safetensors")
    assert "did you mean 'width'" in run("contrastive-value", "walks.safetensors", *out, "--set", "widht=4")
    assert "name=value" in run("contrastive-value", "walks.safetensors", *out, "--set", "width")
    assert "name run folders" in run("contrastive-value", *out)
    assert "no file of tensors" in run("contrastive-value", "none.safetensors", *out)
    assert "no language agent" in run("steer-reweight", "flow-medium", "BanditGaussian2Gap10Text", *out)
    one = torch.zeros(4, 2)
    save_file({"features": one, "episode": torch.zeros(4)}, tmp_path / "less.safetensors")
    assert "lacks 'success'" in run("contrastive-value", "less.safetensors", *out)
    save_file({"features": one, "episode": torch.zeros(3), "success": torch.zeros(3)}, tmp_path / "odd.safetensors")
    with pytest.raises(BadInput, match=r"\(4, 2\), \(3,\)"):
        outcomes([tmp_path / "odd.safetensors"], ())
    mixed = {"features": one, "episode": torch.zeros(4), "success": torch.tensor([1.0, 0, 1, 1])}
    save_file(mixed, tmp_path / "mixed.safetensors")
    with pytest.raises(BadInput, match="both succeeds and fails"):
        outcomes([tmp_path / "mixed.safetensors"], ())
