"""LeRobot checkpoints as files: all weights arrive or an error says which did not; bad input is answered by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_lerobot
import torch
from safetensors.torch import load_file, save_file
from tiny_lerobot import INFOS, N_ACTION, TASKS, observation

import policies
from policies.errors import BadArtifact, BadInput, UnknownName
from policies.lerobot import estimate_of, memory
from policies.lerobot.fast import FastTokenizer
from policies.lerobot.observations import frames, stacked

Load = Callable[..., Any]


@pytest.fixture
def copy(load: Load, root: Path, tmp_path: Path) -> Callable[[str], Path]:
    """A checkpoint folder of one's own to damage."""

    def copied(kind: str) -> Path:
        if not (root / kind).exists():
            load(kind)
        return Path(shutil.copytree(root / kind, tmp_path / kind))

    return copied


def reread(root: Path, folder: Path, **options: Any) -> Any:
    with tiny_lerobot.tiny_sizes():
        return policies.load(f"lerobot:{folder}", tokenizer=str(root / "tokenizer"), **options)


@pytest.mark.parametrize("kind", tiny_lerobot.SIZES)
def test_every_tensor_of_the_file_arrives_in_the_policy(shared: Load, root: Path, kind: str) -> None:
    own = shared(kind).stock.policy.state_dict()
    saved = load_file(root / kind / "model.safetensors")
    assert len(saved) > 20
    for key, value in saved.items():
        assert torch.equal(own[key], value), key
    assert own.keys() == shared(kind).module.state_dict().keys()


def test_a_policy_that_was_saved_again_acts_the_same(shared: Load, root: Path, tmp_path: Path) -> None:
    first = shared("smolvla")
    folder = tmp_path / "again"
    first.stock.policy.save_pretrained(folder)
    first.stock.pre.save_pretrained(folder)
    first.stock.post.save_pretrained(folder)
    again = reread(root, folder)
    noise = torch.randn(3, *first.noise_shape)
    seen = {**observation("smolvla"), "task": TASKS}
    assert torch.equal(again.sample(seen, noise), first.sample(seen, noise))
    described = json.loads(json.dumps(again.describe(), default=str))
    assert described["type"] == "smolvla"
    assert described["config"]["num_steps"] == 3


@pytest.mark.parametrize("kind", ["pi0", "smolvla"])
def test_a_missing_a_left_over_and_a_misshapen_tensor_are_told(copy: Load, root: Path, kind: str) -> None:
    folder = copy(kind)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    save_file({key: value for key, value in tensors.items() if key != "model.action_out_proj.weight"}, path)
    with pytest.raises(BadArtifact, match=r"lacks 1 of the \d+ tensors.*stay random: model\.action_out_proj\.weight"):
        reread(root, folder)
    save_file({**tensors, "model.normalize_inputs.mean": torch.zeros(2)}, path)
    with pytest.raises(BadArtifact, match=r"no place for: model\.normalize_inputs\.mean.*migrate_policy_normalization"):
        reread(root, folder)
    assert reread(root, folder, allow_unexpected=True).action_dim == N_ACTION
    save_file({**tensors, "model.action_out_proj.weight": torch.zeros(2, 2)}, path)
    with pytest.raises(BadArtifact, match=r"(?s)do not fit.*action_out_proj"):
        reread(root, folder)


def test_damaged_folders_are_told(copy: Load, root: Path) -> None:
    folder = copy("act")
    (folder / "model.safetensors").write_bytes(b"\x00" * 20)
    with pytest.raises(BadArtifact, match=r"model\.safetensors cannot be read"):
        reread(root, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BadArtifact, match=r"model\.safetensors cannot be read"):
        reread(root, folder)
    shutil.copy(root / "act" / "model.safetensors", folder)
    (folder / "policy_preprocessor.json").unlink()
    with pytest.raises(BadArtifact, match=r"no readable policy_preprocessor\.json"):
        reread(root, folder)
    (folder / "config.json").write_text('{"type": "nothing"}')
    with pytest.raises(BadArtifact, match=r"config\.json of .* cannot be read"):
        reread(root, folder)


def test_names_options_and_settings_that_do_not_exist_are_told(copy: Load, load: Load, root: Path) -> None:
    with pytest.raises(UnknownName, match="there is no folder '/no/such/folder'"):
        policies.load("lerobot:/no/such/folder")
    with pytest.raises(UnknownName, match="hf download lerobot/no-such-policy"):
        policies.load("lerobot:lerobot/no-such-policy")
    with pytest.raises(BadInput, match="a smolvla config has no field 'n_action_step'; did you mean 'n_action_steps'"):
        load("smolvla", n_action_step=3)
    with pytest.raises(BadInput, match="does not fit a smolvla config"):
        load("smolvla", n_action_steps=99)
    with pytest.raises(BadInput, match="dtype 'float8' is unknown"):
        load("smolvla", dtype="float8")
    with pytest.raises(BadInput, match=r"no feature 'observation\.images\.camera1'.*agentview"):
        load("smolvla", rename={"observation.images.agentview": "observation.images.camera1"})
    folder = copy("act")
    config = json.loads((folder / "config.json").read_text())
    fields = {"type": "tdmpc", "input_features": config["input_features"], "device": "cpu"}
    (folder / "config.json").write_text(json.dumps(fields))
    with pytest.raises(BadInput, match=r"type 'tdmpc' cannot be steered.*Allowed: smolvla, pi0, pi05"):
        reread(root, folder)


@pytest.mark.parametrize(
    ("kind", "setting", "advice"),
    [
        ("diffusion", {"noise_scheduler_type": "DDPM"}, "noise_scheduler_type='DDIM'"),
        ("pi0", {"compile_model": True}, "compile_model=False"),
        ("pi0_fast", {"use_kv_cache": False}, "use_kv_cache=True"),
        ("act", {"temporal_ensemble_coeff": 0.01, "n_action_steps": 1}, "temporal_ensemble_coeff=None"),
    ],
)
def test_settings_that_cannot_be_steered_as_promised_are_refused(
    load: Load, kind: str, setting: dict[str, Any], advice: str
) -> None:
    with pytest.raises(BadInput, match=f"cannot be steered: .*{advice}"):
        load(kind, **setting)


def test_observations_that_do_not_fit_are_told_with_what_exists(shared: Load, load: Load) -> None:
    policy, seen = shared("smolvla"), observation("smolvla")
    with pytest.raises(BadInput, match=r"needs \['observation.images.wrist'\].*gives \['observation.images.agentview'"):
        policy.act({**seen, "pixels": {"agentview": seen["pixels"]["agentview"]}})
    with pytest.raises(BadInput, match=r"needs .*'observation.images.agentview', 'observation.images.wrist'"):
        policy.act({"agent_pos": seen["agent_pos"]})
    with pytest.raises(BadInput, match=r"observation.state: expected shape \(B, 8\), got \(3, 7\)"):
        policy.act({**seen, "agent_pos": seen["agent_pos"][:, :7]})
    flat = {camera: picture.astype(np.float32) for camera, picture in seen["pixels"].items()}
    with pytest.raises(BadInput, match=r"pictures of shape \(B, H, W, 3\) uint8, got \(3, 40, 40, 3\) float32"):
        policy.act({**seen, "pixels": flat})
    with pytest.raises(BadInput, match=r"\(B, 32, 32, 3\) uint8, got \(3, 40, 40, 3\).*camera_size=32"):
        shared("act").act(seen)
    with pytest.raises(BadInput, match=r"has no 'task_description', it has .*instruction='"):
        policy.reset([1], [{"success": False}])
    policy.reset([1, 2, 3], INFOS)
    with pytest.raises(BadInput, match="expected 3 instructions, one per row, got 1"):
        policy.sample({**seen, "task": TASKS[:1]})


def test_cameras_are_renamed_or_left_out_where_asked(load: Load, shared: Load) -> None:
    seen, noise = observation("pi0"), torch.randn(3, *shared("pi0").noise_shape)
    swapped = load("pi0", rename={"observation.images.front": "observation.images.wrist"}, instruction=TASKS[0])
    pixels = {"agentview": seen["pixels"]["agentview"], "front": seen["pixels"]["wrist"]}
    swapped.reset([1, 2, 3])
    expected = shared("pi0").sample({**seen, "task": TASKS[:1] * 3}, noise)
    assert torch.equal(swapped.sample({**seen, "pixels": pixels}, noise), expected)
    partial = load("smolvla", allow_missing_cameras=True)
    partial.reset([1, 2, 3], INFOS)
    out = partial.sample({**seen, "pixels": {"wrist": seen["pixels"]["wrist"]}}, noise)
    assert torch.isfinite(out).all()


def test_actions_are_clipped_only_where_asked(load: Load, shared: Load) -> None:
    plain = shared("act").act(observation("act")).action
    clipped = load("act", clip_actions=(-0.5, 0.4))
    clipped.reset([1, 2, 3], INFOS)
    assert np.abs(plain).max() > 0.5
    np.testing.assert_array_equal(clipped.act(observation("act")).action, plain.clip(-0.5, np.float32(0.4)))


def test_a_history_is_an_axis_behind_the_rows() -> None:
    past = [observation("diffusion", seed=seed) for seed in range(2)]
    both = stacked(past)
    assert both["pixels"]["wrist"].shape == (3, 2, 64, 64, 3)
    for taken, given in zip(frames(both, 2), past, strict=True):
        np.testing.assert_array_equal(taken["pixels"]["wrist"], given["pixels"]["wrist"])
        np.testing.assert_array_equal(taken["agent_pos"], given["agent_pos"])
    with pytest.raises(BadInput, match="observations of 3 steps"):
        frames(both, 3)


@pytest.mark.parametrize(("dtype", "kinds"), [("bfloat16", tuple(tiny_lerobot.SIZES)), ("float16", ("smolvla", "pi0"))])
def test_half_precision_acts_nearly_as_float32_and_weighs_what_was_estimated(
    load: Load, shared: Load, root: Path, dtype: str, kinds: tuple[str, ...]
) -> None:
    for kind in kinds:
        small = load(kind, dtype=dtype)
        small.reset([1, 2, 3], INFOS)
        exact, near = shared(kind).act(observation(kind)).action, small.act(observation(kind)).action
        assert near.dtype == np.float32
        if kind != "pi0_fast":  # one other token is another action
            assert np.abs(near - exact).max() < 0.25 * np.abs(exact).max()
        weights = sum(p.numel() * p.element_size() for p in small.module.parameters())
        guess = estimate_of(str(root / kind), dtype)
        assert 0.9 * guess.bytes < weights < 1.1 * guess.bytes, kind


def test_what_does_not_fit_into_memory_is_refused_before_it_is_loaded(
    load: Load, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load("pi0")
    known = estimate_of(str(root / "pi0"))
    assert known.parameters == sum(value.numel() for value in load_file(root / "pi0" / "model.safetensors").values())
    assert known.host_bytes == 4 * known.parameters
    assert "M parameters" in str(known)
    monkeypatch.setattr(memory, "_free_host", lambda: 1000)
    with pytest.raises(BadInput, match=r"needs 0\.00 GB of main memory.*check_memory=False"):
        load("pi0")
    load("pi0", check_memory=False)


def test_a_fast_tokenizer_without_its_numbers_is_told(root: Path, tmp_path: Path) -> None:
    known = FastTokenizer(root / "fast")
    assert known.bpe_tokenizer.decode([3, 4]) == chr(0x103) + chr(0x104)
    shutil.copytree(root / "fast", tmp_path / "fast")
    (tmp_path / "fast" / "processor_config.json").write_text("{}")
    with pytest.raises(BadArtifact, match="min_token"):
        FastTokenizer(tmp_path / "fast")
