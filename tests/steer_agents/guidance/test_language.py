"""The reward language: what it computes, and that every mistake is named with its line and nothing is executed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from toys import DELTA, infos

from policies.errors import BadInput, NonFinite, SteerError, UnknownName
from steer_agents.guidance import Prediction, from_infos
from steer_agents.guidance.language import TERMS, load, parse

SCENE = from_infos()({}, infos(1))


def prediction(*points: tuple[float, float, float]) -> Prediction:
    path = torch.tensor([points], requires_grad=True)
    return Prediction(path, torch.zeros(1, 3), 0.5)


def value(text: str, *points: tuple[float, float, float]) -> float:
    program = parse(f"reward:\n  - {text}\n").check(SCENE)
    return float(program.compiled().reward(prediction(*points), SCENE, torch.zeros(1, dtype=torch.int64)))


@pytest.mark.parametrize(
    ("text", "points", "wanted"),
    [
        ("reach: {to: goal}", [(0.3, 0.1, 0.2)], 0.0),
        ("reach: {to: goal}", [(0.3, 0.1, 0.2), (0.3, 0.1, 0.6)], -0.2),
        ("reach: {to: goal, over: last}", [(9, 9, 9), (0.3, 0.1, 0.6)], -0.4),
        ("reach: {to: goal, offset: [0, 0, 0.1]}", [(0.3, 0.1, 0.2)], -0.1),
        ("stay_away: {from: goal, at_least: 0.3}", [(0.3, 0.1, 0.3)], -(0.2**2)),
        ("stay_away: {from: goal, at_least: 0.3}", [(0.3, 0.1, 0.6)], 0.0),
        ("keep_out: {of: wall}", [(0.1, 0.0, 0.05)], -(0.02**2)),
        ("keep_out: {of: wall, margin: 0.03}", [(0.1, 0.0, 0.05)], -(0.05**2)),
        ("keep_out: {of: wall, leave: +z}", [(0.1, 0.0, 0.04), (0.5, 0.0, 0.04)], -(0.06**2) / 2),
        ("keep_out: {of: wall, margin: [0, 0, 0.1], leave: +z}", [(0.1, 0.1, -5.0)], -(5.2**2)),
        ("keep_out: {of: wall, leave: -x}", [(0.11, 0.0, 0.05)], -(0.03**2)),
        ("keep_out: {of: goal, half_size: [0.1, 0.1, 0.1]}", [(0.3, 0.1, 0.2)], -(0.1**2)),
        ("height: {at_least: 0.2}", [(0, 0, 0.1), (0, 0, 0.3)], -(0.1**2) / 2),
        ("height: {at_most: 0.2}", [(0, 0, 0.1), (0, 0, 0.3)], -(0.1**2) / 2),
        ("height: {at_least: 0.2, near: wall, within: 0.15}", [(0.2, 0, 0.1), (0.4, 0, 0.1)], -(0.1**2) / 2),
        ("speed: {at_most: 0.2}", [(0.0, 0.2, 0.0)], -(0.2**2)),
        ("speed: {at_least: 0.2, at_most: 0.6}", [(0.0, 0.2, 0.0)], 0.0),
        ("pass_side: {of: goal, side: +y, by: 0.1}", [(0.3, 0.15, 0.0)], -(0.05**2)),
        ("pass_side: {of: goal, side: -y, by: 0.1, within: 0.05}", [(0.32, 0.1, 0.0), (0.9, 0.1, 0.0)], -(0.1**2) / 2),
        ("{reach: {to: goal}, weight: 2.5}", [(0.3, 0.1, 0.4)], -0.5),
        ("{reach: {to: goal}, when: {quantity: held, above: 0.5}}", [(0.3, 0.1, 0.4)], 0.0),
        ("{reach: {to: goal}, when: {distance: [tcp, wall], below: 0.2}}", [(0.3, 0.1, 0.4)], -0.2),
        ("{reach: {to: goal}, when: {height: goal, above: 0.3}}", [(0.3, 0.1, 0.4)], 0.0),
    ],
)
def test_terms_have_the_values_that_their_words_say(
    text: str, points: list[tuple[float, float, float]], wanted: float
) -> None:
    assert value(text, *points) == pytest.approx(wanted, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kind", TERMS)
def test_no_term_is_above_zero_and_every_gradient_is_finite_even_at_the_points_themselves(kind: str) -> None:
    given = {
        "reach": "to: goal", "stay_away": "from: goal, at_least: 0.3", "keep_out": "of: wall, margin: 0.1",
        "height": "at_least: 0.5", "speed": "at_least: 0.5", "pass_side": "of: goal, side: +x, by: 0.4",
    }[kind]  # fmt: skip
    program = parse(f"reward: [{{{kind}: {{{given}}}}}]").compiled()
    for points in ([(0.3, 0.1, 0.2)] * 4, [(0.0, 0.0, 0.0)] * 4, [(0.1, 0.0, 0.05)] * 4):
        one = prediction(*points)
        reward = program.reward(one, SCENE, torch.zeros(1, dtype=torch.int64))
        assert float(reward) <= 0
        (gradient,) = torch.autograd.grad(reward.sum(), one.path)
        assert torch.isfinite(gradient).all()


def test_yaml_and_json_say_the_same() -> None:
    data = {"stages": [{"name": "a", "reward": [{"reach": {"to": "goal"}}], "done": {"quantity": "held", "above": 0.5}},
                       {"name": "b", "reward": [{"speed": {"at_most": 1}, "weight": 3}]}]}  # fmt: skip
    one = parse(json.dumps(data))
    two = parse(
        "stages:\n- name: a\n  reward: [reach: {to: goal}]\n  done: {quantity: held, above: .5}\n"
        "- name: b\n  reward:\n  - speed: {at_most: 1e0}\n    weight: 3\n"
    )
    assert [(s.name, [(t.kind, t.arguments, t.weight) for t in s.terms]) for s in one.stages] == [
        (s.name, [(t.kind, t.arguments, t.weight) for t in s.terms]) for s in two.stages
    ]


@pytest.mark.parametrize(
    ("text", "error", "says"),
    [
        ("", BadInput, "it is empty"),
        ("Sure! Here is what I would do.", BadInput, "line 1: a reward program must be a mapping"),
        ("reward:\n  - {", BadInput, "not YAML or JSON"),
        ("rewards: []", BadInput, "line 1: 'rewards' is no part of a reward program; did you mean 'reward'"),
        ("reward: []", BadInput, "nothing would be steered"),
        ("reward: [{reach: {to: goal}}]\nstages: []", BadInput, "one of them"),
        ("reward:\n  - reach: {to: goal}\n  - raech: {to: goal}", BadInput, "line 3: 'raech' .* did you mean 'reach'"),
        ("reward:\n  - reach: {}", BadInput, "line 2: reach needs to"),
        ("reward:\n  - reach: {to: goal, to: wall}", BadInput, "given twice"),
        ("reward:\n  - reach: {to: [1, 2]}", BadInput, "line 2: to of reach must be a name"),
        ("reward:\n  - reach: {to: 3}", BadInput, "must be a name, got '3'"),
        ("reward:\n  - reach: {to: goal, offset: [1, 2]}", BadInput, "three numbers"),
        ("reward:\n  - reach: {to: goal, over: some}", BadInput, "'some' is unknown"),
        ("reward:\n  - stay_away: {from: goal, at_least: -1}", BadInput, "above 0"),
        ("reward:\n  - stay_away: {from: goal, at_least: far}", BadInput, "must be a number, got 'far'"),
        ("reward:\n  - stay_away: {from: goal, at_least: .nan}", NonFinite, "line 2: .* must be finite"),
        ('{"reward": [{"stay_away": {"from": "goal", "at_least": NaN}}]}', NonFinite, "must be finite"),
        ("reward:\n  - stay_away: {from: goal, at_least: .inf}", NonFinite, "must be finite"),
        ("reward:\n  - stay_away: {from: goal, at_least: 1e999}", BadInput, "must be a number"),
        ("reward:\n  - keep_out: {of: wall, leave: up}", BadInput, r"'up' is unknown.*\+z"),
        ("reward:\n  - keep_out: {of: wall, margin: -0.1}", BadInput, "at least 0"),
        ("reward:\n  - height: {near: wall, within: 1}", BadInput, "needs at_least or at_most"),
        ("reward:\n  - height: {at_least: 1, near: wall}", BadInput, "belong together"),
        ("reward:\n  - height: {at_least: 2, at_most: 1}", BadInput, "more than at_most"),
        ("reward:\n  - {reach: {to: goal}, weight: 0}", BadInput, "weight must be above 0"),
        ("reward:\n  - {reach: {to: goal}, speed: {at_most: 1}}", BadInput, "a term is one of"),
        ("reward:\n  - {reach: {to: goal}, when: {quantity: held}}", BadInput, "give above or below"),
        ("reward:\n  - {reach: {to: goal}, when: {quantity: held, above: 1, release: 0}}", BadInput, "'release' is no part of when"),
        ("reward:\n  - {reach: {to: goal}, when: {distance: [tcp], above: 1}}", BadInput, "two keypoints"),
        ("stages:\n  - {name: a, reward: [{reach: {to: goal}}]}\n  - {name: b, reward: []}", BadInput, "line 2: every stage but the last"),
        ("stages:\n  - {name: a, reward: [{reach: {to: goal}}], done: {quantity: held, above: 1, release: 2}}\n  - {name: b, reward: []}",
         BadInput, "line 2: done: .*other side"),
        ("stages:\n  - {name: a, reward: [{reach: {to: goal}}], done: {quantity: held, above: 1}}\n  - {name: a, reward: []}",
         BadInput, "line 3: there is another stage 'a'"),
        ("stages:\n  - {reward: []}", BadInput, "needs name"),
        ("a: &x [1]\nreward: *x", BadInput, "line 2: aliases"),
        ("reward: !!python/object/apply:os.system ['true']", BadInput, "line 1"),
        ("reward:\n  - reach: {to: !!python/name:os.system goal}", BadInput, "must be a name"),
        ("[" * 5000, BadInput, "reward program"),
        ("#" * 20_001, BadInput, "allowed are 20000"),
    ],
)  # fmt: skip
def test_every_mistake_is_named(text: str, error: type[SteerError], says: str) -> None:
    with pytest.raises(error, match=says):
        parse(text)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("reward:\n  - reach: {to: gaol}", "line 2: keypoint 'gaol' is not in this scene; did you mean 'goal'"),
        ("reward:\n  - keep_out: {of: goal}", "line 2: extent .* of keypoint 'goal'"),
        (
            "reward:\n  - {reach: {to: goal}, when: {quantity: heldd, above: 1}}",
            "quantity 'heldd' .* did you mean 'held'",
        ),
        ("reward:\n  - {reach: {to: goal}, when: {distance: [tcp, post], above: 1}}", "keypoint 'post'"),
    ],
)
def test_names_are_checked_against_the_scene(text: str, says: str) -> None:
    with pytest.raises(UnknownName, match=says):
        parse(text).check(SCENE)


def test_programs_are_read_from_files(tmp_path: Path) -> None:
    path = tmp_path / "reward.yaml"
    path.write_text("reward: [{reach: {to: goal}}]")
    assert load(path).stages[0].terms[0].kind == "reach"
    with pytest.raises(BadInput, match="is not a file"):
        load(tmp_path / "other.yaml")


def test_the_predicted_path_adds_up_scaled_deltas_from_where_the_hand_is() -> None:
    chunk = torch.tensor([[[1.0, 0.0, 0.0, 1.0], [0.0, -1.0, 2.0, -1.0]]])
    found = DELTA.predict(chunk, SCENE)
    torch.testing.assert_close(found.path, torch.tensor([[[0.05, 0.0, 0.0], [0.05, -0.05, 0.1]]]))
    torch.testing.assert_close(found.velocity, torch.tensor([[[1.0, 0.0, 0.0], [0.0, -1.0, 2.0]]]))
    assert found.gripper is not None
    assert found.gripper.tolist() == [[1.0, -1.0]]
    with pytest.raises(BadInput, match=r"expected a chunk \(R, H, A\) with entries \[0, 1, 2, 3\]"):
        DELTA.predict(chunk[..., :3], SCENE)
