"""A value of states without a critic: how near is where the agent is to where successes go? For choosing among samples and stopping early.

Source: goal-conditioned representations for reward models (arXiv 2407.13887), loss as in its released code. With phi a state's
representation and Q = cos(phi_s, phi_g):

    positive: a state and a *later* one of a success; negative: a state of a success and one of a failure; all pairs of 16 by 16
    L = L_rank + beta (-ln mean sigma(Q+) - ln(1 - mean sigma(Q-))),      beta 0.5       `log_mean_sigmoid`
    L_rank = -ln sigma(r(success) - r(failure)),   r linear on phi at the last state     a success ranked above a failure

The logarithm is of a mean and there is no temperature: as Q lies in [-1, 1], beta times the term starts at 0.693 (all Q zero) and
cannot fall below 0.313. `info_nce` is the usual alternative (van den Oord et al. 2018, arXiv 1807.03748), with a temperature.

In use: the goal is the mean normalised phi at the end of held-out successes, Q to it is the value of a state. It ranks samples
(`score`, for `noise.parts.BestOfN`), and ends episodes that are hopeless (`threshold`, `kept`).

We differ from the paper in: phi is a small network on features of a step (an observation, or activations of a frozen policy), not
a language model that is trained along; the goal comes from ends of successes, not from a prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.functional import cosine_similarity, logsigmoid, normalize, softplus

from policies.base import Observation
from policies.errors import BadInput, nearest
from steer_agents import kept
from steer_agents.fingerprint import data_fingerprint
from steer_agents.learning.trainer import Settings, draw, split, train

KIND = "contrastive value"
Features = Callable[[Observation, torch.Tensor, torch.Tensor], torch.Tensor]
"""(observation of R rows, their noise, their chunks) -> (R, D) features, as `fit` was given; see `noise.parts.Score`."""


def log_mean_sigmoid(positive: torch.Tensor, negative: torch.Tensor) -> torch.Tensor:
    """-ln mean sigma(Q+) - ln(1 - mean sigma(Q-)), over all given cosines."""
    return -positive.sigmoid().mean().log() - (1 - negative.sigmoid().mean()).log()


def info_nce(positive: torch.Tensor, negative: torch.Tensor, temperature: float = 0.1) -> torch.Tensor:
    """-ln exp(Q+/t) / (exp(Q+/t) + sum exp(Q-/t)), each positive (S, G) against the negatives (S, G') of its own state."""
    against = torch.logsumexp(negative / temperature, dim=1, keepdim=True)
    return softplus(against - positive / temperature).mean()


LOSSES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "log-mean-sigmoid": log_mean_sigmoid,
    "info-nce": info_nce,
}


@dataclass(frozen=True, eq=False)
class ContrastiveValue:
    """A fitted value.

    Args:
        tensors: of phi ("w0", "b0", "w1", "b1"), of the rank head ("r"), "mean" and "sd" of the features, and "goal" (E,).
        threshold: Q below which an episode is hopeless; None until it is set on calibration episodes.
        info: how it was fitted.
    """

    tensors: Mapping[str, torch.Tensor]
    threshold: float | None = None
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def width(self) -> int:
        """D, features per step."""
        return len(self.tensors["mean"])

    def embed(self, features: torch.Tensor) -> torch.Tensor:
        """(..., D) features -> (..., E) phi."""
        if features.shape[-1] != self.width:
            raise BadInput(f"contrastive value: fitted on {self.width} features a step, got {features.shape[-1]}.")
        return _embed(self.tensors, features.float())

    @torch.no_grad()
    def q(self, features: torch.Tensor) -> torch.Tensor:
        """(..., D) features -> (...) cosine to the goal, in [-1, 1]."""
        return cosine_similarity(self.embed(features), self.tensors["goal"], dim=-1)

    @torch.no_grad()
    def rank(self, features: torch.Tensor) -> torch.Tensor:
        """(..., D) features -> (...) the rank head's number: what `beta=0` has alone."""
        return self.embed(features) @ self.tensors["r"]

    def score(self, features: Features) -> Callable[[Observation, torch.Tensor, torch.Tensor], torch.Tensor]:
        """What `BestOfN(score)` ranks its candidates by."""
        return lambda observation, noise, chunks: self.q(features(observation, noise, chunks))

    def calibrated(self, successes: Sequence[torch.Tensor], lost: float = 0.02) -> ContrastiveValue:
        """With the largest threshold that ends at most this share of calibration successes.

        Args:
            successes: (T, D) features of episodes that were not fitted on; lost: in [0, 1).
        """
        if not successes or not 0 <= lost < 1:
            raise BadInput(
                f"contrastive value: needs successes and a share in [0, 1), got {len(successes)} and {lost}."
            )
        lowest = np.sort([float(self.q(one).min()) for one in successes])
        threshold = float(lowest[int(np.floor(lost * len(lowest)))])
        return ContrastiveValue(self.tensors, threshold, {**self.info, "lost": lost, "calibration": len(successes)})

    def kept(self, features: torch.Tensor) -> int:
        """Steps of an episode (T, D) that are taken before Q falls below the threshold: T if it never does."""
        if self.threshold is None:
            raise BadInput("contrastive value: no threshold yet; set it with `calibrated(successes)`.")
        hopeless = torch.nonzero(self.q(features) < self.threshold)
        return int(hopeless[0]) + 1 if len(hopeless) else len(features)

    def save(self, path: str | Path) -> Path:
        """Write one safetensors file."""
        return kept.save(path, KIND, {"threshold": self.threshold, "info": self.info}, self.tensors)

    @classmethod
    def load(cls, path: str | Path) -> ContrastiveValue:
        """Read one.

        Raises:
            BadArtifact: it is none.
        """
        return kept.load(path, KIND, lambda header, tensors: cls(tensors, header["threshold"], header["info"]))


def state_and_chunk(key: str) -> Features:
    """Features of a sample: the observation's entry `key` (R, ...), flat, and the chunk beside it."""

    def features(observation: Observation, noise: torch.Tensor, chunks: torch.Tensor) -> torch.Tensor:
        if key not in observation:
            raise BadInput(f"contrastive value: the observation has no {key!r}{nearest(key, observation)}")
        state = torch.as_tensor(np.asarray(observation[key])).to(chunks)
        return torch.cat([state.flatten(1), chunks.flatten(1)], dim=1)

    return features


def contrastive_value(
    successes: Sequence[torch.Tensor],
    failures: Sequence[torch.Tensor],
    *,
    loss: str = "log-mean-sigmoid",
    beta: float = 0.5,
    width: int = 32,
    embedding: int = 16,
    states: int = 16,
    share: float = 0.25,
    settings: Settings | None = None,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> ContrastiveValue:
    """Fit a value on features of finished episodes (arXiv 2407.13887).

    Args:
        successes, failures: (T, D) float features of each episode's steps; T may differ.
        loss: one of `LOSSES`; beta: its weight, 0 leaves the rank head alone.
        width, embedding: of phi, one hidden layer.
        states: drawn per episode, as sources and as goals.
        share: of the episodes that early stopping and the goal are read from.
        settings: of the training; `batch_size` is pairs of episodes.
        folder: of the run; an interrupted one goes on there.
    Raises:
        BadInput: unknown loss, too few episodes, or features of unequal width.
    """
    if loss not in LOSSES:
        raise BadInput(f"contrastive value: loss {loss!r} is unknown{nearest(loss, LOSSES)}")
    widths = {one.shape[-1] if one.dim() == 2 and len(one) >= 2 else -1 for one in (*successes, *failures)}
    if len(widths) != 1 or widths == {-1} or min(len(successes), len(failures)) < 4:
        raise BadInput(
            f"contrastive value: expected at least 4 successes and 4 failures of (T, D) features, T from 2, got {len(successes)} and "
            f"{len(failures)} with D in {sorted(widths)}."
        )
    settings = settings or Settings(steps=300, learning_rate=0.003)
    (won, won_held), (lost, lost_held) = (split(list(one), share, settings.seed) for one in (successes, failures))
    every = torch.cat([one.float() for one in (*won, *lost)])
    generator = torch.Generator().manual_seed(settings.seed)
    d = every.shape[1]
    fixed = {"mean": every.mean(0), "sd": every.std(0).clamp(min=1e-6)}
    shapes = {"w0": (d, width), "b0": (width,), "w1": (width, embedding), "b1": (embedding,), "r": (embedding,)}
    learnt = {
        name: (torch.randn(shape, generator=generator) * shape[0] ** -0.5 * (len(shape) > 1)).requires_grad_()
        for name, shape in shapes.items()
    }

    def value(good: Sequence[torch.Tensor], bad: Sequence[torch.Tensor]) -> torch.Tensor:
        tensors = {**fixed, **learnt}
        term = ranked = torch.zeros(())
        pairs = list(zip(good, bad, strict=False))
        episodes = [one for pair in pairs for one in pair]
        phis = _embed(tensors, torch.cat(episodes).float()).split([len(one) for one in episodes])
        for phi, phi_bad in zip(phis[::2], phis[1::2], strict=True):
            source = torch.randint(len(phi) - 1, (states,))
            later = source + 1 + (torch.rand(states) * (len(phi) - 1 - source)).long()
            s, g = normalize(phi[source], dim=-1), normalize(phi[later], dim=-1)
            wrong = normalize(phi_bad[torch.randint(len(phi_bad), (states,))], dim=-1)
            after = later[None, :] > source[:, None]
            q = s @ g.T
            positive = q[after] if loss == "log-mean-sigmoid" else q.diagonal()[:, None]
            term = term + LOSSES[loss](positive, s @ wrong.T)
            ranked = ranked - logsigmoid((phi[-1] - phi_bad[-1]) @ learnt["r"])
        return (ranked + beta * term) / len(pairs)

    done = train(
        learnt,
        lambda step: value(draw(won, settings.batch_size), draw(lost, settings.batch_size)),
        lambda: float(value(won_held, lost_held)),
        settings,
        folder,
        asked={"loss": loss, "beta": beta, "states": states, "data": data_fingerprint(*successes, "|", *failures)},
        title="contrastive value",
        progress=progress,
    )
    tensors = {**fixed, **{name: one.detach() for name, one in learnt.items()}}
    ends = torch.stack([_embed(tensors, one[-1].float()) for one in won_held])
    tensors["goal"] = normalize(normalize(ends, dim=-1).mean(0), dim=0)
    info = {
        **done.notes(),
        "loss": loss,
        "beta": beta,
        "seed": settings.seed,
        "episodes": [len(successes), len(failures)],
    }
    return ContrastiveValue(tensors, None, info)


def _embed(tensors: Mapping[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    x = (x - tensors["mean"]) / tensors["sd"]
    return torch.tanh(x @ tensors["w0"] + tensors["b0"]) @ tensors["w1"] + tensors["b1"]
