"""The command line as a user meets it: exit codes, messages, JSON."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from launch import cli


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Callable[..., Done]:
    """Run a command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str) -> Done:
        monkeypatch.setattr(sys, "argv", ["steer-agents", *args])
        code = 0
        try:
            cli.main()
        except SystemExit as ended:
            code = int(ended.code or 0)
        captured = capsys.readouterr()
        return Done(code, captured.out, captured.err)

    return run


def test_the_installed_command_lists_without_loading_torch(tmp_path: Path) -> None:
    script = Path(sys.executable).with_name("steer-agents")
    done = subprocess.run(
        [str(script), "experiment", "list"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert "east-lockin" in done.stdout
    code = "import sys; sys.argv = ['steer-agents', 'list']; from launch import cli; cli.main(); print('torch' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=True
    )
    assert loaded.stdout.splitlines()[-1] == "False"


def test_list_names_what_is_registered(run: Callable[..., Done]) -> None:
    done = run("list", "--json")
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert {"environment": "SteerAgents/BanditLockIn5-v0"} in found["environments"]
    assert {entry["experiment"] for entry in found["experiments"]} >= {"east-lockin", "east-offline"}
    assert {entry["architecture"] for entry in found["architectures"]} >= {
        "llama",
        "qwen",
        "gemma",
        "gpt2",
        "smolvlm",
        "mlp",
        "chunk-denoiser",
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("list", "polices"), "did you mean 'policies'"),
        (("experiment", "run", "east-lokin"), "did you mean 'east-lockin'"),
        (("rollout", "bandit:ucb", "SteerAgents/BanditGaussian5-v0"), "did you mean 'ucb1'"),
        (("rollout", "bandit:ucb1", "SteerAgents/BanditGaussian5-v0", "--strength", "0.2"), "needs --direction FILE"),
        (("rollout", "bandit:ucb1", "BanditGausian5"), "did you mean 'BanditGaussian5'"),
        (("train", "flow-medium", "PresButton", "--out", "there"), "did you mean 'PressButton'"),
        (("show", "missing.safetensors"), "missing.safetensors"),
        (("doctor", "lm:x"), "did you mean 'llm'"),
        (("demos", "PresButton"), "did you mean 'PressButton'"),
        (("demos", "PressButton", "--episodes", "0"), "at least 1, got 0"),
    ],
)
def test_a_mistake_gives_one_clear_message_and_no_traceback(
    args: tuple[str, ...], message: str, run: Callable[..., Done]
) -> None:
    done = run(*args)
    assert done.code == 2
    assert message in " ".join(done.err.split())
    assert "Traceback" not in done.err


def test_rollouts_from_the_shell_are_compared_in_pairs(run: Callable[..., Done]) -> None:
    for agent in ("ucb1", "uniform"):
        done = run(
            "rollout",
            f"bandit:{agent}",
            "SteerAgents/BanditBernoulli4-v0",
            "--episodes",
            "12",
            "--out",
            agent,
            "--json",
        )
        assert done.code == 0, done.err
        assert json.loads(done.out)["errored"] == 0
    done = run("compare", "ucb1", "uniform", "--measure", "regret", "--json")
    result = json.loads(done.out)
    assert result["n"] == 12
    assert result["high"] < 0


def test_a_direction_is_found_shown_and_used_from_the_shell(
    tiny_llm: str, tmp_path: Path, run: Callable[..., Done]
) -> None:
    (tmp_path / "p.txt").write_text("Round 1: pressed blue\nRound 2: pressed blue\n")
    (tmp_path / "n.txt").write_text("Round 1: pressed red\nRound 2: pressed red\n")
    found = run(
        "find", tiny_llm, "mean-difference", "--positive", "p.txt", "--negative", "n.txt", "--out", "d.safetensors", "--layer", "0.5",
    )  # fmt: skip
    assert found.code == 0, found.err
    shown = json.loads(run("show", "d.safetensors", "--json").out)
    assert [site["site"] for site in shown["sites"]] == ["language.3.block_output"]
    assert shown["model"]["architecture"] == "llama"
    used = run(
        "rollout", tiny_llm, "SteerAgents/BanditLockIn2-v0", "--episodes", "2", "--direction", "d.safetensors", "--strength", "0.1",
        "--json",
    )  # fmt: skip
    assert used.code == 0, used.err
    assert 0 <= json.loads(used.out)["entropy_bits"] <= 1


def test_demonstrations_are_recorded_from_the_shell(run: Callable[..., Done]) -> None:
    args = ("demos", "PressButton", "--episodes", "1", "--obs-type", "state", "--style", "slowly", "--json")
    done = run(*args)
    assert done.code == 0, done.err
    made = json.loads(done.out)
    assert made["root"] == "runs/demos/PressButton-slowly"
    assert made["tasks"][0]["instruction"] == "press the button slowly"
    info = json.loads((Path(made["root"]) / "meta" / "info.json").read_text())
    assert info["total_frames"] == made["frames"] == made["tasks"][0]["frames"]
    again = run(*args)
    assert again.code == 2
    assert "exists already" in again.err


def test_neurons_are_read_searched_and_saved_from_the_shell(run: Callable[..., Done], tiny_llm: str) -> None:
    done = run(
        "neurons",
        tiny_llm,
        "--concept",
        "red",
        "--top-k",
        "5",
        "--limit",
        "3",
        "--html",
        "n.html",
        "--out",
        "red.safetensors",
    )
    assert done.code == 0, done.err
    assert "neurons of language that say 'red'" in " ".join(done.out.split())
    assert "neurons of language" in Path("n.html").read_text()
    shown = json.loads(run("show", "red.safetensors", "--json").out)
    assert shown["method"] == "vocabulary"
    assert shown["info"]["concept"] == "red"
    rows = json.loads(run("neurons", tiny_llm, "--layers", "1", "3", "--limit", "4", "--json").out)
    assert len(rows) == 4
    assert {row["layer"] for row in rows} <= {1, 2}
    assert len(rows[0]["tokens"]) == 10
    for args, message in {
        ("--out", "x.safetensors"): "--out needs --concept",
        ("--concept", "gren"): "Nearest words that are: green",
        ("--layers", "0", "9"): "does not exist",
        ("--limit", "0"): "--limit must be at least 1",
    }.items():
        refused = run("neurons", tiny_llm, *args)
        assert refused.code == 2
        assert message in refused.err


def test_units_in_brackets_are_shown(run: Callable[..., Done], monkeypatch: pytest.MonkeyPatch) -> None:
    bar = {"name": "speed [m/s]", "value": 0.2, "interval": None, "bound": "< 1 [m/s]", "holds": True}
    results = {"bars": [bar], "verdict": "It is 0.2 [m/s]."}
    monkeypatch.setattr("launch.experiments.base.run_experiment", lambda *args, **options: results)
    done = run("experiment", "run", "vla-speed")
    assert done.code == 0, done.err
    assert done.out.count("[m/s]") == 3


@pytest.fixture
def buttons(tmp_path: Path) -> Path:
    """Prompts that say blue, and ones that say red."""
    for name, colour in (("p", "blue"), ("n", "red")):
        (tmp_path / f"{name}.txt").write_text("".join(f"Round {i}: pressed {colour}\n" for i in range(8)))
    return tmp_path


def test_maps_are_learned_and_values_chosen_from_the_shell(
    tiny_llm: str, buttons: Path, run: Callable[..., Done]
) -> None:
    sides = ("--positive", "p.txt", "--negative", "n.txt")
    learned = run("learn", tiny_llm, "linear-transport", *sides, "--out", "map.safetensors", "--json")
    assert json.loads(learned.out)[0]["holds"] == "AffineMap", learned.err
    place = ("--layer", "1", "--tokens", "all", "--set", 'settings={"steps": 4, "evaluate_every": 2}')
    assert run("learn", tiny_llm, "cdas", *sides, *place, "--out", "w.safetensors").code == 0
    assert run("find", tiny_llm, "mean-difference", *sides, "--out", "d.safetensors").code == 0
    chosen = run("calibrate", tiny_llm, "js-layers", *sides, "--json")
    assert sum(row["chosen"] for row in json.loads(chosen.out)) == 1, chosen.err
    value = ("--direction", "d.safetensors", "--inputs", "n.txt", "--set", "q=75", "--out", "d75.safetensors", "--json")
    rows = json.loads(run("calibrate", tiny_llm, "percentile", *value).out)
    carried = json.loads(run("show", "d75.safetensors", "--json").out)["sites"]
    assert [row["p75"] for row in rows] == pytest.approx([site["p75"] for site in carried])
    assert "use it from Python" in run("calibrate", tiny_llm, "two-sided").err.replace("\n", " ")
    assert (
        "no text file with prompts"
        in run("learn", tiny_llm, "lineas", *sides[:3], "none.txt", "--out", "m.safetensors").err
    )


def test_baked_models_are_written_from_the_shell_and_load_in_transformers(
    tiny_llm: str, buttons: Path, run: Callable[..., Done]
) -> None:
    from transformers import AutoModelForCausalLM

    sides = ("--positive", "p.txt", "--negative", "n.txt")
    assert run("find", tiny_llm, "mean-difference", *sides, "--layer", "1", "--out", "d.safetensors").code == 0
    done = run("bake", tiny_llm, "casal", "--direction", "d.safetensors", *sides, "--out", "casal", "--json")
    assert done.code == 0, done.err
    (buttons / "r.yaml").write_text(
        f"recipe: 1\npolicy: {tiny_llm}\nparts:\n  - {{add: d.safetensors, strength: 1, limits: [0, 2]}}\n"
    )
    assert run("bake", "r.yaml", "--out", "added", "--json").code == 0
    for folder in ("casal", "added"):
        assert AutoModelForCausalLM.from_pretrained(buttons / folder).num_parameters() > 0
