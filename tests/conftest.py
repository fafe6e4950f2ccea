"""Settings of every test: no network, one torch thread, reproducible examples."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# The folders tests/steer_agents, tests/policies and tests/envs must not pass for the packages of the same name.
sys.path.insert(0, str(Path(__file__).parents[1]))

import pytest
import torch
from hypothesis import settings

torch.set_num_threads(1)
settings.register_profile("project", deadline=None, derandomize=True, max_examples=40, print_blob=True)
settings.load_profile("project")


def pytest_configure(config: pytest.Config) -> None:
    """Mark the tests that need hf-libero."""
    config.addinivalue_line("markers", "libero: needs hf-libero, run by `make test-libero` (`pytest -m libero`)")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """LIBERO and the tabletop's pictures cannot be in one process: LIBERO's tests run when they are asked for by name."""
    from envs.libero.install import find_assets, is_installed

    asked = "libero" in (config.getoption("-m") or "")
    reason = "LIBERO's tests run apart from the tabletop's pictures: `make test-libero`, or pytest -m libero"
    if asked and not is_installed():
        reason = "hf-libero is not installed: make setup-libero"
    elif asked and find_assets() is None:
        reason = "LIBERO's assets were not found: make setup-libero, or set STEER_AGENTS_LIBERO_ASSETS"
    elif asked:
        return
    for item in items:
        if "libero" in item.keywords and item.get_closest_marker("libero"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    """Every test draws the same weights and inputs, whatever ran before it in its worker."""
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def can_draw() -> None:
    """Skips what needs pictures on a machine without OpenGL, and says so."""
    from envs.errors import NoRenderer
    from envs.tabletop.env import TabletopEnv

    env = TabletopEnv("PressButton")
    env.reset(seed=0)
    try:
        env.picture("agentview", 16, 16)
    except NoRenderer as error:
        pytest.skip(str(error))
    finally:
        env.close()
