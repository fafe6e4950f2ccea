"""Demonstrations as arrays: clean labels, noisy execution, only successes, the same again from the same seed."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from envs.errors import NoRenderer
from envs.tabletop import tasks
from envs.tabletop.env import TabletopEnv
from envs.tabletop.experts import make_expert
from launch.demos import STYLES, Demos, Episode, collect, lerobot_observation
from policies.errors import BadInput, MissingExtra, UnknownName

RETREAT = 3


def make(where: str = "PressButton", episodes: int = 1, **more: object) -> list[Episode]:
    return list(collect(Demos(where, episodes, **{"obs_type": "state", **more})))  # type: ignore[arg-type]


def test_labels_are_the_experts_and_observations_the_environments() -> None:
    (episode,) = make("PutBowlOnPlate")
    env = TabletopEnv(task="PutBowlOnPlate")
    observation, _ = env.reset(seed=episode.seed)
    expert = make_expert(env)
    for step in range(len(episode)):
        for key, values in lerobot_observation(observation).items():
            np.testing.assert_array_equal(episode.observations[key][step], values)
        np.testing.assert_array_equal(episode.actions[step], expert.act())
        observation, _, terminated, _, _ = env.step(episode.executed[step])
        assert terminated or step < len(episode) - 1 - RETREAT
    assert episode.actions.shape == (len(episode), 7)
    assert episode.actions.dtype == episode.executed.dtype == np.float32
    assert episode.instruction == "put the bowl on the plate"


def test_execution_is_noisy_but_for_the_gripper_and_the_retreat() -> None:
    episodes = make("PressButton", 8)
    gaps = np.concatenate([(e.executed - e.actions)[:-RETREAT] for e in episodes])
    inside = np.concatenate([np.abs(e.executed[:-RETREAT]) < 1 for e in episodes])
    assert all((e.executed == e.actions)[-RETREAT:].all() for e in episodes)
    assert (gaps[:, 6] == 0).all()
    for dimension, sigma in enumerate([0.2] * 3 + [0.06] * 3):
        assert np.std(gaps[inside[:, dimension], dimension]) == pytest.approx(sigma, rel=0.25)
    assert max(np.abs(e.executed).max() for e in episodes) <= 1.0


def test_without_noise_what_is_stored_is_what_was_done() -> None:
    (episode,) = make(noise=0.0)
    np.testing.assert_array_equal(episode.actions, episode.executed)


def test_failed_episodes_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    limit = 45
    short = replace(tasks.TASKS["PutBowlOnPlate"], max_episode_steps=limit)
    monkeypatch.setattr(Demos, "tasks", (short,))
    episodes = make("PutBowlOnPlate", 4)
    assert len(episodes) == 4
    assert sum(episode.tries for episode in episodes) > 4
    assert all(len(episode) <= limit + RETREAT for episode in episodes)
    monkeypatch.setattr(Demos, "tasks", (replace(short, max_episode_steps=2),))
    with pytest.raises(BadInput, match=r"failed 30 times in a row with noise 0\.2 .* use less noise"):
        make("PutBowlOnPlate")


def test_an_episode_depends_on_seed_and_number_alone() -> None:
    first, again, longer, other = make(), make(), make(episodes=2), make(seed=1)
    np.testing.assert_array_equal(first[0].executed, again[0].executed)
    np.testing.assert_array_equal(first[0].executed, longer[0].executed)
    assert len({first[0].seed, longer[1].seed, other[0].seed}) == 3


def test_an_adverb_is_acted_out_and_said() -> None:
    slow, quick = make("PutBowlOnPlate", style="slowly")[0], make("PutBowlOnPlate", style="quickly")[0]
    speeds = [np.linalg.norm(episode.actions[:, :3], axis=1).mean() for episode in (slow, quick)]
    assert speeds[0] * 1.5 < speeds[1]
    assert slow.instruction == "put the bowl on the plate slowly"
    assert {words.format("x") for _, words in STYLES.values()} >= {"x", "x, staying low", "x gently"}


def test_the_recipe_of_the_readme_runs() -> None:
    readme = (Path(__file__).parents[2] / "launch" / "README.md").read_text()
    code = re.search(r"```python\n(.*?)```", readme, re.DOTALL)
    assert code is not None
    names: dict[str, Any] = {}
    exec(code[1], names)  # our own README, not generated text
    assert len(names["states"]) == len(names["labels"])


def test_a_suite_is_its_tasks_in_order() -> None:
    assert [task.name for task in Demos("spatial").tasks] == [task.name for task in tasks.SUITES["spatial"]]
    assert Demos("SteerAgents/PressButton-v0").tasks == (tasks.TASKS["PressButton"],)


@pytest.mark.parametrize(
    ("settings", "kind", "message"),
    [
        ({"where": "PutBowlOnPlat"}, UnknownName, "did you mean 'PutBowlOnPlate'"),
        ({"where": "goals"}, UnknownName, "did you mean 'goal'"),
        ({"episodes": 0}, BadInput, "episodes must be an integer of at least 1, got 0"),
        ({"noise": -0.1}, BadInput, r"noise must lie in 0\.\.1"),
        ({"noise": float("nan")}, BadInput, "got nan"),
        ({"style": "slowli"}, BadInput, "did you mean 'slowly'"),
        ({"obs_type": "pixels"}, BadInput, "Allowed: pixels_agent_pos, state"),
        ({"camera_size": 4}, BadInput, "camera_size must be an integer of at least 8"),
    ],
)
def test_a_bad_setting_is_refused_at_once(settings: dict, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        Demos(**{"where": "PressButton", **settings})


def test_a_machine_that_cannot_draw_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*args: object) -> None:
        raise NoRenderer("cannot draw: install EGL")

    monkeypatch.setattr(TabletopEnv, "picture", fails)
    with pytest.raises(MissingExtra, match="demos: cannot draw: install EGL"):
        next(collect(Demos("PressButton")))
