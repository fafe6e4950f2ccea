"""Guidance: exact gradients, closed-form posteriors, nothing at strength 0, the same bits from the same noise, loud failures."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from toys import ABSOLUTE, DELTA, GaussianPolicy, flow_policy, infos, observation, plan

from policies.errors import BadInput, NonFinite, UnknownName
from policies.flow.paths import PATHS
from policies.generative import DenoiseState, PathHook
from steer_agents.guidance import FeynmanKac, Prediction, Repulsion, RewardGuidance, Scene, from_infos
from steer_agents.guidance.guidance import OF, gradient_of
from steer_agents.guidance.language import parse
from steer_agents.steerer import steer

REWARD = parse("reward:\n  - reach: {to: goal}\n  - keep_out: {of: wall, margin: 0.03}\n    weight: 3\n")


def to_goal(prediction: Prediction, scene: Scene) -> torch.Tensor:
    return -(prediction.path - scene.point("goal")[:, None]).square().sum(-1).mean(1)


def states(policy: Any, n_rows: int) -> list[DenoiseState]:
    """Every state of an unsteered sample."""
    seen: list[DenoiseState] = []

    def look(state: DenoiseState) -> None:
        seen.append(state)

    hook: PathHook = look
    policy.sample(observation(n_rows), torch.randn(n_rows, 6, 4, generator=torch.Generator().manual_seed(1)), hook)
    return seen


@pytest.mark.parametrize("path", ["flow", "ddim"])
@pytest.mark.parametrize("of", OF)
def test_the_gradient_equals_finite_differences(path: str, of: str) -> None:
    policy = flow_policy(path)
    seen, scene = states(policy, 2)[1:-1:2], from_infos()({}, infos(2))
    policy.network.double()
    for state in seen:
        state = DenoiseState(
            state.denoise_step, state.noise_level, state.x.double(), state.clean.double(),
            lambda x, level: policy_estimate(policy, x, level), state.to_action, state.observation,
        )  # fmt: skip

        def value(chunk: torch.Tensor) -> torch.Tensor:
            return REWARD.compiled().reward(DELTA.predict(chunk, scene), scene, torch.zeros(2, dtype=torch.int64))

        def whole(x: torch.Tensor, state: DenoiseState = state) -> torch.Tensor:
            """The reward as a function of the sample, as `of` defines it."""
            if of == "network":
                return value(state.to_action(state.estimate(x, state.noise_level)))
            return value(state.to_action(x if of == "sample" else state.clean + (x - state.x)))

        found, step = gradient_of(of, value, state, state.x), 1e-5
        assert found.abs().max() > 1e-3
        for row, h, a in [(0, 0, 0), (0, 5, 2), (1, 2, 1), (1, 3, 2), (0, 1, 3)]:
            nudge = torch.zeros_like(state.x)
            nudge[row, h, a] = step
            with torch.no_grad():
                wanted = (whole(state.x + nudge) - whole(state.x - nudge))[row] / (2 * step)
            assert float(found[row, h, a]) == pytest.approx(float(wanted), rel=1e-4, abs=1e-8)


def policy_estimate(policy: Any, x: torch.Tensor, level: float) -> torch.Tensor:
    state = policy.states(observation(len(x))).double()
    v = policy.network(x, torch.full((len(x),), level, dtype=torch.float64), state)
    return PATHS[policy.config.path].clean(x, v, level)


@pytest.mark.parametrize("gain", [1.0, 4.0])
def test_feynman_kac_gives_the_closed_form_posterior(gain: float) -> None:
    """Base N(0, d^2), reward -(x - m)^2 / 2: weighed by exp(gain reward) it is N(gain m d^2 / (1 + gain d^2), d^2 / (1 + gain d^2))."""
    policy, mean = GaussianPolicy(), 1.0

    def reward(prediction: Prediction, scene: Scene) -> torch.Tensor:
        return -(prediction.path[:, 0, 0] - mean).square() / 2

    part = RewardGuidance(
        reward, ABSOLUTE, 0.0, n_particles=64, feynman_kac=FeynmanKac(gain, threshold=0.9), choose="drawn"
    )
    with steer(policy, part):
        drawn = plan(policy, range(6000))[:, 0, 0].numpy()
    square = policy.deviation**2
    centre, deviation = gain * mean * square / (1 + gain * square), math.sqrt(square / (1 + gain * square))
    edges = np.linspace(-1.6, 1.6, 9) * deviation + centre
    counts = np.histogram(drawn, np.concatenate([[-np.inf], edges, [np.inf]]))[0] / len(drawn)
    below = [0.0, *(0.5 * (1 + math.erf((edge - centre) / deviation / math.sqrt(2))) for edge in edges), 1.0]
    base = [0.0, *(0.5 * (1 + math.erf(edge / policy.deviation / math.sqrt(2))) for edge in edges), 1.0]
    assert 0.5 * np.abs(counts - np.diff(below)).sum() < 0.05
    assert 0.5 * np.abs(counts - np.diff(base)).sum() > 0.15
    counters = part.counters
    assert counters.looks == 6000 * 8
    assert 0 < counters.resampled < counters.looks
    assert counters.least_size < 64 * 0.9


def test_feynman_kac_does_not_fire_where_all_particles_are_worth_the_same() -> None:
    def flat(prediction: Prediction, scene: Scene) -> torch.Tensor:
        return prediction.path.sum((1, 2)) * 0

    part = RewardGuidance(flat, DELTA, 0.0, n_particles=4, feynman_kac=FeynmanKac(10.0))
    with steer(flow_policy(), part):
        pass
    policy = flow_policy()
    with steer(policy, part):
        plan(policy, [1, 2])
    assert part.counters.looks == 2 * 5
    assert part.counters.resampled == 0
    assert part.counters.report()["least_effective_size"] == pytest.approx(4)


@pytest.mark.parametrize("path", ["flow", "ddim"])
def test_strength_zero_gives_the_unsteered_chunk_bit_for_bit(path: str) -> None:
    policy = flow_policy(path)
    stock = plan(policy, [1, 2, 3])
    with steer(policy, RewardGuidance(REWARD, DELTA, 0.0)):
        assert torch.equal(plan(policy, [1, 2, 3]), stock)
    with steer(policy, RewardGuidance(REWARD, DELTA, 1.0)):
        assert not torch.equal(plan(policy, [1, 2, 3]), stock)
    assert torch.equal(plan(policy, [1, 2, 3]), stock)


@pytest.mark.parametrize("path", ["flow", "ddim"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"random": True},
        {"n_particles": 4, "feynman_kac": FeynmanKac(50.0, 1.0), "repulsion": Repulsion(1.0), "choose": "drawn"},
    ],
)
def test_the_same_noise_and_seed_give_the_same_bits(path: str, settings: dict[str, Any]) -> None:
    policy = flow_policy(path)
    with steer(policy, RewardGuidance(REWARD, DELTA, 1.0, **settings)):
        first, again, other = plan(policy, [1, 2]), plan(policy, [1, 2]), plan(policy, [3, 4])
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("path", ["flow", "ddim"])
@pytest.mark.parametrize("of", OF)
def test_guidance_raises_the_reward_and_more_strength_raises_it_more(path: str, of: str) -> None:
    policy, scene = flow_policy(path), from_infos()({}, infos(8))

    def worth(chunk: torch.Tensor) -> float:
        return float(to_goal(DELTA.predict(chunk, scene), scene).mean())

    got = []
    for strength in (0.0, 1.0, 3.0):
        with steer(policy, RewardGuidance(to_goal, DELTA, strength, of=of)):
            got.append(worth(plan(policy, range(8))))
    assert got[0] < got[1] < got[2]


def test_the_push_has_the_length_that_strength_says_on_every_particle() -> None:
    """The Gaussian policy's later steps scale what was pushed, so only one step, the last, is pushed."""
    policy = GaussianPolicy()

    def first(prediction: Prediction, scene: Scene) -> torch.Tensor:
        return prediction.path[:, 0, 0] * torch.arange(
            1.0, len(prediction.path) + 1
        )  # gradients of other lengths in every row

    with steer(policy, RewardGuidance(first, ABSOLUTE, 0.0)):
        stock = plan(policy, [1, 2, 3])
    part = RewardGuidance(first, ABSOLUTE, 2.0, from_level=1 / 8, inner_steps=3)
    with steer(policy, part):
        moved = plan(policy, [1, 2, 3]) - stock
    torch.testing.assert_close(moved[:, 0], torch.tensor([[2 / 8, 0.0, 0.0]]).repeat(3, 1))
    assert part.counters.steps == part.counters.pushed == 9
    with steer(policy, RewardGuidance(first, ABSOLUTE, 2.0, from_level=1 / 8, per_particle_norm=False)):
        moved = plan(policy, [1, 2, 3]) - stock
    torch.testing.assert_close(moved[:, 0, 0], torch.tensor([1.0, 2.0, 3.0]) * 2 / 8)


def test_only_the_asked_entries_are_pushed() -> None:
    policy = GaussianPolicy()

    def all_of_it(prediction: Prediction, scene: Scene) -> torch.Tensor:
        return prediction.path.sum((1, 2))

    with steer(policy, RewardGuidance(all_of_it, ABSOLUTE, 0.0)):
        stock = plan(policy, [1])
    with steer(policy, RewardGuidance(all_of_it, ABSOLUTE, 1.0, dimensions=(1,))):
        moved = (plan(policy, [1]) - stock)[0, 0]
    assert moved[1] > 0.1
    assert moved[[0, 2]].tolist() == [0.0, 0.0]


def test_best_of_n_takes_the_best_and_the_first_is_the_policys_own() -> None:
    policy, scene = flow_policy(), from_infos()({}, infos(2))
    stock = plan(policy, [1, 2])
    with steer(policy, RewardGuidance(to_goal, DELTA, 0.0, n_particles=8, choose="first")):
        torch.testing.assert_close(plan(policy, [1, 2]), stock)
    part = RewardGuidance(to_goal, DELTA, 0.0, n_particles=8)
    with steer(policy, part):
        best = plan(policy, [1, 2])

    def worth(chunk: torch.Tensor) -> torch.Tensor:
        return to_goal(DELTA.predict(chunk, scene), scene)

    assert (worth(best) >= worth(stock) - 1e-6).all()
    assert part.counters.changed == int((best != stock).flatten(1).any(1).sum()) > 0


def test_a_particle_does_not_feel_how_many_others_there_are() -> None:
    """One norm over the batch would let guidance fade as K grows."""
    policy = flow_policy()
    with steer(policy, RewardGuidance(to_goal, DELTA, 2.0)):
        alone = plan(policy, [1, 2])
    with steer(policy, RewardGuidance(to_goal, DELTA, 2.0, n_particles=9, choose="first")):
        torch.testing.assert_close(plan(policy, [1, 2]), alone)


def test_repulsion_keeps_particles_apart() -> None:
    spread = []
    for repulsion in (None, Repulsion(3.0, until=0.3)):
        policy, chunks = flow_policy(), []

        class Keep:
            entrance = "noise"

            def plan(
                self, policy: Any, observation: Any, noise: Any, sample: Any, chunks: Any = chunks
            ) -> torch.Tensor:
                chunks.append(sample(observation, noise))
                return chunks[-1]

            def start(self, policy: Any, seeds: Any) -> None: ...

            def describe(self) -> dict[str, Any]:
                return {}

        with steer(policy, RewardGuidance(to_goal, DELTA, 1.0, n_particles=6, repulsion=repulsion), Keep()):
            plan(policy, [1])
        spread.append(float(torch.pdist(chunks[0].flatten(1)).mean()))
    assert spread[1] > 1.05 * spread[0]


@pytest.mark.parametrize(
    ("reward", "error", "says"),
    [
        (lambda p, s: p.path.sum((1, 2)) * float("nan"), NonFinite, r"not finite in rows \[0, 1\]"),
        (lambda p, s: p.path.detach().sum((1, 2)), BadInput, "not differentiable in the predicted path"),
        (lambda p, s: p.path.sum(), BadInput, r"expected a tensor of shape \(2,\)"),
        (lambda p, s: 3.0, BadInput, "one number per row, got float"),
        (lambda p, s: (p.path * 0).square().sum((1, 2)).sqrt(), NonFinite, "gradient is not finite in rows"),
        (lambda p, s: (p.path - s.point("gaol")[:, None]).sum((1, 2)), UnknownName, "did you mean 'goal'"),
    ],
)
def test_a_reward_that_cannot_guide_stops_the_run(reward: Any, error: type[Exception], says: str) -> None:
    policy = flow_policy()
    with steer(policy, RewardGuidance(reward, DELTA, 1.0)), pytest.raises(error, match=says):
        plan(policy, [1, 2])


def test_a_program_that_names_what_is_not_there_stops_the_run_with_its_line() -> None:
    program = parse("reward:\n  - reach: {to: goal}\n  - keep_out: {of: goal}\n")
    policy = flow_policy()
    with (
        steer(policy, RewardGuidance(program, DELTA, 1.0)),
        pytest.raises(UnknownName, match=r"line 3: extent .* 'goal'"),
    ):
        plan(policy, [1, 2])


def test_without_infos_or_keypoints_it_says_what_to_do() -> None:
    policy = flow_policy()
    with steer(policy, RewardGuidance(to_goal, DELTA, 1.0)):
        with pytest.raises(BadInput, match=r"got no infos\. Use rollout"):
            plan(policy, [1], [])
        with pytest.raises(BadInput, match="from_observation or fixed"):
            plan(policy, [1], [{"held": True}])


def test_a_keypoint_that_is_not_finite_stops_the_run() -> None:
    rows = infos(1)
    rows[0]["keypoints"] = {**rows[0]["keypoints"], "goal": np.array([0.0, np.nan, 0.0])}
    policy = flow_policy()
    with steer(policy, RewardGuidance(to_goal, DELTA, 1.0)), pytest.raises(NonFinite, match="keypoint 'goal'"):
        plan(policy, [1], rows)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"strength": -1.0}, "strength=-1.0"),
        ({"strength": float("nan")}, "strength=nan"),
        ({"of": "action"}, "of='action'"),
        ({"inner_steps": 0}, "inner_steps=0"),
        ({"from_level": 0.0}, "from_level=0.0"),
        ({"n_particles": 0}, "n_particles=0"),
        ({"choose": "worst"}, "choose='worst'"),
        ({"feynman_kac": FeynmanKac(1.0)}, "n_particles of 2 or more"),
        ({"n_particles": 2, "choose": "drawn"}, "feynman_kac, which is None"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        RewardGuidance(to_goal, DELTA, **{"strength": 1.0, **settings})
    for wrong in ({"scale": 0.0}, {"scale": 1.0, "threshold": 1.5}, {"scale": 1.0, "every": 0}):
        with pytest.raises(BadInput, match="FeynmanKac"):
            FeynmanKac(**wrong)
    with pytest.raises(BadInput, match="Repulsion"):
        Repulsion(1.0, until=1.0)
    policy = flow_policy()
    with steer(policy, RewardGuidance(to_goal, DELTA, 1.0, dimensions=(7,))), pytest.raises(BadInput, match="entries"):
        plan(policy, [1])


def test_stages_go_on_per_row_and_begin_anew_with_an_episode() -> None:
    program = parse(
        "stages:\n  - {name: grasp, reward: [], done: {quantity: held, above: 0.5}}\n"
        "  - {name: carry, reward: [{reach: {to: goal}}]}\n"
    )
    policy = flow_policy()
    stock = plan(policy, [1, 2])
    part = RewardGuidance(program, DELTA, 2.0)
    with steer(policy, part):
        rows = infos(2)
        assert torch.equal(plan(policy, [1, 2], rows), stock)
        rows[1]["held"] = True
        moved = plan(policy, [1, 2], rows)
        assert part.stage == ["grasp", "carry"]
        torch.testing.assert_close(moved[0], stock[0], rtol=0, atol=1e-6)
        assert not torch.allclose(moved[1], stock[1])
        policy.reset([1, 2])
        assert part.stage == ["grasp", "grasp"]


def test_the_description_is_json_and_fixes_what_is_done() -> None:
    from steer_agents.runs import jsonable

    one = RewardGuidance(REWARD, DELTA, 1.0, n_particles=3, feynman_kac=FeynmanKac(2.0))
    same = RewardGuidance(REWARD, DELTA, 1.0, n_particles=3, feynman_kac=FeynmanKac(2.0))
    other = RewardGuidance(REWARD, DELTA, 1.0, n_particles=3, feynman_kac=FeynmanKac(3.0))
    assert jsonable(one.describe()) == jsonable(same.describe()) != jsonable(other.describe())
    assert one.describe()["reward"] == {"program": REWARD.text}


def test_rows_may_have_strengths_of_their_own() -> None:
    policy, guided = flow_policy(), RewardGuidance(to_goal, DELTA, 1.0)
    alone = []
    for strength in (0.0, 1.5, 3.0):
        with steer(policy, RewardGuidance(to_goal, DELTA, strength)):
            alone.append(plan(policy, [1, 2, 3]))
    with steer(policy, guided):
        guided.turned(policy, np.array([0.0, 1.5, 3.0]))
        found = plan(policy, [1, 2, 3])
        guided.turned(policy, None)
        again = plan(policy, [1, 2, 3])
    for row in range(3):
        torch.testing.assert_close(found[row], alone[row][row])
    assert not torch.equal(again, found)
    with pytest.raises(BadInput, match="at least 0"):
        guided.turned(policy, np.array([-1.0]))
