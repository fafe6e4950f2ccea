"""The K-armed bandit as a gymnasium environment.

One episode is one run of T pulls. Means and rewards of the whole run are drawn at `reset` (see `families.py`), so equal
seeds give equal worlds whatever the policy does. `text.py` adds the prompt for language agents.

Protocol: EAST (arXiv 2406.00244, section 4) and Krishnamurthy et al. (arXiv 2403.15371, section 2). Differences: a warm
start on a chosen arm, which puts an agent into the locked-in state that EAST describes without waiting for it; and
rewards rounded to two digits on request, because digits are separate tokens for small language models.

Version history:
    v0: first version.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np

from envs.bandits.families import Family, World, make_family
from envs.errors import BadAction, BadSetting, nearest

REWARD_FORMS: Mapping[str, tuple[bool, tuple[float, float]]] = {
    "exact": (False, (-np.inf, np.inf)),
    "integer": (True, (-np.inf, np.inf)),
    "two-digit": (True, (10.0, 99.0)),
}
"""Name -> (rounded to the nearest integer?, interval that rewards are clipped to)."""

WARM_ARMS = ("worst", "best", "random")


@dataclass(frozen=True)
class BanditConfig:
    """The numbers of one bandit.

    Args:
        family: how means and rewards are drawn.
        n_arms: K, at least 2.
        horizon: T, pulls per episode, forced ones included.
        rewards: "exact", "integer" (rounded) or "two-digit" (rounded and clipped to 10..99).
        warm_start: number of pulls that `reset` itself plays.
        warm_arm: the arm of those pulls: "worst" or "best" (by the mean over the run, ties at random), "random", or a
            position.
    """

    family: Family
    n_arms: int
    horizon: int
    rewards: str = "exact"
    warm_start: int = 0
    warm_arm: str | int = "worst"

    def __post_init__(self) -> None:
        fixed = self.family.fixed_n_arms
        if not _is_int(self.n_arms) or self.n_arms < 2:
            raise BadSetting(f"n_arms must be an integer of at least 2, got {self.n_arms!r}.")
        if fixed is not None and fixed != self.n_arms:
            raise BadSetting(
                f"n_arms is {self.n_arms} but {fixed} means were given; leave n_arms out or make them agree."
            )
        if not _is_int(self.horizon) or self.horizon < 1:
            raise BadSetting(f"horizon must be an integer of at least 1, got {self.horizon!r}.")
        if self.rewards not in REWARD_FORMS:
            raise BadSetting(f"rewards={self.rewards!r} is unknown{nearest(self.rewards, REWARD_FORMS)}")
        if self.family.reward_kind == "bernoulli" and self.rewards != "exact":
            raise BadSetting(
                f"rewards={self.rewards!r} would change 0/1 rewards; a bernoulli bandit takes only 'exact'."
            )
        if not _is_int(self.warm_start) or not 0 <= self.warm_start < self.horizon:
            raise BadSetting(
                f"warm_start must be an integer in 0..{self.horizon - 1}, so that one of the {self.horizon} pulls "
                f"of the horizon stays free, got {self.warm_start!r}. Raise horizon or lower warm_start."
            )
        if isinstance(self.warm_arm, str):
            if self.warm_arm not in WARM_ARMS:
                raise BadSetting(
                    f"warm_arm={self.warm_arm!r} is unknown{nearest(self.warm_arm, WARM_ARMS)}, or a position"
                )
        elif not _is_int(self.warm_arm) or not 0 <= self.warm_arm < self.n_arms:
            raise BadSetting(
                f"warm_arm={self.warm_arm!r} is not an arm; allowed: 0..{self.n_arms - 1}, or {', '.join(WARM_ARMS)}."
            )


class BanditEnv(gym.Env[dict[str, Any], np.int64]):
    """A K-armed bandit with a reward tape that is common to all policies under one seed.

    Action: `Discrete(K)`, the arm to pull. Reward: that arm's entry of the tape at this step.

    Observation (Dict), the sufficient statistics of the history:
        counts: (K,) int64, pulls of each arm so far, forced ones included.
        sums: (K,) float64, total reward of each arm so far.
        last_action: int64, the last arm, -1 before the first pull.
        last_reward: () float64, the last reward, 0 before the first pull.
        t: int64, pulls so far.
        context: (d,) float64, what is known about the next pull (contextual families only).

    `reset` info: `action_labels` (K str), `means` ((T, K) float64, hidden from honest policies), `forced_arms` and
    `forced_rewards` (tuples of `warm_start` entries), `warm_arm` (int, -1 without a warm start), `horizon`, `family`,
    `reward_kind`, `reward_scale`.

    `step` info, scalars about this pull: `arm`; `regret` (best mean of this step minus the pulled arm's mean, both
    before rounding and clipping); `best` (no arm has a higher mean); `greedy` (no arm has a higher average reward so
    far, among arms already pulled); `forced` (always False: forced pulls happen in `reset`); `invalid` (False);
    `mean_reward_of_arm`; `t` (index of this pull in the horizon); and `horizon`, `n_arms`, `warm_arm`.

    The episode ends with `truncated` after T pulls and never with `terminated`.

    Args:
        family: name of a family in `envs.bandits.families.FAMILIES`.
        n_arms: K; may be left out where `means` fixes it.
        horizon, rewards, warm_start, warm_arm: see `BanditConfig`.
        render_mode: only None; the prompt of `TextBandit` is the picture of a bandit.
        settings: settings of the family.

    Example:
        >>> env = BanditEnv("gaussian", n_arms=2, horizon=3, warm_start=2, rewards="two-digit")
        >>> observation, info = env.reset(seed=0)
        >>> int(observation["t"]), info["forced_arms"] == (info["warm_arm"],) * 2
        (2, True)
    """

    metadata = {"render_modes": []}  # noqa: RUF012 - the base class of gymnasium declares it as an instance attribute

    def __init__(
        self,
        family: str = "gaussian",
        n_arms: int | None = None,
        horizon: int = 50,
        rewards: str = "exact",
        warm_start: int = 0,
        warm_arm: str | int = "worst",
        render_mode: str | None = None,
        **settings: Any,
    ) -> None:
        if render_mode is not None:
            raise BadSetting(f"render_mode={render_mode!r} is unknown; a bandit has nothing to draw. Leave it out.")
        built = make_family(family, settings)
        if n_arms is None and built.fixed_n_arms is None:
            raise BadSetting(f"the number of arms of the {family} bandit is not given; pass n_arms.")
        self.config = BanditConfig(
            family=built,
            n_arms=built.fixed_n_arms or 2 if n_arms is None else n_arms,
            horizon=horizon,
            rewards=rewards,
            warm_start=warm_start,
            warm_arm=warm_arm,
        )
        self.family_name = family
        self.action_space = gym.spaces.Discrete(self.config.n_arms)
        self.observation_space = _observation_space(self.config)
        self.pulls: list[tuple[int, float]] = []
        """(arm, reward) of every pull of this episode, oldest first."""
        self.warm_arm = -1
        """The arm of this episode's forced pulls, -1 without a warm start."""
        self._world: World | None = None

    @property
    def contexts(self) -> np.ndarray | None:
        """(T + 1, d) contexts of this episode, row t shown before pull t; None without contexts or before `reset`."""
        return None if self._world is None or self._world.contexts is None else self._world.contexts.copy()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        if options:
            raise BadSetting(f"reset takes no options, got {sorted(options)}; settings belong into gymnasium.make.")
        config = self.config
        # One stream per purpose, so that an option of one purpose leaves the others as they are.
        world_rng, tape_rng, warm_rng = map(np.random.default_rng, self.np_random.integers(2**62, size=3))
        self._world = config.family.world(world_rng, config.horizon, config.n_arms)
        rounded, (low, high) = REWARD_FORMS[config.rewards]
        tape = config.family.tape(tape_rng, self._world.means)
        self._tape = np.clip(np.rint(tape) if rounded else tape, low, high)
        self._counts = np.zeros(config.n_arms, dtype=np.int64)
        self._sums = np.zeros(config.n_arms, dtype=np.float64)
        self.pulls = []
        self.warm_arm = self._pick_warm_arm(warm_rng) if config.warm_start else -1
        for _ in range(config.warm_start):
            self._pull(self.warm_arm)
        info = {
            "action_labels": tuple(f"arm {arm}" for arm in range(config.n_arms)),
            "means": self._world.means.copy(),
            "forced_arms": tuple(arm for arm, _ in self.pulls),
            "forced_rewards": tuple(reward for _, reward in self.pulls),
            "warm_arm": self.warm_arm,
            "horizon": config.horizon,
            "family": self.family_name,
            "reward_kind": config.family.reward_kind,
            "reward_scale": config.family.reward_scale,
        }
        return self._observation(), info

    def step(self, action: np.int64) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if self._world is None:
            raise gym.error.ResetNeeded("step was called before reset; call env.reset(seed=...) first.")
        if len(self.pulls) >= self.config.horizon:
            raise gym.error.ResetNeeded(f"all {self.config.horizon} pulls of this episode are done; call env.reset().")
        if not self.action_space.contains(action):
            raise BadAction(
                f"action {action!r} is not an arm of this bandit; allowed: the integers 0..{self.config.n_arms - 1}."
            )
        info = self._pull(int(action))
        return self._observation(), self.pulls[-1][1], False, len(self.pulls) >= self.config.horizon, info

    def _pull(self, arm: int) -> dict[str, Any]:
        assert self._world is not None
        t = len(self.pulls)
        means, reward = self._world.means[t], float(self._tape[t, arm])
        averages = np.divide(self._sums, self._counts, out=np.full_like(self._sums, -np.inf), where=self._counts > 0)
        info = {
            "arm": arm,
            "regret": float(means.max() - means[arm]),
            "best": bool(means[arm] == means.max()),
            "greedy": bool(self._counts[arm] > 0 and averages[arm] == averages.max()),
            "forced": False,
            "invalid": False,
            "mean_reward_of_arm": float(means[arm]),
            "t": t,
            "horizon": self.config.horizon,
            "n_arms": self.config.n_arms,
            "warm_arm": self.warm_arm,
        }
        self._counts[arm] += 1
        self._sums[arm] += reward
        self.pulls.append((arm, reward))
        return info

    def _observation(self) -> dict[str, Any]:
        assert self._world is not None
        arm, reward = self.pulls[-1] if self.pulls else (-1, 0.0)
        observation = {
            "counts": self._counts.copy(),
            "sums": self._sums.copy(),
            "last_action": np.int64(arm),
            "last_reward": np.array(reward, dtype=np.float64),
            "t": np.int64(len(self.pulls)),
        }
        if self._world.contexts is not None:
            observation["context"] = self._world.contexts[len(self.pulls)].copy()
        return observation

    def _pick_warm_arm(self, rng: np.random.Generator) -> int:
        assert self._world is not None
        choice, totals = self.config.warm_arm, self._world.means.mean(axis=0)
        if not isinstance(choice, str):
            return int(choice)
        allowed = {
            "worst": totals == totals.min(),
            "best": totals == totals.max(),
            "random": np.ones(self.config.n_arms, dtype=bool),
        }[choice]
        return int(rng.choice(np.flatnonzero(allowed)))


def _observation_space(config: BanditConfig) -> gym.spaces.Dict:
    K, T = config.n_arms, config.horizon
    low, high = (0.0, 1.0) if config.family.reward_kind == "bernoulli" else REWARD_FORMS[config.rewards][1]
    spaces: dict[str, gym.Space[Any]] = {
        "counts": gym.spaces.Box(0, T, (K,), np.int64),
        "sums": gym.spaces.Box(min(0.0, T * low), T * high, (K,), np.float64),
        "last_action": gym.spaces.Discrete(K + 1, start=-1),
        "last_reward": gym.spaces.Box(min(0.0, low), high, (), np.float64),
        "t": gym.spaces.Discrete(T + 1),
    }
    if config.family.context_size:
        spaces["context"] = gym.spaces.Box(-1.0, 1.0, (config.family.context_size,), np.float64)
    return gym.spaces.Dict(spaces)


def _is_int(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)
