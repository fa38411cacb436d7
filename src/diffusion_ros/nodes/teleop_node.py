"""teleop: a person's hands as an input of the executor, like a policy's chunks.

From a gamepad (sensor_msgs/Joy), twists, or the keyboard of the terminal that it is started in.
control/teleoperation.py makes rows of them; the executor decides whether they move anything. It publishes only while
the dead-man is held.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from geometry_msgs.msg import Twist, TwistStamped
from numpy.typing import NDArray
from rclpy.duration import Duration
from rclpy.parameter import Parameter
from sensor_msgs.msg import Image, Joy
from std_srvs.srv import SetBool
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros import checkpoint, robot_file
from diffusion_ros.control.teleoperation import DEVICES, HELP, Asked, Gamepad, Keyboard, PersonRows, Twists
from diffusion_ros.nodes.terminal import Terminal
from diffusion_ros.robot import FRAME_PREFIX, RATE, WORLD_FRAME, prefixed
from diffusion_ros.robot_check import steady_speed
from diffusion_ros.robot_file import TELEOP_TOPICS, Teleop
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import OK, WARN, Diagnostics
from diffusion_ros.ros.listener import MAX_BYTES, Listener
from diffusion_ros.ros.params import ParameterError, declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint
from diffusion_ros.spec import CheckpointSpec

_DRAWING_SECONDS = 0.2
"""Between two pictures in the terminal."""
_FAREWELL_SECONDS = 1.0


@dataclass(frozen=True)
class TeleopParameters(TrustedCheckpoint):
    """Parameters of the teleop node. What is left empty or 0 is the robot's YAML's (`teleop`), or usual."""

    device: str = parameter("keyboard", "what the person has in their hands", choices=DEVICES)
    robot: str = parameter("", "path of a robot's YAML (docs/robot.md), or a shipped one's name; '': none")
    checkpoint: str = parameter("", "policy checkpoint (.pt) whose rows these are to be like; '': none")
    topic: str = parameter("", "of the gamepad or the twists; '': the YAML's, else /joy or /cmd_vel")
    rate: float = parameter(0.0, "control steps in a second [Hz]; 0: the checkpoint's, else 20", low=0.0, high=1000.0)
    frame_id: str = parameter("", "frame of the rows; '': the checkpoint's, else the robot's base, else world")
    frame_prefix: str = parameter("", FRAME_PREFIX)
    linear: float = parameter(0.0, "greatest speed [m/s]; 0: the YAML's, else 0.1", low=0.0, high=2.0)
    angular: float = parameter(0.0, "greatest turning [rad/s]; 0: the YAML's, else 0.5", low=0.0, high=4.0)
    response: tuple[float, ...] = parameter(
        (),
        "without a checkpoint: how the arm follows rows, stiffness [1/s^2] and damping ratio of position and of"
        " rotation, so that the speeds are what it goes by; []: within a step",
    )
    picture: str = parameter("", "keyboard: topic of a picture that is drawn in the terminal; '': none")

    def __post_init__(self) -> None:
        if len(self.response) not in (0, 4) or not all(value > 0 for value in self.response):
            raise ValueError(f"parameter response is {list(self.response)}, 4 numbers above 0 expected")


class TeleopNode(RunnableNode):
    """Subscribes to a person's device and to executed_action; publishes teleop_action."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = (), descriptor: int = 0) -> None:
        """descriptor: of the keyboard's terminal. Raises ValueError (parameters, no terminal) in one line."""
        super().__init__("teleop", parameter_overrides)
        self._greatest: tuple[float, ...] = ()
        self._gains = 1.0, 1.0
        self._teleop = Teleop()
        self.parameters = p = declare(self, TeleopParameters, self._complete)
        self._period_ns = round(1e9 / p.rate)
        self.rows = PersonRows(1.0 / p.rate, p.linear, p.angular, self._gains, self._greatest)
        self._refused = ""
        """What was wrong with the device's last message."""
        self._grip = ""
        """What ~/close_gripper asked for."""
        self._terminal: Terminal | None = None
        self._listener: Listener[Any] | None = None
        self._device: Gamepad | Twists | Keyboard = self._connect(p, descriptor)
        self._publisher = self.create_publisher(JointTrajectory, topics.TELEOP_ACTION, topics.COMMAND_QOS)
        # Our own among them: of two persons' nobody knows whose hands count.
        self._others = Listener.of_publishers(self, JointTrajectory, topics.TELEOP_ACTION, topics.WATCHED_QOS)
        self._executed = Listener(
            self,
            JointTrajectory,
            topics.EXECUTED_ACTION,
            lambda msg: self.rows.executed(*messages.executed_from_msg(msg)[1:3]),
            lambda error, msg: None,
            topics.WATCHED_QOS,
            max_bytes=MAX_BYTES,
        )
        self.create_service(SetBool, "~/close_gripper", self._on_close_gripper)
        self.diagnostics = Diagnostics(self, p.device, self._refresh)
        self.every(1.0 / p.rate, self._tick)

    def _complete(self, p: TeleopParameters) -> TeleopParameters:
        """What was given, then the checkpoint's and the robot's."""
        spec = checkpoint.read_spec(p.checkpoint, **p.trust) if p.checkpoint else None
        robot = robot_file.read(robot_file.find(p.robot)) if p.robot else None
        if spec is not None and p.rate not in (0.0, spec.rate):
            raise ParameterError(
                f"{self.get_name()}: parameter rate is {p.rate:g}, the checkpoint's {spec.rate:g} expected"
            )
        kind = "joy" if p.device == "keyboard" else p.device
        own = robot.teleop if robot is not None and robot.teleop is not None else Teleop()
        self._teleop = replace(own, topic=p.topic or (own.topic if own.type == kind else TELEOP_TOPICS[kind]))
        if robot is not None and p.device == "joy":
            # Also of a file without `teleop`, where the usual ones count.
            twice = robot_file.button_twice(self._teleop, robot.buttons, robot.record)
            if twice:
                raise ParameterError(f"{self.get_name()}: {robot.path}: {twice}")
        p = replace(
            p,
            topic=self._teleop.topic if p.device != "keyboard" else "",
            rate=p.rate or (spec.rate if spec is not None else RATE),
            frame_id=p.frame_id or _frame(p.frame_prefix, spec, robot),
            linear=p.linear or own.linear,
            angular=p.angular or own.angular,
            response=(spec.response[:2] + spec.response[-2:]) if spec is not None else p.response,
        )
        if robot is not None:
            p = replace(p, linear=min(p.linear, robot.limits.linear), angular=min(p.angular, robot.limits.angular))
        self._teleop = replace(self._teleop, linear=p.linear, angular=p.angular)
        seconds = 1.0 / p.rate
        position, rotation = (steady_speed(1.0, seconds, part) * seconds for part in (p.response[:2], p.response[2:]))
        self._gains = position, rotation
        if spec is not None:
            self._greatest = tuple(min(-low, high) for low, high in zip(spec.action_low, spec.action_high, strict=True))
        return p

    def _connect(self, p: TeleopParameters, descriptor: int) -> Gamepad | Twists | Keyboard:
        if p.device == "keyboard":
            try:
                self._terminal = Terminal(descriptor)
            except ValueError as error:
                raise ParameterError(
                    f"{self.get_name()}: device keyboard: {error}: start it in one"
                    " (python -m diffusion_ros.nodes.teleop_node), or choose joy or twist"
                ) from None
            self._terminal.show(*HELP)
            if p.picture:
                self._drawn = 0.0
                self.create_subscription(Image, p.picture, self._on_picture, topics.BEST_EFFORT_QOS)
            return Keyboard(p.linear, p.angular)
        kind: type[Any] = {"joy": Joy, "twist": Twist, "twist_stamped": TwistStamped}[p.device]
        device = Gamepad(self._teleop) if p.device == "joy" else Twists()
        self._listener = Listener(
            self, kind, p.topic, self._on_device, self._on_bad_device, topics.BEST_EFFORT_QOS, max_bytes=MAX_BYTES
        )
        return device

    # What comes in

    def _on_device(self, msg: Joy | Twist | TwistStamped) -> None:
        now = self.seconds()
        try:
            if isinstance(self._device, Gamepad):
                self._device.heard(messages.axes_from_msg(msg), messages.buttons_from_msg(msg), now)
            elif isinstance(self._device, Twists):
                frame, _, twist = messages.twist_from_msg(msg)
                if frame not in ("", self.parameters.frame_id):
                    name = messages.printable(frame, 60)
                    raise ValueError(f"frame {name!r}, {self.parameters.frame_id!r} or '' expected")
                self._device.heard(twist, now)
        except ValueError as error:
            raise messages.MessageError(str(error)) from None
        self._refused = ""

    def _on_bad_device(self, error: messages.MessageError, msg: Any) -> None:
        self._refused = f"{self.parameters.topic}: {error}"
        if isinstance(self._device, Twists):
            self._device = Twists()
        elif msg is None:
            self._device = Gamepad(self._teleop)

    def _on_picture(self, msg: Image) -> None:
        now = self.seconds()
        if self._terminal is None or 0.0 <= now - self._drawn < _DRAWING_SECONDS:
            return
        self._drawn = now
        try:
            picture = messages.image_from_msg(msg)[1]
        except messages.MessageError:
            return
        try:
            self._terminal.draw(picture, f"{self._state()}.  {HELP[1]}")
        except OSError as error:
            self._lose_terminal(error)

    def _on_close_gripper(self, request: Any, response: Any) -> Any:
        """Closes the gripper, or opens it, for a person who drives."""
        response.success = self.rows.driving
        if response.success:
            self._grip = "close" if request.data else "open"
        else:
            response.message = "refused: nobody drives"
        return response

    # What goes out

    def _tick(self) -> None:
        """Once in each control step."""
        if self._terminal is not None and isinstance(self._device, Keyboard):
            try:
                self._device.heard(self._terminal.read(), self.seconds())
            except OSError as error:
                self._lose_terminal(error)
        asked = self._device.asked(self.seconds())
        if self._listener is not None and self._listener.conflict():
            asked = None
        if asked is not None and self._grip:
            asked = Asked(asked.twist, self._grip)
        self._grip = ""
        self._say(self.rows.row(asked))

    def _lose_terminal(self, error: OSError) -> None:
        """Nobody can press anything any more: lets go, and ends."""
        assert self._terminal is not None
        self._terminal.close()
        self._terminal, self._device = None, Keyboard(0.0, 0.0)
        self.get_logger().error(f"the terminal is gone: {error.strerror}")
        self.exit_status = 1

    def _say(self, row: NDArray[np.float64] | None) -> None:
        if row is not None:
            held, frame = self.rows.driving, self.parameters.frame_id
            msg = messages.teleop_to_msg(row, held, self.now_ns(), self._period_ns, frame)
            self._publisher.publish(msg)
            self.diagnostics.tick(topics.TELEOP_ACTION)

    def _state(self) -> str:
        if isinstance(self._device, Keyboard) and self._device.speed != 1.0:
            speed = f", at {self._device.speed:.2g} of the speed"
        else:
            speed = ""
        return f"a person drives{speed}" if self.rows.driving else f"nobody drives{speed}"

    def _refresh(self) -> None:
        conflict = self._others.conflict() or (self._listener.conflict() if self._listener is not None else "")
        if conflict or self._refused:
            self.diagnostics.report(WARN, conflict or self._refused)
        else:
            self.diagnostics.report(OK, self._state())

    def close(self) -> None:
        """Lets go, and gives the terminal back."""
        if self.rows.driving:
            self._say(self.rows.row(None))
            self._publisher.wait_for_all_acked(Duration(seconds=_FAREWELL_SECONDS))
        if self._terminal is not None:
            self._terminal.close()


def _frame(prefix: str, spec: CheckpointSpec | None, robot: robot_file.RobotFile | None) -> str:
    """Of the rows: the checkpoint's, else the robot's base, else the simulator's."""
    if spec is None and robot is not None:
        return robot.base.frame
    return prefixed(prefix, (spec.frame if spec is not None else "") or WORLD_FRAME)


def main() -> int:
    return run(TeleopNode)


if __name__ == "__main__":
    raise SystemExit(main())
