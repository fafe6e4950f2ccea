"""Before an arm moves: what can be checked by itself, and what a person has to confirm."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from policies.errors import SteerError
from steer_agents.envelope import SafetyEnvelope

STOP_WITHIN = 0.1
"""Longest time from a fault to rest [s]: one period to notice it, then braking."""

QUESTIONS = (
    "The emergency stop is within reach, and pressing it was tried today",
    "Nobody is within reach of the arm, and nobody can step there unseen",
    "The workspace holds only what belongs to the task, and the keep-out boxes cover what must not be touched",
    "Payload, tool and cables are as they were when the envelope was written",
)


class NotConfirmed(SteerError, PermissionError):
    """A person did not confirm that the arm may move."""


@dataclass(frozen=True)
class Check:
    """One line of the list.

    Args:
        text: what was looked at, and found.
        holds: False stops the deployment, None is a warning.
    """

    text: str
    holds: bool | None


def checks(envelope: SafetyEnvelope, period: float, latency: float | None) -> list[Check]:
    """What follows from numbers alone.

    Args:
        period: of the control loop [s].
        latency: of a chunk [s]; None if it was not measured.
    """
    stop = envelope.stopping_time()
    found = [
        Check(
            f"brakes from full speed in {1e3 * stop:.0f} ms after at most {1e3 * period:.0f} ms (together at most "
            f"{1e3 * STOP_WITHIN:.0f} ms: raise acceleration and jerk, or lower the speed)",
            True if stop + period <= STOP_WITHIN + 1e-9 else None,
        )
    ]
    if lost := [
        name
        for name, limit in envelope.limits.items()
        if limit.speed > limit.acceleration * period * (1 + 1e-9)
        or 2 * limit.speed > limit.jerk * period**2 * (1 + 1e-9)
    ]:
        found.append(
            Check(f"a target that gets lost at full speed would exceed acceleration or jerk of {', '.join(lost)}", None)
        )
    if latency is not None:
        found.append(
            Check(
                f"a chunk takes {1e3 * latency:.0f} ms, allowed are {1e3 * envelope.inference_timeout:.0f} ms",
                latency <= envelope.inference_timeout,
            )
        )
    return found


def confirm(name: str, questions: Sequence[str], yes: bool, ask: Callable[[str], str] = input) -> None:
    """Have a person confirm that an arm may move.

    Args:
        name: of the robot.
        questions: asked one by one.
        yes: ask only for the robot's name, typed in full.
        ask: shows a text and returns what was typed.
    Raises:
        NotConfirmed: any other answer than "yes" (or "y"), or another name.
    """
    if yes:
        typed = ask(
            f"--yes: type the robot's name to let it move ({len(questions)} questions are passed over): "
        ).strip()
        if typed != name:
            raise NotConfirmed(f"the robot is called {name!r}, typed was {typed!r}; nothing was sent to it.")
        return
    for question in questions:
        if ask(f"{question}? [yes/no] ").strip().lower() not in ("y", "yes"):
            raise NotConfirmed(f"not confirmed: {question}. Nothing was sent to {name}.")
