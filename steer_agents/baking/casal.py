"""CASAL: one MLP matrix learns for which inputs to push, so that a gated push costs nothing at run time.

With the neurons n(x) that the down-projection W of one layer reads at an input's token, y = +1 for positive inputs, -1 for negative
ones, and the displacement a v, the matrix is fitted to write what steering would have written there:

    min_dW  mean_positive ||dW n - a v||^2 + mean_negative ||dW n + a v||^2 + ridge ||dW||^2

As the target shift is a y v, the minimum is dW = a v k^T with k the ridge regression of the label y on n(x): a probe, in closed form
(`solver="ridge"`). `solver="gradient"` reaches the same by gradient descent on cached neurons, as the paper trains.

Source: CASAL, arXiv 2510.02324 (targets a(x) +- a v at the last prompt token with v the difference of means of unknown and known
questions; one MLP matrix of one layer, initialised at its weights, by MSE, no cross-entropy). We differ in: the matrix is always the
down-projection (the paper finds that which one hardly matters), in which the model's output is linear; a ridge, relative to the largest
curvature, since rows are fewer than neurons; and the closed form, which is ours. The gradient's solution is reduced to its leading
rank-1 part; `notes["second_singular_value"]` says, relative to the first, what that leaves out. Nothing protects inputs of neither set
but the ridge: measure them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from sklearn.linear_model import Ridge

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.baking.handle import check_model
from steer_agents.baking.rank_one import RankOne, RankOneEdits
from steer_agents.calibrate.reports import layer_of, one_row
from steer_agents.direction import Direction
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.fingerprint import data_fingerprint
from steer_agents.learning.trainer import Settings, train
from steer_agents.sites import Site, Steerable, resolve, steerable
from steer_agents.strength import Strength

_DEFAULT = Settings(steps=500, patience=4, evaluate_every=25)


SOLVERS = ("ridge", "gradient")


def casal(
    target: Steerable,
    direction: Direction,
    *,
    positive: Inputs,
    negative: Inputs,
    strength: float | Strength = 1.0,
    ridge: float = 1e-3,
    held_out: float = 0.2,
    solver: str = "ridge",
    settings: Settings = _DEFAULT,
    folder: str | Path | None = None,
    progress: bool | None = None,
    seed: int = 0,
    tokens: str = "last",
    allow_other_model: bool = False,
) -> RankOneEdits:
    """Fit the down-projection at the direction's layer, and bake the change.

    Args:
        target: a policy, torch module or `Steerable`.
        direction: one layer, at what the MLP writes into: "block_output" or "mlp_output". CASAL's own is the mean difference of these
            inputs.
        positive: inputs to push along the direction (unknown questions), `negative`: against it (known ones).
        strength: a; a bare number counts in "beta", the length of the difference of means.
        ridge: relative to the largest eigenvalue of the neurons' second moments, > 0.
        held_out: share of the rows that is only evaluated on, in [0, 1); drawn with `seed`.
        solver: "ridge" (closed form) or "gradient".
        settings, folder, progress: of the gradient solver, see `learning.trainer.train`; the learning rate follows from the data.
        tokens: whose neurons are read.
    Returns:
        the handle; `notes` has accuracy (share of held-out rows pushed to their own side), second_singular_value and steps.
    Raises:
        BadInput: several layers, an unknown solver, or numbers out of range.
        RunMismatch: the folder holds another fit.
    """
    target = steerable(target)
    one_row(direction, "casal")
    check_model(target, direction.method, direction.model, "casal", allow_other_model)
    if len(direction.vectors) != 1:
        raise BadInput(
            f"casal trains one matrix; the direction covers {sorted(direction.vectors)}. Take direction.at(layer)."
        )
    if solver not in SOLVERS:
        raise BadInput(f"casal: solver {solver!r} is unknown{nearest(solver, SOLVERS)}")
    if not (ridge > 0 and 0 <= held_out < 1):
        raise BadInput(f"casal: need ridge > 0 and 0 <= held_out < 1; got {ridge} and {held_out}.")
    ((key, rows),) = direction.vectors.items()
    given = strength if isinstance(strength, Strength) else Strength(strength, "beta")
    push = float(torch.as_tensor(given.value)) * given.factor(direction, key) * rows[0].double()
    site = Site("mlp_neurons", layer_of(key), direction.site.stack, tokens=tokens)
    (location,) = resolve(target, site)
    sides = [capture.rows(target, batches_of(target, inputs), site)[location.key] for inputs in (positive, negative)]
    data = _Data.of(sides, held_out, ridge, seed)
    delta, steps = _closed(data, push) if solver == "ridge" else _descended(data, push, settings, folder, progress)
    u, s, vt = torch.linalg.svd(delta, full_matrices=False) if solver == "gradient" else _factors(delta, push)
    row = s[0] * vt[0]
    side = 1.0 if float(u[:, 0] @ push) >= 0 else -1.0
    checked = data.held if len(data.held[1]) else data.train
    notes = {
        "solver": solver,
        "accuracy": float(((checked[0] @ (side * row)).sign() == checked[1]).double().mean()),
        "second_singular_value": float(s[1] / s[0]) if len(s) > 1 else 0.0,
        "steps": steps,
        "n_rows": len(data.train[1]),
    }
    return RankOneEdits(target, [RankOne(location, side * u[:, 0], side * row, 1)], "casal", notes)


Rows = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Neurons (n, d), labels (n,) in {-1, 1} and weights (n,) that make both classes count alike, in float64."""


@dataclass(frozen=True)
class _Data:
    train: Rows
    held: Rows
    ridge: float  # absolute
    curvature: float  # largest eigenvalue of the weighted second moments

    @classmethod
    def of(cls, sides: list[torch.Tensor], held_out: float, ridge: float, seed: int) -> _Data:
        generator = torch.Generator().manual_seed(seed)
        parts: list[list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]] = [[], []]
        for rows, label in zip(sides, (1.0, -1.0), strict=True):
            order = torch.randperm(len(rows), generator=generator)
            n_held = int(held_out * len(rows))
            for part, chosen in zip(parts, (order[n_held:], order[:n_held]), strict=True):
                n = len(chosen)
                part.append(
                    (rows[chosen].double(), torch.full((n,), label).double(), torch.full((n,), 1 / max(n, 1)).double())
                )
        train, held = (tuple(torch.cat(columns) for columns in zip(*part, strict=True)) for part in parts)
        A = train[0] * train[2].sqrt()[:, None]
        largest = float(torch.linalg.matrix_norm(A, 2) ** 2)
        return cls(train, held, ridge * largest, largest)  # type: ignore[arg-type]

    @staticmethod
    def loss(delta: torch.Tensor, push: torch.Tensor, rows: Rows) -> torch.Tensor:
        X, y, c = rows
        return (c * (X @ delta.T - y[:, None] * push).square().sum(-1)).sum()


def _closed(data: _Data, push: torch.Tensor) -> tuple[torch.Tensor, int]:
    X, y, c = (part.numpy() for part in data.train)
    fitted = Ridge(alpha=data.ridge, fit_intercept=False).fit(X, y, sample_weight=c)
    return torch.outer(push, torch.from_numpy(fitted.coef_)), 0


def _descended(
    data: _Data, push: torch.Tensor, settings: Settings, folder: str | Path | None, progress: bool | None
) -> tuple[torch.Tensor, int]:
    """Nesterov's accelerated gradient descent, whole batch: step 1 / (2 L), momentum of the condition number L / ridge.

    Gradients lie along v, so that the change stays rank 1; per-coordinate step sizes (Adam) would not keep that.
    """
    largest = data.curvature + data.ridge
    root = (largest / data.ridge) ** 0.5
    delta = torch.zeros(len(push), data.train[0].shape[1], dtype=torch.float64, requires_grad=True)

    def objective(step: int = 0) -> torch.Tensor:
        return data.loss(delta, push, data.train) + data.ridge * delta.square().sum()

    def held_out() -> float:
        return float(data.loss(delta, push, data.held) if len(data.held[1]) else objective())

    done = train(
        {"delta": delta}, objective, held_out, replace(settings, learning_rate=1 / (2 * largest)), folder,
        optimizer=partial(torch.optim.SGD, momentum=(root - 1) / (root + 1), nesterov=True),
        asked={"fit": data_fingerprint(*data.train, push, data.ridge)}, title="casal", progress=progress,
    )  # fmt: skip
    return delta.detach(), done.steps


def _factors(delta: torch.Tensor, push: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The factors of v k^T without a decomposition."""
    v = push / push.norm()
    k = v @ delta
    return v[:, None], k.norm()[None], (k / k.norm().clamp(min=1e-300))[None]
