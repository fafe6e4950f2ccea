"""`steer-agents train steer-reweight | contrastive-value | mentor`: the methods that train an agent, or what chooses for it."""

from __future__ import annotations

import json as json_
from functools import partial
from pathlib import Path

import tyro

from launch.cli_base import print_rows, training_folder
from launch.method_options import EVERY_LAYER, Place, options_of, pair, plain
from policies.errors import BadInput

trainers = tyro.extras.SubcommandApp()


@trainers.command(name="steer-reweight")
def steer_reweight_(
    policy: tyro.conf.Positional[str],
    env: tyro.conf.Positional[str],
    /,
    out: Path,
    episodes: int = 256,
    seed: int = 0,
    env_set: tuple[str, ...] = (),
    folder: Path | None = None,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Train adapters with which a language agent names better arms of a text bandit (STEER); its own weights stay.

    It plays first; one choice of every episode is a prompt, the arms' means are the rewards. The control, to be run beside every result,
    is --set weights=norm-matched.

    Args:
        policy: that answers by forced choice, e.g. llm:smollm2-135m.
        env: a text bandit, e.g. BanditBernoulli5Text.
        out: folder of the adapters, which PeftModel.from_pretrained reads too.
        episodes: that it plays.
        seed: of the play and of the steps that are drawn; that of the training is in settings.
        env_set: arguments of the environment, name=value: horizon=20, history=summary ...
        folder: that keeps the training; by default one beside `out` that lasts until it is written. The same command goes on after a
            kill, the play being repeated.
        set: further arguments, name=value: weights=uniform, rank=8, settings='{"steps": 100}' ...
        json: print for programs.
    """
    import gymnasium as gym

    import policies
    from launch.bandit_training import reweight_on_bandit
    from launch.trials import environment_id
    from policies.llm_agent import LLMAgent
    from steer_agents.training.reweight import steer_reweight

    options = options_of(steer_reweight, set, ("target", "inputs", "actions", "reward", "folder", "progress"))
    loaded = policies.load(policy)
    if not isinstance(loaded, LLMAgent):
        raise BadInput(f"train steer-reweight: {policy} is no language agent; give one such as llm:smollm2-135m.")
    make = partial(gym.make, environment_id(env), **{name: plain(None, text) for name, text in map(pair, env_set)})
    with training_folder(folder, out) as kept:
        made = reweight_on_bandit(
            loaded, make, episodes=episodes, seed=seed, folder=kept, progress=False if json else None, **options
        )
        made.save(out)
    row = {
        "weights": made.info["weights"], "steps": made.info["steps"], "best step": made.info["best_step"],
        "held-out reward before": -made.info["start"], "after": -made.info["held_out"],
        "entropy before [nats]": made.info["entropy"][0], "entropy after": made.info["entropy"][1], "folder": str(out),
    }  # fmt: skip
    print_rows([row], f"steer-reweight: {policy} on {env}", json)


@trainers.command(name="contrastive-value")
def contrastive_value_(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    /,
    out: Path,
    columns: tuple[str, ...] = (),
    calibration: tuple[Path, ...] = (),
    lost: float = 0.02,
    folder: Path | None = None,
    set: tuple[str, ...] = (),
    json: bool = False,
) -> None:
    """Fit a value of states on successes and failures: a score for best of N, a threshold that ends hopeless episodes.

    Args:
        sources: run folders, or .safetensors files with features (N, D), episode (N,) and success (N,), a row per step. The recipe part
            best_of_n wants features of state and chunk, which only such a file can hold.
        out: the .safetensors file to write.
        columns: of the runs' step tables that are features, e.g. speed height action_0.
        calibration: further sources, whose successes set the threshold.
        lost: share of these that the threshold may end.
        folder: that keeps the training; by default one beside `out` that lasts until it is written. The same command goes on after a
            kill.
        set: further arguments, name=value: loss=info-nce, beta=0, settings='{"steps": 100}' ...
        json: print for programs.
    """
    from launch.recorded_features import outcomes
    from steer_agents.training.contrastive_value import contrastive_value

    options = options_of(contrastive_value, set, ("successes", "failures", "folder", "progress"))
    if not sources:
        raise BadInput("train contrastive-value: name run folders of rollout --out, or .safetensors files of features.")
    successes, failures = outcomes(sources, columns)
    with training_folder(folder, out) as kept:
        made = contrastive_value(successes, failures, folder=kept, progress=False if json else None, **options)
        if calibration:
            made = made.calibrated(outcomes(calibration, columns)[0], lost)
        file = made.save(out)
    row = {
        "successes": len(successes), "failures": len(failures), "features": made.width, "steps": made.info["steps"],
        "best step": made.info["best_step"], "held-out loss before": made.info["start"], "after": made.info["held_out"],
        "threshold": made.threshold, "file": str(file),
    }  # fmt: skip
    print_rows([row], "contrastive-value", json)


@trainers.command(name="mentor")
def mentor_(
    policy: tyro.conf.Positional[str],
    rules: tyro.conf.Positional[Path],
    /,
    out: Path,
    place: Place = EVERY_LAYER,
    json: bool = False,
) -> None:
    """Read rules off a language agent as directions that are looked up (inspired by MENTOR); two passes, nothing is trained.

    Args:
        policy: e.g. llm:smollm2-135m.
        rules: a JSON file, {RULE: [SITUATION, ...], ...}; situations are prompts without the rule.
        out: the .safetensors file to write; the recipe part is rules.
        json: print for programs.
    """
    import policies
    from steer_agents.sites import steerable
    from steer_agents.training.mentor import rule_bank, with_rule

    told = rules_of(rules)
    pairs = {rule: (with_rule(rule, situations), situations) for rule, situations in told.items()}
    path = rule_bank(steerable(policies.load(policy)), rules=pairs, site=place.site).save(out)
    rows = [{"rule": rule, "situations": len(situations), "file": str(path)} for rule, situations in told.items()]
    print_rows(rows, f"mentor: {len(rows)} rules of {policy}", json)


def rules_of(path: Path) -> dict[str, list[str]]:
    """Rule -> its situations, from a JSON file.

    Raises:
        BadInput: no such file, or something else in it.
    """
    try:
        told = json_.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"train mentor: {path} is no JSON file ({error}); write {{RULE: [SITUATION, ...], ...}}."
        ) from None
    fits = isinstance(told, dict) and all(
        isinstance(some, list) and some and all(isinstance(one, str) for one in some) for some in told.values()
    )
    if not fits:
        raise BadInput(
            f"train mentor: {path} has to hold {{RULE: [SITUATION, ...], ...}}, a list of texts for every rule."
        )
    return dict(told)
