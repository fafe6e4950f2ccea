"""Learn a noise policy: `learn(env, settings, env_steps, seed)`.

A run that is killed and started again with the same arguments goes on at its last checkpoint and takes the same path, bit for
bit: a checkpoint
holds all networks, optimisers, the replay buffer, the random streams and, per environment, the seed and the actions of the running
episode (`NoiseEnv.state`). It is one safetensors file, written whole or not at all, without pickle. It is taken between a
gradient step and the next rollout, so when it is taken changes nothing.

Folder of a run:

    checkpoint.safetensors   as above
    curve.csv                one row per evaluation
    noise_policy.safetensors the last one; best.safetensors: the best evaluated one
    progress.csv, tensorboard/   SB3's logger
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger, configure

from policies.errors import BadArtifact, BadInput, MissingExtra, RunMismatch
from steer_agents import artifacts
from steer_agents.noise.aliased import DSRLNA, AliasedBuffer
from steer_agents.noise.networks import NoisePolicyNetworks
from steer_agents.noise.noise_env import NoiseEnv
from steer_agents.noise.noise_policy import NoisePolicy, fingerprint_of, from_sb3
from steer_agents.noise.presets import DSRLSettings
from steer_agents.noise.sac import DSRLSAC
from steer_agents.noise.transitions import Transitions, add
from steer_agents.noise.vec_env import AsVecEnv
from steer_agents.progress import bar
from steer_agents.runs import jsonable, write_bytes

Evaluate = Callable[[NoisePolicy], Mapping[str, float]]
"""A noise policy -> named numbers of its evaluation; "score" (or else "success") is what plateaus and the best are judged by."""

KIND = "noise training"


@dataclass(frozen=True)
class Schedule:
    """What happens around learning.

    Args:
        evaluate_every: env steps between evaluations; the first one is before learning.
        checkpoint_minutes: between checkpoints; 0 takes one before every rollout.
        patience: evaluations without gain of the deterministic score after which training stops; None never stops early.
        enough: stop at this deterministic success; None never.
        gain: least gain of the score that counts.
        tensorboard: also write TensorBoard files (needs the package tensorboard).
        progress: show a bar with the time left.
    """

    evaluate_every: int = 5_000
    checkpoint_minutes: float = 5.0
    patience: int | None = None
    enough: float | None = None
    gain: float = 0.01
    tensorboard: bool = False
    progress: bool = False


@dataclass(frozen=True, eq=False)
class Learned:
    """What training gave.

    Args:
        policy: the last noise policy; best: the one with the best deterministic score (see `Evaluate`), the later one among equals.
        curve: one row per evaluation: env_steps, chunks, gradient_steps, cpu_seconds (of training, without evaluations), and
            what `Evaluate`
            gave, with the prefixes "det_" and "sampled_".
        model: the SB3 algorithm.
        costs: CPU seconds of "denoise", "env", "update" (with its own denoising), "evaluate" and "all" (without evaluations).
    """

    policy: NoisePolicy
    best: NoisePolicy
    curve: pd.DataFrame
    model: DSRLSAC
    costs: Mapping[str, float]


def make_model(env: NoiseEnv, s: DSRLSettings, seed: int) -> DSRLSAC:
    """The SB3 algorithm for some settings."""
    if env.reward.timeout != s.timeout:
        raise BadInput(
            f"learn: the settings say timeout {s.timeout!r}, the environment's ChunkReward {env.reward.timeout!r}; make them equal."
        )
    kind = DSRLSAC if s.variant == "sac" else DSRLNA
    own: dict[str, Any] = {}
    if s.variant == "na":
        own = {
            "next_value": s.next_value, "pairs": s.pairs, "actor_share": s.actor_share,
            "clip_distillation": s.clip_distillation, "distill_steps": s.distill_per_update,
        }  # fmt: skip
    every = max(1, round(1 / (s.updates_per_chunk * env.num_envs)))
    return kind(
        NoisePolicyNetworks,
        AsVecEnv(env),
        learning_rate=s.learning_rate,
        buffer_size=s.buffer_size,
        learning_starts=max(1, s.first_env_steps // env.policy.n_action_steps),
        batch_size=s.batch_size,
        tau=s.tau,
        gamma=s.discount(env.policy.n_action_steps),
        train_freq=every,
        gradient_steps=max(1, round(s.updates_per_chunk * env.num_envs * every)),
        ent_coef=f"auto_{s.first_temperature}",
        target_entropy=s.target_entropy * env.noise_size,
        backup_entropy=s.backup_entropy,
        reduction=s.reduction,
        actor_average=s.actor_average,
        policy_kwargs={
            "net_arch": list(s.hidden),
            "activation_fn": torch.nn.ReLU if s.activation == "relu" else torch.nn.Tanh,
            "n_critics": s.n_critics,
            "layer_norm": s.layer_norm,
            "optimizer_kwargs": {"fused": True},
        },
        seed=seed,
        device="cpu",
        **own,
    )


class _Enough(Exception):
    """Ends SB3's loop between a gradient step and the next rollout."""


def learn(
    env: NoiseEnv,
    settings: DSRLSettings,
    env_steps: int,
    seed: int,
    evaluate: Evaluate | None = None,
    schedule: Schedule | None = None,
    folder: Path | str | None = None,
    prior: Transitions | None = None,
    info: Mapping[str, Any] | None = None,
) -> Learned:
    """Learn noise for the policy of `env`.

    Args:
        env: in which it is learned; its episodes follow from its own seed.
        settings: see `DSRLSettings`.
        env_steps: of the environment, first rollouts included; the run ends at the first chunk that reaches them.
        seed: of networks, exploration and minibatches.
        evaluate: called with the deterministic and with the sampling policy; None never evaluates.
        schedule: evaluations, checkpoints, early stop.
        folder: makes the run resumable.
        prior: transitions that are in the replay buffer from the first step.
        info: kept in the noise policy's file.
    Raises:
        RunMismatch: the folder holds a run with other settings.
        BadInput: settings that do not fit the environment.
    """
    schedule = schedule or Schedule()
    place = None if folder is None else Path(folder)
    model = make_model(env, settings, seed)
    model.set_logger(_logger(place, schedule))
    asked = jsonable(
        {
            "settings": dataclasses.asdict(settings), "seed": seed, "bound": env.bound, "map": env.noise_map.describe(),
            "reader": env.reader.describe(), "num_envs": env.num_envs, "env_seed": env.seed, "evaluate_every": schedule.evaluate_every,
            "prior": 0 if prior is None else len(prior),
        }
    )  # fmt: skip
    run = _Run(model, env, env_steps, evaluate, schedule, place, asked, dict(info or {}))
    if place is not None and (place / "checkpoint.safetensors").exists():
        run.restore()
    else:
        env.env_steps = env.chunks = env.denoised = 0
        env.seconds = {"denoise": 0.0, "env": 0.0}
        model._last_obs = env.reset(seed=env.seed)[0]
        model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        if prior is not None:
            add(model, prior)
    with ExitStack() as stack:
        stack.callback(model.logger.close)
        run.bar = stack.enter_context(_bar(schedule.progress, env_steps))
        with suppress(_Enough):
            model.learn(env_steps * env.num_envs, callback=run, log_interval=None, reset_num_timesteps=False)  # type: ignore[arg-type]
    return run.finish()


class _Run(BaseCallback):
    """What is done between a gradient step and the next rollout: the end, evaluations, checkpoints."""

    def __init__(
        self, model: DSRLSAC, env: NoiseEnv, env_steps: int, evaluate: Evaluate | None, schedule: Schedule,
        folder: Path | None, asked: Mapping[str, Any], info: dict[str, Any],
    ) -> None:  # fmt: skip
        super().__init__()
        self.algorithm, self.noise_env, self.until = model, env, env_steps
        self.evaluate, self.schedule, self.folder, self.asked, self.info = evaluate, schedule, folder, asked, info
        self.fingerprint = fingerprint_of(env.policy)
        self.rows: list[dict[str, float]] = []
        self.best: NoisePolicy | None = None
        self.best_score = -np.inf
        self.stale = 0
        self.stopped = False
        self.spent = 0.0  # CPU seconds before this process
        self.evaluating = 0.0
        self.began = time.process_time()
        self.saved_at = time.monotonic()
        self.bar: Callable[[int, str], None] = lambda steps, text: None

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        steps = self.noise_env.env_steps
        over = steps >= self.until
        due = not self.rows or steps >= (len(self.rows)) * self.schedule.evaluate_every
        if self.evaluate is not None and (due or (over and self.rows[-1]["env_steps"] < steps)) and not self.stopped:
            self._evaluate()
        self.bar(steps, self._text())
        if over or self.stopped:
            if self.folder is not None:
                self.save()
            raise _Enough
        if self.folder is not None and time.monotonic() - self.saved_at >= 60 * self.schedule.checkpoint_minutes:
            self.save()
            self.saved_at = time.monotonic()

    def cpu_seconds(self) -> float:
        return self.spent + time.process_time() - self.began - self.evaluating

    def _text(self) -> str:
        if not self.rows or "det_success" not in self.rows[-1]:
            return ""
        return f"success {self.rows[-1]['det_success']:.2f}, sampled {self.rows[-1]['sampled_success']:.2f}"

    def policy(self) -> NoisePolicy:
        env = self.noise_env
        made = from_sb3(self.algorithm, env.noise_map, env.bound, env.reader)
        return dataclasses.replace(
            made, model=self.fingerprint, info=self.info | {"env_steps": env.env_steps, **self.asked}
        )

    def _evaluate(self) -> None:
        assert self.evaluate is not None
        env, model = self.noise_env, self.algorithm
        row: dict[str, float] = {
            "env_steps": env.env_steps, "chunks": env.chunks, "gradient_steps": model._n_updates, "cpu_seconds": self.cpu_seconds(),
        }  # fmt: skip
        began = time.process_time()
        policy = self._untrained() if env.env_steps == 0 else self.policy()
        for name, one in (("det", policy), ("sampled", policy.sampled())):
            row |= {f"{name}_{key}": float(value) for key, value in self.evaluate(one).items()}
        row |= {
            key.replace("/", "_"): float(value)
            for key, value in model.logger.name_to_value.items()
            if key.startswith("train/")
        }
        self.rows.append(row)
        success = row.get("det_success", 0.0)
        score = row.get("det_score", success)
        if score >= self.best_score:
            self.best = policy
        if score >= self.best_score + self.schedule.gain:
            self.stale = 0
        elif model._fitted:
            self.stale += 1
        self.best_score = max(score, self.best_score)
        s = self.schedule
        self.stopped = (s.patience is not None and self.stale >= s.patience) or (
            s.enough is not None and success >= s.enough
        )
        for key, value in row.items():
            model.logger.record(f"evaluation/{key}", value)
        model.logger.dump(env.env_steps)
        if self.folder is not None:
            write_bytes(self.folder / "curve.csv", self.curve().to_csv(index=False).encode())
        self.evaluating += time.process_time() - began

    def _untrained(self) -> NoisePolicy:
        """The untrained actor; states are standardised by nothing yet, so it sees zeros and acts like a constant."""
        policy = self.policy()
        policy.actor.scale.fill_(float("inf"))
        return policy

    def curve(self) -> pd.DataFrame:
        """One row per evaluation; counts first, the rest in the order of the alphabet."""
        first = ["env_steps", "chunks", "gradient_steps", "cpu_seconds"]
        rest = sorted({key for row in self.rows for key in row} - set(first))
        return pd.DataFrame(self.rows, columns=[*first, *rest])

    def finish(self) -> Learned:
        policy = self.policy()
        env, model = self.noise_env, self.algorithm
        costs = {
            **env.seconds, "update": model.update_seconds, "evaluate": self.evaluating, "all": self.cpu_seconds(),
            "update_denoise": getattr(model, "denoise_seconds", 0.0),
        }  # fmt: skip
        best = self.best or policy
        if self.folder is not None:
            policy.save(self.folder / "noise_policy.safetensors")
            best.save(self.folder / "best.safetensors")
        return Learned(policy, best, self.curve(), model, costs)

    # ---- checkpoints

    def save(self) -> None:
        assert self.folder is not None
        model, env = self.algorithm, self.noise_env
        buffer = model.replay_buffer
        assert buffer is not None
        kept = buffer.buffer_size if buffer.full else buffer.pos
        tensors = {f"policy.{name}": value.clone() for name, value in model.policy.state_dict().items()}
        for name, optimizer in _optimizers(model).items():
            for index, entry in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{name}.{index}.{key}": value.clone() for key, value in entry.items()}
        tensors |= {f"buffer.{name}": torch.from_numpy(array[:kept].copy()) for name, array in _arrays(buffer).items()}
        tensors["torch_rng"] = torch.get_rng_state()
        tensors["last_obs"] = torch.from_numpy(np.asarray(model._last_obs).copy())
        if model.log_ent_coef is not None:
            tensors["log_ent_coef"] = model.log_ent_coef.detach().clone()
        if self.best is not None:
            tensors |= {f"best.{name}": value.clone() for name, value in self.best.actor.state_dict().items()}
        kind, keys, *rest = np.random.get_state()
        header = {
            "schema": artifacts.SCHEMA,
            "kind": KIND,
            "asked": self.asked,
            "env": env.state(),
            "numpy_rng": [kind, np.asarray(keys).tolist(), *rest],
            "rows": self.rows,
            "best": None if self.best is None else [self.best_score, self.best.info["env_steps"]],
            "counts": [
                model.num_timesteps,
                model._n_updates,
                model._episode_num,
                int(model._fitted),
                buffer.pos,
                int(buffer.full),
                self.stale,
            ],
            "seconds": [
                self.cpu_seconds(),
                self.evaluating,
                model.update_seconds,
                getattr(model, "denoise_seconds", 0.0),
            ],
        }
        contiguous = {name: value.contiguous() for name, value in tensors.items()}
        write_bytes(self.folder / "checkpoint.safetensors", artifacts.encode(jsonable(header), contiguous))

    def restore(self) -> None:
        assert self.folder is not None
        path = self.folder / "checkpoint.safetensors"
        header, tensors = artifacts.read(path)
        if header.get("kind") != KIND:
            raise BadArtifact(f"{path} is no checkpoint of a training run; use another folder.")
        if header["asked"] != self.asked:
            changed = [key for key in self.asked if header["asked"].get(key) != self.asked[key]]
            raise RunMismatch(
                f"{path} is of a run with other {', '.join(changed)}; use another folder, or the same settings."
            )
        model, env = self.algorithm, self.noise_env
        groups: dict[str, dict[str, torch.Tensor]] = {}
        for name, value in tensors.items():
            head, _, rest = name.partition(".")
            groups.setdefault(head, {})[rest] = value
        model.policy.load_state_dict(groups["policy"])
        if model.log_ent_coef is not None:
            model.log_ent_coef.data.copy_(tensors["log_ent_coef"])
        for name, optimizer in _optimizers(model).items():
            state: dict[int, dict[str, torch.Tensor]] = {}
            for key, value in groups.get("optimizer", {}).items():
                owner, index, entry = key.split(".")
                if owner == name:
                    state.setdefault(int(index), {})[entry] = value
            optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
        buffer = model.replay_buffer
        assert buffer is not None
        for name, array in _arrays(buffer).items():
            array[: len(groups["buffer"][name])] = groups["buffer"][name].numpy()
        steps, updates, episodes, fitted, buffer.pos, full, self.stale = header["counts"]
        model.num_timesteps, model._n_updates, model._episode_num = steps, updates, episodes
        model._fitted, buffer.full = bool(fitted), bool(full)
        self.rows = [dict(row) for row in header["rows"]]
        env.restore(header["env"])
        model._last_obs = tensors["last_obs"].numpy().copy()
        model._last_episode_starts = np.ones(env.num_envs, dtype=bool)
        if header["best"] is not None:
            self.best_score = float(header["best"][0])
            best = self.policy()
            best.actor.load_state_dict(groups["best"])
            self.best = dataclasses.replace(best, info={**best.info, "env_steps": header["best"][1]})
        self.spent, self.evaluating, model.update_seconds, denoising = header["seconds"]
        self.spent += self.evaluating  # taken off again in `cpu_seconds`
        if isinstance(model, DSRLNA):
            model.denoise_seconds = denoising
        self.began = time.process_time()
        kind, keys, *rest = header["numpy_rng"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
        torch.set_rng_state(tensors["torch_rng"])


def _optimizers(model: DSRLSAC) -> dict[str, torch.optim.Optimizer]:
    found = {"actor": model.actor.optimizer, "critic": model.critic.optimizer}
    if model.ent_coef_optimizer is not None:
        found["temperature"] = model.ent_coef_optimizer
    if isinstance(model, DSRLNA):
        found["action_critic"] = model.action_critic.optimizer
    return found


def _arrays(buffer: Any) -> dict[str, np.ndarray]:
    names = ["observations", "next_observations", "actions", "rewards", "dones", "timeouts"]
    names += ["noises", "noise_actions"] if isinstance(buffer, AliasedBuffer) else []
    return {name: getattr(buffer, name) for name in names}


def _logger(folder: Path | None, schedule: Schedule) -> Logger:
    formats = ["csv"]
    if schedule.tensorboard:
        if folder is None:
            raise BadInput("learn: tensorboard=True needs a folder to write to.")
        try:
            import tensorboard  # noqa: F401
        except ImportError as error:
            raise MissingExtra("tensorboard=True needs its package: pip install 'steer-agents[noise]'.") from error
        formats.append("tensorboard")
    return (
        Logger(None, []) if folder is None else configure(str(folder), formats)
    )  # without a folder SB3 would make one


def _bar(show: bool, total: int) -> Any:
    """A context that gives `(env_steps, text) -> None`."""

    @contextmanager
    def quiet() -> Any:
        yield lambda steps, text: None

    @contextmanager
    def shown() -> Any:
        with bar("{task.completed}/{task.total} env steps", behind="{task.fields[text]}") as progress:
            task = progress.add_task("noise policy", total=total, text="")
            yield lambda steps, text: progress.update(task, completed=min(steps, total), text=text)

    return shown() if show else quiet()
