"""An arm whose joints are the tool's position and its rotation about x, y and z: kinematics by eye."""

from __future__ import annotations

JOINTS = ("slide_x", "slide_y", "slide_z", "turn_x", "turn_y", "turn_z")


def gantry() -> str:
    """Its URDF, from `base` to `tool`."""
    links = ["base", *(f"after_{name}" for name in JOINTS[:-1]), "tool"]
    text = "".join(f'<link name="{link}"/>' for link in links)
    for i, name in enumerate(JOINTS):
        axis = " ".join("1" if j == i % 3 else "0" for j in range(3))
        kind, limit = ("prismatic", 2.0) if i < 3 else ("revolute", 4.0)
        text += (
            f'<joint name="{name}" type="{kind}"><parent link="{links[i]}"/><child link="{links[i + 1]}"/>'
            f'<axis xyz="{axis}"/><limit lower="-{limit}" upper="{limit}" velocity="3" effort="100"/></joint>'
        )
    return f'<robot name="gantry">{text}</robot>'
