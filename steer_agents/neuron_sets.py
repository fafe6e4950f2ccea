"""Sets of neurons: directions at `mlp_neurons` whose non-zero entries name neurons, and what can be done with them.

`find(policy, "vocabulary", ...)` makes them, `SetNeurons(direction, values=...)` sets them, `find(policy, "permuted", like=...)` is
the control with as many other neurons.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch

from policies.errors import BadInput
from steer_agents.capture import stream
from steer_agents.direction import Direction
from steer_agents.finding.value_vectors import value_vectors
from steer_agents.interventions import neurons_of
from steer_agents.sites import Site, resolve, steerable


def activation_quantile(
    target: Any, direction: Direction, scenes: Iterable[Any], q: float
) -> dict[str, tuple[float, ...]]:
    """What the neurons of a set reach by themselves: the q-quantile of each one's activation over all tokens of the site.

    For `SetNeurons(direction, values=...)`: a value that the network knows, where one constant for all neurons may be ten times
    what one of them ever has. (arXiv 2509.00328 sets a hand-picked constant, 4 for OpenVLA and 10 for pi0-FAST.)

    Args:
        target: a policy, torch module or `Steerable`.
        direction: a set of neurons.
        scenes: what the policy's `encode` takes; for a bare torch module, its batches.
        q: in [0, 1].
    Returns:
        location key -> one value per neuron, in the order of `neurons_of`.

    Raises:
        BadInput: q is out of range, or there are no scenes.
    """
    if not 0 <= q <= 1:
        raise BadInput(f"activation_quantile: q must be in [0, 1], got {q}.")
    place, chosen, scenes = steerable(target), neurons_of(direction), list(scenes)
    if not scenes:
        raise BadInput("activation_quantile: got no scenes; pass observations, or batches of the module.")
    batches = scenes if place.policy is None else place.policy.encode(scenes)
    seen: dict[str, list[torch.Tensor]] = {key: [] for key in chosen}
    stream(place, batches, direction.site, lambda key, h: seen[key].append(h[:, list(chosen[key])].cpu()))
    return {key: tuple(torch.cat(rows).quantile(q, dim=0).tolist()) for key, rows in seen.items()}


def value_direction(target: Any, direction: Direction, kind: str = "mlp_output") -> Direction:
    """What a set of neurons writes: at each layer the sum of their value vectors, to be added.

    `Add(value_direction(policy, slow), strength=Strength(4.0, "beta"))` adds 4 to every neuron's activation, in the stream.

    Args:
        target: a policy, torch module or `Steerable`.
        direction: a set of neurons.
        kind: "mlp_output" is exact for every architecture; "block_output" is the same where the block adds the MLP's output as it is
            (not in Gemma 2 and 3, which norm it first).
    Raises:
        BadInput: another kind, or value vectors that cancel out.
    """
    if kind not in ("mlp_output", "block_output"):
        raise BadInput(f"value_direction: kind must be 'mlp_output' or 'block_output', got {kind!r}.")
    place, chosen, site = steerable(target), neurons_of(direction), direction.site
    read = {location.layer: location for location in resolve(place, Site(site.kind, site.layer, site.stack))}
    write = Site(kind, site.layer, site.stack, site.tokens, site.phase, site.env_steps)
    raw = {
        location.key: value_vectors(read[location.layer])[list(chosen[read[location.layer].key])].float().sum(0)
        for location in resolve(place, write)
    }
    return Direction.from_raw(
        raw, write, method=f"value vectors of {direction.method}", model=direction.model, info=direction.info
    )
