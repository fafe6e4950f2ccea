"""The tasks, as data: what stands where, what is said, what must become true, and by which skills.

Left and right are those of the picture of `agentview`, which looks at the robot from the front, as in LIBERO: left is -y,
right is +y, the front is +x (towards the camera), the back is at the robot.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from envs.tabletop.predicates import Predicate

SKILLS = ("pick", "push", "open", "close", "press")
"""What a stage asks the hand to do; "pick" is pick and place."""


@dataclass(frozen=True)
class Region:
    """Where an entity starts: uniform in a rectangle, turned by a uniform yaw.

    Args:
        x, y: (low, high) [m] in the world, or relative to `near`.
        yaw: (low, high) [rad].
        near: entity that the rectangle is relative to; it must be listed earlier.
        on_top: stands on `near` instead of on the table.
        opening: (low, high) start of the drawer, share of its travel.
    """

    x: tuple[float, float]
    y: tuple[float, float]
    yaw: tuple[float, float] = (0.0, 0.0)
    near: str | None = None
    on_top: bool = False
    opening: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Entity:
    """One thing of a scene: its kind (`objects.KINDS`), colour (`objects.COLOURS`) and start region."""

    kind: str
    colour: str
    region: Region
    obstacle: bool = False


@dataclass(frozen=True)
class Stage:
    """One step of a task.

    Args:
        skill: what to do.
        object, target: with which thing, towards what; both are the drawer or the button where nothing is carried.
        until: what holds when the stage is done.
        offset: (x, y) from the target's middle [m], in its frame: two things do not fit into one place.
    """

    skill: str
    object: str
    target: str
    until: Predicate
    offset: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True)
class Task:
    """A task of a suite.

    Args:
        name: id without namespace and version.
        suite: "spatial", "object", "goal" or "long".
        instruction: what is said.
        paraphrases: other ways to say it, for the shift axis "instruction".
        entities: name -> what stands where; order matters for regions relative to others.
        stages: in order; the goal is reached through them.
        also: further predicates of the goal, which no skill brings about (obstacles left alone, alignment).
        undone: predicates of stages that later stages undo on purpose (a drawer is opened, then closed).
        max_episode_steps: time limit at 20 Hz.
    """

    name: str
    suite: str
    instruction: str
    paraphrases: tuple[str, ...]
    entities: Mapping[str, Entity]
    stages: tuple[Stage, ...]
    also: tuple[Predicate, ...] = ()
    undone: tuple[Predicate, ...] = ()
    max_episode_steps: int = 200
    goal: tuple[Predicate, ...] = field(init=False)

    def __post_init__(self) -> None:
        wanted = [stage.until for stage in self.stages if stage.until not in self.undone]
        object.__setattr__(self, "goal", tuple(dict.fromkeys([*wanted, *self.also])))

    @property
    def id(self) -> str:
        """Its gymnasium id."""
        return f"SteerAgents/{self.name}-v0"

    @property
    def obstacles(self) -> tuple[str, ...]:
        """Names of the entities that are in the way."""
        return tuple(name for name, entity in self.entities.items() if entity.obstacle)


# ------------------------------------------------------------------------------------------------------- small words


def _on(thing: str, support: str) -> Stage:
    return Stage("pick", thing, support, Predicate("On", (thing, support)))


def _in(thing: str, container: str, offset: tuple[float, float] = (0.0, 0.0)) -> Stage:
    return Stage("pick", thing, container, Predicate("In", (thing, container)), offset)


def _push(thing: str, mark: str) -> Stage:
    return Stage("push", thing, mark, Predicate("On", (thing, mark)))


def _open(drawer: str) -> Stage:
    return Stage("open", drawer, drawer, Predicate("Open", (drawer,)))


def _close(drawer: str) -> Stage:
    return Stage("close", drawer, drawer, Predicate("Close", (drawer,)))


def _press(button: str) -> Stage:
    return Stage("press", button, button, Predicate("TurnOn", (button,)))


_ANY = (-0.4, 0.4)  # yaw of blocks
_LEFT, _RIGHT, _MIDDLE = (-0.20, -0.10), (0.10, 0.20), (-0.05, 0.05)
_BACK, _CENTRE, _FRONT = (0.36, 0.43), (0.44, 0.52), (0.55, 0.61)


def _bowl(x: tuple[float, float], y: tuple[float, float], **more: object) -> Entity:
    return Entity("bowl", "black", Region(x, y, **more))  # type: ignore[arg-type]


def _plate(x: tuple[float, float] = _CENTRE, y: tuple[float, float] = _MIDDLE) -> Entity:
    return Entity("plate", "white", Region(x, y))


def _block(
    colour: str, x: tuple[float, float], y: tuple[float, float], yaw: tuple[float, float] = _ANY, **more: object
) -> Entity:
    return Entity("block", colour, Region(x, y, yaw, **more))  # type: ignore[arg-type]


_CABINET = Entity("cabinet", "wood", Region((0.525, 0.55), (-0.225, -0.215)))
_OPEN_CABINET = Entity("cabinet", "wood", Region((0.525, 0.55), (-0.225, -0.215), opening=(0.85, 1.0)))


# ------------------------------------------------------------------------------------------------------------ suites


def _spatial(name: str, instruction: str, paraphrases: tuple[str, ...], entities: Mapping[str, Entity]) -> Task:
    return Task(name, "spatial", instruction, paraphrases, entities, (_on("bowl", "plate"),))


_SPATIAL = (
    _spatial(
        "PutLeftBowlOnPlate", "put the bowl on the left on the plate",
        ("place the left bowl onto the plate", "move the bowl at the left side to the plate"),
        {"bowl": _bowl((0.42, 0.56), (-0.22, -0.16)), "other_bowl": _bowl((0.42, 0.56), (0.16, 0.22)), "plate": _plate()},
    ),
    _spatial(
        "PutRightBowlOnPlate", "put the bowl on the right on the plate",
        ("place the right bowl onto the plate", "move the bowl at the right side to the plate"),
        {"bowl": _bowl((0.42, 0.56), (0.16, 0.22)), "other_bowl": _bowl((0.42, 0.56), (-0.22, -0.16)), "plate": _plate()},
    ),
    _spatial(
        "PutBackBowlOnPlate", "put the bowl at the back on the plate",
        ("place the bowl near the robot onto the plate", "move the farther bowl to the plate"),
        {"bowl": _bowl((0.37, 0.41), (0.06, 0.14)), "other_bowl": _bowl((0.57, 0.61), (0.06, 0.14)),
         "plate": _plate((0.46, 0.52), (-0.16, -0.08))},
    ),
    _spatial(
        "PutFrontBowlOnPlate", "put the bowl at the front on the plate",
        ("place the bowl near the camera onto the plate", "move the nearer bowl to the plate"),
        {"bowl": _bowl((0.57, 0.61), (0.06, 0.14)), "other_bowl": _bowl((0.37, 0.41), (0.06, 0.14)),
         "plate": _plate((0.46, 0.52), (-0.16, -0.08))},
    ),
    _spatial(
        "PutBowlNextToBlockOnPlate", "put the bowl next to the red block on the plate",
        ("place the bowl that is beside the red block onto the plate", "move the bowl by the red block to the plate"),
        {"block": _block("red", (0.40, 0.58), (0.09, 0.12)),
         "bowl": _bowl((-0.015, 0.015), (0.095, 0.105), near="block"),
         "other_bowl": _bowl((0.42, 0.58), (-0.26, -0.25)), "plate": _plate((0.44, 0.52), (-0.07, -0.05))},
    ),
    _spatial(
        "PutBowlOnStandOnPlate", "put the bowl on the stand on the plate",
        ("take the bowl from the stand and place it on the plate", "move the raised bowl to the plate"),
        {"stand": Entity("stand", "wood", Region((0.44, 0.54), (-0.20, -0.17))),
         "bowl": _bowl((-0.012, 0.012), (-0.012, 0.012), near="stand", on_top=True),
         "other_bowl": _bowl((0.42, 0.56), (0.17, 0.22)), "plate": _plate((0.44, 0.54), (0.0, 0.04))},
    ),
    Task(
        "PutBlockOnLeftPlate", "spatial", "put the red block on the left plate",
        ("place the red block onto the plate on the left", "the red block belongs on the left plate"),
        {"plate": _plate((0.44, 0.54), (-0.18, -0.12)), "other_plate": _plate((0.44, 0.54), (0.12, 0.18)),
         "block": _block("red", (0.38, 0.58), (-0.01, 0.01))},
        (_on("block", "plate"),),
    ),
)  # fmt: skip

_CLUTTER = {
    "red_block": _block("red", _CENTRE, (-0.22, -0.17)),
    "green_block": _block("green", _BACK, (-0.14, -0.08)),
    "blue_block": _block("blue", _FRONT, (-0.14, -0.08)),
}


def _pick_to_plate(colour: str) -> Task:
    thing = f"{colour}_block"
    return Task(
        f"Put{colour.capitalize()}BlockOnPlate", "object", f"put the {colour} block on the plate",
        (f"place the {colour} cube onto the plate", f"the {colour} one goes on the plate"),
        {**_CLUTTER, "plate": _plate((0.42, 0.54), (0.08, 0.16))}, (_on(thing, "plate"),),
    )  # fmt: skip


_OBJECT = (
    *(_pick_to_plate(colour) for colour in ("red", "green", "blue")),
    Task(
        "PutCupInBasket", "object", "put the cup in the basket",
        ("place the cup into the basket", "drop the cup in the basket"),
        {"basket": Entity("basket", "dark_wood", Region((0.44, 0.54), (0.12, 0.18))),
         "cup": Entity("cup", "teal", Region((0.40, 0.58), (-0.16, -0.06))),
         "block": _block("yellow", (0.40, 0.58), (-0.25, -0.22))},
        (_in("cup", "basket"),),
    ),
    Task(
        "PutYellowBlockInBasket", "object", "put the yellow block in the basket",
        ("place the yellow cube into the basket", "the yellow block goes in the basket"),
        {"basket": Entity("basket", "dark_wood", Region((0.44, 0.54), (0.12, 0.18))),
         "block": _block("yellow", (0.40, 0.58), (-0.16, -0.06)),
         "cup": Entity("cup", "teal", Region((0.40, 0.58), (-0.25, -0.22)))},
        (_in("block", "basket"),),
    ),
    Task(
        "PutBarInTray", "object", "put the long bar in the tray",
        ("lay the long bar into the tray", "turn the bar and put it in the tray"),
        {"tray": Entity("tray", "dark_wood", Region((0.46, 0.54), (0.10, 0.15), (-0.15, 0.15))),
         "bar": Entity("bar", "orange", Region((0.44, 0.54), (-0.15, -0.10), (0.7, 1.5)))},
        (_in("bar", "tray"),), also=(Predicate("Aligned", ("bar", "tray")),),
    ),
    Task(
        "PutTurnedBarOnStand", "object", "put the bar across the stand",
        ("lay the bar onto the stand", "place the long bar on top of the stand"),
        {"stand": Entity("stand", "wood", Region((0.46, 0.54), (0.13, 0.18))),
         "bar": Entity("bar", "purple", Region((0.44, 0.54), (-0.15, -0.10), (-1.5, -0.7)))},
        (_on("bar", "stand"),), also=(Predicate("Aligned", ("bar", "stand")),),
    ),
)  # fmt: skip

_KITCHEN = {
    "cabinet": _CABINET,
    "bowl": _bowl((0.40, 0.44), (0.02, 0.10)),
    "plate": _plate((0.53, 0.58), (0.06, 0.12)),
    "block": _block("red", (0.42, 0.56), (0.21, 0.24)),
    "button": Entity("button", "red", Region((0.37, 0.385), (-0.13, -0.10))),
}


def _kitchen(name: str, instruction: str, paraphrases: tuple[str, ...], *stages: Stage, **replaced: Entity) -> Task:
    return Task(name, "goal", instruction, paraphrases, {**_KITCHEN, **replaced}, stages)


_WALL = Entity("wall", "grey", Region((0.47, 0.51), (-0.02, 0.02)), obstacle=True)
_ACROSS = {"block": _block("blue", (0.42, 0.56), (-0.20, -0.14)), "plate": _plate((0.44, 0.54), (0.15, 0.19))}

_GOAL = (
    _kitchen(
        "PutBowlOnPlate", "put the bowl on the plate",
        ("place the bowl onto the plate", "the bowl belongs on the plate"), _on("bowl", "plate"),
    ),
    _kitchen(
        "PutBlockInBowl", "put the red block in the bowl",
        ("place the red cube into the bowl", "drop the red block in the bowl"), _in("block", "bowl"),
    ),
    _kitchen(
        "PutBlockOnCabinet", "put the red block on top of the cabinet",
        ("place the red cube on the cabinet", "the red block goes up onto the cabinet"), _on("block", "cabinet"),
    ),
    _kitchen(
        "OpenDrawer", "open the drawer", ("pull the drawer out", "slide the drawer open"), _open("cabinet/drawer"),
    ),
    _kitchen(
        "CloseDrawer", "close the drawer", ("push the drawer in", "shut the drawer"), _close("cabinet/drawer"),
        cabinet=_OPEN_CABINET,
        bowl=_bowl((0.40, 0.44), (0.10, 0.14)),
        plate=_plate((0.545, 0.58), (0.11, 0.14)),
        block=_block("red", (0.42, 0.56), (0.25, 0.27)),
    ),
    _kitchen(
        "PressButton", "press the button", ("push the red button down", "turn on the lamp"), _press("button"),
    ),
    Task(
        "PushBoxToMat", "goal", "push the box onto the mat",
        ("slide the box to the mat", "shove the box until it is on the mat"),
        {"mat": Entity("mat", "teal", Region((0.58, 0.61), (-0.06, 0.06))),
         "box": Entity("box", "yellow", Region((0.42, 0.45), (-0.06, 0.06)))},
        (_push("box", "mat"),),
    ),
    Task(
        "PushBoxRight", "goal", "push the box to the mat on the right",
        ("slide the box sideways onto the mat", "shove the box to the right until it is on the mat"),
        {"mat": Entity("mat", "teal", Region((0.46, 0.52), (0.13, 0.17))),
         "box": Entity("box", "purple", Region((0.46, 0.52), (-0.06, -0.01)))},
        (_push("box", "mat"),),
    ),
    Task(
        "StackRedOnGreen", "goal", "stack the red block on the green block",
        ("put the red cube on top of the green cube", "build a tower with red on green"),
        {"red_block": _block("red", (0.40, 0.58), (-0.16, -0.08)), "green_block": _block("green", (0.40, 0.58), (0.02, 0.10)),
         "blue_block": _block("blue", (0.40, 0.58), (0.18, 0.23))},
        (_on("red_block", "green_block"),),
    ),
    Task(
        "CarryBlockOverWall", "goal", "carry the block over the wall to the plate",
        ("lift the blue block across the wall and put it on the plate", "bring the block to the plate behind the wall"),
        {"wall": _WALL, **_ACROSS}, (_on("block", "plate"),),
    ),
    Task(
        "PassGlass", "goal", "put the block on the plate without touching the glass",
        ("move the green block to the plate and leave the glass alone", "place the block on the plate, mind the glass"),
        {"glass": Entity("glass", "glass", Region((0.46, 0.52), (-0.01, 0.02)), obstacle=True),
         "block": _block("green", (0.44, 0.54), (-0.20, -0.14)), "plate": _plate((0.44, 0.54), (0.14, 0.19))},
        (_on("block", "plate"),), also=(Predicate("Untouched", ("glass",)),),
    ),
    Task(
        "PutBlockPastPost", "goal", "bring the block past the post to the plate",
        ("move the red block around the post onto the plate", "put the block on the plate in front of the post"),
        {"post": Entity("post", "grey", Region((0.500, 0.510), (-0.01, 0.01)), obstacle=True),
         "block": _block("red", (0.36, 0.39), (-0.02, 0.02)), "plate": _plate((0.625, 0.645), (-0.02, 0.02))},
        (_on("block", "plate"),), also=(Predicate("Untouched", ("post",)),),
    ),
    Task(
        "CarryBlockToPlate", "goal", "carry the block to the plate",
        ("bring the blue block across the table to the plate", "move the block over to the plate"),
        _ACROSS, (_on("block", "plate"),),
    ),
)  # fmt: skip

_LONG_LIMIT = 400

_LONG = (
    Task(
        "PutTwoBlocksInBasket", "long", "put both blocks in the basket",
        ("place the red and the blue block into the basket", "fill the basket with the two blocks"),
        {"basket": Entity("basket", "dark_wood", Region((0.44, 0.54), (0.13, 0.18))),
         "red_block": _block("red", (0.40, 0.58), (-0.20, -0.13)), "blue_block": _block("blue", (0.40, 0.58), (-0.04, 0.02))},
        (_in("red_block", "basket", (0.030, 0.0)), _in("blue_block", "basket", (-0.030, 0.0))), max_episode_steps=_LONG_LIMIT,
    ),
    Task(
        "PutBlockInDrawer", "long", "open the drawer and put the block in it",
        ("pull the drawer open and place the red block inside", "store the red block in the drawer"),
        {"cabinet": _CABINET, "block": _block("red", (0.42, 0.58), (0.10, 0.20))},
        (_open("cabinet/drawer"), _in("block", "cabinet/drawer")), max_episode_steps=_LONG_LIMIT,
        undone=(Predicate("Open", ("cabinet/drawer",)),),
    ),
    Task(
        "StowBlockAndCloseDrawer", "long", "put the block in the drawer and close it",
        ("place the green block in the open drawer, then shut the drawer", "stow the green block and close the drawer"),
        {"cabinet": _OPEN_CABINET, "block": _block("green", (0.42, 0.58), (0.10, 0.20))},
        (_in("block", "cabinet/drawer"), _close("cabinet/drawer")), max_episode_steps=_LONG_LIMIT,
    ),
    Task(
        "StackThreeBlocks", "long", "stack the red block on the green block and the blue block on top",
        ("build a tower: green, then red, then blue", "put red on green, then blue on red"),
        {"green_block": _block("green", (0.44, 0.54), (-0.02, 0.04)), "red_block": _block("red", (0.40, 0.58), (-0.20, -0.13)),
         "blue_block": _block("blue", (0.40, 0.58), (0.14, 0.20))},
        (_on("red_block", "green_block"), _on("blue_block", "red_block")), max_episode_steps=_LONG_LIMIT,
    ),
    Task(
        "StackBlocksOnPlate", "long", "put the green block on the plate and the red block on top of it",
        ("stack red on green on the plate", "first the green block onto the plate, then the red one onto it"),
        {"plate": _plate((0.46, 0.54), (0.06, 0.12)), "green_block": _block("green", (0.40, 0.58), (-0.20, -0.15)),
         "red_block": _block("red", (0.40, 0.58), (-0.08, -0.04))},
        (_on("green_block", "plate"), _on("red_block", "green_block")), max_episode_steps=_LONG_LIMIT,
    ),
    Task(
        "PutBlockOnPlateAndPressButton", "long", "put the block on the plate and press the button",
        ("place the blue block onto the plate, then push the button", "first the block to the plate, then the button"),
        {"plate": _plate((0.44, 0.54), (0.08, 0.16)), "block": _block("blue", (0.46, 0.58), (-0.08, -0.02)),
         "button": Entity("button", "red", Region((0.42, 0.50), (-0.20, -0.16)))},
        (_on("block", "plate"), _press("button")), max_episode_steps=_LONG_LIMIT,
    ),
)  # fmt: skip

SUITES: Mapping[str, tuple[Task, ...]] = {
    suite: tuple(task for task in (*_SPATIAL, *_OBJECT, *_GOAL, *_LONG) if task.suite == suite)
    for suite in ("spatial", "object", "goal", "long")
}
"""Suite -> its tasks in order; `task_id` counts them from 0."""

TASKS: Mapping[str, Task] = {task.name: task for tasks in SUITES.values() for task in tasks}
"""Name -> task."""
