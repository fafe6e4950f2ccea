"""The trainer: it finds known minima, keeps the best held-out values, and survives a kill to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from policies.errors import BadArtifact, BadInput, NonFinite, RunMismatch
from steer_agents.learning.trainer import Settings, cosine, draw, split, train

GOAL = torch.tensor([1.0, -2.0, 0.5])
QUICK = Settings(steps=60, learning_rate=0.1, evaluate_every=7, patience=None)


class Task:
    """A noisy parabola around GOAL: what it draws differs from step to step."""

    def __init__(self, kill_at: int | None = None) -> None:
        self.w = torch.zeros(3, requires_grad=True)
        self.kill_at = kill_at
        self.steps: list[int] = []

    def loss(self, step: int) -> torch.Tensor:
        if step == self.kill_at:
            raise KeyboardInterrupt
        self.steps.append(step)
        return ((self.w - GOAL + 0.3 * torch.randn(3)) ** 2).sum()

    def held_out(self) -> float:
        return float(((self.w.detach() - GOAL) ** 2).sum())

    def train(self, settings: Settings = QUICK, folder: Path | None = None, **options: object) -> object:
        return train({"w": self.w}, self.loss, self.held_out, settings, folder, **options)  # type: ignore[arg-type]


def test_it_ends_at_the_best_held_out_values_of_its_curve() -> None:
    task = Task()
    done = train([task.w], task.loss, task.held_out, QUICK)
    assert task.held_out() == done.best == min(value for _, value in done.curve) < 0.05
    assert done.curve[0] == (0, float((GOAL**2).sum()))  # the untrained start competes
    assert [step for step, _ in done.curve] == [0, 7, 14, 21, 28, 35, 42, 49, 56, 60]
    assert dict(done.curve)[done.best_step] == done.best
    assert done.notes()["start"] > done.notes()["held_out"]


def test_a_start_that_nothing_betters_is_kept_and_patience_ends_it() -> None:
    task = Task()
    task.w.data.copy_(GOAL)
    done = task.train(Settings(steps=500, learning_rate=0.1, evaluate_every=2, patience=3))
    assert torch.equal(task.w.detach(), GOAL)
    assert (done.best_step, done.steps) == (0, 6)  # type: ignore[attr-defined]


@pytest.mark.parametrize("optimizer", [torch.optim.Adam, lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9)])
@pytest.mark.parametrize("kill_at", [1, 33])
def test_killed_and_started_again_it_ends_where_the_uninterrupted_run_does(
    kill_at: int, optimizer: object, tmp_path: Path
) -> None:
    whole, first, second = Task(), Task(kill_at), Task()
    options = {"optimizer": optimizer, "rate": cosine, "max_norm": 1.0}
    expected = whole.train(**options)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        first.train(folder=tmp_path, **options)  # type: ignore[arg-type]
    torch.randn(17)  # another process has drawn other numbers
    assert second.train(folder=tmp_path, **options) == expected  # type: ignore[arg-type]
    assert torch.equal(second.w, whole.w)
    assert second.steps[0] == kill_at // 7 * 7
    third = Task()
    assert third.train(folder=tmp_path, **options) == expected  # type: ignore[arg-type]
    assert third.steps == []  # a finished run is only read
    assert torch.equal(third.w, whole.w)
    told = json.loads((tmp_path / "training.json").read_text())
    assert told["step"] == 60
    assert told["settings"]["learning_rate"] == 0.1
    assert not [path for path in tmp_path.iterdir() if path.name not in ("training.json", "checkpoint.safetensors")]


def test_the_seed_decides_and_the_callers_random_stream_is_left_alone() -> None:
    a, b, other = Task(), Task(), Task()
    a.train()
    state = torch.get_rng_state()
    b.train()
    assert torch.equal(torch.get_rng_state(), state)
    other.train(Settings(steps=60, learning_rate=0.1, evaluate_every=7, patience=None, seed=1))
    assert torch.equal(a.w, b.w)
    assert not torch.equal(a.w, other.w)


def test_what_is_not_a_parameter_gets_no_gradient() -> None:
    frozen = torch.nn.Linear(3, 3)
    w = torch.zeros(3, requires_grad=True)
    before = frozen.weight.detach().clone()
    train([w], lambda step: (frozen(w) - 1).square().sum(), lambda: 0.0, Settings(steps=3))
    assert frozen.weight.grad is None
    assert torch.equal(frozen.weight, before)


def test_another_run_and_other_files_in_the_folder_are_refused(tmp_path: Path) -> None:
    Task().train(folder=tmp_path, asked={"data": "a"})
    with pytest.raises(RunMismatch, match="other data;"):
        Task().train(folder=tmp_path, asked={"data": "b"})
    with pytest.raises(RunMismatch, match="other settings;"):
        Task().train(Settings(), tmp_path, asked={"data": "a"})
    (tmp_path / "checkpoint.safetensors").write_bytes(b"")
    with pytest.raises(BadArtifact):
        Task().train(folder=tmp_path, asked={"data": "a"})


def test_what_cannot_be_learned_says_so() -> None:
    w = torch.zeros(2, requires_grad=True)
    with pytest.raises(NonFinite, match="the loss is nan at step 0"):
        train([w], lambda step: (w * float("nan")).sum(), lambda: 0.0, Settings())
    with pytest.raises(NonFinite, match="held-out value is inf after step 0"):
        train([w], lambda step: w.sum(), lambda: float("inf"), Settings())
    with pytest.raises(BadInput, match="does not depend"):
        train([w], lambda step: torch.zeros(()), lambda: 0.0, Settings())
    with pytest.raises(BadInput, match="leaf tensors"):
        train([w * 2], lambda step: w.sum(), lambda: 0.0, Settings())
    with pytest.raises(BadInput, match=r"counts start at 1, got \{'steps': 0\}"):
        Settings(steps=0)
    with pytest.raises(BadInput, match="positive number"):
        Settings(learning_rate=0.0)


def test_draws_and_splits_are_of_different_inputs() -> None:
    assert sorted(draw(range(5), 9)) == [0, 1, 2, 3, 4]
    assert len(set(draw(range(50), 9))) == 9
    kept, held = split(range(20), 0.25, 3)
    assert (len(kept), len(held)) == (15, 5)
    assert sorted(kept + held) == list(range(20))
    assert (kept, held) == split(range(20), 0.25, 3) != split(range(20), 0.25, 4)
    assert [len(part) for part in split(range(2), 0.01, 0)] == [1, 1]
    with pytest.raises(BadInput, match="two inputs or more"):
        split([1], 0.5, 0)


def test_the_bar_says_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Task().train(title="parabola", progress=True)
    told = capsys.readouterr().err
    assert "parabola" in told
    assert "60/60 steps, best 0.0" in told
