"""Artifacts: exact round trips, and a clear refusal of everything that is not exactly what was written."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save as plain_safetensors
from tiny_models import inputs, outputs, tiny

from policies.errors import BadArtifact, BadInput, NonFinite, SteerError, WrongModel
from steer_agents import artifacts
from steer_agents.direction import Direction
from steer_agents.finding import find
from steer_agents.fingerprint import model_fingerprint
from steer_agents.interventions import Add, Rotate
from steer_agents.sites import Site, steerable
from steer_agents.steerer import steer
from steer_agents.strength import Strength
from steer_agents.tokens import after

KEYS = ("language.2.block_output", "language.10.block_output")


def example(rows: int = 1, info: dict[str, Any] | None = None) -> Direction:
    generator = torch.Generator().manual_seed(rows)
    return Direction.from_raw(
        {key: torch.randn(rows, 6, generator=generator) for key in KEYS},
        Site("block_output", (2, 10), "language", tokens=after([5, 7]), phase="decode", env_steps=(3, None)),
        {key: {"mean_norm": 0.1 + 0.2, "sd": 1e-300, "mean_projection": -1 / 3} for key in KEYS},
        method="example",
        model={"class": "X", "depth": {"language": 12}, "weights": "00ff"},
        info={"data": "abc", "seed": 4} if info is None else info,
    )


def assert_equal(a: Direction, b: Direction) -> None:
    assert list(a.vectors) == list(b.vectors)
    for key in a.vectors:
        assert a.vectors[key].dtype == b.vectors[key].dtype
        assert a.vectors[key].numpy().tobytes() == b.vectors[key].numpy().tobytes()
    assert (a.site, a.method, a.model) == (b.site, b.method, b.model)
    assert canonical(a.statistics) == canonical(b.statistics)
    assert canonical(a.info) == canonical(b.info)


def canonical(value: Any) -> Any:
    """Like repr, blind to the order of keys; NaN equals NaN and 1 differs from 1.0 and True."""
    if isinstance(value, dict):
        return "dict", sorted((key, canonical(item)) for key, item in value.items())
    if isinstance(value, list | tuple):
        return type(value).__name__, [canonical(item) for item in value]
    return type(value).__name__, repr(value)


# ---- round trips


@pytest.mark.parametrize("rows", [1, 2, 3])
def test_a_round_trip_is_exact(tmp_path: Path, rows: int) -> None:
    saved = example(rows)
    assert_equal(artifacts.load(artifacts.save(saved, tmp_path / "d.safetensors")), saved)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=True, allow_infinity=True) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.lists(inner, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=5).filter(lambda key: not key.startswith("$")), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    raw=st.lists(st.floats(-1e3, 1e3, width=32), min_size=5, max_size=5).filter(
        lambda row: any(abs(x) > 1e-3 for x in row)
    ),
    statistic=st.floats(allow_nan=False, allow_infinity=False),
    info=st.dictionaries(st.sampled_from(["a", "b", "options", "é"]), values, max_size=3),
)
def test_a_round_trip_is_exact_for_any_numbers_and_any_info(
    tmp_path_factory: pytest.TempPathFactory, raw: list[float], statistic: float, info: dict[str, Any]
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.safetensors"
    saved = Direction.from_raw({KEYS[0]: torch.tensor(raw)}, Site(layer=2), {KEYS[0]: {"sd": statistic}}, info=info)
    assert_equal(artifacts.load(artifacts.save(saved, path)), saved)


def test_arithmetic_survives_the_round_trip(tmp_path: Path) -> None:
    saved = -2.5 * (example() + 0.1 * example(info={}))
    loaded = artifacts.load(artifacts.save(saved, tmp_path / "d.safetensors"))
    assert loaded.scale(KEYS[0]) == saved.scale(KEYS[0]) != 1.0


def test_what_find_returns_can_be_saved_and_steers_bit_by_bit_the_same(tmp_path: Path) -> None:
    model = tiny("llama")
    sets = {"positive": [inputs("llama", seed=1)], "negative": [inputs("llama", seed=2)]}
    for method in ("mean-difference", "probe"):
        found = find(model, method, **sets, site=Site(layer=(0, 1), tokens="last"))
        loaded = artifacts.load(artifacts.save(found, tmp_path / "d.safetensors"), expect_model=model)
        assert_equal(loaded, found)
        logits = []
        for direction in (found, loaded):
            with steer(model, Add(direction, strength=Strength(0.5, "alpha"))):
                logits.append(outputs(model, inputs("llama")))
        assert torch.equal(logits[0], logits[1])


def test_a_plane_rotates_bit_by_bit_the_same_after_loading(tmp_path: Path) -> None:
    model = tiny("gpt2")
    plane = Direction.from_raw({"language.1.block_output": torch.eye(32)[[3, 5]] + 0.1}, Site(layer=1))
    plane.save(tmp_path / "plane.safetensors")
    logits = []
    for direction in (plane, Direction.load(tmp_path / "plane.safetensors")):
        with steer(model, Rotate(direction, strength=0.7)):
            logits.append(outputs(model, inputs("gpt2")))
    assert torch.equal(logits[0], logits[1])


def test_the_header_tells_where_a_direction_came_from(tmp_path: Path) -> None:
    path = artifacts.save(
        example(), tmp_path / "d.safetensors", licence="CC-BY-4.0", strengths_tried=[0.5, Strength(0.2, "alpha")]
    )
    header = artifacts.read_header(path)
    assert (header["schema"], header["method"], header["data"], header["seed"]) == (1, "example", "abc", 4)
    assert header["licence"] == "CC-BY-4.0"
    assert header["strengths_tried"] == [0.5, {"value": 0.2, "unit": "alpha"}]
    assert header["versions"]["torch"].startswith("2.")
    assert header["versions"].keys() >= {"steer-agents", "torch", "safetensors", "transformers"}
    assert header["created"].endswith("+00:00")


def test_licence_and_strengths_stay_with_the_direction_when_it_is_saved_again(tmp_path: Path) -> None:
    first = artifacts.save(example(), tmp_path / "a.safetensors", licence="MIT", strengths_tried=[1.0])
    again = artifacts.save(artifacts.load(first), tmp_path / "b.safetensors")
    assert artifacts.read_header(again)["licence"] == "MIT"
    assert artifacts.read_header(again)["strengths_tried"] == [1.0]
    unsaid = artifacts.save(example(), tmp_path / "c.safetensors")
    assert artifacts.read_header(unsaid)["licence"] == "not stated"


def test_any_safetensors_reader_can_read_the_vectors(tmp_path: Path) -> None:
    saved = example(2)
    path = artifacts.save(saved, tmp_path / "d.safetensors")
    with safe_open(path, framework="pt") as file:
        assert set(file.keys()) == set(KEYS)
        assert torch.equal(file.get_tensor(KEYS[1]), saved.vectors[KEYS[1]])
        assert json.loads(file.metadata()["steer_agents"])["method"] == "example"


# ---- refusals while writing


@pytest.mark.parametrize(
    ("info", "named"),
    [
        ({"w": torch.zeros(2)}, r"info\['w'\] is a Tensor"),
        ({"options": {"f": [1, {2, 3}]}}, r"info\['options'\]\['f'\]\[1\] is a set"),
        ({"options": {3: 1}}, r"info\['options'\] has the key 3"),
        ({"$float": 1}, r"has the key '\$float'"),
    ],
)
def test_info_that_json_cannot_hold_is_named(tmp_path: Path, info: dict[str, Any], named: str) -> None:
    with pytest.raises(BadInput, match=named):
        artifacts.save(example(info=info), tmp_path / "d.safetensors")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_statistic_that_is_not_finite_is_refused(tmp_path: Path, bad: float) -> None:
    broken = replace(example(), statistics={KEYS[0]: {"sd": bad}})
    with pytest.raises(NonFinite, match=rf"'sd' at {KEYS[0]}"):
        artifacts.save(broken, tmp_path / "d.safetensors")


def test_another_suffix_is_refused_with_the_right_one(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"'d\.safetensors'"):
        artifacts.save(example(), tmp_path / "d.pt")


def test_an_interrupted_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = artifacts.save(example(), tmp_path / "d.safetensors")
    old = path.read_bytes()

    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.replace", crash)
    with pytest.raises(KeyboardInterrupt):
        artifacts.save(example(2), path)
    assert path.read_bytes() == old
    assert list(tmp_path.iterdir()) == [path]


# ---- refusals while reading


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return artifacts.save(example(), tmp_path_factory.mktemp("whole") / "d.safetensors").read_bytes()


@pytest.mark.parametrize("flip", [0x01, 0xFF])
def test_changing_any_single_byte_is_noticed(tmp_path: Path, whole: bytes, flip: int) -> None:
    path = tmp_path / "d.safetensors"
    unnoticed = []
    for i in range(len(whole)):
        path.write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :])
        try:
            artifacts.load(path)
        except BadArtifact:
            continue
        unnoticed.append(i)
    assert unnoticed == []


def test_a_file_cut_off_anywhere_is_noticed(tmp_path: Path, whole: bytes) -> None:
    path = tmp_path / "d.safetensors"
    for i in {*range(1, len(whole), 13), *range(1, 20), *range(len(whole) - 20, len(whole))}:
        path.write_bytes(whole[:i])
        with pytest.raises(BadArtifact, match=rf"\({i} bytes\) is truncated.*Copy it again"):
            artifacts.load(path)


def test_appended_bytes_are_noticed(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "d.safetensors").write_bytes(whole + b"\0")
    with pytest.raises(BadArtifact):
        artifacts.load(tmp_path / "d.safetensors")


def edited(path: Path, edit: Callable[[dict[str, Any]], Any]) -> Path:
    """Rewrite the header with an edit, keeping the old checksum."""
    with safe_open(path, framework="pt") as file:
        entries = dict(file.metadata())
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    header = json.loads(entries["steer_agents"])
    edit(header)
    entries["steer_agents"] = json.dumps(header, sort_keys=True, separators=(",", ":"))
    path.write_bytes(plain_safetensors(tensors, metadata=entries))
    return path


HEADER_FIELDS = (
    "method", "site", "tensors", "statistics", "model", "info", "data", "seed", "licence", "strengths_tried", "versions", "created",
)  # fmt: skip


@pytest.mark.parametrize("field", HEADER_FIELDS)
def test_every_header_field_is_covered_by_the_checksum(tmp_path: Path, field: str) -> None:
    path = edited(artifacts.save(example(), tmp_path / "d.safetensors"), lambda header: header.update({field: "other"}))
    with pytest.raises(BadArtifact, match=r"does not match its checksum.*Copy it again"):
        artifacts.load(path)


def test_the_list_of_header_fields_is_complete(tmp_path: Path) -> None:
    header = artifacts.read_header(artifacts.save(example(), tmp_path / "d.safetensors"))
    assert header.keys() == {"schema", "doses", *HEADER_FIELDS}  # files without dose records are older, and fine


def test_a_file_of_another_schema_is_refused_with_both_versions(tmp_path: Path) -> None:
    path = edited(artifacts.save(example(), tmp_path / "d.safetensors"), lambda header: header.update(schema=2))
    with pytest.raises(BadArtifact, match=r"schema 2, this version of steer-agents reads 1.*0\.1\.0"):
        artifacts.load(path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"not a model at all", "not a safetensors file"),
        (b"GGUF" + bytes(60), "gguf_vectors"),
        (b"\x80\x04\x95" + bytes(100), "not a safetensors file"),
        (plain_safetensors({"w": torch.zeros(2)}), "metadata has no entries"),
        (plain_safetensors({"w": torch.zeros(2)}, metadata={"format": "pt"}), r"metadata has \['format'\]"),
        (plain_safetensors({"w": torch.zeros(2)}, metadata={"steer_agents": "[" * 100_000}), "not readable"),
        (plain_safetensors({"w": torch.zeros(2)}, metadata={"steer_agents": "[1]"}), "not readable"),
    ],
)
def test_other_files_are_refused_by_what_they_are(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "d.safetensors").write_bytes(content)
    with pytest.raises(BadArtifact, match=message):
        artifacts.load(tmp_path / "d.safetensors")


def test_a_missing_file_is_answered_with_those_that_are_there(tmp_path: Path) -> None:
    artifacts.save(example(), tmp_path / "slow.safetensors")
    with pytest.raises(BadArtifact, match=r"does not exist.*slow\.safetensors"):
        artifacts.load(tmp_path / "slwo.safetensors")
    with pytest.raises(BadArtifact, match=r"is a folder.*slow\.safetensors"):
        artifacts.load(tmp_path)
    with pytest.raises(BadArtifact, match="does not exist"):
        artifacts.load(tmp_path / "no" / "folder" / "d.safetensors")


def header_of(direction: Direction, tmp_path: Path) -> dict[str, Any]:
    path = artifacts.save(direction, tmp_path / "source.safetensors")
    with safe_open(path, framework="pt") as file:
        return json.loads(file.metadata()["steer_agents"])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_vector_with_nan_is_refused_even_under_a_right_checksum(tmp_path: Path, bad: float) -> None:
    header = header_of(example(), tmp_path)
    tensors = {key: torch.full((1, 6), bad) for key in KEYS}
    (tmp_path / "d.safetensors").write_bytes(artifacts.encode(header, tensors))
    with pytest.raises(NonFinite, match=r"6 of 6 entries"):
        artifacts.load(tmp_path / "d.safetensors")


@pytest.mark.parametrize(
    "edit",
    [
        lambda header: header.pop("site"),
        lambda header: header.pop("statistics"),
        lambda header: header.update(statistics={KEYS[0]: {"sd": "wide"}}),
        lambda header: header.update(statistics=[1]),
        lambda header: header["site"].update(kind="nowhere"),
        lambda header: header.update(tensors=[["language.3.block_output", "float32", [1, 6]]]),
        lambda header: header.update(tensors=[]),
        lambda header: header.update(tensors=7),
    ],
)
def test_a_header_that_makes_no_sense_is_refused_even_under_a_right_checksum(
    tmp_path: Path, edit: Callable[[dict[str, Any]], Any]
) -> None:
    header, tensors = header_of(example(), tmp_path), dict(example().vectors)
    edit(header)
    (tmp_path / "d.safetensors").write_bytes(artifacts.encode(header, tensors))
    with pytest.raises(BadArtifact, match="does not describe a direction"):
        artifacts.load(tmp_path / "d.safetensors")


def test_rows_that_are_not_unit_are_refused_even_under_a_right_checksum(tmp_path: Path) -> None:
    header = header_of(example(), tmp_path)
    (tmp_path / "d.safetensors").write_bytes(artifacts.encode(header, {key: torch.ones(1, 6) for key in KEYS}))
    with pytest.raises(BadArtifact, match="orthonormal"):
        artifacts.load(tmp_path / "d.safetensors")


# ---- which model


def test_loading_for_another_model_is_refused_with_the_difference_unless_asked_by_name(tmp_path: Path) -> None:
    llama, gpt2 = tiny("llama"), tiny("gpt2")
    sets = {"positive": [inputs("llama", seed=1)], "negative": [inputs("llama", seed=2)]}
    path = artifacts.save(find(llama, "mean-difference", **sets), tmp_path / "d.safetensors")
    artifacts.load(path, expect_model=llama)
    artifacts.load(path, expect_model=steerable(llama))
    with pytest.raises(
        WrongModel, match=r"class: made for 'LlamaForCausalLM', got 'GPT2LMHeadModel'.*allow_other_model"
    ):
        artifacts.load(path, expect_model=gpt2)
    assert artifacts.load(path, expect_model=gpt2, allow_other_model=True).model == model_fingerprint(steerable(llama))


def test_other_weights_of_the_same_architecture_are_another_model(tmp_path: Path) -> None:
    model = tiny("llama")
    sets = {"positive": [inputs("llama", seed=1)], "negative": [inputs("llama", seed=2)]}
    path = artifacts.save(find(model, "mean-difference", **sets), tmp_path / "d.safetensors")
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    with pytest.raises(WrongModel, match="weights: made for"):
        artifacts.load(path, expect_model=model)


def test_a_direction_that_does_not_say_its_model_cannot_be_checked(tmp_path: Path) -> None:
    path = artifacts.save(replace(example(), model={}), tmp_path / "d.safetensors")
    artifacts.load(path)
    with pytest.raises(WrongModel, match="does not say on which model"):
        artifacts.load(path, expect_model=tiny("llama"))
    artifacts.load(path, expect_model=tiny("llama"), allow_other_model=True)


def test_every_refusal_is_one_of_the_projects_errors() -> None:
    for kind in (BadArtifact, NonFinite, WrongModel, BadInput):
        assert issubclass(kind, SteerError)
