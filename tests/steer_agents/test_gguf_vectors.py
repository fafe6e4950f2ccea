"""Control vectors of llama.cpp: what is written is what llama.cpp would add, and what is read is what was written."""

from __future__ import annotations

import math
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from tiny_models import DEPTH, WIDTH, inputs, outputs, tiny

from policies.errors import BadArtifact, BadInput, NonFinite, SteerError
from steer_agents import gguf_vectors
from steer_agents.direction import Direction
from steer_agents.interventions import Add
from steer_agents.sites import Site
from steer_agents.steerer import steer
from steer_agents.strength import Strength


def example(layers: tuple[int, ...] = (1, 2, 10), D: int = WIDTH, seed: int = 0) -> Direction:
    generator = torch.Generator().manual_seed(seed)
    raw = {f"language.{i}.block_output": 3 * torch.randn(D, generator=generator) for i in layers}
    statistics = {key: {"mean_norm": 7.0 + i} for i, key in enumerate(raw)}
    return Direction.from_raw(raw, Site(layer=layers, stack="language"), statistics, method="example")


def read_back(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    reader = gguf.GGUFReader(path)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return fields, {tensor.name: np.array(tensor.data) for tensor in reader.tensors}


def llama_cpp_slots(path: Path, n_layer: int) -> list[np.ndarray | None]:
    """What llama.cpp adds to each block's output, by the arithmetic of its loader and of its adapter (0-based blocks)."""
    tensors = read_back(path)[1]
    D = len(next(iter(tensors.values())))
    buffer = np.zeros(max(int(name.split(".")[1]) for name in tensors) * D, dtype=np.float32)
    for name, values in tensors.items():
        number = int(name.split(".")[1])
        buffer[(number - 1) * D : number * D] = values
    slots: list[np.ndarray | None] = [None]
    for i in range(1, n_layer):
        offset = D * (i - 1)
        slots.append(buffer[offset : offset + D] if offset + D <= len(buffer) else None)
    return slots


def written(path: Path, tensors: dict[str, np.ndarray], architecture: str = "controlvector") -> Path:
    """A GGUF file of somebody else."""
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_string("controlvector.model_hint", "llama")
    for name, values in tensors.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


# ---- writing


def test_the_file_is_a_control_vector_in_every_particular(tmp_path: Path) -> None:
    direction = replace(example(), model={"architecture": "llama"})
    fields, tensors = read_back(gguf_vectors.save(direction, tmp_path / "v.gguf"))
    assert fields["general.architecture"] == "controlvector"
    assert fields["controlvector.model_hint"] == "llama"
    assert fields["controlvector.layer_count"] == 3
    assert list(tensors) == ["direction.1", "direction.2", "direction.10"]
    assert all(values.dtype == np.float32 and values.shape == (WIDTH,) for values in tensors.values())


def test_the_tensors_are_the_raw_vectors_in_float32(tmp_path: Path) -> None:
    direction = example()
    _, tensors = read_back(gguf_vectors.save(direction, tmp_path / "v.gguf"))
    for layer in (1, 2, 10):
        key = f"language.{layer}.block_output"
        expected = direction.vector(key).double() * direction.statistic(key, "raw_norm")
        assert np.array_equal(tensors[f"direction.{layer}"], expected.float().numpy())


@pytest.mark.parametrize(
    ("strength", "length"),
    [(0.5, None), (Strength(2.0, "absolute"), 2.0), (Strength(0.1, "alpha"), 0.7), (Strength(-1.0, "absolute"), 1.0)],
)
def test_the_strength_sets_what_scale_one_means(
    tmp_path: Path, strength: float | Strength, length: float | None
) -> None:
    direction = example()
    _, tensors = read_back(gguf_vectors.save(direction, tmp_path / "v.gguf", strength))
    key = "language.1.block_output"
    expected = length if length is not None else 0.5 * float(direction.statistic(key, "raw_norm") or 0)
    assert np.linalg.norm(tensors["direction.1"]) == pytest.approx(expected, rel=1e-6)
    sign = -1 if isinstance(strength, Strength) and strength.value < 0 else 1
    assert np.sign(tensors["direction.1"] @ direction.vector(key).numpy()) == sign


def test_a_scaled_direction_is_written_scaled(tmp_path: Path) -> None:
    _, once = read_back(gguf_vectors.save(example(), tmp_path / "a.gguf"))
    _, twice = read_back(gguf_vectors.save(-2 * example(), tmp_path / "b.gguf"))
    for name, values in once.items():
        assert np.array_equal(twice[name], -2 * values)


def test_llama_cpp_adds_it_at_the_blocks_where_we_add_it(tmp_path: Path) -> None:
    model, batch = tiny("llama"), inputs("llama")
    direction = example(layers=(1, 2))
    slots = llama_cpp_slots(gguf_vectors.save(direction, tmp_path / "v.gguf"), DEPTH)
    with steer(model, Add(direction, strength=Strength(1.0, "beta"))):
        ours = outputs(model, batch)
    handles = [
        model.model.layers[i].register_forward_hook(lambda _, __, output, slot=slot: output + torch.from_numpy(slot))
        for i, slot in enumerate(slots)
        if slot is not None
    ]
    theirs = outputs(model, batch)
    for handle in handles:
        handle.remove()
    assert len(handles) == 2
    assert torch.allclose(ours, theirs, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(ours, outputs(model, batch), atol=1e-2)


def test_layer_0_is_refused_unless_it_is_dropped_by_name(tmp_path: Path) -> None:
    direction = example(layers=(0, 1))
    with pytest.raises(BadInput, match=r"layer 0, which the format cannot express.*drop_layer_0=True"):
        gguf_vectors.save(direction, tmp_path / "v.gguf")
    _, tensors = read_back(gguf_vectors.save(direction, tmp_path / "v.gguf", drop_layer_0=True))
    assert list(tensors) == ["direction.1"]
    with pytest.raises(BadInput, match="nothing is left"):
        gguf_vectors.save(direction.at(0), tmp_path / "v.gguf", drop_layer_0=True)


def test_a_scoped_site_is_refused_unless_its_scope_is_dropped_by_name(tmp_path: Path) -> None:
    direction = replace(example(), site=Site(layer=(1, 2, 10), tokens="last"))
    with pytest.raises(BadInput, match=r"tokens 'last'.*every token.*drop_scope=True"):
        gguf_vectors.save(direction, tmp_path / "v.gguf")
    assert len(read_back(gguf_vectors.save(direction, tmp_path / "v.gguf", drop_scope=True))[1]) == 3


def from_raw(raw: dict[str, torch.Tensor], **site: Any) -> Direction:
    return Direction.from_raw(raw, Site(**site))


@pytest.mark.parametrize(
    ("direction", "message"),
    [
        (from_raw({"language.1.block_output": torch.eye(4)[:2]}), r"2 rows; the format holds one vector per layer"),
        (
            from_raw({"language.1.mlp_output": torch.ones(4)}, kind="mlp_output"),
            r"'mlp_output'.*only knows 'block_output'",
        ),
        (
            from_raw({"language.1.block_output": torch.ones(4), "vision.1.block_output": torch.ones(4)}),
            r"stacks \['language', 'vision'\]",
        ),
    ],
)
def test_what_the_format_cannot_hold_is_refused(tmp_path: Path, direction: Direction, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        gguf_vectors.save(direction, tmp_path / "v.gguf")
    assert list(tmp_path.iterdir()) == []


def test_senseless_strengths_and_names_are_refused(tmp_path: Path) -> None:
    for strength in (0.0, Strength(torch.tensor([1.0, 2.0]))):
        with pytest.raises(BadInput, match="one number other than 0"):
            gguf_vectors.save(example(), tmp_path / "v.gguf", strength)
    with pytest.raises(NonFinite, match="overflows float32"):
        gguf_vectors.save(example(), tmp_path / "v.gguf", 3e38)
    with pytest.raises(BadInput, match=r"'v\.gguf'"):
        gguf_vectors.save(example(), tmp_path / "v.safetensors")
    with pytest.raises(BadInput, match="raw_norm"):
        gguf_vectors.save(example() + example(seed=1), tmp_path / "v.gguf")


# ---- reading


def test_reading_gives_the_direction_back_to_float32_rounding(tmp_path: Path) -> None:
    direction = example()
    loaded = gguf_vectors.load(gguf_vectors.save(direction, tmp_path / "v.gguf"))
    assert list(loaded.vectors) == list(direction.vectors)
    assert loaded.site == direction.site
    for key in direction.vectors:
        assert torch.allclose(loaded.vectors[key], direction.vectors[key], rtol=2**-22, atol=2**-26)
        assert loaded.statistic(key, "raw_norm") == pytest.approx(direction.statistic(key, "raw_norm"), rel=1e-7)


def test_a_foreign_file_read_and_written_again_keeps_its_tensors_to_float32_rounding(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    theirs = {f"direction.{i}": generator.standard_normal(64).astype(np.float32) for i in (3, 4, 31)}
    loaded = gguf_vectors.load(written(tmp_path / "theirs.gguf", theirs))
    assert (loaded.info["model_hint"], loaded.info["layer_count"]) == ("llama", None)
    _, ours = read_back(gguf_vectors.save(loaded, tmp_path / "ours.gguf"))
    assert ours.keys() == theirs.keys()
    for name in theirs:
        assert np.allclose(ours[name], theirs[name], rtol=2**-22, atol=0)


def test_zero_layers_are_left_out_and_listed(tmp_path: Path) -> None:
    tensors = {f"direction.{i}": np.full(4, i % 2, dtype=np.float32) for i in (1, 2, 3, 4)}
    loaded = gguf_vectors.load(written(tmp_path / "v.gguf", tensors))
    assert list(loaded.vectors) == ["language.1.block_output", "language.3.block_output"]
    assert loaded.info["zero_layers"] == [2, 4]


def test_the_stack_can_be_named(tmp_path: Path) -> None:
    path = gguf_vectors.save(example(), tmp_path / "v.gguf")
    loaded = gguf_vectors.load(path, stack="expert")
    assert set(loaded.vectors) == {f"expert.{i}.block_output" for i in (1, 2, 10)}
    assert loaded.site.stack == "expert"


def test_an_imported_vector_can_be_kept_as_an_artifact(tmp_path: Path) -> None:
    loaded = gguf_vectors.load(gguf_vectors.save(example(), tmp_path / "v.gguf"))
    loaded.save(tmp_path / "v.safetensors")
    again = Direction.load(tmp_path / "v.safetensors")
    assert all(torch.equal(again.vectors[key], loaded.vectors[key]) for key in loaded.vectors)
    assert again.info == loaded.info


ones = np.ones(4, dtype=np.float32)


@pytest.mark.parametrize(
    ("tensors", "architecture", "message"),
    [
        ({"direction.1": ones}, "llama", r"architecture 'llama', not 'controlvector'"),
        ({"direction.0": ones}, "controlvector", r"'direction\.0'.*llama\.cpp refuses it too"),
        ({"direction.x": ones}, "controlvector", r"'direction\.x'"),
        ({"blk.1.weight": ones}, "controlvector", r"'blk\.1\.weight'"),
        ({"direction.1": ones.astype(np.float16)}, "controlvector", "must be float32.*F16"),
        ({"direction.1": np.ones((2, 4), dtype=np.float32)}, "controlvector", r"got F32 of shape \(2, 4\)"),
        (
            {"direction.1": ones, "direction.2": np.ones(5, dtype=np.float32)},
            "controlvector",
            r"different widths \[4, 5\]",
        ),
        ({"direction.1": 0 * ones}, "controlvector", "no direction other than zero"),
        ({}, "controlvector", "no direction other than zero"),
    ],
)
def test_files_that_are_no_control_vector_are_refused_by_what_is_wrong(
    tmp_path: Path, tensors: dict[str, np.ndarray], architecture: str, message: str
) -> None:
    path = written(tmp_path / "v.gguf", tensors, architecture)
    with pytest.raises(BadArtifact, match=message):
        gguf_vectors.load(path)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_tensor_with_nan_is_refused_by_name(tmp_path: Path, bad: float) -> None:
    path = written(
        tmp_path / "v.gguf", {"direction.1": ones, "direction.2": np.array([0, bad], dtype=np.float32).repeat(2)}
    )
    with pytest.raises(NonFinite, match=r"direction\.2"):
        gguf_vectors.load(path)


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    whole = gguf_vectors.save(example(D=5), tmp_path / "v.gguf").read_bytes()
    end = whole.rindex(struct.pack("<f", read_back(tmp_path / "v.gguf")[1]["direction.10"][-1])) + 4  # then padding
    for i in range(end):
        (tmp_path / "cut.gguf").write_bytes(whole[:i])
        with pytest.raises(BadArtifact, match=r"truncated, damaged, or not a GGUF file"):
            gguf_vectors.load(tmp_path / "cut.gguf")


@pytest.mark.parametrize("flip", [0x01, 0x80, 0xFF])
def test_no_damaged_byte_makes_reading_hang_or_fail_in_another_way(tmp_path: Path, flip: int) -> None:
    assert "_get" in vars(gguf.GGUFReader), (
        "the reader's bound check no longer takes effect; adapt gguf_vectors._Bounded"
    )
    whole = gguf_vectors.save(example(layers=(1,), D=4), tmp_path / "v.gguf").read_bytes()
    for i in range(len(whole)):
        (tmp_path / "d.gguf").write_bytes(whole[:i] + bytes([whole[i] ^ flip]) + whole[i + 1 :])
        try:
            gguf_vectors.load(tmp_path / "d.gguf")
        except SteerError:
            continue


def test_an_array_that_claims_to_be_huge_is_refused_at_once(tmp_path: Path) -> None:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    array = struct.pack("<IIQ", gguf.GGUFValueType.ARRAY, gguf.GGUFValueType.UINT8, 2**60)
    (tmp_path / "v.gguf").write_bytes(
        struct.pack("<4sIQQ", b"GGUF", 3, 0, 1) + text("general.tags") + array + bytes(64)
    )
    with pytest.raises(BadArtifact, match="it ends before byte"):
        gguf_vectors.load(tmp_path / "v.gguf")


def test_a_missing_or_foreign_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadArtifact, match="there is no file"):
        gguf_vectors.load(tmp_path / "v.gguf")
    (tmp_path / "empty.gguf").write_bytes(b"")
    (tmp_path / "text.gguf").write_bytes(b"hello, I am text")
    for name in ("empty.gguf", "text.gguf"):
        with pytest.raises(BadArtifact, match="not a GGUF file"):
            gguf_vectors.load(tmp_path / name)
