"""Fingerprints: which model, which data. An artifact carries both, so that it is not used on another model unseen."""

from __future__ import annotations

import hashlib
import json
import weakref
from collections.abc import Mapping
from typing import Any

import torch

from steer_agents.sites import Steerable

SAMPLES_PER_TENSOR = 64
_known: weakref.WeakKeyDictionary[Any, tuple[int, dict[str, Any]]] = weakref.WeakKeyDictionary()


def model_fingerprint(target: Steerable) -> dict[str, Any]:
    """Describe a model: class, type, parameter count, depth of each stack, and a hash of sampled weights.

    The hash takes up to 64 evenly spaced values of every parameter, rounded to bfloat16, so that a checkpoint loaded in
    float32 or bfloat16 has one fingerprint. It tells checkpoints apart; it is no cryptographic seal.
    """
    module = target.module
    version = _version(target)
    if module in _known and _known[module][0] == version:
        return _known[module][1]
    digest = hashlib.sha256()
    n_parameters = 0
    for name, parameter in sorted(module.named_parameters()):
        n_parameters += parameter.numel()
        flat = parameter.detach().reshape(-1)
        step = max(1, flat.numel() // SAMPLES_PER_TENSOR)
        values = flat[::step][:SAMPLES_PER_TENSOR].to("cpu", torch.bfloat16).contiguous()
        digest.update(f"{name}{tuple(parameter.shape)}".encode())
        digest.update(values.view(torch.int16).numpy().tobytes())
    fingerprint = {
        "class": type(module).__name__,
        "architecture": target.site_map.name,
        "parameters": n_parameters,
        "depth": {name: target.depth(name) for name in target.site_map.stacks},
        "weights": digest.hexdigest()[:16],
    }
    _known[module] = (version, fingerprint)
    return fingerprint


def pin_fingerprint(target: Steerable, fingerprint: dict[str, Any]) -> None:
    """Let a model keep a fingerprint although its weights were just changed: a baked model is still the same model."""
    _known[target.module] = (_version(target), fingerprint)


def _version(target: Steerable) -> int:
    """Changes whenever a parameter is written or replaced."""
    return hash(tuple((id(parameter), parameter._version) for parameter in target.module.parameters()))


def data_fingerprint(*parts: Any) -> str:
    """A short hash of JSON-able data and tensors, in order."""
    digest = hashlib.sha256()
    for part in parts:
        if torch.is_tensor(part):
            digest.update(part.detach().cpu().contiguous().double().numpy().tobytes())
        else:
            digest.update(json.dumps(part, sort_keys=True, default=str).encode())
    return digest.hexdigest()[:16]


def differences(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """Lines "key: expected X, got Y" for everything that differs between two fingerprints."""
    keys = sorted(expected.keys() | found.keys())
    return [f"{k}: made for {expected.get(k)!r}, got {found.get(k)!r}" for k in keys if expected.get(k) != found.get(k)]
