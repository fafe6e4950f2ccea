"""`steer-agents recipe check | show | export`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tyro

from launch.cli_base import OUT, dumps, print_rows

recipe = tyro.extras.SubcommandApp()


def rows_of(path: Path) -> list[dict[str, Any]]:
    """One row per part of a recipe."""
    from steer_agents import recipe as recipes
    from steer_agents.recipe import PARTS

    found = recipes.load(path)
    return [
        {
            "line": one.line, "part": one.name, "kind": one.kind, "does": PARTS[one.kind].says, "strength": one.strength,
            "unit": one.unit, "limits": "" if one.strength is None else f"{one.low:g} to {one.high:g}",
            "gate": "" if getattr(one.part, "gate", None) is None else _gate(one.part),
        }
        for one in found.parts
    ]  # fmt: skip


def _gate(part: Any) -> str:
    told = {key: value for key, value in part.gate.describe().items() if key != "gate"}
    name = part.gate.describe()["gate"]
    return "" if name == "Always" else f"{name} {told}"


@recipe.command(name="check")
def check(path: tyro.conf.Positional[Path], /, load: bool = False, env: str | None = None, json: bool = False) -> None:
    """Say whether a recipe is sound; mistakes are told with their line, exit status 2.

    Args:
        path: recipe file, or its folder.
        load: also load its policy and put the steering on it: sites, entrances and fingerprints are checked.
        env: with --load, also act once in this environment: hooks fire, the observation and the info have what is asked for.
        json: print for programs.
    """
    from steer_agents import recipe as recipes

    found = recipes.load(path)
    told: dict[str, Any] = {
        "recipe": str(path), "digest": found.digest(), "policy": found.policy, "parts": len(found.parts), "loaded": False,
        "acted": False,
    }  # fmt: skip
    if load or env is not None:
        from launch import steered

        one = steered.load(path)
        told["loaded"] = True
        if env is None:
            found.steerer(require_fired=False).attach(one.policy)
        else:
            import envs
            from steer_agents.loop import rollout

            assert envs.__name__  # importing it registers the environments
            rollout(env, one.policy, one.steerer, episodes=1, seed=0, num_envs=1, max_steps=1, progress=False)
            told["acted"] = True
    if json:
        print(dumps(told))
        return
    done = "sound" + (", fits its policy" if told["loaded"] else "") + (f", acts in {env}" if told["acted"] else "")
    OUT.print(f"{path}: {done}; {len(found.parts)} parts on {found.policy or 'a policy that whoever runs it brings'}, "
              f"digest {told['digest'][:12]}", markup=False)  # fmt: skip


@recipe.command(name="show")
def show(path: tyro.conf.Positional[Path], /, json: bool = False) -> None:
    """Show what a recipe does: policy, parts with strengths and limits, gates, safety envelope.

    Args:
        path: recipe file, or its folder.
        json: print for programs.
    """
    from steer_agents import recipe as recipes

    found, rows = recipes.load(path), rows_of(path)
    envelope = None if found.envelope is None else found.envelope.to_mapping()
    if json:
        print(dumps({
            "policy": found.policy, "options": dict(found.options), "instruction": found.instruction, "about": found.about,
            "digest": found.digest(), "parts": rows, "safety": envelope,
        }))  # fmt: skip
        return
    if found.about:
        OUT.print(found.about, markup=False)
    print_rows(rows, f"{path}: {found.policy or 'no policy named'} {dict(found.options) or ''}", False)
    if found.envelope is None:
        OUT.print("no safety envelope: it cannot move a robot", markup=False)
    else:
        limits = [{"action": name, **vars(limit)} for name, limit in found.envelope.limits.items()]
        print_rows(limits, "safety: limits", False)
        rest = {key: value for key, value in found.envelope.to_mapping().items() if key != "limits"}
        print_rows([{"setting": key, "value": str(value)} for key, value in rest.items()], "safety", False)


@recipe.command(name="export")
def export(
    path: tyro.conf.Positional[Path],
    folder: tyro.conf.Positional[Path],
    /,
    base: str = "",
    tokenizer: str | None = None,
    seed: int | None = None,
    push: str | None = None,
) -> None:
    """Make a recipe folder for LeRobot's `--policy.path=FOLDER`: config, recipe, its files and processors, no weights.

    Args:
        path: recipe file, or its folder.
        folder: to write.
        base: LeRobot checkpoint, where the recipe names none.
        tokenizer: folder or hub name in place of the one that the checkpoint names.
        seed: of the noise of the first episode; without it LeRobot's own.
        push: also upload the folder to this hub repository, user/name (needs `hf auth login`).
    """
    from launch.lerobot_folder import export as write

    made = write(path, folder, base, tokenizer=tokenizer, seed=seed)
    OUT.print(
        f"written: {made}; run it with lerobot-eval --policy.path={made} --env.type=steer_agents ...", markup=False
    )
    if push is not None:
        from huggingface_hub import HfApi

        api = HfApi()
        api.create_repo(push, exist_ok=True)
        OUT.print(str(api.upload_folder(repo_id=push, folder_path=made)), markup=False)
