"""The simulated arm in the place of a robot's: its links as the robot's file names them, and their URDF.

Kinematics and what is seen: links, joints with their limits, a fixed tool; inertias are placeholders. Forward
kinematics of the text equals the simulator's.
"""

from __future__ import annotations

from collections.abc import Sequence

from scipy.spatial.transform import Rotation

from diffusion_ros.simulators.arm_links import Link, arm_links, description
from diffusion_ros.simulators.driven_arm import DrivenArm


def driven_links(
    arm: DrivenArm, joints: Sequence[str] | None = None, base: str = "base", tool: str = "tool", prefix: str = ""
) -> list[Link]:
    """`arm` with these names for its free joints (the simulator's without), from its base frame to its tool frame.

    A locked joint is a fixed one. Raises ValueError for a wrong number of names or one that is used twice.
    """
    names = list(arm.joint_names if joints is None else joints)
    if len(names) != len(arm.free) or len(set(names)) != len(names):
        raise ValueError(f"joint names {', '.join(names)}: expected {len(arm.free)} different ones")
    back = Rotation.from_quat(arm.tool[1]).inv()
    return arm_links(
        arm.simulation,
        base,
        arm.base,
        prefix=prefix,
        names=dict(zip(arm.joint_names, names, strict=True)),
        locked={arm.simulation.joint_names[i]: float(arm.posture[i]) for i in arm.locked},
        tool=(tool, (-back.apply(arm.tool[0]), back.as_quat())),
    )


def arm_description(
    arm: DrivenArm, joints: Sequence[str] | None = None, base: str = "base", tool: str = "tool", name: str = "arm"
) -> str:
    """URDF of `driven_links`, each shape as the box that holds it."""
    return description(driven_links(arm, joints, base, tool), name)
