"""web: a page in a browser that shows a running system and, where it is allowed, steers it.

A process of its own, so that it can neither hold up nor bring down what moves the robot. It listens on this machine
only unless told, and steers only with `control`, for those who have the token (web/gate.py).
"""

from __future__ import annotations

import queue
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from geometry_msgs.msg import PoseStamped
from rclpy.clock import Clock
from rclpy.clock_type import ClockType
from rclpy.parameter import Parameter
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from diffusion_ros.atomic_file import write_secret
from diffusion_ros.nodes.web_driver import WebDriver
from diffusion_ros.nodes.web_services import SERVICES, Services
from diffusion_ros.nodes.web_watch import Watch
from diffusion_ros.ros import messages, topics
from diffusion_ros.ros.diagnostics import OK, Diagnostics
from diffusion_ros.ros.params import declare, parameter
from diffusion_ros.ros.runner import RunnableNode, run
from diffusion_ros.ros.trusted_checkpoint import TrustedCheckpoint
from diffusion_ros.web.gate import Gate, Role, is_loopback, new_token
from diffusion_ros.web.status import GROUPS, SAMPLES_A_SECOND, NodeStatus, SystemStatus

if TYPE_CHECKING:
    from diffusion_ros.web.server import Page

_RATE = 20
"""Beats a second while somebody looks."""
_QUEUE = 256
"""Commands of pages that may wait."""
_FARTHEST = 1000.0
"""Metres of a goal, so that what is no place is none."""


@dataclass(frozen=True)
class WebParameters(TrustedCheckpoint):
    """Parameters of the web node."""

    host: str = parameter("127.0.0.1", "address to listen on; another than this machine's own lets others look")
    port: int = parameter(8080, "port of the page, or the next that is free", low=1, high=65535)
    names: tuple[str, ...] = parameter((), "other names that this machine is called by in a browser's address")
    control: bool = parameter(False, "true: who has the page's token can stop, enable, reset and drive")
    address_file: str = parameter("", "file that gets the page's address, readable by its owner only; '': none")
    system: str = parameter("", "what the page is of, for its title")
    episodes: int = parameter(0, "number of episodes; 0: not known", low=0)
    checkpoint: str = parameter("", "policy checkpoint (.pt) whose rows a person's are to be like; '': none")
    robot: str = parameter("", "path of a robot's YAML, or a shipped one's name; '': none")
    linear: float = parameter(0.0, "greatest speed of who drives [m/s]; 0: the YAML's, else 0.1", low=0.0, high=2.0)
    angular: float = parameter(0.0, "greatest turning [rad/s]; 0: the YAML's, else 0.5", low=0.0, high=4.0)


class WebNode(RunnableNode):
    """Serves the page. Publishes goal_pose and teleop_action, and calls services, where somebody may steer."""

    def __init__(self, parameter_overrides: Sequence[Parameter[Any]] = ()) -> None:
        """Raises ValueError (parameters, checkpoint) or OSError (no port) in one line."""
        # Here: the modules of nodes can be imported without the extra that brings viser.
        from diffusion_ros.web.server import PageServer
        from diffusion_ros.web.view import View

        super().__init__("web", parameter_overrides)
        self.parameters = p = declare(self, WebParameters)
        self.follows_clock = False  # a page is for people, whatever the robot's time is
        secret = p.control or not is_loopback(p.host)
        self._gate = Gate(p.host, self._token() if secret else "", p.control, p.names)
        self.status = SystemStatus()
        self._driver = WebDriver(self, p.checkpoint, p.trust, p.robot, p.linear, p.angular) if p.control else None
        self._goal = self.create_publisher(PoseStamped, topics.GOAL, topics.COMMAND_QOS) if p.control else None
        self.buttons = Services(self)
        self._stops: deque[tuple[Page | None, Mapping[str, Any]]] = deque(maxlen=_QUEUE)
        self._inbox: queue.Queue[tuple[Page | None, Mapping[str, Any]]] = queue.Queue(_QUEUE)
        self._sample: dict[str, Any] = {}
        self.create_subscription(String, topics.EPISODE, self._on_episode, topics.EPISODE_QOS)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self._on_diagnostics, topics.DIAGNOSTICS_QOS)
        # Only that it came counts: nothing is read.
        self.create_subscription(
            JointTrajectory, topics.EXECUTED_ACTION, self._on_executed, topics.WATCHED_QOS, raw=True
        )
        self.diagnostics = Diagnostics(self, "page", self._refresh)
        self.server = PageServer(p.host, p.port, self._gate)
        self.view = View(self.server.viser)
        self._watch = Watch(self, self.view, self.server)
        self._wake = self.create_guard_condition(self._obey)
        self.server.command = self._came
        self.server.came = lambda page: page.answer({"kind": "strip", "samples": self.status.strip()})
        self.server.left = lambda page: self._came(page, {"drive": None})
        self.view.on_goal = lambda position: self._came(None, {"goal": position.tolist()})
        self.server.viser.on_client_connect(self._on_viewer)
        self.server.viser.on_client_disconnect(self.view.gone)
        self._tell_address()
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._survey, clock=steady)
        self._beats = 0
        self._beat_timer = self.create_timer(1.0 / _RATE, self._beat, clock=steady)
        self._idle_timer = self.create_timer(1.0 / SAMPLES_A_SECOND, self._idle, clock=steady)
        self._beat_timer.cancel()

    def _token(self) -> str:
        """That of the node before this one, whose page is still open, or a new one."""
        with suppress(OSError, IndexError):
            if self.parameters.address_file:
                return Path(self.parameters.address_file).read_text().strip().split("?token=")[1]
        return new_token()

    def _tell_address(self) -> None:
        file = self.parameters.address_file
        if file:
            write_secret(Path(file), f"{self.server.address}\n")
            self.get_logger().info(f"the page's address: {self.server.address.partition('?')[0]}, whole in {file}")
        else:
            print(f"the page: {self.server.address}", flush=True)

    def _on_viewer(self, client: Any) -> None:
        """One of viser's clients has come; called in a thread of viser's."""
        if self._goal is not None and self.server.may_steer(client.client_id):
            self.view.may_drag(client)

    # What comes in from the system

    def _on_episode(self, msg: String) -> None:
        with suppress(messages.MessageError):
            self.status.heard_episode(messages.episode_from_msg(msg), self._wall())

    def _on_diagnostics(self, msg: DiagnosticArray) -> None:
        prefix = self.get_namespace().strip("/")
        for status in messages.diagnostics_from_msg(msg):
            folder, _, name = status.name.rpartition("/")
            if folder == prefix and name != self.get_name():
                said = NodeStatus(status.level, messages.printable(status.summary), status.values)
                self.status.heard(messages.printable(name, 40), said, self._wall())

    def _on_executed(self, data: bytes) -> None:
        self.status.acted(self._wall())

    def _wall(self) -> float:
        """Nodes speak once a second of wall time, whatever the robot's time is."""
        return float(Clock(clock_type=ClockType.STEADY_TIME).now().nanoseconds) / 1e9

    # What comes in from pages

    def _came(self, page: Page | None, message: Mapping[str, Any]) -> None:
        """A page wants something; called in the server's threads."""
        if message.get("do") == "stop":
            self._stops.append((page, message))  # whatever else waits
        else:
            with suppress(queue.Full):
                self._inbox.put_nowait((page, message))
        self._wake.trigger()

    def _obey(self) -> None:
        while True:
            try:
                asked = self._stops.popleft() if self._stops else self._inbox.get_nowait()
            except queue.Empty:
                return
            self._do(*asked)

    def _do(self, page: Page | None, message: Mapping[str, Any]) -> None:
        """page: None for a goal that was dragged in the three-dimensional view, which only who may steer has."""

        def answer(ok: bool, text: str) -> None:
            # Whose hand it was in the three-dimensional view is not known: all who steer are told.
            told = self.server.answer if page is None else page.answer
            told({"kind": "answer", "ok": ok, "text": messages.printable(text)})

        if "show" in message:
            if message["show"] in GROUPS and isinstance(message.get("visible"), bool):
                self.view.set_visible(message["show"], message["visible"])
            return
        if page is not None and page.role != Role.STEER:
            if message.get("drive", "") is not None:
                answer(False, "refused: this page is only to look at")
            return
        button = message.get("do")
        if isinstance(button, str) and button in SERVICES:
            self.get_logger().info(f"{button}, from the page")
            self.buttons.call(button, answer)
        elif "drive" in message and page is not None and self._driver is not None:
            if refused := self._driver.asked(page.number, message["drive"]):
                answer(False, f"not driven: {refused}")
        elif "goal" in message:
            self._go_to(message["goal"], answer)
        else:
            answer(False, "not understood")

    def _go_to(self, place: object, answer: Any) -> None:
        numbers = np.zeros(0)
        with suppress(TypeError, ValueError):
            numbers = np.asarray(place, np.float64)
        if numbers.shape != (3,) or not np.all(np.abs(numbers) <= _FARTHEST) or self._goal is None:
            answer(False, f"goal: three numbers within {_FARTHEST:g} m expected")
            return
        if self._watch.in_wall(numbers):
            self._watch.again_goal()
            answer(False, f"goal {numbers[:2].round(2).tolist()}: is in a wall, or outside")
            return
        # An empty frame is the planner's own.
        self._goal.publish(messages.pose_to_msg(numbers, self._watch.quaternion, self.now_ns(), ""))
        self._watch.said_goal(numbers)
        answer(True, f"goal {numbers.round(2).tolist()}")

    # What goes out

    def _survey(self) -> None:
        self.buttons.survey()
        self.buttons.expire()
        if self.server.pages:
            self._watch.survey()
        self._watch.listen(bool(self.server.pages))

    def _idle(self) -> None:
        """Nobody looks: the last half minute is still kept."""
        self._sample = self.status.sample(self._wall())
        if self.server.pages:
            self._idle_timer.cancel()
            self._beat_timer.reset()
            self._survey()

    def _beat(self) -> None:
        """Somebody looks."""
        self._beats += 1
        self._watch.show()
        self._watch.show_pictures(self._beats)
        if self._beats % (_RATE // SAMPLES_A_SECOND) == 0:
            self._sample = self.status.sample(self._wall())
        if self._beats % 2 == 0:
            self._tell(self._wall())
        if not self.server.pages:
            self._beat_timer.cancel()
            self._idle_timer.reset()

    def _tell(self, now: float) -> None:
        banner = self.status.banner(now)
        self._watch.acting = banner.word == "ACTING"
        if not self._watch.acting:
            self._watch.holds()
        can = list(self.buttons.can)
        if self._driver is not None and "decides" in self._executor_values():
            can.append("drive")
        self.server.tell(
            {
                "kind": "state",
                "system": self.parameters.system,
                "episodes": self.parameters.episodes,
                "banner": {"word": banner.word, "reason": banner.reason},
                "facts": self.status.facts(now),
                "can": can,
                "driven": self._driver is not None and self._driver.drives,
                "sample": self._sample,
                "pictures": self._watch.pictures,
                "flat": "image_generator" in self.status.nodes,
                "visible": self.view.visible,
                "legend": self._watch.legend(),
                "shows": self._watch.shows(),
                "map": self._watch.map,
                "returns": not self._watch.has_hand,
            }
        )

    def _executor_values(self) -> Mapping[str, str]:
        heard = self.status.nodes.get("executor")
        return heard[1].values if heard is not None else {}

    def _refresh(self) -> None:
        self.diagnostics.value("pages", self.server.pages)
        self.diagnostics.value("steering", "with the token" if self.parameters.control else "no")
        self.diagnostics.report(OK, f"{self.server.pages} look")

    def close(self) -> None:
        if self._driver is not None:
            self._driver.close()
        self.server.close()


def main() -> int:
    return run(WebNode)


if __name__ == "__main__":
    raise SystemExit(main())
