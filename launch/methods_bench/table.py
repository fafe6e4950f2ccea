"""How each method of the library is run here, or why it is not: one row for every row of `METHODS` that a policy can be steered by."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

from launch.methods_bench import applied, found, learned
from launch.methods_bench.family import Family
from launch.methods_bench.subject import NEEDS, Subject
from steer_agents.methods import METHODS

KINDS = ("find", "learn", "control", "apply", "calibrate", "bake")
"""Kinds of methods that are accounted for; agents are trained and effects judged elsewhere."""


@dataclass(frozen=True)
class Entry:
    """One row.

    Args:
        build: subject -> what can be steered with; None where the method is not run by itself.
        needs: of the subject's `offers`, names in `NEEDS`.
        why: why it is not run by itself.
    """

    build: Callable[[Subject], Family] | None = None
    needs: tuple[str, ...] = ()
    why: str = ""

    def reason(self, subject: Subject) -> str | None:
        """Why it is not run on a subject; None where it is."""
        missing = [NEEDS[name] for name in self.needs if name not in subject.offers]
        if missing:
            return missing[0]
        return self.why if self.build is None else None


REFERENCE = "mean-difference"
"""The simplest method: always run, and what the others must beat."""

ENTRIES: dict[str, Entry] = {
    "mean-difference": Entry(found.mean_difference),
    "pca": Entry(found.contrast("pca")),
    "probe": Entry(lambda subject: found.pushes(subject, found.probed(subject))),
    "lda": Entry(found.contrast("lda")),
    "paired-difference": Entry(found.contrast("paired-difference")),
    "contrast-set": Entry(found.weighted),
    "asc": Entry(found.asc, needs=("teacher",)),
    "efficiency": Entry(found.efficiency, needs=("attempts",)),
    "seal": Entry(needs=("thoughts",), why="a contrast of thoughts within texts: `contrast-set` with other inputs"),
    "assistant-axis": Entry(needs=("personas",), why="a contrast of personas: `contrast-set` with other inputs"),
    "disagreement": Entry(needs=("tuned copy",), why="what tuning changed, not what a word says"),
    "purified": Entry(found.purified, needs=("nuisances",)),
    "conceptor": Entry(found.conceptor),
    "g-act": Entry(learned.bank),
    "prompt-contrast": Entry(found.against_opposite),
    "behaviour-contrast": Entry(found.behaviour, needs=("behaviour",)),
    "success-contrast": Entry(needs=("success",), why="run where success is the concept"),
    "image-contrast": Entry(needs=("pictures",), why="run where the concept is in the picture"),
    "action-gradient": Entry(found.action_gradient, needs=("functional",)),
    "grains": Entry(found.grains, needs=("attribution",)),
    "action-entropy": Entry(needs=("entropy",), why="of policies that act in tokens of actions; an agent's is `entropy`"),
    "entropy": Entry(found.entropy, needs=("entropy",)),
    "vocabulary": Entry(found.vocabulary, needs=("word",)),
    "router-bias": Entry(needs=("experts",), why="run where an expert is the concept"),
    "linear-transport": Entry(learned.transport("linear-transport", support=lambda subject: None)),
    "lineas": Entry(learned.transport("lineas", settings=learned.steps(60, 0.1, 32))),
    "cdas": Entry(learned.cdas),
    "guiding-giants": Entry(learned.guiding_giants, needs=("when",)),
    "sae-features": Entry(found.sae_features),
    "foxp2": Entry(found.foxp2),
    "random": Entry(why="a control: as long as the best method's, both signs"),
    "permuted": Entry(why="a control: as long as the best method's"),
    "random-neurons": Entry(why="a control of neuron sets: experiment `vla-neurons` runs it"),
    "add": Entry(why="run as `mean-difference`, which is added"),
    "norm-kept-add": Entry(applied.norm_kept_add),
    "ablate": Entry(applied.ablate_opposite),
    "rotate": Entry(applied.rotate),
    "rotate-to": Entry(applied.rotate_to),
    "interchange": Entry(applied.interchanged),
    "any-token": Entry(why="says for which inputs, not what: here all inputs are to change"),
    "clamp": Entry(why="run as `natural-factor`, which says to what value"),
    "cap": Entry(why="run as `percentile` and `probability`, which say at what bound"),
    "set-neurons": Entry(why="run as `vocabulary`, which says which neurons"),
    "affine": Entry(why="run as `linear-transport`: one scale and offset for each layer"),
    "transport": Entry(why="run as `linear-transport` and `lineas`, which learn the map"),
    "logit-mix": Entry(why="mixes early logits whatever is asked for: no concept in it"),
    "soft-project": Entry(why="run as `conceptor`, which finds what it projects on"),
    "routed": Entry(why="run as `g-act`, which learns the bank"),
    "kl-budget": Entry(applied.kl_budget, needs=("next token",)),
    "percentile": Entry(applied.cap_percentile),
    "natural-factor": Entry(applied.clamp_natural),
    "probability": Entry(applied.cap_probability),
    "noisy-bisection": Entry(why="meets a wanted value, while here the largest effect is asked for"),
    "js-layers": Entry(applied.at_js_layers),
    "sign-layers": Entry(applied.at_sign_layers),
    "two-sided": Entry(why="chooses a strength by its effect turned round, which is a row of the table"),
    "bake": Entry(applied.baked),
    "steer2edit": Entry(applied.steer2edit),
    "casal": Entry(applied.casal, needs=("when",)),
    "export": Entry(why="writes the files of a baked model: no effect of its own"),
    "vista": Entry(needs=("pictures",), why="run where the concept is in the picture"),
    "sae-clamp": Entry(applied.sae_clamp),
    "sae-shift": Entry(applied.sae_shift),
    "sae": Entry(why="run as `sae-features`, `sae-clamp` and `sae-shift`, which read it"),
    "bipo": Entry(learned.bipo, needs=("preferences",)),
    "yapo": Entry(learned.yapo, needs=("preferences",)),
}  # fmt: skip


def accounted() -> list[str]:
    """Every method of `KINDS`, those of the table first: a method that was added elsewhere is among them."""
    return [*ENTRIES, *(name for name, one in METHODS.items() if one.kind in KINDS and name not in ENTRIES)]


def entry_of(name: str) -> Entry:
    """The row of a method; one without a row is run if two sets of inputs are all that it needs."""
    if name in ENTRIES:
        return ENTRIES[name]
    required = {
        key for key, one in inspect.signature(METHODS[name].load()).parameters.items() if one.default is one.empty
    }
    if METHODS[name].kind == "find" and required == {"target", "positive", "negative"}:
        return Entry(found.contrast(name))
    return Entry(why="has no row in launch/methods_bench/table.py, and needs more than two sets of inputs")
