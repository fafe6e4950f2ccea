"""`--policy.type=steered`: a LeRobot checkpoint and a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lerobot.configs import NormalizationMode, PreTrainedConfig

from policies.errors import BadInput
from steer_agents import recipe as recipes

PREFIX = "lerobot:"


@PreTrainedConfig.register_subclass("steered")
@dataclass
class SteeredConfig(PreTrainedConfig):
    """What is steered, and how.

    Args:
        base_path: the checkpoint, a folder or hub name; "" takes the recipe's `policy: lerobot:...`.
        recipe: the recipe file, or its folder; "" steers nothing. In a recipe folder it is relative to the folder.
        strengths: part -> strength in place of the recipe's, within its limits.
        seed: seed of the first episode's noise, one more for each further one, so that a run here and `steer_agents.rollout` with the
            same seed see the same noise (one task, batches of equal size). None draws as LeRobot does.
        dtype: of the base policy; None is what its checkpoint says.
        tokenizer: folder or hub name in place of the tokenizer that the checkpoint names.
        rename_map: as LeRobot's own option, for a `base_path` (a recipe folder has its own processors).
        n_action_steps: executed of a chunk; None is the checkpoint's.
    """

    base_path: str = ""
    recipe: str = ""
    strengths: dict[str, float] = field(default_factory=dict)
    seed: int | None = None
    dtype: str | None = None
    tokenizer: str | None = None
    rename_map: dict[str, str] = field(default_factory=dict)
    n_action_steps: int | None = None
    normalization_mapping: dict[str, NormalizationMode] = field(default_factory=dict)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not getattr(self, "input_features", None) and (self.base_path or self.recipe):
            base = self.base_config()
            for name in ("input_features", "output_features"):
                setattr(self, name, dict(getattr(base, name)))
            self.n_obs_steps = base.n_obs_steps
            self.normalization_mapping = dict(getattr(base, "normalization_mapping", {}))

    # ---- what is steered

    def the_recipe(self) -> recipes.Recipe:
        """The checked recipe with this config's strengths.

        Raises:
            BadInput: see `recipe.load`.
        """
        if not self.recipe:
            if self.strengths:
                raise BadInput(f"steered: strengths {self.strengths} without a recipe; give --policy.recipe=FILE.")
            return recipes.parse("recipe: 1")
        path = Path(self.recipe).expanduser()
        if not path.is_absolute() and self.pretrained_path is not None and (Path(self.pretrained_path) / path).exists():
            path = Path(self.pretrained_path) / path
        found = recipes.load(path)
        return found.with_strengths(self.strengths) if self.strengths else found

    def the_base(self) -> str:
        """Folder or hub name of the checkpoint.

        Raises:
            BadInput: neither `base_path` nor the recipe names one.
        """
        if self.base_path:
            return self.base_path
        name = self.the_recipe().policy
        if not name.startswith(PREFIX):
            raise BadInput(
                f"steered: which LeRobot checkpoint? Give --policy.base_path=FOLDER_OR_HUB_NAME, or a recipe with `policy: {PREFIX}...` "
                f"(it has {name or 'none'!r})."
            )
        return name.removeprefix(PREFIX)

    def options(self) -> dict[str, Any]:
        """For `policies.load`: what was set here over the recipe's options."""
        mine = {"tokenizer": self.tokenizer, "n_action_steps": self.n_action_steps, "device": self.device}
        dtype = self.dtype or getattr(self.base_config(), "dtype", "float32")
        return dict(self.the_recipe().options) | {"dtype": dtype} | {k: v for k, v in mine.items() if v is not None}

    def base_config(self) -> Any:
        """LeRobot's config of the checkpoint."""
        return PreTrainedConfig.from_pretrained(self.the_base())

    # ---- what LeRobot asks of a config: the base's answers, nothing is trained

    @property
    def observation_delta_indices(self) -> Any:
        return self.base_config().observation_delta_indices

    @property
    def action_delta_indices(self) -> Any:
        return self.base_config().action_delta_indices

    @property
    def reward_delta_indices(self) -> Any:
        return self.base_config().reward_delta_indices

    def get_optimizer_preset(self) -> Any:
        return self.base_config().get_optimizer_preset()

    def get_scheduler_preset(self) -> Any:
        return self.base_config().get_scheduler_preset()

    def validate_features(self) -> None:
        self.base_config().validate_features()
