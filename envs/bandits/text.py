"""A bandit told in words: the gymnasium wrapper that adds a prompt to the observation.

Sources: EAST (arXiv 2406.00244, section 4) and Krishnamurthy et al. (arXiv 2403.15371, section 2). What the prompts
look like is in `prompts.py` (formats) and `wordings.py` (scenarios). As in EAST, an answer that names no arm ends the
run.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import gymnasium as gym
import numpy as np

from envs.bandits.bandit import BanditEnv
from envs.bandits.prompts import HISTORIES, Story
from envs.bandits.wordings import WORDINGS
from envs.errors import BadAction, BadSetting, nearest

PROMPT_CHARACTERS = string.ascii_letters + string.digits + string.punctuation + " \n"

INVALID = -1
"""The action of an answer that names no arm."""


class TextBandit(
    gym.Wrapper[dict[str, Any], np.int64, dict[str, Any], np.int64],
    gym.utils.RecordConstructorArgs,
):
    """Adds "prompt" to the observation of a `BanditEnv` and takes -1 for an answer that could not be understood.

    Action: `Discrete(K + 1, start=-1)`; 0..K-1 pulls that arm, -1 ends the run: `terminated`, reward 0, and an info
    with `invalid` True, `arm` -1, `regret` 0, `best` and `greedy` False.

    Observation: the fields of `BanditEnv` and "prompt", a string of printable ASCII and newlines. In the formats "log"
    and "summary" it ends exactly where the label is expected, without a space.

    `reset` info additionally: `action_labels` (K str, by position of the arm), `prompt_format` ("text" or "messages"),
    `wording`, `history`, `hint`.

    Args:
        env: a `BanditEnv`.
        wording: scenario, a name of `WORDINGS`.
        history: format, a name of `HISTORIES`.
        labels: K names to use instead of the scenario's own.
        hint: advice behind the scenario's first line, in printable ASCII without line breaks ("suggestive framing" of Krishnamurthy
            et al.); "" for none.

    Example:
        >>> env = TextBandit(BanditEnv("gaussian", n_arms=2, horizon=3), wording="slots")
        >>> print(env.reset(seed=0)[0]["prompt"])
        There are 2 slot machines: cherry, lemon. Each play pays coins.
        Round 1: played
    """

    def __init__(
        self,
        env: gym.Env[dict[str, Any], np.int64],
        wording: str = "buttons",
        history: str = "log",
        labels: Sequence[str] | None = None,
        hint: str = "",
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, wording=wording, history=history, labels=labels, hint=hint)
        gym.Wrapper.__init__(self, env)
        if not isinstance(env.unwrapped, BanditEnv):
            raise BadSetting(f"TextBandit wraps a BanditEnv, got {type(env.unwrapped).__name__}.")
        if wording not in WORDINGS:
            raise BadSetting(f"wording={wording!r} is unknown{nearest(wording, WORDINGS)}")
        if history not in HISTORIES:
            raise BadSetting(f"history={history!r} is unknown{nearest(history, HISTORIES)}")
        self._bandit: BanditEnv = env.unwrapped
        config = self._bandit.config
        if config.family.context_size and not HISTORIES[history].tells_contexts:
            allowed = [name for name, format in HISTORIES.items() if format.tells_contexts]
            raise BadSetting(
                f"history={history!r} cannot tell contexts, but the {self._bandit.family_name} bandit has them; "
                f"allowed: {', '.join(allowed)}."
            )
        if "\n" in hint or not set(hint) <= set(PROMPT_CHARACTERS):
            raise BadSetting(f"hint must be printable ASCII text on one line, got {hint!r}.")
        self.wording, self.history, self.hint = wording, history, hint
        self.labels = _check_labels(wording, labels, config.n_arms)
        self._ended = False
        self._last: dict[str, Any] | None = None
        assert isinstance(env.observation_space, gym.spaces.Dict)
        prompt = gym.spaces.Text(self._longest_prompt(), charset=PROMPT_CHARACTERS)
        self.observation_space = gym.spaces.Dict({**env.observation_space.spaces, "prompt": prompt})
        self.action_space = gym.spaces.Discrete(config.n_arms + 1, start=INVALID)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        self._ended = False
        info |= {
            "action_labels": self.labels,
            "prompt_format": HISTORIES[self.history].prompt_format,
            "wording": self.wording,
            "history": self.history,
            "hint": self.hint,
        }
        self._last = observation
        return self._with_prompt(observation), info

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self._last is None:
            raise gym.error.ResetNeeded("step was called before reset; call env.reset(seed=...) first.")
        if self._ended or len(self._bandit.pulls) >= self._bandit.config.horizon:
            raise gym.error.ResetNeeded("this run has ended (horizon, or an invalid answer); call env.reset().")
        if not self.action_space.contains(action):
            last = self._bandit.config.n_arms - 1
            raise BadAction(f"action {action!r} is unknown; allowed: the arms 0..{last}, or -1 for an invalid answer.")
        if action == INVALID:
            return self._end_invalid(self._last)
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._last = observation
        return self._with_prompt(observation), float(reward), terminated, truncated, info

    def _end_invalid(self, last: dict[str, Any]) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        config = self._bandit.config
        self._ended = True
        info = {
            "arm": INVALID,
            "regret": 0.0,
            "best": False,
            "greedy": False,
            "forced": False,
            "invalid": True,
            "mean_reward_of_arm": 0.0,
            "t": len(self._bandit.pulls),
            "horizon": config.horizon,
            "n_arms": config.n_arms,
            "warm_arm": self._bandit.warm_arm,
        }
        return self._with_prompt(deepcopy(last)), 0.0, True, False, info

    def _with_prompt(self, observation: dict[str, Any]) -> dict[str, Any]:
        contexts = self._bandit.contexts
        describe = self._bandit.config.family.describe_context
        pulls = self._bandit.pulls
        told = () if contexts is None else tuple(describe(context) for context in contexts[: len(pulls) + 1])
        return {**observation, "prompt": self._render(pulls, told)}

    def _render(self, pulls: Sequence[tuple[int, float]], contexts: Sequence[str]) -> str:
        story = Story(WORDINGS[self.wording], self.labels, self._bandit.config.horizon, pulls, contexts, self.hint)
        return HISTORIES[self.history].render(story)

    def _longest_prompt(self) -> int:
        """An upper bound: every arm pulled in every round, with rewards and contexts of the greatest width."""
        config = self._bandit.config
        pulls = [(arm, -123456789.25) for arm in range(config.n_arms)] * config.horizon
        size = config.family.context_size
        contexts = [config.family.describe_context(-np.ones(size))] * (len(pulls) + 1) if size else []
        return len(self._render(pulls, contexts))


def make_text_bandit(
    wording: str = "buttons", history: str = "log", labels: Sequence[str] | None = None, hint: str = "", **bandit: Any
) -> TextBandit:
    """Entry point of the registered text ids: a `BanditEnv` with settings `bandit`, told in words."""
    return TextBandit(BanditEnv(**bandit), wording=wording, history=history, labels=labels, hint=hint)


def _check_labels(wording: str, labels: Sequence[str] | None, n_arms: int) -> tuple[str, ...]:
    own = WORDINGS[wording].labels
    if labels is None:
        if n_arms > len(own):
            raise BadSetting(
                f"wording={wording!r} names {len(own)} arms, this bandit has {n_arms}; pass as many labels=(...)."
            )
        return own[:n_arms]
    names = tuple(labels)
    if isinstance(labels, str) or len(names) != n_arms or len(set(names)) != n_arms:
        raise BadSetting(f"labels must be {n_arms} different names, one per arm, got {labels!r}.")
    for name in names:
        if not isinstance(name, str) or not name or name != name.strip() or not set(name) <= set(PROMPT_CHARACTERS):
            raise BadSetting(f"label {name!r} must be printable ASCII text without spaces around it.")
    return names
