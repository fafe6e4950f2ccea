"""The recipes by name, and how one is run. A recipe is a module with `run(name, folder, say) -> path of the weights`."""

from __future__ import annotations

import importlib
import shutil
from dataclasses import dataclass
from pathlib import Path

from launch.experiments.base import Say
from policies.errors import UnknownName, nearest


@dataclass(frozen=True)
class Recipe:
    """Where a recipe is and where its policy belongs.

    Args:
        module: with the function `run`.
        family: folder of `policies` whose `weights/` and `cards/` hold the embedded files.
        summary: what the policy is.
        minutes: on one core.
        apart: needs a process of its own, so that "all" leaves it out (LIBERO does not share one with the tabletop's renderer).
    """

    module: str
    family: str
    summary: str
    minutes: float
    apart: bool = False


_FLOW = ("launch.rebuild.flow", "flow")
_RL = ("launch.rebuild.rl", "mlp")

RECIPES: dict[str, Recipe] = {
    "flow-weak": Recipe(*_FLOW, "50 demonstrations of putting a bowl on a plate, stopped too early", 1),
    "flow-medium": Recipe(*_FLOW, "40 demonstrations, stopped early", 1),
    "flow-strong": Recipe(*_FLOW, "300 demonstrations", 3),
    "diffusion-medium": Recipe(*_FLOW, "50 demonstrations, sampled with DDIM", 1),
    "flow-bimodal": Recipe(*_FLOW, "passes a post on either side", 5),
    "flow-unaware": Recipe(*_FLOW, "never saw the wall in its way", 3),
    "flow-libero": Recipe(
        "launch.rebuild.libero",
        "flow",
        "LIBERO: a bowl onto the stove, at three speeds (needs hf-libero)",
        4,
        apart=True,
    ),
    "rl-sac-press": Recipe(*_RL, "SAC that presses a button", 2),
    "rl-ppo-close": Recipe(*_RL, "PPO that closes a drawer", 2),
    "tiny-vla": Recipe("launch.rebuild.tiny_vla", "tiny_vla", "pixels and words to action tokens, with adverbs", 60),
    "smol-vla-135m": Recipe("launch.rebuild.smol_vla", "smol_vla", "the same on the first blocks of SmolLM2-135M", 120),
}


def run_recipe(name: str, out: Path = Path("runs/rebuild"), install: bool = False, say: Say | None = None) -> Path:
    """Make a policy in `out`/NAME/: weights, card, evaluation tables.

    Args:
        name: a key of `RECIPES`.
        out: parent folder of the results.
        install: put weights and card where `policies.load` finds them.
        say: progress.
    Returns:
        the weight file.
    Raises:
        UnknownName: no such recipe.
    """
    if name not in RECIPES:
        raise UnknownName(f"recipe {name!r} is unknown{nearest(name, RECIPES)}")
    recipe = RECIPES[name]
    folder = out / name
    folder.mkdir(parents=True, exist_ok=True)
    weights: Path = importlib.import_module(recipe.module).run(name, folder, say or Say())
    if not install:
        return weights
    family = importlib.import_module(f"policies.{recipe.family}")
    root = Path(str(family.__file__)).parent
    for source, place in ((weights, "weights"), (folder / f"{name}.md", "cards")):
        (root / place).mkdir(exist_ok=True)
        partial = root / place / f".{source.name}.part"
        shutil.copyfile(source, partial)
        partial.replace(root / place / source.name)
    return root / "weights" / weights.name
