"""How logits become actions: one file per read-out behind one interface (`base.Readout`)."""

from policies.llm_agent.readouts.base import Answer, Question, Readout, draw_index, entropy_bits
from policies.llm_agent.readouts.forced_choice import ForcedChoice, action_logits, label_log_probabilities
from policies.llm_agent.readouts.sampled import Sampled, parse_action, sample_tokens

__all__ = [
    "Answer",
    "ForcedChoice",
    "Question",
    "Readout",
    "Sampled",
    "action_logits",
    "draw_index",
    "entropy_bits",
    "label_log_probabilities",
    "parse_action",
    "sample_tokens",
]
