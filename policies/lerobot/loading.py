"""LeRobot checkpoints by name, for the registry: "lerobot:<folder>", "lerobot:<hub name>".

LeRobot's own config and policy classes and its saved pre- and postprocessors are used. The weights are put in here: the
`from_pretrained` of the pi policies prints a message and returns random weights when something does not fit. Tokenizers
are loaded without remote code, and of SmolVLA's processor only the tokenizer (the rest is not used for acting).
"""

from __future__ import annotations

import dataclasses
import importlib
import importlib.util
import io
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from policies.errors import BadArtifact, BadInput, MissingExtra, UnknownName, nearest
from policies.lerobot.adapter import LeRobotDenoiser, LeRobotPolicy, Stock
from policies.lerobot.fast import FastTokenizer
from policies.lerobot.memory import Estimate, check_fits, estimate, header
from policies.lerobot.observations import Translation
from policies.lerobot.passes import standing_in
from policies.lerobot.types import TYPES, PolicyType
from policies.placement import device_named, dtype_named

if TYPE_CHECKING:
    import torch

WEIGHTS = "model.safetensors"
_SMALL_FILES = ["*.json", "policy_*processor*"]


def load(
    argument: str,
    *,
    device: str = "auto",
    dtype: str = "auto",
    tokenizer: str | None = None,
    action_tokenizer: str | None = None,
    rename: Mapping[str, str] | None = None,
    instruction: str | None = None,
    clip_actions: tuple[float, float] | None = None,
    allow_missing_cameras: bool = False,
    allow_unexpected: bool = False,
    check_memory: bool = True,
    **settings: Any,
) -> LeRobotPolicy | LeRobotDenoiser:
    """Load a LeRobot policy.

    Args:
        argument: a folder written by LeRobot, or a name on the hub such as "lerobot/smolvla_base".
        device, dtype: "auto" is CUDA and bfloat16 if there is a CUDA device, else the CPU and float32.
        tokenizer: folder or hub name to use instead of the tokenizer that the checkpoint names (for SmolVLA it holds
            the language model's config as well), e.g. because this machine is offline or the other one is gated.
        action_tokenizer: the same for the FAST tokenizer of pi0_fast.
        rename: "observation.images.image" -> "observation.images.camera1": the environment's name -> the policy's.
        instruction: said to the policy instead of what the environment's `reset` gives as "task_description".
        clip_actions: (-1, 1) for environments that refuse actions beyond, as the tabletop does; None leaves them as LeRobot
            gives them.
        allow_missing_cameras: run although the environment has not all of the policy's cameras.
        allow_unexpected: ignore weights in the checkpoint that the network has no place for.
        check_memory: refuse a checkpoint that does not fit into the free memory.
        settings: fields of the policy's LeRobot config, e.g. n_action_steps=10, noise_scheduler_type="DDIM".
    Raises:
        UnknownName: no such folder, or the hub does not give it.
        BadArtifact: a file is missing or damaged, or weights are missing, left over or of another shape.
        BadInput: an option or setting that does not exist, or with which the policy cannot be steered as promised.
        MissingExtra: LeRobot is not installed.
    """
    _need_lerobot()
    device = device_named(device)
    torch_dtype = dtype_named(dtype, device)
    folder = _fetched(argument, _SMALL_FILES)
    kind, config = _config(folder, argument, settings, device)
    name_of_dtype = str(torch_dtype).removeprefix("torch.")
    own_dtype = kind.float32 is not None and name_of_dtype != "float16"
    changes: dict[str, Any] = dict.fromkeys(kind.tokenizer_fields, tokenizer) if tokenizer else {}
    changes |= {"dtype": name_of_dtype} if own_dtype else {}
    changes |= {"action_tokenizer_name": action_tokenizer} if action_tokenizer else {}
    config = dataclasses.replace(config, **{k: v for k, v in changes.items() if hasattr(config, k)})
    if check_memory:
        check_fits(_estimate(_shapes(argument), name_of_dtype, kind), device)
    folder = _fetched(argument, [*_SMALL_FILES, "*.safetensors"])
    with _quiet(), _stand_ins(config) as fast:
        policy = _built(config, argument)
        fill(policy, folder, allow_unexpected)
        processors = _processors(config, folder, device, tokenizer, fast)
    mixed = not own_dtype and name_of_dtype != "float32"
    policy = policy.to(device=device, **({"dtype": torch_dtype} if mixed else {})).eval().requires_grad_(False)
    translation = Translation(
        features={name: tuple(feature.shape) for name, feature in config.input_features.items()},
        rename=dict(rename or {}),
        resizes=kind.resizes,
        allow_missing_cameras=allow_missing_cameras,
    )
    stock = Stock(policy, *processors, translation, instruction, torch_dtype if mixed else None, clip_actions)
    family = LeRobotPolicy if kind.noise is None else LeRobotDenoiser
    return family(stock, name=f"lerobot:{argument}")


def processors(
    argument: str, device: str, tokenizer: str | None = None, rename: Mapping[str, str] | None = None
) -> tuple[Any, Any]:
    """The saved pre- and postprocessor of a checkpoint, without its network.

    Args:
        argument, tokenizer: as in `load`.
        rename: given name -> needed name, for LeRobot's own renaming step.
    """
    _need_lerobot()
    folder = _fetched(argument, _SMALL_FILES)
    _, config = _config(folder, argument, {}, device_named(device))
    with _quiet(), _stand_ins(config) as fast:
        return _processors(config, folder, device_named(device), tokenizer, fast, rename)


def estimate_of(argument: str, dtype: str = "float32") -> Estimate:
    """Memory and time that loading a checkpoint takes, from the headers of its files; the hub's are not downloaded."""
    _need_lerobot()
    kind, _ = _config(_fetched(argument, _SMALL_FILES), argument, {}, "cpu", refuse=False)
    return _estimate(_shapes(argument), str(dtype_named(dtype, "cpu")).removeprefix("torch."), kind)


def _estimate(shapes: Mapping[str, tuple[int, ...]], dtype: str, kind: PolicyType) -> Estimate:
    return estimate(shapes, dtype, kind.float32 or () if dtype == "bfloat16" else ())


# ---- files


def _need_lerobot() -> None:
    if importlib.util.find_spec("lerobot") is None:
        raise MissingExtra("LeRobot is not installed; run `make setup`, or pip install 'steer-agents[lerobot]'.")


def _fetched(argument: str, patterns: list[str]) -> Path:
    """The folder of a checkpoint; from the hub, only files that match."""
    source = Path(os.path.expanduser(argument))
    if source.is_dir():
        return source
    if not argument or argument.startswith((".", "/")) or argument.count("/") != 1:
        raise UnknownName(
            f"lerobot: there is no folder {argument!r} (looked at {source.absolute()}), and it is no hub name, which is "
            "'user/name'. Write 'lerobot:lerobot/smolvla_base', or 'lerobot:FOLDER' with a folder written by LeRobot."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(argument, allow_patterns=patterns))
    except (OSError, ValueError) as error:
        raise UnknownName(
            f"lerobot: {argument!r} is no folder here, and the hub did not give it. If the name is right and this machine "
            f"is offline, fetch it elsewhere with `hf download {argument} --local-dir FOLDER`, copy the folder and use "
            f"'lerobot:FOLDER'; for a gated model run `hf auth login` first. Cause: {error}"
        ) from error


def _shapes(argument: str) -> dict[str, tuple[int, ...]]:
    """Tensor name -> shape of the weights in a folder or on the hub."""
    source = Path(os.path.expanduser(argument))
    if source.is_dir():
        return header(source / WEIGHTS)
    from huggingface_hub import get_safetensors_metadata
    from huggingface_hub.errors import NotASafetensorsRepoError, SafetensorsParsingError

    try:
        files = get_safetensors_metadata(argument).files_metadata.values()
    except (OSError, NotASafetensorsRepoError, SafetensorsParsingError):  # offline, say: what is in the cache
        return header(_fetched(argument, [WEIGHTS]) / WEIGHTS)
    return {name: tuple(info.shape) for file in files for name, info in file.tensors.items()}


# ---- config


def _config(
    folder: Path, argument: str, settings: Mapping[str, Any], device: str, refuse: bool = True
) -> tuple[PolicyType, Any]:
    """LeRobot's config with the user's settings, and the row of `TYPES` it belongs to."""
    with _quiet():
        from lerobot.configs import PreTrainedConfig
        from lerobot.policies import get_policy_class

        try:
            config = PreTrainedConfig.from_pretrained(folder)
            kind_name = config.type
        except Exception as error:  # draccus has its own errors
            raise BadArtifact(
                f"lerobot: the config.json of {argument!r} cannot be read as that of a LeRobot policy ({error})."
            ) from error
        if kind_name in TYPES:
            get_policy_class(kind_name)
    if kind_name not in TYPES:
        raise BadInput(f"lerobot: policies of type {kind_name!r} cannot be steered{nearest(kind_name, TYPES)}")
    fields = [field.name for field in dataclasses.fields(config)]
    for name in settings:
        if name not in fields:
            raise BadInput(f"lerobot: a {kind_name} config has no field {name!r}{nearest(name, fields)}")
    own = {"load_vlm_weights": False} if "load_vlm_weights" in fields else {}  # they are in the checkpoint
    try:
        config = dataclasses.replace(config, **{**own, **settings, "device": device})
    except (ValueError, TypeError) as error:
        raise BadInput(f"lerobot: {dict(settings)} does not fit a {kind_name} config: {error}") from error
    for unfit, advice in TYPES[kind_name].refused if refuse else ():
        if unfit(config):
            raise BadInput(f"lerobot: {argument!r} ({kind_name}) is set up so that it cannot be steered: {advice}")
    return TYPES[kind_name], config


# ---- building


def _built(config: Any, argument: str) -> Any:
    """A policy with random weights."""
    from lerobot.policies import get_policy_class

    try:
        return get_policy_class(config.type)(config)
    except (OSError, RuntimeError) as error:
        raise UnknownName(
            f"lerobot: the network of {argument!r} could not be built, mostly because a tokenizer or config that it names "
            f"is not here. Pass tokenizer=FOLDER (and action_tokenizer=FOLDER for pi0_fast). Cause: {error}"
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """LeRobot prints and logs a good deal while it loads."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(level)


@contextmanager
def _stand_ins(config: Any) -> Iterator[FastTokenizer | None]:
    """What LeRobot's modules take from transformers while a policy is built, replaced where it would run remote code or
    load parts that acting does not need."""
    fast: FastTokenizer | None = None
    with ExitStack() as stack:
        if config.type == "smolvla":
            module = importlib.import_module("lerobot.policies.smolvla.smolvlm_with_expert")
            build = _maker(lambda name: SimpleNamespace(tokenizer=text_tokenizer(name)))
            stack.enter_context(standing_in(module, AutoProcessor=build))
        if config.type == "pi0_fast":
            fast = FastTokenizer(_fetched(config.action_tokenizer_name, ["*.json"]))
            module = importlib.import_module("lerobot.policies.pi0_fast.modeling_pi0_fast")
            makers = {"AutoProcessor": _maker(lambda name: fast), "AutoTokenizer": _maker(text_tokenizer)}
            stack.enter_context(standing_in(module, **makers))
        module = importlib.import_module("lerobot.processor.tokenizer_processor")
        stack.enter_context(standing_in(module, AutoTokenizer=_maker(text_tokenizer)))
        yield fast


def _maker(build: Callable[..., Any]) -> Any:
    """An object with `from_pretrained`, which never trusts remote code."""

    def from_pretrained(name: str, trust_remote_code: bool = False, **options: Any) -> Any:
        return build(name, **options)

    return SimpleNamespace(from_pretrained=from_pretrained)


def text_tokenizer(name: str, **options: Any) -> Any:
    """A tokenizer of transformers, from a folder or the hub, without remote code.

    Raises:
        UnknownName: it is not there.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False, **options)
    except (OSError, ValueError) as error:
        raise UnknownName(
            f"lerobot: the tokenizer {name!r} could not be loaded; pass tokenizer=FOLDER with a copy of it, or run `hf "
            f"auth login` if it is gated. Cause: {error}"
        ) from error


def fill(policy: torch.nn.Module, folder: Path, allow_unexpected: bool = False) -> None:
    """Put a checkpoint's weights into a policy and make sure that all of them arrived.

    A parameter may be missing if it is tied to one that is there.

    Raises:
        BadArtifact: weights are missing, left over, of another shape, or the file is damaged.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = folder / WEIGHTS
    header(path)
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BadArtifact(f"{path} cannot be read as .safetensors ({error}); fetch the checkpoint again.") from error
    fix: Any = getattr(policy, "_fix_pytorch_state_dict_keys", None)
    if fix is not None:  # the pi policies also read openpi's names
        fixed = fix(tensors, getattr(policy, "config", None))
        tensors = {key if key.startswith("model.") else f"model.{key}": value for key, value in fixed.items()}
    try:
        left = policy.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise BadArtifact(f"{path}: its weights do not fit this policy's sizes ({error}).") from error
    own = policy.state_dict(keep_vars=True)
    arrived = {own[key].data_ptr() for key in tensors if key in own}
    missing = [key for key in left.missing_keys if own[key].data_ptr() not in arrived]
    if missing:
        raise BadArtifact(
            f"{path} lacks {len(missing)} of the {len(own)} tensors of this policy, which would stay random: "
            f"{_some(missing)}. Fetch the checkpoint again, or check that its config.json belongs to it."
        )
    if left.unexpected_keys and not allow_unexpected:
        old = any("normalize_" in key for key in left.unexpected_keys)
        raise BadArtifact(
            f"{path} holds {len(left.unexpected_keys)} tensors that this policy has no place for: "
            f"{_some(left.unexpected_keys)}. "
            + (
                "It keeps its statistics in the network, as LeRobot did before 0.4: convert it with `python -m "
                "lerobot.processor.migrate_policy_normalization`."
                if old
                else "Check that config.json belongs to it, or pass allow_unexpected=True to ignore them."
            )
        )


def _some(keys: list[str]) -> str:
    return ", ".join(keys[:5]) + (", ..." if len(keys) > 5 else "")


def _processors(
    config: Any,
    folder: Path,
    device: str,
    tokenizer: str | None,
    fast: FastTokenizer | None,
    rename: Mapping[str, str] | None = None,
) -> tuple[Any, Any]:
    """The saved pre- and postprocessor."""
    from lerobot.policies import make_pre_post_processors

    try:
        saved = json.loads((folder / "policy_preprocessor.json").read_text())
        steps = {step.get("registry_name") for step in saved["steps"]}
    except (OSError, ValueError, KeyError) as error:
        raise BadArtifact(
            f"{folder} has no readable policy_preprocessor.json ({error}): without its statistics the policy cannot act. "
            "For checkpoints from before LeRobot 0.4 run `python -m lerobot.processor.migrate_policy_normalization`."
        ) from error
    named = {"tokenizer_name": tokenizer} if tokenizer else {}
    paligemma = {"paligemma_tokenizer_name": tokenizer or getattr(config, "text_tokenizer_name", None)}
    overrides: dict[str, dict[str, Any]] = {
        "device_processor": {"device": device},
        "tokenizer_processor": named,
        "rename_observations_processor": {"rename_map": dict(rename)} if rename else {},
        "action_tokenizer_processor": {"action_tokenizer_input_object": fast, **paligemma},
    }
    return make_pre_post_processors(
        config,
        pretrained_path=str(folder),
        preprocessor_overrides={name: override for name, override in overrides.items() if name in steps},
    )
