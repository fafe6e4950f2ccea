"""The pre- and postprocessor of a steered policy: those of its base."""

from __future__ import annotations

from typing import Any

from lerobot_policy_steered.configuration_steered import SteeredConfig
from policies.lerobot.loading import processors


def make_steered_pre_post_processors(config: SteeredConfig, dataset_stats: Any = None) -> tuple[Any, Any]:
    """The base's saved pipelines on this config's device, with its `rename_map`; statistics of a data set are not taken."""
    return processors(config.the_base(), str(config.device), config.tokenizer, config.rename_map)
