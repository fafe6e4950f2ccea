"""Dose studies judged: planted steerings whose truth is known, a VLA along 'slowly' with set-points in open loop, and guided denoising.

1. Planted runners (`launch.plants`), each in many repeats: how often is the verdict the right one?
2. tiny-vla along 'slowly' minus nothing: adaptive strengths on pilot seeds, the curve on others. Then speeds within the usable range are
   requested, solved from the stored curve, and run on a third set of seeds.
3. flow-medium guided to carry higher: the strength of a reward as the dose, pushes of the same length along random directions as control.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from launch.dosing import PILOT, Study, figures, of_direction, rows, summary
from launch.experiments.base import Figure, Outcome, Say, settings_key
from launch.experiments.vla import Bench
from launch.plants import PLANTS, judged
from launch.tabletop_guidance import KINEMATICS
from launch.trials import Trials
from steer_agents.dosed import with_dose
from steer_agents.evaluation import plots
from steer_agents.evaluation.dose import Dose
from steer_agents.evaluation.intervals import mean_interval, proportion_interval
from steer_agents.evaluation.report import Bar
from steer_agents.evaluation.verdict import STEERABLE
from steer_agents.guidance import RewardGuidance
from steer_agents.guidance.language import parse
from steer_agents.interventions import Add
from steer_agents.strength import Strength

CURVE, REQUESTS = 56_000, 66_000
"""First seed on which curves are measured, and on which requests are run; the pilot's are those of `launch.dosing`."""
THREE = ("works", "only breaks", "only adds noise")
"""The plants that any judge must tell apart; the others are reported."""
HIGHER = "reward:\n  - height: {at_least: 0.25}\n    when: {quantity: held, above: 0.5}\n"


@dataclass(frozen=True)
class Settings:
    """Settings of the experiment.

    Args:
        repeats: of each of the three plants; harder: of each of the others.
        policy, tasks, word, layer: what is steered, along which word minus none, where.
        scene_episodes: of every task, that the direction is found on.
        seeds, pilot, controls, budget, bracket: of the dose study; strengths in multiples of the raw direction (beta).
        requests: speeds asked for; request_seeds: episodes of each.
        tolerance: relative error of a request that counts as achieved.
        guided_strengths, guided_seeds: of the study on guidance.
        max_steps: per episode; None for the environment's own limit.
    """

    repeats: int = 100
    harder: int = 20
    policy: str = "tiny-vla"
    tasks: tuple[str, ...] = ("PutBowlOnPlate", "PutRedBlockOnPlate", "PutBlockInBowl")
    word: str = "slowly"
    layer: int = 1
    scene_episodes: int = 3
    seeds: int = 24
    pilot: int = 6
    controls: int = 2
    budget: int = 290
    bracket: tuple[float, float] = (0.0, 1.0)
    requests: int = 8
    request_seeds: int = 9
    tolerance: float = 0.2
    guided_strengths: tuple[float, ...] = (1.0, 2.0, 4.0, 8.0)
    guided_seeds: int = 18
    max_steps: int | None = None


def settings(quick: bool) -> Settings:
    """All of it (about 15 minutes), or few repeats and requests (about 4)."""
    if not quick:
        return Settings()
    return replace(
        Settings(), repeats=3, harder=1, scene_episodes=1, seeds=12, pilot=3, controls=1, budget=85, requests=2, request_seeds=3,
        guided_strengths=(4.0,), guided_seeds=12,
    )  # fmt: skip


def run(s: Settings, folder: Path, say: Say) -> Outcome:
    """Judge, measure, request."""
    keep = folder / f"kept-{settings_key(s)}"
    say.plan([s.repeats * 3 + s.harder * 4, 60, 3 * s.budget, 3 * s.requests * s.request_seeds, 100])
    say.stage(f"planted steerings, {s.repeats} repeats")
    words = {
        name: [judged(name, i).verdict.word for i in range(s.repeats if name in THREE else s.harder)] for name in PLANTS
    }
    say.stage(f"{s.policy}: direction '{s.word}' from scenes of {s.scene_episodes} episodes of {len(s.tasks)} tasks")
    bench = Bench(s.policy, s.tasks, keep)
    path = folder / f"{s.policy}-{s.word}.safetensors"
    direction = bench.direction(bench.scenes(s.scene_episodes), s.word).at(s.layer)
    say.stage(f"{s.policy}: dose of '{s.word}' at layer {s.layer}, up to {s.budget} episodes")
    trials = Trials.of(bench.policy, s.tasks, ("ee_speed", "height"), max_steps=s.max_steps, keep=keep)
    part = Add(direction, strength=Strength(0.0, "beta"))
    study = of_direction(
        trials, part, s.controls, seeds=range(CURVE, CURVE + s.seeds), pilot=range(CURVE + PILOT, CURVE + PILOT + s.pilot),
        target="ee_speed", side=("success", "height"), bracket=s.bracket, budget=s.budget,
    )  # fmt: skip
    found = study.run()
    direction = with_dose(direction, part, found, policy=s.policy, tasks=trials.tasks, env=trials.env)
    direction.save(path)
    say.note(str(found.verdict))
    say.stage(f"{s.policy}: {s.requests} speeds requested, {s.request_seeds} episodes each, open loop")
    asked = _requests(s, trials, direction, found)
    say.stage("flow-medium: guided to carry higher")
    guided = _guided(s, keep)
    say.note(str(guided.verdict))
    return _outcome(s, words, found, asked, guided)


def _requests(s: Settings, trials: Trials, direction: Any, found: Dose) -> pd.DataFrame:
    """Every episode of every request: columns request, strength and those of the trials; none where nothing is usable."""
    low, high = found.curve().reach
    if low == high:
        return pd.DataFrame(columns=["request", "strength", "ee_speed", "success", "seed", "errored"])
    made = []
    for share in (np.arange(s.requests) + 0.5) / s.requests:
        request = float(low + share * (high - low))
        part = Add(direction, strength=f"ee_speed={request!r}")
        table = trials.run((part,), range(REQUESTS, REQUESTS + s.request_seeds), f"ee_speed={request:.4f}")
        made.append(table.assign(request=request, strength=float(part.the_strength.value)))
    return pd.concat(made, ignore_index=True)


def _guided(s: Settings, keep: Path) -> Dose:
    trials = Trials.of("flow-medium", ["PutBowlOnPlate"], ("height", "speed"), max_steps=s.max_steps, keep=keep)

    def higher(random: bool) -> Any:
        return lambda strength: RewardGuidance(parse(HIGHER), KINEMATICS, strength, random=random)

    return Study(
        trials, higher(False), {"random pushes": higher(True)}, range(CURVE, CURVE + s.guided_seeds), target="height",
        side=("success", "speed"), strengths=s.guided_strengths,
    ).run()  # fmt: skip


def requests_table(asked: pd.DataFrame, tolerance: float) -> pd.DataFrame:
    """One row per request: strength, achieved mean with its interval, relative error, whether within the tolerance, success."""
    made = []
    for request, one in asked.groupby("request"):
        good = one[~one["errored"].astype(bool)]
        mean = mean_interval(good["ee_speed"].dropna().to_numpy(float))
        error = mean.value / float(request) - 1
        made.append({"request": request, "strength": one["strength"].iloc[0], "achieved": mean.value, "low": mean.low, "high": mean.high,
                     "error": error, "within": abs(error) <= tolerance, "success": float(good["success"].mean())})  # fmt: skip
    return pd.DataFrame(made)


def _outcome(s: Settings, words: dict[str, list[str]], found: Dose, asked: pd.DataFrame, guided: Dose) -> Outcome:
    bars, table = [], []
    for name, said in words.items():
        right = said.count(PLANTS[name].verdict)
        share = proportion_interval(right, len(said))
        holds = right >= 0.95 * len(said) if name in THREE else None
        bound = "at least 95 %" if name in THREE else "reported, no bound"
        bars.append(
            Bar(f"planted, {name}: called {PLANTS[name].verdict}", share.value, (share.low, share.high), bound, holds)
        )
    bars.append(
        Bar(
            f"{s.policy} along '{s.word}': verdict",
            found.verdict.word,
            None,
            STEERABLE,
            found.verdict.word == STEERABLE,
        )
    )
    reached = requests_table(asked, s.tolerance) if len(asked) else pd.DataFrame(columns=["within", "error"])
    hits, needed = int(reached["within"].sum()), s.requests - max(1, s.requests // 8)
    text = f"requested speeds achieved within {s.tolerance:.0%}, of {s.requests} (open loop)"
    bars.append(Bar(text, hits, None, f">= {needed}", hits >= needed))
    bars.append(
        Bar("flow-medium guided to carry higher: verdict", guided.verdict.word, None, "reported, no bound", None)
    )
    for study, one in (("tiny-vla", found), ("flow-medium", guided)):
        table += [{"study": study if study != "tiny-vla" else s.policy, **row} for row in rows(one)]
    curve = found.curve()
    worst = float(reached["error"].abs().max()) if len(reached) else float("nan")
    verdict = (
        f"{s.policy} along '{s.word}': {found.verdict.word}, usable from {found.usable[0]:g} to {found.usable[1]:g} beta, which reaches "
        f"{curve.reach[0]:.3f} to {curve.reach[1]:.3f} m/s. {hits} of {s.requests} requested speeds are achieved within "
        f"{s.tolerance:.0%} in open loop (largest error {worst:.0%}). flow-medium guided to carry higher: {guided.verdict.word}. Planted: "
        + ", ".join(f"{name} {said.count(PLANTS[name].verdict)} of {len(said)}" for name, said in words.items())
        + " right."
    )
    shown = [
        Figure(f"vla-{name}", png, "Points are means; the band is 95 %, resampled over seeds.", verdict)
        for name, png in figures(found, s.policy, "beta").items()
    ]
    shown += [
        Figure(f"guided-{name}", png, "Points are means; the band is 95 %, resampled over seeds.", str(guided.verdict))
        for name, png in figures(guided, "flow-medium").items()
    ]
    if len(reached):
        line = reached.rename(columns={"request": "dose", "achieved": "value"})
        told = ", ".join(f"{row.dose:.3f}: {row.value:.3f}" for row in line.itertuples())
        image = plots.dose_curve(
            line, label="achieved speed [m/s]", title="Requested in open loop", dose_label="requested speed [m/s]"
        )
        shown.append(
            Figure(
                "requests", image, "On other seeds than the curve's; 95 % intervals.", f"requested and achieved: {told}"
            )
        )
    episodes = [
        found.episodes.assign(study=s.policy),
        guided.episodes.assign(study="flow-medium"),
        asked.assign(study="requests"),
    ]
    merged = pd.concat([one for one in episodes if len(one)], ignore_index=True)
    return Outcome(
        title="Dose, verdict, set-points",
        question="Does a dose study call what steers steerable, and nothing else? And does the strength that its curve names reach the "
        "speed that was asked for?",
        verdict=verdict,
        bars=bars,
        episodes=merged.assign(episode=range(len(merged))),
        conditions=pd.DataFrame(table).assign(strength=lambda t: t["strength"].astype(str)),
        figures=shown,
        notes=[
            "Strengths are chosen on pilot seeds, curves measured on others, requests run on a third set.",
            "The layer was chosen on other layouts, by a look at both layers.",
            *found.verdict.reasons, *guided.verdict.reasons,
        ],
        extra={"tiny_vla": summary(found, "beta"), "guided": summary(guided), "requests": reached.to_dict("records"), "words": words},
    )  # fmt: skip
