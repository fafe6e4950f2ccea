"""Settings of DSRL, and two presets of them.

`recommended` is what this project measured to work on CPU budgets; `paper` repeats what the published PyTorch code does (arXiv
2506.15799 and its configurations), its quirks included. What differs:

| | recommended | paper |
| --- | --- | --- |
| entropy in the critics' target | no | yes (falls to zero where success ends an episode that pays -1 per step) |
| first temperature | 0.1 | 1.0 |
| target entropy | -0.5 per number of the noise | 0 |
| networks | 2 x 128 ReLU, LayerNorm in the critics | 3 x 128 tanh, LayerNorm (there 128 to 2048 wide, LayerNorm in the actor too) |
| gradient steps | 1 per chunk | 5 per chunk (20 per call of `train` over 4 environments) |
| first rollouts | 4,000 env steps | 32,000 |
| time limit | bootstraps | terminal |
| next value of NA | noise critic | action critic, denoised in the update |
| the actor that is kept | running average, weight 0.01 per step | the last |
| distillation of NA | half from the actor, clipped to the box, 1 step | N(0, I), not clipped, 0.5 steps |
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies.errors import BadInput, UnknownName, nearest

VARIANTS = ("sac", "na")


@dataclass(frozen=True)
class DSRLSettings:
    """Settings of one training run.

    Args:
        variant: "sac" or "na".
        hidden, activation, layer_norm, n_critics, reduction: of the networks; see `networks.py`.
        learning_rate, batch_size, tau: of all optimisers; of a gradient step; of the target critics.
        gamma: discount; gamma_per: "chunk" or "env step", what it is per (per env step it is raised to the executed steps).
        updates_per_chunk: gradient steps per chunk of each row.
        first_env_steps: executed with clipped N(0, I) noise before anything is learned.
        first_temperature, target_entropy: alpha of SAC at the start; the entropy it is steered to, per number of the noise.
        backup_entropy: the entropy term in the critics' target.
        actor_average: weight of the newest actor in the running average of actors that evaluations and files take; 1 takes the last.
        timeout: "bootstrap" or "terminal", what a time limit is; used by whoever makes the `NoiseEnv`.
        buffer_size: transitions that are kept.
        next_value, pairs, actor_share, clip_distillation, distill_per_update: of NA, see `aliased.py`.
    """

    variant: str = "sac"
    hidden: tuple[int, ...] = (128, 128)
    activation: str = "relu"
    layer_norm: bool = True
    n_critics: int = 2
    reduction: str = "min"
    learning_rate: float = 3e-4
    batch_size: int = 256
    tau: float = 0.005
    gamma: float = 0.99
    gamma_per: str = "chunk"
    updates_per_chunk: float = 1.0
    first_env_steps: int = 4_000
    first_temperature: float = 0.1
    target_entropy: float = -0.5
    backup_entropy: bool = False
    actor_average: float = 0.01
    timeout: str = "bootstrap"
    buffer_size: int = 100_000
    next_value: str = "noise"
    pairs: int = 4
    actor_share: float = 0.5
    clip_distillation: bool = True
    distill_per_update: int = 1

    def __post_init__(self) -> None:
        for name, allowed in (
            ("variant", VARIANTS),
            ("activation", ("relu", "tanh")),
            ("reduction", ("min", "mean")),
            ("gamma_per", ("chunk", "env step")),
            ("timeout", ("bootstrap", "terminal")),
            ("next_value", ("noise", "action")),
        ):
            if getattr(self, name) not in allowed:
                raise BadInput(
                    f"DSRL: {name} {getattr(self, name)!r} is unknown{nearest(getattr(self, name), allowed)}"
                )
        for name in (
            "learning_rate",
            "batch_size",
            "updates_per_chunk",
            "buffer_size",
            "n_critics",
            "first_temperature",
        ):
            if not getattr(self, name) > 0:
                raise BadInput(f"DSRL: {name} must be positive, got {getattr(self, name)}.")
        if not 0 < self.actor_average <= 1:
            raise BadInput(f"DSRL: actor_average must be in (0, 1], got {self.actor_average}.")
        if not 0 < self.gamma <= 1 or self.first_env_steps < 0:
            raise BadInput(
                f"DSRL: expected gamma in (0, 1] and first_env_steps from 0, got {self.gamma}, {self.first_env_steps}."
            )

    def discount(self, n_action_steps: int) -> float:
        """gamma of one chunk."""
        return self.gamma if self.gamma_per == "chunk" else self.gamma**n_action_steps


PRESETS: Mapping[str, DSRLSettings] = {
    "recommended": DSRLSettings(),
    "paper": DSRLSettings(
        hidden=(128, 128, 128), activation="tanh", updates_per_chunk=5.0, first_env_steps=32_000, first_temperature=1.0,
        target_entropy=0.0, backup_entropy=True, actor_average=1.0, timeout="terminal", next_value="action", actor_share=0.0,
        clip_distillation=False, buffer_size=1_000_000,
    ),
}  # fmt: skip


def preset(name: str, variant: str = "sac") -> DSRLSettings:
    """A preset for a variant.

    Raises:
        UnknownName: no such preset.
    """
    if name not in PRESETS:
        raise UnknownName(f"preset {name!r} is unknown{nearest(name, PRESETS)}")
    return replace(PRESETS[name], variant=variant)
