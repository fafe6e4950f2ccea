"""The robot: a 7-joint arm with the joint geometry of the Franka Panda, built from primitives.

Link offsets, joint limits and the 0 to 8 cm gripper are the public ones of the Panda (Franka Control Interface, "Robot and
interface specifications"); shapes, masses and servos are our own. No mesh, no download. Base at the origin, x forward,
y to the robot's left, z up; the table top is z = 0.

Differences from the real arm: every joint has 87 Nm (the real wrist's 12 Nm saturates under stiff position servos), gravity
is compensated exactly, only forearm, hand and fingers collide, and the hand is 13 cm wide instead of 20 cm.
"""

from __future__ import annotations

import mujoco
import numpy as np

N_JOINTS = 7
HOME = np.array([0.0, -0.10, 0.0, -2.40, 0.0, 2.30, np.pi / 4])
"""(7,) joint angles [rad] of the start posture: gripper pointing down over the middle of the table."""

FINGER_RANGE = 0.04
"""Travel of each finger [m]; the gripper opens to twice this."""

SQUEEZE = -0.05
"""Finger travel that closing aims at [m]: beyond shut, so that thin and wide things are held with the same 30 N."""

# contype, conaffinity: the robot meets objects (1) and fixtures, never itself
_COLLIDE = 'contype="2" conaffinity="1"'
_WHITE, _DARK = "0.90 0.91 0.93 1", "0.22 0.24 0.27 1"

_LINKS = (
    # position in the parent, quat_wxyz in the parent, joint range [rad], mass [kg], geoms
    ("0 0 0.333", "1 0 0 0", (-2.8973, 2.8973), 3.0, f'<geom type="capsule" size=".058" fromto="0 0 -.19 0 0 0" rgba="{_WHITE}"/>'),
    ("0 0 0", "1 -1 0 0", (-1.7628, 1.7628), 3.0, f'<geom type="capsule" size=".06" fromto="0 0 -.06 0 0 .06" rgba="{_DARK}"/>'
     f'<geom type="capsule" size=".055" fromto="0 0 0 0 -.20 0" rgba="{_WHITE}"/>'),
    ("0 -0.316 0", "1 1 0 0", (-2.8973, 2.8973), 2.5, f'<geom type="capsule" size=".055" fromto="0 0 -.10 0 0 0" rgba="{_WHITE}"/>'),
    ("0.0825 0 0", "1 1 0 0", (-3.0718, -0.0698), 2.5, f'<geom type="capsule" size=".055" fromto="0 0 -.05 0 0 .05" rgba="{_DARK}"/>'
     f'<geom type="capsule" size=".05" fromto="0 0 0 -.0825 .10 0" rgba="{_WHITE}"/>'),
    ("-0.0825 0.384 0", "1 -1 0 0", (-2.8973, 2.8973), 2.0, f'<geom type="capsule" size=".045" fromto="0 0 -.26 0 0 -.05" rgba="{_WHITE}"/>'
     f'<geom name="forearm" type="capsule" size=".05" fromto="0 .03 -.20 0 .05 -.03" rgba="{_WHITE}" {_COLLIDE}/>'),
    ("0 0 0", "1 1 0 0", (-0.0175, 3.7525), 1.5, f'<geom type="capsule" size=".048" fromto="0 0 -.05 0 0 .05" rgba="{_DARK}"/>'
     f'<geom type="capsule" size=".045" fromto="0 0 0 .088 0 0" rgba="{_WHITE}"/>'),
    ("0.088 0 0", "1 1 0 0", (-2.8973, 2.8973), 0.7, f'<geom type="capsule" size=".042" fromto="0 0 -.01 0 0 .06" rgba="{_WHITE}"/>'
     f'<geom type="cylinder" size=".034 .012" pos="0 0 .095" rgba="{_DARK}"/>'),
)  # fmt: skip

_GAINS = (4500, 4500, 3500, 3500, 2000, 2000, 2000)
"""Stiffness of each joint's position servo [Nm/rad]; damping is a twentieth of it [Nm s/rad], a lag of 50 ms."""

_FINGER = """
<body name="{name}" pos="0 0 0.0584" quat="{quat}" gravcomp="1">
  <joint name="{name}" type="slide" axis="0 1 0" range="0 {travel}" armature="0.1" damping="20"
         solreflimit="0.01 1" solimplimit="0.95 0.99 0.001"/>
  <inertial pos="0 0.01 0.03" mass="0.03" diaginertia="2e-5 2e-5 1e-5"/>
  <geom name="{name}" type="box" size=".010 .006 .0135" pos="0 .006 .0415" friction="1.5 .02 .0002" rgba="{dark}" {collide}/>
  <geom type="box" size=".010 .008 .014" pos="0 .010 .014" rgba="{dark}"/>
</body>"""


def arm_spec() -> mujoco.MjSpec:
    """Build the arm alone: joints `joint1`..`joint7`, `finger_left`, `finger_right`, site `tcp`, camera `wrist`.

    Actuators are in the same order: seven position servos for angles [rad], then one per finger for its travel [m].
    """
    fingers = "".join(
        _FINGER.format(name=name, quat=quat, travel=FINGER_RANGE, dark=_DARK, collide=_COLLIDE)
        for name, quat in (("finger_left", "1 0 0 0"), ("finger_right", "0 0 0 1"))
    )
    body = f"""
<body name="hand" pos="0 0 0.107" quat="0.9238795 0 0 -0.3826834" gravcomp="1">
  <inertial pos="0 0 0.03" mass="0.7" diaginertia="2e-3 1e-3 2e-3"/>
  <geom name="hand" type="box" size=".028 .065 .030" pos="0 0 .0354" rgba="{_WHITE}" {_COLLIDE}/>
  <site name="tcp" pos="0 0 .1034" size=".004" rgba="0 0 0 0"/>
  <camera name="wrist" pos=".075 0 .015" xyaxes="0 -1 0 -.96 0 -.28" fovy="62"/>
  {fingers}
</body>"""
    servos = "".join(
        f'<general name="joint{i}" joint="joint{i}" biastype="affine" gainprm="{kp}" biasprm="0 -{kp} -{kp / 20}" '
        'forcelimited="true" forcerange="-87 87"/>'
        for i, kp in enumerate(_GAINS, start=1)
    ) + "".join(
        f'<general name="{name}" joint="{name}" biastype="affine" gainprm="600" biasprm="0 -600 -20" '
        f'ctrllimited="true" ctrlrange="{SQUEEZE} {FINGER_RANGE}" forcelimited="true" forcerange="-30 30"/>'
        for name in ("finger_left", "finger_right")
    )
    return mujoco.MjSpec.from_string(f"""
<mujoco model="arm">
  <compiler angle="radian" autolimits="true" inertiafromgeom="false"/>
  <default><geom contype="0" conaffinity="0" group="2" mass="0"/></default>
  <worldbody><body name="link0">
    <geom type="cylinder" size=".075 .06" pos="-.01 0 .06" rgba="{_DARK}"/>
    <geom type="capsule" size=".06" fromto="0 0 .08 0 0 .16" rgba="{_WHITE}"/>
    {_links_around(body, shapes=True)}
  </body></worldbody>
  <actuator>{servos}</actuator>
</mujoco>""")


def arm_model() -> mujoco.MjModel:
    """Compile the seven joints and the site `tcp` alone, without shapes: what inverse kinematics runs on (nv = 7)."""
    hand = '<body name="hand" pos="0 0 0.107" quat="0.9238795 0 0 -0.3826834"><site name="tcp" pos="0 0 .1034"/></body>'
    return mujoco.MjModel.from_xml_string(f"""
<mujoco><compiler angle="radian" autolimits="true"/><worldbody>{_links_around(hand, shapes=False)}</worldbody></mujoco>""")


def _links_around(body: str, shapes: bool) -> str:
    """MJCF of the seven links, each inside the one before, with `body` inside the last."""
    for number, (pos, quat, (low, high), mass, geoms) in reversed(list(enumerate(_LINKS, start=1))):
        body = f"""
<body name="link{number}" pos="{pos}" quat="{quat}" gravcomp="1">
  <joint name="joint{number}" axis="0 0 1" range="{low} {high}" armature="0.1" damping="1"/>
  <inertial pos="0 0 0" mass="{mass}" diaginertia=".02 .02 .02"/>
  {geoms if shapes else ""}{body}
</body>"""
    return body
