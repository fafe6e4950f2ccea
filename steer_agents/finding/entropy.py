"""Entropic activation steering (EAST): the direction along which a policy's decisions get less certain.

Rahn, D'Oro, Bellemare, "Controlling Large Language Model Agents with Entropic Activation Steering", arXiv 2406.00244,
section 4. No official code was found. With z_t^k the residual stream at the last prompt token of step t in run k, h_t^k
the entropy [nats] of the action distribution there, and zbar^k the mean of z over run k:

    u = (1/Z) sum_k sum_t h_t^k (z_t^k - zbar^k),     Z = sum_k sum_t h_t^k

u is applied at the last position of every generation step (`tokens="last"`). Equivalently u is the within-run
covariance of h and z divided by the mean entropy. `center="run"`, `weights="entropy"` is the paper; the others are
ablations and controls.

We differ from the paper in: the entropy of a forced choice is exact instead of estimated from 25 samples (that stays
available with the sampled read-out); strengths default to alpha, the fraction of the mean activation norm, where the
paper's beta multiplies ||u||.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.fingerprint import data_fingerprint, model_fingerprint
from steer_agents.sites import Site, Steerable, head_columns, resolve, steerable

CENTERS = ("run", "global", "none")
WEIGHTS = ("entropy", "uniform", "shuffled")
LN2 = float(np.log(2.0))
_NOISE = 1e-9
"""Vectors below this share of E||h|| are rounding, not signal."""


@dataclass(frozen=True)
class Recording:
    """Decisions of R runs over T steps.

    Args:
        activations: location key -> (R, T, D) float32 at the last prompt token.
        entropy: (R, T) float64, nats.
        measures: name -> (R, T) or (R, T, K) arrays of the policy's other measures (action_mass, logits, ...).
    """

    activations: dict[str, torch.Tensor]
    entropy: np.ndarray
    measures: dict[str, np.ndarray]


def record(
    target: Any,
    prompts: Sequence[Sequence[str]],
    infos: Sequence[Mapping[str, Any]],
    site: Site | None = None,
    seed: int = 0,
    on_step: Callable[[], None] | None = None,
) -> Recording:
    """Replay R histories of T prompts through a policy, recording its decisions and the activations at each.

    Each run's prompts extend one another, so that a policy with a key-value cache encodes each token once. Works with
    any read-out that reports the measure `entropy_bits`.

    Args:
        target: a policy.
        prompts: R runs of T prompts.
        infos: R reset infos (action labels, prompt format).
        site: where to read; None records decisions only (then steering may be attached meanwhile).
        seed: of the policy's own draws; the actions that it draws are not used.
        on_step: called after each of the T steps, for progress.
    """
    place = steerable(target)
    policy = place.policy
    if policy is None:
        raise BadInput("record needs a policy (it asks for decisions), got a bare torch module.")
    lengths = {len(run) for run in prompts}
    if len(lengths) != 1 or len(prompts) != len(infos):
        raise BadInput(
            f"record: runs must have equal length and one info each; got lengths {sorted(lengths)}, {len(infos)} infos."
        )
    n_steps = lengths.pop()
    policy.reset([seed] * len(prompts), infos)
    kept: dict[str, list[torch.Tensor]] = {}
    measured: dict[str, list[np.ndarray]] = {}
    locations = [] if site is None else resolve(place, site)
    taps = [_LastToken(location, policy, kept) for location in locations]
    try:
        for tap in taps:
            tap.register()
        for t in range(n_steps):
            for tap in taps:
                tap.armed = True
            decision = policy.act({"prompt": tuple(run[t] for run in prompts)})
            for tap in taps:
                tap.check()
            for name, value in decision.measures.items():
                measured.setdefault(name, []).append(np.asarray(value))
            if on_step is not None:
                on_step()
    finally:
        for tap in taps:
            tap.remove()
    measures = {name: np.stack(values, axis=1) for name, values in measured.items()}
    if "entropy_bits" not in measures:
        raise BadInput(f"record: {policy.name} reports no 'entropy_bits'{nearest('entropy_bits', measures)}")
    entropy = np.asarray(measures["entropy_bits"], dtype=np.float64) * LN2
    return Recording({key: torch.stack(values, dim=1) for key, values in kept.items()}, entropy, measures)


class _LastToken:
    """Keeps the last position's activation of the pass that encodes the prompt, once per decision."""

    def __init__(self, location: Any, policy: Any, kept: dict[str, list[torch.Tensor]]) -> None:
        self.location, self.policy, self.kept = location, policy, kept
        self.armed = False
        self._handle: Any = None

    def register(self) -> None:
        module = self.location.module
        if self.location.side == "input":
            self._handle = module.register_forward_pre_hook(lambda m, args: self._keep(args[0]))
        else:
            self._handle = module.register_forward_hook(lambda m, args, output: self._keep(output))

    def _keep(self, value: Any) -> None:
        if self.armed and self.policy.context.phase != "decode":
            h = capture.read(self.location, value)
            columns = head_columns(self.location, h.shape[-1])
            h = h if columns is None else h[..., columns.to(h.device)]
            self.kept.setdefault(self.location.key, []).append(h[:, -1].detach().float().cpu().clone())
            self.armed = False

    def check(self) -> None:
        if self.armed:
            raise BadInput(f"record: {self.location.key} did not run while the policy decided; choose another site.")

    def remove(self) -> None:
        if self._handle is not None:
            self._handle.remove()


def entropy_vector(
    z: torch.Tensor, h: torch.Tensor, center: str = "run", weights: str = "entropy", seed: int = 0
) -> torch.Tensor:
    """The vector u of the module's docstring.

    Args:
        z: (R, T, D) activations.
        h: (R, T) entropies [nats].
        center: subtract the mean of the same run, of all prompts, or nothing.
        weights: the entropy, all ones, or the entropies dealt out again at random over all prompts (a control).
        seed: of the shuffle.
    Returns:
        (D,) float64. Uniform weights with run centring give exactly zero, as does an entropy that is constant over each
        run.
    """
    if center not in CENTERS:
        raise BadInput(f"center {center!r} is unknown{nearest(center, CENTERS)}")
    if weights not in WEIGHTS:
        raise BadInput(f"weights {weights!r} is unknown{nearest(weights, WEIGHTS)}")
    if z.dim() != 3 or z.shape[:2] != h.shape:
        raise BadInput(f"entropy_vector: expected z (R, T, D) and h (R, T), got {tuple(z.shape)} and {tuple(h.shape)}.")
    z, h = z.double(), h.double()
    if weights == "uniform":
        h = torch.ones_like(h)
    elif weights == "shuffled":
        order = torch.randperm(h.numel(), generator=torch.Generator().manual_seed(seed))
        h = h.reshape(-1)[order].reshape(h.shape)
    if h.sum() <= 0:
        raise BadInput(
            "entropy_vector: all entropies are zero, so there is nothing to weight by; record less certain prompts."
        )
    if center == "none":
        return (h[..., None] * z).sum((0, 1)) / h.sum()
    # Centring the weights instead of z is the same sum. Taking off a run's first value before its mean makes it exact
    # where the result is zero: the mean of equal numbers may differ from them by rounding, the mean of zeros does not.
    shifted = h - (h[:, :1] if center == "run" else h[0, 0])
    centred = shifted - (shifted.mean(1, keepdim=True) if center == "run" else shifted.mean())
    return (centred[..., None] * z).sum((0, 1)) / h.sum()


def from_recording(
    recording: Recording,
    site: Site,
    *,
    center: str = "run",
    weights: str = "entropy",
    seed: int = 0,
    model: Mapping[str, Any] | None = None,
    info: Mapping[str, Any] | None = None,
) -> Direction:
    """The direction at every recorded location, applied at the last token by default."""
    h = torch.from_numpy(recording.entropy)
    raw, statistics = {}, {}
    for key, z in recording.activations.items():
        u = entropy_vector(z, h, center, weights, seed)
        raw[key] = u
        numbers = capture.statistics_of_rows(z.reshape(-1, z.shape[-1]), u / u.norm().clamp(min=1e-300))
        if u.norm() <= _NOISE * numbers["mean_norm"]:
            raise BadInput(
                f"entropy at {key}: the vector is zero up to rounding (weights={weights!r}, center={center!r}, norm "
                f"{float(u.norm()):.1e}); entropies must vary within a run."
            )
        statistics[key] = {**numbers, "raw_norm": float(u.norm())}
    applied = Site(site.kind, site.layer, site.stack, tokens="last", heads=site.heads)
    options = {"center": center, "weights": weights, "seed": seed, "runs": h.shape[0], "steps": h.shape[1]}
    data = data_fingerprint(h, *[recording.activations[key] for key in sorted(recording.activations)])
    name = "entropy" if (center, weights) == ("run", "entropy") else f"entropy ({weights} weights, center {center})"
    return Direction.from_raw(
        raw,
        applied,
        statistics,
        method=name,
        model=model or {},
        info={**(info or {}), "options": options, "data": data},
    )


def entropy(
    target: Steerable,
    *,
    prompts: Sequence[Sequence[str]],
    infos: Sequence[Mapping[str, Any]],
    site: Site | None = None,
    center: str = "run",
    weights: str = "entropy",
    seed: int = 0,
) -> Direction:
    """`find(policy, "entropy", prompts=..., infos=...)`: record, build the vector. See `record`, `entropy_vector`.

    Balance labels by passing every history under all rotations of its labels: that cancels label preferences to first
    order.
    """
    site = site or Site(layer=(1 / 2, 2 / 3, 5 / 6))
    recording = record(target, prompts, infos, site, seed)
    return from_recording(recording, site, center=center, weights=weights, seed=seed, model=model_fingerprint(target))
