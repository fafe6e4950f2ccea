"""Holding: the set-point is reached by every channel, rows are apart, the trace is told, and nothing is left behind."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from control_parts import PUSHED, Drive, Plant, push
from noise_parts import TwoWays
from steering_parts import n_hooks

from policies.errors import BadInput
from steer_agents.control.harm import HarmLimit
from steer_agents.control.hold import Hold
from steer_agents.control.observe import Observe
from steer_agents.control.pi import Gains, Limits
from steer_agents.decisions import Temperature
from steer_agents.direction import Direction
from steer_agents.loop import Rollout, rollout
from steer_agents.noise.mix import NoiseMix, mixed
from steer_agents.noise.parts import ConstantNoise
from steer_agents.sites import Site
from steer_agents.steerer import Steerer, steer

LIMITS = (-5.0, 5.0)


def run(policy: Any, part: Any, episodes: int = 3, **plant: Any) -> Rollout:
    steerer = None if part is None else Steerer(part)
    return rollout(
        partial(Plant, **plant), policy, steerer, episodes=episodes, seed=0, num_envs=episodes, progress=False
    )


def last(made: Rollout, column: str, steps: int = 10) -> float:
    return float(made.steps[made.steps["env_step"] >= made.steps["env_step"].max() - steps][column].mean())


@pytest.mark.parametrize("chunk", [1, 4])
@pytest.mark.parametrize(("gain", "load"), [(1.0, 0.0), (0.6, 0.05), (1.4, -0.1)])
def test_an_activation_is_moved_until_the_speed_is_what_was_asked_for(chunk: int, gain: float, load: float) -> None:
    policy = Drive(chunk)
    hold = Hold(push(), "ee_speed=0.5", LIMITS, slope=PUSHED, start=1.0)
    made = run(policy, hold, gain=gain, load=load, steps=200)
    assert last(made, "speed") == pytest.approx(0.5, abs=0.01)
    fixed = run(policy, push(1.0), gain=gain, load=load, steps=200)
    assert abs(last(fixed, "speed") - 0.5) == pytest.approx(abs(gain * 0.5 + load - 0.5), abs=1e-6)


def test_the_trace_is_in_the_step_table_and_what_holds_in_the_config() -> None:
    made = run(Drive(), Hold(push(), "speed=0.5", LIMITS, slope=PUSHED, start=0.25, name="pace"))
    steps = made.steps[made.steps["episode"] == 1]
    assert (steps["pace_set_point"] == 0.5).all()
    assert steps["pace_strength"].iloc[0] == 0.25, "bumpless: the open loop's strength first"
    assert np.isnan(steps["pace_measured"].iloc[0])
    np.testing.assert_allclose(steps["pace_measured"].iloc[1:], steps["speed"].iloc[:-1])
    np.testing.assert_allclose(steps["speed"], 0.3 + PUSHED * steps["pace_strength"], atol=1e-6)
    assert not steps["pace_withdrawn"].any()
    assert made.config["steerer"]["parts"][0]["set_point"] == "speed=0.5"


def test_every_episode_starts_anew_and_a_hold_that_asks_for_the_base_speed_leaves_it() -> None:
    policy = Drive()
    made = rollout(
        Plant,
        policy,
        Steerer(Hold(push(), "speed=0.5", LIMITS, slope=PUSHED)),
        episodes=6,
        seed=0,
        num_envs=2,
        progress=False,
    )
    first = made.steps[made.steps["env_step"] == 0]
    assert (first["hold_strength"] == 0).all()
    by_episode = made.steps.groupby("episode")["speed"].apply(list)
    assert all(row == by_episode[0] for row in by_episode)
    plain, held = run(policy, None), run(policy, Hold(push(), "speed=0.3", LIMITS, slope=PUSHED))
    np.testing.assert_allclose(plain.steps["speed"], held.steps["speed"], atol=1e-6)


def test_rows_are_held_apart() -> None:
    policy = Drive()
    with steer(policy, Hold(push(), "speed=0.5", LIMITS, slope=PUSHED)) as steering:
        policy.reset([0, 1])
        speeds = np.zeros(2)
        for _ in range(60):
            infos = [{"speed": speed} for speed in speeds]
            speeds = np.array([1.0, 0.5]) * policy.act({}, infos=infos).action
        strengths = steering.strength().tolist()
    np.testing.assert_allclose(speeds, 0.5, atol=0.005)
    np.testing.assert_allclose(strengths, [1.0, 3.5], atol=0.05)


def test_two_one_sided_directions_are_one_signed_strength() -> None:
    up, down = push(), push(sign=-1.0)
    for wanted in (0.1, 0.5):
        made = run(Drive(), Hold(up, f"speed={wanted}", (-3, 3), slope=PUSHED, against=down))
        assert last(made, "speed") == pytest.approx(wanted, abs=0.01)
        assert np.sign(last(made, "hold_strength")) == np.sign(wanted - 0.3)


def test_what_is_out_of_reach_is_said_to_be_saturated() -> None:
    made = run(Drive(), Hold(push(), "speed=5", Limits(-1, 2, rate=0.5), slope=PUSHED))
    assert made.steps["hold_strength"].max() == 2.0
    assert made.steps.loc[made.steps["env_step"] > 10, "hold_saturated"].all()
    assert made.steps.groupby("episode")["hold_strength"].diff().abs().max() <= 0.5 + 1e-9


def test_a_temperature_holds_the_entropy_of_decisions() -> None:
    policy = Drive()
    made = run(policy, Hold(Temperature(1.0), "action_entropy=2.0", (0.1, 10.0), gains=Gains(0.0, 0.5)))
    assert last(made, "entropy_bits") == pytest.approx(2.0, abs=0.01)
    assert made.steps["hold_strength"].iloc[0] == 1.0, "1 is the temperature that changes nothing"
    assert policy.temperature == 1.0


class Wind(TwoWays):
    """Its action is its noise."""

    chunk_size = n_action_steps = 1
    action_dim = 1
    entrances: ClassVar[frozenset[str]] = frozenset({"noise", "path"})

    def sample(self, observation: Any, noise: Any = None, hook: Any = None, generator: Any = None) -> torch.Tensor:
        return noise


def test_a_share_of_constant_noise_holds_the_mean_of_what_the_noise_decides() -> None:
    policy, mix = Wind(), NoiseMix([1.0])
    with steer(policy, Hold(mix, "push=0.6", (-1.0, 1.0), gains=Gains(0.0, 0.02))):
        policy.reset(list(range(64)))
        speeds, seen = np.zeros(64), []
        for _ in range(150):
            decision = policy.act({"state": np.zeros((64, 2), np.float32)}, infos=[{"push": float(v)} for v in speeds])
            speeds = decision.action[:, 0]
            seen.append(speeds.mean())
    assert np.mean(seen[-60:]) == pytest.approx(0.6, abs=0.06)
    assert policy.sampling_parts == ()
    assert policy.attendants == ()
    assert mix._of_rows is None


def test_mixing_keeps_the_variance_and_gives_the_noise_back_at_0() -> None:
    noise, constant = torch.randn(20000, 2, 3), torch.randn(20000, 2, 3)
    for share in (-0.8, 0.3, 0.6):
        assert float(mixed(noise, constant, torch.full((20000,), share)).var()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(mixed(noise, constant, torch.zeros(20000)), noise)
    torch.testing.assert_close(mixed(noise, constant, torch.ones(20000)), constant)
    with pytest.raises(BadInput, match=r"\[-1, 1\]"):
        NoiseMix([1.0], strength=1.5)


def test_steering_is_withdrawn_for_the_rest_of_the_episode_once_harm_has_passed() -> None:
    limit = HarmLimit("force", above=20.0, ramp=4)
    made = run(Drive(), Hold(push(), "speed=0.5", LIMITS, slope=PUSHED, start=1.0, harm=limit), episodes=2)
    for _, steps in made.steps.groupby("episode"):
        on = steps[steps["hold_withdrawn"]]
        assert on["env_step"].tolist() == list(range(21, 40)), "force 21 is told with observation 21"
        np.testing.assert_allclose(on["hold_strength"].iloc[:4], [0.75, 0.5, 0.25, 0.0], atol=0.01)
        assert (on["hold_strength"].iloc[3:] == 0).all()


def test_leaving_puts_everything_back() -> None:
    policy = Drive()
    plain = run(policy, None).steps["speed"].tolist()
    with (
        pytest.raises(RuntimeError, match="on purpose"),
        steer(policy, Hold(push(), "speed=0.9", LIMITS, slope=PUSHED)),
    ):
        raise RuntimeError("on purpose")
    assert policy.attendants == ()
    assert run(policy, None).steps["speed"].tolist() == plain


def test_the_number_of_repeats_can_be_held() -> None:
    from steer_agents.control.measured import Quantity

    one = Quantity("repeat_rate")
    seen = []
    for action in (1, 1, 2, 2, 2):
        value = one.read([{}], np.array([True]))
        seen.append(None if value is None else float(value[0]))
        one.note(_decision(action))
    assert seen == [None, None, 1.0, 0.0, 1.0]


def _decision(action: int) -> Any:
    from policies.base import Decision

    return Decision(np.array([action]))


def test_a_linear_observer_on_an_activation_is_held_and_listens_no_longer_afterwards() -> None:
    policy = Drive(4)
    site = Site("block_output", layer=1)
    probe = Direction.from_raw({"policy.1.block_output": torch.tensor([1.0, 0.0])}, site)
    believed = Observe(
        probe, "believed", scale=PUSHED, offset=0.3 - 10 * PUSHED
    )  # reads the speed that the network asks for
    hold = Hold(push(), "believed=0.5", LIMITS, slope=PUSHED)
    made = rollout(
        partial(Plant, 0.5, steps=80), policy, Steerer(believed, hold), episodes=2, seed=0, num_envs=2, progress=False
    )
    assert last(made, "believed") == pytest.approx(0.5, abs=0.01)
    assert last(made, "speed") == pytest.approx(0.25, abs=0.01), "the network does not know of the load"
    assert n_hooks(policy.module) == 0
    raw = {f"policy.{i}.block_output": torch.tensor([1.0, 0.0]) for i in (0, 1)}
    both = Direction.from_raw(raw, Site("block_output", layer=(0, 1)))
    with pytest.raises(BadInput, match="one vector at one location"):
        run(policy, Observe(both, "believed"))


def test_what_cannot_be_held_is_refused_by_name() -> None:
    policy = Drive()
    with pytest.raises(BadInput, match="did you mean 'speed'"):
        run(policy, Hold(push(), "spedd=0.5", LIMITS, slope=PUSHED))
    with steer(policy, Hold(push(), "speed=0.5", LIMITS, slope=PUSHED)):
        policy.reset([0])
        policy.act({})
        with pytest.raises(BadInput, match="given no infos"):
            policy.act({})
    with pytest.raises(BadInput, match="has no strength to move"):
        Hold(ConstantNoise(), "speed=0.5", LIMITS, slope=1.0)
    with pytest.raises(BadInput, match="pass slope="):
        Hold(push(), "speed=0.5", LIMITS)
    with pytest.raises(BadInput, match="not within the limits"):
        Hold(push(), "speed=0.5", LIMITS, slope=1.0, start=9.0)
    twice = Steerer(*[Hold(push(), "speed=0.5", LIMITS, slope=PUSHED)] * 2)
    with pytest.raises(BadInput, match="are there twice"):
        rollout(Plant, policy, twice, episodes=1, seed=0, progress=False)
    with pytest.raises(BadInput, match="no modules to steer"):
        steer(TwoWays(), Hold(push(), "speed=0.5", LIMITS, slope=1.0))
    with pytest.raises(BadInput, match="attach it to a policy that acts"):
        steer(policy.module, Hold(push(), "speed=0.5", LIMITS, slope=1.0))
