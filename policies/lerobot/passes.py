"""What runs inside of one call of a LeRobot policy, told to the hooks while it runs.

A call holds several passes: the vision tower once per camera, the language stack once (or once per generated token), the
expert or the U-Net once per denoise step. LeRobot calls most of these by method, so that a hook on the whole network
cannot tell them apart. Here the methods that begin a pass are stood in for, for the length of one call, by ones that
first write into the policy's `Context` which tokens, phase and denoise step come next. Nothing else about them changes.

Axes: B rows, N tokens of a pass, S denoise steps. Noise level 1 is noise, 0 is the action.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from policies.base import Context

Tensor = torch.Tensor


class Bend(Protocol):
    """Sees the sample after a denoise step; gives another one to go on with, or None."""

    def __call__(
        self,
        denoise_step: int,
        noise_level: float,
        x: Tensor,
        clean: Tensor,
        estimate: Callable[[Tensor, float], Tensor],
    ) -> Tensor | None: ...


@dataclass(frozen=True)
class Call:
    """One call of a policy.

    Args:
        context: where its passes are told.
        bend: for policies that denoise.
        choose: for policies that generate tokens: (B, 1, V) logits -> (B,) the tokens to take; None takes the likeliest.
    """

    context: Context
    bend: Bend | None = None
    choose: Callable[[Tensor], Tensor] | None = None


@contextmanager
def standing_in(owner: Any, **methods: Any) -> Iterator[None]:
    """Give one object (or Python module) other methods until the block is left."""
    before = {name: vars(owner)[name] for name in methods if name in vars(owner)}
    for name, method in methods.items():
        setattr(owner, name, method)
    try:
        yield
    finally:
        for name in methods:
            if name in before:
                setattr(owner, name, before[name])
            else:
                delattr(owner, name)


def _tell(context: Context, phase: str, classes: dict[str, Tensor]) -> None:
    context.phase, context.token_classes = phase, classes


def prefix_classes(real: Tensor, n_language: int, has_state: bool) -> dict[str, Tensor]:
    """Classes of the tokens of a prefix: images, then language, then perhaps one state token.

    Args:
        real: (B, N) bool, False at padding. Behind a state token, which is never padding, there may be more of it.
        n_language: tokens of the instruction, padding included.
        has_state: whether the prefix ends with a state token.
    """
    end = int(real.any(0).nonzero().max()) + 1 if has_state else real.shape[1]
    language = end - has_state - n_language
    bounds = {"image": (0, language), "instruction": (language, language + n_language)}
    bounds |= {"state": (end - 1, end)} if has_state else {}
    position = torch.arange(real.shape[1], device=real.device)
    return {name: real & (position >= low) & (position < high) for name, (low, high) in bounds.items()}


def suffix_classes(x: Tensor, has_state: bool) -> dict[str, Tensor]:
    """Classes of the tokens of a denoise step: perhaps one state token, then a token per action of (B, H, A) x."""
    action = torch.ones(x.shape[0], has_state + x.shape[1], dtype=torch.bool, device=x.device)
    if not has_state:
        return {"action": action}
    state = torch.zeros_like(action)
    state[:, 0] = True
    return {"state": state, "action": ~state}


@contextmanager
def flow_passes(policy: Any, call: Call, n_steps: int, state_in: str) -> Iterator[None]:
    """Passes of SmolVLA, pi0 and pi0.5: a prefix through the language stack, then S Euler steps of the expert.

    Args:
        n_steps: S.
        state_in: "prefix", "suffix", or "text" where the state is part of the instruction.
    """
    core, context = policy.model, call.context
    embed_prefix, denoise = core.embed_prefix, core.denoise_step
    taken = 0

    def embed(images: Any, image_masks: Any, tokens: Tensor, masks: Tensor, **rest: Any) -> Any:
        embedded = embed_prefix(images, image_masks, tokens, masks, **rest)
        _tell(context, "prefill", prefix_classes(embedded[1], tokens.shape[1], state_in == "prefix"))
        return embedded

    def step(*, x_t: Tensor, timestep: Tensor, **rest: Any) -> Tensor:
        nonlocal taken
        i, taken = taken, taken + 1
        context.denoise_step = i
        copies = len(x_t) // len(rest["prefix_pad_masks"])
        if copies > 1:  # several samples per row: the prefix was computed once, its cache is repeated once
            if i == 0:
                rest["past_key_values"].batch_repeat_interleave(copies)
            once = {name: rest[name] for name in ("prefix_pad_masks", "state") if name in rest}
            rest |= {name: value.repeat_interleave(copies, 0) for name, value in once.items()}
            context.repeats = copies
        _tell(context, "decode", suffix_classes(x_t, state_in == "suffix"))
        velocity: Tensor = denoise(x_t=x_t, timestep=timestep, **rest)
        if call.bend is None:
            return velocity

        def estimate(x: Tensor, level: float) -> Tensor:
            estimated: Tensor = x - level * denoise(x_t=x, timestep=torch.full_like(timestep, level), **rest)
            return estimated

        level, following, dt = 1 - i / n_steps, 1 - (i + 1) / n_steps, -1.0 / n_steps
        bent = call.bend(i, following, x_t + dt * velocity, x_t - level * velocity, estimate)
        # LeRobot takes the step itself: it gets the velocity that leads to the bent sample (to rounding).
        return velocity if bent is None else (bent - x_t) / dt

    with standing_in(core, embed_prefix=embed, denoise_step=step):
        yield


@contextmanager
def diffusion_passes(policy: Any, call: Call) -> Iterator[None]:
    """Passes of a diffusion policy: the U-Net once per scheduler step. Noise level: (timestep + 1) / training steps."""
    core, context = policy.diffusion, call.context
    scheduler, config = core.noise_scheduler, core.config
    sample, start, advance = core.conditional_sample, scheduler.set_timesteps, scheduler.step
    condition: list[Tensor] = []

    def conditional_sample(batch_size: int, global_cond: Tensor, noise: Tensor | None, **rest: Any) -> Tensor:
        context.repeats = 1 if noise is None else len(noise) // batch_size
        condition[:] = [global_cond.repeat_interleave(context.repeats, 0)]
        sampled: Tensor = sample(batch_size * context.repeats, global_cond=condition[0], noise=noise, **rest)
        return sampled

    def set_timesteps(*args: Any, **rest: Any) -> None:
        start(*args, **rest)
        context.denoise_step, context.phase = 0, "decode"

    def estimate(x: Tensor, level: float) -> Tensor:
        timestep = max(0, round(level * config.num_train_timesteps) - 1)
        output = core.unet(x, torch.full(x.shape[:1], timestep, device=x.device), global_cond=condition[0])
        if config.prediction_type == "sample":
            clean = output
        else:
            alpha = scheduler.alphas_cumprod[timestep].to(x.device)
            clean = (x - (1 - alpha).sqrt() * output) / alpha.sqrt()
        return clean.clamp(-config.clip_sample_range, config.clip_sample_range) if config.clip_sample else clean

    def step(output: Tensor, timestep: Tensor, x: Tensor, **rest: Any) -> Any:
        i = context.denoise_step
        assert i is not None
        stepped = advance(output, timestep, x, **rest)
        if call.bend is not None:
            later = scheduler.timesteps[i + 1 :]
            following = (int(later[0]) + 1) / config.num_train_timesteps if len(later) else 0.0
            bent = call.bend(i, following, stepped.prev_sample, stepped.pred_original_sample, estimate)
            stepped.prev_sample = stepped.prev_sample if bent is None else bent
        context.denoise_step = i + 1
        return stepped

    with (
        standing_in(policy, _queues={}),  # LeRobot's own history: what is passed counts, not what it saw before
        standing_in(core, conditional_sample=conditional_sample),
        standing_in(scheduler, set_timesteps=set_timesteps, step=step),
    ):
        yield


@contextmanager
def act_passes(policy: Any, call: Call) -> Iterator[None]:
    """Passes of ACT: the encoder reads [latent, state, environment state, images], the decoder writes the actions."""
    core, context, config = policy.model, call.context, policy.config
    given = {"latent": True, "state": config.robot_state_feature, "environment_state": config.env_state_feature}
    single = [name for name, there in given.items() if there]

    def before_encoder(module: Any, args: tuple[Tensor, ...]) -> None:
        n_tokens, n_rows = args[0].shape[:2]
        position = torch.arange(n_tokens, device=args[0].device).expand(n_rows, -1)
        places = {name: single.index(name) if name in single else -1 for name in given}
        classes = {name: position == place for name, place in places.items()}
        _tell(context, "prefill", classes | {"image": position >= len(single)})

    def before_decoder(module: Any, args: tuple[Tensor, ...]) -> None:
        n_tokens, n_rows = args[0].shape[:2]
        _tell(context, "decode", {"action": torch.ones(n_rows, n_tokens, dtype=torch.bool, device=args[0].device)})

    with ExitStack() as stack:
        for module, hook in ((core.encoder, before_encoder), (core.decoder, before_decoder)):
            stack.callback(module.register_forward_pre_hook(hook, prepend=True).remove)
        yield


@contextmanager
def fast_passes(policy: Any, call: Call) -> Iterator[None]:
    """Passes of pi0-FAST: a prefix of images, instruction and BOS, then one pass per generated action token.

    BOS counts to the instruction; what the last pass gave is never fed back, so T tokens make T - 1 decode passes.
    """
    core, context = policy.model, call.context
    towers = core.paligemma_with_expert
    embed_prefix, embed_tokens = core.embed_prefix_fast, towers.embed_language_tokens
    prefilled = False

    def embed(images: Any, image_masks: Any, tokens: Tensor, masks: Tensor, **rest: Any) -> Any:
        nonlocal prefilled
        embedded = embed_prefix(images, image_masks, tokens, masks, **rest)
        classes = prefix_classes(embedded[1], tokens.shape[1], has_state=False)
        _tell(context, "prefill", classes | {"action": torch.zeros_like(embedded[1])})
        prefilled = True
        return embedded

    def embed_language_tokens(tokens: Tensor) -> Tensor:
        if prefilled:
            action = torch.ones_like(tokens, dtype=torch.bool)
            _tell(context, "decode", {"image": ~action, "instruction": ~action, "action": action})
        embedded: Tensor = embed_tokens(tokens)
        return embedded

    def chosen(module: Any, args: Any, logits: Tensor) -> Tensor | None:
        """Logits whose largest is the chosen token: LeRobot's greedy loop then takes it."""
        if call.choose is None:
            return None
        return torch.zeros_like(logits).scatter_(-1, call.choose(logits)[:, None, None], 1.0)

    with (
        standing_in(core, embed_prefix_fast=embed),
        standing_in(towers, embed_language_tokens=embed_language_tokens),
        ExitStack() as stack,
    ):
        stack.callback(towers.paligemma.lm_head.register_forward_hook(chosen).remove)
        yield
