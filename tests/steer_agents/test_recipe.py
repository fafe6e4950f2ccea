"""Recipes: what is written is what steers; every mistake is told with its line; a folder is all that is needed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policies
import steer_agents as sa
from policies.errors import BadInput, NonFinite, SteerError, UnknownName
from policies.generative import GenerativePolicy
from steer_agents import artifacts, recipe
from steer_agents.direction import Direction
from steer_agents.fingerprint import model_fingerprint
from steer_agents.gates import Measured, Product, Tokens, Window
from steer_agents.guidance import language
from steer_agents.guidance.guidance import FeynmanKac, RewardGuidance
from steer_agents.guidance.prediction import Kinematics
from steer_agents.recipe import FILE, PARTS, parse
from steer_agents.recipe.gates import GATES
from steer_agents.sae.edits import SaeClamp, SaeShift
from steer_agents.sae.files import save as save_sae
from steer_agents.sae.model import Sae, Weights
from steer_agents.sites import Site, resolve, steerable

SITE = Site("block_output", layer=(0, 1))
FULL = """\
recipe: 1
about: slower while carrying
policy: {name: flow-medium}
instruction: put the bowl on the plate
parts:
  - add: slow.safetensors
    name: slow
    strength: 0.5   # half a standard deviation
    unit: sd
    limits: [-1.0, 2.0]
  - guidance: keep_out.yaml
    strength: 2.0
    kinematics: {position: [0, 1, 2], scale: 0.05, control_dt: 0.05, gripper: 6}
    feynman_kac: {scale: 2.0}
    n_particles: 3
  - constant_noise: zero
safety:
  limits:
    ee.x: {low: 0.2, high: 0.7, speed: 0.2, acceleration: 2, jerk: 50}
"""
REWARD = "reward:\n  - keep_out: {of: plate, margin: 0.03}\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a direction for flow-medium, a reward program and the recipe above."""
    target = steerable(policies.load("flow-medium"))
    generator = torch.Generator().manual_seed(0)
    raw = {place.key: torch.randn(256, generator=generator) for place in resolve(target, SITE)}
    statistics = {key: {"sd": 0.5, "mean_norm": 2.0} for key in raw}
    direction = Direction.from_raw(raw, SITE, statistics, model=model_fingerprint(target))
    artifacts.save(direction, tmp_path / "slow.safetensors")
    W = torch.randn(4, 256, generator=generator)
    weights = Weights(W.T.contiguous(), torch.zeros(4), W, torch.zeros(256), torch.zeros(4))
    sae = Sae(weights, Site(layer=1), model=model_fingerprint(target))
    save_sae(sae, tmp_path / "sae.safetensors")
    SaeShift(sae, code=torch.ones(4)).save(tmp_path / "shift.safetensors")
    (tmp_path / "keep_out.yaml").write_text(REWARD)
    (tmp_path / FILE).write_text(FULL)
    return tmp_path


def chunk(policy: Any, *parts: Any) -> np.ndarray:
    """The first chunk of two episodes, steered."""
    assert isinstance(policy, GenerativePolicy)
    rng = np.random.default_rng(0)
    observation = {
        "agent_pos": rng.normal(size=(2, 8)).astype(np.float32),
        "environment_state": rng.normal(size=(2, 45)).astype(np.float32),
    }
    points = {"tcp": [0.4, 0.0, 0.2], "plate": [0.42, 0.0, 0.2]}
    infos = [{"keypoints": points, "half_sizes": {"plate": [0.05, 0.05, 0.02]}}] * 2
    with sa.steer(policy, *parts):
        policy.reset([3, 4], infos)
        policy.act(observation, infos=infos)
        return policy._chunk.copy()


def test_what_is_written_is_what_steers(folder: Path) -> None:
    found = recipe.load(folder)
    assert (found.policy, found.instruction, found.about) == (
        "flow-medium", "put the bowl on the plate", "slower while carrying"
    )  # fmt: skip
    assert found.envelope is not None
    assert found.envelope.limits["ee.x"].speed == 0.2
    policy = policies.load("flow-medium")
    by_hand = [
        sa.Add(artifacts.load(folder / "slow.safetensors"), strength=sa.Strength(0.5, "sd"), name="slow"),
        RewardGuidance(
            language.parse(REWARD), Kinematics((0, 1, 2), (0.05,) * 3, 0.05, gripper=6), 2.0, n_particles=3,
            feynman_kac=FeynmanKac(2.0),
        ),
        sa.ConstantNoise(),
    ]  # fmt: skip
    steered = chunk(policy, *found.steerer().parts)
    np.testing.assert_array_equal(steered, chunk(policy, *by_hand))
    assert not np.allclose(steered, chunk(policy), atol=1e-3)
    assert found.steerer().describe() == sa.Steerer(*by_hand).describe()


def test_strengths_change_within_the_limits_and_the_text_says_them(folder: Path) -> None:
    found = recipe.load(folder)
    assert found.knobs() == {"slow": (0.5, -1.0, 2.0), "guidance": (2.0, 0.0, 2.0)}
    changed = found.with_strengths({"slow": -0.25, "guidance": 0})
    assert "strength: -0.25   # half a standard deviation" in changed.text
    assert changed.knobs() == {"slow": (-0.25, -1.0, 2.0), "guidance": (0.0, 0.0, 0.0)}
    assert changed.digest() != found.digest()
    for name, value, message in (
        ("slow", 2.5, r"allows strengths from -1 to 2, got 2.5"),
        ("slow", float("nan"), r"must be finite"),
        ("slwo", 0.0, r"no part 'slwo'.*slow"),
        ("constant_noise", 0.0, r"has no strength; those with one: slow, guidance"),
    ):
        with pytest.raises(SteerError, match=message):
            found.with_strengths({name: value})


def test_a_strength_is_turned_while_it_steers(folder: Path) -> None:
    found = recipe.load(folder)
    policy = policies.load("flow-medium")
    attached = found.steerer(require_fired=False).attach(policy)
    with attached:
        found.turn(attached, "slow", 1.5)
        found.turn(attached, "guidance", 0.5)
        assert float(attached.strength("slow")) == 1.5
        assert found.part("guidance").part.strength == 0.5  # type: ignore[union-attr]
        with pytest.raises(BadInput, match="allows strengths from 0 to 2"):
            found.turn(attached, "guidance", 3.0)
        with pytest.raises(BadInput, match="has no strength"):
            found.turn(attached, "constant_noise", 1.0)


def test_a_saved_folder_is_all_that_is_needed(folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    text = FULL.replace("slow.safetensors", "../slow.safetensors").replace("keep_out.yaml", "'../keep_out.yaml'")
    (elsewhere / "mine.yaml").write_text(text)
    found = recipe.load(elsewhere / "mine.yaml")
    target = tmp_path / "whole"
    assert found.save(target) == target / FILE
    assert sorted(path.name for path in target.iterdir()) == ["keep_out.yaml", FILE, "slow.safetensors"]
    again = recipe.load(target)
    assert again.steerer().describe() == found.steerer().describe()
    assert "# half a standard deviation" in again.text


def test_files_of_the_same_name_do_not_overwrite_each_other(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "slow.safetensors").write_bytes((folder / "slow.safetensors").read_bytes())
    two = (
        "recipe: 1\nparts:\n  - {add: slow.safetensors, strength: 0.1}\n  - {ablate: b/slow.safetensors, strength: 1}\n"
    )
    found = parse(two, tmp_path)
    with pytest.raises(BadInput, match="must have different names"):
        found.save(tmp_path / "c")


def test_the_digest_covers_the_files(folder: Path) -> None:
    before = recipe.load(folder).digest()
    (folder / "keep_out.yaml").write_text(REWARD.replace("0.03", "0.04"))
    assert recipe.load(folder).digest() != before


def add(line: str) -> str:
    """A recipe whose fifth line this is."""
    return written(f"  - add: slow.safetensors\n    strength: 1\n    {line}")


def written(part: str, head: str = "recipe: 1\nparts:\n") -> str:
    return head + part


BAD: list[tuple[str, str]] = [
    ("", r"recipe.yaml: it is empty"),
    ("parts: []", r"line 1: a recipe begins with `recipe: 1`"),
    ("recipe: 2", r"line 1: a recipe begins with `recipe: 1`"),
    ("recipe: 1\npolcy: x", r"line 2: 'polcy' is no part of a recipe.*policy"),
    ("recipe: 1\nparts: {}", r"line 2: parts must be a list"),
    ("recipe: 1\npolicy: {nam: x}", r"line 2: policy needs a name"),
    ("recipe: 1\nparts: &a [*a]", r"aliases"),
    ("recipe: 1\n  parts: [", r"line 2: not YAML"),
    (written("  - {ad: slow.safetensors}"), r"line 3: 'ad' is no part of a part.*add"),
    (written("  - {strength: 1}"), r"line 3: a part is one of add"),
    (written("  - {add: slow.safetensors}"), r"line 3: add needs strength"),
    (written("  - {add: no.safetensors, strength: 1}"), r"line 3: add: there is no file 'no.safetensors'"),
    (written("  - {add: keep_out.yaml, strength: 1}"), r"line 3: .*keep_out.yaml"),
    (written("  - {add: slow.safetensors, strength: x}"), r"line 3: strength must be a number, got 'x'"),
    (written("  - {add: slow.safetensors, strength: .nan}"), r"line 3: strength must be finite"),
    (written("  - {add: slow.safetensors, strength: 1, unit: alhpa}"), r"line 3: unit 'alhpa' is unknown.*alpha"),
    (written("  - {ablate: slow.safetensors, strength: 1, unit: sd}"), r"line 3: 'unit' is no part of a part 'ablate'"),
    (written("  - {add: slow.safetensors, strength: 1, limits: [0, 0.5]}"), r"line 3: limits must hold the strength 1 and 0"),
    (add("site: {layer: 2, kynd: x}"), r"line 5: 'kynd' is no part of site.*kind"),
    (add("site: {kind: blok_output}"), r"line 5: .*blok_output.*block_output"),
    (add("gate: {measurd: held}"), r"line 5: 'measurd' is no part of a gate.*measured"),
    (add("gate: {measured: held, above: 1, below: 2}"), r"line 5: .*give one of above, below"),
    (add("gate: {window: [5, 5]}"), r"line 5: .*empty"),
    (add("gate: {window: [0, 9], above: 3}"), r"line 5: 'above' is no part of a gate 'window'"),
    (add("gate: {probe: slow.safetensors}"), r"line 5: slow.safetensors is no probe"),
    (add("gate: []"), r"line 5: gate is an empty list"),
    (written("  - {add: slow.safetensors, strength: 1}\n  - {add: slow.safetensors, strength: 1}"), r"line 4: there is another part 'add'"),
    (written("  - {guidance: keep_out.yaml, strength: 1}"), r"line 3: guidance needs kinematics"),
    (
        written("  - guidance: keep_out.yaml\n    strength: 1\n    kinematics: {position: [0, 1], scale: 1, control_dt: 1}"),
        r"line 5: Kinematics: position, scale and offset have three",
    ),
    (
        written("  - guidance: keep_out.yaml\n    strength: -1\n    limits: [-1, 1]\n"
                "    kinematics: {position: [0, 1, 2], scale: 1, control_dt: 1}"),
        r"line 3: RewardGuidance: got strength=-1",
    ),
    (written("  - {temperature: 0}"), r"line 3: temperature must be above 0"),
    (written("  - {temperature: 1, strength: 2}"), r"line 3: 'strength' is no part of a part 'temperature'"),
    (written("  - {constant_noise: ones}"), r"line 3: constant_noise is zero or a list"),
    (written("  - {noise_policy: slow.safetensors}"), r"line 3: .*no noise policy"),
    (written("  - {set_coordinates: [1, 1], values: [2], strength: 1, site: {layer: 0}}"), r"line 3: SetNeurons: expected distinct"),
    ("recipe: 1\nsafety:\n  limits:\n    ee.x: {low: 0, high: 1}", r"line 4: safety: .*ee.x"),
    ("recipe: 1\nsafety:\n  limits: {}\n  gripper_frce: 3", r"line 4: safety: .*gripper_frce"),
    ("recipe: 1\nsafety: !!python/object:os.system {}", r"line 2: expected plain|line 2"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD)
def test_mistakes_are_told_with_their_line(folder: Path, text: str, message: str) -> None:
    with pytest.raises(SteerError, match=message) as caught:
        parse(text, folder)
    assert isinstance(caught.value, BadInput | NonFinite | UnknownName)


def test_a_missing_recipe_says_what_a_recipe_is(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"is not a file. A recipe is a YAML file, or a folder with recipe.yaml"):
        recipe.load(tmp_path)
    (tmp_path / "x.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BadInput, match="is not a text file"):
        recipe.load(tmp_path / "x.yaml")


def test_gates_and_sites_are_those_of_the_library(folder: Path) -> None:
    text = written(
        "  - add: slow.safetensors\n    strength: 1\n    site: {layer: [0, 1], tokens: {span: [0, 4]}}\n"
        "    gate: [{measured: held, above: 0.5, release: 0.2}, {window: [2, null]}, {tokens: {index: 3}}]\n"
    )
    part: Any = parse(text, folder).parts[0].part
    assert part.site == Site(layer=(0, 1), tokens=sa.span(0, 4))
    assert part.gate == Product(Product(Measured("held", above=0.5, release=0.2), Window(2, None)), Tokens(sa.index(3)))


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("{norm_kept_add: slow.safetensors, strength: 1, unit: sd}", sa.NormKeptAdd),
        ("{ablate: slow.safetensors, strength: 1}", sa.Ablate),
        ("{clamp: slow.safetensors, strength: 1, value: 2}", sa.Clamp),
        ("{cap: slow.safetensors, strength: 1, bound: 0.5, side: ceiling}", sa.Cap),
        ("{set_coordinates: [0, 3], values: [1, -1], strength: 1, site: {layer: 0}}", sa.SetNeurons),
        ("{logit_mix: [0, 1], strength: 0.3, final_norm: false, gate: {window: [0, 9]}}", sa.LogitMix),
        ("{sae_clamp: sae.safetensors, features: [1, 3], values: [0, 2], strength: 1}", SaeClamp),
        (
            "{sae_shift: shift.safetensors, strength: -1, gate: {feature: sae.safetensors, features: [2], whole_input: true}}",
            SaeShift,
        ),
        ("{temperature: 1.5}", sa.Temperature),
        ("{constant_noise: [0, 1], noise_map: {map: dct, components: 2}}", sa.ConstantNoise),
    ],
)
def test_the_words_make_what_they_say(folder: Path, line: str, kind: type) -> None:
    one = parse(written(f"  - {line}"), folder).parts[0]
    assert isinstance(one.part, kind)
    assert PARTS[one.kind].says


def test_every_word_is_explained_in_the_readme() -> None:
    readme = (Path(recipe.__file__).parent / "README.md").read_text()
    for word in [*PARTS, *GATES]:
        assert f"`{word}`" in readme, word


HELD = """\
recipe: 1
parts:
  - add: slow.safetensors
    name: pace
    unit: sd
    strength: ee_speed=0.25
    hold: {limits: [-1.5, 1.0, 0.5], slope: 0.1, start: -0.5, withdraw: {measure: contact_force, above: 40, ramp: 4}}
"""


def test_a_set_point_with_hold_is_held_in_closed_loop(folder: Path) -> None:
    from steer_agents.control.hold import Hold

    found = parse(HELD, folder)
    part = found.part("pace").part
    assert isinstance(part, Hold)
    assert (str(part.target), part.name, part.beginning) == ("ee_speed=0.25", "pace", -0.5)
    assert (part.bounds.low, part.bounds.high, part.bounds.rate) == (-1.5, 1.0, 0.5)
    assert part.harm is not None
    assert part.part.the_strength.unit == "sd"
    assert found.knobs() == {}
    assert found.steerer().attach(policies.load("flow-medium")).strength("pace") == 0


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("ee_speed=0.25", "0.25", "strength is a set-point"),
        ("slope: 0.1, ", "", "pass slope="),
        ("start: -0.5", "start: -5", "not within the limits"),
        ("[-1.5, 1.0, 0.5]", "[1.0]", "low, high"),
        ("withdraw: {measure: contact_force, above: 40, ramp: 4}", "gain: 3", "gain"),
    ],
)
def test_what_is_wrong_with_a_hold_is_told_with_its_line(folder: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(BadInput, match=rf"line \d+: .*{message}"):
        parse(HELD.replace(old, new), folder)
