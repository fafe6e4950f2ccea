"""The forty tasks of LIBERO's four suites as data, and their ids; needs neither hf-libero nor its files.

Names are the stems of LIBERO's BDDL files, in the order of its benchmark (task order 0, the one that results are published on). The time
limits are those of OpenVLA's and LeRobot's evaluations, in control steps after the settling ones.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import gymnasium as gym


@dataclass(frozen=True)
class LiberoTask:
    """One task.

    Args:
        suite: "goal", "spatial", "object" or "10"; index: its place in the suite.
        name: stem of its BDDL file and of its file of initial states.
        goal: what has to hold at the end, LIBERO's predicates as (name, arguments...).
    """

    suite: str
    index: int
    name: str
    goal: tuple[tuple[str, ...], ...]

    @property
    def id(self) -> str:
        """For `gymnasium.make`."""
        return f"SteerAgents/Libero-{self.suite}-{self.index}-v0"

    @property
    def folder(self) -> str:
        """LIBERO's name of the suite, and of its folders."""
        return f"libero_{self.suite}"

    @property
    def instruction(self) -> str:
        """What is said: the name without its scene, as LIBERO's benchmark reads it from the file name."""
        return re.sub(r"^[A-Z_]+SCENE\d+_", "", self.name).replace("_", " ")

    @property
    def max_episode_steps(self) -> int:
        """The time limit."""
        return MAX_EPISODE_STEPS[self.suite]


MAX_EPISODE_STEPS: Mapping[str, int] = {"goal": 300, "spatial": 280, "object": 280, "10": 520}
"""Suite -> time limit [control steps]."""

_BOWL, _PLATE = "akita_black_bowl_1", "plate_1"
_BASKET = "basket_1_contain_region"
_ON_PLATE = (("on", _BOWL, _PLATE),)


def _bowl_from(where: str) -> str:
    return f"pick_up_the_black_bowl_{where}_and_place_it_on_the_plate"


def _into_basket(thing: str) -> tuple[str, tuple[tuple[str, ...], ...]]:
    return f"pick_up_the_{thing}_and_place_it_in_the_basket", (("in", f"{thing}_1", _BASKET),)


_ROWS: Mapping[str, tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]] = {
    "goal": (
        ("open_the_middle_drawer_of_the_cabinet", (("open", "wooden_cabinet_1_middle_region"),)),
        ("put_the_bowl_on_the_stove", (("on", _BOWL, "flat_stove_1_cook_region"),)),
        ("put_the_wine_bottle_on_top_of_the_cabinet", (("on", "wine_bottle_1", "wooden_cabinet_1_top_side"),)),
        ("open_the_top_drawer_and_put_the_bowl_inside", (("in", _BOWL, "wooden_cabinet_1_top_region"),)),
        ("put_the_bowl_on_top_of_the_cabinet", (("on", _BOWL, "wooden_cabinet_1_top_side"),)),
        ("push_the_plate_to_the_front_of_the_stove", (("on", _PLATE, "main_table_stove_front_region"),)),
        ("put_the_cream_cheese_in_the_bowl", (("on", "cream_cheese_1", _BOWL),)),
        ("turn_on_the_stove", (("turnon", "flat_stove_1"),)),
        ("put_the_bowl_on_the_plate", _ON_PLATE),
        ("put_the_wine_bottle_on_the_rack", (("on", "wine_bottle_1", "wine_rack_1_top_region"),)),
    ),
    "spatial": tuple(
        (_bowl_from(where), _ON_PLATE)
        for where in (
            "between_the_plate_and_the_ramekin", "next_to_the_ramekin", "from_table_center", "on_the_cookie_box",
            "in_the_top_drawer_of_the_wooden_cabinet", "on_the_ramekin", "next_to_the_cookie_box", "on_the_stove",
            "next_to_the_plate", "on_the_wooden_cabinet",
        )
    ),
    "object": tuple(
        _into_basket(thing)
        for thing in (
            "alphabet_soup", "cream_cheese", "salad_dressing", "bbq_sauce", "ketchup", "tomato_sauce", "butter", "milk",
            "chocolate_pudding", "orange_juice",
        )
    ),
    "10": (
        ("LIVING_ROOM_SCENE2_put_both_the_alphabet_soup_and_the_tomato_sauce_in_the_basket",
         (("in", "alphabet_soup_1", _BASKET), ("in", "tomato_sauce_1", _BASKET))),
        ("LIVING_ROOM_SCENE2_put_both_the_cream_cheese_box_and_the_butter_in_the_basket",
         (("in", "cream_cheese_1", _BASKET), ("in", "butter_1", _BASKET))),
        ("KITCHEN_SCENE3_turn_on_the_stove_and_put_the_moka_pot_on_it",
         (("turnon", "flat_stove_1"), ("on", "moka_pot_1", "flat_stove_1_cook_region"))),
        ("KITCHEN_SCENE4_put_the_black_bowl_in_the_bottom_drawer_of_the_cabinet_and_close_it",
         (("close", "white_cabinet_1_bottom_region"), ("in", _BOWL, "white_cabinet_1_bottom_region"))),
        ("LIVING_ROOM_SCENE5_put_the_white_mug_on_the_left_plate_and_put_the_yellow_and_white_mug_on_the_right_plate",
         (("on", "porcelain_mug_1", _PLATE), ("on", "white_yellow_mug_1", "plate_2"))),
        ("STUDY_SCENE1_pick_up_the_book_and_place_it_in_the_back_compartment_of_the_caddy",
         (("in", "black_book_1", "desk_caddy_1_back_contain_region"),)),
        ("LIVING_ROOM_SCENE6_put_the_white_mug_on_the_plate_and_put_the_chocolate_pudding_to_the_right_of_the_plate",
         (("on", "porcelain_mug_1", _PLATE), ("on", "chocolate_pudding_1", "living_room_table_plate_right_region"))),
        ("LIVING_ROOM_SCENE1_put_both_the_alphabet_soup_and_the_cream_cheese_box_in_the_basket",
         (("in", "alphabet_soup_1", _BASKET), ("in", "cream_cheese_1", _BASKET))),
        ("KITCHEN_SCENE8_put_both_moka_pots_on_the_stove",
         (("on", "moka_pot_1", "flat_stove_1_cook_region"), ("on", "moka_pot_2", "flat_stove_1_cook_region"),
          ("turnon", "flat_stove_1"))),
        ("KITCHEN_SCENE6_put_the_yellow_and_white_mug_in_the_microwave_and_close_it",
         (("in", "white_yellow_mug_1", "microwave_1_heating_region"), ("close", "microwave_1"))),
    ),
}  # fmt: skip

SUITES: Mapping[str, tuple[LiberoTask, ...]] = {
    suite: tuple(LiberoTask(suite, index, name, goal) for index, (name, goal) in enumerate(rows))
    for suite, rows in _ROWS.items()
}
"""Suite -> its ten tasks."""
TASK_IDS: tuple[str, ...] = tuple(task.id for tasks in SUITES.values() for task in tasks)


def register() -> None:
    """Register the ids; nothing of LIBERO is imported before one is made."""
    for tasks in SUITES.values():
        for task in tasks:
            gym.register(
                task.id,
                entry_point="envs.libero.env:LiberoEnv",
                kwargs={"suite": task.suite, "task_id": task.index},
                max_episode_steps=task.max_episode_steps,
            )
