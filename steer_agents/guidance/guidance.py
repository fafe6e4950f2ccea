"""Guided denoising: the sampling path is bent along the gradient of a reward of the predicted trajectory, without training.

After VLS (Vision-Language Steering, arXiv 2602.03973). After a denoise step from noise level s to r, a particle becomes

    x <- x + strength * (s - r) * g / |g|,    g = gradient of the reward with respect to the sample

The steps' widths s - r add up to 1, so `strength` is the length of the whole push on one chunk, in the policy's normalised
units, whatever the number of steps. For a flow this is VLS's v + lambda g of unit length; on DDIM VLS adds lambda sqrt(1 - abar) g to the
predicted noise, where we keep the one rule for all paths.

Of what the gradient is taken (`of`):
    "clean"    the clean estimate that the step itself made, moved along with x: no further network call (the default)
    "sample"   the noisy sample as if it were the action: what the released code of VLS does
    "network"  the clean estimate at the new x, through the network: exact, one more forward and backward per inner step

Differences from VLS and its released code, each on purpose: every particle has its own norm (theirs is one norm over the
batch); K inner steps are taken (theirs are accepted and ignored), 1 by default; the level to start from is honoured (theirs is
not on flows); the Feynman-Kac step counts how often it fires (theirs never does on flows); the strength is constant, since rewards of this
package have no gradient where they are satisfied; errors stop the run (theirs go on unguided).

Feynman-Kac resampling (Singhal et al. 2025, arXiv 2501.06848), difference potential: log G = scale * (reward now - reward
before), so that the product over the steps is exp(scale * reward of the chunk) whatever happened in between: particles stand for the base
distribution weighed by it. With a gradient besides they stand for the guided distribution weighed by it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch

from policies.base import Observation
from policies.errors import BadInput, NonFinite
from policies.generative import DenoiseState, GenerativePolicy, Sample
from steer_agents.guidance import particles, rows
from steer_agents.guidance.language import Program
from steer_agents.guidance.prediction import Kinematics
from steer_agents.guidance.scene import Scene, SceneReader, from_infos
from steer_agents.guidance.stages import Reward, Stages, as_stages

OF = ("clean", "sample", "network")
CHOICES = ("best", "first", "drawn")
_STREAM = 5  # of a row's random numbers, beside those of the policy


@dataclass(frozen=True)
class FeynmanKac:
    """Resampling of particles by what they are worth.

    Args:
        scale: the particles' weights are exp(scale * reward).
        threshold: resample where the effective number of particles is below this share of K, in (0, 1].
        every: look after every so many denoise steps, and after the last one.
    """

    scale: float
    threshold: float = 0.5
    every: int = 1

    def __post_init__(self) -> None:
        if not (math.isfinite(self.scale) and self.scale > 0 and 0 < self.threshold <= 1 and self.every >= 1):
            raise BadInput(
                f"FeynmanKac: scale above 0, threshold in (0, 1], every from 1; got scale={self.scale}, threshold={self.threshold}, "
                f"every={self.every}."
            )


@dataclass(frozen=True)
class Repulsion:
    """Particles of a row push one another apart while there is much noise.

    Args:
        strength: as that of guidance, the length of the whole push if it acted on all steps.
        until: noise level from which it rests, in [0, 1).
    """

    strength: float
    until: float = 0.7

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and self.strength > 0 and 0 <= self.until < 1):
            raise BadInput(
                f"Repulsion: strength above 0, until in [0, 1); got strength={self.strength}, until={self.until}."
            )


@dataclass
class Counters:
    """What guidance has done since it was made.

    Args:
        chunks: rows of the batch that were planned; steps: particles times denoise steps in which a gradient was asked for.
        pushed: those in which it was not 0, so that the sample was moved.
        looks: rows times denoise steps in which weights were looked at; resampled: those in which particles were drawn anew.
        least_size: least effective number of particles.
        changed: rows for which another particle than the policy's own sample was executed.
    """

    chunks: int = 0
    steps: int = 0
    pushed: int = 0
    looks: int = 0
    resampled: int = 0
    least_size: float = math.inf
    changed: int = 0

    def report(self) -> dict[str, float]:
        """As shares where they are shares; NaN where nothing was counted."""
        return {
            "chunks": self.chunks,
            "share_pushed": self.pushed / self.steps if self.steps else math.nan,
            "share_resampled": self.resampled / self.looks if self.looks else math.nan,
            "least_effective_size": self.least_size if self.looks else math.nan,
            "share_changed": self.changed / self.chunks if self.chunks else math.nan,
        }


@dataclass(eq=False)
class RewardGuidance:
    """A sampling part that bends the path of a flow or diffusion policy along the gradient of a reward.

        with sa.steer(policy, RewardGuidance(language.load("keep_out.yaml"), kinematics, strength=4.0)) as steering:
            ...

    Strength 0 with one particle gives the unsteered chunk, bit for bit. Everything follows from the noise and the episodes' seeds.

    Args:
        reward: a function (prediction, scene) -> (R,), `Stages`, or a `Program`.
        kinematics: what the environment's actions mean for the hand.
        strength: length of the push on a chunk, in normalised units of the policy, from 0.
        scene: where keypoints come from; by default the environment's infos.
        of: see the module's docstring.
        inner_steps: gradient steps per denoise step, which share its push.
        from_level: noise level from which on the gradient acts, in (0, 1]; 1 is all of the path.
        dimensions: entries of an action that are pushed; None is the kinematics' `position`.
        per_particle_norm: push every particle by the same length; False pushes by the gradient itself.
        n_particles: K samples per row, the first from the policy's own noise.
        feynman_kac: resample them; repulsion: keep them apart; both need K > 1.
        choose: which one is executed: "best" by its reward, "first", or "drawn" by its weight.
        random: push along a random direction of the same length instead: a control.
    Raises:
        BadInput, when made: a setting out of range. When run: the reward gives no (R,) tensor or has no gradient; no keypoints.
        UnknownName: the reward names a keypoint, extent or quantity that the scene does not have.
        NonFinite: reward, gradient or keypoint is NaN or infinite.
    """

    reward: Reward | Stages | Program
    kinematics: Kinematics
    strength: float
    scene: SceneReader = field(default_factory=from_infos)
    of: str = "clean"
    inner_steps: int = 1
    from_level: float = 1.0
    dimensions: tuple[int, ...] | None = None
    per_particle_norm: bool = True
    n_particles: int = 1
    feynman_kac: FeynmanKac | None = None
    repulsion: Repulsion | None = None
    choose: str = "best"
    random: bool = False
    counters: Counters = field(default_factory=Counters, init=False)
    entrance: ClassVar[str] = "path"

    def __post_init__(self) -> None:
        wrong = {
            "strength": not (math.isfinite(self.strength) and self.strength >= 0),
            "of": self.of not in OF,
            "inner_steps": self.inner_steps < 1,
            "from_level": not 0 < self.from_level <= 1,
            "n_particles": self.n_particles < 1,
            "choose": self.choose not in CHOICES,
            "dimensions": self.dimensions is not None and not self.dimensions,
        }
        if any(wrong.values()):
            names = [name for name, is_wrong in wrong.items() if is_wrong]
            raise BadInput(
                f"RewardGuidance: got {', '.join(f'{name}={getattr(self, name)!r}' for name in names)}; allowed: strength "
                f"finite from 0, of in "
                f"{OF}, inner_steps and n_particles from 1, from_level in (0, 1], choose in {CHOICES}, dimensions a tuple of "
                f"entries or None."
            )
        if self.n_particles == 1 and (self.feynman_kac or self.repulsion):
            raise BadInput(
                "RewardGuidance: feynman_kac and repulsion act on several particles; pass n_particles of 2 or more."
            )
        if self.choose == "drawn" and self.feynman_kac is None:
            raise BadInput("RewardGuidance: choose='drawn' draws by the weights of feynman_kac, which is None.")
        self._stages = self.reward.compiled() if isinstance(self.reward, Program) else as_stages(self.reward)
        self._stage = self._stages.first(0)
        self._rngs: list[np.random.Generator] = []
        self._named = False  # the scene was found to have all that a program names
        self._of_rows: torch.Tensor | None = (
            None  # strengths (B,) that are in force in place of `strength`, see `turned`
        )

    def turned(self, policy: GenerativePolicy, values: np.ndarray | None) -> None:
        """Set the strength of every row, (B,) from 0, in place of the one for all; None goes back to that one.

        Raises:
            BadInput: a negative strength (another reward pushes the other way).
        """
        if values is not None and not (np.isfinite(values) & (values >= 0)).all():
            raise BadInput(f"RewardGuidance: strengths must be finite and at least 0, got {values.tolist()}.")
        self._of_rows = None if values is None else torch.from_numpy(np.asarray(values, dtype=np.float32))

    @property
    def _rests(self) -> bool:
        """Whether nothing is pushed."""
        return self.strength == 0 if self._of_rows is None else not bool(self._of_rows.any())

    @property
    def stage(self) -> list[str]:
        """Names of the stages that the rows are in."""
        return [self._stages.stages[number].name for number in self._stage.tolist()]

    def start(self, policy: GenerativePolicy, seeds: Sequence[int]) -> None:
        """See `SamplingPart`: stages begin anew, and every row's random numbers."""
        self._stage, self._named = self._stages.first(len(seeds)), False
        self._rngs = [np.random.default_rng([seed, _STREAM]) for seed in seeds]

    def plan(
        self, policy: GenerativePolicy, observation: Observation, noise: torch.Tensor, sample: Sample
    ) -> torch.Tensor:
        """See `SamplingPart`."""
        n_rows, episodes = len(noise), len(self._rngs)
        if not episodes or n_rows % episodes:
            raise BadInput(
                f"RewardGuidance: {n_rows} rows of noise for {episodes} episodes; run the policy through reset and act (or rollout)."
            )
        outer, K = n_rows // episodes, self.n_particles
        scene = self.scene(rows.first_of_each(observation, outer), policy.context.infos)
        if isinstance(self.reward, Program) and not self._named:
            self.reward.check(scene)
            self._named = True
        self._stage = self._stages.step(self._stage, scene)
        stage = self._stage.repeat_interleave(outer * K)
        value = _Value(self._stages, self.kinematics, scene.repeated(outer * K), stage)
        self.counters.chunks += n_rows
        if self._rests and K == 1:
            return sample(observation, noise)
        walk = _Walk(self, value, n_rows)
        bends = not self._rests or self.feynman_kac is not None or self.repulsion is not None
        with policy.context.during(repeats=policy.context.repeats * K):
            chunk = sample(rows.repeated(observation, K), self._noises(noise), walk.bend if bends else None)
        return chunk if K == 1 else self._chosen(chunk, value, walk)

    def _noises(self, noise: torch.Tensor) -> torch.Tensor:
        """(R, ...): every row's own noise first, then K - 1 further ones."""
        if self.n_particles == 1:
            return noise
        more = self._normal(len(noise), (self.n_particles - 1, *noise.shape[1:])).to(noise)
        return torch.cat([noise[:, None], more], dim=1).flatten(0, 1)

    def _chosen(self, chunk: torch.Tensor, value: _Value, walk: _Walk) -> torch.Tensor:
        by_row = chunk.unflatten(0, (-1, self.n_particles))
        if self.choose == "first":
            index = torch.zeros(len(by_row), dtype=torch.int64)
        elif self.choose == "drawn":
            index = particles.drawn(walk.log_weights, self._uniform(len(by_row)))
        else:
            with torch.no_grad():
                index = value(chunk).unflatten(0, (-1, self.n_particles)).argmax(dim=1)
        own = walk.origin[torch.arange(len(index)), index] == 0
        self.counters.changed += int((~own).sum())
        return by_row[torch.arange(len(index)), index]

    def _rng(self, row: int, n_rows: int) -> np.random.Generator:
        return self._rngs[row * len(self._rngs) // n_rows]

    def _normal(self, n_rows: int, shape: Sequence[int]) -> torch.Tensor:
        """(n_rows, *shape) standard normal, every row from its own episode's seed."""
        draws = [self._rng(row, n_rows).standard_normal(shape) for row in range(n_rows)]
        return torch.from_numpy(np.stack(draws).astype(np.float32))

    def _uniform(self, n_rows: int) -> torch.Tensor:
        return torch.tensor([self._rng(row, n_rows).random() for row in range(n_rows)], dtype=torch.float64)

    def describe(self) -> dict[str, Any]:
        """JSON-able form."""
        settings = {
            name: getattr(self, name)
            for name in (
                "strength",
                "of",
                "inner_steps",
                "from_level",
                "per_particle_norm",
                "n_particles",
                "choose",
                "random",
            )
        }
        reward = (
            self.reward.describe()
            if isinstance(self.reward, Program)
            else {"stages": [one.name for one in self._stages.stages]}
        )
        return {
            "path": "RewardGuidance",
            **settings,
            "dimensions": list(self.dimensions or self.kinematics.position),
            "feynman_kac": None if self.feynman_kac is None else vars(self.feynman_kac),
            "repulsion": None if self.repulsion is None else vars(self.repulsion),
            "kinematics": self.kinematics.describe(),
            "reward": reward,
        }


@dataclass(frozen=True, eq=False)
class _Value:
    """The reward of chunks in the environment's units, (R, H, A) -> (R,)."""

    stages: Stages
    kinematics: Kinematics
    scene: Scene
    stage: torch.Tensor

    def __call__(self, chunk: torch.Tensor) -> torch.Tensor:
        return self.stages.reward(self.kinematics.predict(chunk, self.scene), self.scene, self.stage)


class _Walk:
    """One chunk's way from noise to action: the hook, and what it remembers between denoise steps.

    Attributes:
        log_weights: (B, K) of Feynman-Kac.
        origin: (B, K) number of the noise that a particle started from.
    """

    def __init__(self, part: RewardGuidance, value: _Value, n_rows: int) -> None:
        self._part, self._value, self._level = part, value, 1.0
        self.log_weights = torch.zeros(n_rows, part.n_particles)
        self.origin = torch.arange(part.n_particles).repeat(n_rows, 1)
        self._reward = torch.zeros(n_rows, part.n_particles)
        self._pushable: torch.Tensor | None = None

    def bend(self, state: DenoiseState) -> torch.Tensor | None:
        part, before, self._level = self._part, self._level, state.noise_level
        width, x = before - state.noise_level, state.x
        if part.repulsion is not None and before > part.repulsion.until:
            apart = particles.repulsion(x.unflatten(0, (-1, part.n_particles))).flatten(0, 1)
            x = x + part.repulsion.strength * width * apart * self._mask(x)
        if not part._rests and before <= part.from_level + 1e-9:
            for _ in range(part.inner_steps):
                x = self._pushed(state, x, width / part.inner_steps)
        weighing = part.feynman_kac
        if weighing is not None and ((state.denoise_step + 1) % weighing.every == 0 or state.noise_level == 0):
            x = self._resampled(state, x, weighing)
        return None if x is state.x else x

    def _pushed(self, state: DenoiseState, x: torch.Tensor, width: float) -> torch.Tensor:
        part = self._part
        gradient = gradient_of(part.of, self._value, state, x) * self._mask(x)
        direction, length = particles.unit(gradient)
        if part.random:
            own = part._normal(len(x), x.shape[1:]).to(x) * self._mask(x)
            direction = particles.unit(own)[0] * (length > 0).reshape(-1, *[1] * (x.dim() - 1))
            gradient = direction * length.reshape(-1, *[1] * (x.dim() - 1))
        part.counters.steps += len(x)
        part.counters.pushed += _nonzero(length.tolist())
        push = direction if part.per_particle_norm else gradient
        if part._of_rows is None:
            return x.add(push, alpha=part.strength * width)
        own_strength = part._of_rows.repeat_interleave(len(x) // len(part._of_rows)).to(x)
        return x + (own_strength * width).reshape(-1, *[1] * (x.dim() - 1)) * push

    def _resampled(self, state: DenoiseState, x: torch.Tensor, weighing: FeynmanKac) -> torch.Tensor:
        part = self._part
        with torch.no_grad():
            clean = x if state.noise_level == 0 else state.clean + (x - state.x)
            reward = self._value(state.to_action(clean)).cpu().unflatten(0, (-1, part.n_particles))
        self.log_weights = self.log_weights + weighing.scale * (reward - self._reward)
        size = particles.effective_size(self.log_weights)
        fires = size < weighing.threshold * part.n_particles
        part.counters.looks += len(size)
        part.counters.resampled += int(fires.sum())
        part.counters.least_size = min(part.counters.least_size, float(size.min()))
        self._reward = reward
        uniform = part._uniform(len(size))
        if not bool(fires.any()):
            return x
        index = particles.resampled(self.log_weights, uniform)
        index = torch.where(fires[:, None], index, torch.arange(part.n_particles))
        self.log_weights = torch.where(fires[:, None], 0.0, self.log_weights)
        self._reward, self.origin = reward.gather(1, index), self.origin.gather(1, index)
        flat = (index + part.n_particles * torch.arange(len(index))[:, None]).flatten()
        return x[flat.to(x.device)]

    def _mask(self, x: torch.Tensor) -> torch.Tensor:
        """1 at the entries of an action that are pushed."""
        if self._pushable is not None:
            return self._pushable
        entries = self._part.dimensions or self._part.kinematics.position
        if max(entries) >= x.shape[-1]:
            raise BadInput(f"RewardGuidance: dimensions {entries} for actions of {x.shape[-1]} entries.")
        mask = x.new_zeros(x.shape[-1])
        mask[list(entries)] = 1.0
        self._pushable = mask
        return mask


def gradient_of(of: str, value: Any, state: DenoiseState, x: torch.Tensor) -> torch.Tensor:
    """Gradient of each row's reward with respect to its sample, see the module's docstring.

    Args:
        of: "clean", "sample" or "network".
        value: (R, H, A) in the environment's units -> (R,) reward.
        state: after a denoise step; x: like `state.x`, where the sample is now.
    Returns:
        like x.
    """
    with torch.enable_grad():
        if of == "clean" and state.noise_level > 0:
            moved = state.clean if x is state.x else state.clean + (x - state.x)
            leaf = moved.detach().requires_grad_()
        else:
            leaf = x.detach().requires_grad_()
        through = of == "network" and state.noise_level > 0
        chunk = state.estimate(leaf, state.noise_level) if through else leaf
        reward = value(state.to_action(chunk))
        (gradient,) = torch.autograd.grad(reward, leaf, torch.ones_like(reward))
    return gradient


def _nonzero(lengths: list[float]) -> int:
    """How many gradients are not 0, of their lengths.

    Raises:
        NonFinite: some are NaN or infinite.
    """
    if bad := [row for row, length in enumerate(lengths) if not math.isfinite(length)]:
        raise NonFinite(
            f"RewardGuidance: the reward's gradient is not finite in rows {bad}, though the reward is. Look for sqrt or norm at 0, or a "
            "division by 0 in a branch that torch.where leaves out."
        )
    return sum(length > 0 for length in lengths)
