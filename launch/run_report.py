"""The report of finished run folders: one run as it is, two or more compared with the first, paired by seed."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from envs.errors import NoRenderer
from launch import played_again, scene_paths
from launch.judged import elo_sections
from launch.measured_runs import Named, has, joined, measured, named
from policies.errors import BadInput
from steer_agents.evaluation.compare import Comparison, compare
from steer_agents.evaluation.figures import Drawn, paired_figure, single_figure
from steer_agents.evaluation.intervals import Interval, mean_interval, proportion_interval
from steer_agents.evaluation.report import Section, Take, Together, show, write_report
from steer_agents.loop import Rollout
from steer_agents.runs import RunFolder, environment_record

USUAL = ("success", "length", "speed", "path_length.last", "contact_force.max", "entropy_bits")
"""Measures that are looked at unless others are named, where a run has them; the first is what the verdict is about."""
FILM_BYTES = 11_000_000
"""Of all films together, so that the page stays under 15 MB in base64."""
ALL_WAYS = 60
"""Episodes of a condition whose ways are drawn into one picture."""

Tell = Callable[[str, float], None]
"""Called with what is done next, and which share of all is done."""


def report_runs(
    folders: Sequence[Path],
    out: Path,
    *,
    measures: Sequence[str] = (),
    videos: int = 0,
    title: str = "",
    question: str = "",
    command: str = "",
    tell: Tell = lambda text, done: None,
) -> str:
    """Write the page of one run, or of several compared with the first.

    Args:
        folders: finished run folders.
        out: the HTML file.
        measures: names (`evaluation/measures.py`), the one that the verdict is about first; `USUAL` if none.
        videos: so many seeds, the first of the run, are played again and filmed.
        title, question: in place of what the runs say themselves.
        command: shown under "Reproduce".
        tell: progress.
    Returns:
        the verdict.
    Raises:
        BadArtifact: a folder without a finished run.
        BadInput: runs that do not pair, a measure that no step tells, films where nothing can be played again.
    """
    runs = named(folders)
    chosen = list(measures) or [name for name in USUAL if all(has(one.run, name) for one in runs)]
    tables = [measured(one.run, chosen) for one in runs]
    base, others = runs[0], runs[1:]
    notes, sections, films = list[str](), list[Section](), list[Together]()
    tell("comparing" if others else "describing", 0.0)
    if others:
        found = {one.name: _compared(one, base, tables, runs, chosen, notes) for one in others}
        verdict, conditions = _verdict(found, chosen), _rows(found)
        for one, table in zip(others, tables[1:], strict=True):
            figures = [paired_figure(table, tables[0], c.measure, found=c, role=one.role) for c in found[one.name]]
            sections.append(Section(f"{one.name} against {base.name}", figures))
        sections += elo_sections({one.name: table for one, table in zip(runs, tables, strict=True)}, chosen[0], notes)
        if len(chosen) > 1:
            notes.append(f"The verdict is about {chosen[0]}. The other {len(chosen) - 1} measures were looked at as well; their "
                         "intervals are not corrected for that.")  # fmt: skip
    else:
        verdict, conditions, figures = _described(base, tables[0], chosen)
        sections.append(Section("Distribution over seeds", figures))
        notes.append(
            "One run tells how a policy acts, not what steering does: give a second run of the same seeds to compare."
        )
    seeds = _usable_seeds(runs)
    if all(scene_paths.has_ways(one.run) for one in runs) and seeds:
        sections += _ways(runs, seeds, min(videos, 4), notes, tell)
    if videos:
        films = _films(runs, seeds[:videos], notes, tell)
    for one in runs:
        errored = int(one.run.episodes["errored"].sum())
        if errored:
            notes.append(f"{errored} episodes of {one.name} errored; they count as neither success nor failure.")
    folder = runs[0].run.folder
    record = None if folder is None else RunFolder(folder).record
    tell("writing", 0.95)
    write_report(
        out,
        title=title
        or (f"{joined(one.name for one in others)} against {base.name}" if others else f"{base.name}: one run"),
        question=question or _question(runs, chosen),
        verdict=verdict,
        bars=[],
        conditions=conditions,
        heading="What changed, seed by seed" if others else "What was measured",
        asked=_asked(runs, chosen),
        sections=sections,
        together=films,
        config={one.name: one.run.config for one in runs},
        command="\n".join([*filter(None, map(_made, runs)), command]),
        notes=notes,
        environment=record["environments"][-1] if record else environment_record(),
    )
    return verdict


# ----------------------------------------------------------------------------------------------------------- measuring


def _compared(
    one: Named, base: Named, tables: Sequence[pd.DataFrame], runs: Sequence[Named], chosen: Sequence[str], notes: list[str]
) -> list[Comparison]:  # fmt: skip
    table = tables[list(runs).index(one)]
    found = []
    for measure in chosen:
        result = compare(table, tables[0], measure, names=(one.name, base.name), missing="exclude")
        found.append(result)
        if result.n_missing:
            notes.append(f"{measure}: {result.n_missing} pairs of {one.name} are without the measure and left out.")
    return found


def _usable_seeds(runs: Sequence[Named]) -> list[int]:
    """Seeds that every run has and that errored in none, in the order of the first."""
    good = [one.run.episodes.loc[~one.run.episodes["errored"], "seed"] for one in runs]
    return [int(seed) for seed in good[0] if all(seed in set(other) for other in map(tuple, good[1:]))]


# --------------------------------------------------------------------------------------------------------------- words


def _verdict(found: Mapping[str, Sequence[Comparison]], chosen: Sequence[str]) -> str:
    lines = []
    for comparisons in found.values():
        first = comparisons[0]
        lines.append(
            f"{_upper(first.verdict)}: {first.side_a.value:.3g} against {first.side_b.value:.3g}, difference "
            f"{first.value:+.3g} (95 % interval {first.low:+.3g} to {first.high:+.3g}), {first.n} pairs."
        )
        beside = [
            f"{one.measure} {'higher' if one.value > 0 else 'lower'} ({one.value:+.3g})"
            for one in comparisons[1:]
            if one.shown
        ]
        if len(comparisons) > 1:
            same = [one.measure for one in comparisons[1:] if not one.shown]
            lines.append(
                (f"Beside it: {joined(beside)}." if beside else "")
                + (f" No effect shown on {joined(same)}." if same else "")
            )
    return "\n".join(line.strip() for line in lines)


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _rows(found: Mapping[str, Sequence[Comparison]]) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "measure": one.measure,
            one.b: show(one.side_b.value),
            "steered": name,
            "its value": one.side_a.value,
            "difference": one.value,
            "95 % interval": f"{show(one.low)}\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}{show(one.high)}",
            "p": f"{one.p_value:.2g}",
            "pairs": one.n,
            "effect": "shown" if one.shown else "not shown",
        }
        for name, comparisons in found.items()
        for one in comparisons
    )


def _described(base: Named, table: pd.DataFrame, chosen: Sequence[str]) -> tuple[str, pd.DataFrame, list[Drawn]]:
    good = table[~table["errored"]]
    if not len(good) or not chosen:
        raise BadInput(
            f"report: {base.name} has {len(good)} episodes without an error and the measures {list(chosen)}."
        )
    rows, figures = [], []
    for measure in chosen:
        values = pd.to_numeric(good[measure]).dropna()
        found: Interval = (
            proportion_interval(int(values.sum()), len(values))
            if values.isin((0.0, 1.0)).all()
            else mean_interval(values.to_numpy(dtype=float))
        )
        rows.append({"measure": measure, "mean": found.value, "95 % interval": f"{show(found.low)} to {show(found.high)}",
                     "standard deviation": float(values.std()), "episodes": len(values)})  # fmt: skip
        figures.append(single_figure(good, measure, found))
    first = rows[0]
    verdict = (
        f"{_upper(str(first['measure']))} {show(first['mean'])} (95 % interval {first['95 % interval']}) over "
        f"{first['episodes']} episodes."
    )
    return verdict, pd.DataFrame(rows), figures


def _question(runs: Sequence[Named], chosen: Sequence[str]) -> str:
    if len(runs) == 1:
        return f"How does {runs[0].run.config['policy'].get('name', 'the policy')} act?"
    return f"Does {joined(one.name for one in runs[1:])} change {chosen[0]}, and what else, on the same seeds?"


def _env_name(run: Rollout) -> str:
    env = run.config["env"]
    made = env.get("factory")
    if isinstance(made, Mapping) and made.get("args"):
        return str(made["args"][0])
    return str(env.get("id") or made or env.get("vector_env") or env.get("env"))


def _asked(runs: Sequence[Named], chosen: Sequence[str]) -> dict[str, str]:
    """Policy, environment and seeds once; the steering of every condition."""
    first = runs[0].run
    asked = {
        "policy": joined(dict.fromkeys(str(one.run.config["policy"].get("name", "policy")) for one in runs)),
        "environment": joined(dict.fromkeys(_env_name(one.run) for one in runs)),
        "episodes": f"{len(first.episodes)} of run seed {first.config['seed']}"
        + (", the same seeds in every condition" if len(runs) > 1 else ""),
        "measures": ", ".join(chosen),
    }
    return asked | {one.name: _steering(one.run.config["steerer"]) for one in runs}


def _steering(described: Mapping[str, Any] | None) -> str:
    """The steering in one line: each part's kind with its plain settings."""
    if not described or not described.get("parts"):
        return "not steered"
    return "; ".join(_part(part) for part in described["parts"])


def _part(part: Mapping[str, Any], limit: int = 8) -> str:
    kind = next((f"{key}: {value}" for key, value in part.items() if isinstance(value, str)), "part")
    plain = {
        key: value for key, value in part.items() if isinstance(value, int | float) and not isinstance(value, bool)
    }
    told = ", ".join(f"{key} {show(value)}" for key, value in list(plain.items())[:limit])
    return f"{kind} ({told})" if told else kind


def _made(one: Named) -> str:
    """The command that made a run, where one command can have made it."""
    config, env = one.run.config, one.run.config["env"]
    name = config["policy"].get("name")
    if config["steerer"] is not None or not env.get("id") or config["options"] or config["max_steps"] or not name:
        return f"# {one.name}: made by rollout(...) with what Configuration says"
    words = ["steer-agents", "rollout", str(name), str(env["id"]), "--episodes", str(config["episodes"]), "--seed",
             str(config["seed"]), "--num-envs", str(config["num_envs"]), "--out", str(one.run.folder)]  # fmt: skip
    return shlex.join(words)


# ------------------------------------------------------------------------------------------------------------ pictures


def _ways(runs: Sequence[Named], seeds: Sequence[int], each: int, notes: list[str], tell: Tell) -> list[Section]:
    """The ways of the first `each` seeds in their own scenes, and of many episodes in the first one's."""
    tell("drawing the ways through the scene", 0.1)
    try:
        env = played_again.environment_of(runs[0].run.config)
        scenes = [scene_paths.scene_of(runs[0].run, seed, env) for seed in seeds[: max(each, 1)]]
        env.close()
    except (BadInput, NoRenderer) as error:
        notes.append(f"Ways of the hand are not drawn: {error}")
        return []
    figures = []
    for scene, seed in zip(scenes if each else [], seeds, strict=False):
        ways = [scene_paths.way_of(one.run, seed, one.role) for one in runs]
        ends = joined(f"{one.name} {_ended(way.success)}" for one, way in zip(runs, ways, strict=True))
        figures.append(
            scene_paths.paths_figure(scene, ways, f"Seed {seed}: {ends}.", f"Ways of the hand, seed {seed}: {ends}.")
        )
    many = seeds[:ALL_WAYS]
    for one in runs:
        ways = [scene_paths.way_of(one.run, seed, one.role) for seed in many]
        good = sum(way.success is True for way in ways)
        text = f"{one.name}: the first {len(many)} episodes, in the scene of the first; {good} succeed."
        figures.append(scene_paths.paths_figure(scenes[0], ways, _upper(text), f"Ways of the hand. {text}"))
    text = "The way of the hand in the camera's picture of the start: dashed unsteered, solid steered; a dot is success, a cross is none."
    return [
        Section(
            "Ways through the scene",
            figures,
            text if len(runs) > 1 else text.replace("dashed unsteered, solid steered; ", ""),
        )
    ]


def _ended(success: bool | None) -> str:
    return {True: "succeeds", False: "fails", None: "ends"}[success]


def _films(runs: Sequence[Named], seeds: Sequence[int], notes: list[str], tell: Tell) -> list[Together]:
    made, weight, differing = list[Together](), 0, list[str]()
    envs_ = [played_again.environment_of(one.run.config) for one in runs]
    for number, seed in enumerate(seeds, 1):
        tell(f"playing seed {seed} again ({number} of {len(seeds)})", 0.2 + 0.7 * (number - 1) / len(seeds))
        takes, seconds = list[Take](), 0.0
        for one, env in zip(runs, envs_, strict=True):
            played = played_again.play_again(one.run, seed, env)
            seconds = max(seconds, len(played.frames) / played.fps)
            if played.differs:
                differing.append(f"{one.name}, seed {seed}: {played.differs}")
            ended = f"{_ended(played.success)} after {len(played.frames) - 1} steps"
            takes.append(
                Take(one.name, one.role, played_again.encode(played.frames, played.fps),
                     played_again.jpeg(played.frames[0]), played_again.still(played, one.role),
                     ended + (" (differs from the record)" if played.differs else ""), f"{one.name}, seed {seed}: {ended}.")
            )  # fmt: skip
        weight += sum(len(take.mp4) + len(take.poster) + len(take.still) for take in takes)
        if weight > FILM_BYTES:
            notes.append(f"Films: {len(made)} of {len(seeds)} seeds, so that the page stays small.")
            break
        made.append(Together(f"seed {seed}", f"Seed {seed}, the same start in every film.", takes, seconds))
    for env in envs_:
        env.close()
    kept = (
        "every recorded number came out the same"
        if not differing
        else "NOT the same as recorded: " + "; ".join(differing)
    )
    notes.append(f"Films show the first {len(made)} seeds of the run, whatever happens on them. They were made by playing the "
                 f"recorded actions again from the recorded seeds: {kept}.")  # fmt: skip
    return made
