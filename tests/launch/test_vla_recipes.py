"""VLA recipes: recorded frames, evaluation, card, and tiny-vla from end to end at toy size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import policies
from envs.tabletop.env import TabletopEnv
from envs.tabletop.tasks import TASKS
from launch.experiments.base import Say
from launch.rebuild import tiny_vla, vla_card
from launch.rebuild.smol_vla import Settings as SmolSettings
from launch.rebuild.tabletop_data import SIZE, Frames, random_scenes, siblings
from launch.rebuild.vla_data import ADVERBS, TASK_NAMES, Cells, DataSettings, collect, pools, vocabulary
from launch.rebuild.vla_evaluation import EvaluationSettings, assess, evaluate
from policies.tiny_vla.training import Stage

DATA = DataSettings(tasks=("PressButton",), per_adverb=(1, 1, 0, 0, 0, 0, 0), extra=(0, 0, 1, 0, 0, 0, 0), scenes=3)
SMALL = EvaluationSettings(init_states=2, adverb_init_states=1)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("frames")
    collect(DATA, folder, Say())
    return folder


def test_frames_hold_what_was_seen_done_and_meant(recorded: Path) -> None:
    demos = Frames.load(recorded / "demo-PressButton.npz")
    assert set(demos.style.tolist()) == {0, 1}
    assert demos.pictures.shape == (len(demos.chunk), 2, SIZE, SIZE, 3)
    assert demos.chunk.shape[1:] == (4, 7)
    assert np.abs(demos.chunk).max() <= 1
    (pool,) = pools(DATA, recorded, "demo")
    assert pool.instructions == [TASKS["PressButton"].instruction]
    before = (recorded / "demo-PressButton.npz").stat().st_mtime_ns
    collect(DATA, recorded, Say())
    assert (recorded / "demo-PressButton.npz").stat().st_mtime_ns == before
    picked = Cells([pool]).draw(50, np.random.default_rng(0))
    assert {a for _, a, _ in picked} == {0, 1}
    assert sum(len(rows) for *_, rows in picked) == 50


def test_extra_demonstrations_are_for_cloning_alone(recorded: Path) -> None:
    (demos,), (both,) = pools(DATA, recorded, "demo"), pools(DATA, recorded, "demo", "extra")
    extra = Frames.load(recorded / "extra-PressButton.npz")
    assert set(demos.style.tolist()) == {0, 1}
    assert set(extra.style.tolist()) == {2}
    assert len(both.state) == len(demos.state) + len(extra.chunk)
    assert torch.equal(both.pictures[: len(demos.state)], demos.pictures)
    joined = Frames.joined([extra, extra])
    assert joined.episode.max() == 2 * extra.episode.max() + 1
    draws = Cells([both], shares=(1, 0, 3, 0, 0, 0, 0)).draw(4000, np.random.default_rng(0))
    assert {a: len(rows) for _, a, rows in draws}[2] == pytest.approx(3000, abs=150)
    assert 1 not in {a for _, a, _ in draws}


def test_a_spot_is_where_the_thing_is_in_the_picture() -> None:
    frames = random_scenes(siblings(TASK_NAMES)["PutRedBlockOnPlate"], 12, seed=5)
    checked = 0
    for picture, spots in zip(frames.pictures, frames.spots, strict=True):
        for camera in range(2):
            x, y = ((spots[0, camera, 0] + 1) / 2 * SIZE).astype(int)  # the red block
            if 2 <= x < SIZE - 2 and 2 <= y < SIZE - 2:
                red = picture[camera].astype(int)
                red = red[..., 0] - red[..., 1:].max(-1) > 60
                if red[y - 2 : y + 3, x - 2 : x + 3].any():
                    checked += 1
                else:  # hidden: then by the arm, which is grey or white
                    assert np.ptp(picture[camera, y, x].astype(int)) < 60
    assert checked >= 8


def test_an_evaluation_goes_on_from_its_file_and_keeps_rows_apart(tmp_path: Path) -> None:
    network = tiny_vla.new(tiny_vla.TinyVLAConfig(*vocabulary(("PressButton",))), 0)
    calls: list[str] = []

    def policy(adverb: str) -> Any:
        calls.append(adverb)
        return tiny_vla.TinyVLAPolicy(network, adverb=adverb)

    path = tmp_path / "evaluation.json"
    short = replace(SMALL, seeds=(0,), shifted_seeds=())
    task = TASKS["PressButton"]
    assert task.max_episode_steps == 200
    table = assess(short, ("PressButton",), policy, path, Say())
    assert calls == list(ADVERBS)
    assert json.loads(path.read_text()) == table
    assert assess(short, ("PressButton",), policy, path, Say()) == table
    assert calls == list(ADVERBS)
    alone = evaluate(tiny_vla.TinyVLAPolicy(network), "PressButton", [{"init_state_id": 1}], 0)
    assert alone == table["PressButton||in range|0"][1:]


def test_the_expert_of_an_evaluation_succeeds_and_batches_shrink(monkeypatch: pytest.MonkeyPatch) -> None:
    from envs.tabletop.experts import make_expert

    sizes: list[int] = []

    class Scripted:
        picture_size, n_action_steps, attendants = 64, 4, ()

        def reset(self, seeds: list[int], infos: Any) -> None:
            self.experts = [make_expert(env, seed=0) for env in made]

        def act(self, observation: Any, active: np.ndarray, infos: Any) -> Any:
            assert active.all()
            sizes.append(len(observation["agent_pos"]))
            assert [info["task"] for info in infos] == ["PutRedBlockOnPlate"] * sizes[-1]
            actions = np.stack([expert.act() for expert in self.experts])
            return policies.base.Decision(actions, {"draw_entropy_bits": np.full(sizes[-1], 2.0)})

        def keep(self, rows: np.ndarray) -> None:
            self.experts = [self.experts[i] for i in rows]

    made: list[TabletopEnv] = []
    make = TabletopEnv.__init__

    def noted(self: TabletopEnv, *args: Any, **kwargs: Any) -> None:
        make(self, *args, **kwargs)
        made.append(self)

    monkeypatch.setattr(TabletopEnv, "__init__", noted)
    rows = evaluate(Scripted(), "PutRedBlockOnPlate", [{"init_state_id": i} for i in range(2)], 0)  # type: ignore[arg-type]
    assert [row["success"] for row in rows] == [True, True]
    assert all(0.1 < row["height"] < 0.3 and row["speed"] > 0.1 for row in rows)
    assert all(row["draw_entropy_bits"] == 2 and not row["touched"] for row in rows)
    assert sizes[0] == 2
    assert len(sizes) == max(row["steps"] for row in rows)


def rows(task: str, speed: float, height: float | None, success: bool = True, n: int = 2) -> list[dict[str, Any]]:
    return [
        {"task": task, "init_state_id": i, "success": success, "steps": 10, "speed": speed, "height": height}
        for i in range(n)
    ]


def test_the_card_says_which_bars_hold() -> None:
    table = {"T||in range|0": rows("T", 0.2, 0.15), "T||in range|1": rows("T", 0.2, 0.15, success=False)}
    table["T||shifted|0"] = table["T||in range|0"]
    speeds = {"slowly": 0.1, "quickly": 0.25}
    heights = {"low over the table": 0.11, "high over the table": 0.16}
    for adverb in list(ADVERBS)[1:]:
        table[f"T|{adverb}|in range|0"] = rows("T", speeds.get(adverb, 0.2), heights.get(adverb, 0.15))
    card = vla_card.render("x", table, ("T",), EvaluationSettings(), {"a": "b"}, success_bar=0.6, text=(2.0, 2.2))
    assert "| success over all tasks | 0.50 [0.15, 0.85] | >= 0.6 | **falls short** |" in card
    assert "| speed with 'slowly', times that without | 0.50 | <= 0.65 | holds |" in card
    assert "| speed with 'quickly', times that without | 1.25 | >= 1.3 | **falls short** |" in card
    assert "| transit height, high minus low [m] | 0.050 | >= 0.04 | holds |" in card
    assert "| cross-entropy on text: 2.0000 nats before, 2.2000 after | +10.00% | <= 5% | **falls short** |" in card
    assert "| T | 1.00 [0.34, 1.00] | 0.00 [0.00, 0.66] | 1.00 [0.34, 1.00] | 10 | 0.200 |" in card


def test_speed_where_both_succeed_leaves_out_what_is_stuck() -> None:
    with_adverb = rows("T", 0.3, None) + rows("S", 0.01, None, success=False)
    without = rows("T", 0.2, None) + rows("S", 0.2, None)
    assert vla_card.speed_ratio(with_adverb, without) == pytest.approx(0.31 / 0.4)
    assert vla_card.speed_ratio(with_adverb, without, succeeded=True) == pytest.approx(1.5)


def test_tiny_vla_from_end_to_end_at_toy_size(tmp_path: Path, recorded: Path) -> None:
    settings = tiny_vla.Settings(
        data=DATA,
        grounding=Stage(steps=2, batch_size=4),
        cloning=Stage(steps=2, batch_size=4),
        evaluation=replace(SMALL, init_states=1, seeds=(0,), shifted_seeds=(0,)),
    )
    (tmp_path / "vla-data").symlink_to(recorded)
    folder = tmp_path / "tiny-vla"
    folder.mkdir()
    path = tiny_vla.run("tiny-vla", folder, Say(), settings)
    assert policies.load(f"tiny-vla:{path}", adverb="slowly").adverb == "slowly"
    assert "2 steps of 4" in (folder / "tiny-vla.md").read_text()
    written = path.read_bytes()
    path.unlink()
    assert tiny_vla.run("tiny-vla", folder, Say(), settings).read_bytes() == written  # from its checkpoints
    assert SmolSettings().data == tiny_vla.Settings().data  # both learn from the same frames
