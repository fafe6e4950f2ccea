"""Who may import whom, read from the source; and that `import steer_agents` stays light.

launch -> steer_agents -> policies.base, policies.generative, policies.errors, policies.site_maps
   |----> policies/<family>
   |----> envs
"""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("envs", "policies", "steer_agents", "launch", "tests")

# package -> what it may import of this project, as module prefixes
ALLOWED: dict[str, tuple[str, ...]] = {
    "envs": ("envs",),
    "policies": ("policies",),
    "steer_agents": ("steer_agents", "policies.base", "policies.generative", "policies.errors", "policies.site_maps"),
    "launch": ("launch", "steer_agents", "policies", "envs"),
}


def imported(source: str, package: str) -> set[str]:
    """Full names of all modules that a source text imports, also inside functions; "from a import b" gives a.b."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            names.update(f"{module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, (ast.Attribute, ast.Name)):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
            if called in ("import_module", "__import__") and node.args and isinstance(node.args[0], ast.Constant):
                names.add(str(node.args[0].value))
    return names


def breaches(package: str, files: dict[str, str]) -> list[str]:
    """Lines "file imports module" for all imports of this project that the package may not have."""
    found = []
    for file, source in files.items():
        for name in sorted(imported(source, file.rpartition("/")[0].replace("/", "."))):
            if name.split(".")[0] in OURS and not any(
                name == prefix or name.startswith(prefix + ".") for prefix in ALLOWED[package]
            ):
                found.append(f"{file} imports {name}")
    return found


def sources(package: str) -> dict[str, str]:
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in sorted((ROOT / package).rglob("*.py"))}


@pytest.mark.parametrize("package", ALLOWED)
def test_imports_point_in_the_allowed_direction_only(package: str) -> None:
    files = sources(package)
    assert files, f"no source in {package}"
    assert breaches(package, files) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("envs", "import policies"),
        ("envs", "from policies.base import Policy"),
        ("envs", "def f():\n    import steer_agents.loop"),
        ("policies", "from envs import bandits"),
        ("policies", "import numpy, steer_agents"),
        ("policies", "import importlib\nimportlib.import_module('launch.cli')"),
        ("steer_agents", "from policies.llm_agent import LLMAgent"),
        ("steer_agents", "from policies import mlp"),
        ("steer_agents", "import policies"),
        ("steer_agents", "from launch import cli"),
        ("steer_agents", "import tests.tiny_models"),
        ("launch", "from tests import tiny_models"),
    ],
)
def test_a_planted_breach_is_found(package: str, source: str) -> None:
    assert len(breaches(package, {f"{package}/planted.py": source})) == 1


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("steer_agents", "from policies.base import Policy\nfrom policies import errors\nimport torch"),
        ("steer_agents", "from .sites import Site\nfrom . import tokens"),
        ("envs", "import envsubst, numpy"),
        ("launch", "import envs, policies.llm_agent, steer_agents as sa"),
    ],
)
def test_what_is_allowed_is_not_reported(package: str, source: str) -> None:
    assert breaches(package, {f"{package}/planted.py": source}) == []


@pytest.mark.parametrize("package", ["steer_agents", "policies", "policies.base", "policies.registry"])
def test_importing_a_package_loads_no_heavy_library(package: str) -> None:
    heavy = ["torch", "transformers", "sklearn", "scipy", "pandas", "matplotlib", "gymnasium"]
    code = f"import sys, {package}; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_public_names_exist() -> None:
    import steer_agents as sa

    assert "steer" in sa.__all__
    missing = []
    for name in sa.__all__:
        try:
            getattr(sa, name)
        except (ImportError, AttributeError) as error:
            missing.append(f"{name}: {error}")
    assert missing == []
    assert set(sa.__all__) <= set(dir(sa))
    with pytest.raises(AttributeError, match="has no attribute 'stear'"):
        sa.stear  # noqa: B018
