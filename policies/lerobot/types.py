"""The LeRobot policy types that can be loaded, as data: what differs between them is a row here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from policies.lerobot.passes import Call, act_passes, diffusion_passes, fast_passes, flow_passes

if TYPE_CHECKING:
    import torch

Refusal = tuple[Callable[[Any], bool], str]
"""(config -> whether it is refused, what to do instead)."""

_HOOKS = "hooks that are put on later are skipped by compiled code; pass compile_model=False, or bake the steering."


@dataclass(frozen=True)
class PolicyType:
    """One of LeRobot's policy types.

    Args:
        passes: (policy, call) -> a context in which its inner passes are told, see `passes.py`.
        reads_text: whether it takes an instruction.
        resizes: whether it takes pictures of any size.
        noise: config -> (steps, width) of one row's noise; None for policies that start from none.
        trim: (policy, sample) -> the part of a sample that LeRobot's own `predict_action_chunk` returns.
        tokenizer_fields: config fields that name a folder or repository with the tokenizer.
        float32: parts of parameter names that LeRobot keeps in float32 when the config says bfloat16; None where the
            config has no dtype.
        refused: settings with which it cannot be steered as promised.
    """

    passes: Callable[[Any, Call], AbstractContextManager[None]]
    reads_text: bool = True
    resizes: bool = True
    noise: Callable[[Any], tuple[int, int]] | None = None
    trim: Callable[[Any, torch.Tensor], torch.Tensor] | None = None
    tokenizer_fields: tuple[str, ...] = ()
    float32: tuple[str, ...] | None = None
    refused: tuple[Refusal, ...] = ()


def _padded(config: Any) -> tuple[int, int]:
    return config.chunk_size, config.max_action_dim


def _unpadded(policy: Any, x: torch.Tensor) -> torch.Tensor:
    return x[..., : policy.config.action_feature.shape[0]]


def _smolvla_trim(policy: Any, x: torch.Tensor) -> torch.Tensor:
    x = _unpadded(policy, x)
    encoded: torch.Tensor = policy._pi_aloha_encode_actions(x.clone()) if policy.config.adapt_to_pi_aloha else x
    return encoded


def _executed(policy: Any, x: torch.Tensor) -> torch.Tensor:
    start = policy.config.n_obs_steps - 1
    return x[:, start : start + policy.config.n_action_steps]


def _pi_passes(policy: Any, call: Call, state_in: str) -> AbstractContextManager[None]:
    return flow_passes(policy, call, policy.config.num_inference_steps, state_in)


_PI_FLOAT32 = (
    "vision_tower", "multi_modal_projector", "input_layernorm", "post_attention_layernorm", "model.norm",
    "action_in_proj", "action_out_proj", "state_proj", "time_mlp_in", "time_mlp_out",
)  # fmt: skip
_COMPILED: Refusal = (lambda config: bool(config.compile_model), _HOOKS)
_RTC: Refusal = (
    lambda config: config.rtc_config is not None and config.rtc_config.enabled,
    "real-time chunking needs the rest of the last chunk, which this adapter does not keep; pass rtc_config=None.",
)

TYPES: Mapping[str, PolicyType] = {
    "smolvla": PolicyType(
        passes=lambda policy, call: flow_passes(policy, call, policy.config.num_steps, "prefix"),
        noise=_padded,
        trim=_smolvla_trim,
        tokenizer_fields=("vlm_model_name",),
        refused=(_COMPILED, _RTC),
    ),
    "pi0": PolicyType(
        passes=partial(_pi_passes, state_in="suffix"),
        noise=_padded,
        trim=_unpadded,
        float32=_PI_FLOAT32,
        refused=(_COMPILED, _RTC),
    ),
    "pi05": PolicyType(
        passes=partial(_pi_passes, state_in="text"),
        noise=_padded,
        trim=_unpadded,
        float32=_PI_FLOAT32,
        refused=(_COMPILED, _RTC),
    ),
    "pi0_fast": PolicyType(
        passes=fast_passes,
        tokenizer_fields=("text_tokenizer_name",),
        float32=_PI_FLOAT32[:5],
        refused=(
            _COMPILED,
            (
                lambda config: not config.use_kv_cache,
                "without a cache every pass holds the prompt again, so that prefill and decode cannot be told apart; "
                "pass use_kv_cache=True.",
            ),
        ),
    ),
    "diffusion": PolicyType(
        passes=diffusion_passes,
        reads_text=False,
        resizes=False,
        noise=lambda config: (config.horizon, config.action_feature.shape[0]),
        trim=_executed,
        refused=(
            _COMPILED,
            (
                lambda config: config.noise_scheduler_type != "DDIM",
                "DDPM draws fresh noise at every denoise step, so that a sample is no function of the noise it starts "
                "from; pass noise_scheduler_type='DDIM' (it runs on the same weights) and, for speed, "
                "num_inference_steps=10.",
            ),
        ),
    ),
    "act": PolicyType(
        passes=act_passes,
        reads_text=False,
        resizes=False,
        refused=(
            (
                lambda config: config.temporal_ensemble_coeff is not None,
                "averaging over the chunks of earlier steps hides what steering did to one chunk; pass "
                "temporal_ensemble_coeff=None and the n_action_steps to execute of each chunk.",
            ),
        ),
    ),
}
