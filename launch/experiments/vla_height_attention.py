"""Lower and higher over the table, pushed where words come in: at the attention outputs of all layers at once.

Words reach the action tokens through attention, in every layer anew. What they add there is pushed at every layer, so that nothing is
counted twice, as it would be at the block outputs of all layers.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from launch.experiments import vla_height
from launch.experiments.base import Outcome, Say
from launch.experiments.vla_height import HEIGHT
from launch.experiments.vla_sides import Settings

ATTENTION = replace(
    HEIGHT,
    low=replace(HEIGHT.low, bound=0.03),
    high=replace(HEIGHT.high, bound=0.03),
    kinds=("attention_output",),
)


def settings(quick: bool) -> Settings:
    """104 paired episodes a condition (about 40 minutes), or 8 with few controls (about 3 minutes)."""
    return replace(vla_height.settings(quick), strengths=(1.0, 2.0) if quick else (1.25, 1.5, 1.75, 2.0))


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """See `vla_sides`."""
    return vla_height.run(s, folder, say, ATTENTION)
