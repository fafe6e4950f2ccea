"""A gate that is a small network: what the residual stream says at early layers decides how hard later layers are steered.

    x = activations of some layers at the last token, together          (B, D)
    s, omega = head(relu(hidden((x - mean) / sd)))                       (B,), (B, L)
    weight at steered layer l = sigmoid(s) 1[s > 0] sigmoid(omega_l)     in {0} or (0, 1)

The controller of Guiding Giants (Hegazy, Elhoushi, Alanwar, arXiv 2505.20309; code Amr-Hegazy1/GuidingGiantsWAS), worked out again in every
pass. Its kappa is the strength of whatever is gated, in the unit "absolute" (the paper's is 4):

    with steer(policy, Add(direction, strength=Strength(4.0, "absolute"), site=controller.site, gate=controller)): ...

Where the release errs, and we do not: it takes the raw logit s, which is negative on benign prompts (a push the other way) and unbounded;
and its default layers look at what they patch. A layer can only be steered by what earlier layers of the same pass said, so reading at or
after the first steered layer is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from policies.base import Context
from policies.errors import BadInput, NonFinite
from steer_agents import kept
from steer_agents.fingerprint import data_fingerprint
from steer_agents.gates import Gate, Weight
from steer_agents.sites import Site, site_from
from steer_agents.tokens import Pass, as_scope

KIND = "controller"
SHAPES = {"mean": "D", "sd": "D", "hidden.weight": "HD", "hidden.bias": "H", "head.weight": "LH", "head.bias": "L"}
"""Name -> axes of its tensors; L is 1 + the number of steered layers."""


def control(x: torch.Tensor, tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (B,) of steering at all and (B, L) of each layer, from activations (B, D)."""
    z = (x - tensors["mean"]) / tensors["sd"]
    z = torch.relu(z @ tensors["hidden.weight"].T + tensors["hidden.bias"])
    out = z @ tensors["head.weight"].T + tensors["head.bias"]
    return out[:, 0], out[:, 1:]


@dataclass(frozen=True)
class Controller(Gate):
    """A gate for the layers of `site`, decided at the layers of `reads_at`.

    Args:
        reads_at: location keys whose activations at the last token are read, in order, "stack.layer.block_output".
        steers: location keys that it gates; all behind those.
        tensors: see `SHAPES`.
        site: where to steer: the layers of `steers`, at the last token.
        model: fingerprint of the model that it was trained on.
        info: how it was trained (JSON values).
    """

    reads_at: tuple[str, ...]
    steers: tuple[str, ...]
    tensors: Mapping[str, torch.Tensor]
    site: Site
    model: Mapping[str, Any]
    info: Mapping[str, Any]

    def __post_init__(self) -> None:
        check_order(self.reads_at, self.steers)
        if self.tensors.keys() != SHAPES.keys():
            raise BadInput(f"controller: expected tensors {sorted(SHAPES)}, got {sorted(self.tensors)}.")
        sizes: dict[str, int] = {"L": 1 + len(self.steers)}
        for name, axes in SHAPES.items():
            shape = tuple(self.tensors[name].shape)
            if len(shape) != len(axes) or any(sizes.setdefault(a, n) != n for a, n in zip(axes, shape, strict=True)):
                raise BadInput(f"controller: {name} has shape {shape}, axes {axes} are {sizes}.")
            if not torch.isfinite(self.tensors[name]).all():
                raise NonFinite(f"controller: {name} has entries that are NaN or infinite; train it again.")

    def reads(self) -> tuple[str, ...]:
        return self.reads_at

    def bound(self, key: str, taps: Mapping[str, Any]) -> Gate:
        if key not in self.steers:
            raise BadInput(f"controller: it gates {list(self.steers)}, not {key}; steer at site=controller.site.")
        return _Bound(self, self.steers.index(key), taps)

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        raise BadInput("controller: it gates activation parts at its own layers only; steer at site=controller.site.")

    def weights(self, x: torch.Tensor) -> torch.Tensor:
        """(B, L) weights of the steered layers, from (B, D) activations."""
        s, omega = control(x, {name: value.to(x.device) for name, value in self.tensors.items()})
        return (torch.sigmoid(s) * (s > 0))[:, None] * torch.sigmoid(omega)

    def describe(self) -> dict[str, Any]:
        return {
            "gate": "Controller",
            "reads": list(self.reads_at),
            "steers": list(self.steers),
            "hash": data_fingerprint(*(self.tensors[name] for name in SHAPES)),
        }

    def save(self, path: str | Path) -> Path:
        """Write one `.safetensors` file, whole or not at all."""
        header = {
            "reads": self.reads_at, "steers": self.steers, "site": self.site.describe(), "model": self.model, "info": self.info
        }  # fmt: skip
        return kept.save(path, KIND, header, {name: value.float() for name, value in self.tensors.items()})

    @classmethod
    def load(cls, path: str | Path) -> Controller:
        """Read a file that `save` wrote.

        Raises:
            BadArtifact: the file is damaged or holds something else.
        """

        def made(header: dict[str, Any], tensors: kept.Tensors) -> Controller:
            places = tuple(header["reads"]), tuple(header["steers"])
            return cls(*places, tensors, site_from(header["site"]), header["model"], header["info"])

        return kept.load(path, KIND, made)


def check_order(reads_at: tuple[str, ...], steers: tuple[str, ...]) -> None:
    """Refuse to steer by what has not been worked out yet.

    Raises:
        BadInput: a layer is read at or behind one that is steered, in another stack, or there are none.
    """
    places = [[key.rsplit(".", 2) for key in keys] for keys in (reads_at, steers)]
    stacks = {place[0] for keys in places for place in keys}
    if not reads_at or not steers or len(stacks) > 1:
        raise BadInput(
            f"controller: it reads layers of a stack and steers later ones of it, got {reads_at} and {steers}."
        )
    last, first = max(int(place[1]) for place in places[0]), min(int(place[1]) for place in places[1])
    if last >= first:
        raise BadInput(
            f"controller: it reads up to layer {last} and would steer layer {first} of the same pass, which has been by then. Steer "
            f"layers from {last + 1} on, or read before layer {first}."
        )


@dataclass(frozen=True)
class _Bound(Gate):
    """A controller at one of its layers, with the taps of this steering."""

    controller: Controller
    index: int
    taps: Mapping[str, Any]

    def weight(self, context: Context, current: Pass | None, h: torch.Tensor | None) -> Weight:
        rows = []
        for key in self.controller.reads_at:
            tap = self.taps[key]
            if not tap.fired:
                raise BadInput(f"controller: {key} did not run before the layers that it steers; read at other layers.")
            rows.append(_last(tap.activation().float(), current))
        return self.controller.weights(torch.cat(rows, dim=-1))[:, self.index]


def _last(h: torch.Tensor, current: Pass | None) -> torch.Tensor:
    """(B, D) at every row's last real token of h (B, N, D)."""
    mask = None if current is None else current.mask(as_scope("last"))
    if mask is None or mask.shape != h.shape[:2]:
        return h[:, -1]
    return (h * mask.to(h)[..., None]).sum(1)
