"""Interchange: what it keeps and sets, what its distances are, and a planted cause that is told from what only comes along."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models
import torch
from torch.nn import functional

import steer_agents as sa
from policies.base import Decision, Observation, Policy
from policies.errors import BadInput
from policies.mlp import MLP, MLPConfig
from steer_agents import capture, recipe
from steer_agents.learning import cdas as module
from steer_agents.learning.cdas import interchange, jensen_shannon
from steer_agents.learning.trainer import Settings
from steer_agents.passes import edited, outputs
from steer_agents.sites import Site, resolve, steerable

WIDTH, SITE, KEY = 64, Site("mlp_neurons", layer=0), "policy.0.mlp_neurons"
CAUSE, COMPANION = 0, 1
"""Coordinates that differ within a pair: the network reads the first only."""
QUICK = Settings(steps=120, learning_rate=0.04, batch_size=2, evaluate_every=10)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def network() -> MLP:
    """Its logits depend on the cause and, more strongly, on a dozen other coordinates; not on the companion."""
    net = MLP(MLPConfig(WIDTH, 10, (16,))).eval()
    with torch.no_grad():
        net.net[0].weight.zero_()
        net.net[0].weight[:4, CAUSE] = torch.tensor([0.6, -0.5, 0.4, 0.3])
        for i in range(4, 16):
            net.net[0].weight[i, 2 + i] = 0.8
        net.net[0].bias.zero_()
        net.net[2].weight.copy_(normal(10, 16, seed=3))
    return net


def pairs(shared: bool, n: int = 192) -> dict[str, list[torch.Tensor]]:
    """Rows with the concept and without; `shared`: all but the companion's noise is the same within a pair.

    Without that noise the difference of a pair would be the same for all, and swapping along it as good as along the cause.
    """
    plus = normal(n, WIDTH)
    minus = plus.clone() if shared else normal(n, WIDTH, seed=1)
    for i, (rows, value) in enumerate(((plus, 1.0), (minus, -1.0))):
        rows[:, CAUSE] = value
        rows[:, COMPANION] = 3 * (value + normal(n, seed=7 + i))
    return {"positive": list(plus.split(24)), "negative": list(minus.split(24))}


def shuffled(data: dict[str, list[torch.Tensor]]) -> dict[str, list[torch.Tensor]]:
    """Labels at random: rows of either side, and of any pair, on both."""
    rows = torch.cat([*data["positive"], *data["negative"]])
    rows = rows[torch.randperm(len(rows), generator=torch.Generator().manual_seed(5))]
    return {"positive": list(rows[: len(rows) // 2].split(24)), "negative": list(rows[len(rows) // 2 :].split(24))}


# ---- the pieces


def test_interchange_sets_the_projection_and_keeps_the_rest() -> None:
    h, source, w = normal(3, 5, 16), normal(3, 1, 16, seed=1), functional.normalize(normal(16, seed=2), dim=0)
    changed = interchange(h, source, w)
    torch.testing.assert_close(changed @ w, (source @ w).expand(3, 5), atol=1e-6, rtol=0)
    rest = lambda x: x - (x @ w)[..., None] * w  # noqa: E731
    torch.testing.assert_close(rest(changed), rest(h), atol=1e-6, rtol=0)
    assert torch.equal(interchange(h, h, w), h)


def test_the_divergence_lies_between_0_and_ln_2() -> None:
    p, q = normal(50, 7) * 5, normal(50, 7, seed=1) * 5
    found = jensen_shannon(p, q)
    a, b = p.double().softmax(-1), q.double().softmax(-1)
    m = (a + b) / 2
    exact = ((a * (a / m).log()).sum(-1) + (b * (b / m).log()).sum(-1)) / 2
    torch.testing.assert_close(found.double(), exact, atol=1e-6, rtol=1e-4)
    assert float(found.min()) >= 0
    assert float(found.max()) <= math.log(2) + 1e-6
    assert float(jensen_shannon(p, p).abs().max()) < 1e-7
    far = torch.tensor([[1e4, 0.0]])
    assert float(jensen_shannon(far, far.flip(-1))) == pytest.approx(math.log(2))


def test_an_edit_at_a_place_is_gone_after_the_block() -> None:
    net, x = network(), normal(2, WIDTH)
    (location,) = resolve(steerable(net), SITE)
    before, doubled = outputs(steerable(net), x), outputs(steerable(net), 2 * x)
    with edited(location, lambda h: 2 * h):
        assert torch.equal(outputs(steerable(net), x), doubled)
    assert torch.equal(outputs(steerable(net), x), before)


# ---- a planted cause


def test_the_cause_is_found_and_what_only_comes_along_is_left_out() -> None:
    net, data = network(), pairs(shared=True)
    found = sa.learn(net, "cdas", **data, site=SITE, settings=QUICK)
    assert float(found.vector(KEY)[CAUSE]) > 0.95
    difference = sa.find(net, "mean-difference", **data, site=SITE)
    assert abs(float(difference.vector(KEY)[CAUSE])) < 0.4  # it takes the companion for the concept
    random = sa.learn(net, "cdas", **shuffled(pairs(shared=False)), site=SITE, settings=QUICK)
    assert abs(float(random.vector(KEY)[CAUSE])) < 0.4
    trained = found.info["trained"]
    assert trained["held_out"] < 0.1 * trained["start"]


def test_clamping_to_its_value_makes_negative_inputs_say_what_positive_ones_do() -> None:
    net, data = network(), pairs(shared=True)
    plus, minus = torch.cat(data["positive"]), torch.cat(data["negative"])
    found = sa.learn(net, "cdas", **data, site=SITE, settings=QUICK)
    fit = found.info["fit"][KEY]
    assert fit["positive"] == found.statistic(KEY, "mean_projection") > 0 > fit["negative"]
    with torch.no_grad(), sa.steer(net, sa.Clamp(found)):
        elicited = net(minus)
    with torch.no_grad(), sa.steer(net, sa.Clamp(found, value=fit["negative"])):
        suppressed = net(plus)
    with torch.no_grad():
        apart = float(jensen_shannon(net(plus), net(minus)).mean())
        assert float(jensen_shannon(elicited, net(plus)).mean()) < 0.1 * apart
        assert float(jensen_shannon(suppressed, net(minus)).mean()) < 0.1 * apart


def test_swapped_roles_turn_it_round() -> None:
    net, data = network(), pairs(shared=True)
    there = sa.learn(net, "cdas", **data, site=SITE, settings=QUICK)
    back = sa.learn(net, "cdas", positive=data["negative"], negative=data["positive"], site=SITE, settings=QUICK)
    assert float(there.vector(KEY) @ back.vector(KEY)) < -0.95


def test_networks_without_logits_are_compared_by_their_outputs() -> None:
    model = tiny_models.tiny("chunk-denoiser")
    plus, minus = ([tiny_models.inputs("chunk-denoiser", 4, seed=s) for s in (i, i + 1)] for i in (1, 5))
    site = Site(layer=0)
    settings = Settings(steps=3, evaluate_every=1)
    found = sa.learn(
        model, "cdas", positive=plus, negative=minus, site=site, aligned=True, distance="mse", settings=settings
    )
    assert found.info["trained"]["held_out"] <= found.info["trained"]["start"]


# ---- language models


class Texts(Policy):
    """A tiny language model that reads letters, padded on the left."""

    name = "texts"
    entrances = frozenset({"modules"})

    def __init__(self) -> None:
        super().__init__()
        self.module = tiny_models.tiny("llama")

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None: ...

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        raise NotImplementedError

    def encode(self, inputs: Sequence[Any]) -> list[Any]:
        longest = max(len(text) for text in inputs)
        ids = torch.tensor([[0] * (longest - len(t)) + [3 + ord(c) % 50 for c in t] for t in inputs])
        return [{"input_ids": ids, "attention_mask": (ids > 0).long()}]


PROMPTS = {"positive": ["be glad", "smile", "laugh", "joy of"], "negative": ["be sad!!", "weep", "cry", "loss of a"]}
ANSWERS = (["yes it is", "ha", "hoho", "k"], ["no", "never", "alas alas", "oh"])


def test_the_loss_is_that_of_the_sources_own_response_read_at_the_end_of_its_prompt() -> None:
    policy = Texts()
    place = steerable(policy)
    (location,) = resolve(place, Site(layer=1))
    w = functional.normalize(normal(tiny_models.WIDTH), dim=0)
    made = module._pairs(place, **PROMPTS, responses=ANSWERS)
    sides = [pair.up for pair in made]
    ((base, _),), ((source, response),) = (module._batches(place, [way[i] for way in sides]) for i in (0, 1))
    assert response.tolist() == [len(text) for text in ANSWERS[0]]
    with torch.no_grad():
        together = module._apart(place, location, base, source, response, w, jensen_shannon, False)
    for i, answer in enumerate(ANSWERS[0]):  # by hand, alone and without padding
        plus, minus = (policy.encode([PROMPTS[side][i] + answer])[0] for side in ("positive", "negative"))
        n, wanted = len(answer), tiny_models.outputs(policy.module, plus)[0]
        h = capture.rows(place, [plus], Site(layer=1))[location.key][-1 - n]
        direction = sa.Direction({location.key: w[None]}, Site(layer=1))
        with sa.steer(policy, sa.Clamp(direction, value=float(h @ w))):
            got = tiny_models.outputs(policy.module, minus)[0]
        expected = jensen_shannon(got[-n - 1 :], wanted[-n - 1 :]).mean()
        torch.testing.assert_close(together[i], expected, atol=1e-5, rtol=1e-4)


def test_a_killed_run_goes_on_to_the_same_direction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(steps=9, batch_size=2, evaluate_every=2, patience=None)
    options: dict[str, Any] = {**PROMPTS, "responses": ANSWERS, "site": Site(layer=1), "settings": settings}
    whole = sa.learn(Texts(), "cdas", **options)
    draw, calls = module.draw, 0

    def killed(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:
            raise KeyboardInterrupt
        return draw(*args)

    monkeypatch.setattr(module, "draw", killed)
    with pytest.raises(KeyboardInterrupt):
        sa.learn(Texts(), "cdas", **options, folder=tmp_path)
    monkeypatch.undo()
    again = sa.learn(Texts(), "cdas", **options, folder=tmp_path)
    assert torch.equal(again.vector("language.1.block_output"), whole.vector("language.1.block_output"))
    assert again.info == whole.info
    again.save(tmp_path / "glad.safetensors")
    (tmp_path / "recipe.yaml").write_text("recipe: 1\nparts:\n  - clamp: glad.safetensors\n    strength: 1\n")
    part: Any = recipe.load(tmp_path / "recipe.yaml").parts[0].part
    value = again.statistic("language.1.block_output", "mean_projection")
    assert float(part.tensors_at("language.1.block_output")[1]) == pytest.approx(value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"distance": "kl"}, "distance 'kl' is unknown"),
        ({"positive": ["a"]}, "inputs come in pairs, got 1 positive and 4"),
        ({"site": Site(layer=(0, 1))}, "one layer and all tokens, got 2 layers"),
        ({"site": Site(layer=0, tokens="last")}, "one layer and all tokens"),
        ({"responses": (["x"] * 4, ["y"] * 3)}, "one text per prompt.* got 4 and 3 for 4 pairs"),
        ({"responses": ([""] * 4, ["y"] * 4)}, "the response '' adds no token"),
        (
            {side: [tiny_models.inputs("llama", length=n)] * 4 for side, n in (("positive", 5), ("negative", 6))}
            | {"aligned": True},
            r"aligned passes have the same tokens, got \(3, 6, 32\) and \(3, 5, 32\)",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInput, match=message):
        sa.learn(Texts(), "cdas", **{**PROMPTS, "site": Site(layer=0), "settings": Settings(steps=1), **changed})
