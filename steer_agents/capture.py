"""Reading activations: one batched pass that stops at the deepest requested layer and computes no logits.

`stream` feeds (B, D) rows to a consumer and keeps nothing; `Moments` is the consumer behind most methods: count, mean,
mean norm and, where asked, covariance, merged batch by batch (Chan, Golub, LeVeque 1979). `rows` keeps the rows, for
methods that need them.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import torch

from policies.base import Context
from policies.errors import BadInput, NonFinite, SiteNeverFired
from steer_agents.sites import Location, Site, Steerable, by_row, head_columns, read, resolve
from steer_agents.tokens import Pass, PassTracker, declared_pass

Batch = Mapping[str, Any] | torch.Tensor
"""Keyword arguments of the module, or its single positional argument."""


class _Stop(Exception):
    """Raised inside the deepest hook to leave the forward pass."""


class Reader:
    """Collects the activations of some locations during a forward pass and leaves it at the deepest one.

    Use it as a context manager; `run(batch)` returns location key -> (B, N, D), in the model's dtype: a copy, since some
    models (SmolVLA) go on to write into these tensors. `passes` holds the tokens of each, where a policy declares them.
    With `stop_early=False` the pass runs to its end, and `values` holds what a pass that somebody else started gave.
    With `gradients=True` they stay in the graph of what made them.
    """

    def __init__(
        self, target: Steerable, locations: list[Location], stop_early: bool = True, gradients: bool = False
    ) -> None:
        if not locations:
            raise BadInput("capture: no locations were asked for.")
        self.target = target
        self.locations = sorted(locations, key=lambda location: location.layer)
        self.values: dict[str, torch.Tensor] = {}
        self.passes: dict[str, Pass | None] = {}
        self._context = target.policy.context if target.policy is not None else Context()
        self._handles: list[Any] = []
        self._stop_early = stop_early
        self._gradients = gradients

    def __enter__(self) -> Reader:
        for location in self.locations:
            if location.side == "input":
                self._handles.append(location.module.register_forward_pre_hook(self._before(location)))
            else:
                self._handles.append(location.module.register_forward_hook(self._after(location)))
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _before(self, location: Location) -> Callable[..., None]:
        return lambda module, args: self._keep(location, args[0])

    def _after(self, location: Location) -> Callable[..., None]:
        return lambda module, args, output: self._keep(location, output)

    def _keep(self, location: Location, value: Any) -> None:
        h = read(location, value)
        columns = head_columns(location, h.shape[-1])
        self.values[location.key] = h.clone() if columns is None else h[..., columns.to(h.device)]
        self.passes[location.key] = declared_pass(self._context)
        if self._stop_early and len(self.values) == len(self.locations):
            raise _Stop

    def run(self, batch: Batch) -> dict[str, torch.Tensor]:
        """One pass.

        Raises:
            SiteNeverFired: the model does not call one of the modules.
        """
        self.values = {}
        module = self.target.module
        with torch.set_grad_enabled(self._gradients):
            try:
                if isinstance(batch, Mapping):
                    tokens = {k: v.to(_device(module)) if torch.is_tensor(v) else v for k, v in batch.items()}
                    module(**{**_frugal(module), **tokens})
                else:
                    module(batch.to(_device(module)))
            except _Stop:
                pass
        missing = [f"{loc.key} (module {loc.path})" for loc in self.locations if loc.key not in self.values]
        if missing:
            raise SiteNeverFired(f"capture: {', '.join(missing)} did not run in the forward pass; choose another site.")
        return self.values


def _device(module: torch.nn.Module) -> torch.device:
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def _frugal(module: torch.nn.Module) -> dict[str, Any]:
    """Arguments that keep a Hugging Face language model from building a cache or all logits."""
    wanted = {"use_cache": False, "logits_to_keep": 1}
    known = inspect.signature(module.forward).parameters
    return {name: value for name, value in wanted.items() if name in known}


def stream(
    target: Steerable, batches: Iterable[Batch], site: Site, consume: Callable[[str, torch.Tensor], None]
) -> int:
    """Pass every selected token's activation to `consume(key, rows)`, rows (n, D) float32; return the token count.

    The site's token scope selects the tokens; with "last" there is one row per input, in order.

    Raises:
        NonFinite: an activation is NaN or infinite.
        BadInput: the scope selects nothing in the whole data, or the site is limited to steps or to decoding.
    """
    n_tokens = 0
    for values in _selected(target, batches, site):
        count = 0
        for key, (value, mask) in values.items():
            h = value.reshape(-1, value.shape[-1]) if mask is None else value[mask]
            count = len(h)
            if count:
                consume(key, h.float())
        n_tokens += count
    if n_tokens == 0:
        raise BadInput(
            f"capture: token scope {site.scope.kind!r} selected no token in the data; widen it or check the data."
        )
    return n_tokens


def _selected(
    target: Steerable, batches: Iterable[Batch], site: Site
) -> Iterator[dict[str, tuple[torch.Tensor, torch.Tensor | None]]]:
    """Per batch: location key -> (B, N, D) and the (B, N) bool of the selected tokens, None for all of them."""
    check_readable(site)
    locations = resolve(target, site)
    tracked = Tracked(target, site)
    with Reader(target, locations) as reader:
        for batch in batches:
            current = tracked.observe(batch)
            found = {}
            for key, read_value in reader.run(batch).items():
                seen = current or reader.passes[key]
                value, mask = by_row(read_value, seen), tracked.mask(seen)
                mask = None if mask is None else mask.to(value.device)
                if not torch.isfinite(value if mask is None else value[mask]).all():
                    raise NonFinite(f"capture at {key}: the model gave NaN or infinite activations on this data.")
                found[key] = value, mask
            yield found


def check_readable(site: Site) -> None:
    """Raise BadInput for sites that are limited to steps or to decoding, which single passes over data do not have."""
    if site.env_steps is not None or site.phase == "decode":
        raise BadInput(
            f"capture reads single prefill passes over data: env_steps={site.env_steps} and phase={site.phase!r} have "
            "no meaning there. Leave them at their defaults."
        )


class Tracked:
    """Which tokens of a batch a site's scope selects."""

    def __init__(self, target: Steerable, site: Site) -> None:
        location = resolve(target, site)[0]
        self._scope = site.scope
        self._own = location.tokens and location.stack == target.site_map.default_stack
        self._tracker = PassTracker(target.module, [site.scope])
        self._context = target.policy.context if target.policy is not None else Context()

    def observe(self, batch: Batch) -> Pass | None:
        """The pass that a batch is about to make, where its tokens are the module's own input."""
        kwargs = batch if isinstance(batch, Mapping) else {}
        args = () if isinstance(batch, Mapping) else (batch,)
        return self._tracker.observe(args, kwargs, self._context) if self._own else None

    def mask(self, seen: Pass | None) -> torch.Tensor | None:
        """(B, N) bool of the selected real tokens, None for all."""
        if seen is None:
            return None
        mask = seen.mask(self._scope)
        return seen.real if mask is None else mask


def scene_means(
    target: Steerable, batches: Iterable[Batch], site: Site
) -> tuple[dict[str, torch.Tensor], dict[str, Moments]]:
    """Location key -> (n, D) float32, the mean over each input's selected tokens; and the `Moments` of those tokens.

    Both in one pass. The moments count every token, so that `mean_norm` is that of an activation and not that of a mean.

    Raises:
        BadInput: the scope selects no token of some input.
    """
    means: dict[str, list[torch.Tensor]] = {}
    table: dict[str, Moments] = {}
    start = 0
    for values in _selected(target, batches, site):
        n_rows = 0
        for key, (h, mask) in values.items():
            n_rows = len(h)
            share = torch.ones(h.shape[:2], device=h.device) if mask is None else mask.float()
            counts = share.sum(1, keepdim=True)
            if (counts == 0).any():
                row = start + int((counts[:, 0] == 0).nonzero()[0, 0])
                raise BadInput(
                    f"capture at {key}: token scope {site.scope.kind!r} selects no token of input {row}; widen it."
                )
            picked = h.reshape(-1, h.shape[-1]) if mask is None else h[mask]
            kept = h if mask is None else h.masked_fill(~mask[..., None], 0)
            means.setdefault(key, []).append((kept.double().sum(1) / counts).float().cpu())
            table.setdefault(key, Moments()).update(picked)
        start += n_rows
    if not means:
        raise BadInput("capture: got no inputs.")
    return {key: torch.cat(parts) for key, parts in means.items()}, table


def rows(target: Steerable, batches: Iterable[Batch], site: Site) -> dict[str, torch.Tensor]:
    """Location key -> (n, D) float32 activations of all selected tokens, kept in memory."""
    kept: dict[str, list[torch.Tensor]] = {}
    stream(target, batches, site, lambda key, h: kept.setdefault(key, []).append(h.cpu()))
    return {key: torch.cat(parts) for key, parts in kept.items()}


def rows_of_inputs(target: Steerable, batches: Iterable[Batch], site: Site) -> dict[str, list[torch.Tensor]]:
    """Location key -> one (n, D) float32 tensor per input, in order: its selected tokens, kept in memory.

    Raises:
        BadInput: the scope selects no token of some input, or there are no inputs.
    """
    kept: dict[str, list[torch.Tensor]] = {}
    for values in _selected(target, batches, site):
        for key, (h, mask) in values.items():
            found = kept.setdefault(key, [])
            for row in range(len(h)):
                picked = h[row] if mask is None else h[row][mask[row]]
                if len(picked) == 0:
                    raise BadInput(
                        f"capture at {key}: token scope {site.scope.kind!r} selects no token of input {len(found)}; widen it."
                    )
                found.append(picked.float().cpu())
    if not kept:
        raise BadInput("capture: got no inputs.")
    return kept


class Moments:
    """Streaming count, mean, mean norm and covariance of rows (n, D), in float64.

    Args:
        covariance: keep the (D, D) scatter matrix too, not only the per-coordinate variance; None keeps it up to D =
        1024.
    """

    def __init__(self, covariance: bool | None = None) -> None:
        self.covariance = covariance
        self.n = 0
        self.norm_sum = 0.0
        self.mean = torch.zeros(0)
        self.scatter = torch.zeros(0)

    def update(self, h: torch.Tensor) -> None:
        """Merge (n, D) rows."""
        if len(h) == 0:
            return
        h = h.double().cpu()
        if self.covariance is None:
            self.covariance = h.shape[-1] <= 1024
        n, mean = len(h), h.mean(0)
        centred = h - mean
        scatter = centred.T @ centred if self.covariance else (centred**2).sum(0)
        self.norm_sum += float(h.norm(dim=-1).sum())
        if self.n == 0:
            self.n, self.mean, self.scatter = n, mean, scatter
            return
        total = self.n + n
        gap = mean - self.mean
        across = torch.outer(gap, gap) if self.covariance else gap**2
        self.scatter = self.scatter + scatter + across * (self.n * n / total)
        self.mean = self.mean + gap * (n / total)
        self.n = total

    def merged(self, other: Moments) -> Moments:
        """The moments of both sets of rows together."""
        if self.n == 0 or other.n == 0:
            return self if self.n else other
        both = Moments(self.covariance)
        both.n, both.norm_sum = self.n + other.n, self.norm_sum + other.norm_sum
        gap = other.mean - self.mean
        across = torch.outer(gap, gap) if self.covariance else gap**2
        both.mean = self.mean + gap * (other.n / both.n)
        both.scatter = self.scatter + other.scatter + across * (self.n * other.n / both.n)
        return both

    @property
    def mean_norm(self) -> float:
        """E||h||."""
        return self.norm_sum / self.n

    def cov(self) -> torch.Tensor:
        """The (D, D) covariance, n - 1 in the denominator (0 for a single row)."""
        if not self.covariance:
            raise BadInput("these moments were streamed without covariance; use Moments(covariance=True).")
        return self.scatter / max(self.n - 1, 1)

    def sd_along(self, v: torch.Tensor) -> float:
        """Standard deviation of h . v for a unit vector v (D,)."""
        v = v.double()
        return float((v @ self.cov() @ v).clamp(min=0).sqrt())


def moments(
    target: Steerable, batches: Iterable[Batch], site: Site, covariance: bool | None = None
) -> dict[str, Moments]:
    """Location key -> `Moments` of the selected tokens' activations, in one pass over the data that stores none."""
    table: dict[str, Moments] = {}

    def consume(key: str, h: torch.Tensor) -> None:
        table.setdefault(key, Moments(covariance)).update(h)

    stream(target, batches, site, consume)
    return table


def statistics_of(summary: Moments, v: torch.Tensor) -> dict[str, float]:
    """What a `Direction` knows about a unit vector v (D,) at a site; "sd" only where the covariance was kept."""
    v = v.double().cpu()
    known = {"mean_norm": summary.mean_norm, "mean_projection": float(summary.mean @ v)}
    return {**known, "sd": summary.sd_along(v)} if summary.covariance else known


def statistics_of_rows(h: torch.Tensor, v: torch.Tensor) -> dict[str, float]:
    """The same numbers from rows (n, D) in memory, at any width."""
    h, v = h.double(), v.double()
    along = h @ v
    sd = float(along.std()) if len(along) > 1 else 0.0
    return {"mean_norm": float(h.norm(dim=-1).mean()), "mean_projection": float(along.mean()), "sd": sd}
