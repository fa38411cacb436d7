"""A robot that is not there, driven by the policy node and the executor over ROS 2: what a driver of your own must do.

    python examples/fake_robot.py [--seconds 8] [--checkpoint checkpoints/lift_pixels.pt]

The robot publishes what the policy listens to (two cameras, joints, the hand's pose) and obeys eef_command. Its cameras
show noise, so where the policy leads it means nothing; that it is led, and stays within limits and box, is the point.
Needs rclpy: a ROS installation, or the wheels that `make setup` installs. Ends by itself.
"""

import argparse
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import Image, JointState
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

RATE = 20.0
"""Control steps a second; the checkpoint's."""
BOX = {"workspace_low": [-0.15, -0.1, 0.85], "workspace_high": [0.05, 0.1, 1.02]}
"""Where the hand may go [m]: yours to say, for your robot. Beyond where demonstrations have been a policy holds."""
LIMITS = {"action_low": [-0.02] * 3 + [-0.2] * 3 + [-1.0], "action_high": [0.02] * 3 + [0.2] * 3 + [1.0]}
"""What one control step may do: metres, radians, gripper."""


PATIENCE = 60.0
"""Seconds to wait for the first motion: a checkpoint that wants other sensors never moves this robot."""


class FakeRobot(Node):
    """Drivers in one: sensors out, commands in."""

    def __init__(self) -> None:
        super().__init__("fake_robot")
        self.position = np.array([-0.1, 0.0, 1.0])
        self.orientation = Rotation.from_quat([1.0, 0.0, 0.0, 0.0])  # x, y, z, w: the hand points down
        self.fingers = 0.04  # metres, each; 0.04 open, 0 closed
        self.commands, self.moved = 0, 0.0
        self.said = ""
        self._noise = np.random.default_rng(0)
        self._pose = self.create_publisher(PoseStamped, "eef_pose", 5)
        self._joints = self.create_publisher(JointState, "joint_states", 5)
        cameras = ("agentview", "robot0_eye_in_hand")
        self._images = [self.create_publisher(Image, f"{camera}/image_raw", 5) for camera in cameras]
        self.create_subscription(JointTrajectory, "eef_command", self.on_command, 1)
        self.create_subscription(DiagnosticArray, "/diagnostics", self.on_diagnostics, 10)
        self._enable = self.create_client(SetBool, "executor/set_enabled")
        self.create_timer(1 / RATE, self.publish)

    def enable(self) -> None:
        """Lets the executor act."""
        self.said = ""
        self._enable.call_async(SetBool.Request(data=True))

    def publish(self) -> None:
        """One frame: everything with the time at which it was measured, which here is the same for all."""
        stamp = self.get_clock().now().to_msg()
        for publisher in self._images:
            image = Image(height=84, width=84, encoding="rgb8", step=84 * 3)
            image.header.stamp = stamp
            image.data = self._noise.integers(0, 256, 84 * 84 * 3, np.uint8).tobytes()
            publisher.publish(image)
        # Of the joints the policy needs the fingers. Names and signs are robosuite's; the policy node's parameters
        # gripper_joints and gripper_signs translate those of another gripper.
        joints = JointState(name=["gripper0_right_finger_joint1", "gripper0_right_finger_joint2"])
        joints.header.stamp = stamp
        joints.position = [self.fingers, -self.fingers]
        self._joints.publish(joints)
        pose = PoseStamped()
        pose.header.stamp = stamp
        pose.header.frame_id = "world"
        p, q = pose.pose.position, pose.pose.orientation
        p.x, p.y, p.z = self.position.tolist()
        q.x, q.y, q.z, q.w = self.orientation.as_quat().tolist()
        self._pose.publish(pose)

    def on_command(self, msg: JointTrajectory) -> None:
        """One control step's motion, in the axes of eef_pose's frame. A row of zeros is a hold: stay, gripper as it is.

        A real driver also holds by itself when no command comes: nothing here moves without one.
        """
        row = np.array(msg.points[0].positions)
        self.position += row[:3]
        self.orientation = Rotation.from_rotvec(row[3:6]) * self.orientation
        if row[6]:
            self.fingers = float(np.clip(self.fingers - 0.01 * np.sign(row[6]), 0.0, 0.04))
        self.commands += 1
        self.moved += float(np.linalg.norm(row[:3]))

    def on_diagnostics(self, msg: DiagnosticArray) -> None:
        for status in msg.status:
            if status.hardware_id == "executor":
                self.said = status.message


def start(node: str, **parameters: object) -> subprocess.Popen[bytes]:
    """`ros2 run diffusion_ros <node> --ros-args -p ...`, for machines that have no ros2."""
    chosen = [word for name, value in parameters.items() for word in ("-p", f"{name}:={value}")]
    return subprocess.Popen([sys.executable, "-m", f"diffusion_ros.nodes.{node}", "--ros-args", *chosen])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=8.0, help="from its first motion on")
    parser.add_argument("--domain", type=int, default=77, help="ROS_DOMAIN_ID, whatever the environment says")
    parser.add_argument("--checkpoint", default=str(Path(__file__).parents[1] / "checkpoints/lift_pixels.pt"))
    options = parser.parse_args()
    # This robot must never meet a real one: a ROS domain of its own, on this machine only.
    os.environ["ROS_DOMAIN_ID"] = str(options.domain)
    os.environ["ROS_AUTOMATIC_DISCOVERY_RANGE"] = "LOCALHOST"
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    nodes = [
        start("policy_node", checkpoint=options.checkpoint),
        start("executor_node", checkpoint=options.checkpoint, **BOX, **LIMITS),
    ]
    rclpy.init()
    robot = FakeRobot()
    try:
        began, moving, shown = time.monotonic(), 0.0, 0.0
        while time.monotonic() - (moving or began) < (options.seconds if moving else PATIENCE):
            rclpy.spin_once(robot, timeout_sec=0.1)
            if any(node.poll() is not None for node in nodes):
                return 1  # it has said why
            # Nothing moves before this, on a real robot by `diffusion_ros enable`.
            if robot.said == "holding: not enabled":
                robot.enable()
            now = time.monotonic()
            moving = moving or (now if robot.moved else 0.0)
            if now - shown > 1:
                shown = now
                print(f"hand at {robot.position.round(3).tolist()} m  executor: {robot.said or 'starting'}", flush=True)
    except KeyboardInterrupt:
        pass
    finally:
        for node in nodes:
            node.terminate()
        for node in nodes:
            node.wait()
        robot.destroy_node()
        rclpy.try_shutdown()
    if not robot.moved:
        print(f"the hand did not move in {PATIENCE:.0f} s; executor: {robot.said or 'starting'}")
        return 1
    print(f"{robot.commands} commands moved the hand by {100 * robot.moved:.1f} cm")
    return 0


if __name__ == "__main__":
    sys.exit(main())
