"""A language agent trained on a text bandit by `steer-reweight`: its own histories are the prompts, the arms' means the rewards.

    adapters = reweight_on_bandit(policies.load("llm:smollm2-135m"), "SteerAgents/BanditBernoulli5Text-v0", episodes=256, seed=0)
    with adapters.on(policy.module):
        after = sa.rollout(env_id, policy, episodes=50, seed=1)

One prompt per episode, at a step drawn at random: prompts of one episode share their world, so that held-out ones would not be
unseen. The reward of an arm is its mean at that step (checkable, as the environment knows it), not the noisy reward that was paid.
The histories are those of the agent as it was before; it does not play again while it learns.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from policies.errors import BadInput
from policies.llm_agent import LLMAgent
from policies.llm_agent.prompts import label_token_ids
from steer_agents.env_batch import EnvLike
from steer_agents.loop import Moment, rollout
from steer_agents.sites import steerable
from steer_agents.training.lora import Adapters
from steer_agents.training.reweight import steer_reweight


@dataclass
class Choices:
    """Choices that an agent was faced with.

    Args:
        prompts: N texts, each ending where the arm is named.
        means: (N, K), of the arms at that step.
        actions: K token ids that name the arms.
    """

    prompts: list[str]
    means: np.ndarray
    actions: list[int]

    def reward(self, prompt: str, action: int) -> float:
        """Mean of the arm where this was the prompt; of several worlds with the same history, their average."""
        same = [row for row, one in enumerate(self.prompts) if one == prompt]
        return float(self.means[same, action].mean())


@dataclass
class _Notes:
    """What was seen in every episode: labels, and of each step (prompt, means)."""

    policy: LLMAgent
    labels: dict[int, tuple[str, ...]] = field(default_factory=dict)
    worlds: dict[int, np.ndarray] = field(default_factory=dict)
    steps: dict[int, list[tuple[str, np.ndarray]]] = field(default_factory=dict)

    def see(self, moment: Moment) -> None:
        for row in np.flatnonzero(moment.active).tolist():
            episode = moment.start + row
            if moment.env_step == 0:
                info = moment.infos[row]
                if "means" not in info or info.get("prompt_format", "text") != "text":
                    raise BadInput(
                        f"reweight_on_bandit: needs a text bandit whose history is one text, got prompt_format "
                        f"{info.get('prompt_format')!r} and infos {sorted(info)}; use history='log' or 'summary'."
                    )
                self.labels[episode], self.worlds[episode] = tuple(info["action_labels"]), np.asarray(info["means"])
            means = self.worlds[episode][int(moment.observation["t"][row])]
            prompt = self.policy.render_row(row, moment.observation["prompt"][row])
            self.steps.setdefault(episode, []).append((prompt, means))


def choices_of_play(policy: LLMAgent, env: EnvLike, episodes: int, seed: int, progress: bool | None = None) -> Choices:
    """Let the agent play, and keep one choice of every episode.

    Args:
        env: a text bandit with one set of labels, as `sa.rollout` takes it.
        episodes: N; seed: of the play and of the steps that are drawn.
    Raises:
        BadInput: no text bandit, or the labels' tokens are not the same everywhere.
    """
    notes = _Notes(policy)
    rollout(env, policy, episodes=episodes, seed=seed, watch=notes.see, progress=progress)
    draw = np.random.default_rng(seed)
    kept = {episode: steps[draw.integers(len(steps))] for episode, steps in sorted(notes.steps.items())}
    named = {tuple(label_token_ids(policy.tokenizer, notes.labels[one], prompt)) for one, (prompt, _) in kept.items()}
    if len(named) != 1:
        raise BadInput(f"reweight_on_bandit: the arms' tokens must be the same in all episodes, got {sorted(named)}.")
    return Choices([prompt for prompt, _ in kept.values()], np.stack([m for _, m in kept.values()]), list(named.pop()))


def reweight_on_bandit(
    policy: LLMAgent, env: EnvLike, *, episodes: int = 256, seed: int = 0, progress: bool | None = None, **options: Any
) -> Adapters:
    """Adapters beside the agent's model with which it names better arms (STEER, arXiv 2510.10150).

    Args:
        policy: answers by forced choice.
        env, episodes, seed: see `choices_of_play`.
        options: of `steer_reweight`: `weights` (with "norm-matched" as the control), `settings`, `rank`, `folder`, ...
    Returns:
        see `steer_reweight`; `info["start"]` and `info["held_out"]` are minus the expected mean of the arm chosen.
    Raises:
        BadInput: another read-out, or see `choices_of_play` and `steer_reweight`.
    """
    if policy.config.readout != "forced_choice":
        raise BadInput(f"reweight_on_bandit: needs readout='forced_choice', got {policy.config.readout!r}.")
    seen = choices_of_play(policy, env, episodes, seed, progress)
    return steer_reweight(
        steerable(policy),
        inputs=seen.prompts,
        actions=seen.actions,
        reward=seen.reward,
        progress=progress,
        **options,
    )
