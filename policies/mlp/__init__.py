"""Plain multi-layer perceptrons: the usual network of an RL policy, on any Box or Dict observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from policies.base import Decision, Observation, Policy
from policies.errors import BadInput, nearest
from policies.site_maps import site_map_for

ACTIVATIONS: dict[str, type[nn.Module]] = {"tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU}
HEADS = ("categorical", "deterministic")


@dataclass(frozen=True)
class MLPConfig:
    """Sizes of an MLP policy.

    Args:
        n_inputs: width of the flattened observation.
        n_outputs: number of actions ("categorical") or action dimensions ("deterministic").
        hidden: widths of the hidden layers.
        activation: a name in `ACTIVATIONS`.
        head: "categorical" draws an action from softmax(outputs / temperature), "deterministic" gives tanh(outputs) in
            [-1, 1].
        keys: which entries of a Dict observation are flattened, in this order; () takes a plain array.
    """

    n_inputs: int
    n_outputs: int
    hidden: tuple[int, ...] = (64, 64)
    activation: str = "tanh"
    head: str = "categorical"
    keys: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise BadInput(f"activation {self.activation!r} is unknown{nearest(self.activation, ACTIVATIONS)}")
        if self.head not in HEADS:
            raise BadInput(f"head {self.head!r} is unknown{nearest(self.head, HEADS)}")
        if min(self.n_inputs, self.n_outputs, *self.hidden) < 1:
            raise BadInput(f"all sizes must be positive, got {self.n_inputs}, {self.hidden}, {self.n_outputs}.")


class MLP(nn.Module):
    """Linear, activation, ..., Linear; (B, n_inputs) -> (B, n_outputs)."""

    def __init__(self, config: MLPConfig) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        width = config.n_inputs
        for hidden in config.hidden:
            layers += [nn.Linear(width, hidden), ACTIVATIONS[config.activation]()]
            width = hidden
        self.net = nn.Sequential(*layers, nn.Linear(width, config.n_outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, n_inputs) -> (B, n_outputs)."""
        out: torch.Tensor = self.net(x)
        return out


class MLPPolicy(Policy):
    """A policy on an `MLP`; all sites of the map `mlp.toml`."""

    entrances = frozenset({"modules", "decision"})

    def __init__(self, network: MLP, config: MLPConfig, name: str = "mlp") -> None:
        super().__init__()
        self.name = name
        self.config = config
        self.module = network.eval()
        self.site_map = site_map_for(network)
        self.temperature = 1.0
        self._rngs: list[np.random.Generator] = []

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        """Only `temperature` (of the categorical head)."""
        if set(settings) != {"temperature"} or self.config.head != "categorical":
            raise BadInput(
                f"{self.name}: decision settings are ['temperature'] of a categorical head, got {sorted(settings)}."
            )
        old = self.temperature
        self.temperature = float(settings["temperature"])
        return {"temperature": old}

    def describe(self) -> dict[str, Any]:
        return {"name": self.name, "config": vars(self.config), "temperature": self.temperature}

    def encode(self, inputs: Sequence[Any]) -> list[Any]:
        """Observations (arrays of width n_inputs) -> one batch tensor."""
        return [torch.as_tensor(np.stack([np.asarray(entry, dtype=np.float32).ravel() for entry in inputs]))]

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        self._rngs = [np.random.default_rng([seed, 1]) for seed in seeds]

    def _flatten(self, observation: Observation) -> torch.Tensor:
        if self.config.keys:
            parts = [np.asarray(observation[key], dtype=np.float32) for key in self.config.keys]
            x = np.concatenate([part.reshape(len(self._rngs), -1) for part in parts], axis=1)
        else:
            x = np.asarray(observation, dtype=np.float32).reshape(len(self._rngs), -1)
        if x.shape[1] != self.config.n_inputs:
            raise BadInput(f"{self.name}: expected observations of width {self.config.n_inputs}, got {x.shape[1]}.")
        return torch.from_numpy(x)

    @torch.no_grad()
    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        assert self.module is not None
        outputs = self.module(self._flatten(observation))
        if self.config.head == "deterministic":
            return Decision(torch.tanh(outputs).numpy())
        p = torch.softmax(outputs.double() / self.temperature, dim=-1).numpy()
        uniform = np.array([rng.random() for rng in self._rngs])
        action = (p.cumsum(1) < uniform[:, None]).sum(1).clip(max=p.shape[1] - 1)
        entropy = -(p * np.log2(np.clip(p, 1e-300, None))).sum(1)
        return Decision(action, {"entropy_bits": entropy, "probabilities": p})


def load(argument: str, **options: Any) -> MLPPolicy:
    """Load "mlp:<folder>": its `config.json` and `model.safetensors`; see `save`."""
    import json

    from safetensors.torch import load_file

    folder = Path(argument)
    if not (folder / "config.json").is_file():
        raise BadInput(f"mlp policy: {argument!r} has no config.json; pass a folder written by policies.mlp.save.")
    raw: dict[str, Any] = json.loads((folder / "config.json").read_text())
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()}
    config = MLPConfig(**fields)
    network = MLP(config)
    network.load_state_dict(load_file(folder / "model.safetensors"))
    return MLPPolicy(network, config, name=f"mlp:{folder.name}", **options)


def save(policy: MLPPolicy, folder: str | Path) -> None:
    """Write `config.json` and `model.safetensors`."""
    import json

    from safetensors.torch import save_file

    assert policy.module is not None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(policy.module.state_dict(), folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(vars(policy.config), indent=1))
