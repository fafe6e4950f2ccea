"""`steer-agents train`: learn a noise policy for any flow or diffusion policy in any gymnasium environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
from gymnasium.vector import SyncVectorEnv

import envs
import policies
from policies.errors import BadInput, UnknownName, nearest
from steer_agents.evaluation.intervals import proportion_interval
from steer_agents.loop import rollout
from steer_agents.noise.maps import MAPS, NoiseMap, from_description
from steer_agents.noise.noise_env import ChunkReward, NoiseEnv, check_noise_entrance
from steer_agents.noise.parts import ConstantNoise
from steer_agents.noise.presets import preset
from steer_agents.runs import write_json
from steer_agents.steerer import Steerer

assert envs.__name__  # importing it registers the environments


def noise_map(text: str) -> NoiseMap:
    """A map from its name, with a number where it takes one: "full", "repeat", "dct:2", "interpolated:3".

    Raises:
        UnknownName: no such map.
    """
    name, _, number = text.partition(":")
    counted = {"dct": "components", "interpolated": "knots"}
    known = [*(one for one in MAPS if one != "masked"), *(f"{one}:N" for one in counted)]
    if name not in MAPS or name == "masked" or (number and (name not in counted or not number.isdigit())):
        raise UnknownName(f"noise map {text!r} is unknown{nearest(text, known)}")
    return from_description({"map": name, **({counted[name]: int(number)} if number else {})})


def train(
    policy: str,
    env: str,
    out: Path,
    variant: str = "sac",
    preset_name: str = "recommended",
    env_steps: int = 20_000,
    seed: int = 0,
    map_name: str = "full",
    bound: float = 1.5,
    reward: str = "penalty",
    num_envs: int = 8,
    episodes: int = 40,
    evaluate_every: int = 5_000,
    max_steps: int | None = None,
    shift: Mapping[str, float] | None = None,
    patience: int | None = 3,
    checkpoint_minutes: float = 5.0,
    tensorboard: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Learn into the folder `out`, or go on there; returns what `out/results.json` holds: rows of base, zero noise and learned noise.

    Rows are on 2 x `episodes` starts that were neither trained nor evaluated on before.
    """
    from steer_agents.noise.training import Schedule, learn

    steered = policies.load(policy)
    check_noise_entrance(steered)
    chosen = preset(preset_name, variant)
    spec = gym.spec(env)
    spec = replace(
        spec,
        kwargs={**spec.kwargs, **({"shift": dict(shift)} if shift else {})},
        max_episode_steps=max_steps or spec.max_episode_steps,
    )
    if episodes < 1:
        raise BadInput(f"train: episodes must be an integer from 1, got {episodes}.")

    def table(part: Any, of_seed: int, count: int, condition: str = "") -> Any:
        return rollout(
            spec, steered, part and Steerer(part), episodes=count, seed=of_seed, condition=condition, progress=False
        ).episodes

    def evaluate(part: Any) -> dict[str, float]:
        return {"success": float(table(part, 555, episodes)["success"].mean())}

    noise_env = NoiseEnv(
        SyncVectorEnv([lambda: gym.make(spec)] * num_envs), steered, noise_map(map_name), bound,  # type: ignore[arg-type]
        ChunkReward(reward, timeout=chosen.timeout), seed=1000 + seed,
    )  # fmt: skip
    schedule = Schedule(
        evaluate_every=evaluate_every,
        patience=patience,
        checkpoint_minutes=checkpoint_minutes,
        tensorboard=tensorboard,
        progress=progress,
    )
    info = {"policy": policy, "env": env, "shift": dict(shift or {}), "preset": preset_name}
    learned = learn(noise_env, chosen, env_steps, seed, evaluate, schedule, out, info=info)
    rows = []
    for name, part in (
        ("unsteered", None),
        ("zero noise", ConstantNoise()),
        ("learned", learned.best),
        ("learned, sampled", learned.best.sampled()),
    ):
        found = table(part, 4100, 2 * episodes, name)
        share = proportion_interval(int((found["success"] > 0).sum()), len(found))
        rows.append(
            {"condition": name, "success": share.value, "low": share.low, "high": share.high, "episodes": len(found)}
        )
    results = {
        "rows": rows,
        "curve": learned.curve.to_dict("records"),
        "costs": dict(learned.costs),
        "settings": asdict(chosen),
        **info,
    }
    write_json(out / "results.json", results)
    return results
