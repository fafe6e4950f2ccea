"""Weights, resampling and repulsion of particles."""

from __future__ import annotations

import pytest
import torch

from steer_agents.guidance import particles, rows


def test_every_particle_gets_its_own_length() -> None:
    gradient = torch.tensor([[[3.0, 4.0]], [[0.0, 0.0]], [[1e-12, 0.0]]])
    direction, length = particles.unit(gradient)
    torch.testing.assert_close(length, torch.tensor([5.0, 0.0, 1e-12]))
    torch.testing.assert_close(direction, torch.tensor([[[0.6, 0.8]], [[0.0, 0.0]], [[1.0, 0.0]]]))


def test_repulsion_is_the_direction_away_from_the_other_of_two() -> None:
    x = torch.randn(3, 2, 4, 2, generator=torch.Generator().manual_seed(0))
    found = particles.repulsion(x)
    away = x[:, 0] - x[:, 1]
    torch.testing.assert_close(found[:, 0], away / away.flatten(1).norm(dim=1)[:, None, None])
    torch.testing.assert_close(found[:, 0], -found[:, 1])
    assert torch.isfinite(particles.repulsion(torch.zeros(1, 3, 2, 2))).all()


def test_repulsion_is_the_gradient_of_its_kernel() -> None:
    x = torch.randn(1, 4, 1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    square = (x[0, :, None] - x[0, None]).square().sum((-1, -2))
    pairs = torch.triu_indices(4, 4, 1)
    width = square[pairs[0], pairs[1]].median().detach() / 2
    (gradient,) = torch.autograd.grad(torch.exp(-square[pairs[0], pairs[1]] / (2 * width)).sum(), x)
    wanted = -gradient / gradient.flatten(2).norm(dim=2)[..., None, None]
    torch.testing.assert_close(particles.repulsion(x.detach()), wanted)


def test_effective_size_of_equal_weights_is_all_and_of_one_weight_is_one() -> None:
    weights = torch.tensor([[0.3, 0.3, 0.3, 0.3], [0.0, -1e9, -1e9, -1e9], [700.0, 700.0, -900.0, -900.0]])
    torch.testing.assert_close(particles.effective_size(weights), torch.tensor([4.0, 1.0, 2.0]))


def test_resampling_keeps_as_many_as_the_weights_say() -> None:
    """Systematic resampling gives every particle floor or ceil of K w copies."""
    log_weights = torch.randn(50, 10, generator=torch.Generator().manual_seed(2))
    uniform = torch.rand(50, generator=torch.Generator().manual_seed(3))
    index = particles.resampled(log_weights, uniform)
    expected = 10 * log_weights.softmax(1)
    copies = torch.stack([(index == number).sum(1) for number in range(10)], dim=1)
    assert ((copies >= expected.floor() - 1e-6) & (copies <= expected.ceil() + 1e-6)).all()
    assert torch.equal(particles.resampled(torch.zeros(2, 5), torch.tensor([0.01, 0.99])), torch.arange(5).repeat(2, 1))


def test_draws_follow_the_weights() -> None:
    log_weights = torch.log(torch.tensor([[0.1, 0.6, 0.3]])).repeat(10_000, 1)
    drawn = particles.drawn(log_weights, (torch.arange(10_000) + 0.5) / 10_000)
    assert torch.bincount(drawn).tolist() == [1000, 6000, 3000]


def test_repeated_rows_lie_together_and_the_first_of_each_gives_them_back() -> None:
    import numpy as np

    observation = {"state": np.arange(6.0).reshape(2, 3), "task": ("a", "b"), "pixels": {"eye": np.arange(2)}}
    many = rows.repeated(observation, 3)
    assert many["task"] == ("a", "a", "a", "b", "b", "b")
    assert many["pixels"]["eye"].tolist() == [0, 0, 0, 1, 1, 1]
    back = rows.first_of_each(many, 3)
    assert back["task"] == ("a", "b")
    np.testing.assert_array_equal(back["state"], observation["state"])
    assert rows.repeated(observation, 1) is observation


@pytest.mark.parametrize("K", [1, 4])
def test_shapes_of_drawing(K: int) -> None:
    assert particles.drawn(torch.zeros(3, K), torch.tensor([0.0, 0.5, 0.999])).shape == (3,)
