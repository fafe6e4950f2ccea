"""Reference agents for bandits: "bandit:ucb1", "bandit:thompson", ... See README.md of this folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Protocol

from policies.bandit_agents.agent import BanditAgent
from policies.bandit_agents.fixed import OracleConfig, UniformConfig, ZeroConfig
from policies.bandit_agents.greedy import EpsilonGreedyConfig
from policies.bandit_agents.thompson import ThompsonConfig
from policies.bandit_agents.ucb1 import UCB1Config
from policies.errors import BadInput, UnknownName, nearest


class AgentConfig(Protocol):
    """A frozen dataclass of an agent's numbers that builds the agent."""

    def create(self, name: str) -> BanditAgent:
        """Build the agent called `name`."""
        ...


AGENTS: Mapping[str, tuple[type[Any], dict[str, Any]]] = {
    "ucb1": (UCB1Config, {}),
    "thompson": (ThompsonConfig, {}),
    "thompson-gaussian": (ThompsonConfig, {"posterior": "gaussian"}),
    "thompson-bernoulli": (
        ThompsonConfig,
        {"posterior": "bernoulli", "reward_sd": None, "prior_mean": 0.0, "prior_sd": None},
    ),
    "greedy": (EpsilonGreedyConfig, {"epsilon": 0.0}),
    "epsilon-greedy": (EpsilonGreedyConfig, {}),
    "uniform": (UniformConfig, {}),
    "random": (UniformConfig, {}),
    "oracle": (OracleConfig, {}),
    "zero": (ZeroConfig, {}),
}
"""Name -> (config class, values that the name fixes)."""


def load(argument: str, **options: Any) -> BanditAgent:
    """Build the agent called `argument`, e.g. `load("ucb1")` or `load("epsilon-greedy", epsilon=0.2)`.

    Args:
        argument: a name of `AGENTS`.
        options: fields of the agent's config that the name does not fix.
    Raises:
        UnknownName: no such agent.
        BadInput: an option that the agent does not have, or a value that it refuses.
    """
    if argument not in AGENTS:
        raise UnknownName(f"bandit agent {argument!r} is unknown{nearest(argument, AGENTS)}")
    config, fixed = AGENTS[argument]
    free = [field.name for field in fields(config) if field.name not in fixed]
    for option in options:
        if option not in free:
            raise BadInput(f"bandit:{argument} has no option {option!r}{nearest(option, free)}")
    built: AgentConfig = config(**fixed, **options)
    return built.create(f"bandit:{argument}")


__all__ = ["AGENTS", "AgentConfig", "BanditAgent", "load"]
