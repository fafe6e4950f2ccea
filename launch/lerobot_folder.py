"""Recipe folders: a steered LeRobot policy as a small folder, for `--policy.path=` and the hub.

config.json                     type "steered", the base's name, no weights
recipe.yaml and its files
policy_preprocessor.json, ...   the base's processors, as LeRobot saves them
"""

from __future__ import annotations

import dataclasses
import shutil
import tempfile
from pathlib import Path
from typing import Any

from policies.errors import BadInput
from steer_agents.recipe import FILE, Recipe


def save_folder(config: Any, recipe: Recipe, pre: Any, post: Any, folder: Path) -> Path:
    """Write a recipe folder; what is there already is only replaced once all of it is written.

    Args:
        config: a `SteeredConfig`.
        pre, post: LeRobot's pipelines of the base.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".steered-") as made:
        into = Path(made)
        recipe.save(into)
        dataclasses.replace(
            config, recipe=FILE, strengths={}, base_path=config.the_base(), pretrained_path=None
        )._save_pretrained(into)
        pre.save_pretrained(into)
        post.save_pretrained(into)
        folder.mkdir(parents=True, exist_ok=True)
        for path in into.iterdir():
            target = folder / path.name
            if target.is_dir():
                shutil.rmtree(target)
            path.replace(target)
    return folder


def export(recipe: str | Path, folder: str | Path, base: str = "", device: str = "cpu", **settings: Any) -> Path:
    """Make a recipe folder from a recipe file, without building the network.

    Args:
        recipe: file or folder.
        folder: to write.
        base: checkpoint, where the recipe names none.
        settings: further fields of `SteeredConfig`.
    Raises:
        MissingExtra: the plug-in is not installed.
    """
    from policies.errors import MissingExtra
    from policies.lerobot.loading import processors

    try:
        from lerobot_policy_steered import SteeredConfig
    except ImportError as error:
        raise MissingExtra(
            "LeRobot's plug-in is not installed; run `make setup`, or pip install ./launch/lerobot_policy_steered."
        ) from error
    if unknown := set(settings) - {field.name for field in dataclasses.fields(SteeredConfig)}:
        raise BadInput(f"export: a steered config has no {sorted(unknown)}.")
    config = SteeredConfig(recipe=str(recipe), base_path=base, device=device, **settings)
    pre, post = processors(config.the_base(), device, config.tokenizer, config.rename_map)
    return save_folder(config, config.the_recipe(), pre, post, Path(folder).expanduser())
