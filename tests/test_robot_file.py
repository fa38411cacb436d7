"""The YAML of a robot: the shipped ones are complete."""

import pytest

from diffusion_ros import robot_file


@pytest.mark.parametrize("name", robot_file.shipped())
def test_shipped_robots_are_complete(name: str) -> None:
    robot = robot_file.read(robot_file.find(name))
    assert robot.path.stem == name
    assert set(robot.pictures) == {"agentview", "robot0_eye_in_hand"}
    assert robot.gripper is not None
    assert robot.action.output in robot_file.OUTPUTS


def test_each_output_has_a_shipped_robot() -> None:
    robots = [robot_file.read(path) for path in robot_file.shipped().values()]
    assert {robot.action.output for robot in robots} == set(robot_file.OUTPUTS)
