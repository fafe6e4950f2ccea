"""Depth and harmonic score of episodes at several strengths: tables with known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from policies.errors import BadInput
from steer_agents.evaluation.dose import dose
from steer_agents.evaluation.judging.doses import Doses, judged, way


def rows(
    strength: float, speed: list[float], success: list[float], condition: str = "steered", **more: object
) -> pd.DataFrame:
    return pd.DataFrame(
        {"condition": condition, "strength": strength, "seed": range(len(speed)), "speed": speed, "success": success, **more}
    )  # fmt: skip


def study(**more: object) -> pd.DataFrame:
    """Four layouts at 1, 2, 3, 4 (mean 2.5): +1 slows one of the fast two down, -1 quickens both slow ones and breaks one episode."""
    return pd.concat(
        [
            rows(0, [1, 2, 3, 4], [1, 1, 1, 1], **more),
            rows(1, [1, 1, 2, 3], [1, 1, 1, 1], **more),
            rows(-1, [3, 3, 4, 4], [1, 1, 0, 1], **more),
            rows(2, [0, 0, 1, 1], [1, 1, 0, 0], **more),
        ]
    )


def test_depth_and_scores_by_hand() -> None:
    doses = Doses.of(study(), "speed", sign=-1)
    found = doses.depth(n_features=7)
    (one,) = found.curve  # 2 was not run with both signs
    assert (one.strength, one.flip_up, one.flip_down) == (1.0, 0.5, 1.0)  # up is what +1 asks for: slower
    assert one.null == pytest.approx(1 / 8)
    assert found.steerability == pytest.approx(0.5 * 0.5 * 7 / 8)
    assert found.depth == pytest.approx(np.log(8) * found.steerability)
    told = {(row["asked"], row["strength"]): row for row in doses.scores()}
    assert list(told) == [
        ("less speed", 0),
        ("less speed", 1),
        ("less speed", 2),
        ("more speed", 0),
        ("more speed", -1),
    ]
    assert [row["control"] for row in told.values()] == [0.5, 0.75, 1.0, 0.5, 1.0]
    assert [row["competence"] for row in told.values()] == [1, 1, 0.5, 1, 0.75]
    at = told["less speed", 2]
    assert (at["score"], at["per item"]) == (pytest.approx(2 / 3), 0.5)
    assert told["less speed", 1]["score"] == pytest.approx(1.5 / 1.75)
    assert at["low"] < at["score"] < at["high"]


def test_the_wrong_way_is_no_depth() -> None:
    assert Doses.of(study(), "speed", sign=1).depth().steerability == 0


def test_the_middle_is_that_of_the_task_and_never_that_of_an_errored_episode() -> None:
    fast = study(task="slow one").assign(
        speed=lambda t: t["speed"] + 100, seed=lambda t: t["seed"] + 10, task="fast one"
    )
    both = pd.concat([study(task="slow one"), fast], ignore_index=True)
    assert Doses.of(both, "speed", sign=-1).depth().curve[0].flip_up == 0.5
    assert Doses.of(both, "speed", middle=50.0, sign=-1).depth().curve[0].flip_up == 0.0
    lost = pd.DataFrame([{"strength": 0.0, "seed": 9, "speed": 1e9, "success": 1, "errored": True}])
    wild = pd.concat([study(errored=False), lost])
    doses = Doses.of(wild, "speed", sign=-1)
    assert doses.errored == 1
    assert doses.depth().curve[0] == Doses.of(study(), "speed", sign=-1).depth().curve[0]
    assert doses.scores() == Doses.of(study(), "speed", sign=-1).scores()


def test_an_errored_episode_leaves_its_pair_of_strengths() -> None:
    table = study(errored=False).reset_index(drop=True)
    table.loc[(table["strength"] == -1) & (table["seed"] == 2), "errored"] = True  # the one that broke
    found = Doses.of(table, "speed", sign=-1).depth().curve[0]
    assert found.null == 0
    assert (found.n_down, found.n_up) == (1, 2)


def test_a_measure_that_never_varies_has_nothing_to_turn_round() -> None:
    flat = [0.1] * 3
    table = pd.concat([rows(0, flat, [1] * 3), rows(1, flat, [1] * 3), rows(-1, flat, [1] * 3)])
    found = Doses.of(table, "speed").depth()
    assert found.steerability == 0
    assert [row["control"] for row in Doses.of(table, "speed").scores()] == [0.0] * 4


def test_a_study_is_told_with_its_controls_and_says_what_it_cannot_tell() -> None:
    with_control = pd.concat([study(), rows(1, [1, 2, 3, 4], [1, 1, 1, 0], "random 0")])
    told = judged(with_control, "speed", -1)
    assert told["depth"]["steerability"] == pytest.approx(0.21875)
    (other,) = [row for row in told["scores"] if row["condition"] == "random 0"]
    assert (other["control"], other["competence"], other["asked"]) == (0.5, 0.75, "less speed")
    assert [row["condition"] for row in told["scores"]].count("unsteered") == 2
    assert told["why"] == []
    one_sided = judged(study()[lambda t: t["strength"] >= 0], "speed", -1)
    assert one_sided["depth"] is None
    assert "--strengths -1 1" in one_sided["why"][0]
    assert "no episode says success" in judged(study().assign(success=np.nan), "speed")["why"][0]
    assert "no second side" in judged(study(), "success")["why"][0]


def test_which_way_is_read_off_effects_that_are_shown() -> None:
    def runner(push: float):  # type: ignore[no-untyped-def]
        def run(s: float, seeds: range) -> pd.DataFrame:
            own = np.array([np.random.default_rng([seed, round(100 * s) + 999]).normal() for seed in seeds])
            return rows(s, [0.0], [1.0]).iloc[:0] if not len(seeds) else pd.DataFrame(
                {"seed": list(seeds), "errored": False, "success": 1.0, "speed": 0.01 * own + push * s}
            )  # fmt: skip

        return run

    def found(push: float) -> int:
        made = dose(
            runner(push), seeds=range(16), controls={"random 0": runner(0.0)}, strengths=(-1.0, 1.0), resamples=99
        )
        return way(made.sides)

    assert [found(push) for push in (-1.0, 0.0, 1.0)] == [-1, 1, 1]


def test_mistakes_are_told() -> None:
    with pytest.raises(BadInput, match="did you mean 'speed'"):
        Doses.of(study(), "sped")
    with pytest.raises(BadInput, match="twice"):
        Doses.of(pd.concat([study(), study()]), "speed")
    with pytest.raises(BadInput, match="strengths are -1, 1, 2"):
        Doses.of(study()[lambda t: t["strength"] != 0], "speed")
    with pytest.raises(BadInput, match="sign"):
        Doses.of(study(), "speed", sign=0)
    with pytest.raises(BadInput, match="no 'won'"):
        Doses.of(study(), "speed").scores("won")
