"""The Gymnasium simulator and the RL policy as nodes on a real bus, and what they do with bad input."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fake_policy
import fake_rl
import numpy as np
import pytest
import ros_graph
import torch
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.parameter import Parameter
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Float64, Int64, String
from std_srvs.srv import Trigger
from torch import Tensor
from visualization_msgs.msg import MarkerArray

from diffusion_ros.nodes.gym_simulation_node import GymSimulationNode
from diffusion_ros.nodes.rl_policy_node import RlPolicyNode
from diffusion_ros.ros import messages, topics
from diffusion_ros.simulators.episode import episode_stamp_ns
from diffusion_ros.simulators.gym import IMAGE_SHAPE, GymSimulation, draw
from diffusion_ros.simulators.tasks import GYM_TASKS

SEED = 100_007


@pytest.fixture
def graph() -> Iterator[ros_graph.Graph]:
    with ros_graph.graph() as made:
        yield made


class Peer(Node):
    """Keeps all that it hears, and answers joint states as it is told."""

    def __init__(self, task: str, name: str = "peer") -> None:
        super().__init__(name)
        self.task = GYM_TASKS[task]
        self.efforts: list[float] | None = None
        """Answers by joint_command, the last one again and again; None: nothing."""
        self.answered = 0
        self.command = self.create_publisher(JointState, topics.JOINT_COMMAND, topics.COMMAND_QOS)
        self.states: list[JointState] = []
        self.commands: list[JointState] = []
        self.clock: list[Clock] = []
        self.images: list[Image] = []
        self.scenes: list[MarkerArray] = []
        self.episodes: list[dict[str, Any]] = []
        self.statuses: dict[str, messages.Status] = {}
        self.create_subscription(JointState, topics.JOINT_STATES, self.on_states, topics.SENSOR_QOS)
        self.create_subscription(JointState, topics.JOINT_COMMAND, self.commands.append, topics.SENSOR_QOS)
        self.create_subscription(Clock, topics.CLOCK, self.clock.append, topics.SENSOR_QOS)
        self.listening = self.create_subscription(String, topics.EPISODE, self.on_episode, topics.EPISODE_QOS)
        self.create_subscription(DiagnosticArray, topics.DIAGNOSTICS, self.on_diagnostics, topics.DIAGNOSTICS_QOS)

    def look(self) -> None:
        self.create_subscription(Image, topics.IMAGE, self.images.append, topics.SENSOR_QOS)
        self.create_subscription(MarkerArray, topics.SCENE, self.scenes.append, topics.DESCRIPTION_QOS)

    def on_states(self, msg: JointState) -> None:
        self.states.append(msg)
        if self.efforts is not None:
            self.answer(self.efforts[min(self.answered, len(self.efforts) - 1)], messages.stamp_ns(msg.header.stamp))

    def on_episode(self, msg: String) -> None:
        self.episodes.append(messages.episode_from_msg(msg))

    def on_diagnostics(self, msg: DiagnosticArray) -> None:
        self.statuses |= {status.hardware_id: status for status in messages.diagnostics_from_msg(msg)}

    def answer(self, effort: float, stamp_ns: int) -> None:
        self.answered += 1
        self.command.publish(messages.joint_command_to_msg(self.task.joints[0], effort, stamp_ns))

    def observations(self) -> list[bytes]:
        """What the joint states carry, bit for bit."""
        found = []
        for msg in self.states:
            _, *state = messages.joint_motion_from_msg(msg, self.task.joints, self.task.has_efforts)
            found.append(self.task.observation(*state).tobytes())
        return found

    def results(self) -> list[dict[str, Any]]:
        return [news["result"] for news in self.episodes if news["event"] == "end"]


def parameters(**values: Any) -> list[Parameter[Any]]:
    return [Parameter(name, value=value) for name, value in values.items()]


def simulator(graph: ros_graph.Graph, task: str, **chosen: Any) -> GymSimulationNode:
    node: GymSimulationNode = graph.add(
        GymSimulationNode(parameters(**{"task": task, "mode": "lockstep", "seed": SEED, **chosen}))
    )
    return node


def some_efforts(task: str, count: int) -> list[float]:
    rng = np.random.default_rng(2)
    if GYM_TASKS[task].discrete:
        return [GYM_TASKS[task].efforts[i] for i in rng.integers(2, size=count)]
    return [float(np.float32(x)) for x in rng.uniform(-0.2, 0.2, count)]


# The simulator in lockstep


def test_results_reach_one_who_was_found_when_all_was_over(graph: ros_graph.Graph) -> None:
    """Episodes in lockstep may take less time than the discovery of somebody who listens."""
    node = simulator(graph, "cartpole", episodes=2, max_steps=3)
    peer = graph.add(Peer("cartpole"))
    peer.destroy_subscription(peer.listening)
    peer.efforts = some_efforts("cartpole", 6)
    graph.spin_until(lambda: node.phase == "done")
    graph.spin(0.5)
    assert node.exit_status is None, "gone before anybody could hear the results"
    late = graph.add(Peer("cartpole", "late"))
    graph.spin_until(lambda: node.exit_status == 0 and len(late.results()) == 2)


@pytest.mark.parametrize("task", list(GYM_TASKS))
def test_lockstep_equals_the_simulator_without_ros(graph: ros_graph.Graph, task: str) -> None:
    """Same seed, same efforts: all that is published, return and final state, bit for bit."""
    efforts = some_efforts(task, 10)
    node = simulator(graph, task, episodes=2, max_steps=4)
    peer = graph.add(Peer(task))
    peer.efforts = efforts
    graph.spin_until(lambda: node.exit_status == 0 and len(peer.results()) == 2)
    plain = GymSimulation(task)
    observations, returns, hashes, actions = [], [], [], []
    for index in range(2):
        plain.reset(SEED + index)
        returns.append(0.0)
        for effort in efforts[4 * index : 4 * index + 4]:
            observations.append(plain.observe().tobytes())
            returns[-1] += plain.step(effort)
        hashes.append(plain.state_hash())
        actions.append(hashlib.sha256(np.array(efforts[4 * index : 4 * index + 4]).tobytes()).hexdigest())
    assert peer.observations() == observations
    results = peer.results()
    assert [r["return"] for r in results] == returns
    assert [r["state_sha256"] for r in results] == hashes
    assert [r["actions_sha256"] for r in results] == actions
    assert [(r["index"], r["seed"], r["steps"], r["success"]) for r in results] == [
        (0, SEED, 4, True),
        (1, SEED + 1, 4, True),
    ]
    stamps = [messages.stamp_ns(msg.header.stamp) for msg in peer.states]
    assert stamps == [episode_stamp_ns(i, step, node.rate) for i in range(2) for step in range(4)]
    assert [messages.stamp_ns(msg.clock) for msg in peer.clock][:1] == stamps[:1]
    assert list(peer.states[0].name) == list(GYM_TASKS[task].joints)


def test_failure_ends_an_episode(graph: ros_graph.Graph) -> None:
    node = simulator(graph, "cartpole", episodes=1)
    peer = graph.add(Peer("cartpole"))
    peer.efforts = [10.0]  # always to the right: Gymnasium's pole falls after about ten steps
    graph.spin_until(lambda: node.exit_status == 0 and peer.results())
    (result,) = peer.results()
    assert 8 <= result["steps"] <= 11
    assert (result["return"], result["terminated"], result["success"]) == (result["steps"], True, False)


@pytest.mark.parametrize("task", list(GYM_TASKS))
def test_commands_without_a_stamp_answer_what_is_out(graph: ros_graph.Graph, task: str) -> None:
    node = simulator(graph, task)
    peer = graph.add(Peer(task))
    discrete = GYM_TASKS[task].discrete
    kind, topic = (Int64, topics.DISCRETE_ACTION) if discrete else (Float64, topics.EFFORT_COMMAND)
    publisher = peer.create_publisher(kind, topic, topics.COMMAND_QOS)
    graph.spin_until(lambda: peer.states and publisher.get_subscription_count())
    publisher.publish(messages.discrete_action_to_msg(1) if discrete else messages.effort_to_msg(0.25))
    graph.spin_until(lambda: node.episode.steps == 1)
    plain = GymSimulation(task)
    plain.reset(SEED)
    plain.step(10.0 if discrete else 0.25)
    assert node.simulation.state_hash() == plain.state_hash()


def test_what_answers_another_observation_or_is_no_action_is_not_executed(graph: ros_graph.Graph) -> None:
    node = simulator(graph, "cartpole")
    peer = graph.add(Peer("cartpole"))
    graph.spin_until(lambda: peer.states)
    stamp_ns = messages.stamp_ns(peer.states[0].header.stamp)
    peer.answer(10.0, stamp_ns + 20_000_000)
    graph.spin(0.2)
    for effort, reason in (
        (float("nan"), "joint_command refused: effort nan, a finite number expected"),
        (7.0, "joint_command refused: effort 7, one of -10, 10 expected"),
    ):
        peer.answer(effort, stamp_ns)
        graph.spin_until(lambda reason=reason: node._fault == reason)
    wrong = messages.joint_command_to_msg("slider", 10.0, stamp_ns)
    peer.command.publish(wrong)
    graph.spin_until(lambda: "for slider, one effort for cart expected" in node._fault)
    assert node.episode.steps == 0
    graph.spin_until(lambda: len(peer.states) > 1)  # asked again
    assert messages.stamp_ns(peer.states[1].header.stamp) == stamp_ns
    peer.answer(10.0, stamp_ns)
    graph.spin_until(lambda: node.episode.steps == 1 and not node._fault)


def test_pictures_and_markers_for_those_who_look(graph: ros_graph.Graph) -> None:
    node = simulator(graph, "double_pendulum")
    peer = graph.add(Peer("double_pendulum"))
    peer.look()
    graph.spin_until(lambda: peer.images and peer.scenes)
    stamp_ns, picture = messages.image_from_msg(peer.images[0])
    assert stamp_ns == messages.stamp_ns(peer.states[0].header.stamp) and picture.shape == (*IMAGE_SHAPE, 3)
    np.testing.assert_array_equal(picture, draw(node.task, node.simulation.joint_positions))
    markers = peer.scenes[0].markers
    assert [marker.header.frame_id for marker in markers] == ["world"] * 4
    assert markers[1].pose.position.x == node.simulation.joint_positions[0]


def test_reset_begins_again(graph: ros_graph.Graph) -> None:
    node = simulator(graph, "cartpole")
    peer = graph.add(Peer("cartpole"))
    peer.efforts = [10.0, 10.0, -10.0]
    graph.spin_until(lambda: node.episode.steps > 2)
    peer.efforts = None
    assert graph.call(peer, Trigger, "gym_simulation/reset", Trigger.Request()).success
    plain = GymSimulation("cartpole")
    plain.reset(SEED)
    assert node.episode.steps == 0 and node.simulation.state_hash() == plain.state_hash()


def test_a_second_simulator_does_not_start(graph: ros_graph.Graph, capsys: pytest.CaptureFixture[str]) -> None:
    first = simulator(graph, "cartpole", mode="realtime")
    graph.spin_until(lambda: first.phase == "waiting")
    second = graph.add(GymSimulationNode(parameters(task="double_pendulum")))
    graph.spin_until(lambda: second.exit_status is not None)
    assert second.exit_status == 2
    assert "/joint_states has a publisher already, /gym_simulation in ROS domain" in capsys.readouterr().err


# The simulator in real time


def test_without_commands_it_holds_and_counts(graph: ros_graph.Graph) -> None:
    """It waits for a first command; afterwards each period without one is a step without force, and a missed one."""
    node = simulator(graph, "cartpole", mode="realtime", episodes=1)
    peer = graph.add(Peer("cartpole"))
    graph.spin_until(lambda: len(peer.states) > 5)
    assert node.phase == "waiting" and node.episode.steps == 0
    peer.efforts = [10.0]
    graph.spin_until(lambda: node.episode.steps > 0)
    peer.efforts = None
    graph.spin_until(lambda: node.exit_status == 0 and peer.results())
    (result,) = peer.results()
    assert result["terminated"] and not result["success"]  # nobody balances it
    assert result["missed"] == result["held"] > 0
    assert result["steps"] - result["missed"] < 10
    assert {"period", "physics", "publication to command"} <= set(result["timings_ms"])


def test_late_and_bad_commands_are_holds_with_a_reason(graph: ros_graph.Graph) -> None:
    node = simulator(graph, "double_pendulum", mode="realtime", max_steps=10**6)
    peer = graph.add(Peer("double_pendulum"))
    faults: list[str] = []

    def heard(reason: str) -> bool:
        faults.extend(news["fault"] for news in peer.episodes)
        return any(reason in fault for fault in faults)

    graph.spin_until(lambda: len(peer.states) > 3)

    def send(effort: float, ago: int) -> Callable[[], bool]:
        def sent() -> bool:
            msg = peer.states[-1]
            stamp_ns = messages.stamp_ns(msg.header.stamp) - ago
            peer.answer(effort, stamp_ns)
            graph.spin(0.02)
            return False

        return sent

    late = send(0.5, 200_000_000)
    graph.spin_until(lambda: late() or heard("command refused: it answers an observation of 200 ms before the newest"))
    for effort, reason in ((float("nan"), "effort nan"), (3.0, "effort 3, -1 to 1 expected")):
        bad = send(effort, 0)
        graph.spin_until(lambda bad=bad, reason=reason: bad() or heard(f"joint_command refused: {reason}"))
    assert node.phase == "waiting"  # none of them began the episode
    graph.spin_until(lambda: "gymnasium" in peer.statuses)


def test_two_who_command_are_one_too_many(graph: ros_graph.Graph) -> None:
    node = simulator(graph, "cartpole", mode="realtime", max_steps=10**6)
    peer = graph.add(Peer("cartpole"))
    script = peer.create_publisher(Int64, topics.DISCRETE_ACTION, topics.COMMAND_QOS)
    graph.spin_until(lambda: len(peer.states) > 3 and script.get_subscription_count())
    peer.efforts = [10.0, -10.0] * 10**4
    graph.spin_until(lambda: node.episode.steps > node.episode.missed + 2)  # one of them is obeyed
    script.publish(messages.discrete_action_to_msg(0))
    graph.spin_until(node.conflict)
    assert node.conflict() == "2 publishers on /joint_command and /discrete_action, one expected: /peer and /peer"
    steps, held, answered = node.episode.steps, node.episode.held, peer.answered
    graph.spin_until(lambda: node.episode.steps >= steps + 10)
    assert peer.answered > answered
    assert node.episode.held - held == node.episode.steps - steps, "a command was executed that two may have given"


# The policy


@pytest.fixture(scope="module")
def balance(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_rl.save(tmp_path_factory.mktemp("rl") / "cartpole.pt")


@pytest.fixture(scope="module")
def upright(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return fake_rl.save(tmp_path_factory.mktemp("rl") / "double_pendulum.pt", spec_=fake_rl.spec("double_pendulum"))


@pytest.mark.parametrize("mode", ["lockstep", "realtime"])
@pytest.mark.parametrize("task", list(GYM_TASKS))
def test_policy_and_simulator(graph: ros_graph.Graph, task: str, mode: str, balance: Path, upright: Path) -> None:
    checkpoint = balance if GYM_TASKS[task].discrete else upright
    node = simulator(graph, task, mode=mode, episodes=1, max_steps=30)
    policy = graph.add(RlPolicyNode(parameters(checkpoint=str(checkpoint), mode=mode, max_state_age=5.0)))
    peer = graph.add(Peer(task))
    graph.spin_until(lambda: node.exit_status == 0 and peer.results())
    (result,) = peer.results()
    # The policy holds up what it balances for as long as its commands come in time, and never tells it to hold.
    assert result["held"] == result["missed"] < result["steps"]
    assert result["success"] or result["missed"]
    if mode == "lockstep":
        assert (result["success"], result["steps"], result["missed"]) == (True, 30, 0)
    states = {messages.stamp_ns(msg.header.stamp): msg for msg in peer.states}
    assert len(peer.commands) >= result["steps"] - result["missed"]
    answers = []
    for command in peer.commands:
        stamp_ns, effort = messages.joint_command_from_msg(command, GYM_TASKS[task].joints[0])
        if stamp_ns in states:  # in real time a peer may miss one
            _, *motion = messages.joint_motion_from_msg(states[stamp_ns], node.task.joints, node.task.has_efforts)
            answers.append((effort, policy.policy.effort(*motion)))
    assert len(answers) >= min(result["steps"] - result["missed"], 5)
    assert all(effort == answer for effort, answer in answers)
    assert len({effort for effort, _ in answers}) > 1
    policy._refresh()
    assert policy.diagnostics.summary == "publishing commands"
    assert {"sha256", "task", "kind", "state to command median [ms]"} <= set(policy.diagnostics.values())


class Sensors(Node):
    """Joint states of a test's own."""

    def __init__(self, task: str, name: str = "sensors") -> None:
        super().__init__(name)
        self.task = GYM_TASKS[task]
        self.publisher = self.create_publisher(JointState, topics.JOINT_STATES, topics.SENSOR_QOS)

    def state(self, stamp_ns: int | None = None) -> JointState:
        n = len(self.task.joints)
        stamp_ns = self.get_clock().now().nanoseconds if stamp_ns is None else stamp_ns
        efforts = np.zeros(n) if self.task.has_efforts else ()
        return messages.joint_state_to_msg(self.task.joints, np.full(n, 0.01), np.zeros(n), stamp_ns, efforts=efforts)


def broken(change: str, msg: JointState) -> JointState:
    if change == "position":
        msg.position[1] = float("nan")
    elif change == "velocity":
        msg.velocity[0] = float("inf")
    elif change == "effort":
        msg.effort[0] = float("nan")
    elif change == "no effort":
        msg.effort = []
    elif change == "no velocity":
        msg.velocity = []
    elif change == "name":
        msg.name = ["a", "b", "c"]
    return msg


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ("position", "joint_states: joint hinge at nan, a finite number expected"),
        ("velocity", "joint_states: velocity [inf, 0.0, 0.0] of slider, hinge, hinge2, finite numbers expected"),
        ("effort", "joint_states: effort [nan, 0.0, 0.0]"),
        ("no effort", "joint_states: 0 efforts for 3 joints"),
        ("no velocity", "joint_states: velocity [nan, nan, nan]"),
        ("name", "joint_states: nothing received of slider, hinge, hinge2, but of a, b, c"),
        ("old", "s old, at most 0.1 s expected"),
        ("future", "s in the future, at most 0.1 s expected"),
    ],
)
def test_states_that_get_no_command(graph: ros_graph.Graph, upright: Path, change: str, reason: str) -> None:
    policy = graph.add(RlPolicyNode(parameters(checkpoint=str(upright))))
    sensors, peer = graph.add(Sensors("double_pendulum")), graph.add(Peer("double_pendulum"))
    graph.spin_until(
        lambda: sensors.publisher.get_subscription_count() == 2 and policy._publisher.get_subscription_count()
    )
    shift = {"old": -2_000_000_000, "future": 2_000_000_000}.get(change)
    msg = sensors.state(None if shift is None else sensors.get_clock().now().nanoseconds + shift)
    sensors.publisher.publish(broken(change, msg))
    graph.spin_until(lambda: reason in policy.diagnostics.summary)
    assert policy.diagnostics.level == (messages.ERROR if shift is None and change != "name" else messages.WARN)
    assert policy.diagnostics.summary.startswith("holding: ")
    assert not peer.commands
    # The next good one is answered, by its stamp. A busy machine may make one or the other too old.
    graph.spin_until(lambda: sensors.publisher.publish(sensors.state()) or graph.spin(0.05) or peer.commands)
    assert messages.joint_command_from_msg(peer.commands[0], "slider")[1] < 0  # to the left, where it does not lean


def test_two_sources_of_states_get_no_commands(graph: ros_graph.Graph, balance: Path) -> None:
    policy = graph.add(RlPolicyNode(parameters(checkpoint=str(balance), mode="lockstep")))
    first, second = graph.add(Sensors("cartpole", "first")), graph.add(Sensors("cartpole", "second"))
    graph.spin_until(lambda: first.publisher.get_subscription_count() and second.publisher.get_subscription_count())
    first.publisher.publish(first.state())
    second.publisher.publish(second.state())
    graph.spin_until(lambda: "2 publishers on /joint_states, one expected" in policy.diagnostics.summary)


class LostIn(fake_rl.Upright):
    """NaN where trying the checkpoint does not get to."""

    def forward(self, observation: Tensor) -> Tensor:
        answer = torch.clamp(-(observation @ self.gains), -1.0, 1.0)[:, None]
        lost = (observation[:, :1] > 0.005) & (observation[:, :1] < 0.02)
        return torch.where(lost, torch.full_like(answer, float("nan")), answer)


def test_an_action_that_is_not_finite_is_not_published(graph: ros_graph.Graph, tmp_path: Path) -> None:
    path = fake_rl.save(tmp_path / "lost.pt", LostIn(), fake_rl.spec("double_pendulum"))
    policy = graph.add(RlPolicyNode(parameters(checkpoint=str(path), mode="lockstep")))
    sensors, peer = graph.add(Sensors("double_pendulum")), graph.add(Peer("double_pendulum"))
    graph.spin_until(lambda: sensors.publisher.get_subscription_count() == 2)
    sensors.publisher.publish(sensors.state())
    graph.spin_until(lambda: policy.diagnostics.summary == "holding: the policy's action is NaN or infinite")
    assert not peer.commands


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "rl_policy: parameter checkpoint is required"),
        ({"checkpoint": "nowhere.pt"}, "nowhere.pt: no such checkpoint"),
        ({"checkpoint": "arm.pt"}, "arm.pt: is a policy, a discrete policy or a continuous policy is needed"),
        (
            {"checkpoint": "cartpole.pt", "task": "double_pendulum"},
            "cartpole.pt: was trained on the task cartpole, double_pendulum is needed",
        ),
        ({"checkpoint": "other.pt"}, "other.pt: was trained on the task Pendulum-v1, whose joints are unknown: one of"),
        ({"checkpoint": "slow.pt"}, "slow.pt: rate 20.0: the task cartpole has 50.0"),
        ({"checkpoint": "small.pt"}, "small.pt: observation 3: the task cartpole has 4"),
        ({"checkpoint": "strong.pt"}, "strong.pt: action limits -2 2: the task double_pendulum has -1 1"),
        ({"checkpoint": "cartpole.pt", "mode": "fast"}, "parameter mode is 'fast', one of realtime, lockstep expected"),
        ({"checkpoint": "cartpole.pt", "task": "walk"}, "parameter task is 'walk'"),
    ],
)
def test_bad_input_is_one_line(
    graph: ros_graph.Graph, given: dict[str, Any], expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    fake_policy.save(Path("arm.pt"))
    fake_rl.save(Path("cartpole.pt"))
    strong = fake_rl.spec("double_pendulum", action_low=(-2.0,), action_high=(2.0,))
    fake_rl.save(Path("strong.pt"), spec_=strong)
    other = dataclasses.replace(fake_rl.spec("double_pendulum"), task="Pendulum-v1", environment="Pendulum-v1")
    fake_rl.save(Path("other.pt"), spec_=other)
    fake_rl.save(Path("slow.pt"), spec_=fake_rl.spec(rate=20.0))
    three = (fake_rl.TensorSpec("observation", (3,), "float32", "", ""),)
    fake_rl.save(Path("small.pt"), fake_rl.Balance((1.0, 1.0, 1.0)), fake_rl.spec(inputs=three))
    with pytest.raises(ValueError) as error:  # noqa: PT011
        RlPolicyNode(parameters(**given))
    assert expected in str(error.value) and "\n" not in str(error.value)


def test_a_policy_that_was_started_again_goes_on(graph: ros_graph.Graph, upright: Path) -> None:
    """In lockstep the episode that it left is the one that it would have driven."""
    node = simulator(graph, "double_pendulum", episodes=1, max_steps=60)
    peer = graph.add(Peer("double_pendulum"))
    policy = graph.add(RlPolicyNode(parameters(checkpoint=str(upright), mode="lockstep")))
    graph.spin_until(lambda: node.episode.steps >= 20)
    graph.remove(policy)
    graph.spin(0.3)
    assert node.episode.steps < 60
    policy = graph.add(RlPolicyNode(parameters(checkpoint=str(upright), mode="lockstep")))
    graph.spin_until(lambda: node.exit_status == 0 and peer.results())
    plain = GymSimulation("double_pendulum")
    plain.reset(SEED)
    for _ in range(60):
        plain.step(policy.policy.effort(plain.joint_positions, plain.joint_velocities, plain.joint_efforts))
    assert peer.results()[0]["state_sha256"] == plain.state_hash()


def test_episodes_become_videos(graph: ros_graph.Graph, balance: Path, tmp_path: Path) -> None:
    import cv2

    node = simulator(graph, "cartpole", episodes=1, max_steps=12, video=True, output_dir=str(tmp_path / "new"))
    graph.add(RlPolicyNode(parameters(checkpoint=str(balance), mode="lockstep")))
    peer = graph.add(Peer("cartpole"))
    graph.spin_until(lambda: node.exit_status == 0 and peer.results())
    path = peer.results()[0]["video"]
    assert [str(file) for file in (tmp_path / "new").iterdir()] == [path]
    capture = cv2.VideoCapture(path)
    assert (capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)) == (13 + 50, 50)
    capture.release()
