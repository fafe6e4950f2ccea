"""SAEs as files: ours, SAELens's folders, and plain safetensors.

| form | what is there |
| --- | --- |
| ours | one `.safetensors` file with a header and a checksum, as `Direction.save` writes them |
| SAELens (versions 3 to 6) | a folder with `cfg.json` and `sae_weights.safetensors`; architectures standard, jumprelu and topk |
| plain | a `.safetensors` file whose tensors have names of `NAMES`, `cfg.json` or `config.json` beside it or `site=` given |

We differ from SAELens in: decoder norms that its TopK weighs features with (`rescale_acts_by_decoder_norm`) are folded into the weights,
which changes nothing; scalings that a file asks for but does not hold (`expected_average_only_in`, a fine-tuning factor) are refused,
not skipped. A file made on a model that TransformerLens had folded (`center_writing_weights`) reads activations that the
model does not have as it is: `model.report` on your own activations shows it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load as tensors_from_bytes

from policies.errors import BadArtifact, BadInput, SteerError
from steer_agents import kept
from steer_agents.sae.model import Form, Sae, Weights
from steer_agents.sites import Site, site_from

NAMES: Mapping[str, tuple[str, bool]] = {
    "W_enc": ("W_enc", False),
    "encoder.weight": ("W_enc", True),
    "b_enc": ("b_enc", False),
    "encoder.bias": ("b_enc", False),
    "W_dec": ("W_dec", False),
    "decoder.weight": ("W_dec", True),
    "b_dec": ("b_dec", False),
    "decoder.bias": ("b_dec", False),
    "threshold": ("threshold", False),
    "log_threshold": ("log_threshold", False),
}
"""Name in a file -> (name here, transposed there)."""

HOOKS: tuple[tuple[str, str, int], ...] = (
    (r"blocks\.(\d+)\.hook_resid_post", "block_output", 0),
    (r"blocks\.(\d+)\.hook_resid_pre", "block_output", -1),
    (r"blocks\.(\d+)\.hook_mlp_out", "mlp_output", 0),
    (r"blocks\.(\d+)\.hook_attn_out", "attention_output", 0),
    (r"blocks\.(\d+)\.mlp\.hook_post", "mlp_neurons", 0),
    (r"blocks\.(\d+)\.attn\.hook_z", "attention_heads", 0),
    (r"(?:.*\.)?(?:layers|h)\.(\d+)", "block_output", 0),
    (r"(?:.*\.)?(?:layers|h)\.(\d+)\.mlp", "mlp_output", 0),
)
"""Hook name -> site kind, and what is added to the layer: the input of block 7 is the output of block 6."""

KIND = "sae"
"""In the header of our own files."""
_ARCHITECTURES = ("standard", "relu", "jumprelu", "topk")


def site_of_hook(hook: str) -> Site:
    """Our site of a hook name of TransformerLens or Hugging Face.

    Raises:
        BadInput: a hook that has no site here, such as the input of the first block.
    """
    for pattern, kind, offset in HOOKS:
        if (match := re.fullmatch(pattern, hook)) and int(match[1]) + offset >= 0:
            return Site(kind, int(match[1]) + offset)
    raise BadInput(
        f"SAE: hook point {hook!r} is no site here; known are outputs of blocks, attention and MLPs, neurons and heads "
        "(hook_resid_pre from block 1 on). Pass site=Site(...) if it is one under another name."
    )


def save(sae: Sae, path: str | Path) -> Path:
    """Write one `.safetensors` file, whole or not at all.

    Raises:
        BadInput: another suffix.
    """
    return kept.save(path, KIND, header_of(sae), tensors_of(sae))


def header_of(sae: Sae) -> dict[str, Any]:
    """What `sae_of` reads back, beside the tensors."""
    return {
        "site": sae.site.describe(),
        "form": asdict(sae.form),
        "model": dict(sae.model),
        "info": dict(sae.info),
    }


def tensors_of(sae: Sae) -> dict[str, torch.Tensor]:
    """Its weights by name, float32."""
    return {name: t.float() for name, t in sae.weights._asdict().items()}


def sae_of(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> Sae:
    """The SAE of a file's header and tensors."""
    weights = Weights(*(tensors[name] for name in Weights._fields))
    return Sae(weights, site_from(header["site"]), Form(**header["form"]), header["model"], header["info"])


def load(path: str | Path, site: Site | None = None) -> Sae:
    """Read an SAE, see the table above.

    Args:
        path: a folder or a `.safetensors` file.
        site: where it belongs; None takes what the file says.
    Raises:
        BadArtifact: missing, damaged, or of a form that is not known.
        BadInput: the file names a hook that is no site, or none and no site was given.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        there = sorted(path.glob("*.safetensors"))
        named = [file for file in there if file.name == "sae_weights.safetensors"] or there
        if len(named) != 1:
            raise BadArtifact(f"{path} holds {len(there)} .safetensors files; pass the one that is the SAE.")
        path = named[0]
    if not path.is_file():
        raise BadArtifact(f"{path} does not exist; pass a folder with cfg.json and sae_weights.safetensors, or a file.")
    try:
        data = path.read_bytes()
        tensors = tensors_from_bytes(data)
        size = int.from_bytes(data[:8], "little")
        entries = json.loads(data[8 : 8 + size]).get("__metadata__") or {}
    except (safetensors.SafetensorError, ValueError) as error:
        raise BadArtifact(f"{path} is damaged or no safetensors file ({error}); copy it again.") from error
    if "steer_agents" in entries:
        return kept.load(path, KIND, sae_of)
    return _foreign(tensors, _config(path), path, site)


def _config(path: Path) -> dict[str, Any]:
    for name in ("cfg.json", "config.json"):
        if (file := path.with_name(name)).is_file():
            try:
                return dict(json.loads(file.read_text()))
            except ValueError as error:
                raise BadArtifact(f"{file} is no JSON ({error}); copy it again.") from error
    return {}


def _foreign(tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any], path: Path, site: Site | None) -> Sae:
    metadata = {**config, **(config.get("metadata") or {})}
    architecture = str(
        config.get("architecture") or config.get("activation_fn_str") or config.get("activation") or "standard"
    )
    if architecture not in _ARCHITECTURES:
        raise BadArtifact(
            f"{path}: architecture {architecture!r} is not read here; known are {', '.join(_ARCHITECTURES)}."
        )
    if config.get("finetuning_scaling_factor") or "scaling_factor" in tensors:
        raise BadArtifact(
            f"{path}: a fine-tuning scaling factor is not read here; fold it into the weights with SAELens."
        )
    kwargs = config.get("activation_fn_kwargs") or {}
    k = config.get("k", kwargs.get("k"))
    topk = "topk" in (architecture, config.get("activation_fn_str"), config.get("activation_fn"))
    if topk and k is None:
        raise BadArtifact(f"{path}: a TopK SAE whose configuration has no k.")
    found: dict[str, torch.Tensor] = {}
    for name, tensor in tensors.items():
        if name in NAMES:
            ours, transposed = NAMES[name]
            found[ours] = (tensor.T if transposed else tensor).float().contiguous()
    if missing := [name for name in ("W_enc", "W_dec") if name not in found]:
        raise BadArtifact(f"{path} has no {' and '.join(missing)}; its tensors are {', '.join(sorted(tensors))}.")
    F, D = found["W_dec"].shape
    if architecture == "jumprelu" and not {"threshold", "log_threshold"} & found.keys():
        raise BadArtifact(f"{path}: a JumpReLU SAE without threshold; its tensors are {', '.join(sorted(tensors))}.")
    threshold = found["log_threshold"].exp() if "log_threshold" in found else found.get("threshold", torch.zeros(F))
    weights = Weights(
        found["W_enc"],
        found.get("b_enc", torch.zeros(F)),
        found["W_dec"],
        found.get("b_dec", torch.zeros(D)),
        threshold,
    )
    if config.get("rescale_acts_by_decoder_norm"):
        norms = weights.W_dec.norm(dim=1)
        weights = weights._replace(
            W_enc=weights.W_enc * norms, b_enc=weights.b_enc * norms, W_dec=weights.W_dec / norms[:, None]
        )
    hook = metadata.get("hook_name") or metadata.get("hookpoint")
    if site is None and hook is None:
        raise BadInput(f"{path} does not say at which hook point it was trained; pass site=Site(kind, layer).")
    norm = config.get("normalize_activations") or "none"
    try:
        form = Form(
            int(k) if topk and k is not None else None, bool(config.get("apply_b_dec_to_input", True)), str(norm)
        )
        return Sae(
            weights,
            site or site_of_hook(str(hook)),
            form,
            info={"source": str(metadata.get("model_name", "")), "hook": str(hook)},
        )
    except BadInput:
        raise
    except SteerError as error:
        raise BadArtifact(f"{path}: {error}") from error
