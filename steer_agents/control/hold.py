"""Hold a measured quantity at a set-point: the strength of a part is moved during the episode, by feedback.

    quick, slow = sa.Add(quickly), sa.Add(slowly)
    with sa.steer(policy, sa.Hold(quick, "ee_speed=0.25", limits=(-1.0, 1.0), slope=0.15, against=slow)):
        ...

Any part with a strength can be moved, so that all channels can hold a set-point: an intervention's strength, the strength of
`RewardGuidance`, the share of `NoiseMix`, the temperature of `Temperature`. Every row of the batch has a controller of its own
(`pi.py`), which starts anew with each episode, at the strength that the dose curve asks for.

Each environment step tells what its controllers did, in the step table: NAME_set_point, NAME_measured, NAME_strength,
NAME_saturated and NAME_withdrawn, with the `name` of the hold.

Axes: B rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from policies.base import Decision, Policy
from policies.errors import BadInput, nearest
from steer_agents.control import pi
from steer_agents.control.harm import HarmLimit
from steer_agents.control.measured import Quantity
from steer_agents.control.pi import Gains, Limits, Loop
from steer_agents.setpoints import SetPoint

SMOOTH = 4.0
"""Delays that an error may take to die away."""
Turn = Callable[[np.ndarray], None]
"""Sets the strengths of a part's rows, (B,)."""


@dataclass(frozen=True, eq=False)
class Hold:
    """A part whose strength holds a measured quantity at a set-point.

    Args:
        part: what is moved; its own strength is replaced.
        set_point: "MEASURE=VALUE", or a `SetPoint`; see `steer_agents.control.measured` for what can be measured.
        limits: (low, high) of the strength, in the part's unit, or `Limits` with a rate besides.
        gains: `Gains`, or "auto": SIMC from `slope`, with the length of the policy's chunks as the delay.
        closed: time constant of "auto" [environment steps]; None takes `SMOOTH` delays. SIMC's tight choice, one delay, chases the
            phases of a task: it pushes while the hand grasps and lets go in transit, and misses the mean.
        slope: d measure / d strength about the set-point, from a dose curve; "auto" needs it.
        start: strength at which an episode begins: the open-loop solution of the dose curve; None begins without steering.
        against: a part that takes over below 0, with the sign turned: for directions that push one way only. Without it the
            part itself gets negative strengths.
        harm: when steering is withdrawn for the rest of an episode.
        name: of the columns in the step table.
    Raises:
        BadInput: a part without a strength, gains "auto" without a slope, or a start outside of the limits.
    """

    part: Any
    set_point: SetPoint | str
    limits: Limits | tuple[float, float]
    gains: Gains | str = "auto"
    slope: float | None = None
    closed: float | None = None
    start: float | None = None
    against: Any = None
    harm: HarmLimit | None = None
    name: str = "hold"

    def __post_init__(self) -> None:
        if isinstance(self.set_point, str):
            object.__setattr__(self, "set_point", SetPoint.of(self.set_point))
        if not isinstance(self.limits, Limits):
            object.__setattr__(self, "limits", Limits(*self.limits))
        if isinstance(self.gains, str) and self.gains != "auto":
            raise BadInput(
                f"Hold: gains {self.gains!r} are unknown{nearest(self.gains, ['auto'])}, or Gains(kp=..., ki=...)."
            )
        if isinstance(self.gains, str):
            if self.slope is None:
                raise BadInput(
                    f"Hold({self.set_point}): gains 'auto' follow from the slope of the dose curve; pass slope=, or Gains(kp, ki)."
                )
            self.gains_for(1.0)
        for one in self.parts:
            if not hasattr(one, "turned") and not hasattr(one, "the_strength"):
                raise BadInput(
                    f"Hold({self.set_point}): {type(one).__name__} has no strength to move; hold an intervention (Add, ...), "
                    "RewardGuidance, NoiseMix or Temperature."
                )
        if self.against is not None and self.off:
            raise BadInput(f"Hold({self.set_point}): {type(self.part).__name__} has no opposite; leave against=None.")
        if self.beginning not in self.bounds:
            raise BadInput(
                f"Hold({self.set_point}): the start {self.beginning:g} is not within the limits [{self.bounds.low:g}, "
                f"{self.bounds.high:g}]; widen them, or pass start=."
            )

    @property
    def parts(self) -> tuple[Any, ...]:
        """What is attached."""
        return (self.part,) if self.against is None else (self.part, self.against)

    @property
    def off(self) -> float:
        """The strength that changes nothing."""
        return float(getattr(self.part, "off", 0.0))

    @property
    def beginning(self) -> float:
        """The strength at which an episode begins."""
        return self.off if self.start is None else self.start

    @property
    def bounds(self) -> Limits:
        """The limits, as `Limits`."""
        assert isinstance(self.limits, Limits)
        return self.limits

    @property
    def target(self) -> SetPoint:
        """The set-point, as `SetPoint`."""
        assert isinstance(self.set_point, SetPoint)
        return self.set_point

    def gains_for(self, delay: float) -> Gains:
        """The gains, for a policy that decides every `delay` environment steps."""
        if isinstance(self.gains, Gains):
            return self.gains
        assert self.slope is not None
        return Gains.simc(self.slope, delay, closed=SMOOTH * delay if self.closed is None else self.closed)

    def attendant(self, turns: Sequence[Turn]) -> Holding:
        """What goes along with the policy while this is attached; `turns` sets the strengths of each of `parts`."""
        return Holding(self, turns)

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        gains = self.gains if isinstance(self.gains, str) else vars(self.gains)
        limits = {key: value for key, value in vars(self.bounds).items() if math.isfinite(value)}
        return {
            "hold": self.part.describe(),
            "against": None if self.against is None else self.against.describe(),
            "set_point": str(self.target),
            "gains": gains,
            "slope": self.slope,
            "closed": self.closed,
            "limits": limits,
            "start": self.beginning,
            "harm": None if self.harm is None else self.harm.describe(),
            "name": self.name,
        }


class Holding:
    """A hold at work: an `Attendant` of the policy.

    Attributes:
        loop: the controllers' state.
        withdrawn: (B,) bool, whose steering was taken back in this episode.
    """

    def __init__(self, hold: Hold, turns: Sequence[Turn]) -> None:
        self._hold, self._turns = hold, turns
        self.loop = Loop.at(hold.beginning, 0)

    @property
    def withdrawn(self) -> np.ndarray:
        passed: np.ndarray = self._since >= 0
        return passed

    def begin(self, policy: Policy, n_rows: int) -> None:
        """Controllers and measurements start anew, every row at the start."""
        window = int(getattr(policy, "n_action_steps", 1))
        self._gains = self._hold.gains_for(window)
        self._quantity = Quantity(self._hold.target.measure, window)
        self._quantity.begin(n_rows)
        self._harm = None if self._hold.harm is None else Quantity(self._hold.harm.measure)
        if self._harm is not None:
            self._harm.begin(n_rows)
        self.loop = Loop.at(self._hold.beginning, n_rows)
        self._since: np.ndarray = np.full(
            n_rows, -1
        )  # environment steps since steering was withdrawn; -1 while it was not
        self._measured: np.ndarray = np.full(n_rows, math.nan)
        self._given = self.loop.strength
        self._turn()

    def before(self, policy: Policy, active: np.ndarray) -> None:
        """One step of the controllers, with what came of the last action."""
        infos = policy.context.infos
        measured = self._quantity.read(infos, active)
        if measured is None:
            return
        self._measured = measured
        self._note_harm(infos, active)
        value = self._hold.target.value
        error, recent = value - measured, value - self._quantity.recent()
        self.loop = pi.step(self.loop, error, recent, self._gains, self._hold.bounds, active & ~self.withdrawn)
        off = self._hold.off
        self._given = off + (self.loop.strength - off) * self._left()
        self._turn()

    def after(self, policy: Policy, decision: Decision, active: np.ndarray) -> Mapping[str, np.ndarray]:
        """What was asked, measured and done, as columns of the step table."""
        self._quantity.note(decision)
        if self._harm is not None:
            self._harm.note(decision)
        name, n_rows = self._hold.name, len(self._given)
        return {
            f"{name}_set_point": np.full(n_rows, self._hold.target.value),
            f"{name}_measured": self._measured,
            f"{name}_strength": self._given.copy(),
            f"{name}_saturated": self.loop.saturated,
            f"{name}_withdrawn": self.withdrawn,
        }

    def leave(self, policy: Policy) -> None:
        """Nothing is left behind: whoever attached the parts puts their strengths back."""

    def _note_harm(self, infos: Sequence[Mapping[str, Any]] | None, active: np.ndarray) -> None:
        """Whose steering is withdrawn, and for how many environment steps."""
        if self._harm is None:
            return
        harm, limit = self._harm.read(infos, active), self._hold.harm
        assert limit is not None
        if harm is None:
            return
        passed = active & (harm > limit.above) & ~self.withdrawn
        self._since = np.where(passed, 0, np.where(self.withdrawn, self._since + 1, -1))

    def _left(self) -> np.ndarray:
        """(B,) share of the steering that is left, 1 unless it is withdrawn."""
        ramp = 1 if self._hold.harm is None else self._hold.harm.ramp
        share: np.ndarray = np.where(self.withdrawn, np.maximum(0.0, 1.0 - (self._since + 1) / ramp), 1.0)
        return share

    def _turn(self) -> None:
        if len(self._turns) == 1:
            self._turns[0](self._given)
            return
        up, down = self._turns
        up(np.maximum(self._given, 0.0))
        down(np.maximum(-self._given, 0.0))
