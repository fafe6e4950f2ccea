"""The plug-in in LeRobot's own loops: equal to stock without steering, equal to our rollout with it, and as a recipe folder."""

from __future__ import annotations

import json
import pickle
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import tiny_lerobot
import torch

pytest.importorskip("lerobot_policy_steered", reason="LeRobot's plug-in is not installed")

from lerobot.policies import get_policy_class
from lerobot_policy_steered import SteeredConfig
from lerobot_policy_steered.modeling_steered import SteeredPolicy

import policies
import steer_agents as sa
from launch import lerobot_env, lerobot_server
from launch.lerobot_folder import export
from policies.errors import BadInput, WrongModel
from steer_agents import artifacts, recipe
from steer_agents.direction import Direction
from steer_agents.fingerprint import model_fingerprint
from steer_agents.loop import consecutive_seeds
from steer_agents.sites import Site, steerable

RENAME = {
    "observation.images.image": "observation.images.agentview",
    "observation.images.image2": "observation.images.wrist",
}
SITE = Site("mlp_output", layer=2, stack="expert")
STEPS, EPISODES, SEED = 6, 2, 7


@pytest.fixture(scope="module")
def checkpoint(root: Path) -> Callable[[str], Path]:
    def written(kind: str) -> Path:
        folder = root / kind
        return folder if folder.exists() else tiny_lerobot.write(kind, root)

    return written


@pytest.fixture(scope="module")
def slow(checkpoint: Callable[[str], Path], root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for the tiny SmolVLA: a push in its expert, and a fixed scene to keep out of."""
    folder = tmp_path_factory.mktemp("recipe")
    base = policies.load(f"lerobot:{checkpoint('smolvla')}", tokenizer=str(root / "tokenizer"))
    raw = {"expert.2.mlp_output": torch.randn(32, generator=torch.Generator().manual_seed(1))}
    direction = Direction.from_raw(raw, SITE, model=model_fingerprint(steerable(base)))
    artifacts.save(direction, folder / "push.safetensors")
    (folder / "keep_out.yaml").write_text("reward:\n  - stay_away: {from: post, at_least: 0.4}\n")
    (folder / "recipe.yaml").write_text(
        "recipe: 1\nparts:\n"
        "  - add: push.safetensors\n    strength: 4.0\n    unit: absolute\n    limits: [-8, 8]\n"
        "  - guidance: keep_out.yaml\n    strength: 1.5\n    limits: [0, 3]\n"
        "    kinematics: {position: [0, 1, 2], scale: 0.05, control_dt: 0.05, gripper: 6}\n"
        "    scene: {fixed: {keypoints: {tcp: [0.4, 0, 0.2], post: [0.45, 0.05, 0.2]}}}\n"
    )
    return folder


def batch(kind: str, rows: int = 2, seed: int = 0) -> dict[str, Any]:
    """What LeRobot's preprocessor gives."""
    generator = torch.Generator().manual_seed(seed)
    edge = tiny_lerobot.side(kind)
    made: dict[str, Any] = {
        f"observation.images.{camera}": torch.rand(rows, 3, edge, edge, generator=generator)
        for camera in tiny_lerobot.CAMERAS
    }
    made["observation.state"] = torch.randn(rows, tiny_lerobot.N_STATE, generator=generator)
    if kind not in ("act", "diffusion"):
        made["observation.language.tokens"] = torch.randint(5, 100, (rows, 6), generator=generator)
        made["observation.language.attention_mask"] = torch.ones(rows, 6, dtype=torch.bool)
        made["task"] = ["put the bowl"] * rows
    return made


def steered(folder: Path, root: Path, kind: str = "smolvla", **settings: Any) -> SteeredPolicy:
    with tiny_lerobot.tiny_sizes():
        config = SteeredConfig(base_path=str(folder), tokenizer=str(root / "tokenizer"), device="cpu", **settings)
        return SteeredPolicy(config).eval()


@pytest.mark.parametrize("kind", ["smolvla", "pi0", "pi05", "diffusion", "act"])
def test_without_a_recipe_it_is_the_stock_policy(kind: str, checkpoint: Callable[[str], Path], root: Path) -> None:
    ours = steered(checkpoint(kind), root, kind)
    stock: Any = ours.base
    found = []
    for policy in (stock, ours):
        policy.reset()
        torch.manual_seed(3)
        with torch.inference_mode():
            found.append([policy.select_action(batch(kind, seed=step)) for step in range(STEPS)])
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


def test_strength_zero_is_the_stock_policy(slow: Path, checkpoint: Callable[[str], Path], root: Path) -> None:
    off = {"add": 0.0, "guidance": 0.0}
    ours = steered(checkpoint("smolvla"), root, recipe=str(slow), strengths=off, seed=5)
    plain = steered(checkpoint("smolvla"), root, seed=5)
    full = steered(checkpoint("smolvla"), root, recipe=str(slow), seed=5)
    chunks = [policy.predict_action_chunk(batch("smolvla")) for policy in (plain, ours, full)]
    assert torch.equal(chunks[0], chunks[1])
    assert not torch.allclose(chunks[0], chunks[2], atol=1e-2)


def test_parts_work_in_inference_mode_and_turn_live(slow: Path, checkpoint: Callable[[str], Path], root: Path) -> None:
    ours = steered(checkpoint("smolvla"), root, recipe=str(slow), seed=5)
    chunks = []
    for name, value in (("guidance", 1.5), ("guidance", 3.0), ("guidance", 0.0), ("add", -8.0)):
        ours.reset()
        ours._episodes = 0
        ours.set_strength(name, value)
        with torch.inference_mode():
            chunks.append(ours.predict_action_chunk(batch("smolvla")))
    assert all(not torch.allclose(a, b, atol=1e-3) for a, b in pairwise(chunks))
    with pytest.raises(BadInput, match="allows strengths from 0 to 3"):
        ours.set_strength("guidance", 9.0)


def test_real_time_chunking_reaches_the_base(
    slow: Path, checkpoint: Callable[[str], Path], root: Path, tmp_path: Path
) -> None:
    from lerobot.policies.rtc.configuration_rtc import RTCConfig

    (tmp_path / "push.safetensors").write_bytes((slow / "push.safetensors").read_bytes())
    push = "{add: push.safetensors, strength: 0, unit: absolute, limits: [0, 8]}"
    (tmp_path / "recipe.yaml").write_text(f"recipe: 1\nparts: [{push}]\n")
    ours = steered(checkpoint("smolvla"), root, recipe=str(tmp_path))
    assert ours.supports_rtc()
    ours.config.rtc_config = RTCConfig(enabled=True, execution_horizon=4)  # type: ignore[attr-defined]
    ours.init_rtc_processor()
    torch.manual_seed(0)
    first = ours.predict_action_chunk(batch("smolvla"), inference_delay=0, prev_chunk_left_over=None)
    left = torch.zeros_like(first[:, 2:])
    seen = []
    for strength in (0.0, 8.0):
        ours.set_strength("add", strength)
        torch.manual_seed(1)
        seen.append(ours.predict_action_chunk(batch("smolvla"), inference_delay=2, prev_chunk_left_over=left))
    torch.manual_seed(1)
    stock: Any = ours.base
    ours._attached.__exit__(None, None, None)
    expected = stock.predict_action_chunk(batch("smolvla"), inference_delay=2, prev_chunk_left_over=left)
    torch.testing.assert_close(seen[0], expected, rtol=0, atol=1e-6)
    assert not torch.allclose(seen[1], expected, atol=1e-3)


def arguments(out: Path, *more: str) -> list[str]:
    return [
        "lerobot-eval", "--env.type=steer_agents", "--env.task=PressButton", "--env.camera_size=40", f"--env.episode_length={STEPS}",
        f"--eval.n_episodes={EPISODES}", "--eval.batch_size=2", "--eval.use_async_envs=false", f"--seed={SEED}",
        f"--output_dir={out}", "--policy.device=cpu", f"--rename_map={json.dumps(RENAME)}", *more,
    ]  # fmt: skip


def lerobot_eval(
    monkeypatch: pytest.MonkeyPatch, out: Path, *more: str
) -> tuple[dict[str, Any], list[list[np.ndarray]]]:
    """Its results, and the actions of every environment."""
    from lerobot.scripts import lerobot_eval as script

    actions: dict[int, list[np.ndarray]] = {}
    step = lerobot_env.ForLeRobot.step

    def seen(self: Any, action: Any) -> Any:
        actions.setdefault(id(self), []).append(np.array(action))
        return step(self, action)

    with monkeypatch.context() as patch:
        patch.setattr(sys, "argv", arguments(out, *more))
        patch.setattr(lerobot_env.ForLeRobot, "step", seen)
        script.main()
    return json.loads((out / "eval_info.json").read_text()), list(actions.values())


@pytest.mark.usefixtures("can_draw")
def test_lerobot_eval_equals_our_rollout_episode_by_episode(
    slow: Path, checkpoint: Callable[[str], Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, tokenizer = checkpoint("smolvla"), root / "tokenizer"
    info, theirs = lerobot_eval(
        monkeypatch, tmp_path / "eval", "--policy.type=steered", f"--policy.base_path={base}", f"--policy.recipe={slow}",
        f"--policy.tokenizer={tokenizer}", f"--policy.seed={SEED}", f"--policy.rename_map={json.dumps(RENAME)}",
    )  # fmt: skip
    assert info["overall"]["n_episodes"] == EPISODES
    found = recipe.load(slow)
    policy = policies.load(f"lerobot:{base}", tokenizer=str(tokenizer), rename=RENAME)
    config = lerobot_env.TabletopConfig("PressButton", camera_size=40, episode_length=STEPS)
    kept: list[list[np.ndarray]] = []

    class Kept(gym.Wrapper):
        def __init__(self, env: gym.Env) -> None:
            super().__init__(env)
            self.actions: list[np.ndarray] = []
            kept.append(self.actions)

        def step(self, action: Any) -> Any:
            self.actions.append(np.array(action))
            return super().step(action)

    def make() -> gym.Env:
        return Kept(config._make("SteerAgents/PressButton-v0"))

    run = sa.rollout(
        make, policy, found.steerer(), episodes=EPISODES, seed=SEED, num_envs=2, progress=False, seeds=consecutive_seeds
    )
    ours = [actions for actions in kept if actions]
    assert len(ours) == len(theirs) == EPISODES
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(np.stack(a), np.stack(b)[: len(a)], rtol=0, atol=1e-5)
    successes = [bool(one) for task in info["per_task"] for one in task["metrics"]["successes"]]
    assert successes == run.episodes["success"].astype(bool).tolist()


@pytest.mark.usefixtures("can_draw")
def test_a_recipe_folder_works_through_policy_path(
    slow: Path, checkpoint: Callable[[str], Path], root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = str(root / "tokenizer")
    folder = export(
        slow, tmp_path / "folder", str(checkpoint("smolvla")), tokenizer=tokenizer, rename_map=RENAME, seed=SEED
    )
    names = {path.name for path in folder.iterdir()}
    assert {"config.json", "recipe.yaml", "push.safetensors", "keep_out.yaml", "policy_preprocessor.json"} <= names
    assert "model.safetensors" not in names
    _, direct = lerobot_eval(
        monkeypatch, tmp_path / "a", "--policy.type=steered", f"--policy.base_path={checkpoint('smolvla')}", f"--policy.recipe={slow}",
        f"--policy.tokenizer={tokenizer}", f"--policy.seed={SEED}", f"--policy.rename_map={json.dumps(RENAME)}",
    )  # fmt: skip
    _, by_folder = lerobot_eval(monkeypatch, tmp_path / "b", f"--policy.path={folder}")
    np.testing.assert_array_equal(np.array(by_folder), np.array(direct))
    _, turned_off = lerobot_eval(
        monkeypatch, tmp_path / "c", f"--policy.path={folder}", '--policy.strengths={"add": 0, "guidance": 0}'
    )
    assert not np.allclose(np.array(turned_off), np.array(direct), atol=1e-3)
    saved = SteeredPolicy.from_pretrained(folder)
    saved.save_pretrained(tmp_path / "again")
    assert recipe.load(tmp_path / "again").digest() == recipe.load(folder).digest()


def test_the_async_server_answers_a_live_client(
    slow: Path, checkpoint: Callable[[str], Path], root: Path, tmp_path: Path
) -> None:
    import grpc
    from lerobot.transport import services_pb2, services_pb2_grpc
    from lerobot.transport.utils import grpc_channel_options, send_bytes_in_chunks

    folder = export(slow, tmp_path / "folder", str(checkpoint("smolvla")), tokenizer=str(root / "tokenizer"), seed=SEED)
    server, port = lerobot_server.start(port=0, logs=tmp_path / "logs")
    try:
        from lerobot.async_inference.helpers import RemotePolicyConfig, TimedObservation

        stub = services_pb2_grpc.AsyncInferenceStub(grpc.insecure_channel(f"127.0.0.1:{port}", grpc_channel_options()))
        stub.Ready(services_pb2.Empty())
        names = [f"joint{i}.pos" for i in range(tiny_lerobot.N_STATE)]
        features: dict[str, Any] = {
            "observation.state": {"dtype": "float32", "shape": (len(names),), "names": names},
            **{f"observation.images.{camera}": {"dtype": "image", "shape": (40, 40, 3), "names": ["height", "width", "channels"]}
               for camera in tiny_lerobot.CAMERAS},
        }  # fmt: skip
        asked = RemotePolicyConfig("steered", str(folder), features, actions_per_chunk=4)
        stub.SendPolicyInstructions(services_pb2.PolicySetup(data=pickle.dumps(asked)))
        rng = np.random.default_rng(0)
        seen: dict[str, Any] = {name: float(rng.normal()) for name in names}
        seen |= {camera: rng.integers(0, 256, (40, 40, 3), dtype=np.uint8) for camera in tiny_lerobot.CAMERAS}
        seen["task"] = "put the bowl"
        message = pickle.dumps(TimedObservation(time.time(), 0, seen, must_go=True))
        stub.SendObservations(send_bytes_in_chunks(message, services_pb2.Observation))
        answer = pickle.loads(stub.GetActions(services_pb2.Empty()).data)
        assert len(answer) == 4
        assert all(action.get_action().shape == (tiny_lerobot.N_ACTION,) for action in answer)
        assert all(torch.isfinite(action.get_action()).all() for action in answer)
    finally:
        server.stop(0)


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.4", "example.org", "::"])
def test_the_async_server_stays_on_loopback_and_says_why(host: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"unpickles what clients send.*ssh -L"):
        lerobot_server.start(host, logs=tmp_path)


def test_mistakes_are_told(slow: Path, checkpoint: Callable[[str], Path], root: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="which LeRobot checkpoint"):
        SteeredConfig(recipe=str(slow), device="cpu")
    with pytest.raises(BadInput, match="without a recipe"):
        steered(checkpoint("smolvla"), root, strengths={"add": 1.0})
    with pytest.raises(BadInput, match="allows strengths from -8 to 8"):
        steered(checkpoint("smolvla"), root, recipe=str(slow), strengths={"add": 9.0})
    with pytest.raises(WrongModel):
        steered(checkpoint("pi0"), root, "pi0", recipe=str(slow))
    late = tmp_path / "late.yaml"
    (tmp_path / "push.safetensors").write_bytes((slow / "push.safetensors").read_bytes())
    late.write_text(
        "recipe: 1\nparts:\n  - {add: push.safetensors, strength: 1, unit: absolute, gate: {measured: held}}\n"
    )
    policy = steered(checkpoint("smolvla"), root, recipe=str(late))
    with pytest.raises(BadInput, match="needs the environment's infos"):
        policy.select_action(batch("smolvla"))


def test_the_class_is_found_as_lerobot_finds_plug_ins() -> None:
    assert get_policy_class("steered") is SteeredPolicy
