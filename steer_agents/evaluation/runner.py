"""The shape of every question about steering: a strength and seeds in, one row per seed out.

What judges steering (dose curves, stress, sequential tests, bounds on harm) knows a function of this shape and no policy, so that planted
steerings test it; `launch/trials.py` makes such functions of policies and environments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd

Runner = Callable[[float, Sequence[int]], pd.DataFrame]
"""(strength, seeds) -> one row per seed: seed, errored, success and the measures."""
