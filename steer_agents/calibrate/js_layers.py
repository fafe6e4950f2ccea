"""Which layer separates two sets of inputs most: Jensen-Shannon divergence of activations read as distributions.

    p = softmax(h+ / rms(h+)), q = softmax(h- / rms(h-)) over the D features,  m = (p + q) / 2
    JS = 1/2 KL(p || m) + 1/2 KL(q || m)  in [0, ln 2],  averaged over pairs;   the layer with the largest is chosen

Source: Trojan Activation Attack (TA2), arXiv 2311.09433, contrastive layer search. The method is an attack there; here it is a cheap
guess of a layer. We differ in: the released code gives probabilities where torch's `kl_div` wants log-probabilities, so that its
scores are no divergences; it looks at layers 0 to 16 only, here the site says which; and it adds its vector twice a pass, which
`Add` does not. Activations are divided by their root mean square first: a softmax over raw residuals saturates on one massive entry
(`normalise=False` is the paper's form).
"""

from __future__ import annotations

import numpy as np
import torch
from scipy.spatial.distance import jensenshannon

from policies.errors import BadInput
from steer_agents import capture
from steer_agents.calibrate.reports import Layers, layer_of
from steer_agents.finding.contrast import Inputs, batches_of
from steer_agents.sites import Site, Steerable, steerable, with_layer


def contrast(plus: torch.Tensor, minus: torch.Tensor, normalise: bool = True) -> np.ndarray:
    """(n,) divergences [nats] of paired rows (n, D)."""
    sides = []
    for h in (plus.double(), minus.double()):
        scale = h.square().mean(-1, keepdim=True).sqrt().clamp(min=1e-30) if normalise else 1.0
        sides.append((h / scale).softmax(-1).numpy())
    found: np.ndarray = jensenshannon(*sides, axis=1) ** 2  # SciPy gives the distance, the root of the divergence
    return found


def js_layers(
    target: Steerable,
    positive: Inputs,
    negative: Inputs,
    site: Site | None = None,
    n_layers: int = 1,
    normalise: bool = True,
) -> Layers:
    """The layers of a site with the largest mean divergence between paired inputs.

    Args:
        target: a policy, torch module or `Steerable`.
        positive, negative: paired inputs: the i-th of each belong together.
        site: candidates; None is every layer's `block_output` at the last token.
        n_layers: how many to choose.
        normalise: divide by the root mean square first.
    Raises:
        BadInput: unpaired inputs, or more layers wanted than there are.
    """
    target, site = steerable(target), site or Site(tokens="last")
    plus, minus = (capture.rows(target, batches_of(target, inputs), site) for inputs in (positive, negative))
    scores = {}
    for key, rows in plus.items():
        if rows.shape != minus[key].shape:
            raise BadInput(
                f"js_layers needs pairs: got {len(rows)} positive and {len(minus[key])} negative tokens at {key}. Use one token scope "
                "like 'last'."
            )
        scores[key] = float(contrast(rows, minus[key], normalise).mean())
    if not 1 <= n_layers <= len(scores):
        raise BadInput(f"js_layers: {n_layers} layers were asked for, the site has {len(scores)}.")
    best = sorted(scores, key=lambda key: -scores[key])[:n_layers]
    layers = tuple(sorted(layer_of(key) for key in best))
    return Layers(with_layer(site, layers), layers, scores)
