"""What the strengths of a direction were measured to do, kept in its file: later uses are warned, and set-points solved.

`steer-agents dose` writes one record per task set, kind of intervention, site, gate, unit and target:

    {"policy", "tasks", "intervention", "site", "gate", "unit", "target", "usable": [low, high], "knee", "verdict", "reasons", "curves"}

A record speaks for a part of the same intervention, site and gate. Strengths in another unit are compared as displacements.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch

from policies.errors import BadInput
from steer_agents.direction import Direction
from steer_agents.runs import jsonable
from steer_agents.setpoints import SetPoint
from steer_agents.strength import Strength

if TYPE_CHECKING:
    from steer_agents.evaluation.dose import Dose
    from steer_agents.evaluation.dose_curve import Curve
    from steer_agents.intervention import Intervention

_ROUNDING = 1e-6


class OutsideRange(UserWarning):
    """A strength lies outside of the range that was measured to be usable."""


def with_dose(
    direction: Direction,
    part: Intervention,
    found: Dose,
    *,
    policy: str,
    tasks: tuple[str, ...],
    env: Mapping[str, Any],
) -> Direction:
    """The direction with a record of a dose study; one of the same key is replaced.

    Args:
        direction: to keep it in, may cover more sites than were measured.
        part: what was measured, at any strength.
        policy: its name; tasks, env: on which, and with which arguments.
    """
    unit = part.the_strength.unit
    record: dict[str, Any] = jsonable(
        {
            "policy": policy,
            "tasks": sorted(tasks),
            "env": env,
            **_place(part),
            "unit": unit,
            "target": found.target,
            "usable": found.usable,
            "bound": found.bound,
            "knee": {str(sign): strength for sign, strength in found.knee.items()},
            "verdict": found.verdict.word,
            "reasons": found.verdict.reasons,
            "curves": {name: found.curve(name, unit).to_dict() for name in found.measures if _curved(found, name)},
        }
    )
    return replace(direction, doses={**direction.doses, key_of(record): record})


def key_of(record: Mapping[str, Any]) -> str:
    """What a record is kept under: task set, place, unit and target."""
    site = record["site"]
    where = f"{site['stack'] or 'first stack'}.{site['layer']}.{site['kind']} {site['tokens']}, gate {record['gate']}"
    return " | ".join(
        [", ".join(record["tasks"]), f"{record['intervention']} at {where}", record["unit"], record["target"]]
    )


def records(part: Intervention) -> list[Mapping[str, Any]]:
    """The records that speak for a part."""
    direction = part.the_direction
    return [] if direction is None else [one for one in direction.doses.values() if _place(part).items() <= one.items()]


def outside(part: Intervention) -> list[str]:
    """What to say of a part's strength: one line for each record whose usable range it leaves; none where it stays within."""
    found = []
    for record in records(part):
        unit, value = Strength(0.0, record["unit"]), part.the_strength
        for key in part.keys() or []:
            mine, theirs = (one.factor(part.the_direction, key) if part.displaces else 1.0 for one in (value, unit))
            asked = torch.as_tensor(value.value, dtype=torch.float64) * mine / theirs
            low, high = record["usable"]
            slack = _ROUNDING * max(abs(low), abs(high), 1.0)
            if bool(((asked < low - slack) | (asked > high + slack)).any()):
                told = (
                    f"{float(asked.min()):.4g}"
                    if asked.numel() == 1
                    else f"{float(asked.min()):.4g} to {float(asked.max()):.4g}"
                )
                found.append(
                    f"strength {told} ({record['unit']}) lies outside of {low:.4g} to {high:.4g}, the range measured to be usable for "
                    f"{record['policy']} on {', '.join(record['tasks'])} ({record['target']}: {record['verdict']})"
                )
                break
    return found


def warn_outside(part: Intervention) -> None:
    """Warn of every record whose usable range a part's strength leaves; Python shows the same warning once."""
    for text in outside(part):
        warnings.warn(f"{text}. `steer-agents dose` measures it anew.", OutsideRange, stacklevel=2)


def curve_for(part: Intervention, setpoint: SetPoint) -> Curve:
    """The stored curve that a set-point is solved from.

    Raises:
        BadInput: none is stored for this part and measure (the message names the command), or several are, from different task sets.
    """
    from steer_agents.evaluation.dose_curve import Curve
    from steer_agents.evaluation.measures import same_measure

    found = [
        (one["tasks"], entry)
        for one in records(part)
        for name, entry in one["curves"].items()
        if same_measure(name, setpoint.measure)
    ]
    if not found:
        direction = part.the_direction
        known = "; ".join(direction.doses) if direction is not None else ""
        raise BadInput(
            f"set-point {setpoint}: the direction has no dose curve of {setpoint.measure!r} for {type(part).__name__} at layer "
            f"{part.the_site.layer} with this gate. Measured: {known or 'nothing yet'}. Measure it: steer-agents dose POLICY DIRECTION "
            f"--env TASK --target {setpoint.measure} --layer LAYER"
        )
    if len(found) > 1:
        sets = " and on ".join(", ".join(tasks) for tasks, _ in found)
        raise BadInput(
            f"set-point {setpoint}: {len(found)} dose curves fit, measured on {sets}. Solve the one you mean: "
            "dose_curve.solve(Curve.from_dict(direction.doses[KEY]['curves'][MEASURE]), ...)."
        )
    return Curve.from_dict(found[0][1])


def solved(part: Intervention, text: str) -> Strength:
    """The strength that a set-point asks of a part; errors as in `curve_for` and `solve`."""
    from steer_agents.evaluation.dose_curve import solve

    setpoint = SetPoint.of(text)
    curve = curve_for(part, setpoint)
    return Strength(solve(curve, setpoint), curve.unit)


def _place(part: Intervention) -> dict[str, Any]:
    place: dict[str, Any] = jsonable(
        {"intervention": type(part).__name__, "site": part.the_site.describe(), "gate": part.gate.describe()}
    )
    return place


def _curved(found: Dose, name: str) -> bool:
    """Whether a measure has values at two strengths or more."""
    own = found.responses[(found.responses["measure"] == name) & found.responses["value"].notna()]
    return len(own) > 1
