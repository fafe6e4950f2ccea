"""Policies trained with stable-baselines3, as `MLPPolicy`: "sb3:FILE.zip", or `from_model(model)`.

A zip that SB3 saved holds the weights (`policy.pth`, read with `weights_only=True`) and pickled Python objects, which are
never read here: what the sizes do not tell has to be said (`activation`, `keys`). Covered are the MLP policies of SAC and
PPO on a flat or Dict state with a Box action space of [-1, 1]^A, and PPO on Discrete actions.

What SB3 computes is reproduced exactly: `squashed-gaussian` for SAC, `gaussian` and `categorical` for PPO; observations are
not normalised (unwrap `VecNormalize` into the first layer with `normalised_by`). A policy that was trained on some entries of
an observation and some axes of an action acts on whole ones after `widened`.
"""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from policies.errors import BadArtifact, BadInput
from policies.mlp import MLP, MLPConfig, MLPPolicy
from policies.mlp.heads import LOG_STD_RANGE

_BODIES = {"actor.latent_pi.": "squashed-gaussian", "mlp_extractor.policy_net.": "gaussian"}
_ACTIVATIONS = {"squashed-gaussian": "relu", "gaussian": "tanh", "categorical": "tanh"}
"""SB3's defaults."""


def from_state(
    state: Mapping[str, torch.Tensor], activation: str | None = None, keys: Sequence[str] = (), name: str = "sb3"
) -> MLPPolicy:
    """Build the policy from the state dict of an SB3 policy.

    Args:
        state: of `model.policy`.
        activation: of the hidden layers; None takes SB3's default (ReLU for SAC, tanh for PPO).
        keys: of a Dict observation, in the order in which SB3 flattens them (that of the space: alphabetical).
        name: of the policy.
    Raises:
        BadArtifact: this is no MLP policy of SAC or PPO.
    """
    prefix = next((prefix for prefix in _BODIES if any(key.startswith(prefix) for key in state)), None)
    if prefix is None:
        raise BadArtifact(
            f"{name}: expected an SB3 MLP policy of SAC or PPO (tensors below {' or '.join(_BODIES)}), got tensors "
            f"{sorted(state)[:5]}."
        )
    body = sorted({int(key[len(prefix) :].split(".")[0]) for key in state if key.startswith(prefix)})
    layers = [(state[f"{prefix}{i}.weight"], state[f"{prefix}{i}.bias"]) for i in body]
    head = _BODIES[prefix]
    if head == "squashed-gaussian":
        parts = [(state[f"actor.{part}.weight"], state[f"actor.{part}.bias"]) for part in ("mu", "log_std")]
        layers.append((torch.cat([w for w, _ in parts]), torch.cat([b for _, b in parts])))
    else:
        layers.append((state["action_net.weight"], state["action_net.bias"]))
        head = head if "log_std" in state else "categorical"
    log_std = tuple(state["log_std"].tolist()) if head == "gaussian" else ()
    config = MLPConfig(
        n_inputs=layers[0][0].shape[1],
        n_outputs=layers[-1][0].shape[0],
        hidden=tuple(weight.shape[0] for weight, _ in layers[:-1]),
        activation=activation or _ACTIVATIONS[head],
        head=head,
        keys=tuple(keys),
        log_std=log_std,
    )
    network = MLP(config)
    named = {f"net.{2 * i}": layer for i, layer in enumerate(layers)}
    tensors = {
        f"{place}.{part}": layer[j] for place, layer in named.items() for j, part in enumerate(("weight", "bias"))
    }
    network.load_state_dict(tensors)
    return MLPPolicy(network, config, name=name)


def from_model(model: Any, name: str = "sb3") -> MLPPolicy:
    """Convert a loaded SB3 model (SAC or PPO with an MLP policy); activation and keys are read off it."""
    names = {"Tanh": "tanh", "ReLU": "relu", "GELU": "gelu", "SiLU": "silu"}
    activation = names.get(model.policy.activation_fn.__name__)
    if activation is None:
        raise BadInput(f"{name}: activation {model.policy.activation_fn.__name__} is not among {sorted(names)}.")
    space = model.action_space
    if hasattr(space, "low") and not (np.all(space.low == -1) and np.all(space.high == 1)):
        raise BadInput(
            f"{name}: expected an action space of [-1, 1], got {space}; wrap the environment in RescaleAction."
        )
    keys = tuple(getattr(model.observation_space, "spaces", ()))
    return from_state(model.policy.state_dict(), activation, keys, name)


def normalised_by(policy: MLPPolicy, mean: np.ndarray, std: np.ndarray) -> MLPPolicy:
    """The policy on raw observations, for one that was trained on (observation - mean) / std.

    Folded into the first layer exactly; `VecNormalize` also clips at 10 standard deviations, which this does not.

    Args:
        mean, std: (n_inputs,).
    """
    network = MLP(policy.config)
    assert policy.module is not None
    network.load_state_dict(policy.module.state_dict())
    first = network.net[0]
    assert isinstance(first, torch.nn.Linear)
    with torch.no_grad():
        weight = first.weight.double() / torch.as_tensor(std, dtype=torch.float64)
        first.bias.copy_(first.bias.double() - weight @ torch.as_tensor(mean, dtype=torch.float64))
        first.weight.copy_(weight)
    return MLPPolicy(network, replace(policy.config), name=policy.name)


def widened(
    policy: MLPPolicy, n_inputs: int, inputs: Mapping[int, float], actions: Sequence[int], constants: Sequence[float],
    keys: Sequence[str] = (),
) -> MLPPolicy:  # fmt: skip
    """The policy on whole observations and actions, for one that was trained on a part of both.

    Folded into the first and the last layer exactly: entries of the observation that it never saw get zero weights, axes of
    the action that it never moved a constant mean and the least log_std (e^-20, so a constant of the Gaussian up to 2e-9;
    these axes take part in `entropy_bits`).

    Args:
        n_inputs: width of the whole observation.
        inputs: place in the whole observation -> factor, in the order of the policy's own inputs.
        actions: axes of the whole action that the policy moves, in its own order.
        constants: (A,) the whole action where it does not.
        keys: of a Dict observation that are flattened.
    Raises:
        BadInput: widths that do not fit, or a policy without a Gaussian head.
    """
    config, wide = policy.config, len(constants)
    squashed = config.head == "squashed-gaussian"
    if config.head not in ("gaussian", "squashed-gaussian"):
        raise BadInput(
            f"{policy.name}: only policies with a Gaussian head can be widened, this one is {config.head!r}."
        )
    n_actions = config.n_outputs // 2 if squashed else config.n_outputs
    if (len(inputs), len(actions)) != (config.n_inputs, n_actions):
        raise BadInput(
            f"{policy.name}: expected places for {config.n_inputs} inputs and {n_actions} actions, got {len(inputs)} and "
            f"{len(actions)}."
        )
    if not all(0 <= place < n_inputs for place in inputs) or not all(0 <= axis < wide for axis in actions):
        raise BadInput(
            f"{policy.name}: inputs must lie in 0..{n_inputs - 1} and actions in 0..{wide - 1}, got {sorted(inputs)} "
            f"and {sorted(actions)}."
        )
    least = LOG_STD_RANGE[0]
    log_std = np.full(wide, least)
    if not squashed:
        log_std[list(actions)] = config.log_std
    whole = replace(
        config, n_inputs=n_inputs, n_outputs=2 * wide if squashed else wide, keys=tuple(keys),
        log_std=() if squashed else tuple(log_std.tolist()),
    )  # fmt: skip
    assert policy.module is not None
    state = {key: value.clone() for key, value in policy.module.state_dict().items()}
    first, last = "net.0", f"net.{2 * len(config.hidden)}"
    seen = torch.zeros(state[f"{first}.weight"].shape[0], n_inputs)
    seen[:, list(inputs)] = state[f"{first}.weight"] * torch.tensor(list(inputs.values()))
    mean = np.asarray(constants, dtype=np.float64)
    if squashed:
        with np.errstate(divide="ignore"):
            mean = np.arctanh(mean.clip(-1, 1)).clip(least, -least)  # tanh(20) is 1
    bias = torch.as_tensor(np.concatenate([mean, np.full(wide, least)]) if squashed else mean, dtype=torch.float32)
    weight = torch.zeros(len(bias), state[f"{last}.weight"].shape[1])
    rows = [*actions, *(wide + axis for axis in actions)] if squashed else list(actions)
    weight[rows], bias[rows] = state[f"{last}.weight"], state[f"{last}.bias"]
    network = MLP(whole)
    network.load_state_dict(state | {f"{first}.weight": seen, f"{last}.weight": weight, f"{last}.bias": bias})
    return MLPPolicy(network, whole, name=policy.name)


def load(argument: str, activation: str | None = None, keys: Sequence[str] = ()) -> MLPPolicy:
    """Load "sb3:FILE.zip" without unpickling anything.

    Args:
        activation, keys: see `from_state`.
    Raises:
        BadArtifact: no zip of SB3, or another algorithm's.
    """
    path = Path(argument)
    try:
        with zipfile.ZipFile(path) as archive:
            state = torch.load(io.BytesIO(archive.read("policy.pth")), map_location="cpu", weights_only=True)
    except (OSError, KeyError, zipfile.BadZipFile, pickle.UnpicklingError) as error:
        raise BadArtifact(f"{argument!r} is no zip written by stable-baselines3's save ({error}).") from error
    return from_state(state, activation, keys, name=path.stem)
