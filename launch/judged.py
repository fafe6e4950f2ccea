"""What judging says of a study or of several conditions, as sections of a page and as tables in the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from launch.cli_base import OUT, print_rows
from policies.errors import BadInput
from steer_agents.evaluation.judging.conditions import between
from steer_agents.evaluation.judging.elo import EloTable, elo
from steer_agents.evaluation.report import Section, show

LEAST_CONDITIONS = 3
"""Two are compared outright; a rating tells something from here."""


def depth_text(told: Mapping[str, Any]) -> str:
    """The depth of `doses.judged` in words."""
    depth, asks = told["depth"], "more" if told["sign"] > 0 else "less"
    errored = f" {told['errored']} errored episodes are left out." if told["errored"] else ""
    return (
        f"Steerability {show(depth['steerability'])} (0 to 1), {show(depth['null'])} null on average. flip+ asks for {asks} "
        f"{told['measure']}, flip- for the contrary, of those on the other side of the unsteered mean; both is the smaller of the two "
        f"times 1 - null. Times ln(1 + features) it is the depth: steer-agents judge depth --features N.{errored}"
    )


def study_sections(told: Mapping[str, Any]) -> list[Section]:
    """Of `steer_agents.evaluation.judging.doses.judged`: depth, and control times competence, where they can be told."""
    sections = []
    if told["depth"] is not None:
        table = pd.DataFrame(told["depth"]["curve"])
        sections.append(Section("Depth: do answers turn round both ways?", text=depth_text(told), table=table))
    if told["scores"]:
        text = (
            "Harmonic score of control (the share of episodes on the side of the unsteered mean that was asked for) and competence "
            "(success), of the means and per episode; 95 % bootstrap intervals over episodes. The unsteered rows say what both are by "
            "themselves."
        )
        sections.append(Section("Control and competence in one number", text=text, table=pd.DataFrame(told["scores"])))
    return sections


def print_study(told: Mapping[str, Any]) -> None:
    """The same in the terminal."""
    if told["depth"] is not None:
        print_rows(told["depth"]["curve"], "depth: do answers turn round both ways?", False)
        OUT.print(depth_text(told), markup=False)
    if told["scores"]:
        print_rows(told["scores"], "control and competence in one number", False)
    for why in told["why"]:
        OUT.print(why, markup=False)


def rated(tables: Mapping[str, pd.DataFrame], measure: str, sign: int = 1) -> tuple[EloTable, int]:
    """Conditions rated on one measure, paired by seed, and how many pairs of episodes were left out; errors as of `between`."""
    played = between(tables, measure, sign)
    return elo(played.games, list(tables), blocks=played.seeds), played.left_out


def elo_rows(table: EloTable, player: str = "condition") -> list[dict[str, Any]]:
    """Best first; `player` is what the first column is called."""
    return [{player: row.pop("behaviour"), **row} for row in table.rows()]


def elo_sections(tables: Mapping[str, pd.DataFrame], measure: str, notes: list[str]) -> list[Section]:
    """A table of ratings where there are `LEAST_CONDITIONS` or more; why there is none goes into the notes."""
    if len(tables) < LEAST_CONDITIONS:
        return []
    try:
        found, left_out = rated(tables, measure)
    except BadInput as error:
        notes.append(f"No Elo table of the conditions: {str(error).splitlines()[0]}")
        return []
    text = (
        f"On every seed, which of two conditions has more {measure}? 1000 is the average, 100 points are odds of 1.8 to 1; more is not "
        f"said to be better, and how much more does not count. 95 % intervals, bootstrap over {found.n} seeds."
        + (f" {left_out} pairs of episodes errored or lack the measure, and are left out." if left_out else "")
    )
    return [Section(f"Conditions rated by {measure}", text=text, table=pd.DataFrame(elo_rows(found)))]
