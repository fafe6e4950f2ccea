"""`steer-agents judge elo | depth | resistance | harmonic`: what came of it, from run folders, dose studies and tables."""

from __future__ import annotations

import json as json_
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import tyro

from launch.cli_base import OUT, dumps, print_rows
from policies.errors import BadArtifact, BadInput

if TYPE_CHECKING:
    import pandas as pd

    from steer_agents.evaluation.judging.elo import EloTable

judge = tyro.extras.SubcommandApp()


@judge.command(name="elo")
def elo_(
    sources: tyro.conf.Positional[tuple[Path, ...]],
    /,
    measure: str = "success",
    sign: int = 1,
    before: Path | None = None,
    json: bool = False,
) -> None:
    """Rate conditions by a measure on equal seeds, or behaviours by the games that they played.

    Args:
        sources: two or more folders of rollout --out; or one table or results folder with the columns condition, seed and the measure; or
            one .jsonl file of games, {"a": NAME, "b": NAME, "score": 1 where it showed a, 0 where b, 0.5 for neither} in a line.
        measure: of conditions, e.g. success or speed.
        sign: 1 where more of it wins, -1 where less.
        before: games of the same behaviours before steering; ratings are then told as changes, too.
        json: print for programs.
    """
    from launch.judged import elo_rows, rated
    from steer_agents.evaluation.judging.elo import shift

    games = _games(sources)
    if games is None:
        if before is not None:
            raise BadInput(
                "judge elo: --before is for games; conditions stand in one table, the unsteered one among them."
            )
        found, left_out = rated(_conditions(sources, measure), measure, sign)
        told: dict[str, Any] = {"measure": measure, "sign": sign, "left_out": left_out, "ratings": elo_rows(found)}
        title = f"{'more' if sign > 0 else 'less'} {measure} wins; {left_out} pairs of episodes left out"
    else:
        found, told, title = (
            games,
            {"swayed": games.swayed, "ratings": elo_rows(games, "behaviour")},
            "revealed preferences",
        )
    told |= {"resampled": found.n, "unit": found.unit, "changes": None}
    if before is not None:
        first = _games([before])
        if first is None:
            raise BadInput(f"judge elo: {before} holds no games; it has to be a .jsonl file like the other.")
        told["changes"] = [{"behaviour": name, **asdict(one)} for name, one in shift(first, found).items()]
    if json:
        print(dumps(_plain(told)))
        return
    print_rows(told["ratings"], f"{title}; 95 % intervals over {found.n} {found.unit}", False)
    if told["changes"] is not None:
        rows = [{key: one[key] for key in ("behaviour", "value", "low", "high")} for one in told["changes"]]
        print_rows(rows, f"change since {before}", False)


@judge.command(name="depth")
def depth_(
    source: tyro.conf.Positional[Path],
    /,
    measure: str | None = None,
    middle: float | None = None,
    sign: int | None = None,
    features: int | None = None,
    condition: str = "steered",
    json: bool = False,
) -> None:
    """Say whether answers turn round both ways without becoming null, where both signs of a strength were run.

    Args:
        source: folder of steer-agents dose, or a table with the columns strength (0 among them), seed and the measure; errored, success
            (0 makes an answer null) and task are used where they are there.
        measure: column; the study's target if not given.
        middle: what neither side is, e.g. 0 for answers of -1, 0 and 1; the unsteered mean of each task if not given.
        sign: 1 where positive strengths ask for more of it, -1 for less; what the study showed, or 1, if not given.
        features: distinct features of the concept (of an SAE, PCA or probes), for the depth.
        condition: of the column condition, where there is one.
        json: print for programs.
    """
    from launch.tables_read import table_of
    from steer_agents.evaluation.judging.doses import Doses

    study = _study(source)
    name = measure or study.get("target")
    if name is None:
        raise BadInput(f"judge depth: {source} is no dose study; say with --measure which column is asked about.")
    table = _of_condition(table_of(source), condition, source)
    doses = Doses.of(table, name, middle, (study.get("judged") or {}).get("sign", 1) if sign is None else sign)
    found = doses.depth(features)
    if json:
        print(dumps(_plain({"measure": name, "sign": doses.sign, "errored": doses.errored, **found.to_dict()})))
        return
    print_rows(found.rows(), f"{name}: flip+ asks for {'more' if doses.sign > 0 else 'less'}", False)
    counted = "--features N gives the depth" if found.depth is None else f"depth {found.depth:.3g}, {features} features"
    OUT.print(f"steerability {found.steerability:.3g}, {found.null:.3g} null on average; {counted}", markup=False)


@judge.command(name="resistance")
def resistance_(source: tyro.conf.Positional[Path], /, words: tuple[str, ...] = (), json: bool = False) -> None:
    """Count how often a steered reply starts again, and does better.

    Args:
        source: a .jsonl file, one reply in a line: {"scores": [20, 80]} of its attempts in order, as a judge gave them, or {"reply": TEXT},
            which is split here and scored by --words. "condition" tells several apart, e.g. steered and unsteered.
        words: that an answer on the topic names; the score of an attempt is the percentage of its sentences that do.
        json: print for programs.
    """
    from launch.tables_read import lines_of
    from steer_agents.evaluation.judging.attempts import Resistance

    groups: dict[str, list[Any]] = {}
    for number, line in enumerate(lines_of(source), 1):
        groups.setdefault(str(line.get("condition", "all")), []).append(
            _attempts(line, words, f"{source}, reply {number}")
        )
    rows = [{"condition": name, **row} for name, some in groups.items() for row in Resistance(tuple(some)).rows()]
    print_rows(rows, f"{source}: 95 % intervals (Wilson)", json)


@judge.command(name="harmonic")
def harmonic_(
    source: tyro.conf.Positional[Path],
    /,
    control: str,
    competence: str = "success",
    by: str | None = None,
    json: bool = False,
) -> None:
    """Score control times competence, averaged before (score) and after (per item), with intervals.

    Args:
        source: a table, one item in a row.
        control: column in [0, 1]: the requested behaviour held.
        competence: column in [0, 1]: the task was done.
        by: column that names what is compared, e.g. condition; one row for each.
        json: print for programs.
    """
    from launch.tables_read import numbers, table_of
    from policies.errors import nearest
    from steer_agents.evaluation.scores import harmonic, harmonic_intervals

    table = table_of(source)
    pairs = table.assign(control=numbers(table, control, source), competence=numbers(table, competence, source))
    if by is not None and by not in table:
        raise BadInput(f"{source} has no column {by!r}{nearest(by, table.columns)}")
    rows = []
    for name, group in [("all", pairs)] if by is None else list(pairs.groupby(table[by].astype(str), sort=False)):
        items = group.dropna(subset=["control", "competence"])
        if items.empty:
            raise BadInput(f"judge harmonic: no item of {name!r} in {source} has both {control!r} and {competence!r}.")
        c, q = items["control"].to_numpy(), items["competence"].to_numpy()
        found, (whole, each) = harmonic(c, q), harmonic_intervals(c, q)
        rows.append(
            {by or "of": name, "control": found.control, "competence": found.competence, "score": whole.value, "low": whole.low,
             "high": whole.high, "per item": each.value, "per item low": each.low, "per item high": each.high, "items": len(items),
             "left out": len(group) - len(items)}
        )  # fmt: skip
    print_rows(rows, f"{control} times {competence}", json)


def _plain(told: Any) -> Any:
    from steer_agents.runs import jsonable

    return jsonable(told)


def _games(sources: Sequence[Path]) -> EloTable | None:
    """The ratings of a file of games; None where the sources are something else."""
    from launch.tables_read import lines_of
    from steer_agents.evaluation.judging.elo import Game, elo

    if len(sources) != 1 or sources[0].suffix != ".jsonl":
        return None
    lines = lines_of(sources[0])
    if not {"a", "b"} <= lines[0].keys():
        return None
    games = []
    for number, line in enumerate(lines, 1):
        try:
            games.append(Game(str(line["a"]), str(line["b"]), float(line["score"]), bool(line.get("swayed", False))))
        except (KeyError, TypeError, ValueError) as error:
            raise BadArtifact(f"{sources[0]}, game {number}: expected a, b and score ({error}).") from None
    return elo(games, sorted({name for game in games for name in (game.a, game.b)}))


def _conditions(sources: Sequence[Path], measure: str) -> dict[str, pd.DataFrame]:
    """Condition -> its episodes, from run folders or from one table."""
    from launch.measured_runs import measured, named
    from launch.tables_read import table_of

    if len(sources) > 1:
        return {one.name: measured(one.run, [measure]) for one in named(sources)}
    if not sources:
        raise BadInput("judge elo: name run folders, a table, or a .jsonl file of games.")
    table = table_of(sources[0])
    if "condition" not in table:
        raise BadInput(
            f"judge elo: {sources[0]} has no column 'condition', it has {', '.join(map(str, table.columns))}; conditions are told apart by "
            "it, or by giving one run folder for each."
        )
    return {str(name): rows for name, rows in table.groupby("condition", sort=False)}


def _study(folder: Path) -> dict[str, Any]:
    """dose.json of a dose study's folder; empty for anything else."""
    file = folder / "dose.json"
    if not file.is_file():
        return {}
    try:
        told: dict[str, Any] = json_.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadArtifact(f"{file} is damaged ({error}); run steer-agents dose again.") from None
    return told


def _of_condition(table: pd.DataFrame, condition: str, source: Path) -> pd.DataFrame:
    if "condition" not in table or table["condition"].nunique() == 1:
        return table
    own = table[table["condition"] == condition]
    if own.empty:
        known = ", ".join(map(str, table["condition"].unique()))
        raise BadInput(f"{source} has no condition {condition!r}; choose with --condition one of {known}.")
    return own


def _attempts(line: dict[str, Any], words: Sequence[str], where: str) -> Any:
    from steer_agents.evaluation.judging.attempts import Attempts, resistance, share_of

    if "scores" in line:
        try:
            return Attempts(tuple(float(score) for score in line["scores"]))
        except (TypeError, ValueError) as error:
            raise BadInput(f"{where}: scores are a list of numbers, one per attempt ({error}).") from None
    if "reply" not in line:
        raise BadInput(f"{where}: has neither scores nor reply, it has {', '.join(line)}.")
    if not words:
        raise BadInput(f"{where}: a reply without scores is scored by --words, what an answer on the topic names.")
    return resistance([str(line["reply"])], share_of(words)).attempts[0]
