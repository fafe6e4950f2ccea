"""Gates: when, and for whom."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
import torch
from steering_parts import BLOCKS, absolute, direction_at
from tiny_models import WIDTH, inputs, outputs, tiny

import steer_agents as sa
from policies.base import Context
from policies.errors import BadInput, NonFinite, UnknownSite
from policies.mlp import MLP, MLPConfig, MLPPolicy
from steer_agents.gates import ALWAYS, Gate
from steer_agents.sites import Site, steerable
from steer_agents.steerer import Attached

model_of = functools.cache(tiny)
SITE = Site("block_output", layer=1)


def steps(*numbers: int) -> Context:
    return Context(env_step=np.array(numbers))


def weights(gate: Gate, context: Context) -> list[float]:
    return torch.as_tensor(gate.weight(context, None, None)).tolist()


def steered(gate: Gate, name: str = "llama", prepare: Any = None, batch: Any = None) -> torch.Tensor:
    """Outputs of a push at one layer under a gate."""
    model = model_of(name)
    add = sa.Add(direction_at(model, SITE), strength=absolute(2.0), gate=gate)
    with sa.steer(model, add) as steering:
        if prepare is not None:
            prepare(steering)
        return outputs(model, inputs(name) if batch is None else batch)


# ---- schedules, in closed form


def test_a_window_is_open_from_start_to_before_stop() -> None:
    assert weights(sa.Window(2, 4), steps(0, 1, 2, 3, 4, 5)) == [0, 0, 1, 1, 0, 0]
    assert weights(sa.Window(2), steps(0, 2, 10**6)) == [0, 1, 1]


def test_a_ramp_is_linear_between_and_constant_outside() -> None:
    assert weights(sa.Ramp(2, 6), steps(0, 2, 3, 4, 6, 9)) == [0, 0, 0.25, 0.5, 1, 1]
    assert weights(sa.Ramp(0, 2, low=3.0, high=-1.0), steps(0, 1, 2)) == [3, 1, -1]


def test_decay_halves_every_half_life() -> None:
    assert weights(sa.Decay(half_life=3, start=2), steps(0, 2, 5, 8)) == [1, 1, 0.5, 0.25]


def test_denoise_steps_are_open_from_start_to_before_stop_and_never_guessed() -> None:
    def at(gate: Gate, *steps: int) -> list[Any]:
        return [gate.weight(Context(denoise_step=step), None, None) for step in steps]

    assert at(sa.DenoiseSteps(1, 3), 0, 1, 2, 3) == [0, 1, 1, 0]
    assert at(sa.DenoiseSteps(2), 1, 2, 99) == [0, 1, 1]
    assert at(sa.DenoiseSteps(2) * sa.Always(0.5), 1, 2) == [0, 0.5]
    with pytest.raises(BadInput, match="no denoise step is running at this site"):
        sa.DenoiseSteps().weight(Context(), None, None)


def test_products_multiply_whatever_their_shapes() -> None:
    context = steps(0, 1, 2)
    assert weights(sa.Window(1) * sa.Always(0.5), context) == [0, 0.5, 0.5]
    assert weights(sa.Window(1) * sa.Ramp(0, 4), context) == [0, 0.25, 0.5]
    assert (sa.Always(2.0) * sa.Always(3.0)).constant
    assert not (sa.Window(1) * ALWAYS).constant


@pytest.mark.parametrize("gate", [sa.Window(1), sa.Ramp(0, 3), sa.Decay(2.0)])
def test_schedules_refuse_to_guess_the_step(gate: Gate) -> None:
    with pytest.raises(BadInput, match="needs the environment step: run the policy through reset and act"):
        steered(gate)


@pytest.mark.parametrize(
    "make",
    [
        lambda: sa.Window(3, 3), lambda: sa.Window(-1), lambda: sa.Ramp(4, 4), lambda: sa.Decay(0.0),
        lambda: sa.Decay(float("nan")), lambda: sa.Always(float("nan")), lambda: sa.Probe(torch.zeros(2, 2)),
        lambda: sa.Probe(torch.tensor([1.0, float("nan")])), lambda: sa.DenoiseSteps(2, 2), lambda: sa.DenoiseSteps(-1),
    ],
)  # fmt: skip
def test_gates_that_make_no_sense_are_refused(make: Any) -> None:
    with pytest.raises((BadInput, NonFinite)):
        make()


# ---- attached


def test_always_is_the_plain_part_and_its_value_multiplies() -> None:
    plain = steered(ALWAYS)
    assert torch.equal(steered(sa.Always(1.0)), plain)
    model = model_of("llama")
    with sa.steer(model, sa.Add(direction_at(model, SITE), strength=absolute(1.0))):
        half = outputs(model, inputs("llama"))
    assert torch.equal(steered(sa.Always(0.5)), half)


def test_a_schedule_follows_each_rows_own_step() -> None:
    plain, full = outputs(model_of("llama"), inputs("llama")), steered(ALWAYS)

    def at(*numbers: int) -> Any:
        return lambda steering: setattr(steering.context, "env_step", np.array(numbers))

    out = steered(sa.Window(5, 8), prepare=at(4, 5, 8))
    assert torch.equal(out[0], plain[0])
    torch.testing.assert_close(out[1], full[1], atol=1e-5, rtol=1e-5)
    assert torch.equal(out[2], plain[2])


def test_a_token_gate_narrows_the_site() -> None:
    model, batch = model_of("llama"), inputs("llama")
    with sa.steer(
        model, sa.Add(direction_at(model, SITE), site=Site(SITE.kind, 1, tokens=sa.span(2, 4)), strength=absolute(2.0))
    ):
        expected = outputs(model, batch)
    assert torch.equal(steered(sa.Tokens(sa.span(2, 4))), expected)
    assert torch.equal(steered(sa.Tokens(sa.span(2, 4)) * sa.Tokens(sa.span(0, 4))), expected)
    assert torch.equal(steered(sa.Tokens("last") * sa.Tokens(sa.index(0))), outputs(model, batch))


def test_token_gates_are_refused_where_there_are_no_such_tokens() -> None:
    for name, stack in (("mlp", "policy"), ("smolvlm", "vision")):
        model, site = model_of(name), Site("block_output", layer=1, stack=stack)
        with pytest.raises(UnknownSite, match="token scope 'span'"):
            sa.steer(model, sa.Add(direction_at(model, site), strength=1.0, gate=sa.Tokens(sa.span(0, 2))))


def test_a_probe_opens_where_it_fires_and_nowhere_else() -> None:
    model, batch = model_of("llama"), inputs("llama")
    h = sa.rows(steerable(model), [batch], SITE)["language.1.block_output"].reshape(3, 6, WIDTH)
    w = torch.randn(WIDTH, generator=torch.Generator().manual_seed(4))
    logit = h @ w - 0.2
    fires = logit >= 0
    assert 0 < int(fires.sum()) < fires.numel()
    after = {}
    for soft in (False, True):
        gate = sa.Probe(w, bias=-0.2, soft=soft)
        with sa.steer(model, sa.Add(direction_at(model, SITE), strength=absolute(2.0), gate=gate)):
            after[soft] = sa.rows(steerable(model), [batch], SITE)["language.1.block_output"].reshape(3, 6, WIDTH)
    v = 2 * direction_at(model, SITE).vector("language.1.block_output")
    torch.testing.assert_close(after[False], h + v * fires[..., None], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(after[True], h + v * torch.sigmoid(logit)[..., None], atol=1e-4, rtol=1e-4)
    assert torch.equal(after[False][~fires], h[~fires])


def test_a_probe_of_another_width_is_refused() -> None:
    with pytest.raises(BadInput, match=r"weights have shape \(5,\), the activation at its site is 32 wide"):
        steered(sa.Probe(torch.ones(5)))


def mlp_policy() -> MLPPolicy:
    config = MLPConfig(n_inputs=6, n_outputs=4, hidden=(WIDTH,) * 3)
    network = MLP(config)
    network.load_state_dict(model_of("mlp").state_dict())
    return MLPPolicy(network, config)


def test_a_function_of_the_observation_is_called_once_per_step_and_gates_rows() -> None:
    calls: list[Any] = []

    def low(observation: np.ndarray) -> np.ndarray:
        calls.append(observation)
        return observation[:, 0] < 0

    policy, observation = mlp_policy(), inputs("mlp").numpy()
    observation[:, 0] = [1.0, -1.0, -2.0]
    policy.reset([0, 1, 2])
    plain = policy.act(observation).measures["probabilities"]
    gate = sa.Observed(low)
    # two parts and two layers share the gate
    parts = [sa.Add(direction_at(policy, BLOCKS, seed=i), strength=1.0, gate=gate) for i in (1, 2)]
    with sa.steer(policy, *parts):
        first = policy.act(observation).measures["probabilities"]
        assert len(calls) == 1
        assert calls[0] is observation
        second = policy.act(-observation).measures["probabilities"]
        assert len(calls) == 2
    np.testing.assert_array_equal(first[0], plain[0])
    assert (np.abs(first - plain).max(1)[1:] > 1e-3).all()
    assert np.abs(second[0] - first[0]).max() > 1e-3


def test_an_observed_gate_does_not_remember_the_answer_of_another_policy() -> None:
    # Both policies are at their first act; a memory by number of calls alone would give the second the first's answer.
    gate = sa.Observed(lambda observation: observation[:, 0] > 0)
    results = []
    for sign in (1.0, -1.0):
        policy = mlp_policy()
        observation = np.full((2, 6), sign, dtype=np.float32)
        policy.reset([0, 1])
        add = sa.Add(direction_at(policy, BLOCKS), strength=1.0, gate=gate)
        with sa.steer(policy, add):
            steered_p = policy.act(observation).measures["probabilities"]
        results.append(np.abs(steered_p - policy.act(observation).measures["probabilities"]).max())
    assert results[0] > 1e-3
    assert results[1] == 0


def test_an_observed_gate_needs_an_observation_and_one_finite_number_per_row() -> None:
    with pytest.raises(BadInput, match="needs an observation"):
        steered(sa.Observed(lambda observation: True))

    def observe(steering: Attached) -> None:
        steering.context.observation = {"x": np.zeros(3)}

    for value in (np.zeros((3, 2)), np.array([0.0, np.nan, 1.0])):
        with pytest.raises(BadInput, match=r"must give \(B,\) finite numbers"):
            steered(sa.Observed(lambda observation, value=value: value), prepare=observe)
    with pytest.raises(BadInput, match="gate weight has 2 rows, the batch has 3"):
        steered(sa.Observed(lambda observation: np.ones(2)), prepare=observe)
    assert torch.equal(steered(sa.Observed(lambda observation: True), prepare=observe), steered(sa.Tokens("all")))


def test_gates_of_rows_and_of_tokens_multiply_also_when_rows_are_repeated() -> None:
    batch = {"input_ids": inputs("llama", batch=2)["input_ids"].repeat_interleave(3, 0)}

    def prepare(steering: Attached) -> None:
        steering.context.repeats = 3
        steering.context.env_step = np.array([0, 7])

    for gate in (sa.Window(5) * sa.Tokens("last"), sa.Tokens("last") * sa.Window(5)):
        out = steered(gate, prepare=prepare, batch=batch)
        last = steered(sa.Tokens("last"), batch=batch)
        plain = outputs(model_of("llama"), batch)
        assert torch.equal(out[:3], plain[:3])
        assert torch.equal(out[3:], last[3:])
        assert not torch.equal(last, plain)


def test_every_gate_describes_itself_in_plain_values() -> None:
    import json

    gates = [
        sa.Window(0, 5) * sa.Probe(torch.ones(3)),
        sa.Observed(len),
        sa.Tokens("last"),
        sa.Ramp(0, 2),
        sa.Decay(1.0),
    ]
    texts = [json.dumps(gate.describe()) for gate in gates]
    assert '"function": "builtins.len"' in texts[1]
    assert '"first": {"gate": "Window", "start": 0, "stop": 5}' in texts[0]


# ---- measured quantities


def infos(**columns: list[Any]) -> list[dict[str, Any]]:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def looks(gate: Gate, *batches: list[dict[str, Any]], starts: tuple[int, ...] = ()) -> list[list[float]]:
    """Weights at successive acts of one policy; at those in `starts` all rows begin a new episode."""
    context, found, step = Context(), [], 0
    for number, batch in enumerate(batches):
        step = 0 if number in starts else step
        context.infos, context.act_calls, context.env_step = batch, number + 1, np.full(len(batch), step)
        found.append(weights(gate, context))
        assert weights(gate, context) == found[-1]  # another layer asks in the same act
        step += 1
    return found


def test_a_measured_gate_compares_each_rows_own_quantity() -> None:
    batch = infos(held=[True, False, np.True_], stage=[0, 1, 2], clearance=[0.05, float("inf"), np.float32(0.2)])
    assert looks(sa.Measured("held"), batch) == [[1, 0, 1]]
    assert looks(sa.Measured("stage", equals=1), batch) == [[0, 1, 0]]
    assert looks(sa.Measured("stage", above=0), batch) == [[0, 1, 1]]
    assert looks(sa.Measured("clearance", below=0.08), batch) == [[1, 0, 0]]
    assert looks(sa.Measured("held") * sa.Measured("clearance", below=0.08), batch) == [[1, 0, 0]]


def test_hysteresis_holds_a_rows_gate_open_until_release_or_a_new_episode() -> None:
    near = sa.Measured("gap", below=0.08, release=0.10)
    path = [
        infos(gap=[a, b])
        for a, b in [(0.09, 0.09), (0.07, 0.09), (0.09, 0.09), (0.10, 0.07), (0.09, 0.09), (0.09, 0.09)]
    ]
    assert looks(near, *path, starts=(5,)) == [[0, 0], [1, 0], [1, 0], [0, 1], [0, 1], [0, 0]]
    fast = sa.Measured("speed", above=2.0, release=1.0)
    assert looks(fast, *[infos(speed=[v]) for v in (1.5, 2.5, 1.5, 1.0, 1.5)]) == [[0], [1], [1], [0], [0]]


def test_hysteresis_does_not_carry_over_to_another_policy_or_row() -> None:
    near = sa.Measured("gap", below=0.08, release=0.10)
    assert looks(near, infos(gap=[0.05])) == [[1]]
    fresh = Context(infos=infos(gap=[0.09]), act_calls=2, env_step=np.array([3]))
    assert weights(near, fresh) == [0]
    shrunk = Context(infos=infos(gap=[0.05, 0.05]), act_calls=1, env_step=np.array([0, 0]))
    assert weights(near, shrunk) == [1, 1]
    shrunk.infos, shrunk.act_calls, shrunk.env_step = infos(gap=[0.09]), 2, np.array([1])
    with pytest.raises(BadInput, match="went from 2 to 1 rows"):
        weights(near, shrunk)


def test_a_measured_gate_steers_only_the_rows_in_range_and_follows_the_infos() -> None:
    policy, observation = mlp_policy(), inputs("mlp").numpy()
    policy.reset([0, 1, 2])
    plain = policy.act(observation).measures["probabilities"]
    add = sa.Add(direction_at(policy, BLOCKS), strength=1.0, gate=sa.Measured("held"))
    with sa.steer(policy, add):
        for held in ([True, False, True], [False, True, False]):
            moved = policy.act(observation, infos=infos(held=held)).measures["probabilities"]
            assert (np.abs(moved - plain).max(1) > 1e-3).tolist() == held
            np.testing.assert_array_equal(moved[~np.array(held)], plain[~np.array(held)])
        with pytest.raises(BadInput, match=r"Measured\('held'\) needs the environment's infos"):
            policy.act(observation)
        with pytest.raises(BadInput, match="expected 3 infos, one per row, got 1"):
            policy.act(observation, infos=[{}])


def test_what_is_not_measured_is_refused_with_what_is() -> None:
    batch = [{"held": True, "gap": 1.0, "task": "x"}, {"task": "x", "hold": True, "odd": float("nan")}]
    with pytest.raises(
        BadInput, match=r"info of batch row 1 has no such quantity; did you mean 'hold'\? Allowed: hold, odd$"
    ):
        looks(sa.Measured("held"), batch)
    with pytest.raises(BadInput, match=r"expected a number in the info of batch row 0, got 'x'; numbers are gap, held"):
        looks(sa.Measured("task"), batch)
    with pytest.raises(NonFinite, match="row 0 says NaN"):
        looks(sa.Measured("odd"), batch[1:])
    with pytest.raises(BadInput, match="give one of above, below, equals"):
        sa.Measured("x", above=1.0, below=2.0)
    for bounds in ({"below": 0.1, "release": 0.05}, {"above": 1.0, "release": 2.0}, {"equals": 1, "release": 2}):
        with pytest.raises(BadInput, match="release="):
            sa.Measured("x", **bounds)
    with pytest.raises(NonFinite, match="bounds must be numbers"):
        sa.Measured("x", above=float("nan"))
    assert sa.Measured("gap", below=0.08, release=0.1).describe() == {
        "gate": "Measured", "quantity": "gap", "below": 0.08, "release": 0.1,
    }  # fmt: skip
