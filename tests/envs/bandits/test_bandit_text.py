from __future__ import annotations

import json

import gymnasium as gym
import numpy as np
import pytest

from envs.bandits import HISTORIES, WORDINGS, BanditEnv, TextBandit, make_text_bandit
from envs.errors import BadAction, BadSetting

MEANS = (40.0, 50.0, 60.0, 30.0, 20.0)


def run(arms: list[int], **settings: object) -> dict:
    """The last observation after `arms` in a bandit without noise."""
    env = make_text_bandit(**{"means": MEANS, "sd": 0.0, "horizon": 10, **settings})
    observation, _ = env.reset(seed=0)
    for arm in arms:
        observation, *_ = env.step(np.int64(arm))
    return observation


def test_the_log_of_buttons_is_the_measured_text() -> None:
    assert run([0, 2])["prompt"] == (
        "There are 5 buttons: blue, green, red, yellow, purple. Each press gives points.\n"
        "Round 1: pressed blue, got 40 points\n"
        "Round 2: pressed red, got 60 points\n"
        "Round 3: pressed"
    )


def test_forced_pulls_are_in_the_first_prompt() -> None:
    assert run([], warm_start=2, warm_arm="worst")["prompt"] == (
        "There are 5 buttons: blue, green, red, yellow, purple. Each press gives points.\n"
        "Round 1: pressed purple, got 20 points\n"
        "Round 2: pressed purple, got 20 points\n"
        "Round 3: pressed"
    )


def test_the_summary_tells_count_and_average() -> None:
    assert run([0, 2, 0], history="summary", wording="slots", means=(40.0, 50.0, 60.0))["prompt"] == (
        "There are 3 slot machines: cherry, lemon, diamond. Each play pays coins.\n"
        "cherry: played 2 times, average 40.0 coins\n"
        "lemon: played 0 times\n"
        "diamond: played 1 times, average 60.0 coins\n"
        "Round 4: played"
    )


def test_the_dialogue_is_a_list_of_alternating_messages_that_asks_for_the_react_form() -> None:
    messages = json.loads(run([1], history="dialogue", wording="adverts", means=(40.0, 50.0))["prompt"])
    assert [message["role"] for message in messages] == ["user", "assistant", "user"]
    first, answer, last = (message["content"] for message in messages)
    assert first == (
        "There are 2 adverts: coffee, shoes. Each showing brings clicks. "
        "The clicks of an advert vary around its own average, which you do not know. "
        "Try the adverts and get as many clicks as you can in 10 rounds.\n"
        "Answer every round in this form:\n"
        "Thought: your reasoning in one or two sentences.\n"
        "Action: I choose <label>.\n"
        "where <label> is one of: coffee, shoes.\n\n"
        "Round 1. Which advert do you show?"
    )
    assert answer == "Action: I choose shoes."
    assert last == "You showed shoes and got 50 clicks.\n\nRound 2. Which advert do you show?"


@pytest.mark.parametrize("wording", WORDINGS)
@pytest.mark.parametrize("history", ["log", "summary"])
def test_text_prompts_end_with_the_verb_right_where_the_label_is_expected(wording: str, history: str) -> None:
    prompt = run([0, 1], wording=wording, history=history)["prompt"]
    assert prompt.endswith(f"Round 3: {WORDINGS[wording].verb}")


def test_the_log_only_ever_grows_at_its_end() -> None:
    before, after = run([0, 3])["prompt"], run([0, 3, 1])["prompt"]
    assert after.startswith(before + " green,")


def test_two_digit_rewards_and_equal_labels_make_prompts_of_equal_length() -> None:
    env = make_text_bandit(n_arms=2, horizon=9, rewards="two-digit", labels=("up", "to"), mean_range=(0.0, 120.0))
    lengths = set()
    for seed in range(10):
        env.reset(seed=seed)
        for arm in np.random.default_rng(seed).integers(2, size=8):
            observation, *_ = env.step(np.int64(arm))
        lengths.add(len(observation["prompt"]))
    assert len(lengths) == 1


def test_rewards_that_are_not_whole_are_told_with_two_decimals() -> None:
    assert "pressed blue, got 40.12 points" in run([0], means=(40.125, 1.0))["prompt"]


def test_contexts_are_told_with_every_round() -> None:
    env = make_text_bandit(family="contextual-clusters", n_arms=2, horizon=4, rewards="two-digit")
    env.reset(seed=2)
    observation, reward, *_ = env.step(np.int64(1))
    contexts = env.unwrapped.contexts  # type: ignore[attr-defined]
    groups = ["ABC"[int(context.argmax())] for context in contexts[:2]]
    assert observation["prompt"].splitlines()[1:] == [
        f"Round 1 (group {groups[0]}): pressed green, got {int(reward)} points",
        f"Round 2 (group {groups[1]}): pressed",
    ]


def test_reset_says_how_to_read_the_prompt() -> None:
    info = make_text_bandit(n_arms=3).reset(seed=0)[1]
    assert (info["action_labels"], info["prompt_format"]) == (("blue", "green", "red"), "text")
    assert make_text_bandit(n_arms=3, history="dialogue").reset(seed=0)[1]["prompt_format"] == "messages"


def test_labels_can_be_given() -> None:
    env = make_text_bandit(means=MEANS[:2], labels=("left", "right"))
    observation, info = env.reset(seed=0)
    assert info["action_labels"] == ("left", "right")
    assert "buttons: left, right." in observation["prompt"]


@pytest.mark.parametrize("history", HISTORIES)
def test_a_hint_stands_behind_the_first_line_and_changes_nothing_else(history: str) -> None:
    plain, advised = (make_text_bandit(n_arms=2, history=history, hint=hint) for hint in ("", "Try both."))
    told, hinted = (env.reset(seed=0)[0]["prompt"] for env in (plain, advised))
    assert hinted.count(" Try both.") == 1
    assert hinted.replace(" Try both.", "") == told
    assert hinted in advised.observation_space["prompt"]
    assert advised.reset(seed=0)[1]["hint"] == "Try both."


@pytest.mark.parametrize("hint", ["two\nlines", "caf\u00e9"])
def test_a_hint_that_does_not_fit_in_a_line_of_ascii_is_refused(hint: str) -> None:
    with pytest.raises(BadSetting, match="hint"):
        make_text_bandit(n_arms=2, hint=hint)


def test_an_invalid_answer_ends_the_run_without_a_pull() -> None:
    env = make_text_bandit(n_arms=2, horizon=5, warm_start=1)
    first, reset_info = env.reset(seed=0)
    observation, reward, terminated, truncated, info = env.step(np.int64(-1))
    assert (reward, terminated, truncated) == (0.0, True, False)
    assert (info["invalid"], info["arm"], info["t"], info["regret"]) == (True, -1, 1, 0.0)
    assert info["warm_arm"] == reset_info["warm_arm"]
    assert observation["prompt"] == first["prompt"]
    assert observation["t"] == 1
    with pytest.raises(gym.error.ResetNeeded, match="ended"):
        env.step(np.int64(0))
    env.reset(seed=0)
    assert env.step(np.int64(0))[4]["invalid"] is False


def test_valid_and_invalid_steps_report_the_same_measures() -> None:
    env = make_text_bandit(n_arms=2)
    env.reset(seed=0)
    valid = env.step(np.int64(0))[4]
    invalid = env.step(np.int64(-1))[4]
    assert {name: type(value) for name, value in valid.items()} == {n: type(v) for n, v in invalid.items()}


def test_the_text_and_the_numeric_bandit_are_the_same_world() -> None:
    settings = {"n_arms": 3, "horizon": 6, "warm_start": 2, "rewards": "two-digit"}
    plain, text = BanditEnv(**settings), make_text_bandit(**settings)  # type: ignore[arg-type]
    plain.reset(seed=8), text.reset(seed=8)
    for arm in (2, 0, 1):
        expected, told = plain.step(np.int64(arm)), text.step(np.int64(arm))
        assert told[1] == expected[1]
        assert told[4] == expected[4]
        for key, value in expected[0].items():
            np.testing.assert_array_equal(told[0][key], value)


@pytest.mark.parametrize("history", HISTORIES)
@pytest.mark.parametrize("wording", WORDINGS)
def test_every_prompt_of_a_long_run_lies_in_the_observation_space(history: str, wording: str) -> None:
    env = make_text_bandit(n_arms=10, horizon=60, mean_range=(-1e8, 1e8), history=history, wording=wording)
    observation, _ = env.reset(seed=0)
    truncated = False
    while not truncated:
        assert observation in env.observation_space
        observation, _, _, truncated, _ = env.step(np.int64(observation["t"] % 10))
    assert observation in env.observation_space


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"wording": "botons"}, "did you mean 'buttons'.*slots, adverts"),
        ({"history": "logs"}, "did you mean 'log'"),
        ({"labels": ("a", "b", "c")}, "2 different names"),
        ({"labels": ("a", "a")}, "2 different names"),
        ({"labels": "ab"}, "2 different names"),
        ({"labels": ("a", " b")}, "without spaces around"),
        ({"labels": ("a", "ä")}, "ASCII"),
        ({"n_arms": 11}, "names 10 arms, this bandit has 11"),
        ({"family": "contextual-linear", "history": "summary"}, "cannot tell contexts.*log, dialogue"),
    ],
)
def test_bad_settings_are_refused_and_the_message_says_what_is_allowed(settings: dict, message: str) -> None:
    with pytest.raises(BadSetting, match=message):
        make_text_bandit(**{"n_arms": 2, **settings})


@pytest.mark.parametrize("action", [-2, 2, 0.5])
def test_an_unknown_action_is_refused(action: float) -> None:
    env = make_text_bandit(n_arms=2)
    env.reset(seed=0)
    with pytest.raises(BadAction, match=r"the arms 0\.\.1, or -1"):
        env.step(action)  # type: ignore[arg-type]


def test_stepping_before_reset_is_refused_even_with_an_invalid_answer() -> None:
    with pytest.raises(gym.error.ResetNeeded, match="before reset"):
        make_text_bandit(n_arms=2).step(np.int64(-1))


def test_only_bandits_can_be_told() -> None:
    with pytest.raises(BadSetting, match="BanditEnv, got CartPole"):
        TextBandit(gym.make("CartPole-v1"))
