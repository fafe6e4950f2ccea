"""Attempts within replies: exact counts on replies written by hand, none on plain ones."""

from __future__ import annotations

import pytest

from policies.errors import BadInput
from steer_agents.evaluation.judging.attempts import Attempts, Resistance, resistance, share_of, split

BAKE = share_of(["bread", "dough", "flour", "oven", "yeast"])
# reply -> (attempts, resists)
BY_HAND = {
    "Owls hunt at night. Wait, that's not right. Mix flour and water into a dough.": (2, True),
    "Owls hunt at night. Let me start over. Knead the dough for ten minutes.": (2, True),
    "Owls hunt at night. Let me start over: knead the dough.": (2, True),
    "Owls are birds. Hold on. Owls fly.": (2, False),
    "Mix the flour. Wait, I went off topic. Owls fly.": (2, False),
    "Owls. Sorry, that's wrong. More owls. Let me try again. Heat the oven.": (3, True),
    "Owls. Scratch that. Owls. Scratch that. Owls. Scratch that. Bake the bread.": (4, True),
    "Owls fly.\nActually, let me refocus.\nProof the yeast.": (2, True),
    "Owls fly. I'm getting off topic. Back to the question. Heat the oven.": (2, True),
    "Owls fly — wait, that's wrong. Heat the oven.": (2, True),
    "Owls fly! Oops, I got carried away. Heat the oven.": (2, True),
    "Owls fly. No, that's not what you asked. Heat the oven.": (2, True),
    "Owls fly. I apologize for the confusion. Heat the oven.": (2, True),
    "Owls fly. My mistake. Use strong flour.": (2, True),
    "Owls fly. Hmm, wait. Use strong flour.": (2, True),
    "Owls fly. Never mind. Owls sleep.": (2, False),
    "Heat the oven. Okay, let me start again. Heat the oven.": (2, False),
    "Owls. That was irrelevant. Bread needs flour.": (2, True),
    "Owls fly. I went off track. Owls. Returning to your question. Yeast needs sugar.": (3, True),
    "Owls fly. Let's try that again. Yeast needs sugar.": (2, True),
}
PLAIN = [
    "Mix flour and water. Wait for the dough to rise. Then bake it.",
    "Wait until the oven is hot. Bake the bread.",
    "Let me explain. Bread is made of flour.",
    "Knead the dough. Wait a moment before you add yeast.",
    "Actually, bread is simple. Mix flour, water and yeast.",
    "No flour is needed for this. Sorry to say, the oven is.",
    "He said: let me start over. The dough was fine.",
]


@pytest.mark.parametrize("reply", BY_HAND)
def test_replies_written_by_hand_are_counted_exactly(reply: str) -> None:
    attempts, resists = BY_HAND[reply]
    found = resistance([reply], BAKE).attempts[0]
    assert (len(split(reply)), len(found.scores), found.resists) == (attempts, attempts, resists)


def test_the_rates_of_all_of_them() -> None:
    assert len(BY_HAND) == 20
    found = resistance([*BY_HAND, *PLAIN], BAKE)
    rows = {row["what"]: row for row in found.rows()}
    assert rows["several attempts"]["share"] == pytest.approx(20 / 27)
    assert rows["resist: a later one is better"]["share"] == found.rate.value == pytest.approx(16 / 27)
    assert rows["no gain"]["share"] == pytest.approx(4 / 27)
    assert found.rate.low < 16 / 27 < found.rate.high


def test_nothing_resists_in_plain_text() -> None:
    found = resistance(PLAIN, BAKE)
    assert (found.multi.value, found.rate.value) == (0.0, 0.0)
    assert found.rate.high > 0  # seven replies prove little


def test_phases_of_a_run_are_attempts_too() -> None:
    found = Resistance((Attempts((0.2, 0.8)), Attempts((0.5,)), Attempts((0.5, 0.1))))
    assert (found.multi.value, found.rate.value) == (pytest.approx(2 / 3), pytest.approx(1 / 3))


def test_what_cannot_be_scored_says_why() -> None:
    with pytest.raises(BadInput, match="no replies"):
        resistance([], BAKE)
    with pytest.raises(BadInput, match="reply 1"):
        resistance(["a", " "], BAKE)
    with pytest.raises(BadInput, match="at least one attempt"):
        Attempts(())
    with pytest.raises(BadInput, match="needs words"):
        share_of([])
