"""Does the policy pull back while it is being steered?

After "Endogenous Steering Resistance" (McKenzie et al. 2026): some models notice that they were pushed and recover with the push still
on, which biases every calibration. Text is judged there attempt by attempt; a policy in a loop is measured in two ways:

    R_loop   = 1 - closed / open    closed: effect on the episode; open: effect on the actions planned on fixed observations
    R_within = 1 - late / early     effect over the last and the first third of the episode

each clipped to [0, 1]: 0 nothing is recovered, 1 all of it (an effect that turns round counts as 1). The score of the check is 1 - the
larger of the two. Unsteered, both are 0: nothing was pushed, nothing is recovered. A closed effect larger than the open one is
amplified, which is no resistance; its ratio is among the numbers.
"""

from __future__ import annotations

import math

from steer_agents.evaluation.stress.check import Check, not_measured, unit

TOO_SMALL = 0.01
"""Effects (as shares) below this are no push that anything could be recovered of."""


def recovered(pushed: float, left: float) -> float:
    """Share of a push that is taken back, 1 - left / pushed in [0, 1]; 0 where nothing was pushed."""
    return unit(1 - left / pushed) if pushed else 0.0


def resistance(
    closed: float | None, opened: float | None, early: float | None, late: float | None, effect: float, why: str = ""
) -> Check:
    """Recovery while steered.

    Args:
        closed, opened: effect in closed and in open loop, on the same quantity; None where it cannot be told.
        early, late: effect in the first and in the last third; None likewise.
        effect: over whole episodes; one that is smaller than `TOO_SMALL` leaves nothing to recover from.
        why: a part cannot be told.
    """
    name, bound = "resistance", 0.5
    if max(abs(effect), abs(opened or 0.0), abs(early or 0.0)) < TOO_SMALL:
        return not_measured(name, bound, f"the effect ({effect:+.3g}) is too small to be recovered from")
    pairs = {"loop": (opened, closed), "within": (early, late)}
    found = {
        part: recovered(a, b)
        for part, (a, b) in pairs.items()
        if a is not None and b is not None and math.isfinite(a) and math.isfinite(b) and abs(a) >= TOO_SMALL
    }
    if not found:
        return not_measured(name, bound, why or "there is no effect in the open loop and at the start")
    told = []
    if "loop" in found:
        told.append(f"planned on fixed observations {opened:+.3g}, reached in the loop {closed:+.3g}")
    if "within" in found:
        told.append(f"first third {early:+.3g}, last third {late:+.3g}")
    worst = max(found.values())
    return Check(
        name,
        unit(1 - worst),
        bound,
        f"{'; '.join(told)}: {100 * worst:.0f} % is recovered" + (f" ({why})" if why else ""),
        "Calibrate the strength in closed loop and hold a set-point with a controller, not with a fixed strength.",
        {"recovered": found, "closed": closed, "open": opened, "early": early, "late": late},
    )
