"""LIBERO's tasks as gymnasium environments, on hf-libero (robosuite 1.4.0): its scenes, robot, controller, goals and initial states.

Benchmark: Liu et al., LIBERO, arXiv 2306.03310. Differences from running hf-libero itself:
* gymnasium's interface; `terminated` on success, `truncated` at the published time limits (in the registered ids).
* Ten settling steps (no motion, gripper open) belong to `reset`, as OpenVLA's and LeRobot's evaluations do them.
* Everything drawn comes from the seed: the numpy global state that robosuite draws from is set for a reset and put back afterwards, and
  the model is reset in place from its pristine state instead of being compiled anew (20 times faster; equal seeds give bit-equal
  episodes, whatever ran before).
* An exception during a reset is raised; hf-libero's own `reset` would try again for ever.
* Pictures are rotated by 180 degrees, see `LiberoEnv.picture`.

Version history:
    v0: first version.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np

from envs.errors import BadAction, BadInitState, BadSetting, UnknownTask, nearest
from envs.libero import install, observations
from envs.libero.init_states import load_init_states
from envs.libero.osc import ArmLoop
from envs.libero.shifts import Shift, make_shift
from envs.libero.tasks import SUITES, LiberoTask
from envs.tabletop.measures import Motion

SETTLE_STEPS = 10
"""Control steps without motion after a reset, in which things come to rest."""
CONTROL_HZ = 20
STARTS = ("fixed", "drawn")
PHYSICS = ("full", "lite")
N_INIT_STATES = 50
_OPTIONS = ("init_state_id", "shift")
_MAX_DRAWS = 50
"""Placements that robosuite may reject one after the other."""
_STILL = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float64)


class LiberoEnv(gym.Env[dict[str, Any], np.ndarray]):
    """One task of LIBERO: a Panda at a table, 20 control steps a second.

    Action: `Box(-1, 1, (7,), float32)`: x, y, z, rotation about the world's x, y, z (0.5 rad a unit), gripper (above 0 closes, below 0
    opens, 0 leaves it). The controller's target lies 5 cm a unit from the hand; within one step it gets a quarter of the way, 1.3 cm.
    Observation: see `observations.py`. Reward: 1 on success, else 0.

    `info`, at reset and step, with the tabletop's names: `is_success` and its alias `success`, `task`, `task_description`, `suite`,
    `task_id`, `tcp_x`, `tcp_y`, `tcp_z` [m], `height` (of the tcp above the table), `speed`, `acceleration`, `jerk`, `path_length`,
    `gripper_events` (all of the tcp), `held` (both finger pads touch the object), `goals_done` (parts of the goal that hold), `keypoints`
    (name -> (3,) [m]: movable things, fixtures, tcp, the object and the target of the goal's next part), `half_sizes` (movable thing
    -> (3,) half extents of an upright cylinder around it [m]). At reset also `init_state_id` (-1: drawn), `displaced` (name -> how far
    the shift moved it [m], the robot: [rad]) and `mujoco_version`.

    Args:
        suite: "goal", "spatial", "object" or "10"; task_id: 0-9.
        obs_type: "state", "pixels" or "pixels_agent_pos".
        camera_size: height and width of the pictures [pixels].
        starts: "fixed": LIBERO's 50 initial states; `reset(seed=s)` takes the number that `np_random.integers(50)` draws first.
            "drawn": placements drawn anew from the regions of the task's BDDL file, as the fixed ones were.
        physics: "full": as hf-libero runs it, which solves the dynamics three times in each simulation step of 2 ms; "lite": once, as
            robosuite 1.5 does by default (its `lite_physics`), with the controller of `osc.py`. Three times as fast; the hand
            is within a millimetre of the other's after an episode.
        shift: axis -> size, see `shifts.py`; acts on top of either.
        assets: folder of LIBERO's assets; None looks for it, see README.md.
        render_mode: None or "rgb_array"; render_size: of `render()` [pixels].

    Reset options: `init_state_id` (0..49, also where starts are drawn); `shift`.

    Raises:
        MissingExtra: hf-libero or its assets are not installed.
        BadSetting: a value that is not allowed.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": CONTROL_HZ}  # noqa: RUF012

    def __init__(
        self,
        suite: str,
        task_id: int,
        obs_type: str = "state",
        camera_size: int = 128,
        starts: str = "fixed",
        physics: str = "full",
        shift: Mapping[str, float] | Shift | None = None,
        assets: str | Path | None = None,
        render_mode: str | None = None,
        render_size: int = 256,
    ) -> None:
        self.task = _task(suite, task_id)
        for name, value, allowed in (
            ("obs_type", obs_type, observations.OBS_TYPES),
            ("starts", starts, STARTS),
            ("physics", physics, PHYSICS),
        ):
            if value not in allowed:
                raise BadSetting(f"{name}={value!r} is unknown{nearest(value, allowed)}")
        if render_mode not in (None, "rgb_array"):
            raise BadSetting(f"render_mode={render_mode!r} is unknown; allowed: None, 'rgb_array'.")
        for name, size in (("camera_size", camera_size), ("render_size", render_size)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 8 <= size <= 960:
                raise BadSetting(f"{name} must be an integer in 8..960, got {size!r}.")
        self.obs_type, self.camera_size, self.starts, self.physics = obs_type, int(camera_size), starts, physics
        self.render_mode, self.render_size = render_mode, int(render_size)
        self._default_shift = make_shift(shift)
        self.observation_space = observations.observation_space(obs_type, self.camera_size)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (7,), np.float32)
        self.sim_env = self._build(assets)
        """robosuite's environment, for controllers that read the privileged state."""
        model = self.sim_env.sim.model
        self._pristine = model.body_pos.copy(), model.body_quat.copy()
        self._half_sizes = {name: _half_size(thing) for name, thing in self.sim_env.objects_dict.items()}
        self._names = [
            *self.sim_env.objects_dict,
            *(name for name in self.sim_env.fixtures_dict if name in self.sim_env.obj_body_id),
        ]
        self._geoms: dict[str, tuple[np.ndarray, ...]] = {}
        self._known: dict[str, Any] = {}
        self._init_states: np.ndarray | None = None
        self._started = False

    def _build(self, assets: str | Path | None) -> Any:
        """robosuite's environment: without a renderer where no pictures are wanted, and with no sensors of its own in any case."""
        root = Path(install.libero(assets).get_libero_path("bddl_files"))
        from libero.libero.envs.env_wrapper import ControlEnv, OffScreenRenderEnv

        self._init_path = root.parent / "init_files" / self.task.folder / f"{self.task.name}.pruned_init"
        kwargs: dict[str, Any] = {
            "bddl_file_name": str(root / self.task.folder / f"{self.task.name}.bddl"),
            "use_camera_obs": False,
            "hard_reset": False,
            "horizon": 10**6,
        }
        with _global_seed(0):
            outer = OffScreenRenderEnv(**kwargs) if self._draws else ControlEnv(has_offscreen_renderer=False, **kwargs)
        for name in list(outer.env._observables):
            outer.env.modify_observable(name, "enabled", False)  # we read the simulation ourselves
        return outer.env

    @property
    def _draws(self) -> bool:
        return self.obs_type != "state" or self.render_mode is not None

    # -------------------------------------------------------------------------------------------------------- what is

    @property
    def is_success(self) -> bool:
        """Whether the whole goal holds."""
        return all(self.goals_done)

    @property
    def goals_done(self) -> tuple[bool, ...]:
        """Which parts of the goal hold."""
        return self._once(
            "goals_done", lambda: tuple(bool(self.sim_env._eval_predicate(list(part))) for part in self.task.goal)
        )

    @property
    def goal(self) -> tuple[str, ...]:
        """The first part of the goal that does not hold; the last one when all do."""
        done = self.goals_done
        return self.task.goal[done.index(False) if False in done else -1]

    @property
    def table_height(self) -> float:
        """Of the surface that things stand on [m]."""
        return float(self.sim_env.workspace_offset[2])

    @property
    def tcp(self) -> np.ndarray:
        """(3,) between the fingertips [m]."""
        return np.array(self.sim_env.sim.data.site_xpos[self.sim_env.robots[0].eef_site_id])

    @property
    def tcp_mat(self) -> np.ndarray:
        """(3, 3) orientation of the hand."""
        body = self.sim_env.robots[0].robot_model.eef_name
        return np.array(self.sim_env.sim.data.get_body_xmat(body)).reshape(3, 3)

    @property
    def fingers(self) -> np.ndarray:
        """(2,) finger joints [m]; about (0.04, -0.04) when open."""
        return np.array(self.sim_env.sim.data.qpos[self.sim_env.robots[0]._ref_gripper_joint_pos_indexes])

    def position(self, name: str) -> np.ndarray:
        """(3,) of a thing, a fixture, or a region of one [m]."""
        env = self.sim_env
        if name in env.obj_body_id:
            return np.array(env.sim.data.body_xpos[env.obj_body_id[name]])
        return np.array(env.sim.data.get_site_xpos(name))

    def orientation(self, name: str) -> np.ndarray:
        """(3, 3) of a thing, a fixture, or a region of one."""
        env = self.sim_env
        if name in env.obj_body_id:
            return np.array(env.sim.data.body_xmat[env.obj_body_id[name]]).reshape(3, 3)
        return np.array(env.sim.data.get_site_xmat(name)).reshape(3, 3)

    def holding(self, name: str) -> bool:
        """Whether pads of both fingers touch a movable thing."""
        return self._once(f"holding {name}", lambda: self._touched_by_both_pads(name))

    # ---------------------------------------------------------------------------------------------------------- episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        for name in options:
            if name not in _OPTIONS:
                raise BadSetting(f"reset option {name!r} is unknown{nearest(name, _OPTIONS)}")
        shift = make_shift(options["shift"]) if "shift" in options else self._default_shift
        index, draw = (int(value) for value in self.np_random.integers([N_INIT_STATES, 2**31]))
        if "init_state_id" in options:
            index = options["init_state_id"]
            if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < N_INIT_STATES:
                raise BadInitState(f"init_state_id={index!r} is unknown; {self.task.name} has 0..{N_INIT_STATES - 1}.")
        fixed = self.starts == "fixed" or "init_state_id" in options
        sim = self.sim_env.sim
        sim.model.body_pos[:], sim.model.body_quat[:] = self._pristine
        # Fixtures are placed at random within a centimetre even where the rest of a state is fixed, and no file says where: the
        # number of the state decides.
        with _global_seed(int(index) if fixed else draw):
            self._reset_robosuite()
        if fixed:
            sim.set_state_from_flattened(self._state(int(index)))
        self._loop = ArmLoop(self.sim_env)
        displaced = shift.apply(self, self.np_random)
        sim.forward()
        for _ in range(SETTLE_STEPS):
            self._advance(_STILL)
        self.motion = Motion(self.tcp)
        self._started = True
        extra = {
            "init_state_id": int(index) if fixed else -1,
            "displaced": displaced,
            "mujoco_version": install.versions()["mujoco"],
        }
        return self._observation(), self._info() | extra

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if not self._started:
            raise gym.error.ResetNeeded("step was called before reset; call env.reset(seed=...) first.")
        values = _checked(action)
        self._advance(values)
        self.motion.advance(self.tcp, bool(values[6] > 0))
        info = self._info()
        success = bool(info["is_success"])
        return self._observation(), float(success), success, False, info

    def picture(self, camera: str, size: int) -> np.ndarray:
        """(size, size, 3) uint8 of "agentview" or "wrist", rotated by 180 degrees from what robosuite gives.

        robosuite's pictures stand on their heads. OpenVLA, LeRobot and the data sets that policies are taught on turn them
        by half a turn, and so
        do we: the scene stands upright, and left and right are exchanged (+y, a viewer's right, is on the left of the agentview picture).
        """
        raw = self.sim_env.sim.render(camera_name=observations.CAMERAS[camera], width=size, height=size)
        return np.ascontiguousarray(raw[::-1, ::-1])

    def render(self) -> np.ndarray | None:
        """The agentview picture; None without a render mode."""
        return self.picture("agentview", self.render_size) if self.render_mode is not None else None

    def close(self) -> None:
        """Free the simulation."""
        if getattr(self, "sim_env", None) is not None and self._draws:
            self.sim_env.close()

    # --------------------------------------------------------------------------------------------------------- its parts

    def _reset_robosuite(self) -> None:
        from robosuite.utils.errors import RandomizationError

        for _ in range(_MAX_DRAWS):
            try:
                self.sim_env.reset()
                gripper = self.sim_env.robots[0].gripper
                gripper.current_action = np.zeros(len(gripper.actuators))  # kept by a reset in place
                return
            except RandomizationError:
                continue
        raise BadInitState(f"{self.task.name}: robosuite rejected {_MAX_DRAWS} placements in a row; take another seed.")

    def _advance(self, action: np.ndarray) -> None:
        """One control step: 25 simulation steps."""
        self._known.clear()
        inner = self.sim_env
        if self.physics == "full":
            inner.step(action)
            return
        self._loop.run(action)

    def _once[T](self, key: str, make: Callable[[], T]) -> T:
        """What `make` gives, made once per control step."""
        if key not in self._known:
            self._known[key] = make()
        found: T = self._known[key]
        return found

    def _touched_by_both_pads(self, name: str) -> bool:
        if name not in self.sim_env.objects_dict:
            return False
        contacts = self.sim_env.sim.data._data.contact
        pairs = np.asarray(contacts.geom)
        if name not in self._geoms:
            model = self.sim_env.sim.model
            pads = self.sim_env.robots[0].gripper.important_geoms
            groups = (pads["left_fingerpad"], pads["right_fingerpad"], self.sim_env.objects_dict[name].contact_geoms)
            self._geoms[name] = tuple(np.array([model.geom_name2id(geom) for geom in group]) for group in groups)
        left, right, thing = self._geoms[name]
        of_thing = np.isin(pairs, thing)
        others = pairs[of_thing[:, ::-1]]  # what touches the thing
        return bool(np.isin(others, left).any() and np.isin(others, right).any())

    def _state(self, index: int) -> np.ndarray:
        if self._init_states is None:
            self._init_states = load_init_states(self._init_path)
            expected = len(self.sim_env.sim.get_state().flatten())
            if self._init_states.shape != (N_INIT_STATES, expected):
                raise BadInitState(
                    f"initial states {self._init_path}: expected shape {(N_INIT_STATES, expected)}, got {self._init_states.shape}."
                )
        row: np.ndarray = self._init_states[index]
        return row

    def _observation(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        keys = observations.OBS_TYPES[self.obs_type]
        if observations.PIXELS in keys:
            found[observations.PIXELS] = {name: self.picture(name, self.camera_size) for name in observations.CAMERAS}
        if observations.AGENT_POS in keys:
            turn = observations.axis_angle(self.tcp_mat)
            found[observations.AGENT_POS] = np.concatenate([self.tcp, turn, self.fingers]).astype(np.float32)
        if observations.ENVIRONMENT_STATE in keys:
            found[observations.ENVIRONMENT_STATE] = self._environment_state()
        return found

    def _environment_state(self) -> np.ndarray:
        predicate, thing, *place = self.goal
        target_name = place[0] if place else thing
        tcp, here, there, mat = self.tcp, self.position(thing), self.position(target_name), self.orientation(thing)
        kind = [float(predicate == name) for name in observations.PREDICATES]
        done = sum(self.goals_done) / len(self.task.goal)
        yaw = math.atan2(mat[1, 0], mat[0, 0])
        numbers = (
            tcp, self.motion.velocity, here, there, here - tcp, there - tcp, there - here,
            (math.sin(yaw), math.cos(yaw), mat[2, 2]), self.fingers, (self.holding(thing), *kind, done),
        )  # fmt: skip
        return np.concatenate(numbers).astype(np.float32)

    def _info(self) -> dict[str, Any]:
        success, tcp, goal = self.is_success, self.tcp, self.goal
        return {
            "is_success": success,
            "success": success,
            "task": self.task.name,
            "task_description": self.task.instruction,
            "suite": self.task.suite,
            "task_id": self.task.index,
            "tcp_x": float(tcp[0]),
            "tcp_y": float(tcp[1]),
            "tcp_z": float(tcp[2]),
            "height": float(tcp[2]) - self.table_height,
            "held": self.holding(goal[1]),
            "goals_done": sum(self.goals_done),
            **self.motion.report(),
            "keypoints": {
                **{name: self.position(name) for name in self._names},
                "tcp": tcp,
                "object": self.position(goal[1]),
                "target": self.position(goal[-1]),
            },
            "half_sizes": {name: half.copy() for name, half in self._half_sizes.items()},
        }


def _task(suite: str, task_id: int) -> LiberoTask:
    if suite not in SUITES:
        raise UnknownTask(f"suite {suite!r} is unknown{nearest(suite, SUITES)}")
    count = len(SUITES[suite])
    if isinstance(task_id, bool) or not isinstance(task_id, int | np.integer) or not 0 <= task_id < count:
        raise UnknownTask(f"task_id={task_id!r} is unknown; suite {suite!r} has 0..{count - 1}.")
    return SUITES[suite][int(task_id)]


def _half_size(thing: Any) -> np.ndarray:
    radius = float(thing.horizontal_radius)
    return np.array([radius, radius, float(thing.top_offset[2] - thing.bottom_offset[2]) / 2])


@contextmanager
def _global_seed(seed: int) -> Iterator[None]:
    """robosuite draws from numpy's global generator: set it, and put it back."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)


def _checked(action: object) -> np.ndarray:
    """The action as (7,) float64, or what is wrong with it."""
    try:
        values = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadAction(f"action: expected 7 numbers, got {type(action).__name__}.") from None
    if values.shape != (7,):
        raise BadAction(f"action: expected shape (7,): x, y, z, rotation x, y, z, gripper; got {values.shape}.")
    if not np.isfinite(values).all():
        raise BadAction(
            f"action: entries {np.flatnonzero(~np.isfinite(values)).tolist()} are not finite: {values.tolist()}."
        )
    if float(np.abs(values).max()) > 1.0 + 1e-6:
        raise BadAction(
            f"action: all entries must lie in [-1, 1], got {values.round(4).tolist()}; clip it if that is meant."
        )
    return values
