"""Trials given to workers that die: nothing is lost, nothing runs twice that was answered, and one bad trial stops no other."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import Future
from typing import Any

import pytest

from launch.sweep.trial import Answer, Trial
from launch.sweep.workers import TRIES, Backend, Handle, Pool
from policies.errors import BadInput, WorkersLost


class Scripted(Backend):
    """Workers that die as told, without processes."""

    def __init__(self, workers: int, deaths: Counter[str] | None = None, stillborn: int = 0) -> None:
        self.workers, self.deaths, self.stillborn = workers, deaths or Counter(), stillborn
        self.started: list[int] = []
        self.carried: list[str] = []
        self.closed = 0

    def start(self, number: int) -> Handle:
        self.started.append(number)
        return ScriptedHandle(self)

    def close(self) -> None:
        self.closed += 1


class ScriptedHandle(Handle):
    def __init__(self, backend: Scripted) -> None:
        self.backend = backend
        self.ready: Future[Any] = Future()
        self.dead = backend.stillborn > 0
        backend.stillborn -= 1
        if self.dead:
            self.ready.set_exception(OSError("no room"))
        else:
            self.ready.set_result(1)

    def ask(self, trial: Trial) -> Future[Answer]:
        assert not self.dead, "a dead worker was asked"
        future: Future[Answer] = Future()
        name = str(trial.settings["name"])
        if self.backend.deaths[name] > 0:
            self.backend.deaths[name] -= 1
            self.dead = True
            future.set_exception(OSError(f"{name} killed it"))
        else:
            self.backend.carried.append(name)
            future.set_result(Answer(trial.key, None, "", 0.0))
        return future

    def close(self) -> None:
        self.dead = True


def trials(count: int) -> list[Trial]:
    return [Trial({"name": str(number)}) for number in range(count)]


@pytest.mark.parametrize("workers", [1, 3, 20])
def test_every_trial_is_answered_once(workers: int) -> None:
    backend = Scripted(workers, Counter({"2": 1, "5": TRIES - 1}))
    with Pool(backend) as pool:
        keys = [answer.key for answer in pool.answers(trials(9))]
        assert sorted(keys) == sorted(trial.key for trial in trials(9))
        assert sorted(backend.carried) == [str(number) for number in range(9)]
        begun = len(backend.started)
        assert [answer.error for answer in pool.answers(trials(2))] == ["", ""]
        assert len(backend.started) <= begun + 1, "workers are kept from round to round"
    assert backend.closed == 1


def test_a_trial_that_kills_its_workers_becomes_a_failure() -> None:
    backend = Scripted(2, Counter({"1": 99}))
    with Pool(backend) as pool:
        answers = {answer.key: answer.error for answer in pool.answers(trials(4))}
    assert answers.pop(trials(4)[1].key).startswith(f"its worker died, {TRIES} times")
    assert set(answers.values()) == {""}
    assert backend.deaths["1"] == 99 - TRIES


def test_workers_that_never_come_up_end_the_sweep() -> None:
    with Pool(Scripted(1, stillborn=TRIES - 1)) as pool:
        assert len(list(pool.answers(trials(2)))) == 2
    with pytest.raises(WorkersLost, match="no room"), Pool(Scripted(2, stillborn=99)) as pool:
        list(pool.answers(trials(2)))
    with pytest.raises(BadInput, match="at least one worker"):
        Pool(Scripted(0))
