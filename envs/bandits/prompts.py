"""From the history of a bandit to the prompt of a language agent: pure functions, one per history format.

    log       one line per round, ends where the label of the next round is expected
    summary   count and average of every arm (Krishnamurthy et al., arXiv 2403.15371: "summarized history")
    dialogue  chat messages, answers in the ReAct form (arXiv 2210.03629) "Thought: ... Action: I choose <label>."

Differences from EAST (arXiv 2406.00244): its dialogue keeps the agent's own thoughts in the history. An environment
sees only which arm was chosen, so here an earlier answer is its action line alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from envs.bandits.wordings import Wording


@dataclass(frozen=True)
class Story:
    """All that a prompt is made from.

    Args:
        wording: the scenario.
        labels: K names, by position of the arm.
        horizon: T, pulls per episode.
        pulls: (arm, reward) of every pull so far, oldest first.
        contexts: what was shown before each pull and is shown before the next one (one more entry than `pulls`), or
            empty for bandits without contexts.
        hint: a sentence that is put behind the first line of the scenario, e.g. advice; "" for none.
    """

    wording: Wording
    labels: Sequence[str]
    horizon: int
    pulls: Sequence[tuple[int, float]]
    contexts: Sequence[str] = ()
    hint: str = ""

    def intro(self) -> str:
        told = self.wording.intro.format(n=len(self.labels), labels=", ".join(self.labels))
        return f"{told} {self.hint}".strip()

    def round(self, index: int) -> str:
        """ "Round 3", or "Round 3 (group A)" in a contextual bandit; `index` counts from 0."""
        return f"Round {index + 1}" + (f" ({self.contexts[index]})" if self.contexts else "")


def format_reward(reward: float) -> str:
    """A whole number without decimals, anything else with two.

    >>> format_reward(47.0), format_reward(47.128)
    ('47', '47.13')
    """
    return str(int(reward)) if float(reward).is_integer() else f"{reward:.2f}"


def log(story: Story) -> str:
    """The plain log, e.g. "... Round 1: pressed blue, got 47 points\\nRound 2: pressed"."""
    wording = story.wording
    lines = [story.intro()]
    for index, (arm, reward) in enumerate(story.pulls):
        gain = wording.gain.format(reward=format_reward(reward))
        lines.append(f"{story.round(index)}: {wording.verb} {story.labels[arm]}, {gain}")
    lines.append(f"{story.round(len(story.pulls))}: {wording.verb}")
    return "\n".join(lines)


def summary(story: Story) -> str:
    """Count and average of every arm, then the query of the log."""
    wording = story.wording
    lines = [story.intro()]
    for arm, label in enumerate(story.labels):
        rewards = [reward for pulled, reward in story.pulls if pulled == arm]
        average = f", average {sum(rewards) / len(rewards):.1f} {wording.unit}" if rewards else ""
        lines.append(f"{label}: {wording.verb} {len(rewards)} times{average}")
    lines.append(f"{story.round(len(story.pulls))}: {wording.verb}")
    return "\n".join(lines)


def dialogue(story: Story) -> str:
    """A JSON list of chat messages; it ends with a user message, and roles alternate."""
    wording = story.wording
    instruction = (
        f"{story.intro()} {wording.goal.format(horizon=story.horizon)}\n"
        "Answer every round in this form:\n"
        "Thought: your reasoning in one or two sentences.\n"
        "Action: I choose <label>.\n"
        f"where <label> is one of: {', '.join(story.labels)}."
    )
    messages = [{"role": "user", "content": f"{instruction}\n\n{story.round(0)}. {wording.ask}"}]
    for index, (arm, reward) in enumerate(story.pulls):
        gain = wording.gain.format(reward=format_reward(reward))
        messages.append({"role": "assistant", "content": f"Action: I choose {story.labels[arm]}."})
        feedback = f"You {wording.verb} {story.labels[arm]} and {gain}."
        messages.append({"role": "user", "content": f"{feedback}\n\n{story.round(index + 1)}. {wording.ask}"})
    return json.dumps(messages)


@dataclass(frozen=True)
class History:
    """One history format.

    Args:
        render: from `Story` to the prompt.
        prompt_format: "text", or "messages" (a JSON list of {"role", "content"}).
        tells_contexts: False if the format cannot say which context each reward belongs to.
    """

    render: Callable[[Story], str]
    prompt_format: str
    tells_contexts: bool


HISTORIES: Mapping[str, History] = {
    "log": History(log, "text", tells_contexts=True),
    "summary": History(summary, "text", tells_contexts=False),
    "dialogue": History(dialogue, "messages", tells_contexts=True),
}
