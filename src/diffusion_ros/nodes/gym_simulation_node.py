"""gym_simulation: CartPole or the inverted double pendulum as a robot driver. Joint states out, efforts in.

Its two clocks, lockstep and real time, are those of `SimulatorNode`. In real time a command counts if it answers the
joint states of the period that ends. Without one the step has no force. CartPole itself has no such action: without a
policy the pole falls, as it should.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64, Int64
from visualization_msgs.msg import MarkerArray

from diffusion_ros.robot import FRAME_PREFIX, WORLD_FRAME
from diffusion_ros.ros import messages, simulator_parameters, topics
from diffusion_ros.ros.params import parameter
from diffusion_ros.ros.picture_publisher import COMPRESSED, PicturePublisher
from diffusion_ros.ros.runner import run
from diffusion_ros.ros.simulator_node import SimulatorNode
from diffusion_ros.ros.transform_broadcaster import TransformBroadcaster
from diffusion_ros.simulators import gym, video
from diffusion_ros.simulators.episode import BalanceEpisode
from diffusion_ros.simulators.gym import GymSimulation
from diffusion_ros.simulators.scene import SceneGeom
from diffusion_ros.simulators.tasks import GYM_TASKS

Array = NDArray[np.float64]

_VIDEO_SHAPE = (video.VIEW_SIZE, video.VIEW_SIZE * 4 // 3)


@dataclass(frozen=True)
class GymSimulationParameters(simulator_parameters.TwoClocksParameters):
    """Parameters of the gym_simulation node."""

    task: str = parameter("cartpole", "the machine to balance", choices=tuple(GYM_TASKS))
    video: bool = parameter(False, "true: write an MP4 of each episode")
    compressed_pictures: bool = parameter(False, COMPRESSED)
    frame_prefix: str = parameter("", FRAME_PREFIX)


@dataclass(frozen=True)
class BalanceStep:
    """What one picture of the video is made from."""

    positions: Array
    effort: float
    step: int
    state: tuple[str, tuple[int, int, int]]
    """Text and colour."""


class GymSimulationNode(SimulatorNode):
    """Publishes joint_states, image_raw, scene and episode.

    Takes joint_command, which carries the stamp of the joint states that it answers, and for scripts discrete_action or
    effort_command, which have none and answer those that are out.
    """

    answer_steps = 1
    replayed_as = "cart"
    parameters: GymSimulationParameters
    episode: BalanceEpisode

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters) or OSError (no folder) in one line."""
        super().__init__("gym_simulation", GymSimulationParameters, parameter_overrides)
        self.simulation = GymSimulation(self.parameters.task)
        self.task = self.simulation.task
        self.world = f"{self.parameters.frame_prefix}{WORLD_FRAME}"
        self.task_name = self.task.name
        self.rate = self.task.rate
        self.records = self.parameters.video
        self._recorded: list[BalanceStep] = []
        self._stepped_at: float | None = None
        unstamped: tuple[str, tuple[type[Any], Callable[[Any], None]]] = (
            (topics.DISCRETE_ACTION, (Int64, self._on_discrete_action))
            if self.task.discrete
            else (topics.EFFORT_COMMAND, (Float64, self._on_effort))
        )
        self._command_topics = self.take_commands(
            dict([(topics.JOINT_COMMAND, (JointState, self._on_joint_command)), unstamped])
        )
        self.start("gymnasium", (JointState, topics.JOINT_STATES))

    def advertise(self) -> None:
        self._joint_publisher = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)
        self._image_publisher = PicturePublisher(self, topics.IMAGE, self.parameters.compressed_pictures)
        self._scene_publisher = self.create_publisher(MarkerArray, topics.SCENE, topics.DESCRIPTION_QOS)
        self._transforms = TransformBroadcaster(self, self.parameters.transforms)

    # What comes in

    def _on_joint_command(self, msg: JointState) -> None:
        stamp_ns, effort = messages.joint_command_from_msg(msg, self.task.joints[0])
        self.task.action(effort)
        self.commanded(stamp_ns, np.array([effort]))

    def _on_effort(self, msg: Float64) -> None:
        self.commanded(self._stamp_ns, np.array([self.task.effort(messages.effort_from_msg(msg))]))

    def _on_discrete_action(self, msg: Int64) -> None:
        self.commanded(self._stamp_ns, np.array([self.task.effort(messages.discrete_action_from_msg(msg))]))

    def starts(self, row: Array) -> bool:
        return True  # an effort of 0 is a command like any other

    def peers(self) -> bool:
        """Somebody who listens, beside ourselves, and somebody who commands."""
        return self.count_subscribers(self._sole.topic) > 1 and any(
            self.count_publishers(topic) for topic in self._command_topics
        )

    # Episodes

    def _new_episode(self, index: int) -> BalanceEpisode:
        p = self.parameters
        return BalanceEpisode(index, p.seed + index, p.max_steps or self.task.max_steps)

    def reset_simulator(self) -> None:
        self.simulation.reset(self.episode.seed)
        self._recorded = []
        self._stepped_at = None

    def hold(self) -> Array:
        return np.zeros(1)

    def execute(self, row: Array, missed: bool) -> None:
        now = self.seconds()
        if self._stepped_at is not None:
            self.episode.took("period", now - self._stepped_at)
        self._stepped_at = now
        reward = self.simulation.step(float(row[0]))
        self.episode.executed(row, False, missed)
        self.episode.rewarded(reward, self.simulation.terminated)

    def result(self) -> dict[str, Any]:
        return self.episode.result(self.simulation.state_hash())

    def news(self) -> dict[str, Any]:
        return {"reward": self.episode.total}

    # What goes out

    def publish_observation(self, stamp_ns: int) -> None:
        """A picture that nobody looks at is not drawn."""
        simulation = self.simulation
        if self._image_publisher.get_subscription_count() > 0:
            picture = gym.draw(self.task, simulation.joint_positions)
            self._image_publisher.publish(picture, stamp_ns, self.world)
        prefix = self.parameters.frame_prefix
        self._transforms.send(gym.link_poses(self.task, simulation.joint_positions, WORLD_FRAME, prefix), stamp_ns)
        # Last, because the policy answers it at once.
        self._joint_publisher.publish(
            messages.joint_state_to_msg(
                self.task.joints,
                simulation.joint_positions,
                simulation.joint_velocities,
                stamp_ns,
                efforts=simulation.joint_efforts,
            )
        )
        self.diagnostics.tick(topics.JOINT_STATES)

    def publish_scene(self) -> None:
        if self._scene_publisher.get_subscription_count() > 0:
            geoms = gym.scene(self.task, self.simulation.joint_positions)
            self._scene_publisher.publish(messages.scene_to_msg(geoms, 0, self.world))

    # The replay and the video

    def shapes(self) -> Sequence[SceneGeom]:
        """Each is a body by itself."""
        place, upright = np.zeros(3), np.array([0.0, 0.0, 0.0, 1.0])
        geoms = gym.scene(self.task, self.simulation.joint_positions)
        return [replace(geom, position=place, quaternion=upright, body=geom.name) for geom in geoms]

    def bodies(self) -> Mapping[str, tuple[Array, Array]]:
        geoms = gym.scene(self.task, self.simulation.joint_positions)
        return {geom.name: (geom.position, geom.quaternion) for geom in geoms}

    def record(self, row: Array | None, missed: bool) -> None:
        if missed:
            state = (f"holding: {self._fault}", video.AMBER)
        elif row is not None:
            state = ("acting", video.WHITE)
        else:
            state = ("the end", video.GREEN) if self.episode.success else ("failed", video.AMBER)
        effort = 0.0 if row is None else float(row[0])
        self._recorded.append(BalanceStep(self.simulation.joint_positions, effort, self.episode.steps, state))

    def pictures(self) -> Iterator[NDArray[np.uint8]]:
        for step in self._recorded:
            title = (
                f"{self.task.environment}  episode {self.episode.index + 1}  seed {self.episode.seed}  step {step.step}"
            )
            view = gym.draw(self.task, step.positions, step.effort, _VIDEO_SHAPE)
            yield video.compose((), view, [(title, video.WHITE), step.state])

    def close(self) -> None:
        super().close()
        self.simulation.close()


def main() -> int:
    return run(GymSimulationNode)


if __name__ == "__main__":
    raise SystemExit(main())
