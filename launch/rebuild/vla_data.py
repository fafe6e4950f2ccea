"""What the VLA recipes learn from: which tasks, which adverbs, and where the recorded frames are kept."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from envs.tabletop.experts import Style
from envs.tabletop.tasks import TASKS
from launch.experiments.base import Say
from launch.rebuild.tabletop_data import Frames, demonstrate, random_scenes, siblings

TASK_NAMES = (
    "PutRedBlockOnPlate", "PutGreenBlockOnPlate", "PutBlueBlockOnPlate", "PutCupInBasket", "PutYellowBlockInBasket",
    "PutBowlOnPlate", "PutBlockInBowl", "PutBlockOnCabinet", "OpenDrawer", "CloseDrawer", "PressButton", "PushBoxToMat",
    "PushBoxRight",
)  # fmt: skip
"""Five tasks of suite object, eight of suite goal."""

ADVERBS: Mapping[str, Style] = {
    "": Style(),
    "slowly": Style(speed="slowly"),
    "quickly": Style(speed="quickly"),
    "low over the table": Style(height="low"),
    "high over the table": Style(height="high"),
    "gently": Style(firmness="gently"),
    "firmly": Style(firmness="firmly"),
}
"""What is appended to an instruction -> how the expert acts it out."""
_SILENT = ("slowly", "quickly", "low", "high", "over", "table", "gently", "firmly")
"""Words that say how: the eyes do not hear them."""
CHUNK = 4
"""Actions noted from each frame on."""


@dataclass(frozen=True)
class DataSettings:
    """What is recorded.

    Args:
        tasks: names; per_adverb: demonstrations of each adverb, in the order of `ADVERBS`.
        extra: as `per_adverb`, further demonstrations that only cloning reads. "quickly" needs them: a fast arm overshoots, and what to
            do then is seen too seldom otherwise.
        scenes: random scenes per task.
        seed: of layouts and noise.
    """

    tasks: tuple[str, ...] = TASK_NAMES
    per_adverb: tuple[int, ...] = (40, 10, 14, 12, 12, 6, 6)
    extra: tuple[int, ...] = (0, 0, 40, 0, 0, 0, 0)
    scenes: int = 1000
    seed: int = 0


def vocabulary(tasks: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """All words of the tasks' instructions and adverbs in order of first use, and those of them that only say how."""
    spoken = " ".join([*(TASKS[name].instruction for name in tasks), *ADVERBS])
    words = tuple(dict.fromkeys(spoken.split()))
    return words, tuple(word for word in _SILENT if word in words)


def collect(settings: DataSettings, folder: Path, say: Say) -> None:
    """Write scene-<task>.npz of every group of tasks with the same things, demo-<task>.npz and extra-<task>.npz of every task.

    What is there already is skipped.
    """
    groups = siblings(settings.tasks)
    folder.mkdir(parents=True, exist_ok=True)
    for index, group in enumerate(dict.fromkeys(groups.values())):
        path = folder / f"scene-{group[0]}.npz"
        if not path.exists():
            random_scenes(group, settings.scenes * len(group), 1000 * (settings.seed + 2) + index).save(path)
            say.note(f"{settings.scenes * len(group)} scenes of {', '.join(group)}")
    styles = list(ADVERBS.values())
    parts = [
        (kind, counts) for kind, counts in (("demo", settings.per_adverb), ("extra", settings.extra)) if any(counts)
    ]
    for number, (kind, counts) in enumerate(parts):
        for index, name in enumerate(settings.tasks):
            path = folder / f"{kind}-{name}.npz"
            if path.exists():
                continue
            seed = 1000 * (settings.seed + 1) + 100 * number + index
            frames, tried = demonstrate(name, styles, counts, groups[name], CHUNK, seed)
            frames.save(path)
            say.note(
                f"{kind} {index + 1} of {len(settings.tasks)}, {name}: {len(frames.chunk)} frames, "
                f"{sum(counts)} of {tried} episodes kept"
            )


@dataclass
class Pool:
    """Frames of one file, as tensors, and the instructions of its sibling tasks.

    Args: as `Frames`; state: (n, 8 + 7) agent_pos, then the action executed last; own: index of the file's task in `instructions`.
    """

    task: str
    pictures: torch.Tensor
    state: torch.Tensor
    points: torch.Tensor
    spots: torch.Tensor
    chunk: torch.Tensor
    style: np.ndarray
    own: int
    instructions: list[str]


def pools(settings: DataSettings, folder: Path, *kinds: str) -> list[Pool]:
    """Read the files of these kinds, ("scene",) or some of "demo" and "extra", which are joined task by task."""
    groups = siblings(settings.tasks)
    names = [group[0] for group in dict.fromkeys(groups.values())] if kinds == ("scene",) else list(settings.tasks)
    found = []
    for name in names:
        files = [folder / f"{kind}-{name}.npz" for kind in kinds]
        frames = Frames.joined([Frames.load(path) for path in files if path.exists()])
        found.append(
            Pool(
                name,
                torch.from_numpy(frames.pictures),
                torch.from_numpy(np.concatenate([frames.agent_pos, frames.previous], axis=1)),
                torch.from_numpy(frames.points),
                torch.from_numpy(frames.spots),
                torch.from_numpy(frames.chunk),
                frames.style,
                groups[name].index(name),
                [TASKS[other].instruction for other in groups[name]],
            )
        )
    return found


class Cells:
    """Demonstration frames by task and adverb, for batches in which every task is as frequent as any other.

    Args:
        data: of the demonstrations.
        shares: of each adverb in a batch, in the order of `ADVERBS`.
    """

    def __init__(self, data: list[Pool], shares: Sequence[float] = (0.4, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1)) -> None:
        found = [(p, a, np.flatnonzero(pool.style == a)) for p, pool in enumerate(data) for a in range(len(ADVERBS))]
        self._cells = [cell for cell in found if len(cell[2])]
        share = np.array([shares[a] for _, a, _ in self._cells])
        self._share = share / share.sum()

    def draw(self, batch_size: int, rng: np.random.Generator) -> list[tuple[int, int, np.ndarray]]:
        """(index of the pool, index of the adverb, rows) for a batch."""
        counts = rng.multinomial(batch_size, self._share)
        return [(p, a, rng.choice(rows, n)) for (p, a, rows), n in zip(self._cells, counts, strict=True) if n]
