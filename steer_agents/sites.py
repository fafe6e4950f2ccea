"""Sites: where in a network, at which tokens, in which phase and at which environment steps.

A `Site` is a wish in words that hold for every model; `resolve` turns it into the `Location`s of one model with the
help of that model's `SiteMap` (data, `policies/site_maps/`). Layers are 0-based blocks: `block_output` of layer i is
what block i gives to block i + 1. (Hugging Face's `hidden_states[i]` is the *input* of block i: one less. Mixing the
two up is a known trap.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from policies.base import Policy, SiteMap, Stack
from policies.errors import BadInput, DeadSite, UnknownSite, nearest
from policies.site_maps import site_map_for
from steer_agents.tokens import DECLARED_KINDS, PHASES, Pass, TokenScope, as_scope

SITE_KINDS = ("block_output", "mlp_output", "attention_output", "mlp_neurons", "attention_heads", "router")

Layer = int | float | str
"""An int (0-based, negative from the end), a fraction of the depth in (0, 1), or "all"."""


@dataclass(frozen=True)
class Site:
    """Where to read or write activations.

    Args:
        kind: one of `SITE_KINDS`. `mlp_neurons` is the input of the down-projection (width = the MLP's inner size),
            `attention_heads` the input of the attention's output projection (width = heads x head size), `router` what the router
            of a mixture of experts reads, and it alone.
        layer: one layer or several, see `Layer`.
        stack: tower of blocks, e.g. "language"; None is the model's first.
        tokens: a `TokenScope` or the name of one.
        phase: "any", "prefill" or "decode".
        env_steps: [start, stop) of environment steps; stop None is open.
        heads: for `attention_heads`: only these heads; None is all of them.
    """

    kind: str = "block_output"
    layer: Layer | tuple[Layer, ...] = "all"
    stack: str | None = None
    tokens: TokenScope | str = field(default_factory=TokenScope)
    phase: str = "any"
    env_steps: tuple[int, int | None] | None = None
    heads: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", as_scope(self.tokens))
        for name in ("layer", "heads"):
            if isinstance(getattr(self, name), list):
                object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.kind not in SITE_KINDS:
            raise UnknownSite(f"site {self.kind!r} is unknown{nearest(self.kind, SITE_KINDS)}")
        if self.phase not in PHASES:
            raise BadInput(f"phase {self.phase!r} is unknown{nearest(self.phase, PHASES)}")
        if self.heads is not None and self.kind != "attention_heads":
            raise BadInput(f"heads={self.heads} only means something at 'attention_heads', not at {self.kind!r}.")
        if self.heads is not None and (not self.heads or len(set(self.heads)) < len(self.heads)):
            raise BadInput(f"heads={self.heads} must be at least one head and all different; None is all of them.")
        if self.env_steps is not None:
            start, stop = self.env_steps
            if start < 0 or (stop is not None and stop <= start):
                raise BadInput(f"env_steps={self.env_steps} is empty; it is [start, stop) with 0 <= start < stop.")

    @property
    def scope(self) -> TokenScope:
        assert isinstance(self.tokens, TokenScope)
        return self.tokens

    @property
    def scoped(self) -> bool:
        """True if the site does not cover every token of every pass at every step (then it cannot be baked)."""
        return self.scope.kind != "all" or self.phase != "any" or self.env_steps is not None

    def describe(self) -> dict[str, Any]:
        """JSON-able form, read back by `site_from`."""
        scope = {key: value for key, value in vars(self.scope).items() if value not in (None, (), "") or key == "kind"}
        layer = list(self.layer) if isinstance(self.layer, tuple) else self.layer
        return {
            "kind": self.kind,
            "layer": layer,
            "stack": self.stack,
            "tokens": scope,
            "phase": self.phase,
            "env_steps": None if self.env_steps is None else list(self.env_steps),
            "heads": None if self.heads is None else list(self.heads),
        }


def site_from(description: dict[str, Any]) -> Site:
    """Read back what `Site.describe` wrote."""
    entry = dict(description)
    scope = dict(entry.pop("tokens"))
    scope["token_ids"] = tuple(scope.get("token_ids", ()))
    for key in ("env_steps", "heads", "layer"):
        if isinstance(entry.get(key), list):
            entry[key] = tuple(entry[key])
    return Site(tokens=TokenScope(**scope), **entry)


@dataclass(frozen=True)
class Location:
    """One site of one model: a module to hook.

    Args:
        key: "stack.layer.kind", e.g. "language.20.block_output"; the name under which artifacts store tensors.
        path: dotted module path, for messages.
        module: the module to hook.
        side: "output" or "input" of that module.
        n_heads: number of attention heads at "attention_heads", else 0.
        heads: the selected heads, or None.
        tokens: whether activations have a token axis.
        axes: order of their axes, see `policies.base.Stack`.
    """

    key: str
    path: str
    module: nn.Module
    side: str
    layer: int
    stack: str
    kind: str
    n_heads: int = 0
    heads: tuple[int, ...] | None = None
    tokens: bool = True
    axes: str = "BND"


@dataclass(frozen=True)
class Steerable:
    """A torch module together with its site map and, if there is one, the policy that owns it."""

    module: nn.Module
    site_map: SiteMap
    policy: Policy | None = None

    def stack(self, name: str | None) -> tuple[str, Stack]:
        name = name or self.site_map.default_stack
        if name not in self.site_map.stacks:
            raise UnknownSite(f"stack {name!r} is not in {self.site_map.name}{nearest(name, self.site_map.stacks)}")
        return name, self.site_map.stacks[name]

    def blocks(self, name: str | None = None) -> list[tuple[str, list[nn.Module]]]:
        """The blocks of a stack: for each its path and its consecutive children (one of them unless stride > 1)."""
        _, stack = self.stack(name)
        container = submodule(self.module, stack.blocks)
        children = list(container.children())  # each module once
        if len(children) < sum(module is not None for module in container._modules.values()):
            raise UnknownSite(
                f"{stack.blocks!r} of {type(self.module).__name__} holds one module object several times, so its "
                "layers cannot be told apart. Give every layer a module of its own (activation functions too)."
            )
        groups = [children[i : i + stack.stride] for i in range(0, len(children), stack.stride)]
        return [
            (f"{stack.blocks}.{i * stack.stride}", group)
            for i, group in enumerate(groups)
            if len(group) == stack.stride
        ]

    def depth(self, stack: str | None = None) -> int:
        return len(self.blocks(stack))


def steerable(target: Any, site_map: SiteMap | None = None) -> Steerable:
    """Accept a `Policy`, a torch module, or a `Steerable`.

    Raises:
        BadInput: the policy has no network ("modules" is not among its entrances).
        UnknownArchitecture: no site map is known for the module.
    """
    if isinstance(target, Steerable):
        return target
    if isinstance(target, nn.Module):
        module = _uncompiled(target)
        return Steerable(module, site_map or site_map_for(module))
    module = _uncompiled(getattr(target, "module", None))
    if module is None:
        raise BadInput(
            f"{getattr(target, 'name', type(target).__name__)!r} has no modules to steer: its entrances are "
            f"{sorted(getattr(target, 'entrances', []))}. Pass a policy with a network, or a torch module."
        )
    return Steerable(module, site_map or target.site_map or site_map_for(module), target)


def _uncompiled(module: Any) -> Any:
    """The module itself, also where torch.compile wrapped it."""
    return getattr(module, "_orig_mod", module)


def submodule(root: nn.Module, path: str) -> nn.Module:
    """`root.get_submodule(path)` with an error that lists the children that exist where the path breaks."""
    module = root
    for part in path.split(".") if path else []:
        children = dict(module.named_children())
        if part not in children:
            raise UnknownSite(
                f"module path {path!r} breaks at {part!r} in {type(root).__name__}{nearest(part, children)} "
                "The site map does not fit this model; correct it in policies/site_maps/."
            )
        module = children[part]
    return module


def layer_indices(layer: Layer | Sequence[Layer], depth: int) -> list[int]:
    """0-based layer numbers of a wish: -1 is the last, 0.5 is block floor(0.5 x depth), "all" is every one."""
    if isinstance(layer, str):
        if layer != "all":
            raise UnknownSite(f"layer {layer!r} is unknown; use an int, a fraction in (0, 1) or 'all'.")
        return list(range(depth))
    if isinstance(layer, Sequence):
        return sorted({i for entry in layer for i in layer_indices(entry, depth)})
    if isinstance(layer, float):
        if not 0 < layer < 1:
            raise UnknownSite(f"layer {layer} is not a fraction of the depth in (0, 1); use an int for a layer number.")
        return [math.floor(layer * depth + 1e-9)]
    if not -depth <= layer < depth:
        raise UnknownSite(
            f"layer {layer} does not exist; this stack has {depth} layers, 0 to {depth - 1} (or -1 to -{depth})."
        )
    return [layer % depth]


def resolve(target: Steerable, site: Site) -> list[Location]:
    """The `Location`s of a site in one model, one per layer, in order of depth.

    Raises:
        UnknownSite: the stack, kind, layer or head does not exist in this model, or its tokens are not the input's.
        DeadSite: what is written at this layer cannot reach the action ("all" leaves such layers out).
    """
    name, stack = target.stack(site.stack)
    if site.kind not in stack.places:
        raise UnknownSite(
            f"site {site.kind!r} is not in stack {name!r} of {target.site_map.name}{nearest(site.kind, stack.places)}"
        )
    _check_scope(target, name, stack, site.scope)
    place = stack.places[site.kind]
    blocks = target.blocks(name)
    n_heads = _n_heads(target, stack) if site.kind == "attention_heads" else 0
    if site.heads is not None and not all(0 <= head < n_heads for head in site.heads):
        raise UnknownSite(f"heads {site.heads} do not exist; this stack has {n_heads} heads, 0 to {n_heads - 1}.")
    layers = layer_indices(site.layer, len(blocks))
    if not layers:
        raise UnknownSite(f"layer {site.layer!r} selects none of the {len(blocks)} layers of stack {name!r}.")
    names = [name for name, _ in submodule(target.module, stack.blocks).named_children()]
    dead = {layer % len(blocks): reason for layer, reason in stack.dead.items()}
    if site.layer == "all":
        layers = [i for i in layers if i not in dead]
    for i in layers:
        if i in dead:
            alive = [j for j in range(len(blocks)) if j not in dead]
            raise DeadSite(
                f"layer {i} of stack {name!r} of {target.site_map.name}: {dead[i]} Layers that act: {alive}."
            )
    locations = []
    for i in layers:
        path, group = blocks[i]
        module, inner = group[0], place.path
        if stack.stride > 1:
            module, inner = group[int(place.path)], ""
            path = f"{stack.blocks}.{names[i * stack.stride + int(place.path)]}"
        locations.append(
            Location(
                key=f"{name}.{i}.{site.kind}",
                path=".".join(part for part in (path, inner) if part),
                module=submodule(module, inner),
                side=place.side,
                layer=i,
                stack=name,
                kind=site.kind,
                n_heads=n_heads,
                heads=site.heads,
                tokens=stack.tokens,
                axes=stack.axes,
            )
        )
    return locations


def _check_scope(target: Steerable, name: str, stack: Stack, scope: TokenScope) -> None:
    """Refuse token scopes that mean nothing at a stack."""
    kind = scope.kind
    if not stack.tokens and kind not in ("all", "last"):
        raise UnknownSite(f"token scope {kind!r} at stack {name!r}: its activations have no token axis; use 'all'.")
    if stack.token_classes:
        wanted = {"image": "image", "class": scope.name}.get(kind)
        if wanted is not None and wanted not in stack.token_classes:
            raise UnknownSite(
                f"token class {wanted!r} is not in stack {name!r} of {target.site_map.name}"
                f"{nearest(wanted, stack.token_classes)}"
            )
        if wanted is None and kind not in DECLARED_KINDS:
            raise UnknownSite(
                f"token scope {kind!r} at stack {name!r} of {target.site_map.name}: the policy says the class of its "
                f"tokens, not their ids or positions. Use one of {', '.join(DECLARED_KINDS)}, or token_class of "
                f"{', '.join(stack.token_classes)}."
            )
    elif name != target.site_map.default_stack and kind != "all":
        raise UnknownSite(
            f"token scope {kind!r} at stack {name!r}: scopes select among the tokens of the input, which "
            f"only stack {target.site_map.default_stack!r} sees; use 'all'."
        )


def _n_heads(target: Steerable, stack: Stack) -> int:
    for value in (getattr(target.module, "config", None), target.module):
        for part in (stack.heads or "").split("."):
            value = getattr(value, part, None)
        if isinstance(value, int):
            return value
    raise UnknownSite(f"the site map of {target.site_map.name} does not say how many attention heads there are.")


def read(location: Location, value: Any) -> torch.Tensor:
    """The (B, N, D) activation in what a hook was given: the tensor itself, or the first entry of a tuple or list."""
    h: torch.Tensor = value if torch.is_tensor(value) else value[0]
    if h.dim() == 2:
        return h[:, None]
    return h if location.axes == "BND" else h.permute([location.axes.index(axis) for axis in "BND"])


def by_row(h: torch.Tensor, current: Pass | None) -> torch.Tensor:
    """(B, N, D) of an activation whose module takes the tokens of all rows as one axis, as routers do: (B N, 1, D)."""
    if current is None:
        return h
    B, N = current.positions.shape
    return h.reshape(B, N, -1) if N > 1 and h.shape[:2] == (B * N, 1) else h


def written(location: Location, h: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """A (B, N, D) activation in the order of axes, and the shape, of the tensor that `read` took it from."""
    if like.dim() == 2 or location.axes == "BND":
        return h.reshape(like.shape)
    return h.permute(["BND".index(axis) for axis in location.axes])


def head_columns(location: Location, width: int) -> torch.Tensor | None:
    """Column indices of the selected heads in an activation of `width`, or None for all columns."""
    if location.heads is None:
        return None
    size = width // location.n_heads
    return torch.cat([torch.arange(head * size, (head + 1) * size) for head in location.heads])


def with_layer(site: Site, layer: Layer | tuple[Layer, ...]) -> Site:
    """The same site at another layer."""
    return replace(site, layer=layer)


def iter_kinds(target: Steerable) -> Iterator[tuple[str, str]]:
    """(stack, kind) of everything this model offers."""
    for name, stack in target.site_map.stacks.items():
        for kind in stack.places:
            yield name, kind
