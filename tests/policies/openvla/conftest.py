from __future__ import annotations

from pathlib import Path

import pytest
import torch
from openvla_parts import CONFIG, DINO, SIGLIP, Checkpoint, make_policy, random_tensors, tiny_tokenizer

from policies.openvla import OpenVLAModel, OpenVLAPolicy
from policies.openvla.config import parse


@pytest.fixture(scope="session")
def tensors() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return random_tensors()


@pytest.fixture
def checkpoint(tmp_path: Path, tensors: dict[str, torch.Tensor]) -> Checkpoint:
    made = Checkpoint(tmp_path, dict(tensors))
    made.config()
    made.write()
    tiny_tokenizer().save(str(tmp_path / "tokenizer.json"))
    return made


@pytest.fixture(scope="session")
def model(tensors: dict[str, torch.Tensor]) -> OpenVLAModel:
    """The same weights in float32, built without a file. Tests leave it as it was."""
    model = OpenVLAModel(parse(CONFIG), DINO, SIGLIP).eval().requires_grad_(False)
    named = {key.replace(".scale_factor", ".gamma"): value.float() for key, value in tensors.items()}
    model.load_state_dict({name: named[name] for name in model.state_dict()})
    return model


@pytest.fixture
def policy(model: OpenVLAModel) -> OpenVLAPolicy:
    return make_policy(model)
