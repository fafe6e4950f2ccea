"""How tiny-vla is made: demonstrations and scenes, grounding of the eyes, behaviour cloning of the decoder, evaluation, card.

Every step leaves a file and is skipped where its file is there already; training steps also leave checkpoints, so an
interrupted recipe goes on where it stopped (with fresh moments of the optimiser). Seeded throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from launch.experiments.base import Say
from launch.rebuild.progress import Progress
from launch.rebuild.vla_card import render
from launch.rebuild.vla_data import ADVERBS, Cells, DataSettings, Pool, collect, pools, vocabulary
from launch.rebuild.vla_evaluation import EvaluationSettings, assess
from policies import weights
from policies.tiny_vla import TinyVLA, TinyVLAConfig, TinyVLAPolicy, save
from policies.tiny_vla.files import read
from policies.tiny_vla.training import Stage, cloning_loss, grounding_loss, new, optimise
from policies.tiny_vla.vision import N_POINTS


@dataclass(frozen=True)
class Settings:
    """Sizes of the recipe.

    Args:
        data, evaluation: what is recorded and measured.
        grounding, cloning: stages of training.
        shares: of each adverb in a batch of cloning, in the order of `ADVERBS`.
        seed: of training.
    """

    data: DataSettings = field(default_factory=DataSettings)
    grounding: Stage = field(default_factory=lambda: Stage(steps=2500, batch_size=64, learning_rate=2e-3))
    cloning: Stage = field(default_factory=lambda: Stage(steps=3000, batch_size=128, learning_rate=1.5e-3))
    shares: tuple[float, ...] = (0.36, 0.09, 0.19, 0.09, 0.09, 0.09, 0.09)
    evaluation: EvaluationSettings = field(default_factory=EvaluationSettings)
    seed: int = 0


def run(name: str, folder: Path, say: Say, settings: Settings | None = None) -> Path:
    """The whole recipe.

    Args:
        name: of the weight file and the card.
        folder: checkpoints, weights, tables and card; the recorded frames go beside it, to `vla-data`.
    Returns:
        the weight file.
    """
    s = settings or Settings()
    torch.set_num_threads(1)
    frames = folder.parent / "vla-data"
    say.plan([8.0, 13.0, 18.0, 15.0])
    say.stage(f"{name}: random scenes and demonstrations, in {frames}")
    collect(s.data, frames, say)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        save(train(s, frames, folder, say), path)
    say.stage(f"{name}: episodes on the fixed initial states")
    network = read(path).eval()
    table = assess(
        s.evaluation,
        s.data.tasks,
        lambda adverb: TinyVLAPolicy(network, adverb=adverb),
        folder / "evaluation.json",
        say,
    )
    (folder / f"{name}.md").write_text(render(name, table, s.data.tasks, s.evaluation, facts(s, network)))
    return path


def train(s: Settings, frames: Path, folder: Path, say: Say) -> TinyVLA:
    """Both stages; returns the finished network."""
    words, adverbs = vocabulary(s.data.tasks)
    network = new(TinyVLAConfig(words=words, adverbs=adverbs), s.seed)
    demos = pools(s.data, frames, "demo")
    positions = torch.cat([pool.state[:, :8] for pool in demos])
    network.state_mean.copy_(positions.mean(0))
    network.state_scale.copy_(positions.std(0).clamp(min=1e-3))
    say.stage("grounding: the eyes learn where the named things are")
    ground(network, s.grounding, demos + pools(s.data, frames, "scene"), folder / "grounding.safetensors", s.seed, say)
    say.stage("cloning: the decoder imitates the experts")
    clone(network, s, pools(s.data, frames, "demo", "extra"), folder / "cloning.safetensors", say)
    return network.eval()


def checkpoint(network: TinyVLA, path: Path, step: int) -> None:
    """Write weights and how many steps made them."""
    weights.write(path, "tiny-vla-checkpoint", {"step": step}, network.state_dict())


def resume(network: TinyVLA, path: Path) -> int:
    """Read what `checkpoint` wrote into a network; 0 steps if there is nothing."""
    if not path.exists():
        return 0
    config, tensors = weights.read(path, "tiny-vla-checkpoint")
    weights.fill(network, tensors, path)
    return int(config["step"])


def ground(network: TinyVLA, stage: Stage, data: list[Pool], path: Path, seed: int, say: Say) -> None:
    """Stage 1: each picture with a random one of the instructions that its scene allows."""
    start = resume(network, path)
    rng = np.random.default_rng([seed, 10, start])
    share = np.array([len(pool.instructions) * np.sqrt(len(pool.state)) for pool in data])
    share /= share.sum()
    heard = [[network.config.word_ids(text) for text in pool.instructions] for pool in data]

    def losses() -> Iterator[tuple[torch.Tensor, float]]:
        while True:
            counts = rng.multinomial(stage.batch_size, share)
            rows = [
                (p, rng.integers(len(data[p].state), size=n), rng.integers(len(heard[p]), size=n))
                for p, n in enumerate(counts)
                if n
            ]
            ids, _ = network.tokens([heard[p][which] for p, _, asked in rows for which in asked])
            state = torch.cat([data[p].state[index] for p, index, _ in rows])
            points = torch.cat([data[p].points[index, asked] for p, index, asked in rows])
            pixels = torch.cat([data[p].pictures[index] for p, index, _ in rows])
            spots = torch.cat([data[p].spots[index, asked] for p, index, asked in rows])
            loss, error = grounding_loss(network, pixels, ids, state, points, spots)
            yield loss, 1e3 * error.median().item()

    told = Progress(
        say, stage.steps, start, "grounding", "median error {:.1f} mm", lambda step: checkpoint(network, path, step)
    )
    optimise(list(network.vision.parameters()), stage, losses(), told, start)


@torch.no_grad()
def seen(network: TinyVLA, data: list[Pool]) -> list[torch.Tensor]:
    """What the towers see in every demonstration frame, with the frame's own instruction."""
    found = []
    for pool in data:
        parts = []
        for index in torch.arange(len(pool.state)).split(256):
            ids, _ = network.tokens([network.config.word_ids(pool.instructions[pool.own])] * len(index))
            parts.append(network.look(pool.pictures[index], ids, pool.state[index]))
        found.append(torch.cat(parts))
    return found


def blurred_view(view: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Features with noise: unseen scenes are located less well than these, and the decoder learns to live with that."""
    noise = rng.normal(0.0, 0.01, view.shape)
    noise[:, -N_POINTS:] *= 3
    return view + torch.from_numpy(noise.astype(np.float32))


def clone(network: TinyVLA, s: Settings, data: list[Pool], path: Path, say: Say) -> None:
    """Stage 2: the decoder imitates the experts; every task is drawn equally often."""
    stage, start = s.cloning, resume(network, path)
    if start >= stage.steps:
        return
    features = seen(network, data)
    say.note("the eyes have seen all frames")
    rng = np.random.default_rng([s.seed, 11, start])
    cells = Cells(data, s.shares)
    c = network.config
    own = [c.word_ids(pool.instructions[pool.own]) for pool in data]
    how = [c.word_ids(adverb) if adverb else [] for adverb in ADVERBS]

    def losses() -> Iterator[tuple[torch.Tensor, float]]:
        while True:
            picked = cells.draw(stage.batch_size, rng)
            ids, mask = network.tokens([own[p] + how[a] for p, a, rows in picked for _ in rows])
            state = torch.cat([data[p].state[rows] for p, _, rows in picked])
            chunk = torch.cat([data[p].chunk[rows] for p, _, rows in picked])
            points = torch.cat([data[p].points[rows, data[p].own] for p, _, rows in picked])
            view = blurred_view(torch.cat([features[p][rows] for p, _, rows in picked]), rng)
            loss, action = cloning_loss(network, view, ids, mask, state, chunk, points)
            yield loss, action.item()

    told = Progress(say, stage.steps, start, "cloning", "loss {:.3f}", lambda step: checkpoint(network, path, step))
    mine = [parameter for name, parameter in network.named_parameters() if not name.startswith("vision.")]
    optimise(mine, stage, losses(), told, start)


def facts(s: Settings, network: TinyVLA) -> dict[str, str]:
    """What the card says about model and training."""
    c, d = network.config, s.data
    kept = sum(d.per_adverb) + sum(d.extra)
    return {
        "parameters": f"{sum(parameter.numel() for parameter in network.parameters()):,}",
        "decoder": f"{c.num_hidden_layers} blocks, width {c.hidden_size}, {c.num_attention_heads} heads, {c.intermediate_size} neurons",
        "vocabulary": f"{len(c.words)} words and 256 action bins: {', '.join(c.words)}",
        "data": f"{len(d.tasks) * kept} demonstrations ({kept} a task, {sum(d.extra)} of them for the decoder alone), "
        f"{d.scenes * len(d.tasks)} random scenes, seed {d.seed}",
        "grounding": f"{s.grounding.steps} steps of {s.grounding.batch_size}, seed {s.seed}",
        "cloning": f"{s.cloning.steps} steps of {s.cloning.batch_size}",
    }
