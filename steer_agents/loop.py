"""Run a policy for a number of episodes and keep what happened, step by step.

Episodes run in fixed *waves*: episode e is row e mod num_envs of wave e // num_envs, always. Batched numerics depend on
what else is in the batch (and on its size), so the waves are what makes a run repeatable: a finished wave is written as
one part of the run folder, an interrupted one is done again from its start, and the tables of a run that was killed and
resumed equal those of a run that was not, bit for bit (given a policy and an environment whose randomness comes from
the seeds of their `reset`).

An episode whose environment raises is *errored*: it is neither a success nor a failure, its return is NaN, the message
is kept, and the other episodes go on. A policy that raises stops the run.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from policies.base import Decision, Observation, Policy
from policies.errors import BadArtifact, BadInput, SiteNeverFired
from steer_agents.env_batch import EnvBatch, EnvLike, Step, make_batch
from steer_agents.progress import bar
from steer_agents.runs import RunFolder, jsonable, write_table

STEP_COLUMNS: dict[str, pa.DataType | None] = {
    "episode": pa.int64(),
    "env_step": pa.int64(),
    "reward": pa.float64(),
    "terminated": pa.bool_(),
    "truncated": pa.bool_(),
    "action": None,  # a number, or a list of them: whatever the policy gives
}
EPISODE_COLUMNS: dict[str, pa.DataType | None] = {
    "condition": pa.string(),
    "episode": pa.int64(),
    "seed": pa.int64(),
    "errored": pa.bool_(),
    "error": pa.string(),
    "length": pa.int64(),
    "return": pa.float64(),
    "terminated": pa.bool_(),
    "truncated": pa.bool_(),
    "success": pa.float64(),
}

Measures = Callable[[pd.DataFrame, Mapping[str, Any]], Mapping[str, float]]
"""(the step rows of one episode, its reset info) -> name -> number."""


Options = Mapping[str, Any] | Callable[[int], Mapping[str, Any]] | None
"""What `env.reset` gets: the same for all episodes, or a function of the episode's index."""


@dataclass(frozen=True)
class Moment:
    """One environment step of a batch: what the policy saw, what it did, what came of it.

    Args:
        start: episode of row 0; row b is episode start + b.
        env_step: of the observation, from 0.
        active: (B,) bool; other rows hold no meaning.
        observation, infos: before the step.
        action: (B,) or (B, A).
        result: after it; rows with an error hold no meaning.
    """

    start: int
    env_step: int
    active: np.ndarray
    observation: Observation
    infos: Sequence[Mapping[str, Any]]
    action: np.ndarray
    result: Step


Watch = Callable[[Moment], None]


class SteererLike(Protocol):
    """What `rollout` needs of a steerer."""

    def attach(self, policy: Policy, /) -> AbstractContextManager[Any]:
        """Steer the policy until the context is left."""

    def describe(self) -> Mapping[str, Any]:
        """A JSON-able description that fixes what is done."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """The tables of a run.

    Args:
        episodes: one row per episode: condition, episode, seed, errored, error, length [env steps], return (sum of
            rewards, undiscounted), terminated, truncated, success (1.0, 0.0, or NaN where the environment does not
            report `info["is_success"]`), then the columns that `measures` gave. On errored episodes return, success
            and the measures are missing.
        steps: one row per episode and env_step: reward, terminated, truncated, action, the environment's scalar infos
            and the measures of the policy's `Decision`.
        config: what was asked for, JSON-able.
        folder: the run folder, None if the run was kept in memory only.
    """

    episodes: pd.DataFrame
    steps: pd.DataFrame
    config: Mapping[str, Any] = field(repr=False)
    folder: Path | None = None

    @classmethod
    def load(cls, folder: str | Path) -> Rollout:
        """Read a finished run.

        Raises:
            BadArtifact: no run there, an unfinished one, or a damaged file.
        """
        run = RunFolder(folder)
        episodes, steps = run.read_table("episodes"), run.read_table("steps")
        record = run.record
        if record is None or len(episodes) != record["config"]["episodes"]:
            raise BadArtifact(f"run.json and episodes.parquet of {run.path} differ in length; call rollout again.")
        return cls(episodes, steps, record["config"], run.path)

    def __str__(self) -> str:
        """Two lines: what was run, and how it went, with its spread."""
        from scipy.stats import binomtest

        config, good = self.config, self.episodes[~self.episodes["errored"]]
        env = config["env"]
        name = config["condition"] or ("unsteered" if config["steerer"] is None else "steered")
        what = env.get("id") or env.get("factory") or env.get("vector_env") or env.get("env")
        parts = [f"{len(good)} of {len(self.episodes)} episodes ({len(self.episodes) - len(good)} errored)"]
        if len(good):
            returns, lengths = good["return"], good["length"]
            spread = f" (standard deviation {returns.std():.3g})" if len(good) > 1 else ""
            parts.append(f"mean return {returns.mean():.4g}{spread}, mean length {lengths.mean():.4g}")
        success = good["success"].dropna()
        if len(success):
            low, high = binomtest(int(success.sum()), len(success)).proportion_ci(0.95, "wilson")
            parts.append(f"success {int(success.sum())}/{len(success)} (95% interval {low:.2f} to {high:.2f})")
        return f"{name}: {config['policy'].get('name', 'policy')} in {what}, seed {config['seed']}\n" + ", ".join(parts)


def episode_seeds(seed: int, count: int) -> list[int]:
    """Seeds of the first `count` episodes of a run; they depend on nothing but `seed` and the episode's index.

    Each is a 31-bit draw from `SeedSequence(seed, spawn_key=(episode, attempt))`, where `attempt` counts up in the rare
    case that an earlier episode has the same seed (conditions are paired by seed, so it must name one episode).
    """
    seen: dict[int, None] = {}
    for episode in range(count):
        attempt = 0
        while True:
            draw = int(np.random.SeedSequence(seed, spawn_key=(episode, attempt)).generate_state(1)[0] >> 1)
            if draw not in seen:
                break
            attempt += 1
        seen[draw] = None
    return list(seen)


def consecutive_seeds(seed: int, count: int) -> list[int]:
    """seed, seed + 1, ...: the episodes' seeds in `lerobot-eval`. Runs of seeds that are less than `episodes` apart share episodes."""
    return list(range(seed, seed + count))


def rollout(
    env: EnvLike,
    policy: Policy,
    steerer: SteererLike | None = None,
    *,
    episodes: int,
    seed: int,
    num_envs: int | None = None,
    run: str | Path | None = None,
    measures: Measures | None = None,
    options: Options = None,
    max_steps: int | None = None,
    progress: bool | None = None,
    condition: str = "",
    watch: Watch | None = None,
    seeds: Callable[[int, int], Sequence[int]] = episode_seeds,
) -> Rollout:
    """Let a policy act in an environment for a number of episodes.

    Args:
        env: an id, an EnvSpec, one environment (copied from its spec), a function that makes one, or a VectorEnv.
        policy: is reset with one seed per row, then acts on whole batches.
        steerer: attached once around the whole run; None runs the policy as it is.
        episodes: how many.
        seed: of the run. The seeds of the episodes follow from it alone, so that runs of other conditions with the same
            seed are pairs.
        num_envs: rows of the batch, 8 unless `env` dictates it. Part of what is compared on resume.
        run: folder that makes the run resumable; None keeps it in memory.
        measures: function of (the steps of one episode, its reset info) giving further columns of `episodes`; not
            called for errored episodes. On resume it is known by its name only: rename it when it changes.
        options: passed to `env.reset`; a function gives each episode its own (fixed initial states). On resume a
            function is known by its name only: rename it when it changes.
        max_steps: episodes are truncated after so many steps; None leaves the end to the environment.
        progress: show a progress bar on stderr; None shows it where stderr is a terminal.
        condition: name of this condition, written into the table.
        watch: called after every environment step of the batch, e.g. to keep observations (`steer_agents.recording`). Not
            with `run`: waves that are finished already would not be watched.
        seeds: how the episodes' seeds follow from `seed`, (seed, count) -> seeds; `consecutive_seeds` is LeRobot's way.
    Raises:
        RunMismatch: `run` holds another run; only `episodes` may grow.
        BadInput: an argument, or what the policy or `measures` gave, does not fit.
        NonFinite: the policy gave a NaN or infinite action.
        SiteNeverFired: the steerer did nothing; the episodes of this call are discarded.
    """
    if episodes < 1:
        raise BadInput(f"episodes: got {episodes}, allowed are integers from 1.")
    if max_steps is not None and max_steps < 1:
        raise BadInput(f"max_steps: got {max_steps}, allowed are integers from 1, or None for no limit.")
    if seed < 0:
        raise BadInput(f"seed: got {seed}, allowed are integers from 0.")
    if watch is not None and run is not None:
        raise BadInput("watch: a run folder skips episodes that are done, and nobody would see them; leave run=None.")
    with ExitStack() as stack:
        batch = make_batch(env, num_envs)
        stack.callback(batch.close)
        config = jsonable(
            {
                "condition": condition,
                "env": batch.describe(),
                "options": options,
                "policy": policy.describe(),
                "steerer": None if steerer is None else steerer.describe(),
                "episodes": episodes,
                "seed": seed,
                "num_envs": batch.num_envs,
                "max_steps": max_steps,
                "measures": measures,
                **({} if seeds is episode_seeds else {"seeds": seeds}),
            }
        )
        folder = None if run is None else RunFolder(run)
        if folder is not None:
            stack.enter_context(folder.claimed())
            folder.begin(config, grows=("episodes",))
        starts = range(0, episodes, batch.num_envs)
        rows = [min(batch.num_envs, episodes - start) for start in starts]
        names = [f"{index:05d}-rows-{count:04d}" for index, count in enumerate(rows)]
        done = [folder is not None and folder.has_shard(name) for name in names]
        # The rows of a padded last batch need seeds as well, hence the whole waves.
        of_all = list(seeds(seed, len(starts) * batch.num_envs))
        bar = stack.enter_context(_progress_bar(progress, condition or "rollout", episodes, batch, max_steps))
        waves: list[dict[str, pa.Table]] = []
        attached = nullcontext() if steerer is None or all(done) else steerer.attach(policy)
        try:
            with attached:
                for start, count, name, finished in zip(starts, rows, names, done, strict=True):
                    if finished and folder is not None:
                        wave = folder.read_shard(name)
                    else:
                        own = of_all[start : start + (batch.num_envs if batch.fixed_rows else count)]
                        wave = _run_wave(
                            batch, policy, start, count, own, options, max_steps, measures, condition, bar, watch
                        )
                        if folder is not None:
                            folder.write_shard(name, wave)
                            wave = folder.read_shard(name)
                    waves.append(wave)
                    bar.wave_done(start + count)
        except SiteNeverFired:
            # Steering may notice only on leaving that it did nothing: the folder must not keep that as its effect.
            if folder is not None:
                folder.keep_shards(name for name, finished in zip(names, done, strict=True) if finished)
            raise
        tables = {key: concatenate_tables([wave[key] for wave in waves]) for key in ("episodes", "steps")}
        if folder is not None:
            folder.keep_shards(names)
            for key, table in tables.items():
                write_table(folder.path / f"{key}.parquet", table)
    return Rollout(
        episodes=tables["episodes"].to_pandas(),
        steps=tables["steps"].to_pandas(),
        config=config,
        folder=None if folder is None else folder.path,
    )


def _run_wave(
    batch: EnvBatch,
    policy: Policy,
    start: int,
    count: int,
    seeds: list[int],
    options: Options,
    max_steps: int | None,
    measures: Measures | None,
    condition: str,
    bar: _Progress,
    watch: Watch | None,
) -> dict[str, pa.Table]:
    """Run episodes `start` to `start + count - 1` side by side; rows beyond `count` are padding and never active."""
    own_options = [options(start + row) if callable(options) else options for row in range(len(seeds))]
    observation, reset_infos, errors = batch.reset(seeds, own_options)
    failures: list[str | None] = list(errors)
    active = np.array([row < count and error is None for row, error in enumerate(errors)])
    records: list[list[dict[str, Any]]] = [[] for _ in range(count)]
    outcome: list[dict[str, Any]] = [{"terminated": False, "truncated": False, "success": None} for _ in range(count)]
    if active.any():
        policy.reset(seeds, reset_infos)
    env_step = 0
    infos: list[Mapping[str, Any]] = list(reset_infos)
    while active.any():
        assert observation is not None
        decision = policy.act(observation, active.copy(), infos)
        action = np.asarray(decision.action)
        measured = _decision_columns(decision, len(seeds))
        result = batch.step(action, active)
        if watch is not None:
            watch(Moment(start, env_step, active.copy(), observation, infos, action, result))
        infos = [
            result.infos[row] if active[row] and result.errors[row] is None else info for row, info in enumerate(infos)
        ]
        env_step += 1
        for row in np.flatnonzero(active).tolist():
            if result.errors[row] is not None:
                failures[row], active[row] = result.errors[row], False
                continue
            terminated = bool(result.terminated[row])
            truncated = bool(result.truncated[row]) or (env_step == max_steps and not terminated)
            records[row].append(
                {
                    "episode": start + row,
                    "env_step": env_step - 1,
                    "reward": float(result.reward[row]),
                    "terminated": terminated,
                    "truncated": truncated,
                    "action": action[row].tolist(),
                    **_step_columns(result.infos[row], {name: values[row] for name, values in measured.items()}),
                }
            )
            if terminated or truncated:
                active[row] = False
                success = result.infos[row].get("is_success")
                outcome[row] = {
                    "terminated": terminated,
                    "truncated": truncated,
                    "success": None if success is None else float(success),
                }
        observation = result.observation
        bar.step_done(start, env_step, count, int(active.sum()))
    steps = make_table([record for row in records for record in row], STEP_COLUMNS)
    frame = steps.to_pandas()
    episodes = []
    for row in range(count):
        error = failures[row]
        episode: dict[str, Any] = {
            "condition": condition,
            "episode": start + row,
            "seed": seeds[row],
            "errored": error is not None,
            "error": error,
            "length": len(records[row]),
            "return": None if error is not None else float(np.sum([record["reward"] for record in records[row]])),
            **outcome[row],
        }
        if measures is not None and error is None:
            own = frame[frame["episode"] == start + row].reset_index(drop=True)
            episode |= _episode_measures(measures(own, reset_infos[row]))
        episodes.append(episode)
    return {"episodes": make_table(episodes, EPISODE_COLUMNS), "steps": steps}


# ------------------------------------------------------------------------------------------------------------ columns


def _decision_columns(decision: Decision, count: int) -> dict[str, list[Any]]:
    """The measures of a decision as name -> B numbers or lists of numbers."""
    columns = {}
    for name, values in decision.measures.items():
        array = np.asarray(values)
        if array.ndim not in (1, 2) or len(array) != count:
            raise BadInput(
                f"measure {name!r} of the policy's Decision: expected shape ({count},) or ({count}, k), "
                f"got {array.shape}."
            )
        columns[name] = array.tolist()
    return columns


def _step_columns(info: Mapping[str, Any], measured: Mapping[str, Any]) -> dict[str, Any]:
    """Scalar infos and measures of one step. An info that is called like a column of ours gets the prefix "info_"."""
    columns: dict[str, Any] = {}
    for name, value in info.items():
        if isinstance(value, np.ndarray | np.generic) and np.ndim(value) == 0:
            value = value.item()
        if value is None or isinstance(value, bool | int | float | str):
            columns[f"info_{name}" if name in STEP_COLUMNS else name] = value
    clash = sorted((columns.keys() | STEP_COLUMNS.keys()) & measured.keys())
    if clash:
        raise BadInput(
            f"the policy's Decision has measures {clash}, which are columns of the step table already "
            f"({sorted(STEP_COLUMNS)}, and the environment's infos {sorted(columns)}); rename them in the policy."
        )
    return columns | dict(measured)


def _episode_measures(measured: Mapping[str, float]) -> dict[str, float]:
    if not isinstance(measured, Mapping):
        raise BadInput(f"measures: expected a dict of name -> number, got {type(measured).__name__}.")
    clash = sorted(EPISODE_COLUMNS.keys() & measured.keys())
    if clash:
        raise BadInput(f"measures: {clash} are columns of the episode table already; rename them.")
    return {name: float(value) for name, value in measured.items()}


def make_table(records: list[dict[str, Any]], columns: Mapping[str, pa.DataType | None]) -> pa.Table:
    """Rows to a table: `columns` first (None: type from the values), then every further key in order of appearance.

    Raises:
        BadInput: a column mixes text, numbers or lists.
    """
    names = list(dict.fromkeys([*columns, *(name for record in records for name in record)]))
    arrays = [_array(name, [record.get(name) for record in records], columns.get(name)) for name in names]
    return pa.Table.from_arrays(arrays, names=names)


def _array(name: str, values: list[Any], kind: pa.DataType | None) -> pa.Array:
    try:
        return pa.array(values, type=kind)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError) as error:
        if all(value is None or isinstance(value, bool | int | float) for value in values):
            return pa.array([None if value is None else float(value) for value in values], type=pa.float64())
        raise BadInput(
            f"column {name!r} holds values of several types ({error}); "
            "let the environment or the policy give one type under one name."
        ) from None


def concatenate_tables(tables: list[pa.Table]) -> pa.Table:
    """Stack tables whose columns may differ: what is missing becomes null, integers meet floats as floats.

    Raises:
        BadInput: a column is text in one table and a number in another.
    """
    kinds: dict[str, set[pa.DataType]] = {}
    for table in tables:
        for column in table.schema:
            kinds.setdefault(column.name, set()).add(column.type)
    for name, found in kinds.items():
        if pa.bool_() in found and found & {pa.int64(), pa.float64()}:
            tables = [_as_float(table, name) for table in tables]
    try:
        return pa.concat_tables(tables, promote_options="permissive").combine_chunks()
    except pa.ArrowException as error:
        raise BadInput(
            f"a column changes its type between episodes ({error}); "
            "let the environment or the policy give one type under one name."
        ) from None


def _as_float(table: pa.Table, name: str) -> pa.Table:
    index = table.schema.get_field_index(name)
    if index < 0 or not pa.types.is_boolean(table.schema.field(index).type):
        return table
    return table.set_column(index, name, pc.cast(table.column(index), pa.float64()))


# ----------------------------------------------------------------------------------------------------------- progress


class _Progress:
    """Fraction of the run that is done; shown by subclasses, silent here."""

    def __init__(self, typical_length: float | None) -> None:
        self._limit = typical_length
        self._lengths: list[int] = []

    def step_done(self, before: int, env_step: int, count: int, running: int) -> None:
        """Tell that a step of the wave was done after which `running` of its `count` episodes go on."""
        newly = count - running - len(self._lengths)
        self._lengths += [env_step] * max(newly, 0)
        expected = self._limit or (max(self._lengths) if self._lengths else None)
        share = 0.0 if expected is None else min(env_step / expected, 0.99)
        self.show(before + count - running + running * share)

    def wave_done(self, episodes: int) -> None:
        """Tell that all episodes before this one are finished."""
        if self._lengths and self._limit is None:
            self._limit = max(self._lengths)
        self._lengths = []
        self.show(episodes)

    def show(self, episodes: float) -> None:
        """Show that so many episodes (the running ones as fractions) are done."""


@contextmanager
def _progress_bar(
    wanted: bool | None, title: str, episodes: int, batch: EnvBatch, max_steps: int | None
) -> Iterator[_Progress]:
    """A rich progress bar on stderr with the time left (in a log only its last state); silent unless wanted."""
    limits = [limit for limit in (max_steps, batch.max_episode_steps) if limit]
    typical = min(limits) if limits else None
    if not (sys.stderr.isatty() if wanted is None else wanted):
        yield _Progress(typical)
        return
    with bar("{task.fields[shown]}/{task.total:.0f} episodes") as rich_progress:
        task = rich_progress.add_task(title, total=episodes, shown=0)

        class Bar(_Progress):
            def show(self, episodes: float) -> None:
                rich_progress.update(task, completed=episodes, shown=int(episodes))

        yield Bar(typical)
