"""The tabletop as a gymnasium environment: one class for all tasks and suites.

After LIBERO (arXiv 2306.03310): suites of tasks, goals as predicates, 50 fixed initial states, 7-D end-effector actions at
20 Hz. Differences: our own mesh-free scenes and arm, success only after release, actions that add up to a target pose
(`control.py`), upright pictures, `terminated` on success.

Version history:
    v0: first version.
"""

from __future__ import annotations

import math
import os
import tempfile
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np

from envs.errors import BadAction, BadInitState, BadSetting, BadState, PhysicsDiverged, UnknownTask, nearest
from envs.tabletop import observations, rendering, rewards
from envs.tabletop.arm import N_JOINTS
from envs.tabletop.control import Controller
from envs.tabletop.init_states import check_layout, load_init_states, sample_layout
from envs.tabletop.measures import Motion
from envs.tabletop.scene import CAMERAS, CONTROL_DT, N_SUBSTEPS, build_scene
from envs.tabletop.shifts import Pristine, Shift, Variation, added_entities, draw_variation, make_shift
from envs.tabletop.tasks import SUITES, TASKS, Stage, Task
from envs.tabletop.world import World

REWARD_TYPES = ("sparse", "dense")
_OPTIONS = ("init_state", "init_state_id", "init_states_path", "task_id", "shift")
_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_KEPT = 20
_SETBACK = 10
"""Control steps that an earlier stage must stay undone before the task falls back to it."""


@dataclass(frozen=True, eq=False)
class State:
    """Everything that the future of an episode depends on; plain data, can be pickled.

    Args:
        task: name; shift: sizes; variation: what was drawn.
        physics: MuJoCo's integration state.
        controller: (target (3,), target_mat (3, 3), joints (7,), closing).
        pending: actions that are still delayed.
        rng: state of `np_random`'s bit generator.
        stage, setback, elapsed, init_state_id: see `TabletopEnv`.
        motion: copy of `Motion`.
        contacts: (pairs, contact_force, grip_force, lit, touched) of `World`.
    """

    task: str
    shift: Shift
    variation: Variation
    physics: np.ndarray
    controller: tuple[np.ndarray, np.ndarray, np.ndarray, bool]
    pending: tuple[np.ndarray, ...]
    rng: Mapping[str, Any]
    stage: int
    setback: int
    elapsed: int
    init_state_id: int
    motion: Motion
    contacts: tuple[Any, ...]


class TabletopEnv(gym.Env[dict[str, Any], np.ndarray]):
    """A 7-joint arm at a table, one task at a time.

    Action: `Box(-1, 1, (7,), float32)`: x, y, z (5 cm a unit), rotation about the world's x, y, z (0.5 rad a unit), gripper
    (above 0 closes, else opens). Observation: see `observations.py`. Reward: 1 on success, else 0; or dense
    (`rewards.py`). `terminated` is success; the time limit is gymnasium's (`truncated`).

    `info`, at reset and step: `is_success` and its alias `success`, `task`, `task_description`, `suite`, `task_id`,
    `stage`, `n_stages`, `skill`, `speed`, `acceleration`, `jerk`, `path_length`, `gripper_events`, `tcp_x`, `tcp_y`,
    `height` (of the tcp above the table), `contact_force`, `grip_force`, `held`, `opening`, `clearance` (least; inf without obstacles) and
    `clearance_<obstacle>`, `touched` (the robot or a free object has touched an obstacle in this episode), `keypoints` (name
    -> (3,) [m]: the middle of every entity, tcp, and the stage's object and target) and `half_sizes` (entity -> (3,) half
    extents along the world's axes [m]). At reset also `init_state_id` (-1: drawn from the seed).

    Args:
        task: name of a task, e.g. "PutBowlOnPlate"; exclusive with suite.
        suite: "spatial", "object", "goal" or "long"; `task_id` picks the task, also in reset's options.
        task_id: position in the suite.
        obs_type: "state", "pixels" or "pixels_agent_pos".
        camera_size: height and width of the pictures [pixels].
        reward_type: "sparse" or "dense".
        shift: axis -> size, see `shifts.py`.
        render_mode: None or "rgb_array".
        render_size: height and width of `render()` [pixels]; render_camera: what it shows.
        dump_dir: where the last states go when the physics diverge; the system's temporary folder if None.

    Reset options: `task_id`; `shift`; `init_state_id` (0..49); `init_state`, a layout of one's own;
    `init_states_path`, a file of layouts that `init_state_id` then counts in.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CONTROL_DT)}  # noqa: RUF012

    def __init__(
        self,
        task: str | None = None,
        suite: str | None = None,
        task_id: int = 0,
        obs_type: str = "state",
        camera_size: int = 128,
        reward_type: str = "sparse",
        shift: Mapping[str, float] | Shift | None = None,
        render_mode: str | None = None,
        render_size: int = 256,
        render_camera: str = "agentview",
        dump_dir: str | Path | None = None,
    ) -> None:
        if obs_type not in observations.OBS_TYPES:
            raise BadSetting(f"obs_type={obs_type!r} is unknown{nearest(obs_type, observations.OBS_TYPES)}")
        if reward_type not in REWARD_TYPES:
            raise BadSetting(f"reward_type={reward_type!r} is unknown{nearest(reward_type, REWARD_TYPES)}")
        if render_mode not in (None, "rgb_array"):
            raise BadSetting(f"render_mode={render_mode!r} is unknown; allowed: None, 'rgb_array'. People watch with "
                             "`python -m envs.tabletop --viewer`.")  # fmt: skip
        for name, size in (("camera_size", camera_size), ("render_size", render_size)):
            if isinstance(size, bool) or not isinstance(size, int | np.integer) or not 8 <= size <= 960:
                raise BadSetting(f"{name} must be an integer in 8..960, got {size!r}.")
        self._tasks = _choose(task, suite)
        self.obs_type, self.reward_type, self.render_mode = obs_type, reward_type, render_mode
        self.camera_size, self.render_size, self.render_camera = int(camera_size), int(render_size), render_camera
        self.observation_space = observations.observation_space(obs_type, self.camera_size)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (7,), np.float32)
        self._default_shift = make_shift(shift)
        self._dump_dir = Path(tempfile.gettempdir() if dump_dir is None else dump_dir)
        self._worlds: dict[tuple[str, ...], tuple[World, Pristine]] = {}
        self._cameras: dict[tuple[int, int], rendering.Camera] = {}
        self.controller = Controller()
        self._started = False
        self._stage = self._setback = self._elapsed = 0
        self._init_state_id = -1
        self._pending: deque[np.ndarray] = deque()
        self._task_id = self._check_task_id(task_id)
        self._enter(self._tasks[self._task_id], self._default_shift)

    # ------------------------------------------------------------------------------------------------ what is asked

    @property
    def task(self) -> str:
        """Name of the task."""
        return self.spec_of_task.name

    @property
    def task_description(self) -> str:
        """What is said; a paraphrase under the shift axis "instruction"."""
        task = self.spec_of_task
        return task.instruction if self.variation.wording < 0 else task.paraphrases[self.variation.wording]

    @property
    def task_id(self) -> int:
        """Position of the task in its suite."""
        return SUITES[self.spec_of_task.suite].index(self.spec_of_task)

    @property
    def _max_episode_steps(self) -> int:
        return self.spec_of_task.max_episode_steps

    @property
    def stage(self) -> Stage:
        """The stage that the task is in; the last one when all are done."""
        stages = self.spec_of_task.stages
        return stages[min(self._stage, len(stages) - 1)]

    @property
    def stage_index(self) -> int:
        """Number of the stage, `n_stages` when all are done."""
        return self._stage

    @property
    def is_success(self) -> bool:
        """Say whether the whole goal holds now."""
        return all(predicate.holds(self.world) for predicate in self.spec_of_task.goal)

    # -------------------------------------------------------------------------------------------------------- episodes

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        options = dict(options or {})
        for name in options:
            if name not in _OPTIONS:
                raise BadSetting(f"reset option {name!r} is unknown{nearest(name, _OPTIONS)}")
        if "task_id" in options:
            self._task_id = self._check_task_id(options["task_id"])
        shift = make_shift(options["shift"]) if "shift" in options else self._default_shift
        task = self._tasks[self._task_id]
        layout_seed, shift_seed = (int(draw) for draw in self.np_random.integers(2**62, size=2))
        layout, self._init_state_id = self._layout(task, options, layout_seed)
        self._enter(task, shift)
        self.variation = draw_variation(task, layout, shift, shift_seed)
        self._set_up(layout[:N_JOINTS])
        return self._observation(), self._info() | {"init_state_id": self._init_state_id}

    def step(self, action: np.ndarray) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        if not self._started:
            raise gym.error.ResetNeeded("step was called before reset; call env.reset(seed=...) first.")
        action = _checked(action)
        if self.variation.delay:
            self._pending.append(action)
            action = self._pending.popleft()
        if self.variation.gain != 1.0:
            action = np.concatenate([self.variation.gain * action[:6], action[6:]])
        world, data = self.world, self.world.data
        row = self._elapsed % _KEPT
        mujoco.mj_getState(world.model, data, self._recent_physics[row], _STATE)
        self._recent_actions[row] = action
        data.ctrl[:] = self.controller.command(action, world.tcp, world.tcp_mat)
        mujoco.mj_step(world.model, data, nstep=N_SUBSTEPS)
        if not math.isfinite(float(data.qpos.sum() + data.qvel.sum())):
            self._started = False
            raise PhysicsDiverged(self._dump())
        world.note_contacts()
        mujoco.mj_kinematics(world.model, data)
        self.motion.advance(world.tcp, self.controller.closing)
        self._elapsed += 1
        self._advance_stage()
        info = self._info()
        success = bool(info["is_success"])
        return self._observation(), self._reward(success), success, False, info

    def _reward(self, success: bool) -> float:
        if success or self.reward_type == "sparse":
            return float(success)
        n_stages = len(self.spec_of_task.stages)
        if self._stage >= n_stages:
            return (n_stages - 1) / n_stages
        return (self._stage + rewards.PROGRESS[self.stage.skill](self.world, self.stage)) / n_stages

    def _advance_stage(self) -> None:
        task, world = self.spec_of_task, self.world
        stages = task.stages
        while self._stage < len(stages) and stages[self._stage].until.holds(world):
            self._stage, self._setback = self._stage + 1, 0
        undone = [
            number
            for number, stage in enumerate(stages[: self._stage])
            if stage.until not in task.undone and not stage.until.holds(world)
        ]
        self._setback = self._setback + 1 if undone else 0
        if self._setback >= _SETBACK:
            self._stage, self._setback = undone[0], 0

    # ----------------------------------------------------------------------------------------- physics stepped by others

    def notice(self) -> None:
        """Take note of one control step of physics that somebody else stepped (a robot's own servo): contacts, motion, stage."""
        self._need_reset()
        world = self.world
        world.note_contacts()
        mujoco.mj_kinematics(world.model, world.data)
        self.motion.advance(world.tcp, self.controller.closing)
        self._elapsed += 1
        self._advance_stage()

    def look(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return observation and info of the world as it is now."""
        self._need_reset()
        return self._observation(), self._info()

    # ------------------------------------------------------------------------------------------------------- snapshots

    def get_state(self) -> State:
        """Return everything that the rest of the episode depends on."""
        self._need_reset()
        world, controller = self.world, self.controller
        return State(
            task=self.task,
            shift=self.shift,
            variation=self.variation,
            physics=self._physics(),
            controller=(
                controller.target.copy(),
                controller.target_mat.copy(),
                controller.joints.copy(),
                controller.closing,
            ),
            pending=tuple(action.copy() for action in self._pending),
            rng=self.np_random.bit_generator.state,
            stage=self._stage,
            setback=self._setback,
            elapsed=self._elapsed,
            init_state_id=self._init_state_id,
            motion=replace(self.motion),
            contacts=(world.pairs, world.contact_force, world.grip_force, world.lit, world.touched),
        )

    def set_state(self, state: State) -> tuple[dict[str, Any], dict[str, Any]]:
        """Go on from a saved state, bit for bit; returns observation and info. The clock of TimeLimit is not part of it.

        Raises:
            BadState: of a task that this environment does not have, or of another version of its scene.
        """
        if not isinstance(state, State):
            raise BadState(f"set_state: expected what get_state returned, got {type(state).__name__}.")
        names = [task.name for task in self._tasks]
        if state.task not in names:
            raise BadState(f"set_state: the state is of task {state.task!r}{nearest(state.task, names)}")
        self._task_id = names.index(state.task)
        self._enter(self._tasks[self._task_id], state.shift)
        world = self.world
        if state.physics.shape != (mujoco.mj_stateSize(world.model, _STATE),):
            raise BadState(
                f"set_state: expected {mujoco.mj_stateSize(world.model, _STATE)} physics numbers for {state.task}, got "
                f"{state.physics.shape}; the state is of another version of this scene."
            )
        self.variation = state.variation
        self._pristine.apply(state.variation)
        mujoco.mj_setState(world.model, world.data, state.physics, _STATE)
        mujoco.mj_kinematics(world.model, world.data)
        target, target_mat, joints, closing = state.controller
        controller = self.controller
        controller.target, controller.target_mat = target.copy(), target_mat.copy()
        controller.joints, controller.closing = joints.copy(), closing
        self._pending = deque(action.copy() for action in state.pending)
        self.np_random.bit_generator.state = state.rng
        self._stage, self._setback, self._elapsed = state.stage, state.setback, state.elapsed
        self._init_state_id, self.motion = state.init_state_id, replace(state.motion)
        world.pairs, world.contact_force, world.grip_force, world.lit, world.touched = state.contacts
        self._started = True
        return self._observation(), self._info()

    # --------------------------------------------------------------------------------------------------------- pictures

    def render(self) -> np.ndarray | None:
        """Return (render_size, render_size, 3) uint8 of `render_camera`; None without render_mode="rgb_array"."""
        if self.render_mode is None:
            return None
        return self.picture(self.render_camera, self.render_size, self.render_size)

    def picture(self, camera: str, height: int, width: int) -> np.ndarray:
        """Draw the scene, (height, width, 3) uint8.

        Raises:
            BadSetting: unknown camera.
            NoRenderer: this machine cannot draw.
        """
        self._need_reset()
        model = self.world.model
        if mujoco.mj_name2id(model, mujoco.mjtObj.mjOBJ_CAMERA.value, camera) < 0:
            names = [model.camera(number).name for number in range(model.ncam)]
            raise BadSetting(f"camera {camera!r} is unknown{nearest(camera, names)}")
        mujoco.mj_camlight(model, self.world.data)
        self.world.show_lamps()
        key = (height, width)
        if key not in self._cameras:
            self._cameras[key] = rendering.Camera(model, height, width)
        return self._cameras[key].draw(self.world.data, camera)

    def depth(self, camera: str, height: int, width: int) -> np.ndarray:
        """(height, width) float32: distance along the camera's line of sight of what each pixel shows [m].

        Raises:
            BadSetting: unknown camera.
            NoRenderer: this machine cannot draw.
        """
        self.picture(camera, height, width)
        return self._cameras[(height, width)].depth(self.world.data, camera)

    def camera_pose(self, camera: str, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
        """Where a camera is and how it sees, by the pinhole model of computer vision (x right, y down, z ahead).

        Returns:
            (3, 3) intrinsics [pixels], pixel centres at half numbers; (4, 4) camera to world [m].
        """
        self._need_reset()
        model, data = self.world.model, self.world.data
        mujoco.mj_camlight(model, data)
        number = model.camera(camera).id
        focal = height / 2 / math.tan(math.radians(float(model.cam_fovy[number])) / 2)
        intrinsics = np.array([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]])
        pose = np.eye(4)
        pose[:3, :3] = data.cam_xmat[number].reshape(3, 3) * (1.0, -1.0, -1.0)  # MuJoCo's y is up and its z behind
        pose[:3, 3] = data.cam_xpos[number]
        return intrinsics, pose

    def close(self) -> None:
        """Free what drawing needed."""
        for camera in self._cameras.values():
            camera.close()
        self._cameras = {}

    # ---------------------------------------------------------------------------------------------------------- inside

    def _need_reset(self) -> None:
        if not self._started:
            raise gym.error.ResetNeeded("this environment has no episode yet; call env.reset(seed=...) first.")

    def _check_task_id(self, task_id: object) -> int:
        if (
            isinstance(task_id, bool)
            or not isinstance(task_id, int | np.integer)
            or not 0 <= task_id < len(self._tasks)
        ):
            listed = ", ".join(f"{number} {task.name}" for number, task in enumerate(self._tasks))
            raise UnknownTask(f"task_id={task_id!r} is unknown; allowed: {listed}.")
        return int(task_id)

    def _layout(self, task: Task, options: Mapping[str, Any], seed: int) -> tuple[np.ndarray, int]:
        if "init_state" in options:
            if "init_state_id" in options:
                raise BadSetting("reset takes init_state or init_state_id, not both.")
            return check_layout(task, options["init_state"]), -1
        if "init_state_id" not in options:
            return sample_layout(task, np.random.default_rng(seed)), -1
        path = options.get("init_states_path")
        rows = load_init_states(task) if path is None else load_init_states(task, path)
        index = options["init_state_id"]
        if isinstance(index, bool) or not isinstance(index, int | np.integer) or not 0 <= index < len(rows):
            raise BadInitState(f"init_state_id={index!r} is unknown; {task.name} has 0..{len(rows) - 1}.")
        return rows[index], int(index)

    def _enter(self, task: Task, shift: Shift) -> None:
        """Make the scene of a task current, compiling it at its first use."""
        added = added_entities(task, shift)
        key = (task.name, *added)
        if key not in self._worlds:
            world = World(build_scene({**task.entities, **added}))
            self._worlds[key] = (world, Pristine(world.scene))
        world, self._pristine = self._worlds[key]
        if getattr(self, "world", None) is not world:
            self.close()
        self.world, self.spec_of_task, self.shift = world, task, shift
        self._recent_physics = np.zeros((_KEPT, mujoco.mj_stateSize(world.model, _STATE)))
        self._recent_actions = np.zeros((_KEPT, 7))
        if not self._started:
            self.variation = Variation(poses={})

    def _set_up(self, joints: np.ndarray) -> None:
        world, data = self.world, self.world.data
        mujoco.mj_resetData(world.model, data)
        self._pristine.apply(self.variation)
        world.lay_out(self.variation.poses, joints)
        self.controller.reset(joints)
        mujoco.mj_forward(world.model, data)
        world.lit = world.touched = frozenset()
        world.note_contacts()
        self.motion = Motion(world.tcp.copy())
        still = np.array([0, 0, 0, 0, 0, 0, -1], dtype=np.float64)
        self._pending = deque(still.copy() for _ in range(self.variation.delay))
        self._stage = self._setback = self._elapsed = 0
        self._started = True
        self._advance_stage()

    def _physics(self) -> np.ndarray:
        physics = np.empty(mujoco.mj_stateSize(self.world.model, _STATE))
        mujoco.mj_getState(self.world.model, self.world.data, physics, _STATE)
        return physics

    def _observation(self) -> dict[str, Any]:
        observation: dict[str, Any] = {}
        keys = observations.OBS_TYPES[self.obs_type]
        if observations.PIXELS in keys:
            size = self.camera_size
            observation[observations.PIXELS] = {key: self.picture(name, size, size) for key, name in CAMERAS.items()}
        if observations.AGENT_POS in keys:
            observation[observations.AGENT_POS] = observations.agent_pos(self.world)
        if observations.ENVIRONMENT_STATE in keys:
            progress = self._stage / len(self.spec_of_task.stages)
            observation[observations.ENVIRONMENT_STATE] = observations.environment_state(
                self.world, self.controller, self.spec_of_task, self.stage, progress
            )
        return observation

    def _info(self) -> dict[str, Any]:
        world, task, stage = self.world, self.spec_of_task, self.stage
        success = self.is_success
        held = stage.skill == "pick" and world.holding(stage.object)
        info: dict[str, Any] = {
            "is_success": success,
            "success": success,
            "task": task.name,
            "task_description": self.task_description,
            "suite": task.suite,
            "task_id": self._task_id if len(self._tasks) > 1 else self.task_id,
            "stage": self._stage,
            "n_stages": len(task.stages),
            "skill": stage.skill,
            "tcp_x": float(world.tcp[0]),
            "tcp_y": float(world.tcp[1]),
            "height": float(world.tcp[2]),
            "contact_force": world.contact_force,
            "grip_force": world.grip_force,
            "held": held,
            "opening": world.widest_opening(),
            **self.motion.report(),
        }
        gaps = {name: world.clearance(name, stage.object if held else None) for name in world.obstacles}
        info["clearance"] = min(gaps.values(), default=math.inf)
        info |= {f"clearance_{name}": gap for name, gap in gaps.items()}
        info["touched"] = bool(world.touched)
        middles, info["half_sizes"] = world.extents()
        info["keypoints"] = {
            **middles,
            "tcp": world.tcp.copy(),
            "object": np.array(world.object_point(stage)),
            "target": np.array(world.target_point(stage)),
        }
        return info

    def _dump(self) -> str:
        first = max(0, self._elapsed + 1 - _KEPT)
        rows = [number % _KEPT for number in range(first, self._elapsed + 1)]
        physics, actions = self._recent_physics[rows], self._recent_actions[rows]
        name = f"diverged-{self.task}-{os.getpid()}-{self._elapsed}.npz"
        path, partial = self._dump_dir / name, self._dump_dir / f"{name}.part"
        self._dump_dir.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            np.savez_compressed(file, physics=physics, actions=actions, task=self.task)
        os.replace(partial, path)
        return (
            f"the physics of {self.task} left the finite numbers at env_step {self._elapsed}; the last {len(physics)} states and "
            f"actions are in {path} (arrays physics, actions, task). The episode cannot go on: call env.reset()."
        )


def _choose(task: str | None, suite: str | None) -> tuple[Task, ...]:
    if (task is None) == (suite is None):
        raise BadSetting(f"give task or suite, one of them; got task={task!r}, suite={suite!r}.")
    if task is not None:
        if task not in TASKS:
            raise UnknownTask(f"task {task!r} is unknown{nearest(task, TASKS)}")
        return (TASKS[task],)
    if suite is None or suite not in SUITES:
        raise UnknownTask(f"suite {suite!r} is unknown{nearest(suite, SUITES)}")
    return SUITES[suite]


def _checked(action: object) -> np.ndarray:
    """The action as (7,) float64, or what is wrong with it."""
    try:
        values = np.asarray(action, dtype=np.float64)
    except (TypeError, ValueError):
        raise BadAction(f"action: expected 7 numbers, got {type(action).__name__}.") from None
    if values.shape != (7,):
        raise BadAction(f"action: expected shape (7,): x, y, z, rotation x, y, z, gripper; got {values.shape}.")
    largest = float(np.abs(values).max())
    if not math.isfinite(largest):
        raise BadAction(
            f"action: entries {np.flatnonzero(~np.isfinite(values)).tolist()} are not finite: {values.tolist()}."
        )
    if largest > 1.0 + 1e-6:
        raise BadAction(
            f"action: all entries must lie in [-1, 1], got {values.round(4).tolist()}; clip it if that is meant."
        )
    return values
