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
