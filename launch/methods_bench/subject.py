"""What methods are compared on: a policy, a concept, inputs to find it in, and episodes that measure it.

A subject is data and a few callables, so that anything that acts fits: a VLA in a simulated kitchen (`vla.py`), an agent that is a
language model, a planted policy of a test. It knows no method, and a method's entry knows no subject: what an entry needs beyond two
sets of inputs it asks for by name (`offers`), and where a subject has no such thing, `NEEDS` says so in a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pandas as pd

from steer_agents.direction import Direction
from steer_agents.finding import find
from steer_agents.gates import Gate
from steer_agents.sites import Site

Attach = Callable[[Any], AbstractContextManager[Any]]
"""policy -> what steers it while the `with` block lasts."""

NEEDS: Mapping[str, str] = {
    "teacher": "needs texts of a concise teacher",
    "thoughts": "needs own reasoning texts",
    "personas": "needs replies in roles",
    "next token": "reads the next token's distribution after prompts: needs a causal language model",
    "preferences": "needs preferred and dispreferred answers of a causal language model",
    "tuned copy": "needs a fine-tuned copy of the policy",
    "experts": "mixtures of experts only",
    "pictures": "the concept is not in the picture",
    "entropy": "finds how sure a policy is, which is another concept",
    "success": "finds what tells success from failure, which is another concept",
    "functional": "needs a number worked out from the actions, with gradients",
    "attribution": "needs a preferred answer or a number worked out from the actions, with gradients",
    "behaviour": "needs a quantity that was measured in own rollouts",
    "attempts": "needs own attempts with their outcome and length",
    "nuisances": "needs inputs that show other concepts",
    "responses": "needs what is answered on either side",
    "when": "needs to know on which inputs to steer",
    "word": "needs a vocabulary that the policy acts through",
}
"""What an entry may ask of a subject -> why it is left out where there is none."""


@dataclass(frozen=True)
class Asked:
    """What a subject is made from.

    Args:
        policy: a name that `policies.load` takes; load: its options.
        concept: a name in `subjects.MAKERS`.
        tasks: that are run, where there are several; environments of an agent.
        finding, choice, test: episodes (of every task), histories or prompts to find on, to choose on, to test on.
        first_test_seed: of the test episodes.
        layers: tried; empty takes those that suit the policy.
        folder: where finished trials are kept.
        quick: see `Subject`.
    """

    policy: str
    concept: str
    tasks: tuple[str, ...]
    finding: int
    choice: int
    test: int
    first_test_seed: int
    layers: tuple[int, ...]
    folder: Path
    load: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False


@dataclass(frozen=True)
class Trial:
    """One way of running the episodes.

    Args:
        name: of it, which is also where its episodes are kept.
        attach: what steers; None for nothing.
        words: what is said besides.
    """

    name: str
    attach: Attach | None = None
    words: str = ""


@dataclass(frozen=True)
class Subject:
    """A policy and a concept.

    Args:
        name: of the policy; concept: of what is asked of it.
        policy: the policy itself.
        measure: column of the episodes that shows the concept; label: of it, with its unit; sign: of the effect asked for, -1 or +1.
        words: what one would say instead of steering, beside a prompt.
        positive, negative: the same inputs with and without the concept, pair by pair; opposite: with its opposite.
        groups: what each pair belongs to, e.g. its task.
        site: kind -> a site at every layer, at the tokens where the policy decides; "block_output" is whatever a layer writes.
        layers: tried, each by itself.
        gates: name -> when to steer; the first one is tried first.
        run: (trial, "choice" or "test") -> one row per episode: seed, success, errored and the measure; equal seeds for every trial.
        instead: name -> what one would attach instead of a direction, e.g. a temperature; run beside the words.
        slow: whether a pass takes seconds: learned methods then get small batches, and those that learn one layer get one.
        offers: name in `NEEDS` -> what there is of it.
        quick: whether learning may be cut short, to see that everything works.
    """

    name: str
    concept: str
    policy: Any
    measure: str
    label: str
    sign: int
    words: str
    positive: Sequence[Any]
    negative: Sequence[Any]
    opposite: Sequence[Any]
    groups: Sequence[Hashable]
    site: Callable[[str], Site]
    layers: tuple[int, ...]
    gates: Mapping[str, Gate]
    run: Callable[[Trial, str], pd.DataFrame]
    instead: Mapping[str, Attach] = field(default_factory=dict)
    slow: bool = False
    offers: Mapping[str, Any] = field(default_factory=dict)
    quick: bool = False
    _made: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """What several entries share, made by the first that asks for it."""
        if name not in self._made:
            self._made[name] = make()
        return self._made[name]

    @property
    def tried(self) -> Site:
        """The block outputs of the layers that are tried: what a method reads that fits each layer by itself."""
        return replace(self.site("block_output"), layer=self.layers)

    def natural(self, kind: str = "block_output") -> Direction:
        """Difference of means at a site kind: its length is the natural displacement, the unit of all strengths."""
        contrast = {"positive": self.positive, "negative": self.negative}
        found: Direction = self.once(
            f"natural {kind}", lambda: find(self.policy, "mean-difference", site=self.site(kind), **contrast)
        )
        return found

    def few(self, inputs: Sequence[Any], count: int) -> list[Any]:
        """About `count` of the inputs, evenly spaced: for methods that need many passes."""
        return list(inputs[:: max(1, len(inputs) // count)])
