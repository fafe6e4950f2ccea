"""A recorded flight as a LeRobotDataset that LeRobot itself reads, also after a crash."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from flight_parts import FLIGHT, tick, write_flight

from launch.robot.flights import Columns, Recording, frames, to_dataset
from launch.robot.recorder import JOURNAL, FlightRecorder
from policies.errors import BadArtifact, BadInput

pytest.importorskip("lerobot")
BARE = {"observation": {}, "asked": {}, "sent": {}, "mode": "hold", "chunk": -1, "decisions": ("stale observation",)}


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve ticks of which the last was cut off, the first and the fifth without action and observation."""
    folder = write_flight(tmp_path_factory.mktemp("flights") / "first", 12, at={0: BARE, 5: BARE})
    data = (folder / JOURNAL).read_bytes()
    (folder / JOURNAL).write_bytes(data[:-100])
    return folder


def test_a_cut_off_flight_becomes_a_dataset_that_lerobot_reads(cut_off: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    made = to_dataset(cut_off)
    assert made["frames"] == 11
    assert made["lost_bytes"] > 0
    dataset = LeRobotDataset(made["repo_id"], root=made["root"], video_backend="pyav")
    assert (len(dataset), dataset.num_episodes, dataset.fps) == (11, 1, 30)
    assert dataset.meta.robot_type == "made_up"
    assert dataset.features["action"]["names"] == ["x", "y"]
    for number in (1, 4, 7, 10):
        row, wanted = dataset[number], tick(number)
        np.testing.assert_allclose(row["action"], list(wanted.sent.values()), rtol=1e-6)
        np.testing.assert_allclose(row["action_asked"], list(wanted.asked.values()), rtol=1e-6)
        np.testing.assert_allclose(row["observation.state"], [number, 0.5])
        np.testing.assert_allclose(row["observation.force"], wanted.observation["force"])
        picture = (row["observation.images.front"].permute(1, 2, 0) * 255).round().byte().numpy()
        np.testing.assert_array_equal(picture, wanted.observation["front"])
        np.testing.assert_allclose(row["strengths"], [0.2])
        assert row["decisions"] == "; ".join(wanted.decisions)
        assert row["task"] == "lift the cup"
        np.testing.assert_allclose(row["tick"], [number, number / 30, 1 / 30, number // 8, 0.05], atol=1e-6)
    hold = dataset[5]
    assert not hold["sent"]
    assert not hold["observed"]
    assert hold["mode"] == "hold"
    assert hold["decisions"] == "stale observation"
    np.testing.assert_array_equal(hold["action"], dataset[4]["action"])
    np.testing.assert_array_equal(dataset[0]["action"], dataset[1]["action"])  # nothing was sent before
    with pytest.raises(BadInput, match="exists already"):
        to_dataset(cut_off)


def test_nested_pictures_text_and_a_camera_that_changes_its_size(tmp_path: Path) -> None:
    small, large = np.zeros((4, 4, 3), np.uint8), np.ones((8, 8, 3), np.uint8)
    changes = {
        n: {
            "observation": {
                "pixels": {"top": large if n == 2 else small + n},
                "task": "words",
                "half": np.ones(2, np.float16),
            }
        }
        for n in range(4)
    }
    recording = Recording(write_flight(tmp_path / "flight", 4, at=changes))
    columns = Columns.of(recording)
    assert columns.pictures == {"top": (4, 4, 3)}
    assert columns.numbers == []
    rows = list(frames(recording, columns))
    assert [int(row["observation.images.top"][0, 0, 0]) for row in rows] == [0, 1, 1, 3]
    assert rows[0]["observation.half"].dtype == np.float32
    assert "observation.state" not in columns.features(False)


def test_a_flight_without_any_action_says_that_there_is_nothing_to_make(tmp_path: Path) -> None:
    folder = write_flight(tmp_path / "idle", 3, at=dict.fromkeys(range(3), BARE))
    with pytest.raises(BadArtifact, match="none with an action"):
        to_dataset(folder)
    recorder = FlightRecorder(tmp_path / "empty", FLIGHT)
    recorder.close()
    with pytest.raises(BadArtifact, match="0 ticks"):
        to_dataset(tmp_path / "empty")
    assert not (tmp_path / "idle" / "dataset").exists()
