"""LeRobot policies behind the contract.

`LeRobotPolicy` for those that start from no noise (ACT, pi0-FAST), `LeRobotDenoiser` for those that do (SmolVLA, pi0,
pi0.5, diffusion); `Stock` is what both hold: LeRobot's policy with its own pre- and postprocessor.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from policies import temperature
from policies.action_tokens import entropy_bits
from policies.base import INSTRUCTION, TASK_DESCRIPTION, Context, Decision, Observation, SiteMap, Vocabulary
from policies.chunks import ChunkPolicy
from policies.errors import BadInput
from policies.generative import DenoiseState, GenerativePolicy, PathHook, checked_noise
from policies.lerobot.observations import PIXELS, VECTORS, Translation, frames, stacked
from policies.lerobot.sampler import ChunkSampler
from policies.lerobot.types import TYPES
from policies.site_maps import site_map_for
from policies.token_texts import token_texts


class Stock:
    """LeRobot's policy, its processors, and the way from an environment's observation to a batch and back.

    Args:
        policy: a `PreTrainedPolicy` in eval mode.
        pre, post: its pipelines.
        translation: the environment's names -> the policy's.
        instruction: said instead of the environment's; None says what the environment gives.
        autocast: see `ChunkSampler`.
        clip_actions: (lowest, highest) entry of an action; None leaves actions as they are.
    """

    def __init__(
        self,
        policy: Any,
        pre: Any,
        post: Any,
        translation: Translation,
        instruction: str | None,
        autocast: torch.dtype | None,
        clip_actions: tuple[float, float] | None,
    ) -> None:
        self.policy, self.pre, self.post = policy, pre, post
        self.config = policy.config
        self.kind = TYPES[self.config.type]
        self.translation, self.instruction, self.clip_actions = translation, instruction, clip_actions
        self.context = Context()
        self.sampler = ChunkSampler(policy, self.kind, self.context, autocast)
        self.tasks: list[str] = []

    @property
    def picture_size(self) -> int | None:
        """Edge of its cameras' pictures; None if it sees none, or they differ."""
        edges = {edge for shape in self.translation.features.values() if len(shape) == 3 for edge in shape[1:]}
        return edges.pop() if len(edges) == 1 else None

    def begin(self, infos: Sequence[Mapping[str, Any]]) -> None:
        """Take each row's instruction from what `reset` said."""
        self.tasks = (
            [self._task(b, info) for b, info in enumerate(infos)] if self.kind.reads_text else [""] * len(infos)
        )

    def _task(self, b: int, info: Mapping[str, Any]) -> str:
        task = self.instruction if self.instruction is not None else info.get(TASK_DESCRIPTION)
        if not isinstance(task, str):
            raise BadInput(
                f"reset: the info of batch row {b} has no 'task_description', it has {sorted(info)}. This policy follows "
                "an instruction: use an environment that gives one, or load the policy with instruction='...'."
            )
        return task

    def batch(self, observation: Observation) -> dict[str, torch.Tensor]:
        """What the network is given: LeRobot's preprocessor on each of the steps that the policy reads.

        Args:
            observation: as in `observations.py`; "task" may hold an instruction per row.
        """
        n_steps = self.config.n_obs_steps
        steps = []
        for frame in frames(observation, n_steps):
            made: dict[str, Any] = self.translation(frame)
            n_rows = len(next(iter(made.values())))
            if self.kind.reads_text:
                known = [task for task in self.tasks for _ in range(self.context.repeats)]
                made["task"] = list(observation.get("task", known))
                if len(made["task"]) != n_rows:
                    raise BadInput(
                        f"expected {n_rows} instructions, one per row, got {len(made['task'])}; call reset first, or put "
                        "them into the observation under 'task'."
                    )
            steps.append(self.pre(made))
        names = [name for name, value in steps[0].items() if name.startswith("observation") and torch.is_tensor(value)]
        if n_steps == 1:
            return {name: steps[0][name] for name in names}
        return {name: torch.stack([step[name] for step in steps], dim=1) for name in names}

    def finish(self, chunk: torch.Tensor) -> torch.Tensor:
        """Normalised (B, H, A) -> the environment's units, float32 on the CPU; differentiable."""
        finished: torch.Tensor = self.post(chunk).float()
        return finished if self.clip_actions is None else finished.clamp(*self.clip_actions)

    def many(self, inputs: Sequence[Mapping[str, Any]]) -> dict[str, torch.Tensor]:
        """Unbatched observations, each with its "instruction" -> one batch."""
        needed = {INSTRUCTION} if self.kind.reads_text else set()
        if not inputs or not all(isinstance(entry, Mapping) and needed <= set(entry) for entry in inputs):
            raise BadInput(
                "encode expects a list of observations (mappings)"
                + (f", each with an entry {INSTRUCTION!r}, a text." if needed else ".")
            )
        batched: dict[str, Any] = {"task": tuple(entry[INSTRUCTION] for entry in inputs)} if needed else {}
        for key in (PIXELS, *VECTORS):
            values = [entry[key] for entry in inputs if key in entry]
            if values and isinstance(values[0], Mapping):
                batched[key] = {name: np.stack([value[name] for value in values]) for name in values[0]}
            elif values:
                batched[key] = np.stack(values)
        return self.batch(batched)

    def vocabulary(self, site_map: SiteMap) -> Vocabulary | None:
        """The tokens of the language stack's head; None if the policy reads no text.

        pi0-FAST's action tokens are the last ones of the tokenizer, in reverse: V - 1 - `fast_skip_tokens` - token. They are
        coefficients of a chunk, of no value alone, and say "<action 7>".
        """
        stack = site_map.stacks.get("language")
        step = next((step for step in self.pre.steps if getattr(step, "input_tokenizer", None) is not None), None)
        if stack is None or stack.head is None or step is None:
            return None
        head = self.sampler.get_submodule(stack.head).weight
        assert isinstance(head, torch.Tensor)
        n_rows = len(head)
        texts, actions = list(token_texts(step.input_tokenizer, n_rows)), range(0)
        fast = getattr(self.policy, "action_tokenizer", None)
        if fast is not None:
            stop = self.policy._paligemma_tokenizer.vocab_size - self.config.fast_skip_tokens
            actions = range(max(0, stop - fast.bpe_tokenizer.vocab_size), min(stop, n_rows))
            texts[actions.start : actions.stop] = [f"<action {stop - 1 - i}>" for i in actions]
        return Vocabulary(tuple(texts), actions)

    def describe(self, name: str) -> dict[str, Any]:
        """Name, precision and every field of LeRobot's config."""
        import draccus

        parameter = next(self.policy.parameters())
        return {
            "name": name,
            "type": self.config.type,
            "dtype": str(self.sampler.autocast or getattr(self.config, "dtype", parameter.dtype)).removeprefix(
                "torch."
            ),
            "instruction": self.instruction,
            "clip_actions": self.clip_actions,
            "rename": dict(self.translation.rename),
            "config": draccus.encode(self.config),
        }


class LeRobotPolicy(ChunkPolicy):
    """ACT or pi0-FAST. pi0-FAST also has the entrance "decision": `temperature`, 0 takes the likeliest token."""

    no_action_values = "LeRobot samples without gradients."
    module: ChunkSampler

    def __init__(self, stock: Stock, name: str = "lerobot") -> None:
        super().__init__()
        self.name, self.stock = name, stock
        self.context, self.module, self.picture_size = stock.context, stock.sampler, stock.picture_size
        self.site_map = site_map_for(stock.policy)
        config = stock.config
        self.chunk_size = config.chunk_size
        self.n_action_steps = config.n_action_steps
        self.action_dim = config.action_feature.shape[0]
        self._temperature: float | None = getattr(config, "temperature", None)
        self.entrances = frozenset({"modules"} if self._temperature is None else {"modules", "decision"})
        if self._temperature is not None:
            config.temperature = 0.0  # tokens are drawn here, each row's from its own seed
            config.validate_action_token_prefix = False  # counted below instead: an assertion would end the run

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        super()._reset(seeds, infos)
        self.stock.begin(infos)
        self._rngs = [np.random.default_rng([seed, 1]) for seed in seeds]
        self._undecoded = np.zeros(len(seeds))

    def _choose(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw a token per row of (B, 1, V) logits, exactly from softmax(logits / temperature): inverse of the CDF."""
        assert self._temperature
        cumulative = torch.softmax(logits[:, -1].double() / self._temperature, dim=-1).cumsum(-1)
        uniform = torch.tensor([rng.random() for rng in self._rngs], dtype=torch.float64, device=logits.device)
        drawn = torch.searchsorted(cumulative, (uniform * cumulative[:, -1])[:, None], right=True)[:, 0]
        return drawn.clamp(max=logits.shape[-1] - 1)

    def _plan(self, observation: Observation) -> torch.Tensor:
        batch = self.stock.batch(observation)
        chunk = self.module(choose=self._choose if self._temperature else None, **batch)
        self._undecoded = (chunk == 0).flatten(1).all(1).float().cpu().numpy()
        return self.stock.finish(chunk)

    def _measures(self) -> Mapping[str, np.ndarray]:
        """`undecoded`: 1 where pi0-FAST's tokens were no action, which LeRobot turns into a chunk of zeros."""
        return {} if self._temperature is None else {"undecoded": self._undecoded}

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        """Change pi0-FAST's temperature, a finite number of at least 0; returns the previous value."""
        if self._temperature is None:
            return super().set_decision(**settings)
        self._temperature, previous = temperature.changed(self.name, self._temperature, settings)
        return previous

    def vocabulary(self) -> Vocabulary | None:
        return self.stock.vocabulary(site_map_for(self.stock.policy))

    def encode(self, inputs: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Unbatched observations, each with an entry "instruction" -> one batch for `module`."""
        return [self.stock.many(inputs)]

    def token_entropy(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """(B, N) [bits] of pi0-FAST's tokens as the likeliest ones are generated, see `Policy.token_entropy`."""
        if self._temperature is None:
            return super().token_entropy(batch)
        kept: list[torch.Tensor] = []

        def likeliest(logits: torch.Tensor) -> torch.Tensor:
            kept.append(entropy_bits(logits[:, -1].float()))
            return logits[:, -1].argmax(-1)

        with torch.no_grad():
            self.module(choose=likeliest, **batch)
        return torch.stack(kept, dim=1).cpu()

    def describe(self) -> dict[str, Any]:
        return self.stock.describe(self.name) | (
            {} if self._temperature is None else {"temperature": self._temperature}
        )


class LeRobotDenoiser(GenerativePolicy):
    """SmolVLA, pi0, pi0.5 or a diffusion policy: steered at its modules, by its noise and along its path.

    The noise covers more than the executed chunk: actions are padded to `max_action_dim` (the VLAs), or the horizon
    begins before the current step (diffusion). `noise_shape` says how much.
    """

    entrances = frozenset({"modules", "noise", "path"})
    no_action_values = "LeRobot samples without gradients."
    module: ChunkSampler

    def __init__(self, stock: Stock, name: str = "lerobot") -> None:
        super().__init__()
        self.name, self.stock = name, stock
        self.context, self.module, self.picture_size = stock.context, stock.sampler, stock.picture_size
        self.site_map = site_map_for(stock.policy)
        config = stock.config
        self.n_action_steps = config.n_action_steps
        self.chunk_size = getattr(config, "chunk_size", config.n_action_steps)
        self.action_dim = config.action_feature.shape[0]
        self.n_obs_steps = config.n_obs_steps
        self.reads_text = self.stock.kind.reads_text
        self._history: deque[Observation] = deque(maxlen=config.n_obs_steps)

    @property
    def noise_shape(self) -> tuple[int, int]:
        assert self.stock.kind.noise is not None
        return self.stock.kind.noise(self.stock.config)

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        super()._reset(seeds, infos)
        self.stock.begin(infos)
        self._history.clear()

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        n_steps = self.stock.config.n_obs_steps
        self._history.extend([observation] * (1 if self._history else n_steps))
        return super()._act(observation if n_steps == 1 else stacked(list(self._history)), active)

    def sample(
        self,
        observation: Observation,
        noise: torch.Tensor | None = None,
        hook: PathHook | None = None,
        generator: torch.Generator | None = None,
    ) -> torch.Tensor:
        """See `GenerativePolicy.sample`. A policy that reads several steps takes them as an axis behind the rows, else
        it sees the one observation as if nothing had moved. Several samples per row share the prefix (or the conditioning)."""
        batch = self.stock.batch(observation)
        first = next(iter(batch.values()))
        shape = (len(first), *self.noise_shape)
        noise = torch.randn(shape, generator=generator) if noise is None else checked_noise(noise, shape, copies=True)
        shape = (len(noise), *shape[1:])

        def bend(denoise_step: int, noise_level: float, x: Any, clean: Any, estimate: Any) -> torch.Tensor | None:
            assert hook is not None
            with torch.enable_grad():
                bent = hook(DenoiseState(denoise_step, noise_level, x, clean, estimate, self._to_action, observation))
            return None if bent is None else checked_noise(bent.detach(), shape).to(x.device)

        chunk = self.module(noise=noise.to(first.device), bend=None if hook is None else bend, **batch)
        return self.stock.finish(chunk)

    def _to_action(self, x: torch.Tensor) -> torch.Tensor:
        """A sample as it would be executed: (B, *noise_shape) -> (B, H, A)."""
        assert self.stock.kind.trim is not None
        return self.stock.finish(self.stock.kind.trim(self.stock.policy, x))

    def vocabulary(self) -> Vocabulary | None:
        return self.stock.vocabulary(site_map_for(self.stock.policy))

    def encode(self, inputs: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Unbatched observations, each with an entry "instruction" -> one batch, the noise of seed 0 in every row.

        Activations are read at the first pass of each site: in the denoising loop that is the first step.
        """
        batch = self.stock.many(inputs)
        noise = torch.randn(1, *self.noise_shape, generator=torch.Generator().manual_seed(0))
        return [{"noise": noise.expand(len(inputs), -1, -1), **batch}]

    def describe(self) -> dict[str, Any]:
        return self.stock.describe(self.name)
