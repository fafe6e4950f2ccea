"""Site maps: where the sites of each architecture are, one TOML file each. See README.md of this folder."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib.resources import files
from typing import TYPE_CHECKING, Any

from policies.base import Home, Place, SiteMap, Stack
from policies.errors import BadInput, UnknownArchitecture, nearest

if TYPE_CHECKING:
    from torch import nn


def parse(text: str) -> SiteMap:
    """Build a `SiteMap` from the text of a TOML file; unknown keys are refused by name."""
    table = tomllib.loads(text)
    try:
        stacks = {name: _stack(entry) for name, entry in table.pop("stacks").items()}
        listed: dict[str, Any] = {key: tuple(table.pop(key, ())) for key in ("model_types", "classes")}
        return SiteMap(stacks=stacks, **listed, **table)
    except (KeyError, TypeError) as error:
        raise BadInput(f"site map: {error}. Allowed keys are the fields of SiteMap, Stack, Place and Home.") from error


def _stack(entry: dict[str, Any]) -> Stack:
    places = {kind: _place(dict(place)) for kind, place in entry["places"].items()}
    dead = {int(layer): reason for layer, reason in entry.get("dead", {}).items()}
    classes = tuple(entry.get("token_classes", ()))
    return Stack(**{**entry, "places": places, "dead": dead, "token_classes": classes})


def _place(place: dict[str, Any]) -> Place:
    home = place.pop("home", None)
    return Place(**place, home=None if home is None else Home(**home))


@cache
def site_maps() -> dict[str, SiteMap]:
    """Architecture name -> `SiteMap`, from every TOML file of this folder."""
    maps = [parse(file.read_text()) for file in files(__package__).iterdir() if file.name.endswith(".toml")]
    return {site_map.name: site_map for site_map in sorted(maps, key=lambda site_map: site_map.name)}


def site_map_for(module: nn.Module) -> SiteMap:
    """Find the map of a torch module by its `config.model_type`, or else by its class name.

    Raises:
        UnknownArchitecture: no map describes it; the message lists those that exist and says how to add one.
    """
    model_type = getattr(getattr(module, "config", None), "model_type", None)
    name = type(module).__name__
    for site_map in site_maps().values():
        if model_type in site_map.model_types or name in site_map.classes:
            return site_map
    known = [known for entry in site_maps().values() for known in (*entry.model_types, *entry.classes)]
    raise UnknownArchitecture(
        f"no site map describes {name} (model_type {model_type!r}){nearest(model_type or name, known)}. "
        "Pass site_map=SiteMap(...), or add a TOML file to policies/site_maps/."
    )
