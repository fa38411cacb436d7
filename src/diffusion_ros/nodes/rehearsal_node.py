"""rehearsal: a robosuite task in the place of a robot's drivers, by the robot's own file.

It publishes what the file names, as those drivers do (names, types, quality of service, rates, frames, encodings,
delays), and takes commands by their rules. Policy and executor run as on the robot: nothing tells them apart but the
arm. Between two episodes the drivers are silent, as if they had been switched off and on again.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from numpy.typing import NDArray
from rclpy.clock import Clock as RosClock
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, JointState

from diffusion_ros import picture_transport, robot_file
from diffusion_ros.nodes.arm_recorder import ArmRecorder
from diffusion_ros.nodes.driver_commands import DriverCommands
from diffusion_ros.nodes.driver_gripper import DriverGripper
from diffusion_ros.nodes.driver_sensors import DRIVER_QOS, DriverSensors
from diffusion_ros.nodes.rehearsal_parameters import RehearsalParameters
from diffusion_ros.resources import resource_folder
from diffusion_ros.robot import ACTION_SIZE, CAMERAS, HAND_FRAME, RATE, WORLD_FRAME, optical_frame
from diffusion_ros.robot_file import HAND
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.described_robot import DescribedRobot
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.scene_publisher import ScenePublisher
from diffusion_ros.ros.simulator_node import SimulatorNode
from diffusion_ros.ros.transform_broadcaster import TransformBroadcaster
from diffusion_ros.ros.wall_clock import SteppedClock, WallClock
from diffusion_ros.simulators import driver_streams
from diffusion_ros.simulators.arm_description import driven_links
from diffusion_ros.simulators.arm_driver import ArmDriver, Refused
from diffusion_ros.simulators.driven_arm import STEP_NS, DrivenArm, Pose, conjugate, multiply, rotation_vector
from diffusion_ros.simulators.episode import Episode
from diffusion_ros.simulators.scene import SceneGeom

Array = NDArray[np.float64]

_STEPS = 10
"""Of the clock, in a control period: 5 ms."""
_BATCH_SECONDS = 0.02
"""Of wall time, after which others have their turn."""
_QUIET_SECONDS = 0.1
"""Without a command, after which a control step counts as missed."""
_MOVES = 2e-4, 2e-3
"""m, rad: a target that is so far from where the arm holds is a motion, and begins the episode."""


class RehearsalNode(SimulatorNode):
    """The drivers of a robot, and the episodes."""

    rate = RATE
    replayed_as = "arm"
    parameters: RehearsalParameters

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, robot) or OSError (no OpenGL, no folder) in one line."""
        super().__init__("rehearsal", RehearsalParameters, parameter_overrides)
        p = self.parameters
        self.robot = robot = robot_file.read(robot_file.find(p.robot))
        width, height = p.size
        self.streams = driver_streams.streams(robot, CAMERAS, p.encoding, width, height, p.pose_rate)
        self.task_name = p.task
        self.world = f"{p.frame_prefix}{WORLD_FRAME}"
        """The frame of the scene."""
        self._offset_ns = round(1e9 * p.clock_offset)
        self.arm = DrivenArm(
            p.task,
            locked=self.streams.locked,
            base=(robot.base.position, robot.base.rotation.as_quat()),
            tool=(robot.tool.position, robot.tool.rotation.as_quat()),
        )
        self.arm.gripper.speed = p.gripper_speed
        self.simulation = self.arm.simulation
        action = robot.action
        joints = robot.joints or tuple(self.arm.joint_names)
        self.driver = ArmDriver(
            self.arm,
            robot.driver,
            action.output,
            robot.base.frame,
            robot.tool.frame,
            joints,
            action.rate,
            (p.servo_caps[0], p.servo_caps[1]),
            (p.servo_singularity[0], p.servo_singularity[1]) if p.servo_singularity else None,
        )
        self._recorder = ArmRecorder(self, self.simulation, p.view)
        self.records = bool(p.view)
        self._drivers = DriverSensors(
            self,
            robot,
            self.streams,
            self.driver,
            (width, height),
            p.picture_rate,
            (p.picture_delay, p.picture_jitter),
            self._stamp,
            self._took,
            lambda topic: self.diagnostics.tick(topic),
            p.frame_prefix,
        )
        self._drivers.records = self.records
        # Time: `_due_ns` is the arm's, up to which it shall be; `_origin_ns` what the robot's is ahead of it.
        self._due_ns = self._origin_ns = 0
        self._lost = False
        self._accepted_ns = 0
        self._before: Pose = self.driver.setpoint()
        """The set-point at the end of the last control step."""
        self._lag: list[float] = []
        self._others = ""
        self._input = DriverCommands(self, robot, self.driver, self._of_arm, self._accepted)
        self.take_commands({action.topic: (self._input.kind, self._input.take)}, DRIVER_QOS)
        self._gripper = None
        if robot.gripper is not None:
            self._gripper = DriverGripper(
                self, robot.driver, robot.gripper, self.arm.gripper, self._listens, self._refuse
            )
        self.start("robosuite", self._watched(), topics.BEST_EFFORT_QOS)

    def _watched(self) -> tuple[type, str]:
        """By what another robot would be noticed."""
        hand = self.robot.poses[HAND]
        if hand.source == "pose":
            return PoseStamped, hand.topic
        if self.streams.joints_topic:
            return JointState, self.streams.joints_topic
        camera = next((camera for camera in self.streams.cameras), None)
        return (Image, camera.topic) if camera is not None else (messages.TFMessage, hand.topic)

    # Time

    def start_time(self) -> None:
        step_ns = round(self._period * 1e9 / _STEPS)
        self._steps_left = self._steps = _STEPS
        self._steps_of_time: SteppedClock = self._sim_clock or WallClock(self, step_ns)
        # Episodes and the pauses between them are in this time as well.
        self.create_timer(step_ns * 1e-9, self._go, clock=RosClock(clock_type=ClockType.STEADY_TIME))

    def seconds(self) -> float:
        return self._steps_of_time.now_ns * 1e-9 if hasattr(self, "_steps_of_time") else super().seconds()

    def now_ns(self) -> int:
        return self._steps_of_time.now_ns if hasattr(self, "_steps_of_time") else super().now_ns()

    def _go(self) -> None:
        """Time goes on, if it is due: in real time by as many steps as are due, else by one at most (SimClock)."""
        began = time.monotonic()
        if self.phase in ("checking", "drawing", "done"):
            self._tick()
        while self._steps_of_time.due():
            before = self._steps_of_time.now_ns
            self._steps_of_time.advance()
            self._lost |= self._steps_of_time.now_ns - before > self._steps_of_time.step_ns
            if self.phase in ("waiting", "running"):
                self._advance()
            self._steps_left -= 1
            if self._steps_left == 0:
                self._steps_left = _STEPS
                if self.phase in ("waiting", "running", "pausing"):
                    self._tick()
            if self._sim_clock is not None or time.monotonic() - began > _BATCH_SECONDS:
                return

    def _advance(self) -> None:
        """The arm goes on by a step of the clock, and what its drivers measure meanwhile goes out."""
        arm = self.arm
        began = time.monotonic()
        self._due_ns += self._steps_of_time.step_ns
        self._origin_ns = self._steps_of_time.now_ns - self._due_ns
        for listener in self._commands:
            # rclpy runs timers first: what came in time may still be in the queue.
            listener.take_waiting()
        while arm.time_ns + STEP_NS <= self._due_ns:
            arm.step()
            self.driver.watch()
            self._drivers.sense()
        self._drivers.deliver(self._due_ns)
        if self._gripper is not None:
            self._gripper.check()
        self._took("physics and sensors", time.monotonic() - began)

    def _took(self, what: str, seconds: float) -> None:
        if self.phase == "running":
            self.episode.took(what, seconds)

    def _stamp(self, time_ns: int) -> int:
        """What the drivers' clock says at a time of the arm [ns]."""
        return time_ns + self._origin_ns + self._offset_ns

    def _of_arm(self, stamp_ns: int) -> int:
        """A stamp of a command, as the driver takes it, in the arm's time; 0 stays 0."""
        return stamp_ns - self._origin_ns - self._offset_ns if stamp_ns else 0

    # What goes out

    def advertise(self) -> None:
        self._sole.stop()  # they may come a thousand times a second; from now on the graph is asked
        self._drivers.advertise()
        self._describe()
        if self.parameters.scene:
            simulation, prefix = self.simulation, self.parameters.frame_prefix
            self._scene = ScenePublisher(self, simulation.scene, simulation.body_poses, self._transforms, prefix)

    def _describe(self) -> None:
        """The arm for RViz, in the frames of its file, and where the scene is."""
        robot, prefix = self.robot, self.parameters.frame_prefix
        self._transforms = TransformBroadcaster(self, self.parameters.transforms)
        links = driven_links(self.arm, self.driver.joints, robot.base.frame, robot.tool.frame, prefix)
        own = robot.description.topic if robot.description is not None else ""
        said = {source.child for source in robot.poses.values() if source.source == "tf"}
        self._described = DescribedRobot(self, links, self._transforms, own, said)
        if self.world != robot.base.frame:
            self._transforms.send_always([(*self._drivers.world, robot.base.frame, self.world)])

    def _say_transforms(self) -> None:
        """The arm's links, its hand, and its cameras."""
        if not self._transforms.heard:
            return
        stamp, simulation = self._stamp(self.arm.time_ns), self.simulation
        poses = {HAND_FRAME: self.arm.hand_in_world()}
        poses.update({optical_frame(camera): simulation.camera_pose(camera) for camera in simulation.cameras})
        prefix = self.parameters.frame_prefix
        self._transforms.send([(*pose, self.world, f"{prefix}{name}") for name, pose in poses.items()], stamp)
        self._described.send(simulation.data.qpos, stamp)

    def publish_observation(self, stamp_ns: int) -> None:
        """Sensors have rates of their own; what is said once a control step is that all is well."""
        self._drivers.say_ready()
        self._say_transforms()

    def publish_scene(self) -> None:
        self._scene.publish(self.now_ns())

    # What comes in

    def _accepted(self, stamp_ns: int) -> None:
        """A command was taken."""
        self._accepted_ns = self.arm.time_ns
        if stamp_ns and self.phase == "running":
            self.episode.took("age of a command", (self.arm.time_ns - self._of_arm(stamp_ns)) * 1e-9)

    def _listens(self) -> bool:
        """Whether the drivers are switched on."""
        return self.phase in ("waiting", "running")

    def _refuse(self, error: Exception) -> None:
        """The gripper's driver does not take something."""
        try:
            self.driver.refuse(str(error), "gripper")
        except Refused as refused:
            self._fault = f"gripper refused: {refused}"

    # Episodes

    def _new_episode(self, index: int) -> Episode:
        p = self.parameters
        return Episode(index, p.seed + index, p.max_steps or self.simulation.task.max_steps, p.stop_after_success)

    def reset_simulator(self) -> None:
        """The arm is at its start, and its drivers have been switched on again."""
        self.arm.reset(self.episode.seed)
        self.driver.restart()
        if self.parameters.scene:
            self._scene.begin()
        if self._gripper is not None:
            self._gripper.restart()
        self._drivers.restart(np.random.default_rng((self.parameters.jitter_seed, self.episode.seed)))
        self._before = self.driver.setpoint()
        self._lag.clear()
        self._lost = False
        self._recorder.begin()

    def _tick_realtime(self, now: float, late: bool) -> None:
        """At the end of a control step: what was the arm told in it?"""
        target = self.driver.setpoint()
        row = np.zeros(ACTION_SIZE)
        row[:3] = target[0] - self._before[0]
        row[3:6] = rotation_vector(multiply(target[1], conjugate(self._before[1])))
        if np.linalg.norm(row[:3]) < 1e-7 and np.linalg.norm(row[3:6]) < 1e-6:
            row[:6] = 0.0
        row[6] = 0.0 if self._gripper is None else self._gripper.told
        quiet = (self.arm.time_ns - self._accepted_ns) * 1e-9 > _QUIET_SECONDS
        # A trajectory goes on by itself, and who has nothing more to say to its controller is silent.
        self._command = None if quiet and self.robot.driver != "jtc" else (0, row)
        waiting = self.phase == "waiting"
        super()._tick_realtime(now, self._lost)
        if not waiting or self.phase == "running":
            self._before = target
            if self._gripper is not None:
                self._gripper.told = 0.0
            self._lag.append(float(np.linalg.norm(target[0] - self.arm.measured_pose()[0])))
        self._lost = False

    def starts(self, row: Array) -> bool:
        if self.phase != "waiting":
            return bool(np.any(row))
        return bool(np.linalg.norm(row[:3]) > _MOVES[0] or np.linalg.norm(row[3:6]) > _MOVES[1])

    def hold(self) -> Array:
        return np.zeros(ACTION_SIZE)

    def execute(self, row: Array, missed: bool) -> None:
        """The arm has done it already: it is counted."""
        self.episode.executed(row, self.arm.success, missed)

    def result(self) -> dict[str, Any]:
        lag = np.array(self._lag)
        return {
            **self.episode.result(self.simulation.state_hash()),
            "driver": self.robot.driver,
            "output": self.robot.action.output,
            "commanded": self.driver.motion.report(),
            "refused": dict(self.driver.refused),
            "lag_rms": round(float(np.sqrt(np.mean(lag**2))), 5) if len(lag) else 0.0,
        }

    def _pace(self) -> dict[str, float]:
        wall, simulated = time.monotonic() - self._ran[0], (self.episode.steps - 1) / self.rate
        if self.episode.steps < 2:
            return {}
        robot_time = self.seconds() - self._ran[1]
        return {
            "rate": round((self.episode.steps - 1) / robot_time, 3),
            "achieved_speed": round(simulated / wall, 3),
        }

    def news(self) -> dict[str, Any]:
        return {"reward": float(self.arm.success), "refused": sum(self.driver.refused.values())}

    def conflict(self) -> str:
        return self._others or self._input.several()

    def _refresh(self) -> None:
        self._others = ""
        if self.phase != "checking":
            topic, own = self._sole.topic, 1 + (self.streams.fingers is not None)
            many = self.count_publishers(topic)
            shared = self.streams.fingers is not None and self.streams.fingers.topic == self._watched()[1]
            if many > (own if shared else 1):
                self._others = f"{many} publishers on {topic}: another robot's drivers?"
        super()._refresh()
        self.diagnostics.value("robot", self.robot.path.stem)
        self.diagnostics.value("driver", self.robot.driver)
        for reason, count in self.driver.refused.items():
            self.diagnostics.value(f"refused: {reason}", count)
        if self.driver.status is not None:
            self.diagnostics.value("servo status", self.driver.status)

    # The replay and the video

    def shapes(self) -> Sequence[SceneGeom]:
        return self.simulation.scene()

    def bodies(self) -> Mapping[str, tuple[NDArray[np.float64], NDArray[np.float64]]]:
        return self.simulation.body_poses()

    def record(self, row: Array | None, missed: bool) -> None:
        if row is None:
            reason = "" if self.episode.success else "the episode is over"
        else:
            reason = self._recorder.why_held(row, self._fault if missed else "")
        images = [self._drivers.seen(camera) for camera in self.streams.cameras]
        hand = self.arm.hand_in_world()[0]
        self._recorder.keep(self.episode, self._stamp(self.arm.time_ns), images, hand, reason)

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        return self._recorder.pictures(self.episode)

    def close(self) -> None:
        super().close()
        self.simulation.close()


def main() -> int:
    # A robot's drivers have settled this for themselves.
    os.environ.update(picture_transport.environment(resource_folder()))
    return run(RehearsalNode)


if __name__ == "__main__":
    raise SystemExit(main())
