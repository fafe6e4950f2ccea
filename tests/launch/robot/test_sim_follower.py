"""The simulated robot with the tabletop's own actions, as LeRobot's tools drive it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from lerobot.utils.constants import OBS_STR
from lerobot.utils.feature_utils import build_dataset_frame, hw_to_dataset_features

from launch.robot.config_sim_follower import DELTA_FPS, SimFollowerConfig
from launch.robot.sim_arm import ACTIONS, FORCE, SimArm
from launch.robot.sim_envelope import sim_envelope
from launch.robot.sim_follower import DELTAS, STATE, SimFollower
from policies.errors import BadInput


@pytest.fixture
def robot() -> Iterator[SimFollower]:
    """In lockstep, and without the cost of pictures."""
    config = SimFollowerConfig(
        actions="deltas", fps=DELTA_FPS, obs_type="pixels_agent_pos", camera_size=16, real_time=False
    )
    made = SimFollower(config)
    made.connect()
    yield made
    made.disconnect()


def delta(**changes: float) -> dict[str, float]:
    return (
        dict.fromkeys(DELTAS, 0.0) | {"gripper.vel": -1.0} | {f"{name}.vel": value for name, value in changes.items()}
    )


@pytest.mark.usefixtures("can_draw")
def test_what_lerobot_hands_on_is_the_tabletops_state_and_action(robot: SimFollower) -> None:
    seen = robot.get_observation()
    assert set(seen) == set(robot.observation_features)
    kept = {k: v for k, v in robot.observation_features.items() if isinstance(v, tuple) or k.endswith((".pos", ".vel"))}
    assert set(robot.observation_features) - set(kept) == {FORCE}
    frame = build_dataset_frame(hw_to_dataset_features(kept, OBS_STR), seen, prefix=OBS_STR)
    state, _ = robot.arm.env.look()
    np.testing.assert_allclose(frame["observation.state"], state["agent_pos"], atol=1e-6)
    assert [name for name in robot.action_features if name.endswith((".pos", ".vel"))] == list(DELTAS)


@pytest.mark.usefixtures("can_draw")
def test_deltas_add_up_from_target_to_target(robot: SimFollower) -> None:
    start = robot.get_observation()
    for _ in range(4):
        assert robot.send_action(delta(y=0.2)) == delta(y=0.2)
    for _ in range(10):
        robot.send_action(delta())
    moved = robot.get_observation()
    assert moved["y.pos"] - start["y.pos"] == pytest.approx(4 * 0.2 * 0.05, abs=0.004)
    assert moved["x.pos"] == pytest.approx(start["x.pos"], abs=0.004)


@pytest.mark.usefixtures("can_draw")
def test_a_whole_state_brings_it_back(robot: SimFollower) -> None:
    start = {name: value for name, value in robot.get_observation().items() if name.endswith(".pos")}
    assert tuple(start) == STATE
    for _ in range(8):
        robot.send_action(delta(y=0.3))
    for part in np.linspace(0.1, 1.0, 20):
        here = robot.get_observation()
        robot.send_action({name: (1 - part) * here[name] + part * value for name, value in start.items()})
    for _ in range(10):
        robot.send_action(start)
    back = robot.get_observation()
    assert back["y.pos"] == pytest.approx(start["y.pos"], abs=0.004)
    robot.send_action(delta(z=0.1))  # goes on from there
    assert robot.get_observation()["y.pos"] == pytest.approx(start["y.pos"], abs=0.01)


@pytest.mark.usefixtures("can_draw")
def test_what_cannot_be_done_is_refused(robot: SimFollower) -> None:
    with pytest.raises(BadInput, match=r"finite numbers"):
        robot.send_action(delta(x=float("nan")))
    with pytest.raises(BadInput, match=r"has no \['x.vel'"):
        robot.send_action(dict.fromkeys(ACTIONS, 0.0))
    before = robot.get_observation()
    for _ in range(5):
        robot.send_action(delta())
    assert robot.get_observation()["z.pos"] == pytest.approx(before["z.pos"], abs=0.004)  # nothing of it stayed


@pytest.mark.parametrize("burst", [1, 3, 10, 30])
def test_targets_that_come_in_a_burst_break_no_limit(burst: int) -> None:
    """As after the arm's process was held up by a busy machine."""
    arm, limit = SimArm("PutBowlOnPlate"), sim_envelope().limits["ee.y"]
    target = np.array([arm.position()[name] for name in ACTIONS])
    for number in range(60):
        target[1] += 0.9 * limit.speed * arm.period * (1 if number < 30 else -1)
        arm.command(target)
        if (number + 1) % burst == 0:
            for _ in range(burst * arm.steps):
                arm.step()
    assert np.abs(np.diff(arm.trace()["setpoint"][:, 1])).max() * 240 <= 0.91 * limit.speed
    assert arm.overrun == 0
    arm.close()


def test_deltas_have_their_rate_and_their_pictures() -> None:
    with pytest.raises(BadInput, match=r"--robot.fps=20 --robot.obs_type=pixels_agent_pos"):
        SimFollowerConfig(actions="deltas")
    with pytest.raises(BadInput, match="did you mean 'deltas'"):
        SimFollowerConfig(actions="delta")
    assert SimFollowerConfig().actions == "targets"
