from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from envs.errors import BadInitState
from envs.tabletop.env import TabletopEnv
from envs.tabletop.init_states import N_INIT_STATES, PATH, _draw, apart, footprint, load_init_states, sample_layout
from envs.tabletop.tasks import TASKS, Task


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_has_fifty_different_fixed_states_without_overlap(task: Task) -> None:
    rows = load_init_states(task)
    assert rows.shape == (N_INIT_STATES, 7 + 4 * len(task.entities))
    assert len(np.unique(rows, axis=0)) == N_INIT_STATES
    for row in rows:
        prints = {
            name: footprint(entity.kind, *pose)
            for (name, entity), pose in zip(task.entities.items(), row[7:].reshape(-1, 4), strict=True)
        }
        for name, mark in prints.items():
            for other, other_mark in prints.items():
                if name < other and not task.entities[name].region.on_top and not task.entities[other].region.on_top:
                    assert apart(mark, other_mark, fingers=False), (name, other)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_things_stand_still_and_nothing_is_done_at_the_start(task: Task) -> None:
    env = TabletopEnv(task.name)
    _, info = env.reset(seed=0, options={"init_state_id": 7})
    assert (info["stage"], info["is_success"], info["init_state_id"]) == (0, False, 7)
    before = {name: env.world.middle(name) for name in task.entities}
    for _ in range(10):
        _, reward, terminated, _, _ = env.step(np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float32))
        assert (reward, terminated) == (0, False)
    moved = {name: float(np.linalg.norm(env.world.middle(name) - where)) for name, where in before.items()}
    assert max(moved.values()) < 0.003, moved


def test_a_fixed_state_is_the_same_under_every_seed_and_can_be_passed_as_numbers() -> None:
    task, env = TASKS["PutBowlOnPlate"], TabletopEnv("PutBowlOnPlate")
    by_id = [env.reset(seed=seed, options={"init_state_id": 3})[0]["environment_state"] for seed in (0, 1)]
    by_row = env.reset(seed=2, options={"init_state": load_init_states(task)[3]})[0]["environment_state"]
    assert np.array_equal(by_id[0], by_id[1])
    assert np.array_equal(by_id[0], by_row)


def test_regions_decide_where_things_start() -> None:
    task, rng = TASKS["PutBowlOnStandOnPlate"], np.random.default_rng(0)
    for _ in range(20):
        poses = sample_layout(task, rng)[7:].reshape(-1, 4)
        names = list(task.entities)
        stand, bowl = poses[names.index("stand")], poses[names.index("bowl")]
        assert np.abs(bowl[:2] - stand[:2]).max() <= 0.012
        assert 0.44 <= stand[0] <= 0.54
    assert _draw({}, rng) == []


def test_broken_files_of_init_states_are_named(tmp_path: Path) -> None:
    task = TASKS["PressButton"]
    with pytest.raises(BadInitState, match="there is no file"):
        load_init_states(task, tmp_path / "missing.npz")
    broken = tmp_path / "broken.npz"
    broken.write_bytes(PATH.read_bytes()[:2000])
    with pytest.raises(BadInitState, match="no readable file"):
        load_init_states(task, broken)
    np.savez(tmp_path / "other.npz", OpenDrawer=np.zeros((2, 3)))
    with pytest.raises(BadInitState, match="no init states of PressButton"):
        load_init_states(task, tmp_path / "other.npz")
    np.savez(tmp_path / "short.npz", PressButton=np.zeros((2, 3)))
    with pytest.raises(BadInitState, match=r"row 0 of .*expected shape \(27,\)"):
        TabletopEnv("PressButton").reset(options={"init_state_id": 0, "init_states_path": tmp_path / "short.npz"})
