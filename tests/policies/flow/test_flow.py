"""Flow and diffusion policies: the maths of the paths, sampling, training on toys with known answers, files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import policies
from policies.errors import BadArtifact, BadInput, NonFinite, UnknownName
from policies.flow import FlowConfig, FlowPolicy, load, save, train
from policies.flow.files import read
from policies.flow.model import ChunkDenoiser
from policies.flow.paths import PATHS
from policies.flow.training import windows
from policies.generative import DenoiseState

SMALL = {
    "n_inputs": 3,
    "keys": ("state",),
    "action_dim": 2,
    "chunk_size": 4,
    "n_action_steps": 2,
    "width": 32,
    "n_blocks": 2,
}


def policy(**changes: object) -> FlowPolicy:
    network = ChunkDenoiser(FlowConfig(**{**SMALL, **changes}))
    torch.nn.init.normal_(network.head.weight, std=0.3)
    return FlowPolicy(network)


def observation(rows: int = 3) -> dict[str, np.ndarray]:
    return {"state": np.random.default_rng(0).normal(size=(rows, 3)).astype(np.float32)}


@pytest.mark.parametrize("name", PATHS)
def test_a_path_starts_at_noise_ends_at_the_action_and_a_perfect_network_walks_it_exactly(name: str) -> None:
    path = PATHS[name]
    a, e = torch.randn(5, 4, 2, dtype=torch.float64), torch.randn(5, 4, 2, dtype=torch.float64)
    level = torch.full((1, 1, 1), 0.3, dtype=torch.float64)
    torch.testing.assert_close(path.mix(a, e, 0 * level), a)
    torch.testing.assert_close(path.mix(a, e, level / 0.3), e, atol=1e-7, rtol=0)
    x, v = path.mix(a, e, level), path.target(a, e, level)
    torch.testing.assert_close(path.clean(x, v, 0.3), a)
    torch.testing.assert_close(path.step(x, v, 0.3, 0.1), path.mix(a, e, level / 3))
    torch.testing.assert_close(path.step(x, v, 0.3, 0.0), a)


@pytest.mark.parametrize("name", PATHS)
def test_a_sample_is_a_function_of_its_noise(name: str) -> None:
    one = policy(path=name)
    noise = torch.randn(3, 4, 2)
    chunk = one.sample(observation(), noise)
    assert chunk.shape == (3, 4, 2)
    assert chunk.dtype == torch.float32
    assert torch.equal(chunk, one.sample(observation(), noise))
    assert not torch.equal(chunk, one.sample(observation(), noise + 1))
    drawn = [one.sample(observation(), generator=torch.Generator().manual_seed(4)) for _ in range(2)]
    assert torch.equal(*drawn)
    alone = torch.cat([one.sample({"state": observation()["state"][i : i + 1]}, noise[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(chunk, alone, atol=1e-5, rtol=0)


def test_a_hook_sees_every_step_and_bends_the_path() -> None:
    one, noise = policy(), torch.randn(3, 4, 2)
    states: list[DenoiseState] = []
    assert torch.equal(one.sample(observation(), noise, states.append), one.sample(observation(), noise))
    assert [state.denoise_step for state in states] == [0, 1, 2, 3, 4]
    assert [state.noise_level for state in states] == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])
    assert torch.equal(one.network.to_action(states[-1].x), one.sample(observation(), noise))
    torch.testing.assert_close(states[0].estimate(noise, 1.0), states[0].clean)

    def towards_one(state: DenoiseState) -> torch.Tensor:
        x = state.x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad((state.to_action(state.estimate(x, state.noise_level)) - 1).pow(2).sum(), x)
        return state.x - 0.5 * gradient

    bent = one.sample(observation(), noise, towards_one)
    assert (bent - 1).abs().mean() < (one.sample(observation(), noise) - 1).abs().mean()
    with pytest.raises(BadInput, match=r"expected noise of shape \(3, 4, 2\)"):
        one.sample(observation(), noise, lambda state: state.x[:1])


def test_denoise_steps_are_told_to_the_hooks() -> None:
    one, seen = policy(), []
    handle = one.network.register_forward_pre_hook(lambda module, args: seen.append(one.context.denoise_step))
    one.sample(observation(), torch.randn(3, 4, 2))
    handle.remove()
    assert seen == [0, 1, 2, 3, 4]
    assert one.context.denoise_step is None


def test_bad_noise_and_observations_are_refused() -> None:
    one = policy()
    with pytest.raises(BadInput, match=r"\(3, 4, 2\).*got \(3, 4, 3\)"):
        one.sample(observation(), torch.zeros(3, 4, 3))
    with pytest.raises(NonFinite, match="noise"):
        one.sample(observation(), torch.full((3, 4, 2), torch.nan))
    with pytest.raises(BadInput, match=r"expected 3 numbers in .*, got 4"):
        one.sample({"state": np.zeros((2, 4))})
    with pytest.raises(BadInput, match="obs_type='state'"):
        one.sample({"pixels": np.zeros((2, 4))})
    with pytest.raises(BadInput, match="n_action_steps 5 is more than chunk_size 4"):
        FlowConfig(**{**SMALL, "n_action_steps": 5})
    with pytest.raises(BadInput, match="did you mean 'flow'"):
        FlowConfig(**{**SMALL, "path": "flo"})


def test_acting_replans_every_n_action_steps_and_rows_draw_from_their_own_seeds() -> None:
    one = policy()
    batch = observation(2)
    one.reset([5, 6])
    taken = [one.act(batch).action for _ in range(4)]
    one.reset([5, 6])
    first, second = one.draw_noise(), one.draw_noise()
    chunks = [one.sample(batch, noise).numpy() for noise in (first, second)]
    for step, (chunk, index) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1)]):
        np.testing.assert_array_equal(taken[step], chunks[chunk][:, index])
    one.reset([6, 5])
    assert torch.equal(one.draw_noise(), first.flip(0))


def test_windows_pair_each_state_with_what_followed() -> None:
    states, actions = [np.arange(3.0)[:, None]], [np.arange(3.0)[:, None] * 10]
    inputs, chunks = windows(states, actions, 2)
    np.testing.assert_array_equal(inputs[:, 0], [0, 1, 2])
    np.testing.assert_array_equal(chunks[..., 0], [[0, 10], [10, 20], [20, 20]])
    with pytest.raises(BadInput, match="3 states and 2 actions"):
        windows(states, [actions[0][:2]], 2)


@pytest.mark.parametrize("path", PATHS)
def test_training_recovers_two_modes_half_and_half(path: str) -> None:
    rng = np.random.default_rng(0)
    states = [np.repeat(rng.uniform(-1, 1, (1, 3)), 4, 0) for _ in range(500)]
    sides = rng.choice([-1, 1], 500)
    actions = [
        np.stack([0.5 * side * np.ones(4), 0.3 * state[:, 0]], 1) for side, state in zip(sides, states, strict=True)
    ]
    config = FlowConfig(**{**SMALL, "path": path, "num_denoise_steps": 10, "width": 64})
    losses: list[float] = []
    network = train(
        config,
        states,
        actions,
        epochs=40,
        batch_size=64,
        learning_rate=3e-3,
        on_epoch=lambda epoch, loss: losses.append(loss),
    )
    assert losses[-1] < 0.8 * losses[0]
    fresh = {"state": rng.uniform(-1, 1, (200, 3)).astype(np.float32)}
    chunk = FlowPolicy(network).sample(fresh, generator=torch.Generator().manual_seed(0)).numpy()
    side = chunk[..., 0].mean(1)
    assert 0.35 < (side > 0).mean() < 0.65
    assert (np.abs(np.abs(side) - 0.5) < 0.15).mean() > 0.85
    assert np.abs(chunk[..., 1] - 0.3 * fresh["state"][:, :1]).mean() < 0.06


def test_training_is_repeatable_and_leaves_the_global_generator_alone() -> None:
    states, actions = [np.random.default_rng(0).normal(size=(30, 3))], [np.zeros((30, 2))]
    before = torch.get_rng_state()
    first, second = (train(FlowConfig(**SMALL), states, actions, epochs=2, seed=3) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )


def test_what_never_varied_in_training_is_ignored_later() -> None:
    rng = np.random.default_rng(0)
    states = [np.concatenate([rng.normal(size=(20, 2)), np.full((20, 1), 0.5)], 1) for _ in range(10)]
    one = FlowPolicy(train(FlowConfig(**SMALL), states, [state[:, :2] for state in states], epochs=3))
    seen, noise = observation(), torch.randn(3, 4, 2)
    other = {"state": seen["state"] + np.array([0, 0, 7], np.float32)}
    torch.testing.assert_close(one.sample(seen, noise), one.sample(other, noise), atol=1e-5, rtol=0)


def test_files_round_trip_and_damage_is_told(tmp_path: Path) -> None:
    one, path = policy(), tmp_path / "mine.safetensors"
    save(one.network, path)
    again = load(str(path))
    assert again.name == "mine"
    assert again.config == one.config
    noise = torch.randn(3, 4, 2)
    assert torch.equal(one.sample(observation(), noise), again.sample(observation(), noise))
    assert [entry.name for entry in tmp_path.iterdir()] == ["mine.safetensors"]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(BadArtifact, match=r"mine\.safetensors"):
        read(path)
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(BadArtifact, match="kind 'chunk-denoiser', got None"):
        read(path)
    with pytest.raises(UnknownName, match="neither embedded nor a file"):
        policies.load("flow:nothing-of-this-name")
