"""A dose study of a steering part: episodes on demand, random directions of the same norm beside it, a folder with what was found.

study = Study(trials, part, controls={...}, seeds=range(24), pilot=range(500_000, 500_008), target="speed", side=("success",))
found = study.run()
study.write(found, Path("runs/dose/slow"))
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.trials import Trials
from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.evaluation import plots
from steer_agents.evaluation.dose import Dose, dose
from steer_agents.evaluation.dose_curve import Curve
from steer_agents.evaluation.judging.doses import judged, way
from steer_agents.finding.controls import controls
from steer_agents.intervention import Intervention
from steer_agents.runs import jsonable, write_bytes, write_json, write_table
from steer_agents.steerer import Part
from steer_agents.strength import Strength

PILOT = 500_000
"""First of the seeds that strengths are chosen on, as an offset to the first that everything is measured on."""
Make = Callable[[float], Part]
"""strength -> the part at that strength."""


@dataclass(frozen=True, eq=False)
class Study:
    """One question: what do the strengths of this part do?

    Args:
        trials: the policy, its tasks and the measures.
        part: strength -> the part.
        controls: name -> the same of a control.
        seeds, pilot, target, side, strengths, bracket, budget, bound: as `steer_agents.evaluation.dose.dose` takes them.
        unit: of the strengths, for labels.
    """

    trials: Trials
    part: Make
    controls: Mapping[str, Make]
    seeds: Sequence[int]
    pilot: Sequence[int] = ()
    target: str = "speed"
    side: Sequence[str] = ("success",)
    strengths: Sequence[float] | None = None
    bracket: tuple[float, float] = (-1.0, 1.0)
    budget: int = 300
    bound: float = 0.2
    unit: str = ""

    def run(self, tell: Callable[[int], None] = lambda episodes: None) -> Dose:
        """Measure and judge; `tell` hears of every batch of episodes."""

        def runner(make: Make | None, name: str) -> Callable[[float, Sequence[int]], pd.DataFrame]:
            def ask(strength: float, seeds: Sequence[int]) -> pd.DataFrame:
                parts = () if make is None else (make(strength),)
                found = self.trials.run(parts, seeds, name if make is None else f"{name} {strength:g}")
                tell(len(seeds))
                return found

            return ask

        return dose(
            runner(self.part, "steered"),
            seeds=self.seeds,
            controls={name: runner(make, name) for name, make in self.controls.items()},
            target=self.target,
            side=self.side,
            strengths=self.strengths,
            pilot=self.pilot,
            bracket=self.bracket,
            budget=self.budget,
            unsteered=runner(None, "unsteered"),
            bound=self.bound,
        )

    def write(self, found: Dose, folder: Path, command: str = "") -> dict[str, Any]:
        """dose.json, episodes.parquet, pilot.parquet, one plot per measure and effect-and-damage.png; each whole or absent.

        Returns:
            what dose.json holds.
        """
        told = summary(found, self.unit) | {"asked": self._asked(), "command": command}
        write_table(folder / "episodes.parquet", found.episodes)
        if len(found.pilot):
            write_table(folder / "pilot.parquet", found.pilot)
        for name, png in figures(found, self.trials.policy.name, self.unit).items():
            write_bytes(folder / f"{name}.png", png)
        write_json(folder / "dose.json", told)
        return dict(jsonable(told))

    def _asked(self) -> dict[str, Any]:
        return {
            **self.trials.describe(), "seeds": list(self.seeds), "pilot": list(self.pilot), "controls": list(self.controls),
            "bracket": self.bracket, "budget": self.budget, "bound": self.bound,
        }  # fmt: skip


def of_direction(trials: Trials, part: Intervention, n_controls: int, seed: int = 0, **settings: Any) -> Study:
    """The study of a part along a direction, beside `n_controls` random directions of the same norm at the same site and gate.

    Args:
        part: at any strength; its unit is kept.
        settings: further fields of `Study`.
    Raises:
        BadInput: the part has no direction, or no control was asked for.
    """
    direction = part.the_direction
    if direction is None:
        raise BadInput(f"dose: {type(part).__name__} has no direction; make a Study with controls of your own.")
    if n_controls < 1:
        raise BadInput("dose: an effect stands beside controls; ask for at least one.")
    drawn = controls(direction, n_controls, seed)

    def along(one: Direction) -> Make:
        plain = replace(one, doses={})  # what is measured anew is not judged by what was measured before
        unit = part.the_strength.unit
        return lambda strength: replace(part, direction=plain, strength=Strength(strength, unit))  # type: ignore[call-arg]

    return Study(
        trials, along(direction), {name: along(one) for name, one in drawn.items() if name.startswith("random ")},
        unit=part.the_strength.unit, **settings,
    )  # fmt: skip


def summary(found: Dose, unit: str = "") -> dict[str, Any]:
    """JSON-able: everything but the episodes."""
    return {
        "verdict": found.verdict.word, "reasons": list(found.verdict.reasons), "target": found.target, "unit": unit,
        "usable": found.usable, "knee": {str(sign): at for sign, at in found.knee.items()},
        "slope": None if found.slope is None else asdict(found.slope), "monotonicity": found.monotonicity,
        "episodes": len(found.episodes) + len(found.pilot),
        "responses": found.responses.to_dict("records"), "losses": found.losses.to_dict("records"),
        "sides": [asdict(side) | {"word": side.word} for side in found.sides],
        "curves": {name: found.curve(name, unit).to_dict() for name in found.measures},
        "judged": judged(found.episodes, found.target, way(found.sides)),
    }  # fmt: skip


def rows(found: Dose) -> list[dict[str, Any]]:
    """The table for people: one row per strength, the controls below."""
    target = found.responses[found.responses["measure"] == found.target].merge(
        found.losses, on="strength", suffixes=("", "_lost")
    )
    shown: list[dict[str, Any]] = []
    for row in target.to_dict("records"):
        others = found.responses[
            (found.responses["strength"] == row["strength"]) & (found.responses["measure"] != found.target)
        ]
        shown.append(
            {
                "strength": row["strength"], found.target: row["value"], "effect": row["effect"],
                "interval": f"{row['low']:+.3g} to {row['high']:+.3g}", "p (Holm)": row["p"], "shown": row["shown"],
                "lost": row["lost"], "rise at most": row["high_lost"],
                "usable": found.usable[0] <= row["strength"] <= found.usable[1],
                **dict(zip(others["measure"], others["value"], strict=True)),
            }
        )  # fmt: skip
    for side in found.sides:
        for name, one in side.controls.items():
            own = found.episodes[(found.episodes["condition"] == name) & (found.episodes["strength"] == side.strength)]
            seen = {"strength": f"{side.strength:g} {name}", found.target: float(own[found.target].mean())}
            shown.append(dict.fromkeys(shown[0]) | seen | {"effect": one.moved, "lost": one.lost})
    return shown


def figures(found: Dose, policy: str, unit: str = "") -> dict[str, bytes]:
    """File name -> PNG: a curve for every measure, and effect against damage."""
    made = {}
    apart = found.episodes[found.episodes["condition"] != "steered"]
    for name in found.measures:
        curve = found.curve(name, unit)
        points = found.responses[(found.responses["measure"] == name)].rename(columns={"strength": "dose"})
        steered = points.assign(low=points["value"], high=points["value"]).dropna(subset="value")
        others = {str(control): _means(one, name) for control, one in apart.groupby("condition")}
        made[f"dose-{name.replace('.', '-')}"] = plots.dose_curve(
            steered, label=name, title=f"{policy}: {name}", controls=others, dose_label=f"strength [{unit}]" if unit else "strength",
            band=_band(curve), usable=found.usable,
        )  # fmt: skip
    made["effect-and-damage"] = plots.effect_and_damage(
        _front(found), label=f"change of {found.target} where the task succeeds", damage_label="rise of lost episodes",
        title=f"{policy}: {found.verdict.word}",
    )  # fmt: skip
    return made


def _means(episodes: pd.DataFrame, name: str) -> pd.DataFrame:
    """Means of a measure by strength, as points of a plot without intervals."""
    means = episodes.groupby("strength")[name].mean().rename_axis("dose").reset_index(name="value")
    return means.assign(low=means["value"], high=means["value"]).dropna(subset="value")


def _band(curve: Curve) -> pd.DataFrame:
    grid = np.linspace(curve.strengths[0], curve.strengths[-1], 101)
    return pd.DataFrame(
        {"dose": grid, **{which.removesuffix("s"): curve.at(grid, which) for which in ("values", "low", "high")}}
    )


def _front(found: Dose) -> pd.DataFrame:
    target = found.responses[found.responses["measure"] == found.target]
    table = target.merge(found.losses, on="strength", suffixes=("", "_lost")).dropna(subset=["effect", "rise"])
    steered = pd.DataFrame({
        "name": [f"{s:g}" for s in table["strength"]], "effect": table["effect"], "low": table["low"], "high": table["high"],
        "damage": table["rise"], "damage_low": table["low_lost"], "damage_high": table["high_lost"], "role": "steered",
    })  # fmt: skip
    base = float(found.losses.set_index("strength").loc[0.0, "lost"])
    others = [
        {"name": name, "effect": one.moved, "low": one.moved, "high": one.moved, "damage": one.lost - base,
         "damage_low": one.lost - base, "damage_high": one.lost - base, "role": "control"}
        for side in found.sides for name, one in side.controls.items() if one.moved == one.moved
    ]  # fmt: skip
    return pd.concat([steered, pd.DataFrame(others, columns=steered.columns)], ignore_index=True) if others else steered
