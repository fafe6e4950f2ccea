"""Gradient descent on a few tensors beside a frozen model: what every learned method shares.

    settings = Settings(steps=300, learning_rate=0.05, patience=5)
    done = train({"w": w}, loss, held_out, settings, folder="runs/w")      # w now holds the best values

Rules:
* Only `parameters` get gradients, whatever the model's own say; the model cannot change.
* The best values on held-out data are kept, the untrained start among them; `patience` evaluations without a better one end it.
* What a loss draws (batches, dropout) comes from torch's global generator, which is seeded from (seed, step) for every step and put
  back afterwards. So a run that was killed and started again in its folder ends bit for bit where the uninterrupted one does.
* `folder/checkpoint.safetensors` holds parameters, optimiser and counts in one file that is replaced atomically, as is
  `folder/training.json`, the settings and the curve for people.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from policies.errors import BadInput, NonFinite, RunMismatch
from steer_agents import kept
from steer_agents.progress import bar
from steer_agents.runs import jsonable, write_json

CHECKPOINT, CURVE = "checkpoint.safetensors", "training.json"
_KIND = "learning"


@dataclass(frozen=True)
class Settings:
    """How long and how fast.

    Args:
        steps: of the optimiser, at most.
        learning_rate: of the optimiser.
        batch_size: inputs per step, as far as a method draws batches.
        seed: of everything drawn.
        patience: evaluations in a row without a better held-out value before it stops; None never stops early.
        evaluate_every: steps between evaluations, each of which also writes a checkpoint.
    """

    steps: int = 300
    learning_rate: float = 0.01
    batch_size: int = 8
    seed: int = 0
    patience: int | None = 10
    evaluate_every: int = 10

    def __post_init__(self) -> None:
        counts = {name: getattr(self, name) for name in ("steps", "batch_size", "evaluate_every")}
        if self.patience is not None:
            counts["patience"] = self.patience
        if bad := {name: value for name, value in counts.items() if value < 1}:
            raise BadInput(f"Settings: counts start at 1, got {bad}.")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            raise BadInput(f"Settings: learning_rate must be a positive number, got {self.learning_rate}.")


@dataclass(frozen=True)
class Trained:
    """What came of it.

    Args:
        steps: that were taken.
        best_step: after which the parameters were best, 0 for the untrained start; they hold these values now.
        best: the held-out value there.
        curve: (step, held-out value) of every evaluation.
    """

    steps: int
    best_step: int
    best: float
    curve: tuple[tuple[int, float], ...]

    def notes(self) -> dict[str, Any]:
        """For the `info` of what was learned."""
        return {"steps": self.steps, "best_step": self.best_step, "start": self.curve[0][1], "held_out": self.best}


Parameters = Mapping[str, torch.Tensor] | Sequence[torch.Tensor]
Optimizer = Callable[..., torch.optim.Optimizer]
"""(tensors, lr=...) -> optimiser."""


def train(
    parameters: Parameters,
    loss: Callable[[int], torch.Tensor],
    held_out: Callable[[], float],
    settings: Settings,
    folder: str | Path | None = None,
    *,
    optimizer: Optimizer = torch.optim.Adam,
    rate: Callable[[float], float] = lambda share: 1.0,
    after: Callable[[float], None] | None = None,
    max_norm: float | None = None,
    asked: Mapping[str, Any] | None = None,
    title: str = "learning",
    progress: bool | None = None,
) -> Trained:
    """Minimise a loss; the parameters are changed in place and end at their best held-out values.

    Args:
        parameters: leaf tensors, named or in order; the rest of the graph is left alone.
        loss: step (from 0) -> scalar with a graph to the parameters.
        held_out: a number to be small, on data that `loss` does not see; called without gradients.
        settings: see `Settings`.
        folder: for checkpoints; a run that is there goes on. None keeps nothing.
        optimizer: (tensors, lr=...) -> torch optimiser with tensors for its state.
        rate: share of the steps done, in [0, 1) -> factor of the learning rate, e.g. `cosine`.
        after: called after every step with the learning rate of that step, e.g. for a proximal step or to normalise.
        max_norm: gradients together are clipped to this norm.
        asked: what else must be equal to go on with the run in the folder (JSON values), e.g. fingerprints of the data.
        title: said by the progress bar.
        progress: show a bar with the time left on stderr; None shows it where stderr is a terminal.
    Raises:
        NonFinite: the loss or the held-out value became NaN or infinite; the step is named.
        RunMismatch: the folder holds another run.
        BadInput: the loss does not depend on any of the parameters.
    """
    run = _Run(_named(parameters), settings, optimizer, asked or {}, None if folder is None else Path(folder))
    if not run.restore():
        run.evaluate(held_out)
    with _bar(title, settings.steps, progress) as tell:
        tell(run.step, run.best)
        while run.step < settings.steps and not run.stopped:
            lr = settings.learning_rate * rate(run.step / settings.steps)
            run.descend(loss, lr, max_norm)
            if after is not None:
                with torch.no_grad():
                    after(lr)
            if run.step % settings.evaluate_every == 0 or run.step == settings.steps:
                run.evaluate(held_out)
            tell(run.step, run.best)
    return run.finish()


def cosine(share: float) -> float:
    """From 1 down to 0 along half a cosine: a learning rate's factor."""
    return 0.5 * (1 + math.cos(math.pi * share))


def draw(inputs: Sequence[Any], count: int) -> list[Any]:
    """`count` different inputs (all of them if there are fewer) in random order, from torch's global generator."""
    return [inputs[i] for i in torch.randperm(len(inputs))[:count].tolist()]


def split(inputs: Sequence[Any], share: float, seed: int) -> tuple[list[Any], list[Any]]:
    """Inputs to learn from and a share to hold out, at random, each in its order; at least one on either side.

    Raises:
        BadInput: fewer than two inputs, or a share outside of (0, 1).
    """
    if not 0 < share < 1 or len(inputs) < 2:
        raise BadInput(
            f"learn: holding out a share in (0, 1) needs two inputs or more, got a share of {share} and {len(inputs)} input(s)."
        )
    n_held = min(max(round(share * len(inputs)), 1), len(inputs) - 1)
    held = set(torch.randperm(len(inputs), generator=torch.Generator().manual_seed(seed))[:n_held].tolist())
    return [x for i, x in enumerate(inputs) if i not in held], [x for i, x in enumerate(inputs) if i in held]


def _named(parameters: Parameters) -> dict[str, torch.Tensor]:
    named = dict(parameters) if isinstance(parameters, Mapping) else {str(i): p for i, p in enumerate(parameters)}
    if not named or not all(p.is_leaf and p.requires_grad for p in named.values()):
        raise BadInput("train: parameters must be leaf tensors with requires_grad=True, at least one.")
    return named


@contextmanager
def _seeded(seed: int, step: int) -> Iterator[None]:
    """Torch's global generators seeded from (seed, step), and as they were afterwards."""
    with torch.random.fork_rng():
        torch.manual_seed((seed * 1_000_003 + step + 1) % (1 << 63))
        yield


class _Run:
    """The state of one training, in memory and on disk."""

    def __init__(
        self,
        parameters: dict[str, torch.Tensor],
        settings: Settings,
        optimizer: Optimizer,
        asked: Mapping[str, Any],
        folder: Path | None,
    ) -> None:
        self.parameters = parameters
        self.optimizer = optimizer(list(parameters.values()), lr=settings.learning_rate)
        self.settings, self.folder = settings, folder
        shapes = {name: list(p.shape) for name, p in parameters.items()}
        self.asked = jsonable({"settings": asdict(settings), "shapes": shapes, **asked})
        self.step = self.best_step = self.stale = 0
        self.best = math.inf
        self.best_values = {name: p.detach().clone() for name, p in parameters.items()}
        self.curve: list[tuple[int, float]] = []

    @property
    def stopped(self) -> bool:
        return self.settings.patience is not None and self.stale >= self.settings.patience

    def descend(self, loss: Callable[[int], torch.Tensor], lr: float, max_norm: float | None) -> None:
        tensors = list(self.parameters.values())
        with _seeded(self.settings.seed, self.step), torch.enable_grad():
            value = loss(self.step)
            if not torch.isfinite(value).all():
                raise NonFinite(
                    f"learn: the loss is {float(value.detach())} at step {self.step}; lower the learning rate."
                )
            slopes = torch.autograd.grad(value, tensors, allow_unused=True) if value.requires_grad else [None]
        if all(slope is None for slope in slopes):
            raise BadInput("learn: the loss does not depend on what is learned; the site does not reach what it reads.")
        for tensor, slope in zip(tensors, slopes, strict=True):
            tensor.grad = slope
        if max_norm is not None:
            torch.nn.utils.clip_grad_norm_(tensors, max_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.step += 1

    def evaluate(self, held_out: Callable[[], float]) -> None:
        with _seeded(self.settings.seed, -1), torch.no_grad():  # the same draws every time
            value = float(held_out())
        if not math.isfinite(value):
            raise NonFinite(f"learn: the held-out value is {value} after step {self.step}; lower the learning rate.")
        self.curve.append((self.step, value))
        if value < self.best:
            self.best, self.best_step, self.stale = value, self.step, 0
            self.best_values = {name: p.detach().clone() for name, p in self.parameters.items()}
        else:
            self.stale += 1
        self.save()

    def finish(self) -> Trained:
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(self.best_values[name])
        return Trained(self.step, self.best_step, self.best, tuple(self.curve))

    def save(self) -> None:
        if self.folder is None:
            return
        tensors = {f"now.{name}": p.detach() for name, p in self.parameters.items()}
        tensors |= {f"best.{name}": value for name, value in self.best_values.items()}
        for index, entry in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{key}": value for key, value in entry.items() if torch.is_tensor(value)}
        state = {name: getattr(self, name) for name in ("step", "best_step", "best", "stale", "curve")}
        kept.save(self.folder / CHECKPOINT, _KIND, {"asked": self.asked, "state": state}, tensors)
        write_json(self.folder / CURVE, {**self.asked, **state})

    def restore(self) -> bool:
        """Go on where the folder's run is; False if there is none."""
        path = None if self.folder is None else self.folder / CHECKPOINT
        if path is None or not path.exists():
            return False
        header, tensors = kept.load(path, _KIND, lambda *parts: parts)
        if header["asked"] != self.asked:
            keys = {*header["asked"], *self.asked}
            changed = sorted(key for key in keys if header["asked"].get(key) != self.asked.get(key))
            raise RunMismatch(
                f"{path} is of a run with other {', '.join(changed)}; ask for the same, use another folder, or delete this one."
            )
        for name in ("step", "best_step", "best", "stale"):
            setattr(self, name, header["state"][name])
        self.curve = [(int(step), float(value)) for step, value in header["state"]["curve"]]
        entries: dict[int, dict[str, torch.Tensor]] = {}
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(tensors[f"now.{name}"])
                self.best_values[name] = tensors[f"best.{name}"].to(p)
        for name, value in tensors.items():
            if name.startswith("optimizer."):
                _, index, key = name.split(".")
                entries.setdefault(int(index), {})[key] = value
        groups = self.optimizer.state_dict()["param_groups"]
        self.optimizer.load_state_dict({"state": entries, "param_groups": groups})
        return True


@contextmanager
def _bar(title: str, total: int, wanted: bool | None) -> Iterator[Callable[[int, float], None]]:
    """A bar on stderr with the time left (in a log only its last state); yields what to call with step and best value."""
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield lambda step, best: None
        return
    with bar("{task.completed}/{task.total} steps, best {task.fields[best]}") as shown:
        task = shown.add_task(title, total=total, best="-")
        yield lambda step, best: shown.update(task, completed=step, best=f"{best:.4g}")
