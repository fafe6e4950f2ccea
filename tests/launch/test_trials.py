"""Episodes on demand: paired by seed, whatever batch they are asked in."""

from __future__ import annotations

from pathlib import Path

import pytest

from launch.trials import Seeds, Trials, environment_id
from policies.errors import BadInput, UnknownName
from steer_agents.noise.parts import ConstantNoise


@pytest.fixture(scope="module")
def trials() -> Trials:
    return Trials.of(
        "flow-medium", ["PutBowlOnPlate", "PressButton"], ["ee_speed", "contact_force.max"], max_steps=12, num_envs=2
    )


def test_a_seed_names_its_task_and_its_episode(trials: Trials) -> None:
    whole, part = trials.run((), [4, 7, 5, 9]), trials.run((), [9, 7])
    assert list(whole["seed"]) == [4, 7, 5, 9]
    assert list(whole["task"]) == ["PutBowlOnPlate", "PressButton", "PressButton", "PressButton"]
    both = whole.set_index("seed").loc[[9, 7], ["ee_speed", "contact_force.max"]].to_numpy()
    assert part[["ee_speed", "contact_force.max"]].to_numpy() == pytest.approx(both, rel=1e-4)
    assert (whole["ee_speed"] > 0).all()


def test_answers_are_kept(trials: Trials, tmp_path: Path) -> None:
    kept = Trials.of("flow-medium", ["PressButton"], ["speed"], max_steps=6, keep=tmp_path)
    first = kept.run((), [1, 2], "base")
    (file,) = tmp_path.glob("*.parquet")
    before = file.stat().st_mtime_ns
    assert kept.run((), [1, 2], "base").equals(first)
    assert file.stat().st_mtime_ns == before
    kept.run((), [1, 3], "base")
    assert len(list(tmp_path.glob("*.parquet"))) == 2


def test_what_is_wrong_is_said(trials: Trials) -> None:
    with pytest.raises(UnknownName, match="PutBowlOnPlate"):
        environment_id("PutBowlOnPlatt")
    with pytest.raises(BadInput, match="distinct"):
        trials.run((), [1, 1])
    with pytest.raises(BadInput, match=r"COLUMN\.mean"):
        Trials.of("flow-medium", ["PressButton"], ["speed.middle"])
    with pytest.raises(BadInput, match="contact_force"):
        Trials.of("flow-medium", ["PressButton"], ["contact_forse"], max_steps=2).run((), [1])


def test_a_bandit_keeps_its_own_measures() -> None:
    table = Trials.of("bandit:ucb1", ["BanditBernoulli5"], ["action_entropy"], max_steps=8).run((), [3, 4])
    assert table["action_entropy"].notna().all()
    assert "suff_fail" in table


def test_seeds_that_fill_a_batch_are_new() -> None:
    assert Seeds((5, 3))(0, 4) == [5, 3, 6, 7]


def test_the_steering_is_part_of_the_question(tmp_path: Path) -> None:
    trials = Trials.of("flow-medium", ["PressButton"], max_steps=4, keep=tmp_path)
    for parts in ((), (ConstantNoise(),)):
        trials.run(parts, [1])
    assert len(list(tmp_path.glob("*.parquet"))) == 2
