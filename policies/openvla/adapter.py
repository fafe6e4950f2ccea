"""OpenVLA behind the contract: pictures and an instruction in, one action per call out.

Two entrances are open: "modules" (hooks on language model, towers and projector) and "decision" (the temperature).

What hooks see, per `act`: both towers and the projector once, then the language model A times for an action of A numbers:
a prefill (`context.phase` "prefill", tokens: start, patches, prompt) and A - 1 passes of one token ("decode"). The
classes "image", "instruction" and "action" of `context.token_classes` cover the tokens of the pass that runs. The prompt's
last token gives the first number: "action" tokens are the ones fed back, which give the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from policies import temperature
from policies.action_tokens import entropy_bits
from policies.base import INSTRUCTION, TASK_DESCRIPTION, Decision, Observation, Policy, Vocabulary
from policies.errors import BadInput, nearest
from policies.openvla.actions import ActionBins, ActionNorm, libero_gripper
from policies.openvla.decoding import generate
from policies.openvla.images import pixel_values
from policies.openvla.model import OpenVLAModel
from policies.openvla.options import OpenVLAOptions
from policies.openvla.prompts import PromptReader
from policies.token_texts import token_texts

if TYPE_CHECKING:
    from tokenizers import Tokenizer

PIXELS = "pixels"
"""Key of LeRobot's form."""
ENCODE_BATCH_SIZE = 8


class OpenVLAPolicy(Policy):
    """An OpenVLA model as a policy.

    Args:
        module: the network, in eval mode.
        tokenizer: the checkpoint's own.
        norm: scale of the actions.
        options: camera, picture transforms, gripper, temperature.
        name: as in the registry.
        quantize: how the weights are kept, for `describe`.
    """

    entrances = frozenset({"modules", "decision"})
    no_action_values = "it says one action token after the other, and what is chosen has no gradient."
    module: OpenVLAModel

    def __init__(
        self,
        module: OpenVLAModel,
        tokenizer: Tokenizer,
        norm: ActionNorm,
        options: OpenVLAOptions | None = None,
        name: str = "openvla",
        quantize: str | None = None,
    ) -> None:
        super().__init__()
        from policies.site_maps import site_map_for

        config = module.config
        self.module = module
        self.site_map = site_map_for(module)
        self.norm = norm
        self.options = options or OpenVLAOptions()
        self.name = name
        self.action_dim = len(norm.q01)
        self.bins = ActionBins(config.n_action_bins, config.n_text_tokens)
        room = config.max_length - self.action_dim
        self.reader = PromptReader(tokenizer, config.image_token_id, module.n_patches, room)
        self._quantize = quantize
        self._temperature = self.options.temperature

    # ---- the loop

    def _reset(self, seeds: list[int], infos: Sequence[Mapping[str, Any]]) -> None:
        instructions = [
            self._instruction(info, TASK_DESCRIPTION, f"the info of batch row {b}") for b, info in enumerate(infos)
        ]
        self._prompts = self.reader.batch(instructions)
        self._rngs = [np.random.default_rng([seed, 1]) for seed in seeds]

    def _act(self, observation: Observation, active: np.ndarray) -> Decision:
        pictures = self._pictures(observation)
        if len(pictures) != len(self._rngs):
            raise BadInput(
                f"{self.name}: expected pictures of {len(self._rngs)} rows, as in reset, got {len(pictures)}."
            )
        # every row draws the same amount at every step, whatever is chosen: conditions share their random numbers
        uniforms = torch.from_numpy(np.stack([rng.random(self.action_dim) for rng in self._rngs]))
        generated = generate(
            self.module,
            self._prompts,
            self._pixel_values(pictures),
            self.bins,
            self.action_dim,
            self._pass,
            self._temperature,
            uniforms,
        )
        ids = generated.ids.numpy()
        measures = {
            "entropy_bits": generated.entropy_bits.mean(1).numpy(),
            "token_entropy_bits": generated.entropy_bits.numpy(),
            "action_mass": generated.action_mass.mean(1).numpy(),
            "not_action_tokens": (~self.bins.is_action(ids)).sum(1).astype(np.float32),
            "token_ids": ids.astype(np.float32),
        }
        for values in measures.values():
            values[~active] = np.nan
        return Decision(self.actions(ids), measures)

    def actions(self, ids: np.ndarray) -> np.ndarray:
        """Action tokens (B, A) -> actions (B, A) float32, in the units of the data set, the gripper as the options say."""
        actions = self.norm.unnormalise(self.bins.values(ids))
        if self.options.gripper == "libero":
            actions = libero_gripper(actions)
        return actions.astype(np.float32)

    @contextmanager
    def _pass(self, phase: str, classes: dict[str, torch.Tensor]) -> Iterator[None]:
        """Tell hooks what the coming pass is."""
        self.context.phase, self.context.token_classes = phase, classes
        try:
            yield
        finally:
            self.context.phase, self.context.token_classes = None, {}

    # ---- inputs

    def _pictures(self, observation: Observation) -> np.ndarray:
        """(B, H, W, 3) of the chosen camera."""
        camera = self.options.camera
        if not isinstance(observation, Mapping) or PIXELS not in observation:
            got = sorted(observation) if isinstance(observation, Mapping) else type(observation).__name__
            raise BadInput(
                f"{self.name}: expected an observation with {PIXELS!r}, got {got}; make the environment with "
                "obs_type='pixels' or 'pixels_agent_pos'."
            )
        pixels = observation[PIXELS]
        if not isinstance(pixels, Mapping):
            return np.asarray(pixels)
        if camera not in pixels:
            raise BadInput(f"{self.name}: camera {camera!r} is not in the observation{nearest(camera, pixels)}")
        return np.asarray(pixels[camera])

    def _pixel_values(self, pictures: np.ndarray) -> torch.Tensor:
        return pixel_values(pictures, self.module.config.image_size, self.options)

    def _instruction(self, source: Mapping[str, Any], key: str, where: str) -> str:
        if not isinstance(source.get(key), str):
            raise BadInput(
                f"{self.name}: {where} has no {key!r} (a string), it has {sorted(source)}. Say what to do, e.g. "
                f"{key!r}: 'pick up the bowl'."
            )
        return str(source[key])

    def encode(self, inputs: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
        """Turn observations into keyword batches for `module`, padded on the left.

        Args:
            inputs: unbatched mappings with "pixels" (camera -> (H, W, 3) uint8) and "instruction" (str).
        Returns:
            batches of up to 8 rows: `input_ids`, `attention_mask` (B, N) int64 and `pixel_values` (B, 6, S, S) float32.
        """
        wrong = [type(entry).__name__ for entry in inputs if not isinstance(entry, Mapping)]
        if isinstance(inputs, (str, Mapping)) or wrong:
            raise BadInput(
                f"{self.name}: encode takes a list of mappings with {PIXELS!r} and {INSTRUCTION!r}, got "
                f"{wrong[0] if wrong else type(inputs).__name__}: this model reads a picture with every instruction."
            )
        batches: list[Mapping[str, Any]] = []
        for start in range(0, len(inputs), ENCODE_BATCH_SIZE):
            rows = inputs[start : start + ENCODE_BATCH_SIZE]
            pixels = torch.cat([self._pixel_values(self._pictures(row)[None]) for row in rows])
            prompts = self.reader.batch(
                [self._instruction(row, INSTRUCTION, f"input {start + i}") for i, row in enumerate(rows)]
            )
            batches.append(
                {"input_ids": prompts.input_ids, "attention_mask": prompts.attention_mask, "pixel_values": pixels}
            )
        return batches

    def token_entropy(self, batch: Mapping[str, Any]) -> torch.Tensor:
        """(B, 1) [bits], see `Policy.token_entropy`: of an action's first token, which the prompt decides; the others need those before."""
        device = self.module.device
        with torch.no_grad():
            out = self.module(**{name: value.to(device) for name, value in batch.items()}, logits_to_keep=1)
        return entropy_bits(out.logits[:, -1:, self.bins.first_id : self.bins.n_text_tokens].float()).cpu()

    def vocabulary(self) -> Vocabulary:
        """Llama's tokens; action tokens say their value in (-1, 1), before the scale of the data set."""
        config = self.module.config
        texts = list(token_texts(self.reader.tokenizer, int(config.text_config.vocab_size)))
        actions = range(self.bins.first_id, config.n_text_tokens)
        values = self.bins.values(np.arange(actions.start, actions.stop))
        texts[actions.start : actions.stop] = [f"{value:+.2f}" for value in values]
        return Vocabulary(tuple(texts), actions)

    # ---- the decision

    def set_decision(self, **settings: Any) -> dict[str, Any]:
        """Change the temperature.

        Args:
            settings: `temperature`, at least 0; 0 is greedy, see `OpenVLAOptions`.
        Returns:
            the previous value, under the same name.
        """
        self._temperature, previous = temperature.changed(self.name, self._temperature, settings)
        return previous

    def describe(self) -> dict[str, Any]:
        """Name, dtype, options and the scale of the actions, with the temperature that holds now."""
        return {
            "name": self.name,
            "model": type(self.module).__name__,
            "dtype": str(self.module.dtype).removeprefix("torch."),
            "quantize": self._quantize,
            **asdict(self.options),
            "unnorm_key": self.norm.key,
            "q01": self.norm.q01.tolist(),
            "q99": self.norm.q99.tolist(),
            "mask": self.norm.mask.tolist(),
            "temperature": self._temperature,
        }
