"""The fragility battery: checks that find a direction which only looks as if it steered. See README.md in this folder."""

from steer_agents.evaluation.runner import Runner
from steer_agents.evaluation.stress.battery import SHARES, Answers, Asked, ask
from steer_agents.evaluation.stress.check import Battery, Check, not_measured
from steer_agents.evaluation.stress.effects import Effects, effects, same
from steer_agents.evaluation.stress.elsewhere import contexts, groups, layers, magnitudes, seeds
from steer_agents.evaluation.stress.evidence import controls, validity
from steer_agents.evaluation.stress.halves import disjoint, found_again, halves, overlapping
from steer_agents.evaluation.stress.neighbours import auroc, cross_effects, specificity
from steer_agents.evaluation.stress.resistance import recovered, resistance

__all__ = [
    "SHARES",
    "Answers",
    "Asked",
    "Battery",
    "Check",
    "Effects",
    "Runner",
    "ask",
    "auroc",
    "contexts",
    "controls",
    "cross_effects",
    "disjoint",
    "effects",
    "found_again",
    "groups",
    "halves",
    "layers",
    "magnitudes",
    "not_measured",
    "overlapping",
    "recovered",
    "resistance",
    "same",
    "seeds",
    "specificity",
    "validity",
]
