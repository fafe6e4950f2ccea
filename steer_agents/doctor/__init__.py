"""The doctor: does steering do on *your* model what the tests hold on tiny ones?

    for check in examine(policies.load("llm:my-folder")):
        print(check.name, check.passed, check.value)

| check | what has to hold |
| --- | --- |
| same input, same output | two plain passes agree bit for bit; nothing below can hold otherwise |
| sites fire (each stack) | every site of the map runs in a forward pass, exactly once unless the map says otherwise |
| steering acts | a push at any one layer changes the output |
| zero strength | parts of strength 0 at every site leave the output bit-identical |
| batch mates | steering row 1 of 3 leaves rows 0 and 2 bit-identical |
| rows one by one | a batch with one strength per row equals its rows one by one |
| hooked equals baked | folding into weights gives the hooked output |
| prefill and decode | token by token on a key-value cache equals one full pass |
| restored | afterwards, and after an exception, outputs, parameters and hooks are as at the start |
| memory | many steered calls leave nothing behind |

Bit-identity is exact equality of the outputs at real tokens (padding means nothing). Where rounding enters (another
batch size, folded weights, a cache), outputs may differ by a share of the largest one, see
`patient.TOLERANCE`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from policies.base import SiteMap
from policies.errors import SteerError
from steer_agents.doctor.checks import examinations
from steer_agents.doctor.inputs import three_rows
from steer_agents.doctor.patient import Finding, NotApplicable, Patient
from steer_agents.sites import Steerable, steerable

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Check:
    """One finding.

    Args:
        name: what was checked.
        passed: None if the check does not apply to this model.
        value: what was measured.
        expected: what it should have been.
        advice: what to do about it, or why it does not apply; "" if all is well.
    """

    name: str
    passed: bool | None
    value: str
    expected: str
    advice: str = ""


def examine(
    target: Any,
    inputs: Any = None,
    site_map: SiteMap | None = None,
    n_calls: int = 1000,
    progress: Callable[[str], None] | None = None,
) -> list[Check]:
    """Check that steering does what it says on a model: some dozens of forward passes, and `n_calls` short ones.

    The model is left as it was. Checks do not depend on one another: one that raises has failed, with the error as its
    value.

    Args:
        target: a policy with a network, a torch module, or a `Steerable`.
        inputs: what to run it on: a batch (mapping of the module's arguments, or a tensor), a list whose first batch is
            taken, or raw inputs that `policy.encode` understands. None makes some up: the module's own `example_inputs` if
            it has them, else prompts through the policy's `encode`, random tokens for a bare language model, random
            numbers for anything else. Side stacks (vision) are only examined if the inputs make them run.
        site_map: as for `steer`.
        n_calls: calls of the memory check; 0 leaves it out.
        progress: called with the name of each check before it starts.
    Raises:
        BadInput, UnknownArchitecture: no network, no site map, or no inputs could be made up.
    """
    place = steerable(target, site_map)
    patient = Patient(Steerable(place.module, place.site_map), three_rows(place, inputs), inputs is not None, n_calls)
    checks = []
    for name, (expected, run) in examinations(patient).items():
        if progress is not None:
            progress(name)
        checks.append(_isolated(name, expected, run))
    return checks


def render(checks: Sequence[Check]) -> Table:
    """The checks as a table for `rich.print`."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title="steer-agents doctor")
    for column in ("check", "result", "value", "expected", "advice"):
        table.add_column(column, overflow="fold")
    results = {True: Text("ok", "green"), False: Text("FAILED", "bold red"), None: Text("n/a", "dim")}
    for check in checks:
        name, *rest = (Text(text) for text in (check.name, check.value, check.expected, check.advice))
        table.add_row(name, results[check.passed], *rest)
    return table


def _isolated(name: str, expected: str, run: Callable[[], Finding]) -> Check:
    try:
        passed, value, advice = run()
    except NotApplicable as reason:
        return Check(name, None, "", expected, str(reason))
    except Exception as error:  # whatever a user's model raises is a finding
        advice = "See the message." if isinstance(error, SteerError) else "Run the model once without steering."
        return Check(name, False, f"{type(error).__name__}: {error}", expected, advice)
    return Check(name, passed, value, expected, "" if passed else advice)
