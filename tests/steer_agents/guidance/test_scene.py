"""Where keypoints come from: infos, the observation, known points, several together."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from toys import infos

from envs.tabletop.env import TabletopEnv
from envs.tabletop.observations import ENVIRONMENT_STATE_SLICES as SLICES
from policies.errors import BadInput, UnknownName
from steer_agents.guidance import Entry, fixed, from_infos, from_observation, together


def test_infos_and_the_observation_of_the_tabletop_agree() -> None:
    env = TabletopEnv("CarryBlockOverWall")
    observation, info = env.reset(seed=1)
    batch = {key: value[None] for key, value in observation.items()}
    told = from_infos()(batch, [info])
    seen = from_observation(
        {
            "tcp": Entry("environment_state", SLICES["tcp"].start),
            "wall": Entry("environment_state", SLICES["obstacle_from_tcp"].start, relative_to="tcp"),
            "object": Entry("environment_state", SLICES["object"].start),
        },
        {"wall": Entry("environment_state", SLICES["obstacle_half_size"].start)},
        {"held": ("environment_state", SLICES["held"].start)},
    )(batch, None)
    for name in ("tcp", "wall", "object"):
        torch.testing.assert_close(told.point(name), seen.point(name))
    torch.testing.assert_close(told.half_size("wall"), seen.half_size("wall"))
    assert float(told.quantity("held")) == float(seen.quantity("held")) == 0.0
    env.close()


def test_a_scene_is_repeated_row_by_row() -> None:
    rows = infos(2)
    rows[1] = rows[1] | {"held": True}
    assert from_infos()({}, rows).repeated(3).quantity("held").tolist() == [0, 0, 0, 1, 1, 1]


def test_later_readers_count_and_unknown_names_are_answered_with_the_nearest() -> None:
    scene = together(from_infos(), fixed({"goal": (1.0, 2.0, 3.0), "cup": (0.0, 0.0, 0.0)}))(
        {"x": np.zeros((1, 1))}, infos(1)
    )
    assert scene.point("goal").tolist() == [[1.0, 2.0, 3.0]]
    with pytest.raises(UnknownName, match="keypoint 'wal' is not in this scene; did you mean 'wall'"):
        scene.point("wal")


def test_entries_that_the_observation_lacks_are_named() -> None:
    reader = from_observation({"tcp": Entry("state", 2)})
    with pytest.raises(BadInput, match="has 4 numbers, asked for 3 from 2"):
        reader({"state": np.zeros((1, 4))}, None).point("tcp")
    with pytest.raises(BadInput, match="no 'state'; it has"):
        reader({"other": np.zeros((1, 4))}, None).point("tcp")
    with pytest.raises(BadInput, match="three numbers per row"):
        fixed({"a": (1.0, 2.0)})({"x": np.zeros((1, 1))}, None).point("a")
