"""The contract between a policy and everything that steers or runs it.

A policy turns a batch of observations into a batch of actions. It can be entered from outside in four places
(`docs/architecture.md`): its modules (activation steering), its decision (temperature, masks), its initial noise and
its sampling path. `Policy.entrances` says which of them it has. Nothing here knows a family of models, an environment
or a steering method, and importing this module imports numpy only.

Axes: B rows of the batch (one row = one running episode), N tokens, D hidden size, A action size.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from policies.errors import BadInput, NonFinite, nearest

if TYPE_CHECKING:  # torch stays optional for policies that have no network
    import torch

ENTRANCES = ("modules", "decision", "noise", "path")

Observation = Mapping[str, Any]
"""Named arrays or tuples of strings, each with a leading batch axis of length B."""

TASK_DESCRIPTION = "task_description"
"""Entry of the infos of `reset` that says what to do, as in LeRobot's environments."""
INSTRUCTION = "instruction"
"""The same in an observation without a batch axis, as `Policy.encode` takes it."""


@dataclass(frozen=True)
class Home:
    """The weight that can absorb an edit at a site, for baking.

    Args:
        path: module path inside the block, e.g. "mlp.down_proj".
        side: "output" if the site is that module's output (a constant becomes its bias), "input" if it is its input.
        block_offset: 0 for a weight of the same block, 1 for one of the next block.
        exact: True if the site *is* that side of that module, so that any affine edit can be folded into its weights;
            False if the module's output is only added into the site (a residual stream): then only constants can.
    """

    path: str
    side: str = "output"
    block_offset: int = 0
    exact: bool = True


@dataclass(frozen=True)
class Place:
    """Where one site kind lives inside a block: a module path ("" is the block itself) and which side of it to hook."""

    path: str
    side: str = "output"
    home: Home | None = None


@dataclass(frozen=True)
class Stack:
    """One tower of equal blocks inside a model.

    Args:
        blocks: dotted path of the container of the blocks, from the model that is steered.
        places: site kind -> `Place`.
        stride: consecutive children of the container that make up one block (2 for Linear, activation, Linear, ...).
        tokens: False where activations are (B, D) without a token axis.
        axes: order of the axes of activations: "BND" (rows, tokens, features), "NBD" or "BDN".
        heads: dotted attribute of the config, or else of the model, that holds the number of attention heads; None
            where there are none.
        final_norm, unembedding: module paths that turn a block output into logits; None where there are none.
        vocabulary_head: module path of the (V, D) weight whose rows `Policy.vocabulary` names, where that is not the
            unembedding; see `head`.
        token_classes: classes of tokens that the policy declares in `Context.token_classes` while this stack runs.
        repeated: True where the blocks run several times in one call of the model: per camera, generated token or
            denoise step.
        dead: layer (negative from the end) -> why nothing that this stack writes there reaches the action. Such a layer
            is refused, and "all" leaves it out.
    """

    blocks: str
    places: Mapping[str, Place]
    stride: int = 1
    tokens: bool = True
    axes: str = "BND"
    heads: str | None = None
    final_norm: str | None = None
    unembedding: str | None = None
    token_classes: tuple[str, ...] = ()
    repeated: bool = False
    dead: Mapping[int, str] = field(default_factory=dict)
    vocabulary_head: str | None = None

    @property
    def head(self) -> str | None:
        """Module path of the head through which what this stack writes can be read as tokens; None if there is none."""
        return self.vocabulary_head or self.unembedding


@dataclass(frozen=True)
class SiteMap:
    """The sites of one architecture, as data: one file in `policies/site_maps/` each.

    Args:
        name: the architecture's name, e.g. "llama".
        model_types: values of `model.config.model_type` (Hugging Face) that it describes.
        classes: class names that it describes, for models without a config.
        stacks: stack name ("language", "vision", "expert", "policy") -> `Stack`; the first one is the default.
    """

    name: str
    stacks: Mapping[str, Stack]
    model_types: tuple[str, ...] = ()
    classes: tuple[str, ...] = ()

    @property
    def default_stack(self) -> str:
        return next(iter(self.stacks))


@dataclass(frozen=True)
class Vocabulary:
    """What the rows of a policy's vocabulary head say.

    Args:
        tokens: one text per row, a word's leading space kept; "" for rows that are no token (padding).
        actions: the rows that stand for actions; their texts are what they stand for, e.g. "+0.50".
    """

    tokens: Sequence[str]
    actions: range = range(0)

    def __post_init__(self) -> None:
        if self.actions and not (self.actions[0] >= 0 and self.actions[-1] < len(self.tokens)):
            raise BadInput(f"Vocabulary: actions {self.actions} are not among its {len(self.tokens)} tokens.")


@dataclass
class Context:
    """What is known about the forward pass that is about to run. The policy writes it, gates and token scopes read it.

    A policy fills in what it knows; what stays None is inferred from the call itself (`steer_agents.tokens`).

    Args:
        env_step: (B,) int64, environment steps since each row's reset.
        observation: the batch that was passed to `Policy.act`, unchanged.
        infos: B infos of the environment that belong to this observation, as passed to `Policy.act`; None if it was given
            none. A row whose episode has ended keeps its last one.
        act_calls: number of `act` calls since the policy was made; a cache key for gates that look at the observation.
        phase: "prefill" while a prompt is encoded, "decode" while tokens or actions are generated, None to infer it.
        token_classes: class name ("image", "state", ...) -> (B, N) bool, for the tokens of this pass.
        denoise_step: which denoise step of the chunk runs, from 0; None outside of the denoising loop.
        repeats: rows of the forward pass per row of the batch: M while M completions of each row are sampled (rows
            interleaved: the M copies of row 0 first), else 1. Per-row strengths and gates are repeated accordingly.
    """

    env_step: np.ndarray | None = None
    observation: Observation | None = None
    infos: Sequence[Mapping[str, Any]] | None = None
    act_calls: int = 0
    phase: str | None = None
    token_classes: dict[str, torch.Tensor] = field(default_factory=dict)
    repeats: int = 1
    denoise_step: int | None = None

    @contextmanager
    def during(self, **facts: Any) -> Iterator[None]:
        """Hold these facts until the block is left; then what held before holds again."""
        before = {name: getattr(self, name) for name in facts}
        vars(self).update(facts)
        try:
            yield
        finally:
            vars(self).update(before)


@dataclass(frozen=True)
class Decision:
    """One batch of actions and what the policy can say about how it chose them.

    Args:
        action: (B,) or (B, A), in the environment's action space.
        measures: name -> (B,) or (B, k) array, recorded per step (e.g. `entropy_bits`, `action_mass`).
    """

    action: np.ndarray
    measures: Mapping[str, np.ndarray] = field(default_factory=dict)


class Attendant(Protocol):
    """Somebody who goes along with a policy step by step, e.g. a controller that holds a measured quantity.

    Its `before` and `after` stand around every `act`, in the order in which attendants came.
    """

    def begin(self, policy: Policy, n_rows: int) -> None:
        """Episodes start, or it joins them in their middle: forget the last ones."""
        ...

    def before(self, policy: Policy, active: np.ndarray) -> None:
        """Before the policy acts; `policy.context` says observation, infos and env step. (B,) bool: rows still running."""
        ...

    def after(self, policy: Policy, decision: Decision, active: np.ndarray) -> Mapping[str, np.ndarray]:
        """After it acted; returns further measures of the decision, name -> (B,)."""
        ...

    def leave(self, policy: Policy) -> None:
        """It goes along no longer."""
        ...


class Policy(ABC):
    """A policy acting in B episodes at once.

    `reset` starts B episodes, `act` gives one action per row. Subclasses write `_reset` and `_act`. A policy with a
    network also sets `module` (the torch module whose call the sites are resolved against) and `site_map`.
    """

    name: str = "policy"
    entrances: frozenset[str] = frozenset()
    module: torch.nn.Module | None = None
    site_map: SiteMap | None = None
    picture_size: int | None = None
    """Edge of the square pictures that it sees [px]; None if it sees none, or takes any size."""
    _attendants: tuple[Attendant, ...] = ()
    no_action_values: str = "it does not say how actions follow from a batch of its network."
    """Why there is no `action_values`, a sentence."""

    def __init__(self) -> None:
        self.context = Context()
        self._batch_size: int | None = None

    def reset(self, seeds: Sequence[int], infos: Sequence[Mapping[str, Any]] | None = None) -> None:
        """Start one episode per seed.

        Args:
            seeds: one per row; all the policy's own randomness of that row comes from it, so equal seeds give common
                random numbers over conditions.
            infos: what the environment's `reset` said about each row (labels of the actions, the task's instruction).
        """
        infos = [{} for _ in seeds] if infos is None else list(infos)
        if len(infos) != len(seeds):
            raise BadInput(f"reset: got {len(infos)} infos for {len(seeds)} seeds; pass one info per seed.")
        self._batch_size = len(seeds)
        self.context.env_step = np.zeros(len(seeds), dtype=np.int64)
        self._reset([int(seed) for seed in seeds], infos)
        for attendant in self._attendants:
            attendant.begin(self, len(seeds))

    def attend(self, *attendants: Attendant) -> tuple[Attendant, ...]:
        """Take these along from now on, instead of those so far, which are returned; newcomers begin at once if episodes run."""
        before, self._attendants = self._attendants, attendants
        for attendant in before:
            if not any(attendant is known for known in attendants):
                attendant.leave(self)
        if self._batch_size is not None:
            for attendant in attendants:
                if not any(attendant is known for known in before):
                    attendant.begin(self, self._batch_size)
        return before

    @property
    def attendants(self) -> tuple[Attendant, ...]:
        """Who goes along, see `attend`."""
        return self._attendants

    def act(
        self,
        observation: Observation,
        active: np.ndarray | None = None,
        infos: Sequence[Mapping[str, Any]] | None = None,
    ) -> Decision:
        """Choose one action per row.

        Args:
            observation: named arrays (or tuples of strings) with leading axis B.
            active: (B,) bool; rows whose episode has ended keep their place in the batch, but their action is ignored.
            infos: what the environment said about each row with this observation. The policy does not look at them; gates on
                measured quantities do (`steer_agents.gates.Measured`).
        Raises:
            NonFinite: an active row's action is NaN or infinite.
            BadInput: `reset` was not called, or the batch size changed since, or there is not one info per row.
        """
        if self._batch_size is None:
            raise BadInput(f"{self.name}: act was called before reset; call policy.reset(seeds) first.")
        if infos is not None and len(infos) != self._batch_size:
            raise BadInput(f"{self.name}: expected {self._batch_size} infos, one per row, got {len(infos)}.")
        self.context.observation, self.context.infos = observation, infos
        self.context.act_calls += 1
        active = np.ones(self._batch_size, dtype=bool) if active is None else np.asarray(active, dtype=bool)
        for attendant in self._attendants:
            attendant.before(self, active)
        decision = self._act(observation, active)
        action = np.asarray(decision.action)
        if len(action) != self._batch_size:
            raise BadInput(f"{self.name}: expected {self._batch_size} actions, one per row, got {len(action)}.")
        finite = np.isfinite(action).reshape(len(action), -1).all(1)
        if not finite[active].all():
            rows = np.flatnonzero(~finite & active).tolist()
            raise NonFinite(
                f"{self.name}: non-finite action in batch rows {rows}: {action[rows].tolist()}. "
                "Lower the steering strength, or check the policy's inputs for NaN."
            )
        for attendant in self._attendants:
            more = attendant.after(self, decision, active)
            if clash := sorted(more.keys() & decision.measures.keys()):
                raise BadInput(
                    f"{self.name}: measures {clash} are there twice; give parts that hold something different names."
                )
            decision = replace(decision, measures={**decision.measures, **more})
        assert self.context.env_step is not None
        self.context.env_step = self.context.env_step + active
        return decision

    @abstractmethod
    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None: ...

    @abstractmethod
    def _act(self, observation: Observation, active: np.ndarray) -> Decision: ...

    def describe(self) -> dict[str, Any]:
        """A JSON-able description that fixes the policy's behaviour: written beside every result."""
        return {"name": self.name}

    def vocabulary(self) -> Vocabulary | None:
        """The tokens of the default stack's head (`Stack.head`), one per row; None if the policy knows no words."""
        return None

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        """Change how the choice is drawn (entrance "decision"); returns the previous values of the same settings.

        Raises:
            BadInput: the policy has no such setting.
        """
        raise BadInput(
            f"{self.name} has no decision settings, got {sorted(settings)}{nearest('', [])}. "
            "Use a policy whose `entrances` contain 'decision'."
        )

    def action_values(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """Actions as a smooth function of what happens in `module`, for gradients with respect to activations.

        Args:
            batch: one batch of `encode`, the latest.
        Returns:
            (B, H, A) float32 with a graph, in the environment's units, not clipped.
        Raises:
            BadInput: this policy has none; the message says why.
        """
        raise BadInput(
            f"{self.name} has no action values with a gradient: {self.no_action_values} Use a contrast of activations instead."
        )

    def token_entropy(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """How unsure the policy is of the action tokens that one call of `module` decides.

        Args:
            batch: one batch of `encode`, the latest.
        Returns:
            (B, N) float32, entropy of each token's distribution among the action tokens, at temperature 1 [bits].
        Raises:
            BadInput: this policy says no action tokens.
        """
        raise BadInput(
            f"{self.name} says no action tokens, so that its choice has no entropy; use a policy that does (tiny-vla, smol-vla-135m, "
            "OpenVLA, pi0-FAST), or the 'entropy' method for language agents."
        )

    def encode(self, inputs: Sequence[Any]) -> list[Mapping[str, Any]]:
        """Turn raw inputs (prompts, observations) into keyword batches for `module`, for capturing activations."""
        raise BadInput(f"{self.name} cannot encode raw inputs; pass batches of module inputs instead.")
