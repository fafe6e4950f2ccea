"""The same work with other libraries, each by its documented way. Imported only inside their environment.

| library | steering | extraction |
| --- | --- | --- |
| repeng 0.4.0 | `ControlModel.set_control` | `ControlVector.train`: PCA at all layers (it has no difference of means) |
| steering-vectors 0.12.2 | `SteeringVector.apply` | `train_steering_vector`, one layer |
| pyvene 0.1.8 | `IntervenableModel` with `AdditionIntervention` | `CollectIntervention`, one layer |
| nnsight 0.8.1 | an `edit` made once; a `trace` written out at every call | `trace` with `tracer.stop()` at the layer |

A library that does not import, or whose logits differ from the bare hook's, is listed with the reason and not timed.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.contestants import Attach, Contestant, Extractor, Steered, Vectors, encoded, generation, plain
from bench.models import Pairs

LIBRARIES = {"repeng": "repeng", "steering-vectors": "steering_vectors", "pyvene": "pyvene", "nnsight": "nnsight"}
"""Distribution -> module."""


def load() -> dict[str, str]:
    """Import every library; distribution -> reason, for those that fail."""
    if not hasattr(np, "float_"):
        setattr(np, "float_", np.float64)  # noqa: B010  (repeng 0.4.0 names it in annotations; numpy 2 removed it)
    reasons = {}
    for distribution, module in LIBRARIES.items():
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
                warnings.simplefilter("ignore")
                importlib.import_module(module)
        except Exception as error:  # whatever a library raises at import is its reason
            lines = str(error).strip().splitlines()
            reasons[distribution] = f"{type(error).__name__}: {lines[0] if lines else ''}"
    return reasons


# ---- steering


def repeng(model: nn.Module, vectors: Vectors) -> Attach:
    """`ControlModel` around the model, `set_control`; `unwrap` on leaving."""
    import repeng as library

    control = library.ControlVector("llama", {layer: v.numpy() for layer, v in vectors.items()})

    @contextmanager
    def attach() -> Iterator[Steered]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            wrapped = library.ControlModel(model, list(vectors))
            wrapped.set_control(control, 1.0)
        try:
            yield plain(wrapped.model)
        finally:
            wrapped.unwrap()

    return attach


def steering_vectors(model: nn.Module, vectors: Vectors) -> Attach:
    """`SteeringVector.apply`."""
    import steering_vectors as library

    vector = library.SteeringVector(dict(vectors))

    @contextmanager
    def attach() -> Iterator[Steered]:
        with vector.apply(model):
            yield plain(model)

    return attach


def pyvene(model: nn.Module, vectors: Vectors) -> Attach:
    """`IntervenableModel` with constant additions, also while generating."""
    import pyvene as library

    parts = [
        {
            "layer": layer,
            "component": "block_output",
            "intervention_type": library.AdditionIntervention,
            "source_representation": v[None],
        }
        for layer, v in vectors.items()
    ]

    @contextmanager
    def attach() -> Iterator[Steered]:
        wrapped = library.IntervenableModel(parts, model)

        def generate(ids: torch.Tensor, n_tokens: int) -> torch.Tensor:
            with torch.no_grad():
                _, output = wrapped.generate(encoded(ids), intervene_on_prompt=True, **generation(n_tokens))
                return torch.cat(output.logits)

        def prefill(ids: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                return wrapped({**encoded(ids), "logits_to_keep": 1})[1].logits[0]

        yield Steered(generate, prefill)

    return attach


def nnsight_edited(model: nn.Module, vectors: Vectors) -> Attach:
    """An edited copy of the envoy, replayed at every call."""
    import nnsight as library

    wrapped = library.NNsight(model)

    @contextmanager
    def attach() -> Iterator[Steered]:
        with wrapped.edit() as (tracer, edited):
            for _ in tracer.iter[:]:
                for layer, v in vectors.items():
                    edited.model.layers[layer].output = edited.model.layers[layer].output + v

        def run(name: str, **arguments: Any) -> Any:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # an open loop over passes ends with one, by design
                return edited.trace(fn=name, trace=False, **arguments)

        yield Steered(
            lambda ids, n_tokens: torch.cat(run("generate", **encoded(ids), **generation(n_tokens)).logits),
            lambda ids: run("__call__", **encoded(ids), logits_to_keep=1).logits[0],
        )

    return attach


def nnsight_traced(model: nn.Module, vectors: Vectors) -> Attach:
    """The interventions written out in a trace at every call."""
    import nnsight as library

    wrapped = library.NNsight(model)

    def generate(ids: torch.Tensor, n_tokens: int) -> torch.Tensor:
        with torch.no_grad():
            with wrapped.trace(fn="generate", **encoded(ids), **generation(n_tokens)) as tracer:
                for _ in tracer.iter[:n_tokens]:
                    for layer, v in vectors.items():
                        wrapped.model.layers[layer].output = wrapped.model.layers[layer].output + v
                output = tracer.result.save()
            return torch.cat(output.logits)

    def prefill(ids: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            with wrapped.trace(**encoded(ids), logits_to_keep=1) as tracer:
                for layer, v in vectors.items():
                    wrapped.model.layers[layer].output = wrapped.model.layers[layer].output + v
                output = tracer.result.save()
            return output.logits[0]

    @contextmanager
    def attach() -> Iterator[Steered]:
        yield Steered(generate, prefill)

    return attach


# ---- extraction


def _quietly(run: Callable[[], Any]) -> Any:
    """Without progress bars."""
    with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
        return run()


def repeng_pca(model: nn.Module, pairs: Pairs, layer: int) -> torch.Tensor:
    """`ControlVector.train`, which reads all layers."""
    import repeng as library

    data = [library.DatasetEntry(positive=a, negative=b) for a, b in pairs.texts]
    trained = _quietly(lambda: library.ControlVector.train(model, pairs.tokenizer, data, batch_size=pairs.batch))
    return torch.from_numpy(trained.directions[layer])


def steering_vectors_mean(model: nn.Module, pairs: Pairs, layer: int) -> torch.Tensor:
    """`train_steering_vector` with batches."""
    import steering_vectors as library

    trained = library.train_steering_vector(model, pairs.tokenizer, pairs.texts, layers=[layer], batch_size=pairs.batch)
    return trained.layer_activations[layer]


def pyvene_mean(model: nn.Module, pairs: Pairs, layer: int) -> torch.Tensor:
    """`CollectIntervention`."""
    import pyvene as library

    part = {"layer": layer, "component": "block_output", "intervention_type": library.CollectIntervention}
    wrapped = library.IntervenableModel([part], model)
    sums = []
    with torch.no_grad():
        for batches in (pairs.positive, pairs.negative):
            total = torch.zeros(())
            for batch in batches:
                last = {"base": batch["input_ids"].shape[1] - 1}  # without a position it cuts the width short
                (_, collected), _ = wrapped({**batch, "use_cache": False, "logits_to_keep": 1}, unit_locations=last)
                total = total + collected[0][:, 0].sum(0)
            sums.append(total)
    return (sums[0] - sums[1]) / len(pairs.texts)


def nnsight_mean(model: nn.Module, pairs: Pairs, layer: int) -> torch.Tensor:
    """A trace that saves the last token's rows and stops."""
    import nnsight as library

    wrapped = library.NNsight(model)
    sums = []
    with torch.no_grad():
        for batches in (pairs.positive, pairs.negative):
            total = torch.zeros(())
            for batch in batches:
                with wrapped.trace(**batch, use_cache=False, logits_to_keep=1) as tracer:
                    rows = wrapped.model.layers[layer].output[:, -1].save()
                    tracer.stop()
                total = total + rows.sum(0)
            sums.append(total)
    return (sums[0] - sums[1]) / len(pairs.texts)


STEERING = [
    Contestant("repeng", repeng, needs="repeng"),
    Contestant("steering-vectors", steering_vectors, needs="steering-vectors"),
    Contestant("pyvene", pyvene, notes={"call": "registers its hooks at every call"}, needs="pyvene"),
    Contestant("nnsight, edited once", nnsight_edited, needs="nnsight"),
    Contestant(
        "nnsight, traced per call", nnsight_traced, notes={"attach": "attaches at every call instead"}, needs="nnsight"
    ),
]

EXTRACTION = [
    Extractor("repeng", repeng_pca, exact=False, note="PCA at all layers: other work", needs="repeng"),
    Extractor("steering-vectors", steering_vectors_mean, needs="steering-vectors"),
    Extractor("pyvene", pyvene_mean, needs="pyvene"),
    Extractor("nnsight", nnsight_mean, note="stopped at the layer", needs="nnsight"),
]
