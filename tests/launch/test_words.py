"""What the READMEs say is true: every registered name has its row, every folder its README, and the examples run."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import gymnasium as gym
import pytest
import torch

import envs
import policies
import steer_agents as sa
from launch.experiments.registry import EXPERIMENTS
from launch.rebuild.registry import RECIPES
from policies.mlp import MLP, MLPConfig
from steer_agents.methods import KINDS, METHODS
from steer_agents.sites import Site

ROOT = Path(__file__).parents[2]
assert envs.__name__  # importing it registers the environments


def words(path: str) -> str:
    return (ROOT / path).read_text()


@pytest.mark.parametrize(
    ("path", "names"),
    [
        ("launch/experiments/README.md", list(EXPERIMENTS)),
        ("launch/rebuild/README.md", list(RECIPES)),
        ("policies/README.md", [f"{family}:" for family in policies.families()]),
        ("README.md", list(EXPERIMENTS)),
    ],
)
def test_every_registered_name_has_its_row(path: str, names: list[str]) -> None:
    missing = [name for name in names if name not in words(path)]
    assert not missing, f"{path} does not name {missing}"


@pytest.mark.parametrize("name", METHODS)
def test_every_method_exists_says_its_source_and_has_its_row(name: str) -> None:
    one = METHODS[name]
    found = one.load()
    module = importlib.import_module(one.where.partition(":")[0])
    told = f"{module.__doc__} {found.__doc__}"
    assert found.__doc__
    for number in re.findall(r"\d{4}\.\d{5}", one.paper):
        assert number in told, f"{name}: neither {one.where} nor its module cites arXiv {number}"
    if one.inspired:
        assert "inspired by" in told.lower(), f"{name}: only its abstract was known; the docstring must say so"
    places = [
        ROOT / f"{module.__name__.rpartition('.')[0].replace('.', '/')}/README.md",
        ROOT / "steer_agents/README.md",
    ]
    assert any(f"`{name}`" in place.read_text() for place in places if place.exists()), (
        f"no README has a row for {name}"
    )
    assert one.kind in KINDS


def test_the_example_of_a_new_method_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file, row = re.findall(r"```python\n(.*?)```", words("steer_agents/README.md"), re.DOTALL)
    (tmp_path / "my_methods.py").write_text(file)
    monkeypatch.syspath_prepend(tmp_path)
    before = dict(METHODS)
    monkeypatch.setattr("steer_agents.methods.METHODS", before)
    exec(row, {})  # our own README, not generated text
    model = MLP(MLPConfig(8, 2, (4,)))
    x = torch.randn(40, 8)
    planted = torch.nn.functional.one_hot(torch.tensor(3), 8).float()
    found = sa.find(
        model,
        "median-difference",
        positive=[x + 2 * planted],
        negative=[x - 2 * planted],
        site=Site("mlp_neurons", layer=0),
    )
    assert float(found.vector("policy.0.mlp_neurons") @ planted) > 0.95


def test_every_environment_is_named_in_its_folder() -> None:
    text = words("envs/bandits/README.md")
    ids = [name for name in gym.registry if name.startswith("SteerAgents/Bandit")]
    assert len(ids) > 10
    missing = [name for name in ids if re.sub(r"(Text)?-v\d+$", "", name.removeprefix("SteerAgents/")) not in text]
    assert not missing


def test_every_folder_with_code_has_a_readme() -> None:
    tops = ("steer_agents", "policies", "envs", "launch", "bench")
    files = [path.relative_to(ROOT) for top in tops for path in (ROOT / top).rglob("*.py")]
    packages = {ROOT / path.parent for path in files if not any(part.startswith(".") for part in path.parts)}
    without = [
        str(folder.relative_to(ROOT))
        for folder in packages
        if not any((up / "README.md").exists() for up in (folder, folder.parent))
    ]
    assert not without


def test_every_public_name_resolves_and_is_documented() -> None:
    undocumented = [name for name in sa.__all__ if not (getattr(sa, name).__doc__ or "").strip()]
    assert not undocumented
    with pytest.raises(AttributeError, match="no attribute 'stear'"):
        _ = sa.stear


def test_make_help_lists_the_words_that_the_readme_names() -> None:
    makefile = words("Makefile")
    for word in re.findall(r"make ([a-z-]+)", words("README.md")):
        assert re.search(rf"^{word}:.*## ", makefile, re.MULTILINE), f"make {word} is not in make help"


def test_the_readme_example_runs(tiny_llm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = re.search(r"```python\n(.*?)```", words("README.md"), re.DOTALL)
    assert code is not None
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    exec(code[1].replace("llm:smollm2-135m", tiny_llm), names)  # our own README, not generated text
    assert (tmp_path / "bold.safetensors").exists()
    assert len(names["steered"].episodes) == 8  # type: ignore[attr-defined]


def test_the_lock_is_plain_and_complete() -> None:
    lines = words("requirements.lock").splitlines()
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.+!]+( ; .+)?", line) for line in lines)
    pinned = {line.split("==")[0].lower() for line in lines}
    asked = re.findall(r"^([A-Za-z0-9_-]+)", words("requirements.in"), re.MULTILINE)
    assert {name.lower().replace("_", "-") for name in asked} <= pinned
