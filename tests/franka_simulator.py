"""A simulated Franka FR3 on this machine only, with the robot's own limits. Runs in .venv-franka-sim's Python:
`python franka_simulator.py HOST FOLDER`.

The arm's model is made in FOLDER from the URDF in franka-sim's own package: kinematics, inertia and limits of an FR3,
and no shapes, so that nothing collides.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import sys
from pathlib import Path
from xml.etree import ElementTree

import mujoco

ARMATURE = 0.2
"""kg m^2 that a joint's motor and gear add: the URDF leaves them out, and without them the arm is too light."""
FLANGE = 0.107
"""Metres from the last joint to the flange."""
_HAND = """
<mujoco model="hand">
  <worldbody>
    <body name="hand">
      <inertial pos="0 0 0.03" mass="0.7" diaginertia="1e-3 2e-3 2e-3"/>{}
    </body>
  </worldbody>
  <equality><joint joint1="finger_joint1" joint2="finger_joint2"/></equality>
</mujoco>
"""
_FINGER = """
      <body name="{}_finger" pos="0 0 0.058" quat="{}">
        <inertial pos="0 0 0.02" mass="0.015" diaginertia="2e-6 2e-6 1e-6"/>
        <joint name="finger_joint{}" type="slide" axis="0 1 0" range="0 0.04" armature="0.1"/>
      </body>"""


def arm() -> str:
    """MJCF of the arm."""
    (package,) = importlib.util.find_spec("franka_sim").submodule_search_locations
    robot = ElementTree.parse(Path(package) / "models/fr3.urdf").getroot()
    for link in robot.iter("link"):
        for shape in (*link.findall("visual"), *link.findall("collision")):
            link.remove(shape)
    # Links without mass are frames that clients ask for: MuJoCo would melt them into their parents.
    ElementTree.SubElement(ElementTree.SubElement(robot, "mujoco"), "compiler", fusestatic="false")
    spec = mujoco.MjSpec.from_string(ElementTree.tostring(robot, encoding="unicode"))
    for joint in spec.joints:
        joint.armature = ARMATURE
    # The server tells the pose of the body that it finds as link7; its clients reckon with the flange's.
    last = next(body for body in spec.bodies if body.name.endswith("link7"))
    for body in spec.bodies:
        if body.name.endswith(("flange", "link8")):
            body.name = f"{body.name}_of_urdf"
    name, last.name = last.name, "last_joint"
    for frame in (name, "link8"):  # link8 carries the hand
        added = last.add_body()
        added.name, added.pos = frame, [0, 0, FLANGE]
    spec.compile()
    return str(spec.to_xml())


def hand() -> str:
    """MJCF of two coupled fingers."""
    return _HAND.format(_FINGER.format("left", "1 0 0 0", 1) + _FINGER.format("right", "0 0 0 1", 2))


def main() -> None:
    host, folder = sys.argv[1], Path(sys.argv[2])
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for variable, name, model in (("FR3_MJCF", "fr3.xml", arm()), ("FRANKA_HAND_MJCF", "hand.xml", hand())):
        (folder / name).write_text(model)
        os.environ[variable] = str(folder / name)
    from franka_sim import FrankaSimServer

    server = FrankaSimServer(
        host=host, gripper_physics=True, enforce_comm_constraints=True, enforce_motion_limits=True, protocol_version=10
    )
    server.start()


if __name__ == "__main__":
    main()
