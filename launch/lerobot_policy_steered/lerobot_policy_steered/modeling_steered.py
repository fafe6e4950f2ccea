"""A LeRobot policy with steering in it, for LeRobot's own loops.

The base policy is loaded and steered by `policies.lerobot` and `steer_agents`, so that what holds there holds here: a hook that never
fires is an error, a direction of another model is refused, several noise samples share one prefix. LeRobot gives batches that its
preprocessor has made and takes normalised chunks; `_InHost` stands where our adapter would translate.
"""

from __future__ import annotations

import logging
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lerobot.policies.pretrained import PreTrainedPolicy
from torch import nn

import policies
from launch.lerobot_folder import save_folder
from lerobot_policy_steered.configuration_steered import PREFIX, SteeredConfig
from policies.errors import BadInput
from policies.lerobot.adapter import LeRobotDenoiser, LeRobotPolicy, Stock
from steer_agents.recipe import Recipe
from steer_agents.steerer import Attached

_LOG = logging.getLogger(__name__)


class _InHost(Stock):
    """Takes and gives what LeRobot's loop does: preprocessed batches, normalised chunks."""

    def __init__(self, stock: Stock) -> None:
        super().__init__(
            stock.policy, stock.pre, stock.post, stock.translation, stock.instruction, stock.sampler.autocast, stock.clip_actions
        )  # fmt: skip
        self.context, self.sampler = stock.context, stock.sampler
        self.to_units = stock.finish

    def begin(self, infos: Any) -> None:
        """The instruction is in the batch."""

    def batch(self, observation: Any) -> dict[str, torch.Tensor]:
        return {k: v for k, v in observation.items() if k.startswith("observation") and torch.is_tensor(v)}

    def finish(self, chunk: torch.Tensor) -> torch.Tensor:
        return chunk


class _Denoiser(LeRobotDenoiser):
    """The adapter in the host; guidance still sees chunks in the environment's units."""

    def _to_action(self, x: torch.Tensor) -> torch.Tensor:
        stock: Any = self.stock
        assert stock.kind.trim is not None
        chunk: torch.Tensor = stock.to_units(stock.kind.trim(stock.policy, x))
        return chunk


class SteeredPolicy(PreTrainedPolicy):
    """See the module's docstring.

    Args:
        config: what is steered, and how.
    """

    config_class = SteeredConfig
    name = "steered"

    def __init__(self, config: SteeredConfig, **_: Any) -> None:
        super().__init__(config)
        self.config: SteeredConfig = config
        self.recipe: Recipe = config.the_recipe()
        loaded: Any = policies.load(PREFIX + config.the_base(), **config.options())
        self.base: nn.Module = loaded.stock.policy
        if getattr(self.base.config, "temporal_ensemble_coeff", None) is not None:
            raise BadInput(
                "steered: temporal ensembling mixes chunks of several steps, which steering here does not see; load the base with "
                "temporal_ensemble_coeff null."
            )
        stock = _InHost(loaded.stock)
        adapter = (
            _Denoiser(stock, loaded.name) if isinstance(loaded, LeRobotDenoiser) else LeRobotPolicy(stock, loaded.name)
        )
        # not modules of ours: their children are the base's, which is one
        self.__dict__["_adapter"], self.__dict__["_sampler"] = adapter, stock.sampler
        self.__dict__["_attached"] = self.recipe.steerer().attach(adapter)
        self._attached.__enter__()
        _LOG.info("%s is %s", config.the_base(), _told(self.recipe))
        self._fired: int | None = None
        self._n_action_steps = adapter.n_action_steps
        self._episodes = 0
        self.reset()

    _adapter: Any
    _sampler: Any
    _attached: Attached

    @classmethod
    def from_pretrained(
        cls,
        pretrained_name_or_path: str | Path,
        *,
        config: SteeredConfig | None = None,
        revision: str | None = None,
        **_: Any,
    ) -> SteeredPolicy:
        """From a recipe folder, here or on the hub."""
        folder = Path(pretrained_name_or_path).expanduser()
        if not folder.is_dir():
            from huggingface_hub import snapshot_download

            folder = Path(snapshot_download(str(pretrained_name_or_path), revision=revision))
        chosen = SteeredConfig.from_pretrained(folder) if config is None else config
        assert isinstance(chosen, SteeredConfig)
        chosen.pretrained_path = folder
        return cls(chosen).eval()

    def _save_pretrained(self, save_directory: Path, state_dict: Any = None) -> None:
        """A recipe folder: config, recipe, its files and the processors; no weights of the base."""
        save_folder(self.config, self.recipe, self._adapter.stock.pre, self._adapter.stock.post, Path(save_directory))

    # ---- acting

    def reset(self) -> None:
        self._actions: deque[torch.Tensor] = deque()
        self._history: deque[dict[str, torch.Tensor]] = deque(maxlen=self.config.n_obs_steps)
        self._rows: int | None = None
        self._adapter.context.env_step = None
        self._adapter.context.observation = None
        reset_base: Any = self.base.reset
        reset_base()

    def _begin(self, rows: int) -> None:
        """An episode per row begins: seeds of the noise, stages of guidance, gates."""
        first = self.config.seed
        seeds = [(0 if first is None else first) + self._episodes + row for row in range(rows)]
        if first is None:  # unseeded parts still need streams of their own, drawn from LeRobot's
            seeds = torch.randint(0, 2**31 - 1, (rows,)).tolist() if self._draws_itself else seeds
        self._adapter.reset(seeds)
        self._episodes += rows
        self._rows = rows

    @property
    def _draws_itself(self) -> bool:
        """Whether noise has to be drawn here: a seed is set, or a part enters at the noise or along the path."""
        return isinstance(self._adapter, _Denoiser) and (
            self.config.seed is not None or bool(self._adapter.sampling_parts)
        )

    @torch.no_grad()
    def select_action(self, batch: dict[str, Any], **kwargs: Any) -> torch.Tensor:
        """The next action of the chunk, (B, A) normalised; a new chunk where it is used up."""
        seen = _tensors(batch)
        rows = len(next(iter(seen.values())))
        if self._rows is None:
            self._begin(rows)
            self._adapter.context.env_step = np.zeros(rows, dtype=np.int64)
        n_obs_steps = self.config.n_obs_steps
        self._history.extend([seen] * (1 if self._history else n_obs_steps))
        if not self._actions:
            seen = (
                {key: torch.stack([past[key] for past in self._history], 1) for key in seen}
                if n_obs_steps > 1
                else seen
            )
            chunk = self._chunk(seen, kwargs)
            self._actions.extend(chunk[:, : self._n_action_steps].unbind(1))
        context = self._adapter.context
        context.env_step = context.env_step + 1
        return self._actions.popleft()

    @torch.no_grad()
    def predict_action_chunk(self, batch: dict[str, Any], **kwargs: Any) -> torch.Tensor:
        """(B, H, A), normalised. Which env step this is, is not known here: parts with a schedule say so."""
        seen = _tensors(batch)
        rows = len(next(iter(seen.values())))
        if rows != self._rows:
            self._begin(rows)
            self._adapter.context.env_step = None
        return self._chunk(seen, kwargs)

    def _chunk(self, batch: dict[str, torch.Tensor], options: dict[str, Any]) -> torch.Tensor:
        # LeRobot's loops run in inference mode, where guidance could take no gradient
        with torch.inference_mode(False), torch.no_grad():
            batch = {name: value.clone() for name, value in batch.items()}
            context = self._adapter.context
            context.observation = batch
            context.act_calls += 1
            device = next(self.base.parameters()).device
            with self._sampler.host_options(options):
                if self._draws_itself:
                    chunk: torch.Tensor = self._adapter._plan(batch)
                else:
                    chunk = self._sampler(**batch)
            if self._fired is None:  # LeRobot's loops never leave the steering, which would ask this
                self._fired = self._attached.check_fired()
                _LOG.info("the first chunk: steering fired at %d site(s)", self._fired)
            return chunk.to(device)

    # ---- live strengths

    def set_strength(self, part: str, value: float) -> None:
        """Change a part's strength now, within the recipe's limits."""
        self.recipe.turn(self._attached, part, value)

    # ---- real-time chunking, training: the base's

    def supports_rtc(self) -> bool:
        asked: Any = getattr(self.base, "supports_rtc", lambda: False)
        return bool(asked())

    def init_rtc_processor(self) -> None:
        """LeRobot sets `config.rtc_config` on the policy and calls this."""
        base: Any = self.base
        base.config.rtc_config = getattr(self.config, "rtc_config", None)
        base.init_rtc_processor()

    def forward(self, batch: dict[str, Any], **kwargs: Any) -> Any:
        return self.base(batch, **kwargs)

    def get_optim_params(self) -> Any:
        params: Any = self.base.get_optim_params
        return params()


def _tensors(batch: dict[str, Any]) -> dict[str, torch.Tensor]:
    return {name: value for name, value in batch.items() if name.startswith("observation") and torch.is_tensor(value)}


def _told(recipe: Recipe) -> str:
    """What a log should say: which parts steer, and how strongly."""
    parts = [one.name if one.strength is None else f"{one.name} {one.strength:g}" for one in recipe.parts]
    return (
        f"steered by {', '.join(parts)} (recipe {recipe.digest()[:12]})"
        if parts
        else "not steered: no recipe, or one without parts"
    )
