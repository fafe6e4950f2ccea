"""A direction that carries a concept, learned by interchange: CDAS (Bao et al., ICLR 2026, arXiv 2602.05234; code colored-dye/concept_das).

With a unit vector w at one layer, the pass of a base input gets the projection that a source input has:

    h_base  <-  h_base + (w . h_src - w . h_base) w

and w is learned such that the base then says what the source says: the loss is the Jensen-Shannon divergence between both next-token
distributions over the source's response, from positive to negative and from negative to positive. So w is asked to reproduce what the
model itself does on its counterparts, and nothing is pushed beyond. The source's projection is read at the last token of its prompt and
written at every base token.

What comes out is a `Direction` from negative to positive. Its mean projection is f, the mean of w . h over the positive sources, so that

    Clamp(direction)                         h <- h + (f - w . h) w
    Clamp(direction, value=m * f)            the paper's m, chosen on held-out data for general concepts, 1 for safety

info["fit"] has f and its counterpart over negative sources ("negative", to suppress). Adam with learning rate 0.04, norm of gradients
clipped to 1, w normalised after every step.

We differ from the paper in: inputs may come without responses (then the next token after the prompt is compared, a weaker signal); held-out
pairs decide when to stop and the best w is kept; any network will do (`aligned=True`: base and source have the same tokens, as the passes
of a VLA, flow policy or MLP; each token is interchanged with itself and all outputs are compared, `distance="mse"` where they are no
logits). The start is a random unit vector, as there. Small models gain little (the paper: 30 % on Phi-3.5).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional

from policies.errors import BadInput, nearest
from steer_agents import capture
from steer_agents.direction import Direction
from steer_agents.finding.contrast import batches_of
from steer_agents.fingerprint import model_fingerprint
from steer_agents.interventions import clamp
from steer_agents.learning.trainer import Settings, draw, split, train
from steer_agents.passes import device_of, edited, fingerprint_of, n_rows, outputs
from steer_agents.sites import Location, Site, Steerable, resolve

_DEFAULT = Settings(steps=300, learning_rate=0.04, batch_size=8)


def interchange(h: torch.Tensor, source: torch.Tensor, w: torch.Tensor) -> torch.Tensor:
    """H + (w . h_src - w . h) w for h (B, N, D), a unit vector w (D,) and h_src (B, 1 or N, D): the rest of h is kept."""
    return clamp(h, w, h.new_ones(()), (source @ w)[..., None])


def jensen_shannon(p: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
    """(...) divergence [nats] between softmax(p) and softmax(q) over the last axis, in [0, ln 2]."""
    p, q = functional.log_softmax(p, -1), functional.log_softmax(q, -1)
    middle = torch.logaddexp(p, q) - math.log(2.0)
    halves = [(one.exp() * (one - middle)).sum(-1) for one in (p, q)]
    return (halves[0] + halves[1]) / 2


DISTANCES: Mapping[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "jsd": jensen_shannon,
    "mse": lambda p, q: (p - q).square().mean(-1),
}
"""Name -> distance between outputs (B, N, V), one number per token."""


@dataclass(frozen=True)
class _Side:
    """A raw input or a batch, and how many of the last tokens of each of its rows (B,) are the response."""

    given: Any
    response: torch.Tensor


@dataclass(frozen=True)
class _Pair:
    """Both ways of interchange: (base, source) with the source's response behind either prompt."""

    up: tuple[_Side, _Side]
    down: tuple[_Side, _Side]


def cdas(
    target: Steerable,
    *,
    positive: Sequence[Any],
    negative: Sequence[Any],
    responses: tuple[Sequence[str], Sequence[str]] | None = None,
    site: Site,
    aligned: bool = False,
    distance: str = "jsd",
    held_out: float = 0.25,
    settings: Settings = _DEFAULT,
    folder: str | Path | None = None,
    progress: bool | None = None,
) -> Direction:
    """The direction whose value, taken from a counterpart, makes the model say what it says there.

    Args:
        positive, negative: counterparts, pair by pair: prompts, or batches of equally many rows (left-padded, as `encode` gives).
        responses: what follows the positive prompts and what follows the negative ones; with prompts that are texts only.
        site: one layer, all tokens.
        aligned: see above.
        distance: a name in `DISTANCES`.
        held_out: share of the pairs that decides when to stop.
        settings: a step draws `batch_size` pairs, and takes each both ways; a pair of batches counts once.
        folder, progress: see `trainer.train`.
    Raises:
        BadInput: several layers or a token scope, unpaired inputs, responses that do not fit, too few pairs.
    """
    if distance not in DISTANCES:
        raise BadInput(f"cdas: distance {distance!r} is unknown{nearest(distance, DISTANCES)}")
    if len(positive) != len(negative):
        raise BadInput(f"cdas: inputs come in pairs, got {len(positive)} positive and {len(negative)} negative ones.")
    locations = resolve(target, site)
    if len(locations) > 1 or site.scoped or site.heads is not None:
        raise BadInput(
            f"cdas: a direction is learned at one layer and all tokens, got {len(locations)} layers at {site}; use Site(layer=6)."
        )
    (location,) = locations
    pairs = _pairs(target, positive, negative, responses)
    learned, held = split(pairs, held_out, settings.seed)
    device = device_of(target)
    generator = torch.Generator().manual_seed(settings.seed)
    with capture.Reader(target, [location]) as reader:
        width = reader.run(_batches(target, [pairs[0].up[0]])[0][0])[location.key].shape[-1]
    start = functional.normalize(torch.randn(width, generator=generator), dim=0)
    w = start.to(device).requires_grad_()

    def loss(chosen: Sequence[_Pair]) -> torch.Tensor:
        ways = [way for pair in chosen for way in (pair.up, pair.down)]
        bases, sources = (_batches(target, [way[i] for way in ways]) for i in (0, 1))
        apart = [
            _apart(target, location, base, source, response, w, DISTANCES[distance], aligned)
            for (base, _), (source, response) in zip(bases, sources, strict=True)
        ]
        return torch.cat(apart).mean()

    def after(lr: float) -> None:
        w.div_(w.norm())

    data = fingerprint_of(positive, negative, *(responses or ()))
    options = {"distance": distance, "aligned": aligned, "held_out": held_out}
    done = train(
        {"w": w}, lambda step: loss(draw(learned, settings.batch_size)), lambda: float(loss(held)), settings, folder,
        after=after, max_norm=1.0, title="cdas", progress=progress,
        asked={"data": data, "site": site.describe(), "model": model_fingerprint(target), **options},
    )  # fmt: skip
    return _direction(target, location, site, w.detach(), pairs, aligned, {
        "data": data, "seed": settings.seed, **options, "captured_at": site.describe(), "trained": done.notes(),
    })  # fmt: skip


def _direction(
    target: Steerable, location: Location, site: Site, w: torch.Tensor, pairs: Sequence[_Pair], aligned: bool,
    info: dict[str, Any],
) -> Direction:  # fmt: skip
    """Turned from negative to positive, with the values that either side's sources have."""
    rows = []
    for sources in ([pair.up[1] for pair in pairs], [pair.down[1] for pair in pairs]):
        with capture.Reader(target, [location]) as reader:
            read = [
                _source(reader.run(batch)[location.key].float(), response, aligned)
                for batch, response in _batches(target, sources)
            ]
        rows.append(torch.cat([h.reshape(-1, h.shape[-1]) for h in read]))
    means = [float((h @ w).mean()) for h in rows]
    sign = 1.0 if means[0] >= means[1] else -1.0
    statistics = capture.statistics_of_rows(torch.cat(rows).cpu(), sign * w.cpu())
    fit = {"positive": sign * means[0], "negative": sign * means[1]}
    return Direction.from_raw(
        {location.key: sign * w},
        site,
        {location.key: {**statistics, "mean_projection": fit["positive"]}},
        method="cdas",
        model=model_fingerprint(target),
        info={**info, "fit": {location.key: fit}},
    )


def _apart(
    target: Steerable, location: Location, base: capture.Batch, source: capture.Batch, response: torch.Tensor, w: torch.Tensor,
    distance: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], aligned: bool,
) -> torch.Tensor:  # fmt: skip
    """(B,) mean over the compared tokens of the distance of the base with the source's projection to the source."""
    seen: list[torch.Tensor] = []

    def keep(h: torch.Tensor) -> torch.Tensor:
        seen.append(h.float())
        return h

    with torch.no_grad(), edited(location, keep):
        wanted = outputs(target, source)
    if len(seen) != 1:
        raise BadInput(f"cdas: {location.key} ran {len(seen)} times in one pass; choose a site that runs once.")
    h_src = _source(seen[0], response, aligned)

    def swap(h: torch.Tensor) -> torch.Tensor:
        if aligned and h.shape != h_src.shape:
            raise BadInput(f"cdas: aligned passes have the same tokens, got {tuple(h.shape)} and {tuple(h_src.shape)}.")
        return interchange(h.float(), h_src, w).to(h.dtype)

    with edited(location, swap):
        got = outputs(target, base)
    if aligned:
        return distance(got, wanted).mean(1)
    count = int(response.max()) + 1  # rows end together, and the prompt's last token predicts the response's first
    compared = torch.arange(count) >= count - 1 - response[:, None]
    apart = distance(got[:, -count:], wanted[:, -count:])
    compared = compared.to(apart)
    return (apart * compared).sum(1) / compared.sum(1)


def _source(h: torch.Tensor, response: torch.Tensor, aligned: bool) -> torch.Tensor:
    """(B, 1, D) at the prompt's last token of h (B, N, D), or h itself where passes are aligned."""
    if aligned:
        return h
    column = h.shape[1] - 1 - response.to(h.device)
    return h[torch.arange(len(h), device=h.device), column][:, None]


def _batches(target: Steerable, sides: Sequence[_Side]) -> list[tuple[capture.Batch, torch.Tensor]]:
    """Batches of the module with their response lengths; raw inputs are encoded together."""
    responses = torch.cat([side.response for side in sides])
    batches = batches_of(target, [side.given for side in sides])
    return list(zip(batches, responses.split([n_rows(batch) for batch in batches]), strict=True))


def _pairs(
    target: Steerable, positive: Sequence[Any], negative: Sequence[Any], responses: tuple[Sequence[str], Sequence[str]] | None
) -> list[_Pair]:  # fmt: skip
    if responses is None:
        found = []
        for plus, minus in zip(positive, negative, strict=True):
            up, down = (
                _Side(one, torch.zeros(n_rows(batches_of(target, [one])[0]), dtype=torch.long)) for one in (plus, minus)
            )
            if len(up.response) != len(down.response):
                raise BadInput(
                    f"cdas: batches of a pair have equally many rows, got {len(up.response)} and {len(down.response)}."
                )
            found.append(_Pair((down, up), (up, down)))
        return found
    told, denied = responses
    texts = [*positive, *negative, *told, *denied]
    if not all(isinstance(text, str) for text in texts) or not len(told) == len(denied) == len(positive):
        raise BadInput(
            f"cdas: responses are one text per prompt, and prompts are texts then, got {len(told)} and {len(denied)} for "
            f"{len(positive)} pairs."
        )
    return [
        _Pair(
            (_answered(target, minus, yes), _answered(target, plus, yes)),
            (_answered(target, plus, no), _answered(target, minus, no)),
        )
        for plus, minus, yes, no in zip(positive, negative, told, denied, strict=True)
    ]


def _answered(target: Steerable, prompt: str, response: str) -> _Side:
    """A prompt with a response behind it."""
    lengths = []
    for text in (prompt, prompt + response):
        (batch,) = batches_of(target, [text])
        assert isinstance(batch, Mapping)
        lengths.append(batch["input_ids"].shape[1])
    if lengths[1] <= lengths[0]:
        raise BadInput(f"cdas: the response {response!r} adds no token to its prompt.")
    return _Side(prompt + response, torch.tensor([lengths[1] - lengths[0]]))
