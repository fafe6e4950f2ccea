"""Action tokens and their numbers, against values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest

from policies.errors import BadArtifact, BadInput
from policies.openvla.actions import ActionBins, ActionNorm, action_norm, libero_gripper

LLAMA = ActionBins(256, 32000)
STATISTICS = {
    name: {"action": {"q01": [-1.0, 0.0], "q99": [3.0, 1.0], "mask": [True, False]}}
    for name in ("bridge_orig", "libero_spatial_no_noops")
}


def test_token_ids_stand_for_the_published_numbers() -> None:
    # 256 edges over [-1, 1] lie 2/255 apart, so the centres are -254/255, -252/255, ..., 254/255
    ids = np.array([31999, 31998, 31872, 31746, 31745, 31744])
    np.testing.assert_allclose(LLAMA.values(ids), np.array([-254, -252, 0, 252, 254, 254]) / 255, atol=1e-12)
    assert LLAMA.first_id == 31744
    assert LLAMA.is_action(np.array([31743, 31744, 31999, 32000])).tolist() == [False, True, True, False]


def test_tokens_that_are_no_actions_are_clipped_as_published() -> None:
    np.testing.assert_allclose(LLAMA.values(np.array([5, 32000, 32063])), np.array([254, -254, -254]) / 255)


def test_a_higher_number_has_a_lower_id_and_ids_survive_the_round_trip() -> None:
    values = np.linspace(-1, 1, 997)
    ids = LLAMA.ids(values)
    assert (np.diff(ids) <= 0).all()
    assert ids[[0, -1]].tolist() == [31999, 31744]
    assert np.abs(LLAMA.values(ids) - values).max() <= 1 / 255 + 1e-12
    back = LLAMA.ids(LLAMA.values(np.arange(31745, 32000)))
    assert back.tolist() == list(range(31745, 32000))
    assert LLAMA.ids(np.array([-9.0, 9.0])).tolist() == [31999, 31744]


def test_numbers_are_scaled_back_where_the_mask_says_so() -> None:
    norm = action_norm(STATISTICS, "bridge_orig")
    # (a + 1) / 2 * (3 - -1) + -1
    np.testing.assert_allclose(
        norm.unnormalise(np.array([[-1.0, 0.25], [0.0, -0.5], [1.0, 1.0]])), [[-1, 0.25], [1, -0.5], [3, 1]]
    )


def test_a_missing_mask_means_that_every_number_is_scaled() -> None:
    norm = action_norm({"one": {"action": {"q01": [0.0], "q99": [4.0]}}}, None)
    assert (norm.key, norm.unnormalise(np.array([0.0])).tolist()) == ("one", [2.0])


def test_the_key_of_a_libero_suite_may_leave_out_its_ending() -> None:
    assert action_norm(STATISTICS, "libero_spatial").key == "libero_spatial_no_noops"


def test_an_unknown_key_is_answered_with_those_that_exist() -> None:
    with pytest.raises(
        BadInput, match=r"'bridge' is unknown; did you mean 'bridge_orig'\? Allowed: bridge_orig, libero"
    ):
        action_norm(STATISTICS, "bridge")
    with pytest.raises(BadInput, match=r"unnorm_key is needed, one of .*bridge_orig, libero_spatial_no_noops"):
        action_norm(STATISTICS, None)


@pytest.mark.parametrize(
    ("action", "message"),
    [
        ({"q01": [0.0]}, "no usable q01, q99 and mask"),
        ({"q01": [0.0], "q99": [1.0, 2.0]}, r"shapes \{'q01': \(1,\), 'q99': \(2,\)"),
        ({"q01": [0.0], "q99": [float("nan")]}, "NaN or infinity"),
    ],
)
def test_damaged_statistics_are_refused(action: dict[str, list[float]], message: str) -> None:
    with pytest.raises(BadArtifact, match=message):
        action_norm({"one": {"action": action}}, None)
    with pytest.raises(BadArtifact, match="no action statistics"):
        action_norm({}, None)


def test_the_libero_gripper_opens_at_minus_one() -> None:
    actions = np.array([[0.3, 0.0], [0.3, 0.2], [0.3, 0.9], [0.3, 1.0]])
    before = actions.copy()
    np.testing.assert_array_equal(libero_gripper(actions), [[0.3, 1], [0.3, 1], [0.3, -1], [0.3, -1]])
    np.testing.assert_array_equal(actions, before)


def test_bins_must_fit_the_vocabulary() -> None:
    with pytest.raises(BadInput, match="2 <= n_bins <= 100"):
        ActionBins(256, 100)
    assert isinstance(action_norm(STATISTICS, "bridge_orig"), ActionNorm)
