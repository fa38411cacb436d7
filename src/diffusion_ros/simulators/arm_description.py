"""The simulated arm as URDF text, for who computes forward and inverse kinematics from a robot_description.

Kinematics only: links, revolute joints with their limits, a fixed tool; inertias are placeholders and there are no
meshes. Forward kinematics of the text equals the simulator's.
"""

from __future__ import annotations

from collections.abc import Sequence
from xml.etree import ElementTree

import numpy as np
from scipy.spatial.transform import Rotation

from diffusion_ros.simulators.driven_arm import Array, DrivenArm


def arm_description(
    arm: DrivenArm, joints: Sequence[str] | None = None, base: str = "base", tool: str = "tool", name: str = "arm"
) -> str:
    """URDF of `arm` with these names for its free joints (the simulator's without), in its base and tool frames.

    A locked joint becomes a fixed one. Raises ValueError for a wrong number of names or one that is used twice.
    """
    names = list(arm.joint_names if joints is None else joints)
    if len(names) != len(arm.free) or len(set(names)) != len(names):
        raise ValueError(f"joint names {', '.join(names)}: expected {len(arm.free)} different ones")
    model = arm.model
    robot = ElementTree.Element("robot", name=name)
    _link(robot, base)
    parent = base
    root = model.body("robot0_base").id
    placed = arm.base
    bodies = []
    body = arm.simulation.hand_body
    while body != root:
        bodies.append(body)
        body = int(model.body_parentid[body])
    position, rotation = placed[0], Rotation.from_quat(placed[1])
    free = {model.joint(own).id: (given, i) for i, (own, given) in enumerate(zip(arm.joint_names, names, strict=True))}
    for body in reversed(bodies):
        position = position + rotation.apply(model.body_pos[body])
        rotation = rotation * Rotation.from_quat(model.body_quat[body], scalar_first=True)
        for joint in range(model.body_jntadr[body], model.body_jntadr[body] + model.body_jntnum[body]):
            if joint not in free:  # locked
                angle = arm.posture[arm.locked[0]] - model.qpos0[model.jnt_qposadr[joint]]
                rotation = rotation * Rotation.from_rotvec(angle * model.jnt_axis[joint])
                continue
            given, i = free[joint]
            child = f"{given}_link"
            element = _joint(robot, given, "revolute", parent, child, position, rotation)
            ElementTree.SubElement(element, "axis", xyz=_text(model.jnt_axis[joint]))
            low, high = arm.limits[i]
            ElementTree.SubElement(
                element,
                "limit",
                lower=_text([low]),
                upper=_text([high]),
                velocity=_text([arm.velocity_limits[i]]),
                effort=_text([arm.torque_limits[arm.free[i], 1]]),
            )
            _link(robot, child)
            parent, position, rotation = child, np.zeros(3), Rotation.identity()
    # The policy's hand: where the grip site is, turned as the hand body. Then from it to the driver's tool.
    at_zero = arm.hand_in_world()[0]
    hand_body = Rotation.from_quat(arm.hand_in_world()[1])
    offset = hand_body.inv().apply(at_zero - arm.hand_body_in_world())
    position = position + rotation.apply(offset)
    back = Rotation.from_quat(arm.tool[1]).inv()
    position = position - (rotation * back).apply(arm.tool[0])
    _joint(robot, f"{tool}_joint", "fixed", parent, tool, position, rotation * back)
    _link(robot, tool)
    ElementTree.indent(robot)
    return '<?xml version="1.0"?>\n' + ElementTree.tostring(robot, encoding="unicode") + "\n"


def _link(robot: ElementTree.Element, name: str) -> None:
    link = ElementTree.SubElement(robot, "link", name=name)
    inertial = ElementTree.SubElement(link, "inertial")
    ElementTree.SubElement(inertial, "mass", value="1")
    ElementTree.SubElement(inertial, "inertia", ixx="0.01", iyy="0.01", izz="0.01", ixy="0", ixz="0", iyz="0")


def _joint(
    robot: ElementTree.Element, name: str, kind: str, parent: str, child: str, position: Array, rotation: Rotation
) -> ElementTree.Element:
    joint = ElementTree.SubElement(robot, "joint", name=name, type=kind)
    ElementTree.SubElement(joint, "parent", link=parent)
    ElementTree.SubElement(joint, "child", link=child)
    # URDF's rpy turns about fixed axes: x, then y, then z.
    ElementTree.SubElement(joint, "origin", xyz=_text(position), rpy=_text(rotation.as_euler("xyz")))
    return joint


def _text(values: Sequence[float] | Array) -> str:
    return " ".join(f"{value:.12g}" for value in np.asarray(values, dtype=np.float64).tolist())
