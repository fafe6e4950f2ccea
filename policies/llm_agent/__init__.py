"""Language models as policies. See README.md of this folder."""

from policies.llm_agent.agent import LLMAgent
from policies.llm_agent.config import LLMAgentConfig
from policies.llm_agent.loading import load

__all__ = ["LLMAgent", "LLMAgentConfig", "load"]
