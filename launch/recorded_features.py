"""Features of finished episodes with their outcome, from run folders or a file of tensors: what `contrastive-value` learns from.

A run folder gives columns of its step table (whatever the environment's infos and the policy's decisions tell, `action_0`, ...). A
`.safetensors` file gives any features, e.g. activations, or what `state_and_chunk` makes of a sample: tensors `features` (N, D), `episode`
(N,) and `success` (N,), one row per step in order, `success` that of the row's episode.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from launch.exports import spread
from policies.errors import BadArtifact, BadInput, nearest
from steer_agents.loop import Rollout

Outcomes = tuple[list[torch.Tensor], list[torch.Tensor]]
"""(T, D) features of the successes and of the failures."""
NAMES = ("features", "episode", "success")


def outcomes(sources: Sequence[Path], columns: Sequence[str]) -> Outcomes:
    """Episodes of all sources together.

    Args:
        sources: run folders, or `.safetensors` files.
        columns: of the step tables; not used for files.
    Raises:
        BadInput: no columns for a run, one that it lacks or that has gaps, no outcome, or tensors that do not fit.
        BadArtifact: no run, or no file of tensors.
    """
    good, bad = list[torch.Tensor](), list[torch.Tensor]()
    for source in sources:
        won, lost = _of_file(source) if source.suffix == ".safetensors" else _of_run(source, columns)
        good += won
        bad += lost
    return good, bad


def _of_run(folder: Path, columns: Sequence[str]) -> Outcomes:
    run = Rollout.load(folder)
    steps = spread(run.steps)
    known = list(steps.select_dtypes(include=["number", "bool"]).columns.difference(["episode", "env_step"]))
    if not columns:
        raise BadInput(f"contrastive value: say with --columns what of {folder} are features{nearest('', known)}")
    if unknown := [name for name in columns if name not in known]:
        raise BadInput(f"contrastive value: {folder} has no number {unknown[0]!r} a step{nearest(unknown[0], known)}")
    told = run.episodes[~run.episodes["errored"].astype(bool) & run.episodes["success"].notna()]
    if told.empty:
        raise BadInput(f"contrastive value: no episode of {folder} says whether it succeeded.")
    own = steps[steps["episode"].isin(told["episode"])]
    if (gaps := own[list(columns)].isna().any()).any():
        raise BadInput(
            f"contrastive value: {gaps.idxmax()!r} of {folder} is missing in some steps; choose other columns."
        )
    values = {
        int(episode): torch.from_numpy(rows.sort_values("env_step")[list(columns)].to_numpy(np.float32))
        for episode, rows in own.groupby("episode")
    }
    won = dict(zip(told["episode"].astype(int), told["success"] > 0.5, strict=True))
    return [values[one] for one in won if won[one]], [values[one] for one in won if not won[one]]


def _of_file(path: Path) -> Outcomes:
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadArtifact(f"{path} is no file of tensors ({error}).") from None
    if missing := [name for name in NAMES if name not in tensors]:
        raise BadInput(
            f"contrastive value: {path} lacks {missing[0]!r}; it needs {', '.join(NAMES)}, has {', '.join(tensors)}."
        )
    features, episode, success = (tensors[name] for name in NAMES)
    if features.dim() != 2 or episode.shape != success.shape or episode.shape != features.shape[:1]:
        raise BadInput(
            f"contrastive value: {path} needs features (N, D), episode (N,) and success (N,), got {tuple(features.shape)}, "
            f"{tuple(episode.shape)} and {tuple(success.shape)}."
        )
    good, bad = list[torch.Tensor](), list[torch.Tensor]()
    for one in episode.unique():
        rows = episode == one
        if len(said := success[rows].unique()) != 1:
            raise BadInput(f"contrastive value: episode {int(one)} of {path} both succeeds and fails.")
        (good if float(said) > 0.5 else bad).append(features[rows].float())
    return good, bad
