"""How the embedded flow and diffusion policies are made: demonstrations, training, evaluation on fixed initial states.

Strength is a matter of how much they were taught: `weak` and `medium` saw few demonstrations, so that steering has something to
gain. `bimodal` saw an expert that passes a post on either side, half and half; `unaware` never saw the wall that stands
in the way where it is evaluated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from launch.demos import ENVIRONMENT_STATE, STATE, Demos, Episode, collect
from launch.experiments.base import Say
from launch.rebuild.card import Score, write_card
from launch.rebuild.evaluation import fixed_states
from policies.flow import FlowConfig, FlowPolicy, save, train

EVALUATION_SEEDS = (1, 2)
KEYS = {"agent_pos": STATE, "environment_state": ENVIRONMENT_STATE}
"""The environment's keys, in the order in which they are flattened, and LeRobot's names in demonstrations."""


@dataclass(frozen=True)
class FlowRecipe:
    """What makes one policy.

    Args:
        task: it is taught on.
        demos: successful demonstrations; epochs: passes over them.
        what: one line for the card.
        sizes: fields of `FlowConfig` that differ from its defaults.
        noise: of the executed actions, see `launch.demos`.
        style: adverb that the expert acts out, see `launch.demos`.
        conditions: name -> (task, shift) that it is evaluated on.
        seed: of demonstrations and training.
    """

    task: str
    demos: int
    epochs: int
    what: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    noise: float = 0.12
    style: str = "none"
    conditions: Mapping[str, tuple[str, Mapping[str, float]]] = field(default_factory=dict)
    seed: int = 0

    def evaluated_on(self) -> Mapping[str, tuple[str, Mapping[str, float]]]:
        """`conditions`, or the task as taught and with objects moved."""
        return self.conditions or {"in range": (self.task, {}), "shifted": (self.task, {"object_position": 1.0})}


RECIPES: Mapping[str, FlowRecipe] = {
    "flow-weak": FlowRecipe("PutBowlOnPlate", 50, 20, "a weak policy: 50 demonstrations, stopped too early"),
    "flow-medium": FlowRecipe("PutBowlOnPlate", 40, 30, "a mediocre policy: 40 demonstrations, stopped early"),
    "flow-strong": FlowRecipe("PutBowlOnPlate", 300, 40, "a good policy: 300 demonstrations"),
    "diffusion-medium": FlowRecipe(
        "PutBowlOnPlate", 50, 30, "a mediocre policy: 50 demonstrations, sampled with DDIM", {"path": "ddim", "num_denoise_steps": 8}
    ),
    "flow-bimodal": FlowRecipe(
        "PutBlockPastPost", 500, 40, "passes the post on either side, as its expert did",
        conditions={"in range": ("PutBlockPastPost", {})},
    ),
    "flow-unaware": FlowRecipe(
        "CarryBlockToPlate", 300, 40, "carries low and never saw the wall", style="low",
        conditions={"as taught": ("CarryBlockToPlate", {}), "with the wall": ("CarryBlockOverWall", {})},
    ),
}  # fmt: skip


def run(name: str, folder: Path, say: Say) -> Path:
    """Make one policy: weights, evaluation tables and card in `folder`; returns the weight file."""
    recipe = RECIPES[name]
    say.plan([recipe.demos * 0.12, recipe.demos * recipe.epochs * 0.008, *[10.0] * len(recipe.evaluated_on())])
    say.stage(f"{name}: {recipe.demos} demonstrations of {recipe.task}")
    wanted = Demos(recipe.task, recipe.demos, "state", recipe.noise, recipe.seed, recipe.style)
    demos = []
    for demo in collect(wanted):
        demos.append(demo)
        if len(demos) % 100 == 0:
            say.note(f"{len(demos)} of {recipe.demos}")
    tried = sum(demo.tries for demo in demos)
    say.note(f"{tried} episodes tried, {sum(map(len, demos))} steps kept")
    say.stage(f"{name}: training, {recipe.epochs} epochs")
    states = [flat(demo) for demo in demos]
    config = FlowConfig(n_inputs=states[0].shape[1], keys=tuple(KEYS), **recipe.sizes)

    def told(epoch: int, loss: float) -> None:
        if epoch % max(1, recipe.epochs // 4) == 0:
            say.note(f"epoch {epoch} of {recipe.epochs}, loss {loss:.3f}")

    network = train(
        config, states, [demo.actions for demo in demos], epochs=recipe.epochs, seed=recipe.seed, on_epoch=told
    )
    path = folder / f"{name}.safetensors"
    save(network, path)
    scores = evaluate(name, FlowPolicy(network, name), folder, say)
    facts = {
        "task": recipe.task,
        "demonstrations": f"{recipe.demos} of {tried} tried, executed with noise {recipe.noise:g}, seed {recipe.seed}",
        "training": f"{recipe.epochs} epochs, AdamW 1e-3 cosine, batch 256, averaged weights, seed {recipe.seed}",
        "network": f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters, path {config.path}, "
        f"{config.num_denoise_steps} denoise steps, chunk of {config.chunk_size}, {config.n_action_steps} executed",
    }
    write_card(folder / f"{name}.md", name, recipe.what, facts, scores)
    return path


def flat(demo: Episode) -> np.ndarray:
    """(T, n_inputs) states as the policy flattens them."""
    return np.concatenate([demo.observations[key] for key in KEYS.values()], axis=1)


def evaluate(name: str, policy: FlowPolicy, folder: Path, say: Say) -> list[Score]:
    """Success per condition; for a post also the side it was passed on."""
    scores = []
    for condition, (task, shift) in RECIPES[name].evaluated_on().items():
        say.stage(f"{name}: episodes of {task} on its fixed initial states, {condition}")
        episodes = fixed_states(policy, task, shift, EVALUATION_SEEDS, condition=condition)
        episodes.to_parquet(folder / f"{name}-{condition.replace(' ', '-')}.parquet")
        scores.append(Score.of(f"success, {condition}", episodes["success"].dropna().to_numpy() > 0))
        if "passed_left" in episodes:
            known = episodes["passed_left"].dropna().to_numpy() > 0
            scores.append(Score.of(f"passes on the left, {condition}", known))
    return scores
