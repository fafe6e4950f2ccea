"""Directions from a policy's own rollouts: scenes where it did one thing against scenes where it did the other.

    u = mean over groups g of [ mean over units of +, of mean h  -  mean over units of -, of mean h ]

| method | + and - | unit | group |
| --- | --- | --- | --- |
| `behaviour_contrast` | top and bottom share of a measured quantity, within each group | scene | given, e.g. task and stage |
| `success_contrast` | episodes that succeeded and that failed | episode | given, e.g. task |

h is the mean activation of a scene's selected tokens. The contrast is the difference of means of CAA (arXiv 2312.06681).
We differ in that the labels come from what the robot did instead of from texts, that a unit with more scenes does not count
more, and that it is stratified: every group counts once. Without that, the fast scenes of an easy task against the slow ones
of a hard task give the task.

What this cannot give: a cause. Scenes in which a robot is fast differ from others in more than its intent (it is far from the object).
Group by stage, and test the direction against its controls (`steer_agents.finding.controls`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from policies.errors import BadInput, NonFinite
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.scenes import Moment, check_scenes, default_site, encoded, half_cosine, scene_direction
from steer_agents.sites import Site, Steerable


def extremes(values: np.ndarray, groups: Sequence[Any], quantile: float) -> np.ndarray:
    """(n,) labels: +1 for the top share of each group's values, -1 for the bottom share, 0 between.

    Top are values >= the (1 - quantile) quantile of the group, bottom those <= the quantile; ties go in together. A group whose
    two bounds are equal (one scene, or nearly always the same value) has no contrast: all its labels are 0.
    """
    values = np.asarray(values, dtype=np.float64)
    labels = np.zeros(len(values), dtype=np.int64)
    for members in members_of(groups).values():
        low, high = np.quantile(values[members], [quantile, 1 - quantile])
        if low < high:
            labels[members] = (values[members] >= high).astype(int) - (values[members] <= low).astype(int)
    return labels


def contrast_weights(labels: np.ndarray, groups: Sequence[Any], units: Sequence[Any]) -> np.ndarray:
    """(n,) weights w such that u = sum_i w_i h_i is the formula at the top.

    Args:
        labels: (n,) in {+1, 0, -1}.
        groups: (n,) strata; groups that have only one side are left out.
        units: (n,) what counts once per side and group: scenes or episodes.
    Returns:
        (n,) float64; positive weights sum to 1 and negative ones to -1, or all are 0 where no group has both sides.
    """
    weights = np.zeros(len(labels))
    both = [g for g in members_of(groups).values() if (labels[g] > 0).any() and (labels[g] < 0).any()]
    for group in both:
        for side in (1, -1):
            own = group[labels[group] == side]
            parts = list(members_of([units[i] for i in own]).values())
            for part in parts:
                weights[own[part]] = side / (len(both) * len(parts) * len(part))
    return weights


def members_of(groups: Sequence[Any]) -> dict[Any, np.ndarray]:
    """Group -> indices of its members, in order of appearance."""
    table: dict[Any, list[int]] = {}
    for index, group in enumerate(groups):
        table.setdefault(group, []).append(index)
    return {group: np.array(members) for group, members in table.items()}


def behaviour_contrast(
    target: Steerable,
    *,
    scenes: Sequence[Moment],
    values: Sequence[float] | np.ndarray,
    quantile: float = 0.25,
    groups: Sequence[Any] | np.ndarray | None = None,
    episodes: Sequence[Any] | np.ndarray | None = None,
    site: Site | None = None,
    batch_size: int = 64,
) -> Direction:
    """From the scenes with low values to those with high ones.

    `steer_agents.record_scenes` gives scenes and values; names are those of the environment's info ("next_speed", "height",
    "clearance", ...). For the tabletop "next_speed" is the speed [m/s] in the steps that followed.

    Args:
        scenes: n observations without a batch axis, as the policy's `encode` takes them.
        values: (n,) finite numbers, one per scene.
        quantile: share of each group on either side, in (0, 0.5).
        groups: (n,) hashable strata, e.g. task or stage; None is one group.
        episodes: (n,) episode of each scene; with them the two halves that are compared share no episode.
        site: where to read, and where to steer; default: see `default_site`.
        batch_size: scenes per forward pass.
    Raises:
        BadInput: no policy, lengths that differ, a quantile out of range, or values without contrast in any group.
        NonFinite: values that are NaN or infinite.
    """
    check_scenes(target, scenes, "behaviour-contrast")
    numbers = np.asarray(values, dtype=np.float64)
    strata = _per_scene("groups", groups, scenes, default=0)
    _check_length("values", numbers, scenes)
    if not np.isfinite(numbers).all():
        bad = np.flatnonzero(~np.isfinite(numbers))
        raise NonFinite(
            f"behaviour-contrast: {len(bad)} of {len(numbers)} values are NaN or infinite, first at scene {bad[0]} "
            f"({numbers[bad[0]]}); leave those scenes out (a clearance is infinite without an obstacle)."
        )
    if not 0 < quantile < 0.5:
        raise BadInput(f"behaviour-contrast: quantile={quantile}, allowed is the open interval (0, 0.5).")
    labels = extremes(numbers, strata, quantile)
    if not labels.any():
        sizes = [len(members) for members in members_of(strata).values()]
        raise BadInput(
            f"behaviour-contrast: no group has high and low values apart; {len(sizes)} group(s) of {min(sizes)} to {max(sizes)} "
            f"scenes, values from {numbers.min():g} to {numbers.max():g}. Record more scenes, or use coarser groups."
        )
    return _contrast(
        target,
        scenes,
        labels,
        strata,
        list(range(len(scenes))),
        None if episodes is None else _per_scene("episodes", episodes, scenes),
        site,
        batch_size,
        "behaviour-contrast",
        {
            "quantile": quantile,
            "mean_high": float(numbers[labels > 0].mean()),
            "mean_low": float(numbers[labels < 0].mean()),
        },
        numbers,
    )


def success_contrast(
    target: Steerable,
    *,
    scenes: Sequence[Moment],
    success: Sequence[float] | np.ndarray,
    episodes: Sequence[Any] | np.ndarray,
    groups: Sequence[Any] | np.ndarray | None = None,
    site: Site | None = None,
    batch_size: int = 64,
) -> Direction:
    """From the scenes of episodes that failed to those of episodes that succeeded; every episode counts once.

    Args:
        scenes: n observations without a batch axis.
        success: (n,) bool or 1.0 and 0.0: how the episode of each scene ended.
        episodes: (n,) hashable, the episode of each scene.
        groups: (n,) hashable strata, e.g. the task; groups with one outcome only are left out.
        site, batch_size: see `behaviour_contrast`.
    Raises:
        BadInput: no policy, lengths that differ, an outcome that is not known or not the same for a whole episode, or no group with
            both outcomes.
    """
    check_scenes(target, scenes, "success-contrast")
    _check_length("success", success, scenes)
    outcome = np.array([float("nan") if value is None else float(value) for value in success])
    units = _per_scene("episodes", episodes, scenes)
    strata = _per_scene("groups", groups, scenes, default=0)
    if not np.isin(outcome, (0.0, 1.0)).all():
        where = int(np.flatnonzero(~np.isin(outcome, (0.0, 1.0)))[0])
        raise BadInput(
            f"success-contrast: the success of scene {where} is {outcome[where]}, allowed are 0 and 1. Leave out episodes whose "
            "outcome is not known; the environment must report info['is_success']."
        )
    for episode, members in members_of(units).items():
        if len(set(outcome[members])) > 1:
            raise BadInput(f"success-contrast: scenes of episode {episode!r} have different outcomes; give one each.")
    labels = np.where(outcome == 1, 1, -1)
    counts = {side: len({units[i] for i in np.flatnonzero(labels == side)}) for side in (1, -1)}
    if not contrast_weights(labels, strata, units).any():
        raise BadInput(
            f"success-contrast needs episodes of both outcomes in one group; got {counts[1]} succeeded and {counts[-1]} failed in "
            f"{len(members_of(strata))} group(s). Record more episodes, harder ones (a shift) or easier ones."
        )
    return _contrast(
        target,
        scenes,
        labels,
        strata,
        units,
        units,
        site,
        batch_size,
        "success-contrast",
        {"n_succeeded": counts[1], "n_failed": counts[-1]},
        outcome,
    )


def _contrast(
    target: Steerable,
    scenes: Sequence[Moment],
    labels: np.ndarray,
    groups: Sequence[Any],
    units: Sequence[Any],
    episodes: Sequence[Any] | None,
    site: Site | None,
    batch_size: int,
    method: str,
    info: dict[str, Any],
    values: np.ndarray,
) -> Direction:
    """The weighted sum at every location, from the scenes that have a weight, with its statistics."""
    site = default_site(target, site)
    weights = contrast_weights(labels, groups, units)
    used = np.flatnonzero(weights)
    chosen = [scenes[i] for i in used]
    halves = _halves(labels, groups, units, episodes)
    rows, seen = capture.scene_means(target, encoded(target, chosen, batch_size), site)
    raw, fit = {}, {}
    for key, h in rows.items():
        raw[key] = torch.from_numpy(weights[used]) @ h.double()
        parts = [torch.from_numpy(half[used]) @ h.double() for half in halves]
        fit[key] = {"half_cosine": half_cosine(*parts) if parts else None}
    kept = {groups[i] for i in used}
    return scene_direction(
        target,
        chosen,
        site,
        raw,
        seen,
        method,
        fit,
        [torch.from_numpy(values[used]), [str(groups[i]) for i in used]],
        **info,
        n_high=int((labels[used] > 0).sum()),
        n_low=int((labels[used] < 0).sum()),
        n_groups=len(kept),
        n_groups_without_contrast=len(set(groups)) - len(kept),
    )


def _halves(
    labels: np.ndarray, groups: Sequence[Any], units: Sequence[Any], episodes: Sequence[Any] | None
) -> list[np.ndarray]:
    """Weights of two disjoint halves of the data, or nothing where a half has no contrast.

    Episodes (scenes, where none are given) are dealt out in turn within every group and side.
    """
    owner = list(range(len(labels))) if episodes is None else list(episodes)
    half: dict[Any, int] = {}
    dealt: dict[Any, int] = {}
    for i in np.flatnonzero(labels):
        if owner[i] not in half:
            place = (groups[i], labels[i])
            half[owner[i]] = dealt[place] = 1 - dealt.get(place, 1)
    sides = [
        contrast_weights(np.where([half.get(one) == number for one in owner], labels, 0), groups, units)
        for number in (0, 1)
    ]
    return sides if all(side.any() for side in sides) else []


def _per_scene(
    name: str, given: Sequence[Any] | np.ndarray | None, scenes: Sequence[Any], default: Any = None
) -> list[Any]:
    if given is None:
        return [default] * len(scenes)
    _check_length(name, given, scenes)
    return [entry.item() if isinstance(entry, np.generic) else entry for entry in given]


def _check_length(name: str, given: Sequence[Any] | np.ndarray, scenes: Sequence[Any]) -> None:
    if len(given) != len(scenes) or (isinstance(given, np.ndarray) and given.ndim != 1):
        raise BadInput(f"{name}: expected {len(scenes)} entries, one per scene, got shape {np.shape(given)}.")
