"""franka_driver: a Franka FR3 over its own network interface, without franka_ros2. Its topics are those of CRISP's
controllers: current_pose and joint_states out, target_pose in.

Tested on a simulator of the robot's protocol only, never on an arm.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.action.server import ActionServer, CancelResponse, GoalResponse
from rclpy.callback_groups import MutuallyExclusiveCallbackGroup
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from rclpy.task import Future
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool, Float64MultiArray
from std_srvs.srv import Trigger

from diffusion_ros.franka_arm import Franka, Recovery
from diffusion_ros.franka_connection import (
    JOINTS,
    MAX_WIDTH,
    ArmState,
    Connection,
    FrankaConnection,
    MotionLimits,
    library,
)
from diffusion_ros.franka_hand import Hand, HandLimits
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import ERROR, OK, WARN, Diagnostics
from diffusion_ros.ros.listener import Listener
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run

_LOOK_SECONDS = 0.05
_GRIPPER_ACTION = "gripper/gripper_cmd"


@dataclass(frozen=True)
class FrankaDriverParameters:
    """Parameters of the Franka driver."""

    host: str = parameter(description="the robot's address, as in a browser for Desk")
    realtime: str = parameter(
        "enforce",
        "enforce: only on a kernel with real-time priorities, as the robot asks for; ignore: for a simulated robot",
        choices=("enforce", "ignore"),
    )
    base_frame: str = parameter("base", "frame of all poses: the arm's base, in franka_ros2 'base'")
    joint_prefix: str = parameter("fr3_", "what stands before joint1 to joint7, finger_joint1 and finger_joint2")
    gripper: bool = parameter(True, "whether there is a Franka Hand")
    max_target_age: float = parameter(0.2, "a target stamped earlier, or as much ahead, is refused [s]", low=0.01)
    silence: float = parameter(1.0, "after as long without a target the motion is ended [s]", low=0.1, high=60.0)
    max_distance: float = parameter(0.15, "a target farther from the hand is refused [m]", low=0.01, high=0.5)
    max_angle: float = parameter(0.8, "a target turned farther from the hand is refused [rad]", low=0.01, high=1.5)
    max_linear_speed: float = parameter(0.6, "of the way to a target that franka-rs shapes [m/s]", low=0.01, high=1.5)
    max_linear_acceleration: float = parameter(4.0, "likewise, its acceleration [m/s^2]", low=0.1, high=9.0)
    max_linear_jerk: float = parameter(500.0, "likewise, its jerk [m/s^3]", low=1.0, high=4500.0)
    max_angular_speed: float = parameter(
        2.0, "of the turn to a target [rad/s]; way and turn end together, so the slower one decides", low=0.01, high=2.5
    )
    max_angular_acceleration: float = parameter(10.0, "likewise, its acceleration [rad/s^2]", low=0.1, high=17.0)
    max_angular_jerk: float = parameter(1000.0, "likewise, its jerk [rad/s^3]", low=1.0, high=8500.0)
    max_deviation: float = parameter(1.0, "farther from where a motion began franka-rs ends it [m]", low=0.05, high=2.0)
    max_angular_deviation: float = parameter(3.0, "likewise [rad]", low=0.1, high=3.14)
    stiffness: float = parameter(750.0, "of the spring between hand and target [N/m]", low=10.0, high=3000.0)
    leash: float = parameter(
        0.05,
        "how far the target may be ahead of a hand that is held; times the stiffness it is a force [m]",
        low=0.005,
        high=0.2,
    )
    angular_leash: float = parameter(0.3, "likewise [rad]", low=0.02, high=1.0)
    gripper_speed: float = parameter(0.1, "of the fingers [m/s]", low=0.005, high=0.2)
    gripper_force: float = parameter(20.0, "with which the fingers close [N]", low=1.0, high=70.0)

    @property
    def motion(self) -> MotionLimits:
        return MotionLimits(
            linear=self.max_linear_speed,
            linear_acceleration=self.max_linear_acceleration,
            linear_jerk=self.max_linear_jerk,
            angular=self.max_angular_speed,
            angular_acceleration=self.max_angular_acceleration,
            angular_jerk=self.max_angular_jerk,
            deviation=self.max_deviation,
            angular_deviation=self.max_angular_deviation,
            stiffness=self.stiffness,
            leash=(self.leash, self.angular_leash),
        )


class FrankaDriverNode(RunnableNode):
    """Publishes current_pose, joint_states and ~/ready; hears target_pose and gripper/commands."""

    def __init__(
        self,
        parameter_overrides: Sequence[Parameter[Any]] = (),
        connect: Callable[[], Connection] | None = None,
    ) -> None:
        """connect: to the arm, None for franka-rs. Raises ValueError (parameters) in one line."""
        super().__init__("franka_driver", parameter_overrides)
        p = self.parameters = declare(self, FrankaDriverParameters)
        if not p.host:
            raise ValueError("franka_driver: parameter host is '', the robot's address expected")
        self._joints = [f"{p.joint_prefix}joint{i + 1}" for i in range(JOINTS)]
        self._fingers = [f"{p.joint_prefix}finger_joint{i}" for i in (1, 2)]
        self._refusal = ""
        self._shown_ready: bool | None = None
        self._goal: Any = None
        self._recoveries: list[tuple[Recovery, Future[str]]] = []
        """What persons have asked for, and what they wait for."""
        self._poses = self.create_publisher(PoseStamped, topics.CURRENT_POSE, topics.SENSOR_QOS)
        self._states = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)
        self._ready = self.create_publisher(Bool, topics.DRIVER_READY, topics.DESCRIPTION_QOS)
        self.diagnostics = Diagnostics(self, f"franka {p.host}", self._refresh)
        self.franka = Franka(connect or (lambda: FrankaConnection(p.host, p.realtime, p.motion)), self._tell, p.silence)
        self.hand: Hand | None = None
        if p.gripper:
            self.hand = Hand(
                self.franka.hand, HandLimits(p.gripper_speed, p.gripper_force), lambda: self.franka.blocked
            )
        self._targets = Listener(
            self,
            PoseStamped,
            topics.TARGET_POSE,
            self._on_target,
            partial(self._refused, topics.TARGET_POSE),
            topics.WATCHED_QOS,
        )
        self._widths = Listener(
            self,
            Float64MultiArray,
            topics.GRIPPER_COMMANDS,
            self._on_width,
            partial(self._refused, topics.GRIPPER_COMMANDS),
            topics.WATCHED_QOS,
            max_bytes=4096,
        )
        # In a group of its own, so that all else is heard while the arm is about it: above all a stop.
        alone = MutuallyExclusiveCallbackGroup()
        self.create_service(Trigger, "~/recover", self._on_recover, callback_group=alone)
        self.create_service(Trigger, "~/stop", self._on_stop)
        self._action = self._gripper_action()
        self._timer = self.create_timer(_LOOK_SECONDS, self._look, clock=Clock(clock_type=ClockType.STEADY_TIME))
        self.franka.start()
        if self.hand is not None:
            self.hand.start()
        self._look()

    def close(self) -> None:
        self.franka.close()  # first: fingers that are busy hold up the other
        if self.hand is not None:
            self.hand.close()

    # From the arm, on its thread

    def _tell(self, state: ArmState) -> None:
        stamp_ns = self.get_clock().now().nanoseconds
        self._poses.publish(
            messages.pose_to_msg(state.position, state.quaternion, stamp_ns, self.parameters.base_frame)
        )
        names, positions, velocities = list(self._joints), state.joints, state.velocities
        hand = self.hand.state if self.hand is not None else None
        if hand is not None:
            names += self._fingers
            positions = np.append(positions, [hand.width / 2] * 2)
            velocities = np.append(velocities, [hand.rate / 2] * 2)
        self._states.publish(messages.joint_state_to_msg(names, positions, velocities, stamp_ns))
        self.diagnostics.tick(topics.CURRENT_POSE)

    # To the arm

    def _on_target(self, msg: PoseStamped) -> None:
        p = self.parameters
        if conflict := self._targets.conflict():
            raise messages.MessageError(conflict)
        messages.check_frame(msg.header, p.base_frame)
        stamp_ns, position, quaternion = messages.pose_from_msg(msg)
        age = (self.get_clock().now().nanoseconds - stamp_ns) / 1e9
        if abs(age) > p.max_target_age:
            raise messages.MessageError(f"{age:.3f} s old, at most {p.max_target_age:g} s before or after now expected")
        state = self.franka.state
        if state is None or not self.franka.ready:
            return  # the status says why, and it is no fault of the message
        distance = float(np.linalg.norm(position - state.position))
        if distance > p.max_distance:
            raise messages.MessageError(f"{distance:.3f} m from the hand, at most {p.max_distance:g} m expected")
        angle = float((Rotation.from_quat(quaternion) * Rotation.from_quat(state.quaternion).inv()).magnitude())
        if angle > p.max_angle:
            raise messages.MessageError(f"{angle:.2f} rad from the hand, at most {p.max_angle:g} rad expected")
        self.franka.target(position, quaternion)
        self.diagnostics.tick(topics.TARGET_POSE)
        self._refusal = ""

    def _on_width(self, msg: Float64MultiArray) -> None:
        if conflict := self._widths.conflict():
            raise messages.MessageError(conflict)
        width = messages.gripper_width_from_msg(msg, MAX_WIDTH)
        if self.hand is None:
            raise messages.MessageError("there is no hand: parameter gripper is false")
        if not self.franka.blocked:
            self.hand.move(width)
            self.diagnostics.tick(topics.GRIPPER_COMMANDS)

    def _refused(self, topic: str, error: messages.MessageError, msg: object) -> None:
        """The last target stays; where no other comes, the motion ends."""
        self._refusal = f"{topics.shown(self, topic)} refused: {error}"
        self._refresh()

    def _on_stop(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Brakes and stands. Nothing moves until `recover`."""
        self.franka.stop("stopped by ~/stop")
        if self.hand is not None:
            self.hand.stop("stopped by ~/stop")
        self._look()
        response.success, response.message = True, "stopping; ~/recover lifts it"
        return response

    async def _on_recover(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """For a person: lifts what a reflex, a fault or `stop` has locked. The next target then moves the arm."""
        blocked = self.franka.blocked
        if blocked and self.hand is not None:
            self.hand.drop(blocked)  # as an old target, it is not taken up again
        answer: Future[str] = Future()
        self._recoveries.append((self.franka.ask_to_recover(), answer))
        problem = await answer
        if not problem:
            self._refusal = ""
            self.get_logger().info(f"recovered; it was: {blocked or 'nothing'}")
        self._look()
        response.success, response.message = not problem, problem or "ready"
        return response

    # The hand's action, where control_msgs is installed

    def _gripper_action(self) -> Any:
        if self.hand is None:
            return None
        kind = messages.gripper_action_type("gripper_command")
        if kind is None:
            return None
        return ActionServer(
            self,
            kind,
            _GRIPPER_ACTION,
            execute_callback=self._finish,
            goal_callback=self._on_goal,
            handle_accepted_callback=self._on_accepted,
            cancel_callback=self._on_cancel,
        )

    def _on_goal(self, request: Any) -> GoalResponse:
        problem = self.franka.blocked or messages.gripper_goal_problem(request.command, MAX_WIDTH)
        if not problem and self._goal is not None:
            problem = "the fingers have a goal already"
        if problem:
            self._refusal = f"{_GRIPPER_ACTION} refused: {problem}"
            self._refresh()
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _on_accepted(self, goal: Any) -> None:
        assert self.hand is not None
        self._goal = goal
        self.hand.move(2 * goal.request.command.position)

    def _on_cancel(self, goal: Any) -> CancelResponse:
        assert self.hand is not None
        self.hand.stop("canceled")
        return CancelResponse.ACCEPT

    def _finish(self, goal: Any) -> Any:
        """The result, once the fingers have come to their end: nothing waits in here."""
        assert self.hand is not None
        if goal.is_cancel_requested:
            goal.canceled()
        elif self.hand.result:
            goal.abort()
        else:
            goal.succeed()
        state = self.hand.state
        result = self._action._action_type.Result()
        if state is not None:
            result.position = state.width / 2
        result.reached_goal = not self.hand.result
        return result

    # Every 50 ms, and once a second

    def _look(self) -> None:
        for recovery, future in list(self._recoveries):
            if (answer := self.franka.answer_to(recovery)) is not None:
                self._recoveries.remove((recovery, future))
                future.set_result(answer)
        if self._goal is not None and self.hand is not None and not self.hand.busy:
            goal, self._goal = self._goal, None
            goal.execute()
        ready = self.franka.ready
        if ready != self._shown_ready:
            self._ready.publish(Bool(data=ready))
            if self._shown_ready is not None:
                self._refresh()
            self._shown_ready = ready

    def _refresh(self) -> None:
        franka, state = self.franka, self.franka.state
        self.diagnostics.value("ready", str(franka.ready).lower())
        if state is not None:
            self.diagnostics.value("mode", state.mode)
            self.diagnostics.value("errors", ", ".join(state.errors) or "none")
            self.diagnostics.value("command success rate", f"{state.success_rate:.2f}")
            self.diagnostics.value("end effector in the flange", _shown(state))
        if self.hand is not None:
            self.diagnostics.value("hand", self.hand.problem or self.hand.result or "ok")
        if franka.blocked:
            self.diagnostics.report(ERROR, f"{franka.blocked}; a person calls ~/recover when the arm may move again")
        elif franka.problem:
            self.diagnostics.report(ERROR, f"no arm: {franka.problem}")
        elif self._refusal:
            self.diagnostics.report(ERROR, self._refusal)
        elif not franka.ready:
            self.diagnostics.report(ERROR, "the arm's states do not come")
        elif franka.moving:
            self.diagnostics.report(OK, "following targets")
        else:
            self.diagnostics.report(WARN, f"standing: no {topics.shown(self, topics.TARGET_POSE)}")


def _shown(state: ArmState) -> str:
    """The tool transform as xyz [m] and rpy [rad], as a robot's YAML has it."""
    xyz = np.round(state.tool[:3, 3], 4).tolist()
    rpy = np.round(Rotation.from_matrix(state.tool[:3, :3]).as_euler("xyz"), 4).tolist()
    return f"xyz {xyz}, rpy {rpy}"


def _make() -> FrankaDriverNode:
    library()  # what is missing is said at once, and not as a robot that does not answer
    return FrankaDriverNode()


def main() -> int:
    return run(_make)


if __name__ == "__main__":
    raise SystemExit(main())
