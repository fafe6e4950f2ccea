"""Contrasts of style, same content: a concise teacher against one's own long text, and one's own shortest success against the longest.

| method | + | - | source |
| --- | --- | --- | --- |
| `asc` | prompt + concise text of a teacher | prompt + one's own long text | ASC, arXiv 2507.04742 |
| `efficiency` | shortest success of a task | longest success of it | inspired by Efficiency Steering, arXiv 2506.15647 |

Both are paired, u = mean_q [h(q + short) - h(q + long)], so that positive strength shortens. We differ from ASC in nothing of
the formula; its released code subtracts the vector and reads one block before the one that it edits, while here the sign is the
direction's and reading and steering are at the same place. Efficiency Steering is known from its abstract only: the mean over
the tokens of the answer, and that a pair must differ by a factor, are ours. Nothing here claims to reproduce it.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from policies.errors import BadInput, NonFinite
from steer_agents.direction import Direction
from steer_agents.finding.contrast_sets import ContrastSet, difference
from steer_agents.sites import Site, Steerable


def teacher_style(prompts: Sequence[str], concise: Sequence[str], verbose: Sequence[str]) -> ContrastSet:
    """Prompt by prompt the concise text against the verbose one; with tokens="last" both are read at their end."""
    counts = [len(texts) for texts in (prompts, concise, verbose)]
    if len(set(counts)) > 1:
        raise BadInput(f"asc: expected one concise and one verbose text per prompt, got {counts[1:]} for {counts[0]}.")
    positive, negative = (
        [prompt + text for prompt, text in zip(prompts, texts, strict=True)] for texts in (concise, verbose)
    )
    return ContrastSet("asc", positive, negative, paired=True)


def asc(
    target: Steerable,
    *,
    prompts: Sequence[str],
    concise: Sequence[str],
    verbose: Sequence[str],
    site: Site | None = None,
) -> Direction:
    """From verbose towards concise.

    Args:
        prompts: n questions.
        concise: n short texts, of a teacher.
        verbose: n long ones, the model's own.
        site: where to read; default: every layer's `block_output` at the last token.
    """
    return difference(target, teacher_style(prompts, concise, verbose), site)


@dataclass(frozen=True)
class Attempt:
    """One attempt at a task.

    Args:
        task: attempts at one task are compared with each other.
        item: what is read of it: `reply(question, answer)`, or an input of the policy.
        success: whether it was solved.
        length: tokens, or environment steps; greater than 0.
    """

    task: Hashable
    item: Any
    success: bool
    length: float

    def __post_init__(self) -> None:
        if not 0 < self.length < float("inf"):
            raise NonFinite(f"attempt at {self.task!r}: length must be finite and above 0, got {self.length}.")


def shortest_longest(attempts: Sequence[Attempt], max_ratio: float = 0.5) -> ContrastSet:
    """Per task the shortest success against the longest.

    Args:
        attempts: failures are left out, whatever their length.
        max_ratio: tasks whose shortest success is longer than this share of the longest are left out, in (0, 1).
    Raises:
        BadInput: no task has two such successes; the message counts them.
    """
    if not 0 < max_ratio < 1:
        raise BadInput(f"efficiency: max_ratio={max_ratio}, allowed is the open interval (0, 1).")
    tasks: dict[Hashable, list[Attempt]] = {}
    for one in attempts:
        if one.success:
            tasks.setdefault(one.task, []).append(one)
    ends = [
        (min(own, key=lambda a: a.length), max(own, key=lambda a: a.length)) for own in tasks.values() if len(own) > 1
    ]
    pairs = [(short, long) for short, long in ends if short.length <= max_ratio * long.length]
    if not pairs:
        raise BadInput(
            f"efficiency: of {len({a.task for a in attempts})} tasks {len(tasks)} were solved, {len(ends)} of them twice, and none "
            f"with lengths that differ by 1 / {max_ratio:g}. Sample more attempts, or raise max_ratio."
        )
    info = {
        "n_tasks": len(pairs),
        "n_tasks_left_out": len({a.task for a in attempts}) - len(pairs),
        "mean_lengths": [sum(a.length for a in side) / len(pairs) for side in zip(*pairs, strict=True)],
    }
    return ContrastSet(
        "efficiency", [short.item for short, _ in pairs], [long.item for _, long in pairs], paired=True, info=info
    )


def efficiency(
    target: Steerable, *, attempts: Sequence[Attempt], max_ratio: float = 0.5, site: Site | None = None
) -> Direction:
    """From long successes towards short ones, of the same tasks; needs no teacher.

    Args:
        attempts, max_ratio: see `shortest_longest`.
        site: where to read what is no excerpt; default: every layer's `block_output` at the last token.
    """
    return difference(target, shortest_longest(attempts, max_ratio), site)
