"""How `flow-libero` is made: a small state-based flow policy on one task of LIBERO, taught at three speeds by the scripted controller.

The speed is nowhere said: the policy sees its own velocity and goes on as fast as it finds itself, so that speed becomes a direction
inside of it. Demonstrations, the card and the experiments use drawn starts with seeds of their own; the 50 fixed ones are left.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

import envs
from launch.experiments.base import Say
from launch.experiments.env_pool import Pool
from launch.rebuild.card import Score, write_card
from launch.rebuild.libero_data import KEYS, LiberoDemos, arrays, collect
from policies.flow import FlowConfig, FlowPolicy, save, train

assert envs.__name__  # importing it registers the environments


@dataclass(frozen=True)
class LiberoRecipe:
    """What makes one policy.

    Args:
        demos: see `LiberoDemos`; epochs: passes over them.
        what: one line for the card.
        sizes: fields of `FlowConfig` that differ from its defaults.
        conditions: name -> shift that it is evaluated under.
        limit: env steps of an evaluated episode; episodes: of each condition; seed: of training, and of what is drawn.
    """

    demos: LiberoDemos
    epochs: int
    what: str
    sizes: Mapping[str, Any] = field(default_factory=dict)
    conditions: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    limit: int = 240
    episodes: int = 40
    seed: int = 0


RECIPES: Mapping[str, LiberoRecipe] = {
    "flow-libero": LiberoRecipe(
        LiberoDemos("goal-1", per_speed=20),
        epochs=80,
        what="LIBERO's goal/1, put the bowl on the stove, from the privileged state; taught at three speeds that nobody names",
        sizes={"width": 128, "n_blocks": 2},
        conditions={"in range": {}, "bowl 6 cm away": {"object_position": 0.06}},
    )
}
EVALUATION_SEED = 4_000


def run(name: str, folder: Path, say: Say) -> Path:
    """Make one policy: weights, evaluation tables and card in `folder`; returns the weight file."""
    recipe = RECIPES[name]
    demos = recipe.demos
    count = demos.per_speed * len(demos.speeds)
    say.plan([1.3 * count, 0.3 * recipe.epochs, *[1.2 * recipe.episodes] * len(recipe.conditions)])
    say.stage(f"{name}: {count} demonstrations of {demos.task} at {len(demos.speeds)} speeds")
    episodes = []
    for episode in collect(demos):
        episodes.append(episode)
        if len(episodes) % 10 == 0:
            say.note(f"{len(episodes)} of {count}")
    tried = sum(one.tries for one in episodes)
    say.stage(f"{name}: training, {recipe.epochs} epochs")
    states, actions = arrays(episodes)
    config = FlowConfig(n_inputs=states[0].shape[1], keys=KEYS, **recipe.sizes)

    def told(epoch: int, loss: float) -> None:
        if epoch % max(1, recipe.epochs // 4) == 0:
            say.note(f"epoch {epoch} of {recipe.epochs}, loss {loss:.3f}")

    network = train(config, states, actions, epochs=recipe.epochs, seed=recipe.seed, on_epoch=told)
    path = folder / f"{name}.safetensors"
    save(network, path)
    scores = evaluate(name, FlowPolicy(network, name), folder, say)
    lengths = {speed: [len(one.actions) for one in episodes if one.speed == speed] for speed in demos.speeds}
    facts = {
        "task": f'Libero-{demos.task}, starts drawn from its BDDL file, `physics="lite"`',
        "demonstrations": f"{count} of {tried} tried, noise {demos.noise:g} of each speed's largest action, seed {demos.seed}; mean steps "
        + ", ".join(f"{speed} {sum(found) / len(found):.0f}" for speed, found in lengths.items()),
        "training": f"{recipe.epochs} epochs, AdamW 1e-3 cosine, batch 256, averaged weights, seed {recipe.seed}",
        "network": f"{sum(p.numel() for p in network.parameters()) / 1e6:.2f} M parameters, path {config.path}, "
        f"{config.num_denoise_steps} denoise steps, chunk of {config.chunk_size}, {config.n_action_steps} executed",
        "versions": ", ".join(f"{key} {value}" for key, value in _versions().items()),
    }
    measured = f"{recipe.episodes} drawn starts each, {recipe.limit} env steps"
    write_card(folder / f"{name}.md", name, recipe.what, facts, scores, measured)
    return path


def evaluate(name: str, policy: FlowPolicy, folder: Path, say: Say) -> list[Score]:
    """Success per condition, on starts that no demonstration and no experiment uses."""
    from steer_agents.loop import rollout

    recipe, scores = RECIPES[name], []
    for condition, shift in recipe.conditions.items():
        say.stage(f"{name}: {recipe.episodes} episodes, {condition}")
        make = pool(recipe.demos.task, shift, recipe.limit)
        table: pd.DataFrame = rollout(
            make,
            policy,
            episodes=recipe.episodes,
            seed=EVALUATION_SEED,
            num_envs=4,
            condition=condition,
            progress=False,
        ).episodes
        table.to_parquet(folder / f"{name}-{condition.replace(' ', '-')}.parquet")
        scores.append(Score.of(f"success, {condition}", table["success"].dropna().to_numpy() > 0))
        make.close()
    return scores


def pool(task: str, shift: Mapping[str, float], limit: int) -> Pool:
    """Environments of a task for policies on the state, with drawn starts."""
    import gymnasium as gym

    def make() -> gym.Env:
        return gym.make(
            f"SteerAgents/Libero-{task}-v0", starts="drawn", physics="lite", shift=dict(shift), max_episode_steps=limit
        )

    return Pool(make, f"Libero-{task}, drawn starts, shift {dict(shift)}, {limit} env steps")


def _versions() -> dict[str, str]:
    from envs.libero.install import versions

    return versions()
