from __future__ import annotations

import numpy as np
import pytest

from policies import temperature
from policies.errors import BadInput


def test_it_is_changed_and_the_value_before_comes_back() -> None:
    assert temperature.changed("p", 0.5, {"temperature": 2}) == (2.0, {"temperature": 0.5})
    assert temperature.changed("p", 0.5, {}) == (0.5, {})
    assert temperature.checked(0) == 0.0


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf"), True, "1", None])
def test_what_is_no_temperature_is_refused(value: object) -> None:
    with pytest.raises(BadInput, match="finite number of at least 0"):
        temperature.checked(value)


def test_zero_is_refused_where_it_means_nothing_and_so_is_another_setting() -> None:
    with pytest.raises(BadInput, match="greater than 0"):
        temperature.checked(0, greedy=False)
    with pytest.raises(BadInput, match="p has no decision setting 'temprature'; did you mean 'temperature'"):
        temperature.changed("p", 1.0, {"temprature": 1.0})


def test_rows_may_have_their_own_where_the_policy_says_so() -> None:
    new, before = temperature.changed_by_row("p", 0.5, {"temperature": np.array([1.0, 2.0])})
    assert np.asarray(new).tolist() == [1.0, 2.0]
    assert before == {"temperature": 0.5}
    assert temperature.changed_by_row("p", new, {"temperature": 3}) == (3.0, {"temperature": new})
    np.testing.assert_array_equal(np.ones((2, 3)) / temperature.of_rows(new, 2), [[1.0] * 3, [0.5] * 3])
    with pytest.raises(BadInput, match="greater than 0"):
        temperature.changed_by_row("p", 1.0, {"temperature": np.array([1.0, 0.0])})
    with pytest.raises(BadInput, match="no decision setting 'heat'"):
        temperature.changed_by_row("p", 1.0, {"heat": 1.0, "temperature": np.array([1.0])})
    with pytest.raises(BadInput, match="finite number"):
        temperature.changed("p", 1.0, {"temperature": np.array([1.0, 2.0])})
