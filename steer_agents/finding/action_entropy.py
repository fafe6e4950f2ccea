"""EAST for policies that say action tokens: the direction along which they get less certain of their actions.

Rahn, D'Oro, Bellemare, arXiv 2406.00244, section 4, with a scene in place of a prompt: z_i is the mean activation of scene i at the
site's tokens, h_i the mean entropy of its action tokens at temperature 1, and the mean is taken off within each run (episode):

    u = (1/Z) sum_i (h_i - hbar_run(i)) z_i,     Z = sum_i h_i

which is `entropy.entropy_vector` for runs of any length. We differ from the paper in: a policy's own rollouts instead of a language
model's histories; the exact entropy of its action tokens, averaged over those that one pass decides (`Policy.token_entropy`); and
pictures, with which a scene's entropy goes together with the stage of the task. Group by stage as well to hold that apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policies.errors import BadInput, NonFinite, nearest
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.behaviour import members_of
from steer_agents.finding.entropy import LN2, WEIGHTS
from steer_agents.finding.scenes import Scene, check_scenes, default_site, encoded, half_cosine, scene_direction
from steer_agents.sites import Site, Steerable


def entropy_weights(entropy: np.ndarray, runs: Sequence[Any]) -> np.ndarray:
    """(n,) weights w such that u = sum_i w_i z_i is the formula at the top; they sum to 0 within each run.

    Args:
        entropy: (n,) not negative, any unit.
        runs: (n,) hashable; a run with one scene has weight 0.
    """
    centred = np.asarray(entropy, dtype=np.float64).copy()
    for members in members_of(runs).values():
        centred[members] -= centred[members].mean()
    total = float(np.sum(entropy))
    return centred / total if total > 0 else np.zeros_like(centred)


def action_entropy(
    target: Steerable,
    *,
    scenes: Sequence[Scene],
    runs: Sequence[Any] | np.ndarray,
    weights: str = "entropy",
    seed: int = 0,
    site: Site | None = None,
    batch_size: int = 64,
) -> Direction:
    """From scenes where the policy is sure to those where it is not; positive strengths should raise the entropy.

    Args:
        scenes: n observations without a batch axis, as the policy's `encode` takes them.
        runs: (n,) hashable, what the mean is taken off within: the episode of each scene, or (episode, stage).
        weights: "entropy", or "shuffled" (dealt out again within each run, a control).
        seed: of the shuffle.
        site: where to read, and where to steer; default: see `default_site`.
        batch_size: scenes per forward pass.
    Raises:
        BadInput: no policy, one that says no action tokens, lengths that differ, or entropies that do not vary within any run.
        NonFinite: an entropy is NaN or infinite.
    """
    check_scenes(target, scenes, "action-entropy")
    allowed = [name for name in WEIGHTS if name != "uniform"]  # uniform weights give zero
    if weights not in allowed:
        raise BadInput(f"action-entropy: weights {weights!r} is unknown{nearest(weights, allowed)}")
    groups = [tuple(run) if isinstance(run, (list, np.ndarray)) else run for run in runs]
    if len(groups) != len(scenes):
        raise BadInput(f"action-entropy: expected one run per scene, got {len(groups)} runs for {len(scenes)} scenes.")
    policy = target.policy
    assert policy is not None
    entropy = np.concatenate(
        [policy.token_entropy(batch).mean(1).double().numpy() for batch in encoded(target, scenes, batch_size)]
    )
    if not np.isfinite(entropy).all():
        raise NonFinite(
            f"action-entropy: the entropy of scene {int(np.flatnonzero(~np.isfinite(entropy))[0])} is not finite."
        )
    used = _shuffled(entropy, groups, seed) if weights == "shuffled" else entropy
    share = torch.from_numpy(entropy_weights(used, groups))
    if float(share.abs().sum()) < 1e-9:
        raise BadInput(
            f"action-entropy: the entropies of {len(entropy)} scenes ({entropy.min():.3g} to {entropy.max():.3g} bits) do not vary "
            f"within any of {len(set(groups))} run(s); record more scenes per run."
        )
    site = default_site(target, site)
    rows, seen = capture.scene_means(target, encoded(target, scenes, batch_size), site)
    halves = _halves(entropy, groups)
    raw, fit = {}, {}
    for key, z in rows.items():
        raw[key] = share @ z.double()
        parts = [half @ z.double() for half in halves]
        along = (z.double() @ raw[key]).numpy()
        fit[key] = {
            "half_cosine": half_cosine(*parts) if parts else None,
            "correlation_with_entropy": float(np.corrcoef(along, entropy)[0, 1]),
        }
    name = "action-entropy" if weights == "entropy" else f"action-entropy ({weights} weights)"
    return scene_direction(
        target,
        scenes,
        site,
        raw,
        seen,
        name,
        fit,
        [torch.from_numpy(entropy), [str(group) for group in groups], weights],
        weights=weights,
        seed=seed,
        n_runs=len(set(groups)),
        mean_entropy_bits=float(entropy.mean()),
        mean_entropy_nats=float(entropy.mean() * LN2),
    )


def _shuffled(entropy: np.ndarray, runs: Sequence[Any], seed: int) -> np.ndarray:
    """The entropies dealt out again at random within each run."""
    rng, dealt = np.random.default_rng(seed), entropy.copy()
    for members in members_of(runs).values():
        dealt[members] = entropy[rng.permutation(members)]
    return dealt


def _halves(entropy: np.ndarray, runs: Sequence[Any]) -> list[torch.Tensor]:
    """Weights from every other run, and from the rest; nothing where one half has no contrast."""
    order = {run: i for i, run in enumerate(members_of(runs))}
    odd = np.array([order[run] % 2 for run in runs], dtype=bool)
    sides = [entropy_weights(np.where(side, entropy, 0.0), runs) * side for side in (odd, ~odd)]
    return [torch.from_numpy(side) for side in sides] if all(np.abs(side).sum() > 1e-9 for side in sides) else []
