"""How smol-vla-135m is made: the eyes of tiny-vla, the frames of tiny-vla, and adapters on a frozen language model.

Needs the frames (`vla-data`, recorded if they are not there) and the embedded tiny-vla, whose eyes it keeps as they are. An
interrupted training goes on from its checkpoint (with fresh moments of the optimiser).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import policies
from launch.experiments.base import Say
from launch.rebuild.progress import Progress
from launch.rebuild.tiny_vla import blurred_view, seen
from launch.rebuild.vla_card import render
from launch.rebuild.vla_data import ADVERBS, Cells, DataSettings, collect, pools
from launch.rebuild.vla_evaluation import EvaluationSettings, assess
from policies import weights
from policies.llm_agent.smollm2 import load_smollm2
from policies.smol_vla import SmolVLA, SmolVLAConfig, SmolVLAPolicy, save
from policies.smol_vla.files import fill, fresh
from policies.smol_vla.training import cloning_loss
from policies.tiny_vla import TinyVLAPolicy
from policies.tiny_vla.training import Stage, optimise

TEXT = (
    "The robot arm stood at the end of a long table. On it were a plate, a bowl and three small blocks, and nobody knew who had put "
    "them there. Every morning a woman came in, switched on the lights and looked at the blocks for a while before she began to "
    "work.\n\nTo boil an egg, bring a pot of water to the boil, lower the egg into it with a spoon, and wait for seven minutes. Then "
    "put it into cold water so that it stops cooking.\n\nIn the nineteenth century most letters travelled by train. A letter posted "
    "in the evening was sorted on the way and delivered the next day, sometimes before breakfast."
)
"""Ordinary text, written for this purpose, on which the language model is compared with what it was."""


@dataclass(frozen=True)
class Settings:
    """Sizes of the recipe.

    Args:
        data, evaluation: what is recorded and measured.
        cloning: the only stage of training.
        eyes: name of the policy that lends its eyes.
        seed: of training.
    """

    data: DataSettings = field(default_factory=DataSettings)
    cloning: Stage = field(default_factory=lambda: Stage(steps=1900, batch_size=32, learning_rate=1.5e-3, warm_up=100))
    evaluation: EvaluationSettings = field(default_factory=lambda: EvaluationSettings(adverb_init_states=5))
    eyes: str = "tiny-vla"
    seed: int = 0


def run(name: str, folder: Path, say: Say, settings: Settings | None = None) -> Path:
    """The whole recipe.

    Args:
        name: of the weight file and the card.
        folder: checkpoint, weights, tables and card; the recorded frames are beside it, in `vla-data`.
    Returns:
        the weight file.
    """
    s = settings or Settings()
    torch.set_num_threads(1)
    frames = folder.parent / "vla-data"
    say.plan([8.0, 75.0, 40.0])
    say.stage(f"{name}: random scenes and demonstrations, in {frames}")
    collect(s.data, frames, say)
    path = folder / f"{name}.safetensors"
    if not path.exists():
        say.stage("cloning: adapters, projectors and action tokens imitate the experts")
        save(train(s, frames, folder, say), path)
    say.stage(f"{name}: episodes on the fixed initial states")
    policy = policies.load(f"smol-vla:{path}")
    assert isinstance(policy, SmolVLAPolicy)
    network, tokenize = policy.network, policy.tokenize
    table = assess(
        s.evaluation, s.data.tasks, lambda adverb: SmolVLAPolicy(network, tokenize, adverb=adverb),
        folder / "evaluation.json", say,
    )  # fmt: skip
    before, after = text_cross_entropy(network)
    (folder / f"{name}.md").write_text(
        render(name, table, s.data.tasks, s.evaluation, facts(s, network), success_bar=0.6, text=(before, after))
    )
    return path


def train(s: Settings, frames: Path, folder: Path, say: Say) -> SmolVLA:
    """Clone the experts; returns the finished network."""
    lender = policies.load(s.eyes)
    assert isinstance(lender, TinyVLAPolicy)
    eyes, data = lender.network, pools(s.data, frames, "demo")
    network, tokenize = fresh(SmolVLAConfig(words=eyes.config.words, adverbs=eyes.config.adverbs), s.seed)
    network.vision.load_state_dict(eyes.vision.state_dict())
    network.state_mean.copy_(eyes.state_mean)
    network.state_scale.copy_(eyes.state_scale)
    path = folder / "cloning.safetensors"
    start = 0
    if path.exists():
        config, tensors = weights.read(path, "smol-vla-checkpoint")
        start = int(config["step"])
        fill(network, tensors, path)
    features = seen(eyes, data)
    say.note("the eyes have seen all frames")
    text = network.read_text(
        [tokenize(f"{pool.instructions[pool.own]} {adverb}") for pool in data for adverb in ADVERBS]
    )
    rng = np.random.default_rng([s.seed, 12, start])
    cells = Cells(data)

    def losses() -> Iterator[tuple[torch.Tensor, float]]:
        while True:
            picked = cells.draw(s.cloning.batch_size, rng)
            which = torch.tensor([p * len(ADVERBS) + a for p, a, rows in picked for _ in rows])
            state = torch.cat([data[p].state[rows] for p, _, rows in picked])
            chunk = torch.cat([data[p].chunk[rows] for p, _, rows in picked])
            view = blurred_view(torch.cat([features[p][rows] for p, _, rows in picked]), rng)
            loss = cloning_loss(network, text, which, view, state, chunk)
            yield loss, loss.item()

    def keep(step: int) -> None:
        weights.write(path, "smol-vla-checkpoint", {"step": step}, network.trained())

    mine = [p for name, p in network.named_parameters() if p.requires_grad and not name.startswith("vision.")]
    optimise(mine, s.cloning, losses(), Progress(say, s.cloning.steps, start, "cloning", "loss {:.3f}", keep), start)
    return network.eval()


@torch.no_grad()
def text_cross_entropy(network: SmolVLA) -> tuple[float, float]:
    """Nats per token of `TEXT`: of the language model's first blocks as they came, and of the trained network."""
    language, tokenizer = load_smollm2(torch.float32, "cpu")
    ids = torch.tensor([tokenizer(TEXT)["input_ids"]])
    language.model.layers = language.model.layers[: network.config.num_hidden_layers]
    found = []
    for logits in (language(ids, use_cache=False).logits, network.text_logits(ids)):
        found.append(float(torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:])))
    if not all(map(math.isfinite, found)):
        raise ArithmeticError(f"the cross-entropy on text is not finite: {found}")
    return found[0], found[1]


def facts(s: Settings, network: SmolVLA) -> dict[str, str]:
    """What the card says about model and training."""
    c, d = network.config, s.data
    trained = sum(value.numel() for value in network.trained().values())
    return {
        "language model": f"SmolLM2-135M-Instruct, the first {c.num_hidden_layers} of 30 blocks, not one weight changed",
        "trained": f"{trained:,} parameters: adapters of rank {c.rank} beside q, k, v and o, projectors, queries, 256 action rows, and the "
        f"eyes of {s.eyes}",
        "data": f"the frames of tiny-vla: {len(d.tasks) * sum(d.per_adverb)} demonstrations, seed {d.seed}",
        "cloning": f"{s.cloning.steps} steps of {s.cloning.batch_size}, float32, seed {s.seed}",
    }
