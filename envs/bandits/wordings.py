"""What the arms of a bandit are called and how a pull is told: one row of data per scenario.

The scenarios are those of EAST (arXiv 2406.00244, appendix A.2: buttons, slot machines) and Krishnamurthy et al. (arXiv
2403.15371, figure 2: buttons, adverts). The sentences are our own and short: a small language model continues a plain
log with high probability on the labels, which it does not do after a chat instruction. Labels are one token each (with
the space before) in the SmolLM2 vocabulary, so that all runs have prompts of equal length.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """One scenario.

    Args:
        intro: first line; fields {n}, {labels}.
        verb: past tense of a pull; in the log it stands right before the label.
        gain: what a pull gave; field {reward}.
        unit: what is counted.
        goal: what the chat instruction asks for; field {horizon}.
        ask: the chat question of a round.
        labels: names of the arms, in order; the first K are used.
    """

    intro: str
    verb: str
    gain: str
    unit: str
    goal: str
    ask: str
    labels: tuple[str, ...]


WORDINGS: Mapping[str, Wording] = {
    "buttons": Wording(
        intro="There are {n} buttons: {labels}. Each press gives points.",
        verb="pressed",
        gain="got {reward} points",
        unit="points",
        goal=(
            "The points of a button vary around its own average, which you do not know. "
            "Try the buttons and get as many points as you can in {horizon} rounds."
        ),
        ask="Which button do you press?",
        labels=("blue", "green", "red", "yellow", "purple", "orange", "black", "white", "pink", "brown"),
    ),
    "letters": Wording(
        intro="There are {n} buttons: {labels}. Each press gives points.",
        verb="pressed",
        gain="got {reward} points",
        unit="points",
        goal=(
            "The points of a button vary around its own average, which you do not know. "
            "Try the buttons and get as many points as you can in {horizon} rounds."
        ),
        ask="Which button do you press?",
        labels=("A", "B", "C", "D", "E", "F", "G", "H", "I", "J"),
    ),
    "slots": Wording(
        intro="There are {n} slot machines: {labels}. Each play pays coins.",
        verb="played",
        gain="won {reward} coins",
        unit="coins",
        goal=(
            "The coins of a machine vary around its own average, which you do not know. "
            "Try the machines and win as many coins as you can in {horizon} rounds."
        ),
        ask="Which machine do you play?",
        labels=("cherry", "lemon", "diamond", "clover", "bell", "star", "crown", "horse", "tiger", "eagle"),
    ),
    "adverts": Wording(
        intro="There are {n} adverts: {labels}. Each showing brings clicks.",
        verb="showed",
        gain="got {reward} clicks",
        unit="clicks",
        goal=(
            "The clicks of an advert vary around its own average, which you do not know. "
            "Try the adverts and get as many clicks as you can in {horizon} rounds."
        ),
        ask="Which advert do you show?",
        labels=("coffee", "shoes", "music", "travel", "books", "bikes", "phones", "games", "watches", "movies"),
    ),
}
