"""Paths from noise to action: pure functions of tensors, one row of data per kind of model.

With clean chunk a, noise e and noise level s (1 is noise, 0 is the action):

| | `flow` | `ddim` |
| --- | --- | --- |
| x_s | (1 - s) a + s e | cos(p) a + sin(p) e, p = s pi / 2 |
| the network predicts v = | e - a | cos(p) e - sin(p) a |
| a step to level r < s | x + (r - s) v (Euler) | cos(q) a' + sin(q) e', q = r pi / 2 |

where a' and e' are the estimates that v implies at x_s.

`flow`: flow matching, Lipman et al. 2023, arXiv 2210.02747, with s as in pi0, arXiv 2410.24164. `ddim`: Song et al. 2021,
arXiv 2010.02502, with the v-prediction of Salimans and Ho 2022, arXiv 2202.00512. We differ from DDIM in the schedule
(continuous, cosine without offset) and add no noise (eta = 0), so that a sample is a function of the noise it starts from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

Tensor = torch.Tensor


@dataclass(frozen=True)
class Path:
    """How noise and action are mixed, and how a step is taken. Levels are numbers or tensors that broadcast.

    Args:
        mix: (a, e, s) -> x_s.
        target: (a, e, s) -> v, what the network learns.
        clean: (x, v, s) -> the estimate of a.
        step: (x, v, s, r) -> x_r.
    """

    mix: Callable[[Tensor, Tensor, Tensor], Tensor]
    target: Callable[[Tensor, Tensor, Tensor], Tensor]
    clean: Callable[[Tensor, Tensor, float], Tensor]
    step: Callable[[Tensor, Tensor, float, float], Tensor]


def _angle(s: float) -> tuple[float, float]:
    return math.cos(s * math.pi / 2), math.sin(s * math.pi / 2)


def _ddim_step(x: Tensor, v: Tensor, s: float, r: float) -> Tensor:
    (cos_s, sin_s), (cos_r, sin_r) = _angle(s), _angle(r)
    clean, noise = cos_s * x - sin_s * v, sin_s * x + cos_s * v
    return cos_r * clean + sin_r * noise


PATHS: Mapping[str, Path] = {
    "flow": Path(
        mix=lambda a, e, s: (1 - s) * a + s * e,
        target=lambda a, e, s: e - a,
        clean=lambda x, v, s: x - s * v,
        step=lambda x, v, s, r: x + (r - s) * v,
    ),
    "ddim": Path(
        mix=lambda a, e, s: torch.cos(s * torch.pi / 2) * a + torch.sin(s * torch.pi / 2) * e,
        target=lambda a, e, s: torch.cos(s * torch.pi / 2) * e - torch.sin(s * torch.pi / 2) * a,
        clean=lambda x, v, s: _angle(s)[0] * x - _angle(s)[1] * v,
        step=_ddim_step,
    ),
}
