"""A learned noise policy (DSRL's actor) as a part of a steerer, and as a file.

    w = bound tanh(mu(s))                        deterministic
    w = bound tanh(mu(s) + sigma(s) e), e ~ N(0, 1)   sampled, each episode from its own seed

with s the standardised state. The file is `artifacts`' safetensors with a JSON header: sizes, noise map, bound, what is observed, the
fingerprint of the policy that it was learned on, and the recipe. It is no pickle, and reading it executes nothing.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from policies.base import Observation
from policies.errors import BadArtifact, BadInput, WrongModel, nearest
from policies.generative import GenerativePolicy, Sample
from steer_agents import artifacts
from steer_agents.fingerprint import differences, model_fingerprint
from steer_agents.noise.maps import NoiseMap, from_description
from steer_agents.noise.parts import check_noise_means_something
from steer_agents.noise.states import Flattened, StateReader, reader_from
from steer_agents.runs import jsonable, write_bytes
from steer_agents.sites import steerable

KIND = "noise policy"
_CLIP = 5.0
_LOG_STD = (-20.0, 2.0)
_ACTIVATIONS: Mapping[str, type[nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh}


@dataclass(frozen=True)
class ActorSizes:
    """Sizes of an actor.

    Args:
        n_states, n_noise: widths of input and output.
        hidden: widths between them.
        activation: "relu" or "tanh".
    """

    n_states: int
    n_noise: int
    hidden: tuple[int, ...]
    activation: str = "relu"

    def __post_init__(self) -> None:
        object.__setattr__(self, "hidden", tuple(self.hidden))
        if self.activation not in _ACTIVATIONS:
            raise BadInput(f"activation {self.activation!r} is unknown{nearest(self.activation, _ACTIVATIONS)}")


class NoiseActor(nn.Module):
    """(B, n_states) -> mean and log of the standard deviation before the tanh, (B, n_noise) each."""

    mean: torch.Tensor
    scale: torch.Tensor

    def __init__(self, sizes: ActorSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.register_buffer("mean", torch.zeros(sizes.n_states))
        self.register_buffer("scale", torch.ones(sizes.n_states))
        widths = [sizes.n_states, *sizes.hidden]
        layers: list[nn.Module] = []
        for before, after in itertools.pairwise(widths):
            layers += [nn.Linear(before, after), _ACTIVATIONS[sizes.activation]()]
        self.body = nn.Sequential(*layers)
        self.mu, self.log_std = nn.Linear(widths[-1], sizes.n_noise), nn.Linear(widths[-1], sizes.n_noise)

    def forward(self, states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        h = self.body(((states - self.mean) / self.scale).clamp(-_CLIP, _CLIP))
        return self.mu(h), self.log_std(h).clamp(*_LOG_STD)


@dataclass(eq=False)
class NoisePolicy:
    """Noise chosen by a learned actor, per chunk and observation.

    Args:
        actor: the network.
        noise_map, bound: as in training.
        reader: from observations to states, as in training.
        deterministic: the actor's mean; else it samples.
        model: fingerprint of the policy that it was learned on; another one is refused. Empty checks nothing.
        info: recipe, settings, scores: whatever belongs to it, JSON-able.
    """

    actor: NoiseActor
    noise_map: NoiseMap
    bound: float
    reader: StateReader
    deterministic: bool = True
    model: Mapping[str, Any] = field(default_factory=dict)
    info: Mapping[str, Any] = field(default_factory=dict)
    entrance: ClassVar[str] = "noise"

    def __post_init__(self) -> None:
        self._rngs: list[np.random.Generator] = []
        self._checked: Any = None

    def sampled(self) -> NoisePolicy:
        """The same policy, drawing from its distribution."""
        return replace(self, deterministic=False)

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        check_noise_means_something(policy)
        if self._checked is not policy:
            self._check(policy)
            self._checked = policy
        self._rngs = [np.random.default_rng([seed, 5]) for seed in seeds]

    def _check(self, policy: GenerativePolicy) -> None:
        if self.model and (lines := differences(self.model, fingerprint_of(policy))):
            raise WrongModel(
                f"the noise policy was learned on another policy: {'; '.join(lines)}. Learn one on this policy."
            )
        size = self.noise_map.size(policy.noise_shape)
        if size != self.actor.sizes.n_noise:
            raise BadInput(
                f"noise policy: {policy.name} starts from noise of shape {policy.noise_shape}, for which {self.noise_map} takes {size} "
                f"numbers; the actor gives {self.actor.sizes.n_noise}."
            )

    def choose(self, states: np.ndarray, normal: np.ndarray | None = None) -> torch.Tensor:
        """(B, n) states -> (B, d) noise in the box; `normal` is (B, d) standard normal, None takes the mean."""
        with torch.no_grad():
            mu, log_std = self.actor(torch.from_numpy(states))
            if normal is not None:
                mu = mu + log_std.exp() * torch.from_numpy(normal.astype(np.float32))
            chosen: torch.Tensor = self.bound * torch.tanh(mu)
            return chosen

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        states = self.reader(latest(observation, policy.n_obs_steps))
        normal = None
        if not self.deterministic:
            normal = np.stack([rng.standard_normal(self.actor.sizes.n_noise) for rng in self._rngs])
        w = self.choose(states, normal)
        return sample(observation, self.noise_map.expand(w, policy.noise_shape, noise))

    def describe(self) -> dict[str, Any]:
        import hashlib

        weights = b"".join(value.numpy().tobytes() for value in self.actor.state_dict().values())
        return {
            "noise": "learned",
            "deterministic": self.deterministic,
            "map": self.noise_map.describe(),
            "bound": self.bound,
            "reader": self.reader.describe(),
            "sha256": hashlib.sha256(weights).hexdigest(),
        }

    def save(self, path: str | Path) -> Path:
        """Write a `.safetensors` file, whole or not at all; returns its path."""
        path = Path(path).expanduser()
        if path.suffix != artifacts.SUFFIX:
            raise BadInput(f"save: a noise policy is written to a {artifacts.SUFFIX} file, got {str(path)!r}.")
        sizes = self.actor.sizes
        header = {
            "schema": artifacts.SCHEMA,
            "kind": KIND,
            "actor": {**vars(sizes), "hidden": list(sizes.hidden)},
            "map": self.noise_map.describe(),
            "bound": self.bound,
            "reader": self.reader.describe(),
            "deterministic": self.deterministic,
            "model": jsonable(self.model),
            "info": jsonable(self.info),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        tensors = {name: value.detach().cpu().contiguous().clone() for name, value in self.actor.state_dict().items()}
        return write_bytes(path, artifacts.encode(header, tensors))

    @classmethod
    def load(cls, path: str | Path, reader: StateReader | None = None) -> NoisePolicy:
        """Read what `save` wrote.

        Args:
            reader: needed where it was learned with a reader of one's own.
        Raises:
            BadArtifact: missing, damaged, changed, or no noise policy.
            BadInput: a reader of one's own is needed.
        """
        path = Path(path).expanduser()
        header, tensors = artifacts.read(path)
        if header.get("kind") != KIND:
            raise BadArtifact(
                f"{path} is an artifact, but no noise policy; directions are read with steer_agents.artifacts.load."
            )
        reader = reader or reader_from(header["reader"])
        if reader is None:
            raise BadInput(f"{path} was learned with a reader of its author's, {header['reader']}; pass reader=.")
        actor = NoiseActor(ActorSizes(**header["actor"]))
        try:
            actor.load_state_dict(dict(tensors))
        except RuntimeError as error:
            raise BadArtifact(f"{path}: its tensors do not fit the sizes in its header ({error}).") from error
        return cls(
            actor.eval(), from_description(header["map"]), float(header["bound"]), reader, bool(header["deterministic"]),
            header["model"], header["info"],
        )  # fmt: skip


def fingerprint_of(policy: GenerativePolicy) -> dict[str, Any]:
    """Which network a noise policy belongs to; empty for policies without one."""
    return {} if policy.module is None else dict(model_fingerprint(steerable(policy)))


def latest(observation: Observation, n_obs_steps: int) -> Observation:
    """The last of the steps that an observation holds."""
    if n_obs_steps == 1:
        return observation
    made: dict[str, Any] = {}
    for key, value in observation.items():
        made[key] = (
            latest(value, n_obs_steps)
            if isinstance(value, Mapping)
            else value[:, -1]
            if isinstance(value, np.ndarray)
            else value
        )
    return made


def from_sb3(model: Any, noise_map: NoiseMap, bound: float, reader: StateReader) -> NoisePolicy:
    """The averaged actor of a `DSRLSAC` (or the actor of SB3's SAC with our networks) as a part; its copy, not a view."""
    actor = getattr(model, "averaged_actor", model.policy.actor)
    hidden = [layer.out_features for layer in actor.latent_pi if isinstance(layer, nn.Linear)]
    activation = next((name for name, kind in _ACTIVATIONS.items() if actor.activation_fn is kind), "")
    sizes = ActorSizes(
        int(model.observation_space.shape[0]), int(model.action_space.shape[0]), tuple(hidden), activation
    )
    made = NoiseActor(sizes)
    made.body.load_state_dict(actor.latent_pi.state_dict())
    made.mu.load_state_dict(actor.mu.state_dict())
    made.log_std.load_state_dict(actor.log_std.state_dict())
    made.mean.copy_(actor.features_extractor.mean)
    made.scale.copy_(actor.features_extractor.scale)
    return NoisePolicy(made.eval(), noise_map, bound, reader)


__all__ = ["ActorSizes", "Flattened", "NoiseActor", "NoisePolicy", "from_sb3", "latest"]
